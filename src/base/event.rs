//! Places in the hub's order.

use std::sync::Arc;

/// Identity of one order of events. A new epoch means that positions of the old one mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub Arc<str>);

impl Epoch {
    /// The epoch's name: 16 hexadecimal digits of 8 random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(format!("{:016x}", u64::from_be_bytes(bytes)).into())
    }
}

/// A place in one order: everything up to and including `sequence`. Sequences start at 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which order.
    pub epoch: String,
    /// 0 is before the first event.
    pub sequence: u64,
}

/// Where a subscription starts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Start {
    /// Only what is published from now on.
    #[default]
    FromNow,
    /// Everything the tail still holds.
    AllRetained,
    /// Everything after a position, complete or with a word about what is gone.
    After(Position),
}

/// What to do with a cursor that fell behind its lag bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overflow {
    /// End the stream with `SLOW_CONSUMER`.
    #[default]
    Disconnect,
    /// Jump to the newest event and tell it with a gap.
    Skip,
}

/// Why a range of sequences will not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The position asked for belongs to another epoch.
    EpochChanged,
    /// The tail no longer holds it.
    TailGone,
    /// The cursor passed its lag bound with [`Overflow::Skip`].
    LagSkipped,
}

/// Sequences of one topic that were not and will not be delivered, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First missing sequence.
    pub from_sequence: u64,
    /// Last missing sequence; below `from_sequence` when nothing of this epoch is missing.
    pub to_sequence: u64,
    /// Why.
    pub reason: GapReason,
}
