//! The data path: one event in, a run of encoded events out to each stream that has room.

use std::cmp::Reverse;
use std::task::Waker;

use bytes::Bytes;
use tokio::time::Instant;

use crate::base::event::{Gap, GapReason, Overflow};
use crate::base::id::{SessionKey, StreamKey};
use crate::base::limits::{CONTROL_BYTES_MAX, Limits};
use crate::base::reason::{Cause, EndReason, Quota};
use crate::base::topic::Topic;
use crate::hub::cursor::{Cursor, CursorRef};
use crate::hub::registry::{Delivered, StreamState};
use crate::hub::stats::Stats;
use crate::hub::tail::Run;
use crate::hub::topics::TopicState;
use crate::hub::{Hub, Refusal};
use crate::runtime::bucket::Bucket;

/// What a stream has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing; the waker is kept and woken when there is.
    Nothing,
    /// Something.
    Bytes {
        /// The least that can be taken: one element.
        least: usize,
        /// All there is.
        most: usize,
    },
    /// The stream is gone.
    Gone,
}

/// A publish, beside its encoding.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where it goes.
    pub topic: &'a Topic,
    /// What its sender calls it, so that it is accepted once however often it is sent. Empty is no name.
    pub id: &'a str,
    /// About how many bytes it is when encoded.
    pub bytes_hint: usize,
}

/// What one stream took of a topic.
#[derive(Clone, Copy)]
struct Taken {
    count: u64,
    bytes: u64,
    last_sequence: u64,
}

impl Taken {
    fn of(run: &Run<'_>) -> Self {
        Self { count: run.count, bytes: run.bytes.len() as u64, last_sequence: run.last_sequence }
    }
}

/// Moves a cursor behind what was taken, and counts it.
fn count_taken(taken: Taken, cursor: &mut Cursor, delivered: &mut Delivered, stats: &mut Stats) {
    cursor.next += taken.count;
    cursor.sequence = taken.last_sequence;
    delivered.events += taken.count;
    delivered.bytes += taken.bytes;
    delivered.last_sequence = delivered.last_sequence.max(taken.last_sequence);
    stats.events_delivered += taken.count;
    stats.bytes_delivered += taken.bytes;
}

/// The first of the ready cursors had its turn: it goes to the end of them, or waits for its topic.
fn settle(key: StreamKey, stream: &mut StreamState, topic: &mut TopicState, index: u16) {
    let Some(cursor) = stream.cursors[usize::from(index)].as_mut() else { return };
    stream.ready.pop_front();
    if cursor.next < topic.tail.end_ordinal() {
        stream.ready.push_back(index);
    } else {
        cursor.waiting_at = u32::try_from(topic.waiting.len()).ok();
        topic.waiting.push(CursorRef { stream: key.slot, index, number: cursor.number });
    }
}

/// Whether the stream has nothing more to send; its waker is kept then.
fn keep_if_all(stream: &mut StreamState, waker: &Waker) -> bool {
    let is_all = stream.ready.is_empty();
    if is_all {
        stream.pump = Some(waker.clone());
    }
    is_all
}

/// Encodes a gap as a frame element.
pub type EncodeGap = fn(&Topic, Gap, &mut Vec<u8>);

impl Hub {
    /// Accepts one event: gives it the next sequence, appends what `encode` writes to the topic's tail, and wakes
    /// the streams that wait for it. Counts as traffic of the session. Returns the sequence.
    ///
    /// An event that the same user sent to the topic under the same id, within `dedup_window`, is not accepted again:
    /// it is answered with the sequence it has.
    ///
    /// # Errors
    /// When the session is gone, publishes too fast, or there is no room for another topic. Nothing is changed then.
    pub fn publish(
        &mut self,
        session: SessionKey,
        message: Message<'_>,
        now: Instant,
        encode: impl FnOnce(u64, &mut Vec<u8>),
    ) -> Result<u64, Refusal> {
        self.charge_publish(session, now)?;
        if message.id.is_empty() {
            self.append(message, now, encode)
        } else {
            self.append_once(session, message, now, encode)
        }
    }

    fn append_once(
        &mut self,
        session: SessionKey,
        message: Message<'_>,
        now: Instant,
        encode: impl FnOnce(u64, &mut Vec<u8>),
    ) -> Result<u64, Refusal> {
        let window = self.limits.dedup_window;
        if window.is_zero() {
            return self.append(message, now, encode);
        }
        let sender = &self.session(session).ok_or(Refusal::SessionGone)?.principal.user;
        let id = self.dedup.remembered(message.topic, sender, message.id);
        if let Some(sequence) = self.dedup.find(id, window, now) {
            self.stats.publishes_duplicate += 1;
            return Ok(sequence);
        }
        let sequence = self.append(message, now, encode)?;
        let is_first = self.dedup.is_empty();
        self.dedup.remember(id, sequence, self.limits.dedup_ids_max, now);
        if is_first {
            self.rearm();
        }
        Ok(sequence)
    }

