//! Where a task is in each of its topics: what it asks for when it comes back, and what it has had already.

use std::collections::BTreeMap;

use crate::base::event::{Overflow, Position, Start};
use crate::base::order::{map_of, sort_by};
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
    /// Which of the places.
    at: usize,
    position: Position,
}

/// The places of one task, by topic.
#[derive(Clone, Debug)]
pub(super) struct Places(Vec<Place>);

#[derive(Clone, Debug)]
struct Place {
    target: Target,
    /// What is handled; at first the position to start after: who ends before it has heard anything is still there.
    handled: Option<Position>,
    /// What has come on the present stream.
    seen: Option<Position>,
}

impl Places {
    /// No topic may be there twice.
    pub(super) fn new(mut targets: Vec<Target>) -> Self {
        sort_by(&mut targets, |one, other| one.topic.as_str().cmp(other.topic.as_str()));
        let place = |target: Target| {
            let handled = match &target.start {
                Start::After(position) => Some(position.clone()),
                Start::FromNow | Start::AllRetained => None,
            };
            Place { target, handled, seen: None }
        };
        Self(targets.into_iter().map(place).collect())
    }

    /// Everything after what is handled, for a new stream.
    pub(super) fn open(&mut self) -> Vec<v1::Subscription> {
        let subscription = |place: &mut Place| {
            place.seen.clone_from(&place.handled);
            let start = place.handled.clone().map_or_else(|| place.target.start.clone(), Start::After);
            convert::subscription(place.target.topic.as_str(), start, place.target.overflow)
        };
        self.0.iter_mut().map(subscription).collect()
    }

    /// What an item of the present stream means. An event that has come before means nothing.
    pub(super) fn take(&mut self, item: Item) -> Step {
        match item {
            Item::Subscribed(subscribed) => {
                let place = self.find(&subscribed.topic);
                let (Some((at, place)), Some(position)) = (place, subscribed.position) else {
                    return Step::Other;
                };
                let position = Position { epoch: position.epoch, sequence: position.sequence };
                let is_new = place.seen.as_ref() != Some(&position);
                place.seen = Some(position.clone());
                // What was lost is told by the gap that follows: the place moves when that is handled.
                let moves = is_new && subscribed.recovered;
                Step::Live(moves.then_some(Mark { at, position }))
            }
            Item::Event(event) => match self.advance(&event.topic, event.sequence) {
                Some(mark) => Step::Deliver(Delivery::Event(event), mark),
                None => Step::Other,
            },
            Item::Gap(gap) => {
                let place = self.find(&gap.topic).and_then(|(at, place)| Some((at, place.seen.as_mut()?)));
                let Some((at, seen)) = place else { return Step::Other };
                seen.sequence = seen.sequence.max(gap.to_sequence);
                let mark = Mark { at, position: seen.clone() };
                Step::Deliver(Delivery::Gap(gap), mark)
            }
            Item::Receipt(_)
            | Item::Draining { .. }
            | Item::DeadlineNear { .. }
            | Item::HeartbeatAck { .. }
            | Item::Refused { .. } => Step::Other,
        }
    }

    fn find(&mut self, topic: &str) -> Option<(usize, &mut Place)> {
        let at = self.0.binary_search_by(|place| place.target.topic.as_str().cmp(topic)).ok()?;
        Some((at, self.0.get_mut(at)?))
    }

    fn advance(&mut self, topic: &str, sequence: u64) -> Option<Mark> {
        let (at, place) = self.find(topic)?;
        let seen = place.seen.as_mut().filter(|seen| sequence > seen.sequence)?;
        seen.sequence = sequence;
        Some(Mark { at, position: seen.clone() })
    }

    /// What led to the mark is handled.
    pub(super) fn handled(&mut self, mark: Mark) {
        if let Some(place) = self.0.get_mut(mark.at) {
            place.handled = Some(mark.position);
        }
    }

    /// The last position handled of every topic that has one; at first the one to start after.
    pub(super) fn positions(&self) -> BTreeMap<String, Position> {
        let position = |place: &Place| Some((place.target.topic.to_string(), place.handled.clone()?));
        map_of(self.0.iter().filter_map(position))
    }
}
