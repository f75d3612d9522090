//! What was accepted and what one reader got of it: the check that nothing was lost without a word.

/// Sequences of one topic that have a receipt, in any order while they come.
#[derive(Default)]
pub(crate) struct Accepted(Vec<u64>);

impl Accepted {
    /// Notes a receipt.
    pub(crate) fn add(&mut self, sequence: u64) {
        self.0.push(sequence);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The highest, 0 when there is none.
    pub(crate) fn last(&self) -> u64 {
        self.0.iter().copied().max().unwrap_or_default()
    }
}

/// What one reader got of one topic, over all its streams.
#[derive(Default)]
pub(crate) struct Heard {
    /// Where its first subscription began.
    from: Option<u64>,
    events: Vec<u64>,
    /// First and last sequence of what the server said will not come.
    gaps: Vec<(u64, u64)>,
    /// Everything up to here has come, or its gap.
    position: u64,
}

impl Heard {
    /// Where to go on, once there is a place.
    pub(crate) fn position(&self) -> Option<u64> {
        self.from.map(|_| self.position)
    }

    /// A subscription is live from there on.
    pub(crate) fn subscribed(&mut self, position: u64) {
        if self.from.is_none() {
            (self.from, self.position) = (Some(position), position);
        }
    }

    /// An event; false when it is out of order or came before.
    pub(crate) fn event(&mut self, sequence: u64) -> bool {
        let in_order = sequence > self.position;
        self.events.push(sequence);
        self.position = self.position.max(sequence);
        in_order
    }

    /// A gap.
    pub(crate) fn gap(&mut self, from: u64, to: u64) {
        if from <= to {
            self.gaps.push((from, to));
            self.position = self.position.max(to);
        }
    }

    /// How many events came.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// How many gaps were told.
    pub(crate) fn gaps(&self) -> usize {
        self.gaps.len()
    }

    /// Accepted events that neither came nor were told gone, of those between the first subscription and `through`,
    /// or what came last when that is more.
    pub(crate) fn lost(&mut self, accepted: &mut Accepted, through: u64) -> Vec<u64> {
        let Some(from) = self.from else { return Vec::new() };
        if !accepted.0.is_sorted() {
            accepted.0.sort_unstable();
        }
        self.events.sort_unstable();
        let through = through.max(self.position);
        let is_owed = |sequence: &&u64| **sequence > from && **sequence <= through;
        let is_told = |sequence: u64| self.gaps.iter().any(|(from, to)| (*from..=*to).contains(&sequence));
        let owed = accepted.0.iter().filter(is_owed);
        owed.filter(|sequence| self.events.binary_search(sequence).is_err() && !is_told(**sequence))
            .copied()
            .collect()
    }
}
