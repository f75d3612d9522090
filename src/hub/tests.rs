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

    /// References to cursors that the topics hold, live or not.
    pub(crate) fn cursor_references(&self) -> usize {
        self.all_topics().map(|topic| topic.waiting.len() + topic.behind.len()).sum()
    }
}