    fn append(
        &mut self,
        message: Message<'_>,
        now: Instant,
        encode: impl FnOnce(u64, &mut Vec<u8>),
    ) -> Result<u64, Refusal> {
        let (topics_max, tails_bytes_max) = (self.limits.topics_max, self.tails_bytes_max());
        let quota = Quota { key: "limits.topics_max", value: u64::from(topics_max) };
        let slot = self.topics.find_or_insert(message.topic, topics_max).ok_or(Refusal::Quota(quota))?;
        let sequence = self.sequence + 1;
        let topic = self.topics.get_mut(slot).ok_or(Refusal::Quota(quota))?;
        topic.tail.append(sequence, message.bytes_hint, |bytes| encode(sequence, bytes));
        topic.tail.evict(self.limits.tail_bytes_max.min(tails_bytes_max));
        self.sequence = sequence;
        if self.topics.published(slot, tails_bytes_max, now) {
            self.rearm();
        }
        self.wake_waiting(slot);
        self.find_slow(slot);
        Ok(sequence)
    }

    fn charge_publish(&mut self, key: SessionKey, now: Instant) -> Result<(), Refusal> {
        let per_second = self.limits.publishes_per_second_max;
        let session = self.session_mut(key).ok_or(Refusal::SessionGone)?;
        session.heard_at = now;
        if per_second == 0 {
            return Ok(());
        }
        let bucket = session.publishes.get_or_insert_with(|| Bucket::of_one_second(per_second));
        let quota = Quota { key: "limits.publishes_per_second_max", value: u64::from(per_second) };
        bucket.take(now).map_err(|wait| Refusal::Rate(quota, wait))
    }

    /// A refused publish, for the counters.
    pub fn count_refused_publish(&mut self) {
        self.stats.publishes_refused += 1;
    }

    fn wake_waiting(&mut self, slot: u32) {
        let Some(topic) = self.topics.get_mut(slot) else { return };
        if topic.waiting.is_empty() {
            return;
        }
        // The list is taken and given back so that its memory serves the next publish.
        let mut waiting = std::mem::take(&mut topic.waiting);
        for reference in waiting.drain(..) {
            let Some(stream) = self.streams.get_mut(reference.stream as usize) else { continue };
            let Some(cursor) = live_cursor(stream, reference) else { continue };
            cursor.waiting_at = None;
            let watch = !std::mem::replace(&mut cursor.watched, true);
            if watch {
                let offset = cursor.lag_offset(&topic.tail);
                topic.behind.push(Reverse((offset, reference)));
            }
            stream.ready.push_back(reference.index);
            stream.wake_pump();
        }
        topic.waiting = waiting;
    }

    /// Ends or skips the cursors that passed their lag bound. Each is looked at once per `lag_bytes_max` published.
    ///
    /// A stream that was woken and has not run since is not judged: one turn's publishes may pass the bound before
    /// its reader had a chance. The tail's own bound holds meanwhile.
    fn find_slow(&mut self, slot: u32) {
        let mut not_run_yet = Vec::new();
        while let Some(reference) = self.pop_behind(slot) {
            let Some(topic) = self.topics.get_mut(slot) else { return };
            let Some(stream) = self.streams.get_mut(reference.stream as usize) else { continue };
            let woken = stream.pump.is_none() && !stream.scope.is_ending();
            let Some(cursor) = live_cursor(stream, reference) else { continue };
            if cursor.waiting_at.is_some() {
                cursor.watched = false;
                continue;
            }
            let offset = cursor.lag_offset(&topic.tail);
            if offset >= lag_limit(topic, &self.limits) {
                topic.behind.push(Reverse((offset, reference)));
            } else if woken {
                not_run_yet.push(Reverse((offset, reference)));
            } else {
                self.judge_slow(slot, reference);
            }
        }
        if let Some(topic) = self.topics.get_mut(slot) {
            topic.behind.extend(not_run_yet);
        }
    }

