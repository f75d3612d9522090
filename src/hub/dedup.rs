//! Which message ids were accepted lately: a client that lost its connection sends again what it has no receipt for,
//! and what the hub has already is not accepted twice.
//!
//! Ids are kept as fingerprints of topic, sender and id, apart from the table of topics: that forgets topics for its
//! own reasons, at any time, and an id is remembered for its window all the same.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::base::limits::REMEMBERED_IDS_MAX;
use crate::base::topic::Topic;

/// No slot: nothing is ever there.
const NONE: u32 = u32::MAX;

/// A publish as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    fingerprint: Fingerprint,
    /// Two topics of one hash share a bound, no more.
    topic: u64,
}

/// 128 bits of two hashes under random keys. Two ids of one fingerprint would cost a message: nobody can look for them
/// without the keys, and chance makes a publish meet one of all that are remembered once in 2^113 times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Fingerprint(u64, u64);

#[derive(Debug)]
struct Entry {
    id: Remembered,
    sequence: u64,
    accepted_at: Instant,
    /// Neighbours in the list of all.
    older: u32,
    newer: u32,
    /// The next one accepted in the same topic.
    next_of_topic: u32,
}

/// The entries of one topic, at least one.
#[derive(Debug)]
struct Queue {
    oldest: u32,
    newest: u32,
    count: u32,
}

/// A hasher for what is a keyed hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }
}

type ByHash<Key, Value> = HashMap<Key, Value, BuildHasherDefault<AsItIs>>;

/// Everything that is remembered: per topic and over all topics first in, first out, so the oldest of all is also the
/// oldest of its topic.
#[derive(Debug)]
pub struct Dedup {
    keys: [RandomState; 2],
    entries: Slab<Entry>,
    by_fingerprint: ByHash<Fingerprint, u32>,
    topics: ByHash<u64, Queue>,
    oldest: u32,
    newest: u32,
}

impl Default for Dedup {
    fn default() -> Self {
        Self::new([RandomState::new(), RandomState::new()])
    }
}

impl Dedup {
    fn new(keys: [RandomState; 2]) -> Self {
        Self {
            keys,
            entries: Slab::new(),
            by_fingerprint: ByHash::default(),
            topics: ByHash::default(),
            oldest: NONE,
            newest: NONE,
        }
    }

    /// How many ids are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What a publish is remembered by.
    #[must_use]
    pub fn remembered(&self, topic: &Topic, sender: &str, message_id: &str) -> Remembered {
        let [mut left, mut right] = self.keys.each_ref().map(BuildHasher::build_hasher);
        topic.as_str().hash(&mut left);
        let topic_hash = left.finish();
        (sender, message_id).hash(&mut left);
        (topic.as_str(), sender, message_id).hash(&mut right);
        Remembered { fingerprint: Fingerprint(left.finish(), right.finish()), topic: topic_hash }
    }

    /// The sequence that the same publish was given less than `window` ago.
    pub fn find(&mut self, id: Remembered, window: Duration, now: Instant) -> Option<u64> {
        self.forget_expired(window, now);
        let slot = *self.by_fingerprint.get(&id.fingerprint)?;
        self.entries.get(slot as usize).map(|entry| entry.sequence)
    }

    /// Remembers an accepted publish that [`Self::find`] did not find. The oldest give way: of its topic at `ids_max`,
    /// of all at [`REMEMBERED_IDS_MAX`].
    pub fn remember(&mut self, id: Remembered, sequence: u64, ids_max: u32, now: Instant) {
        while self.topics.get(&id.topic).is_some_and(|queue| queue.count >= ids_max) {
            self.forget_oldest_of(id.topic);
        }
        while self.entries.len() >= REMEMBERED_IDS_MAX {
            self.forget_oldest();
        }
        self.append(id, sequence, now);
    }

