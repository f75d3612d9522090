//! Placing cursors: where a subscription starts, and what is told about what is gone.

use std::cmp::Reverse;

use tokio::time::Instant;

use crate::base::event::{Gap, GapReason, Overflow, Position, Start};
use crate::base::id::StreamKey;
use crate::base::reason::Quota;
use crate::base::topic::Topic;
use crate::hub::cursor::{Cursor, CursorRef};
use crate::hub::lifecycle::check;
use crate::hub::tail::Tail;
use crate::hub::{Hub, Refusal};

/// A granted subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Events after this one follow.
    pub position: Position,
    /// False when a resume lost something; a gap says what.
    pub recovered: bool,
}

impl Hub {
    /// Makes a stream follow a topic. The topic is made when it is new.
    ///
    /// # Errors
    /// When the stream is gone or follows the topic already, the topic is another's inbox, or a count is at its
    /// limit.
    pub fn subscribe(
        &mut self,
        key: StreamKey,
        name: &Topic,
        start: &Start,
        overflow: Overflow,
    ) -> Result<Subscribed, Refusal> {
        let limits = self.limits();
        let stream = self.stream(key).ok_or(Refusal::StreamGone)?;
        if let Some(owner) = name.inbox_of().filter(|owner| **owner != *stream.principal.user) {
            return Err(Refusal::NotYourInbox(owner.to_owned()));
        }
        let live = stream.cursors.iter().flatten();
        if live.clone().any(|cursor| cursor.name == *name) {
            return Err(Refusal::AlreadySubscribed(name.to_string()));
        }
        let subscriptions_max = limits.subscriptions_per_stream_max;
        check("limits.subscriptions_per_stream_max", live.count(), subscriptions_max)?;
        let index = stream.cursors.iter().position(Option::is_none).unwrap_or(stream.cursors.len());
        let topic_slot = self
            .topics
            .find_or_insert(name, limits.topics_max)
            .ok_or(Refusal::Quota(Quota { key: "limits.topics_max", value: u64::from(limits.topics_max) }))?;
        let topic = self.topics.get_mut(topic_slot).ok_or(Refusal::StreamGone)?;
        topic.cursors += 1;
        self.topics.note_use(topic_slot);
        let topic = self.topics.get_mut(topic_slot).ok_or(Refusal::StreamGone)?;
        let place = place(&topic.tail, &self.epoch.0, self.sequence, start);
        self.cursor_numbers += 1;
        let cursor = Cursor {
            number: self.cursor_numbers,
            topic: topic_slot,
            name: name.clone(),
            next: place.next,
            sequence: place.sequence,
            overflow,
            joined_offset: topic.tail.end(),
            waiting_at: None,
            watched: false,
            gap: place.gap,
        };
        let position = Position { epoch: self.epoch.0.to_string(), sequence: place.sequence };
        let behind = cursor.gap.is_some() || cursor.next < topic.tail.end_ordinal();
        self.insert_cursor(key, index, cursor, behind);
        Ok(Subscribed { position, recovered: place.recovered })
    }

    fn insert_cursor(&mut self, key: StreamKey, index: usize, cursor: Cursor, behind: bool) {
        let Some(stream) = self.streams.get_mut(key.slot as usize) else { return };
        // At most `subscriptions_per_stream_max` of them, which the configuration keeps below 2^16.
        let at = u16::try_from(index).unwrap_or(u16::MAX);
        let reference = CursorRef { stream: key.slot, index: at, number: cursor.number };
        let topic = cursor.topic;
        self.subscriptions += 1;
        if index == stream.cursors.len() {
            if stream.cursors.is_empty() {
                // Most streams have one; a vector begins with room for four.
                stream.cursors.reserve_exact(1);
            }
            stream.cursors.push(Some(cursor));
        } else {
            stream.cursors[index] = Some(cursor);
        }
        if behind {
            stream.ready.push_back(at);
            stream.wake_pump();
            self.watch_lag(reference);
        } else {
            self.park(topic, reference);
        }
    }

