//! What ends when it has been quiet for too long. Whoever waits sleeps until the nearest deadline; nothing is scanned.
//!
//! The sets hold since when something is quiet, not when it is due: so a timeout that changes, by configuration or
//! under memory pressure, holds at once for everything. What is heard of again is not touched here: when its old place
//! comes up, the owner says since when it is quiet really. So renewing a lease costs nothing.

use std::collections::BTreeSet;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::id::{ConnectionId, SessionKey, StreamKey};
use crate::base::limits::{EMPTY_TOPIC_TIMEOUT, Limits};
use crate::runtime::pressure::Permille;

/// Nodes of one kind, by when they fell quiet.
#[derive(Debug)]
pub struct Quiet<Key>(BTreeSet<(Instant, Key)>);

impl<Key: Ord> Default for Quiet<Key> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<Key: Ord + Copy> Quiet<Key> {
    /// Adds a node.
    pub fn insert(&mut self, since: Instant, key: Key) {
        self.0.insert((since, key));
    }

    /// Takes one out.
    pub fn remove(&mut self, since: Instant, key: Key) {
        self.0.remove(&(since, key));
    }

    /// The one that is quiet longest.
    #[must_use]
    pub fn first(&self) -> Option<(Instant, Key)> {
        self.0.first().copied()
    }

    /// When the first of them has been quiet for `timeout`.
    #[must_use]
    pub fn next(&self, timeout: Duration) -> Option<Instant> {
        self.first().map(|(since, _)| since + timeout)
    }

    /// Takes out the first one that has been quiet for `timeout`.
    pub fn pop_due(&mut self, timeout: Duration, now: Instant) -> Option<Key> {
        if self.next(timeout)? > now {
            return None;
        }
        self.0.pop_first().map(|(_, key)| key)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a node has that place.
    #[cfg(test)]
    pub(super) fn contains(&self, since: Instant, key: Key) -> bool {
        self.0.contains(&(since, key))
    }
}

/// How long each kind may be quiet now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A session; never shortened, its client was promised it.
    pub lease: Duration,
    /// A stream; none is off.
    pub stream_idle: Option<Duration>,
    /// A connection on which no call ever came.
    pub login: Duration,
    /// A connection without session and call.
    pub connection_idle: Duration,
    /// A topic nobody follows and that holds nothing.
    pub empty_topic: Duration,
}

impl Timeouts {
    /// What `limits` say, the idle ones multiplied by `idle_scale`. A client that heartbeats as it was told is never
    /// idle, however little is left of the timeout.
    #[must_use]
    pub fn new(limits: &Limits, idle_scale: Permille) -> Self {
        let scaled = |timeout: Duration| timeout * idle_scale / 1000;
        let idle = limits.stream_idle_timeout;
        let least = idle.min(limits.stale_after());
        Self {
            lease: limits.lease,
            stream_idle: (!idle.is_zero()).then(|| scaled(idle).max(least)),
            login: scaled(limits.login_timeout),
            connection_idle: scaled(limits.connection_idle_timeout),
            empty_topic: scaled(EMPTY_TOPIC_TIMEOUT),
        }
    }
}

/// Everything of the hub that can be quiet for too long, but topics: they keep their own.
#[derive(Debug, Default)]
pub struct Deadlines {
    pub(super) leases: Quiet<SessionKey>,
    pub(super) streams: Quiet<StreamKey>,
    pub(super) logins: Quiet<ConnectionId>,
    pub(super) unused: Quiet<ConnectionId>,
    /// Until when the reaper sleeps.
    pub(super) armed: Option<Instant>,
    pub(super) reaper: Option<Waker>,
}

impl Deadlines {
    /// The nearest deadline.
    #[must_use]
    pub fn next(&self, timeouts: &Timeouts) -> Option<Instant> {
        let streams = timeouts.stream_idle.and_then(|timeout| self.streams.next(timeout));
        let nearest = [
            self.leases.next(timeouts.lease),
            streams,
            self.logins.next(timeouts.login),
            self.unused.next(timeouts.connection_idle),
        ];
        nearest.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_deadline_follows_a_changed_timeout_without_a_rebuild() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.leases.insert(start, SessionKey { slot: 0, incarnation: 1 });
        deadlines.streams.insert(start, StreamKey { slot: 0, number: 1 });
        let mut limits = Limits::default();
        let at = |limits: &Limits, scale| deadlines.next(&Timeouts::new(limits, scale));
        assert_eq!(at(&limits, 1000), Some(start + limits.lease), "idle streams are off");
        limits.stream_idle_timeout = Duration::from_secs(80);
        assert_eq!(at(&limits, 1000), Some(start + Duration::from_secs(80)));
        assert_eq!(at(&limits, 750), Some(start + Duration::from_secs(60)));
        limits.lease = Duration::from_secs(10);
        assert_eq!(at(&limits, 1000), Some(start + Duration::from_secs(10)));
        assert_eq!(at(&limits, 1), Some(start + Duration::from_secs(10)), "leases are promised");
    }

    #[test]
    fn a_client_that_heartbeats_as_told_is_never_idle_under_pressure() {
        let limits = Limits { stream_idle_timeout: Duration::from_secs(600), ..Limits::default() };
        let least = Timeouts::new(&limits, 1).stream_idle;
        assert_eq!(least, Some(Duration::from_secs(45)), "one and a half of 30 s");
        let short = Limits { stream_idle_timeout: Duration::from_secs(20), ..Limits::default() };
        assert_eq!(short.told_heartbeat_interval(), Duration::from_secs(10));
        assert_eq!(Timeouts::new(&short, 1).stream_idle, Some(Duration::from_secs(15)));
    }

    #[test]
    fn only_what_was_quiet_long_enough_is_taken_oldest_first() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut quiet = Quiet::default();
        for (number, since) in [(1, start + second), (2, start), (3, start + 2 * second)] {
            quiet.insert(since, ConnectionId(number));
        }
        assert_eq!(quiet.pop_due(2 * second, start + 3 * second), Some(ConnectionId(2)));
        assert_eq!(quiet.pop_due(2 * second, start + 3 * second), Some(ConnectionId(1)));
        assert_eq!(quiet.pop_due(2 * second, start + 3 * second), None);
        quiet.remove(start + 2 * second, ConnectionId(3));
        assert!(quiet.is_empty());
    }
}
