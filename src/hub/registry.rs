//! What the hub knows of connections, sessions and streams, and of those that ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::base::id::{ConnectionId, SessionKey, StreamKey};
use crate::base::principal::Principal;
use crate::base::reason::Cause;
use crate::hub::cursor::Cursor;
use crate::runtime::bucket::Bucket;
use crate::runtime::gauge::Gauge;
use crate::runtime::scope::Scope;

/// A session's secret: 32 random bytes, sent as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(secret)")
    }
}

/// Which streaming call a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// `MessageService.Connect`.
    Connect,
    /// `MessageService.Subscribe`.
    Subscribe,
}

impl Rpc {
    /// As the contract names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "Connect",
            Self::Subscribe => "Subscribe",
        }
    }
}

/// One transport.
#[derive(Debug)]
pub struct ConnectionState {
    /// Where it comes from, for people.
    pub peer: Arc<str>,
    /// Ends when the connection is asked to close.
    pub scope: Scope,
    /// When it was accepted.
    pub started_at: Instant,
    /// Streams it carries.
    pub streams: u32,
    /// Live sessions that have used it.
    pub sessions: Vec<SessionKey>,
    /// Whether a call ever came.
    pub(super) was_called: bool,
    /// Whether a call is under way.
    pub(super) in_use: bool,
    /// Since when there is neither a call nor a session; `None` while there is one.
    pub(super) unused_since: Option<Instant>,
    /// Its place in the set of unused connections, `unused_since` or an earlier time.
    pub(super) unused_entry: Option<Instant>,
    /// Bytes that wait for the peer to take them.
    pub unsent_bytes: Arc<Gauge>,
    /// Set when its session logged out or was ended to save memory: it is closed when its last stream is gone.
    pub(super) close_when_unused: Option<Cause>,
}

impl ConnectionState {
    pub(super) fn close_if_unused(&mut self) {
        if self.streams == 0
            && let Some(cause) = self.close_when_unused.take()
        {
            self.scope.end(cause);
        }
    }
}

/// One live session.
#[derive(Debug)]
pub struct SessionState {
    /// Its name.
    pub key: SessionKey,
    /// Whose it is.
    pub principal: Principal,
    pub(super) token: Token,
    /// Its streams live below this.
    pub scope: Scope,
    /// When it logged in.
    pub started_at: Instant,
    /// The longest lease it was promised, at login or by the answer to a heartbeat.
    pub lease: Duration,
    /// How long its client may be silent and has still done as it was ever told.
    pub(super) silence: Duration,
    /// When its client was last heard of, by whatever traffic.
    pub heard_at: Instant,
    /// When its client last sent a heartbeat, which speaks for all of its streams.
    pub(super) heartbeat_at: Instant,
    /// Its place in the set of leases, `heard_at` or an earlier time.
    pub(super) lease_entry: Instant,
    /// What it may still publish, from its first publish under a rate on.
    pub(super) publishes: Option<Bucket>,
    /// Its live streams.
    pub streams: Vec<StreamKey>,
    /// Open connections it has used.
    pub connections: Vec<ConnectionId>,
}

/// What a stream has delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Events handed to the connection.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Highest sequence among them, 0 when there is none.
    pub last_sequence: u64,
}

/// One live stream.
#[derive(Debug)]
pub struct StreamState {
    /// Its name.
    pub key: StreamKey,
    /// Who owns it.
    pub session: SessionKey,
    /// Whose it is.
    pub principal: Principal,
    /// What carries it.
    pub connection: ConnectionId,
    /// Which call it is.
    pub rpc: Rpc,
    /// Ends when the stream is asked to.
    pub scope: Scope,
    /// When it was opened.
    pub started_at: Instant,
    /// When its call's time is over.
    pub deadline: Option<Instant>,
    /// What it has delivered.
    pub delivered: Delivered,
    /// When its client last sent anything on it.
    pub(super) heard_at: Instant,
    /// Its place in the set of quiet streams, `heard_at` or an earlier time.
    pub(super) quiet_entry: Instant,
    /// Keeps the session's end from being finished while the stream is there.
    pub(super) _running: TaskTrackerToken,
    pub(super) cursors: Vec<Option<Cursor>>,
    /// Cursors with something to deliver; each stands here at most once.
    pub(super) ready: VecDeque<u16>,
    /// Encoded receipts and notices, delivered before events.
    pub(super) control: Vec<u8>,
    /// The pump, when it waits for something to send.
    pub(super) pump: Option<Waker>,
    /// The inbound half, when it waits for room in `control`.
    pub(super) inbound: Option<Waker>,
}

impl StreamState {
    /// Appends to what is delivered before events; returns by how much the buffer has grown.
    pub(super) fn push_control(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = self.control.capacity();
        encode(&mut self.control);
        self.wake_pump();
        self.control.capacity() - before
    }

    pub(super) fn wake_pump(&mut self) {
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
    }
}

/// What ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedNode {
    /// A session.
    Session,
    /// A stream, with what it left.
    Stream {
        /// Its name.
        key: StreamKey,
        /// Which call it was.
        rpc: Rpc,
        /// What carried it.
        connection: ConnectionId,
        /// What it had delivered.
        delivered: Delivered,
        /// Bytes it had not.
        lag_bytes: u64,
    },
}

/// The record of one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Counts all ends of this process, from 1.
    pub number: u64,
    /// What ended.
    pub node: EndedNode,
    /// The session, or the owner of the stream.
    pub session: SessionKey,
    /// Whose it was.
    pub principal: Principal,
    /// Why, and who asked.
    pub cause: Cause,
    /// When it had begun.
    pub started_at: Instant,
    /// When it ended.
    pub ended_at: Instant,
}
