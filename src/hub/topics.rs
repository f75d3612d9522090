//! The table of topics: found by name, with one memory budget that the least recently published give way to.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::base::topic::Topic;
use crate::hub::cursor::CursorRef;
use crate::hub::deadlines::Quiet;
use crate::hub::tail::Tail;

/// One topic.
#[derive(Debug)]
pub struct TopicState {
    pub(super) name: Topic,
    pub(super) tail: Tail,
    /// Cursors that have everything; a publish wakes these and no others.
    pub(super) waiting: Vec<CursorRef>,
    /// Cursors that may have fallen behind, by the offset they were last seen at (or an earlier one).
    pub(super) behind: BinaryHeap<Reverse<(u64, CursorRef)>>,
    /// Live cursors.
    pub(super) cursors: u32,
    held_bytes: usize,
    /// Since when nobody follows it and it holds nothing; its place in the set of empty topics.
    empty_since: Option<Instant>,
    /// Whether it stands in the list of tails that hold something.
    listed: bool,
    newer: Option<u32>,
    older: Option<u32>,
}

impl TopicState {
    /// Shrinks the lists that a crowd of followers made long, once few of it are left. Each shrinking follows as many
    /// removals as it moves entries.
    pub(super) fn give_back(&mut self) {
        let enough = 2 * self.cursors as usize;
        if self.waiting.capacity() > 2 * enough {
            self.waiting.shrink_to(enough);
        }
        if self.behind.capacity() > 64 + 4 * enough {
            self.behind.shrink_to(enough);
        }
    }
}

/// All topics.
#[derive(Debug, Default)]
pub struct Topics {
    slots: Slab<TopicState>,
    by_name: HashMap<Topic, u32>,
    /// Ends of the list of tails that hold something, by last publish.
    newest: Option<u32>,
    oldest: Option<u32>,
    held_bytes: usize,
    empty: Quiet<u32>,
    /// Of all names.
    name_bytes: usize,
    /// Highest sequence that was in a topic no longer in the table.
    gone_through: u64,
}

impl Topics {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Memory held by all tails.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes of all names.
    #[must_use]
    pub const fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    pub(super) fn find(&self, name: &Topic) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&TopicState> {
        self.slots.get(slot as usize)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut TopicState> {
        self.slots.get_mut(slot as usize)
    }

    /// The topic of that name, made when there is room for one more. At `topics_max` the least recently published
    /// topic nobody follows is forgotten; `None` when every one is followed.
    pub(super) fn find_or_insert(&mut self, name: &Topic, topics_max: u32) -> Option<u32> {
        if let Some(slot) = self.find(name) {
            return Some(slot);
        }
        if self.slots.len() >= topics_max as usize {
            self.remove(self.least_useful()?);
        }
        let slot = u32::try_from(self.slots.insert(TopicState {
            name: name.clone(),
            tail: Tail::new(self.gone_through),
            waiting: Vec::new(),
            behind: BinaryHeap::new(),
            cursors: 0,
            held_bytes: 0,
            empty_since: None,
            listed: false,
            newer: None,
            older: None,
        }))
        .ok()?;
        self.by_name.insert(name.clone(), slot);
        self.name_bytes += name.as_str().len();
        Some(slot)
    }

    /// A topic nobody follows: one that holds nothing, else the least recently published.
    fn least_useful(&self) -> Option<u32> {
        let empty = self.empty.first().map(|(_, slot)| slot);
        empty.or_else(|| self.oldest_first().find(|(_, topic)| topic.cursors == 0).map(|(slot, _)| slot))
    }

    fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        self.note_use(slot);
        if let Some(topic) = self.slots.try_remove(slot as usize) {
            self.by_name.remove(&topic.name);
            self.name_bytes -= topic.name.as_str().len();
            self.held_bytes -= topic.held_bytes;
            self.gone_through = self.gone_through.max(topic.tail.last_sequence());
        }
    }

    /// Topics that nobody follows and that hold nothing.
    pub(super) fn empty(&self) -> &Quiet<u32> {
        &self.empty
    }

    /// Notes whether a topic is of any use now; true when it just ceased to be.
    pub(super) fn look_at_use(&mut self, slot: u32, now: Instant) -> bool {
        let Some(topic) = self.slots.get_mut(slot as usize) else { return false };
        if topic.cursors > 0 || topic.listed || topic.empty_since.is_some() {
            return false;
        }
        topic.empty_since = Some(now);
        self.empty.insert(now, slot);
        true
    }

    /// A topic is followed or published to.
    pub(super) fn note_use(&mut self, slot: u32) {
        if let Some(since) = self.get_mut(slot).and_then(|topic| topic.empty_since.take()) {
            self.empty.remove(since, slot);
        }
    }

    /// Forgets the topics that have been empty for that long.
    pub(super) fn forget_empty(&mut self, timeout: Duration, now: Instant) {
        while let Some(slot) = self.empty.pop_due(timeout, now) {
            self.remove(slot);
        }
        if self.slots.is_empty() {
            // After a storm the memory goes back.
            (self.slots, self.by_name) = (Slab::new(), HashMap::new());
        }
    }

    /// Books what a topic holds now, makes it the most recent and keeps all tails within `held_bytes_max`. Returns
    /// whether others had to give way.
    pub(super) fn published(&mut self, slot: u32, held_bytes_max: usize, now: Instant) -> bool {
        self.note_use(slot);
        self.unlink(slot);
        self.link_newest(slot);
        self.book(slot);
        self.give_way(held_bytes_max, Some(slot), now)
    }

