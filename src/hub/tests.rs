//! What the whole-program tests ask of the hub's insides.

use crate::hub::Hub;
use crate::hub::topics::TopicState;

impl Hub {
    fn all_topics(&self) -> impl Iterator<Item = &TopicState> {
        (0..self.limits.topics_max).filter_map(|slot| self.topics.get(slot))
    }

    /// What is left of sessions and streams beside their own entries: tokens, leases, cursors that wait or count.
    pub(crate) fn traces(&self) -> [usize; 4] {
        let waiting = self.all_topics().map(|topic| topic.waiting.len()).sum();
        let counted = self.all_topics().map(|topic| topic.cursors as usize).sum();
        let deadlines = &self.deadlines;
        let quiet =
            [deadlines.leases.len(), deadlines.streams.len(), deadlines.logins.len(), deadlines.unused.len()];
        [self.tokens.len(), quiet.iter().sum(), waiting, counted]
    }

    /// What the accounts count as they go, counted anew: subscriptions, control buffers, unsent bytes, tails, names.
    pub(crate) fn recounted(&self) -> [u64; 5] {
        let control: usize = self.streams().map(|stream| stream.control.capacity()).sum();
        let unsent = self.connections.values().map(|connection| connection.unsent_bytes.get()).sum();
        let tails: usize = self.all_topics().map(|topic| topic.tail.held_bytes()).sum();
        let names: usize = self.all_topics().map(|topic| topic.name.as_str().len()).sum();
        [self.count_subscriptions() as u64, control as u64, unsent, tails as u64, names as u64]
    }

    /// The same as the accounts have it.
    pub(crate) fn counted(&self) -> [u64; 5] {
        let unsent = self.unsent_bytes.load(std::sync::atomic::Ordering::Relaxed);
        let (tails, names) = (self.topics.held_bytes() as u64, self.topics.name_bytes() as u64);
        [self.subscriptions as u64, self.control_bytes as u64, unsent, tails, names]
    }

    /// References to cursors that the topics hold, live or not.
    pub(crate) fn cursor_references(&self) -> usize {
        self.all_topics().map(|topic| topic.waiting.len() + topic.behind.len()).sum()
    }
}
