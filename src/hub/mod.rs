//! This node's registry and fan-out: a synchronous state machine. It never awaits, does no I/O and knows no wire
//! types; time and encoders are arguments.
//!
//! One `std::sync::Mutex` guards it. On a runtime with one thread it is never contended; an actor would add a queue
//! to bound and a wake-up to pay.

pub mod accounts;
pub mod cursor;
pub mod deadlines;
pub mod dedup;
pub mod ended;
pub mod registry;
mod runs;
pub mod shed;
pub mod stats;
pub mod tail;
pub mod topics;

mod deliver;
mod lifecycle;
mod promise;
mod reap;
mod subscribe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::base::event::Epoch;
use crate::base::id::{ConnectionId, SessionKey, StreamKey};
use crate::base::limits::Limits;
use crate::base::reason::Quota;
use crate::hub::deadlines::Deadlines;
use crate::hub::dedup::Dedup;
use crate::hub::ended::EndedRing;
use crate::hub::registry::{ConnectionState, SessionState, StreamState, Token};
use crate::hub::runs::SharedRuns;
use crate::hub::stats::Stats;
use crate::hub::topics::Topics;
use crate::runtime::gauge::Total;
use crate::runtime::pressure::Permille;
use crate::runtime::scope::Scope;

pub use deliver::{EncodeGap, Message, Want};
pub use lifecycle::{Cancelled, LoggedOut, Login};
pub use promise::Promise;
pub use subscribe::Subscribed;

/// The state of the node.
#[derive(Debug)]
pub struct Hub {
    epoch: Epoch,
    limits: Arc<Limits>,
    service: Scope,
    started_at: Instant,
    /// Sequence of the newest accepted event.
    sequence: u64,
    /// Boxed: the table stays as long as the crowd once was, and one that stayed would keep the memory of all.
    sessions: Slab<Box<SessionState>>,
    session_incarnations: u64,
    /// Of each user, for logins.
    sessions_of_users: BTreeSet<(Arc<str>, SessionKey)>,
    tokens: HashMap<Token, SessionKey>,
    streams: Slab<Box<StreamState>>,
    stream_numbers: u64,
    cursor_numbers: u64,
    connections: BTreeMap<ConnectionId, ConnectionState>,
    connection_numbers: u64,
    topics: Topics,
    runs: SharedRuns,
    dedup: Dedup,
    deadlines: Deadlines,
    ended: EndedRing,
    stats: Stats,
    /// Idle timeouts are multiplied by this.
    idle_scale: Permille,
    /// Tails may hold this share of `limits.tails_bytes_max`.
    tails_scale: Permille,
    /// Running counts of the accounts: live subscriptions, capacity of all control buffers, and what waits in all
    /// connections for their peers.
    subscriptions: usize,
    control_bytes: usize,
    unsent_bytes: Arc<Total>,
}

/// Why the hub did not do what was asked; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A count is at its limit.
    #[error("the limit {} = {} was reached", .0.key, .0.value)]
    Quota(Quota),
    /// A rate is at its limit; there is room again after this long.
    #[error("the limit {} = {} was reached", .0.key, .0.value)]
    Rate(Quota, Duration),
    /// The session has ended.
    #[error("the session has ended; log in again")]
    SessionGone,
    /// The stream has ended.
    #[error("the stream has ended")]
    StreamGone,
    /// The connection has ended.
    #[error("the connection has ended")]
    ConnectionGone,
    /// The topic is another user's inbox.
    #[error("only {0} subscribes to the inbox user/{0}")]
    NotYourInbox(String),
    /// The stream follows this topic already.
    #[error("the stream follows {0} already; unsubscribe first")]
    AlreadySubscribed(String),
    /// The stream does not follow this topic.
    #[error("the stream does not follow {0}")]
    NotSubscribed(String),
}

impl Hub {
    /// An empty hub. `service` is the scope all connections and sessions live under.
    #[must_use]
    pub fn new(epoch: Epoch, limits: Arc<Limits>, service: Scope, now: Instant) -> Self {
        Self {
            epoch,
            topics: Topics::default(),
            runs: SharedRuns::default(),
            dedup: Dedup::default(),
            limits,
            service,
            started_at: now,
            sequence: 0,
            sessions: Slab::new(),
            session_incarnations: 0,
            sessions_of_users: BTreeSet::new(),
            tokens: HashMap::new(),
            streams: Slab::new(),
            stream_numbers: 0,
            cursor_numbers: 0,
            connections: BTreeMap::new(),
            connection_numbers: 0,
            deadlines: Deadlines::default(),
            ended: EndedRing::default(),
            stats: Stats::default(),
            idle_scale: 1000,
            tails_scale: 1000,
            subscriptions: 0,
            control_bytes: 0,
            unsent_bytes: Arc::default(),
        }
    }

    /// Identity of the hub's order.
    #[must_use]
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    /// Puts new bounds in force. What is above a lowered bound stays until it ends.
    pub fn set_limits(&mut self, limits: Arc<Limits>) {
        if limits.publishes_per_second_max != self.limits.publishes_per_second_max {
            for (_, session) in &mut self.sessions {
                session.publishes = None;
            }
        }
        self.limits = limits;
        self.rearm();
    }

    /// Lets tails hold this share of `limits.tails_bytes_max` from the next publish or trim on.
    pub fn set_tails_scale(&mut self, tails_scale: Permille) {
        self.tails_scale = tails_scale;
    }

    /// What all tails may hold now.
    #[must_use]
    pub fn tails_bytes_max(&self) -> usize {
        let scaled = self.limits.tails_bytes_max as u64 * u64::from(self.tails_scale) / 1000;
        usize::try_from(scaled).unwrap_or(usize::MAX)
    }

    /// Has connections hold less for peers that do not read once they hold that much together.
    pub fn set_unsent_bytes_max(&mut self, unsent_bytes_max: u64) {
        self.unsent_bytes.set_max(unsent_bytes_max);
    }

    fn stream(&self, key: StreamKey) -> Option<&StreamState> {
        self.streams.get(key.slot as usize).map(Box::as_ref).filter(|stream| stream.key == key)
    }

    fn stream_mut(&mut self, key: StreamKey) -> Option<&mut StreamState> {
        self.streams.get_mut(key.slot as usize).map(Box::as_mut).filter(|stream| stream.key == key)
    }

    fn session(&self, key: SessionKey) -> Option<&SessionState> {
        self.sessions.get(key.slot as usize).map(Box::as_ref).filter(|session| session.key == key)
    }

    fn session_mut(&mut self, key: SessionKey) -> Option<&mut SessionState> {
        self.sessions.get_mut(key.slot as usize).map(Box::as_mut).filter(|session| session.key == key)
    }
}