    /// Keeps all tails within `held_bytes_max`, the least recently published giving way first. Returns whether any had
    /// to.
    pub(super) fn trim(&mut self, held_bytes_max: usize, now: Instant) -> bool {
        self.give_way(held_bytes_max, None, now)
    }

    fn give_way(&mut self, held_bytes_max: usize, spared: Option<u32>, now: Instant) -> bool {
        let mut gave_way = false;
        while self.held_bytes > held_bytes_max {
            let Some(victim) = self.oldest.filter(|victim| Some(*victim) != spared) else { break };
            if let Some(topic) = self.get_mut(victim) {
                topic.tail.clear();
            }
            self.unlink(victim);
            self.book(victim);
            self.look_at_use(victim, now);
            gave_way = true;
        }
        gave_way
    }

    fn book(&mut self, slot: u32) {
        if let Some(topic) = self.slots.get_mut(slot as usize) {
            self.held_bytes -= topic.held_bytes;
            topic.held_bytes = topic.tail.held_bytes();
            self.held_bytes += topic.held_bytes;
        }
    }

    fn oldest_first(&self) -> impl Iterator<Item = (u32, &TopicState)> {
        std::iter::successors(self.oldest, |slot| self.get(*slot)?.newer)
            .filter_map(|slot| self.get(slot).map(|topic| (slot, topic)))
    }

    fn unlink(&mut self, slot: u32) {
        let Some(topic) = self.slots.get_mut(slot as usize).filter(|topic| topic.listed) else { return };
        topic.listed = false;
        let (newer, older) = (topic.newer.take(), topic.older.take());
        match newer.and_then(|at| self.slots.get_mut(at as usize)) {
            Some(neighbour) => neighbour.older = older,
            None => self.newest = older,
        }
        match older.and_then(|at| self.slots.get_mut(at as usize)) {
            Some(neighbour) => neighbour.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, slot: u32) {
        let older = self.newest.replace(slot);
        if let Some(topic) = self.slots.get_mut(slot as usize) {
            topic.listed = true;
            topic.older = older;
        }
        match older.and_then(|at| self.slots.get_mut(at as usize)) {
            Some(neighbour) => neighbour.newer = Some(slot),
            None => self.oldest = Some(slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::parse(&format!("room/{name}")).unwrap()
    }

    fn publish(topics: &mut Topics, name: &str, sequence: u64, held_bytes_max: usize) -> u32 {
        let slot = topics.find_or_insert(&topic(name), 8).unwrap();
        topics.get_mut(slot).unwrap().tail.append(sequence, 1000, |bytes| bytes.extend([0; 1000]));
        topics.published(slot, held_bytes_max, Instant::now());
        slot
    }

    #[test]
    fn the_least_recently_published_tail_gives_way_first() {
        let mut topics = Topics::default();
        let (a, b) = (publish(&mut topics, "a", 1, 9000), publish(&mut topics, "b", 2, 9000));
        publish(&mut topics, "a", 3, 9000);
        let held_bytes = topics.held_bytes();
        let c = publish(&mut topics, "c", 4, held_bytes);
        assert_eq!(topics.get(b).unwrap().tail.live_bytes(), 0);
        assert_eq!(topics.get(b).unwrap().tail.gone_through(), 2);
        assert!(topics.get(a).unwrap().tail.live_bytes() > 0 && topics.get(c).unwrap().tail.live_bytes() > 0);
        assert!(topics.held_bytes() <= held_bytes);
    }

    #[test]
    fn a_topic_nobody_follows_makes_room_and_what_it_held_counts_as_gone() {
        let mut topics = Topics::default();
        for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
            publish(&mut topics, name, at as u64 + 1, 1 << 20);
        }
        let followed = topics.find(&topic("a")).unwrap();
        topics.get_mut(followed).unwrap().cursors = 1;
        let slot = topics.find_or_insert(&topic("d"), 3).unwrap();
        assert_eq!(topics.find(&topic("b")), None);
        assert!(topics.find(&topic("a")).is_some() && topics.find(&topic("c")).is_some());
        assert_eq!(topics.get(slot).unwrap().tail.gone_through(), 2);
    }

    #[test]
    fn what_a_crowd_of_followers_needed_goes_back_when_it_has_left() {
        let mut topics = Topics::default();
        let slot = topics.find_or_insert(&topic("a"), 1).unwrap();
        let state = topics.get_mut(slot).unwrap();
        for stream in 0..1000 {
            let reference = CursorRef { stream, index: 0, number: u64::from(stream) };
            state.waiting.push(reference);
            state.behind.push(Reverse((0, reference)));
            state.cursors += 1;
        }
        let held = |state: &TopicState| state.waiting.capacity() + state.behind.capacity();
        state.give_back();
        assert!(held(state) >= 2000, "nobody has left");
        state.behind.clear();
        while state.cursors > 0 {
            state.cursors -= 1;
            state.waiting.pop();
            state.give_back();
            assert_eq!(state.waiting.len(), state.cursors as usize);
        }
        assert!(held(state) <= 64, "{}", held(state));
    }

    #[test]
    fn with_every_topic_followed_there_is_no_room() {
        let mut topics = Topics::default();
        let slot = topics.find_or_insert(&topic("a"), 1).unwrap();
        topics.get_mut(slot).unwrap().cursors = 1;
        assert_eq!(topics.find_or_insert(&topic("b"), 1), None);
        assert_eq!(topics.len(), 1);
    }
}