    fn append(&mut self, id: Remembered, sequence: u64, accepted_at: Instant) {
        let older = self.newest;
        let entry = Entry { id, sequence, accepted_at, older, newer: NONE, next_of_topic: NONE };
        let slot = u32::try_from(self.entries.insert(entry)).expect("there are at most REMEMBERED_IDS_MAX");
        self.newest = slot;
        match self.entries.get_mut(older as usize) {
            Some(neighbour) => neighbour.newer = slot,
            None => self.oldest = slot,
        }
        let queue = self.topics.entry(id.topic).or_insert(Queue { oldest: slot, newest: NONE, count: 0 });
        if let Some(before) = self.entries.get_mut(queue.newest as usize) {
            before.next_of_topic = slot;
        }
        (queue.newest, queue.count) = (slot, queue.count + 1);
        self.by_fingerprint.insert(id.fingerprint, slot);
    }

    fn forget_oldest(&mut self) {
        if let Some(topic) = self.entries.get(self.oldest as usize).map(|entry| entry.id.topic) {
            self.forget_oldest_of(topic);
        }
    }

    fn forget_oldest_of(&mut self, topic: u64) {
        let Some(queue) = self.topics.get_mut(&topic) else { return };
        let Some(entry) = self.entries.try_remove(queue.oldest as usize) else { return };
        (queue.oldest, queue.count) = (entry.next_of_topic, queue.count - 1);
        if queue.count == 0 {
            self.topics.remove(&topic);
        }
        self.by_fingerprint.remove(&entry.id.fingerprint);
        match self.entries.get_mut(entry.older as usize) {
            Some(neighbour) => neighbour.newer = entry.newer,
            None => self.oldest = entry.newer,
        }
        match self.entries.get_mut(entry.newer as usize) {
            Some(neighbour) => neighbour.older = entry.older,
            None => self.newest = entry.older,
        }
    }

    fn forget_expired(&mut self, window: Duration, now: Instant) {
        if self.next(window).is_some_and(|expired_at| expired_at <= now) {
            *self = Self::new(self.keys.clone());
        }
        let is_expired = |entry: &Entry| entry.accepted_at + window <= now;
        while self.entries.get(self.oldest as usize).is_some_and(is_expired) {
            self.forget_oldest();
        }
    }

    /// When nothing is remembered any more, unless more comes. What expires before is forgotten on the way.
    #[must_use]
    pub fn next(&self, window: Duration) -> Option<Instant> {
        self.entries.get(self.newest as usize).map(|entry| entry.accepted_at + window)
    }

    /// Forgets what is older than `window`, and gives back memory that a busier time needed.
    pub fn give_back(&mut self, window: Duration, now: Instant) {
        self.forget_expired(window, now);
        if self.entries.capacity() > 64 + 4 * self.entries.len() {
            let old = std::mem::replace(self, Self::new(self.keys.clone()));
            let mut at = old.oldest;
            while let Some(entry) = old.entries.get(at as usize) {
                self.append(entry.id, entry.sequence, entry.accepted_at);
                at = entry.newer;
            }
        }
    }
}

