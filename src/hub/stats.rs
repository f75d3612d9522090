//! Counters since the start.

use crate::base::reason::EndReason;

/// What happened since the start.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Logins granted.
    pub logins: u64,
    /// Logins refused, for a limit or to save memory.
    pub logins_refused: u64,
    /// Streams refused, for a limit or to save memory.
    pub streams_refused: u64,
    /// Events handed to connections, counted once per stream.
    pub events_delivered: u64,
    /// Their bytes.
    pub bytes_delivered: u64,
    /// Publishes refused.
    pub publishes_refused: u64,
    /// Publishes that were there already, by their message id.
    pub publishes_duplicate: u64,
    /// Ended streams by reason.
    pub streams_ended: [u64; EndReason::ALL.len()],
    /// Ended sessions by reason.
    pub sessions_ended: [u64; EndReason::ALL.len()],
}