    /// Stops following a topic.
    ///
    /// # Errors
    /// When the stream is gone or does not follow it.
    pub fn unsubscribe(&mut self, key: StreamKey, name: &Topic, now: Instant) -> Result<(), Refusal> {
        let stream = self.stream(key).ok_or(Refusal::StreamGone)?;
        let follows = |cursor: &Option<Cursor>| cursor.as_ref().is_some_and(|cursor| cursor.name == *name);
        let index =
            stream.cursors.iter().position(follows).ok_or(Refusal::NotSubscribed(name.to_string()))?;
        self.remove_cursor(key, index, now);
        Ok(())
    }

    pub(super) fn remove_cursor(&mut self, key: StreamKey, index: usize, now: Instant) {
        let Some(stream) = self.stream_mut(key) else { return };
        let Some(cursor) = stream.cursors.get_mut(index).and_then(Option::take) else { return };
        stream.ready.retain(|at| usize::from(*at) != index);
        self.subscriptions -= 1;
        let Some(topic) = self.topics.get_mut(cursor.topic) else { return };
        topic.cursors -= 1;
        if let Some(at) = cursor.waiting_at {
            topic.waiting.swap_remove(at as usize);
            let moved = topic.waiting.get(at as usize).copied();
            if let Some(moved) = moved.and_then(|moved| self.cursor_mut(moved)) {
                moved.waiting_at = Some(at);
            }
        }
        self.forget_references(cursor.topic);
        if self.topics.look_at_use(cursor.topic, now) {
            self.rearm();
        }
    }

    /// Drops references to cursors that are gone, once they are the most of those a topic holds. A live cursor has at
    /// most one, so this costs a constant time per removed cursor.
    fn forget_references(&mut self, topic: u32) {
        let Some(topic) = self.topics.get_mut(topic) else { return };
        topic.give_back();
        if topic.behind.len() <= 32 + 2 * topic.cursors as usize {
            return;
        }
        let streams = &self.streams;
        topic.behind.retain(|Reverse((_, reference))| {
            let stream = streams.get(reference.stream as usize);
            let cursor = stream.and_then(|stream| stream.cursors.get(usize::from(reference.index))?.as_ref());
            cursor.is_some_and(|cursor| cursor.number == reference.number)
        });
    }

    /// Bytes of a topic this stream has yet to deliver, per subscription.
    pub fn subscriptions(&self, key: StreamKey) -> impl Iterator<Item = (&Topic, usize)> {
        let cursors = self.stream(key).into_iter().flat_map(|stream| stream.cursors.iter().flatten());
        cursors.filter_map(|cursor| {
            let topic = self.topics.get(cursor.topic)?;
            Some((&cursor.name, topic.tail.lag_bytes(cursor.next)))
        })
    }

    /// Sum of [`Self::subscriptions`]; `None` when the stream is gone.
    #[must_use]
    pub fn lag_bytes(&self, key: StreamKey) -> Option<u64> {
        self.stream(key)?;
        Some(self.subscriptions(key).map(|(_, lag_bytes)| lag_bytes as u64).sum())
    }

    /// Live subscriptions of all streams.
    #[must_use]
    pub fn count_subscriptions(&self) -> usize {
        self.subscriptions
    }
}

struct Place {
    next: u64,
    sequence: u64,
    recovered: bool,
    gap: Option<Gap>,
}

/// Where a cursor starts. Never partial without a word: what is missing after the position asked for is in `gap`.
fn place(tail: &Tail, epoch: &str, hub_sequence: u64, start: &Start) -> Place {
    let oldest =
        Place { next: tail.first_ordinal(), sequence: tail.gone_through(), recovered: true, gap: None };
    match start {
        Start::FromNow => Place { next: tail.end_ordinal(), sequence: hub_sequence, ..oldest },
        Start::AllRetained => oldest,
        Start::After(position) if position.epoch != *epoch || position.sequence > hub_sequence => {
            let gap =
                Gap { from_sequence: 1, to_sequence: tail.gone_through(), reason: GapReason::EpochChanged };
            Place { recovered: false, gap: Some(gap), ..oldest }
        }
        Start::After(position) if position.sequence < tail.gone_through() => {
            let gap = Gap {
                from_sequence: position.sequence + 1,
                to_sequence: tail.gone_through(),
                reason: GapReason::TailGone,
            };
            Place { recovered: false, gap: Some(gap), ..oldest }
        }
        Start::After(position) => Place {
            next: tail.ordinal_after(position.sequence),
            sequence: position.sequence,
            recovered: true,
            gap: None,
        },
    }
}
