//! Who was heard of, and ending what was not for too long.

use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::id::{ConnectionId, SessionKey, StreamKey};
use crate::base::reason::{Cause, EndReason};
use crate::hub::Hub;
use crate::hub::deadlines::Timeouts;
use crate::runtime::pressure::Permille;

impl Hub {
    /// Renews a lease: any traffic of the session's client.
    pub fn renew(&mut self, key: SessionKey, now: Instant) {
        if let Some(session) = self.session_mut(key) {
            session.heard_at = now;
        }
    }

    /// A heartbeat: renews the lease and speaks for all streams of the session.
    pub fn heartbeat(&mut self, key: SessionKey, now: Instant) {
        if let Some(session) = self.session_mut(key) {
            (session.heard_at, session.heartbeat_at) = (now, now);
        }
    }

    /// The client sent something on a stream. Renews the lease too.
    pub fn heard(&mut self, key: StreamKey, now: Instant) {
        let Some(stream) = self.stream_mut(key) else { return };
        stream.heard_at = now;
        let session = stream.session;
        self.renew(session, now);
    }

    /// A call began on a connection that had none.
    pub fn connection_in_use(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        (connection.in_use, connection.unused_since, connection.was_called) = (true, None, true);
    }

    /// The last call of a connection is over.
    pub fn connection_quiet(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.in_use = false;
        self.look_at_use(id, now);
    }

    /// Begins to count the time of a connection that nobody uses.
    pub(super) fn look_at_use(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.in_use || !connection.sessions.is_empty() {
            return;
        }
        connection.unused_since = Some(now);
        if connection.unused_entry.is_none() {
            connection.unused_entry = Some(now);
            self.deadlines.unused.insert(now, id);
            self.rearm();
        }
    }

    /// What is left of the idle timeouts, in thousandths; set under memory pressure.
    pub fn set_idle_scale(&mut self, idle_scale: Permille) {
        self.idle_scale = idle_scale;
        self.rearm();
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts::new(&self.limits, self.idle_scale)
    }

    fn next_deadline(&self) -> Option<Instant> {
        let timeouts = self.timeouts();
        let topics = self.topics.empty().next(timeouts.empty_topic);
        let ids = self.dedup.next(self.limits.dedup_window);
        self.deadlines.next(&timeouts).into_iter().chain(topics).chain(ids).min()
    }

    /// When [`Self::reap`] has something to do next. Keeps `waker` for when that moves nearer.
    pub fn await_deadline(&mut self, waker: &Waker) -> Option<Instant> {
        let next = self.next_deadline();
        self.deadlines.armed = next;
        self.deadlines.reaper = Some(waker.clone());
        next
    }

    /// Wakes the reaper when it sleeps too long.
    pub(super) fn rearm(&mut self) {
        if let Some(next) = self.next_deadline()
            && self.deadlines.armed.is_none_or(|armed| next < armed)
            && let Some(reaper) = self.deadlines.reaper.take()
        {
            reaper.wake();
        }
    }

    /// Ends what was quiet for too long; says which sessions expired.
    pub fn reap(&mut self, now: Instant) -> Vec<SessionKey> {
        let timeouts = self.timeouts();
        let expired = self.reap_sessions(&timeouts, now);
        self.reap_streams(&timeouts, now);
        self.reap_connections(&timeouts, now);
        self.topics.forget_empty(timeouts.empty_topic, now);
        self.dedup.give_back(self.limits.dedup_window, now);
        expired
    }

    fn reap_sessions(&mut self, timeouts: &Timeouts, now: Instant) -> Vec<SessionKey> {
        let mut expired = Vec::new();
        while let Some(key) = self.deadlines.leases.pop_due(timeouts.lease, now) {
            let Some(session) = self.session_mut(key) else { continue };
            // A shorter lease is for sessions to come: this one keeps what it was promised.
            let entry = session.heard_at + session.lease.saturating_sub(timeouts.lease);
            if entry + timeouts.lease > now {
                session.lease_entry = entry;
                self.deadlines.leases.insert(entry, key);
            } else {
                self.end_session(key, Cause::server(EndReason::SessionExpired), now);
                expired.push(key);
            }
        }
        expired
    }

    fn reap_streams(&mut self, timeouts: &Timeouts, now: Instant) {
        let Some(timeout) = timeouts.stream_idle else { return };
        while let Some(key) = self.deadlines.streams.pop_due(timeout, now) {
            let Some((quiet_since, silence)) = self.quiet_since(key) else { continue };
            // Whoever heartbeats as it was told at login is not idle, even if the timeout is shorter now.
            let entry = quiet_since + silence.saturating_sub(timeout);
            if entry + timeout <= now {
                self.end_stream(key, Cause::server(EndReason::IdleTimeout));
            } else if let Some(stream) = self.stream_mut(key) {
                stream.quiet_entry = entry;
                self.deadlines.streams.insert(entry, key);
            }
        }
    }

    /// Since when a live stream's client has not been heard of, neither on the stream nor by a heartbeat, and how long
    /// it may be silent. What was delivered does not count, a proxy or a stopped process takes that too.
    fn quiet_since(&self, key: StreamKey) -> Option<(Instant, Duration)> {
        let stream = self.stream(key)?;
        let session = self.session(stream.session)?;
        Some((stream.heard_at.max(session.heartbeat_at), session.silence))
    }

    fn reap_connections(&mut self, timeouts: &Timeouts, now: Instant) {
        while let Some(id) = self.deadlines.logins.pop_due(timeouts.login, now) {
            let connection = self.connections.get(&id).filter(|connection| !connection.was_called);
            if let Some(connection) = connection {
                let cause = Cause::server(EndReason::IdleTimeout);
                connection.scope.end(cause.with_note("no call within limits.login_timeout"));
            }
        }
        while let Some(id) = self.deadlines.unused.pop_due(timeouts.connection_idle, now) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.unused_entry = None;
            let Some(since) = connection.unused_since else { continue };
            if since + timeouts.connection_idle <= now {
                let note = "no session and no call for limits.connection_idle_timeout";
                connection.scope.end(Cause::server(EndReason::IdleTimeout).with_note(note));
            } else {
                connection.unused_entry = Some(since);
                self.deadlines.unused.insert(since, id);
            }
        }
    }
}
