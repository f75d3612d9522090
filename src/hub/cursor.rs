//! A stream's place in a topic.

use crate::base::event::{Gap, GapReason, Overflow};
use crate::base::topic::Topic;
use crate::hub::tail::Tail;

/// A place in a topic; no copy of anything.
#[derive(Debug)]
pub struct Cursor {
    /// Never repeats; tells a stale reference from a live one.
    pub(super) number: u64,
    /// The topic's place in the table.
    pub(super) topic: u32,
    /// Its name, to find it again.
    pub(super) name: Topic,
    /// Ordinal of the element wanted next.
    pub(super) next: u64,
    /// Everything of the topic through this sequence was delivered or told as a gap.
    pub(super) sequence: u64,
    pub(super) overflow: Overflow,
    /// Lag is counted from here at the earliest: what was replayed on request does not make a reader slow.
    pub(super) joined_offset: u64,
    /// Where it stands in the topic's waiting list, when it has everything.
    pub(super) waiting_at: Option<u32>,
    /// Whether the topic's lag watch holds a reference to it.
    pub(super) watched: bool,
    /// To be told before the next event.
    pub(super) gap: Option<Gap>,
}

/// A reference that may have gone stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CursorRef {
    /// Slot of the stream.
    pub(super) stream: u32,
    /// Index of the cursor in the stream.
    pub(super) index: u16,
    /// The cursor's number.
    pub(super) number: u64,
}

impl Cursor {
    /// Where its lag begins.
    pub(super) fn lag_offset(&self, tail: &Tail) -> u64 {
        tail.offset_of(self.next).max(self.joined_offset)
    }

    /// Notes a gap through `to_sequence`; two that follow each other become one.
    pub(super) fn note_gap(&mut self, to_sequence: u64, reason: GapReason) {
        if to_sequence <= self.sequence {
            return;
        }
        let from_sequence = self.gap.map_or(self.sequence + 1, |gap| gap.from_sequence);
        let reason = self.gap.map_or(reason, |gap| gap.reason);
        self.gap = Some(Gap { from_sequence, to_sequence, reason });
        self.sequence = to_sequence;
    }

    /// Moves past what the tail no longer holds and notes it.
    pub(super) fn catch_up_with(&mut self, tail: &Tail) {
        if self.next < tail.first_ordinal() {
            self.next = tail.first_ordinal();
            self.note_gap(tail.gone_through(), GapReason::TailGone);
        }
    }
}
