//! What a topic retains: encoded events in one contiguous, byte-bounded buffer.
//!
//! Every event is one element of a repeated protobuf field, tag and length included, so any run of whole elements is
//! a message by itself and leaves without being encoded again. Elements are counted by an ordinal that never repeats;
//! a reader holds only the ordinal of the element it wants next.

use std::collections::VecDeque;

/// The smallest buffer of a tail that holds anything.
const CAPACITY_BYTES_MIN: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Element {
    /// Offset of its first byte, counted over the life of the tail.
    start: u64,
    sequence: u64,
}

/// The retained events of one topic.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    /// Dead bytes at the front of `bytes`.
    head: usize,
    /// Offset of the first live byte.
    start: u64,
    elements: VecDeque<Element>,
    /// Ordinal of the first live element.
    first: u64,
    /// Highest sequence that is no longer here.
    gone_through: u64,
}

/// A run of whole elements.
#[derive(Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// The encoded elements.
    pub bytes: &'a [u8],
    /// How many.
    pub count: u64,
    /// Sequence of the last one.
    pub last_sequence: u64,
}

impl Tail {
    /// An empty tail of a topic of which everything through `gone_through` may be missing.
    #[must_use]
    pub fn new(gone_through: u64) -> Self {
        Self { gone_through, ..Self::default() }
    }

    /// Appends one element; `encode` writes its bytes, about `bytes_hint` of them. Returns their number.
    pub fn append(&mut self, sequence: u64, bytes_hint: usize, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        self.make_room(bytes_hint);
        let before = self.bytes.len();
        let start = self.end();
        encode(&mut self.bytes);
        self.elements.push_back(Element { start, sequence });
        self.bytes.len() - before
    }

    /// Drops the oldest elements until at most `bytes_max` are live; the newest always stays.
    pub fn evict(&mut self, bytes_max: usize) {
        while self.live_bytes() > bytes_max && self.elements.len() > 1 {
            self.evict_first();
        }
    }

    /// Drops everything and gives the memory back.
    pub fn clear(&mut self) {
        if let Some(last) = self.elements.back() {
            self.gone_through = last.sequence;
        }
        self.first = self.end_ordinal();
        self.start = self.end();
        self.bytes = Vec::new();
        self.head = 0;
        self.elements = VecDeque::new();
    }

    fn evict_first(&mut self) {
        if let Some(gone) = self.elements.pop_front() {
            let next = self.elements.front().map_or_else(|| self.end(), |element| element.start);
            self.head += offset_to_len(next - gone.start);
            self.start = next;
            self.first += 1;
            self.gone_through = gone.sequence;
        }
    }

    /// Moves the live bytes to the front when a quarter is dead, else grows by half: each byte is moved a bounded
    /// number of times, and the buffer stays within about 1.5 times what is live.
    fn make_room(&mut self, bytes: usize) {
        if self.bytes.capacity() - self.bytes.len() >= bytes {
            return;
        }
        if self.head > self.live_bytes() / 4 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        if self.bytes.capacity() - self.bytes.len() < bytes {
            self.bytes.reserve_exact(bytes.max(self.live_bytes() / 2).max(CAPACITY_BYTES_MIN));
        }
    }

    /// Ordinal of the oldest element still here.
    #[must_use]
    pub const fn first_ordinal(&self) -> u64 {
        self.first
    }

    /// Ordinal the next appended element will have.
    #[must_use]
    pub fn end_ordinal(&self) -> u64 {
        self.first + self.elements.len() as u64
    }

    /// Highest sequence that is no longer here, 0 when everything is.
    #[must_use]
    pub const fn gone_through(&self) -> u64 {
        self.gone_through
    }

