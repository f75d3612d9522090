//! Where a task is in each of its topics: what it asks for when it comes back, and what it has had already.

use std::collections::BTreeMap;

use crate::base::event::{Overflow, Position, Start};
use crate::base::topic::Topic;
use crate::client::stream::Item;
use crate::wire::{convert, v1};

/// A topic to follow, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The topic.
    pub topic: Topic,
    /// Where it starts; a task that comes back goes on where it was.
    pub start: Start,
    /// What the hub does when the task falls behind.
    pub overflow: Overflow,
}

impl Target {
    /// What is published from now on.
    #[must_use]
    pub fn new(topic: Topic) -> Self {
        Self { topic, start: Start::FromNow, overflow: Overflow::Disconnect }
    }

    /// What the hub still keeps, then the rest.
    #[must_use]
    pub fn all_retained(self) -> Self {
        Self { start: Start::AllRetained, ..self }
    }

    /// What comes after a position; a [`Delivery::Gap`] says what of it is gone.
    #[must_use]
    pub fn after(self, position: Position) -> Self {
        Self { start: Start::After(position), ..self }
    }

    /// Jumps to the newest event when it falls behind, with a [`Delivery::Gap`], instead of being disconnected.
    #[must_use]
    pub fn skip(self) -> Self {
        Self { overflow: Overflow::Skip, ..self }
    }
}

impl From<Topic> for Target {
    fn from(topic: Topic) -> Self {
        Self::new(topic)
    }
}

/// What a handler gets. Within a topic sequences rise, and none comes twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// An event.
    Event(v1::Event),
    /// Events that were not and will not be delivered.
    Gap(v1::Gap),
}

/// What an item means for the place in its topic.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// To be handled; then the place has moved.
    Deliver(Delivery, Mark),
    /// The subscription is live, at the place told before it broke or a new one.
    Live(Option<Mark>),
    /// Of no meaning for places.
    Other,
}

/// A new place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    topic: String,
    position: Position,
}

/// The places of one task.
#[derive(Clone, Debug)]
pub(super) struct Places {
    targets: Vec<Target>,
    /// What is handled.
    handled: BTreeMap<String, Position>,
    /// What has come on the present stream.
    seen: BTreeMap<String, Position>,
}

impl Places {
    pub(super) fn new(targets: Vec<Target>) -> Self {
        Self { targets, handled: BTreeMap::new(), seen: BTreeMap::new() }
    }

    /// Everything after what is handled, for a new stream.
    pub(super) fn open(&mut self) -> Vec<v1::Subscription> {
        self.seen.clone_from(&self.handled);
        let subscription = |target: &Target| {
            let start = match self.handled.get(target.topic.as_str()) {
                Some(position) => Start::After(position.clone()),
                None => target.start.clone(),
            };
            convert::subscription(target.topic.as_str(), start, target.overflow)
        };
        self.targets.iter().map(subscription).collect()
    }

    /// What an item of the present stream means. An event that has come before means nothing.
    pub(super) fn take(&mut self, item: Item) -> Step {
        match item {
            Item::Subscribed(subscribed) => {
                let Some(position) = subscribed.position else { return Step::Other };
                let position = Position { epoch: position.epoch, sequence: position.sequence };
                let is_new = self.seen.get(&subscribed.topic) != Some(&position);
                self.seen.insert(subscribed.topic.clone(), position.clone());
                // What was lost is told by the gap that follows: the place moves when that is handled.
                let moves = is_new && subscribed.recovered;
                Step::Live(moves.then_some(Mark { topic: subscribed.topic, position }))
            }
            Item::Event(event) => match self.advance(&event.topic, event.sequence) {
                Some(mark) => Step::Deliver(Delivery::Event(event), mark),
                None => Step::Other,
            },
            Item::Gap(gap) => {
                let Some(seen) = self.seen.get_mut(&gap.topic) else { return Step::Other };
                seen.sequence = seen.sequence.max(gap.to_sequence);
                let mark = Mark { topic: gap.topic.clone(), position: seen.clone() };
                Step::Deliver(Delivery::Gap(gap), mark)
            }
            Item::Receipt(_)
            | Item::Draining { .. }
            | Item::DeadlineNear { .. }
            | Item::HeartbeatAck { .. }
            | Item::Refused { .. } => Step::Other,
        }
    }

    fn advance(&mut self, topic: &str, sequence: u64) -> Option<Mark> {
        let seen = self.seen.get_mut(topic).filter(|seen| sequence > seen.sequence)?;
        seen.sequence = sequence;
        Some(Mark { topic: topic.to_owned(), position: seen.clone() })
    }

    /// What led to the mark is handled.
    pub(super) fn handled(&mut self, mark: Mark) {
        self.handled.insert(mark.topic, mark.position);
    }

    /// The last position handled of every topic that has one.
    pub(super) fn positions(&self) -> &BTreeMap<String, Position> {
        &self.handled
    }
}
