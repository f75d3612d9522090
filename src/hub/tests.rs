//! What the whole-program tests ask of the hub's insides.

use crate::hub::Hub;
use crate::hub::topics::TopicState;

impl Hub {
    fn all_topics(&self) -> impl Iterator<Item = &TopicState> {
        (0..self.limits.topics_max).filter_map(|slot| self.topics.get(slot))
    }

    /// Cursors on the topics' waiting lists.
    pub(crate) fn waiting_cursors(&self) -> usize {
        self.all_topics().map(|topic| topic.waiting.len()).sum()
    }

    /// References to cursors that the topics hold, live or not.
    pub(crate) fn cursor_references(&self) -> usize {
        self.all_topics().map(|topic| topic.waiting.len() + topic.behind.len()).sum()
    }
}