    /// Sequence of the newest element, or of what is gone.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.elements.back().map_or(self.gone_through, |element| element.sequence)
    }

    /// Sequence of an element that is here.
    #[must_use]
    pub fn sequence_of(&self, ordinal: u64) -> Option<u64> {
        self.element(ordinal).map(|element| element.sequence)
    }

    /// Ordinal of the first element after `sequence`.
    #[must_use]
    pub fn ordinal_after(&self, sequence: u64) -> u64 {
        self.first + self.elements.partition_point(|element| element.sequence <= sequence) as u64
    }

    /// Offset of the first byte of an element, of the first one here when it is gone, of the end when it is to come.
    #[must_use]
    pub fn offset_of(&self, ordinal: u64) -> u64 {
        if ordinal < self.first {
            return self.start;
        }
        self.element(ordinal).map_or_else(|| self.end(), |element| element.start)
    }

    /// Offset one past the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.live_bytes() as u64
    }

    /// Bytes between an element and the end.
    #[must_use]
    pub fn lag_bytes(&self, ordinal: u64) -> usize {
        offset_to_len(self.end() - self.offset_of(ordinal))
    }

    /// Length of one element that is here, 0 otherwise.
    #[must_use]
    pub fn element_bytes(&self, ordinal: u64) -> usize {
        offset_to_len(self.offset_of(ordinal + 1) - self.offset_of(ordinal))
    }

    /// The longest run of whole elements from `ordinal` on that fits `bytes_max`, and at least one element.
    #[must_use]
    pub fn run(&self, ordinal: u64, bytes_max: usize) -> Option<Run<'_>> {
        let at = self.index(ordinal)?;
        let from = self.elements.get(at)?.start;
        let next = if self.lag_bytes(ordinal) <= bytes_max {
            self.elements.len()
        } else {
            let limit = from + bytes_max as u64;
            // Element `i` fits when element `i + 1` starts at or before the limit.
            let past = self.elements.partition_point(|element| element.start <= limit);
            (past - 1).max(at + 1)
        };
        let to = self.elements.get(next).map_or_else(|| self.end(), |element| element.start);
        let begin = self.head + offset_to_len(from - self.start);
        Some(Run {
            bytes: &self.bytes[begin..begin + offset_to_len(to - from)],
            count: (next - at) as u64,
            last_sequence: self.elements.get(next - 1)?.sequence,
        })
    }

    /// Live bytes.
    #[must_use]
    pub fn live_bytes(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Memory held, dead space and indexes included.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.elements.capacity() * size_of::<Element>()
    }

    fn index(&self, ordinal: u64) -> Option<usize> {
        ordinal.checked_sub(self.first).and_then(|index| usize::try_from(index).ok())
    }

    fn element(&self, ordinal: u64) -> Option<&Element> {
        self.elements.get(self.index(ordinal)?)
    }
}

/// Differences of offsets inside one tail are bounded by its length.
fn offset_to_len(difference: u64) -> usize {
    usize::try_from(difference).expect("a tail is shorter than the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tail of elements "[1]", "[2]", … with even sequences.
    fn tail(count: u64) -> Tail {
        let mut tail = Tail::default();
        for number in 1..=count {
            tail.append(number * 2, 4, |bytes| bytes.extend_from_slice(format!("[{number}]").as_bytes()));
        }
        tail
    }

    #[test]
    fn a_run_is_whole_elements_and_the_longest_that_fits() {
        let tail = tail(5);
        assert_eq!(tail.run(0, 6).unwrap().bytes, b"[1][2]");
        assert_eq!(tail.run(0, 8).unwrap().bytes, b"[1][2]");
        assert_eq!(tail.run(1, 9), Some(Run { bytes: b"[2][3][4]", count: 3, last_sequence: 8 }));
        assert_eq!(tail.run(2, 1000).unwrap().bytes, b"[3][4][5]");
        assert_eq!(tail.run(5, 1000), None);
    }

    #[test]
    fn an_element_larger_than_the_limit_goes_alone() {
        assert_eq!(tail(3).run(1, 1), Some(Run { bytes: b"[2]", count: 1, last_sequence: 4 }));
    }

    #[test]
    fn eviction_keeps_the_newest_within_the_bound_and_remembers_what_is_gone() {
        let mut tail = tail(5);
        tail.evict(7);
        assert_eq!((tail.first_ordinal(), tail.gone_through(), tail.live_bytes()), (3, 6, 6));
        assert_eq!(tail.run(3, 100).unwrap().bytes, b"[4][5]");
        assert_eq!(tail.run(2, 100), None);
        tail.evict(0);
        assert_eq!(tail.run(4, 100).unwrap().bytes, b"[5]");
    }

    #[test]
    fn positions_are_found_by_sequence() {
        let mut tail = tail(5);
        assert_eq!(tail.ordinal_after(0), 0);
        assert_eq!(tail.ordinal_after(2), 1);
        assert_eq!(tail.ordinal_after(3), 1);
        assert_eq!(tail.ordinal_after(10), 5);
        tail.evict(6);
        assert_eq!(tail.ordinal_after(0), 3);
        assert_eq!(tail.lag_bytes(4), 3);
        assert_eq!(tail.lag_bytes(0), 6);
    }

    #[test]
    fn memory_stays_within_a_multiple_of_the_bound_and_comes_back() {
        let mut tail = Tail::default();
        for sequence in 1..100_000 {
            tail.append(sequence, 100, |bytes| bytes.extend_from_slice(&[7; 100]));
            tail.evict(20_000);
        }
        assert!(tail.held_bytes() < 2 * 20_000, "{}", tail.held_bytes());
        assert_eq!(tail.run(tail.first_ordinal(), usize::MAX >> 1).unwrap().bytes, vec![7; 20_000]);
        tail.clear();
        assert_eq!((tail.held_bytes(), tail.last_sequence(), tail.end_ordinal()), (0, 99_999, 99_999));
        tail.append(100_000, 1, |bytes| bytes.push(1));
        assert_eq!(tail.run(99_999, 10).unwrap().bytes, [1]);
    }
}