#[cfg(test)]
impl Dedup {
    /// Its lists and tables tell the same.
    pub(super) fn assert_sound(&self) {
        let mut of_topics: HashMap<u64, Vec<u32>> = HashMap::new();
        let (mut at, mut before) = (self.oldest, NONE);
        let mut newest = (None, 0);
        while let Some(entry) = self.entries.get(at as usize) {
            assert_eq!(entry.older, before);
            assert_eq!(self.by_fingerprint.get(&entry.id.fingerprint), Some(&at));
            assert!(newest < (Some(entry.accepted_at), entry.sequence), "the oldest comes first");
            newest = (Some(entry.accepted_at), entry.sequence);
            of_topics.entry(entry.id.topic).or_default().push(at);
            (before, at) = (at, entry.newer);
        }
        assert_eq!((before, at), (self.newest, NONE));
        assert_eq!(of_topics.values().map(Vec::len).sum::<usize>(), self.entries.len());
        assert_eq!(self.by_fingerprint.len(), self.entries.len());
        assert_eq!(self.topics.len(), of_topics.len());
        for (topic, slots) in of_topics {
            let queue = &self.topics[&topic];
            assert_eq!(queue.count as usize, slots.len());
            assert_eq!((queue.oldest, queue.newest), (slots[0], slots[slots.len() - 1]));
            let next = |slot: &u32| self.entries[*slot as usize].next_of_topic;
            assert!(slots.iter().map(next).eq(slots[1..].iter().copied().chain([NONE])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bill::MESSAGE_ID_BYTES;

    const WINDOW: Duration = Duration::from_secs(120);

    /// A table, the clock and the sequence, as the hub has them.
    struct Desk {
        dedup: Dedup,
        now: Instant,
        sequence: u64,
        ids_max: u32,
    }

    impl Desk {
        fn new(ids_max: u32) -> Self {
            Self { dedup: Dedup::default(), now: Instant::now(), sequence: 0, ids_max }
        }

        /// The sequence of that publish, and whether it is new.
        fn publish(&mut self, topic: &str, sender: &str, id: &str) -> (u64, bool) {
            let id = self.dedup.remembered(&Topic::parse(topic).unwrap(), sender, id);
            if let Some(sequence) = self.dedup.find(id, WINDOW, self.now) {
                return (sequence, false);
            }
            self.sequence += 1;
            self.dedup.remember(id, self.sequence, self.ids_max, self.now);
            (self.sequence, true)
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn the_same_sender_topic_and_id_is_the_same_publish_and_nothing_else_is() {
        let mut desk = Desk::new(1024);
        // Some of them together the same bytes.
        let all =
            [("room/a", "bob", "m"), ("room/a", "bo", "bm"), ("room/ab", "ob", "m"), ("room/b", "bob", "m")];
        for (sequence, (topic, sender, id)) in (1..).zip(all) {
            assert_eq!(desk.publish(topic, sender, id), (sequence, true));
        }
        for (sequence, (topic, sender, id)) in (1..).zip(all) {
            assert_eq!(desk.publish(topic, sender, id), (sequence, false));
        }
        assert_eq!(desk.dedup.len(), all.len());
        desk.dedup.assert_sound();
    }

    #[test]
    fn the_window_counts_from_the_first_one_to_the_instant() {
        let mut desk = Desk::new(1024);
        assert_eq!(desk.publish("room/a", "bob", "m"), (1, true));
        desk.pass(WINDOW - Duration::from_nanos(1));
        assert_eq!(desk.publish("room/a", "bob", "m"), (1, false));
        desk.pass(Duration::from_nanos(1));
        assert_eq!(desk.publish("room/a", "bob", "m"), (2, true), "a duplicate does not make it longer");
        assert_eq!(desk.publish("room/a", "bob", "m"), (2, false));
    }

    #[test]
    fn the_1025th_id_of_a_topic_pushes_out_its_first_and_no_other() {
        let mut desk = Desk::new(1024);
        desk.publish("room/quiet", "bob", "first");
        for number in 0..1024 {
            assert!(desk.publish("room/a", "bob", &number.to_string()).1);
        }
        assert_eq!(desk.publish("room/a", "bob", "0"), (2, false));
        assert!(desk.publish("room/a", "eve", "one more").1);
        assert_eq!(desk.dedup.len(), 1025);
        for number in 1..1024 {
            assert!(!desk.publish("room/a", "bob", &number.to_string()).1, "{number}");
        }
        assert_eq!(desk.publish("room/quiet", "bob", "first"), (1, false));
        assert!(desk.publish("room/a", "bob", "0").1);
        desk.dedup.assert_sound();
    }

    #[test]
    fn over_all_topics_the_oldest_gives_way_first() {
        let mut desk = Desk::new(1024);
        for number in 0..REMEMBERED_IDS_MAX {
            desk.publish(&format!("room/{}", number % 4000), "bob", &number.to_string());
        }
        for extra in 0..500 {
            desk.publish("room/new", "bob", &extra.to_string());
            assert_eq!(desk.dedup.len(), REMEMBERED_IDS_MAX);
        }
        desk.dedup.assert_sound();
        for number in (500..REMEMBERED_IDS_MAX).rev() {
            let (sequence, is_new) =
                desk.publish(&format!("room/{}", number % 4000), "bob", &number.to_string());
            assert_eq!((sequence, is_new), (number as u64 + 1, false));
        }
        assert!(desk.publish("room/499", "bob", "499").1);
    }

    #[test]
    fn memory_stays_within_the_bill_however_long_ids_come_and_go_back_when_they_are_gone() {
        let mut desk = Desk::new(1024);
        let mut most = [0; 3];
        for number in 0..12 * REMEMBERED_IDS_MAX {
            // Each in a topic of its own, too.
            desk.publish(&format!("room/{number}"), "bob", "m");
            let Dedup { entries, by_fingerprint, topics, .. } = &desk.dedup;
            let now = [entries.capacity(), by_fingerprint.capacity(), topics.capacity()];
            most = std::array::from_fn(|at| most[at].max(now[at]));
        }
        let table = |capacity: usize, bucket: usize| (capacity * 8 / 7).next_power_of_two() * (1 + bucket);
        let bytes = most[0] * size_of::<Option<Entry>>()
            + table(most[1], size_of::<(Fingerprint, u32)>())
            + table(most[2], size_of::<(u64, Queue)>());
        let billed = usize::try_from(MESSAGE_ID_BYTES).unwrap() * REMEMBERED_IDS_MAX;
        assert!(bytes <= billed && billed < bytes + bytes / 8, "{bytes} of {billed}, {most:?}");
        desk.pass(WINDOW / 2);
        for number in 0..100 {
            desk.publish("room/late", "bob", &number.to_string());
        }
        desk.pass(WINDOW / 2);
        desk.dedup.give_back(WINDOW, desk.now);
        desk.dedup.assert_sound();
        assert!(desk.dedup.entries.capacity() <= 256 && desk.dedup.by_fingerprint.capacity() <= 256);
        let last = desk.sequence;
        assert_eq!(desk.publish("room/late", "bob", "99"), (last, false));
        desk.pass(WINDOW / 2);
        desk.dedup.give_back(WINDOW, desk.now);
        assert_eq!((desk.dedup.len(), desk.dedup.entries.capacity()), (0, 0));
        desk.dedup.assert_sound();
    }

    #[test]
    fn a_lowered_bound_or_window_holds_from_the_next_publish_on() {
        let mut desk = Desk::new(1024);
        for number in 0..1000 {
            desk.publish("room/a", "bob", &number.to_string());
        }
        desk.ids_max = 10;
        assert!(!desk.publish("room/a", "bob", "0").1);
        assert!(desk.publish("room/a", "bob", "new").1);
        assert_eq!(desk.dedup.len(), 10);
        desk.pass(Duration::from_secs(5));
        let id = desk.dedup.remembered(&Topic::parse("room/a").unwrap(), "bob", "new");
        assert_eq!(desk.dedup.find(id, Duration::from_secs(5), desk.now), None);
        assert!(desk.dedup.is_empty());
    }

    #[test]
    fn it_does_as_a_naive_list_does() {
        let mut desk = Desk::new(5);
        let mut list: Vec<(u8, u8, u64, Instant)> = Vec::new();
        let mut random = 1_u64;
        for _ in 0..50_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [.., topic, id, pause] = random.to_be_bytes().map(|byte| byte % 13);
            let topic = topic % 4;
            desk.pass(WINDOW / 160 * u32::from(pause));
            if pause == 7 {
                desk.dedup.give_back(WINDOW, desk.now);
                desk.dedup.assert_sound();
            }
            list.retain(|(.., at)| *at + WINDOW > desk.now);
            let of_topic = |entry: &&(u8, u8, u64, Instant)| entry.0 == topic;
            let newest = list.iter().rev().filter(of_topic).take(5);
            let known = newest.filter(|entry| entry.1 == id).map(|entry| entry.2).next();
            let (sequence, is_new) = desk.publish(&format!("room/{topic}"), "bob", &id.to_string());
            assert_eq!((!is_new).then_some(sequence), known);
            if is_new {
                list.push((topic, id, sequence, desk.now));
            }
        }
    }
}
