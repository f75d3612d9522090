//! What the hub knows to hold memory, holder by holder: the bill's constants times what is live, and exact bytes
//! where they are known. Running counts, so that a look costs the same with two sessions or two thousand.

use crate::base::bill;
use crate::hub::Hub;
use crate::hub::registry::{ConnectionState, StreamState};

/// Memory of one holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// What it is, in the words of the bill.
    pub holder: &'static str,
    /// How many there are.
    pub count: u64,
    /// What they hold.
    pub bytes: u64,
}

/// How many holders there are.
const HOLDERS: usize = 13;

impl Hub {
    /// Every holder. `start_bytes` is what the process held before anyone came.
    #[must_use]
    pub fn accounts(&self, start_bytes: u64) -> [Account; HOLDERS] {
        let connections = wide(self.connections.len());
        let streams = wide(self.streams.len());
        let subscriptions = wide(self.subscriptions);
        let sessions = wide(self.sessions.len());
        let topics = wide(self.topics.len());
        let (ended, ended_bytes) = self.ended.account();
        let account = |holder, count, bytes| Account { holder, count, bytes };
        let each = |holder, count: u64, bytes: u64| account(holder, count, count.saturating_mul(bytes));
        [
            account("process", 1, start_bytes),
            each("connections: h2 buffers", connections, bill::H2_BUFFERS_BYTES),
            each("connections: task", connections, bill::CONNECTION_TASK_BYTES),
            account("connections: unsent bytes", connections, self.unsent_bytes.get()),
            each("streams", streams, bill::STREAM_STATE_BYTES),
            account("streams: receipts and notices", streams, wide(self.control_bytes)),
            each("subscriptions", subscriptions, bill::CURSOR_BYTES),
            each("sessions", sessions, bill::SESSION_BYTES),
            account("topics", topics, topics * bill::TOPIC_BYTES + wide(self.topics.name_bytes())),
            account("tails", topics, wide(self.topics.held_bytes())),
            account("runs shared by streams", wide(self.runs.len()), wide(self.runs.bytes())),
            each("message ids", wide(self.dedup.len()), bill::MESSAGE_ID_BYTES),
            account("ended streams and sessions", wide(ended), wide(ended_bytes)),
        ]
    }

    /// Sum of [`Self::accounts`].
    #[must_use]
    pub fn accounts_bytes(&self, start_bytes: u64) -> u64 {
        self.accounts(start_bytes).iter().fold(0, |sum, account| sum.saturating_add(account.bytes))
    }
}

/// What ending a stream gives back.
pub(super) fn stream_bytes(stream: &StreamState) -> u64 {
    let cursors = wide(stream.cursors.iter().flatten().count());
    bill::STREAM_STATE_BYTES + cursors * bill::CURSOR_BYTES + wide(stream.control.capacity())
}

/// What closing a connection gives back.
pub(super) fn connection_bytes(connection: &ConnectionState) -> u64 {
    bill::H2_BUFFERS_BYTES + bill::CONNECTION_TASK_BYTES + connection.unsent_bytes.get()
}

/// Lossless on every machine Rust's `usize` exists for.
pub(super) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