    /// The reference that was seen furthest behind, when that passes the bound.
    fn pop_behind(&mut self, slot: u32) -> Option<CursorRef> {
        let limit = lag_limit(self.topics.get(slot)?, &self.limits);
        let topic = self.topics.get_mut(slot)?;
        let Reverse((offset, reference)) = *topic.behind.peek()?;
        if offset >= limit {
            return None;
        }
        topic.behind.pop();
        Some(reference)
    }

    fn judge_slow(&mut self, slot: u32, reference: CursorRef) {
        let Some(topic) = self.topics.get_mut(slot) else { return };
        let Some(stream) = self.streams.get_mut(reference.stream as usize) else { return };
        let Some(cursor) = live_cursor(stream, reference) else { return };
        match cursor.overflow {
            Overflow::Skip => {
                let newest = topic.tail.end_ordinal() - 1;
                let skipped = newest.checked_sub(1).and_then(|ordinal| topic.tail.sequence_of(ordinal));
                cursor.note_gap(skipped.unwrap_or(topic.tail.gone_through()), GapReason::LagSkipped);
                cursor.next = newest;
                topic.behind.push(Reverse((topic.tail.offset_of(newest), reference)));
            }
            Overflow::Disconnect => {
                cursor.watched = false;
                let note = slow_note(&topic.name, &self.limits);
                stream.scope.end(Cause::server(EndReason::SlowConsumer).with_note(&note));
                stream.wake_pump();
            }
        }
    }

    pub(super) fn watch_lag(&mut self, reference: CursorRef) {
        let Some(stream) = self.streams.get_mut(reference.stream as usize) else { return };
        let Some(cursor) = live_cursor(stream, reference) else { return };
        let Some(topic) = self.topics.get_mut(cursor.topic) else { return };
        if !std::mem::replace(&mut cursor.watched, true) {
            topic.behind.push(Reverse((cursor.lag_offset(&topic.tail), reference)));
        }
    }

    /// Puts a cursor that has everything on its topic's waiting list.
    pub(super) fn park(&mut self, topic: u32, reference: CursorRef) {
        let Some(topic) = self.topics.get_mut(topic) else { return };
        let at = u32::try_from(topic.waiting.len()).ok();
        topic.waiting.push(reference);
        if let Some(cursor) = self.cursor_mut(reference) {
            cursor.waiting_at = at;
        }
    }

    pub(super) fn cursor_mut(&mut self, reference: CursorRef) -> Option<&mut Cursor> {
        live_cursor(self.streams.get_mut(reference.stream as usize)?, reference)
    }

    /// What the stream has to send, at most about `most`; keeps `waker` when there is nothing.
    pub fn want(&mut self, key: StreamKey, most_max: usize, waker: &Waker) -> Want {
        let Some(stream) = self.streams.get_mut(key.slot as usize).filter(|stream| stream.key == key) else {
            return Want::Gone;
        };
        let (mut least, mut most) = (stream.control.len(), stream.control.len());
        for index in &stream.ready {
            let Some(cursor) = stream.cursors[usize::from(*index)].as_ref() else { continue };
            let Some(topic) = self.topics.get(cursor.topic) else { continue };
            let next = cursor.next.max(topic.tail.first_ordinal());
            let gap_bytes = if cursor.gap.is_some() || cursor.next < next { GAP_BYTES_MAX } else { 0 };
            if least == 0 {
                least = gap_bytes + topic.tail.element_bytes(next);
            }
            most += gap_bytes + topic.tail.lag_bytes(next);
            if most >= most_max {
                break;
            }
        }
        if most == 0 {
            stream.pump = Some(waker.clone());
            return Want::Nothing;
        }
        Want::Bytes { least, most: most.min(most_max.max(least)) }
    }

    /// Keeps the waker of a stream that has something to send but no window for it.
    pub fn keep_pump(&mut self, key: StreamKey, waker: &Waker) {
        if let Some(stream) = self.stream_mut(key) {
            stream.pump = Some(waker.clone());
        }
    }

    /// Appends to `out` what fits `bytes_max`, and at least one element: receipts and notices first, then one run of
    /// events per ready topic in turn. Says whether that was all: `waker` is kept then, as by [`Self::want`].
    pub fn take(
        &mut self,
        key: StreamKey,
        bytes_max: usize,
        encode_gap: EncodeGap,
        waker: &Waker,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(stream) = self.streams.get_mut(key.slot as usize).filter(|stream| stream.key == key) else {
            return false;
        };
        let begin = out.len();
        out.append(&mut stream.control);
        if let Some(inbound) = stream.inbound.take() {
            inbound.wake();
        }
        for _ in 0..stream.ready.len() {
            let left = bytes_max.saturating_sub(out.len() - begin);
            let Some(index) = stream.ready.front().copied() else { break };
            let Some(cursor) = stream.cursors[usize::from(index)].as_mut() else { break };
            let Some(topic) = self.topics.get_mut(cursor.topic) else { break };
            cursor.catch_up_with(&topic.tail);
            let gap_bytes = if cursor.gap.is_some() { GAP_BYTES_MAX } else { 0 };
            if out.len() > begin && gap_bytes + topic.tail.element_bytes(cursor.next) > left {
                break;
            }
            if let Some(gap) = cursor.gap.take() {
                encode_gap(&cursor.name, gap, out);
            }
            let left = bytes_max.saturating_sub(out.len() - begin);
            if let Some(run) = topic.tail.run(cursor.next, left) {
                out.extend_from_slice(run.bytes);
                let taken = Taken::of(&run);
                count_taken(taken, cursor, &mut stream.delivered, &mut self.stats);
            }
            settle(key, stream, topic, index);
        }
        keep_if_all(stream, waker)
    }

    /// Takes the next run of events as one message, when that is all the stream has to send; [`Self::take`] serves
    /// every other case, and says the same of the waker. `frame` makes a message of a run; streams that take the same
    /// run share it.
    pub fn take_run(
        &mut self,
        key: StreamKey,
        bytes_max: usize,
        frame: fn(&[u8]) -> Bytes,
        waker: &Waker,
    ) -> Option<(Bytes, bool)> {
        let stream = self.streams.get_mut(key.slot as usize).filter(|stream| stream.key == key)?;
        let index = *stream.ready.front()?;
        if stream.ready.len() > 1 || !stream.control.is_empty() {
            return None;
        }
        let cursor = stream.cursors[usize::from(index)].as_mut()?;
        let topic = self.topics.get_mut(cursor.topic)?;
        if cursor.gap.is_some() || cursor.next < topic.tail.first_ordinal() {
            return None;
        }
        let run = topic.tail.run(cursor.next, bytes_max)?;
        let taken = Taken::of(&run);
        let message = self.runs.take(taken.last_sequence, run.bytes.len()).unwrap_or_else(|| {
            let message = frame(run.bytes);
            self.runs.keep(taken.last_sequence, run.bytes.len(), topic.cursors - 1, &message);
            message
        });
        count_taken(taken, cursor, &mut stream.delivered, &mut self.stats);
        settle(key, stream, topic, index);
        Some((message, keep_if_all(stream, waker)))
    }

    /// Appends an encoded receipt or notice, which is delivered before any event that is not yet taken.
    pub fn push_control(&mut self, key: StreamKey, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(stream) = self.stream_mut(key) else { return };
        let grown = stream.push_control(encode);
        self.control_bytes += grown;
    }

    /// Appends a notice to every live stream.
    pub fn push_control_to_all(&mut self, mut encode: impl FnMut(SessionKey, &mut Vec<u8>)) {
        for (_, stream) in &mut self.streams {
            let session = stream.session;
            self.control_bytes += stream.push_control(|out| encode(session, out));
        }
    }

    /// Makes every stream look again at its cause, its time and the phase.
    pub fn wake_all(&mut self) {
        for (_, stream) in &mut self.streams {
            stream.wake_pump();
        }
    }

    /// Whether the stream may read another frame; keeps `waker` when its receipts first have to leave.
    pub fn has_control_room(&mut self, key: StreamKey, waker: &Waker) -> bool {
        let Some(stream) = self.stream_mut(key) else { return true };
        let room = stream.control.len() < CONTROL_BYTES_MAX / 2;
        if !room {
            stream.inbound = Some(waker.clone());
        }
        room
    }
}

/// What an encoded gap takes at most: its topic, two sequences, a reason, tags and lengths.
const GAP_BYTES_MAX: usize = crate::base::limits::TOPIC_BYTES_MAX + 40;

fn live_cursor(stream: &mut StreamState, reference: CursorRef) -> Option<&mut Cursor> {
    let cursor = stream.cursors.get_mut(usize::from(reference.index))?.as_mut()?;
    (cursor.number == reference.number).then_some(cursor)
}

/// Cursors before this offset are too far behind.
fn lag_limit(topic: &TopicState, limits: &Limits) -> u64 {
    topic.tail.end().saturating_sub(limits.lag_bytes_max as u64)
}

fn slow_note(topic: &Topic, limits: &Limits) -> String {
    format!(
        "the stream fell more than limits.lag_bytes_max = {} bytes behind {topic}; resume from last_sequence",
        limits.lag_bytes_max
    )
}
