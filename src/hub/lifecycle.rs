//! Opening and ending connections, sessions and streams. Each kind of node has one removal path, keyed so that a
//! stale key does nothing.

use std::sync::Arc;

use slab::Slab;
use tokio::time::Instant;

use crate::base::id::{ConnectionId, SessionKey, StreamKey};
use crate::base::principal::Principal;
use crate::base::reason::{Cause, EndReason, Quota};
use crate::hub::ended::EndedRing;
use crate::hub::registry::{
    ConnectionState, Delivered, Ended, EndedNode, Rpc, SessionState, StreamState, Token,
};
use crate::hub::stats::Stats;
use crate::hub::topics::Topics;
use crate::hub::{Hub, Refusal};
use crate::runtime::gauge::Gauge;
use crate::runtime::scope::Scope;

/// A granted login.
#[derive(Debug)]
pub struct Login {
    /// The new session.
    pub session: SessionKey,
    /// How the last session of this user and client name ended; the one just taken over, if any.
    pub previous: Option<Ended>,
}

/// A session that was just ended.
#[derive(Debug)]
pub struct LoggedOut {
    /// Resolves `finished` when the last of its streams is gone.
    pub scope: Scope,
    /// How many streams it had.
    pub streams: u32,
}

/// What a cancel ended, or would end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// Streams.
    pub streams: u32,
    /// Sessions.
    pub sessions: u32,
    /// Live streams that are not ending, counted afterwards.
    pub others_untouched: u32,
}

impl Hub {
    /// Registers a transport.
    pub fn open_connection(&mut self, peer: &str, now: Instant) -> (ConnectionId, Scope) {
        self.connection_numbers += 1;
        let id = ConnectionId(self.connection_numbers);
        let scope = self.service.child();
        self.connections.insert(
            id,
            ConnectionState {
                peer: peer.into(),
                scope: scope.clone(),
                started_at: now,
                streams: 0,
                sessions: Vec::new(),
                was_called: false,
                in_use: false,
                unused_since: None,
                unused_entry: None,
                unsent_bytes: Arc::new(Gauge::of(&self.unsent_bytes)),
                close_when_unused: None,
            },
        );
        self.deadlines.logins.insert(now, id);
        self.rearm();
        (id, scope)
    }

    /// Forgets a transport that is gone.
    pub fn close_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.deadlines.logins.remove(connection.started_at, id);
        if let Some(entry) = connection.unused_entry {
            self.deadlines.unused.remove(entry, id);
        }
        for session in connection.sessions {
            if let Some(session) = self.session_mut(session) {
                session.connections.retain(|other| *other != id);
            }
        }
    }

    /// Whether a login of these names would take a live session over.
    #[must_use]
    pub fn takes_over(&self, principal: &Principal) -> bool {
        self.sessions_of(&principal.user).any(|session| session.principal.is_taken_over_by(principal))
    }

    /// The live sessions of a user.
    fn sessions_of(&self, user: &Arc<str>) -> impl Iterator<Item = &SessionState> {
        let first = SessionKey { slot: 0, incarnation: 0 };
        let last = SessionKey { slot: u32::MAX, incarnation: u64::MAX };
        let own = self.sessions_of_users.range((Arc::clone(user), first)..=(Arc::clone(user), last));
        own.filter_map(|(_, key)| self.session(*key))
    }

    /// A refused login, for the counters.
    pub fn count_refused_login(&mut self) {
        self.stats.logins_refused += 1;
    }

    /// A refused stream, for the counters.
    pub fn count_refused_stream(&mut self) {
        self.stats.streams_refused += 1;
    }

    /// Opens a session; a live one of the same user and client name ends with `SESSION_TAKEN_OVER`.
    ///
    /// # Errors
    /// When a count is at its limit, or the connection is gone.
    pub fn login(
        &mut self,
        principal: Principal,
        token: Token,
        connection: ConnectionId,
        now: Instant,
    ) -> Result<Login, Refusal> {
        if !self.connections.contains_key(&connection) {
            return Err(Refusal::ConnectionGone);
        }
        let (mut of_user, mut taken_over) = (0, None);
        for session in self.sessions_of(&principal.user) {
            of_user += 1;
            if session.principal.is_taken_over_by(&principal) {
                taken_over = Some(session.key);
            }
        }
        if let Some(key) = taken_over {
            self.end_session(key, Cause::server(EndReason::SessionTakenOver), now);
            of_user -= 1;
        }
        check("limits.sessions_max", self.sessions.len(), self.limits.sessions_max)?;
        check("limits.sessions_per_user_max", of_user, self.limits.sessions_per_user_max)?;
        let previous = self.ended.last_session_of(&principal);
        let session = self.insert_session(principal, token, now);
        self.note_use(session, connection);
        self.stats.logins += 1;
        Ok(Login { session, previous })
    }

    fn insert_session(&mut self, principal: Principal, token: Token, now: Instant) -> SessionKey {
        self.session_incarnations += 1;
        let entry = self.sessions.vacant_entry();
        // The count was checked against a u32 limit.
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let key = SessionKey { slot, incarnation: self.session_incarnations };
        self.sessions_of_users.insert((Arc::clone(&principal.user), key));
        entry.insert(Box::new(SessionState {
            key,
            principal,
            token: token.clone(),
            scope: self.service.child(),
            started_at: now,
            lease: self.limits.lease,
            silence: self.limits.stale_after(),
            heard_at: now,
            heartbeat_at: now,
            lease_entry: now,
            publishes: None,
            streams: Vec::new(),
            connections: Vec::new(),
        }));
        self.tokens.insert(token, key);
        self.deadlines.leases.insert(now, key);
        self.rearm();
        key
    }

    /// The session of a token. Counts as traffic: the lease is renewed, and the connection is one of the session's.
    pub fn authenticate(
        &mut self,
        token: &Token,
        connection: ConnectionId,
        now: Instant,
    ) -> Option<(SessionKey, Principal)> {
        let key = *self.tokens.get(token)?;
        self.renew(key, now);
        self.note_use(key, connection);
        self.session(key).map(|session| (key, session.principal.clone()))
    }

    fn note_use(&mut self, session: SessionKey, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.sessions.contains(&session) {
            return;
        }
        connection.sessions.push(session);
        connection.unused_since = None;
        if let Some(session) = self.session_mut(session) {
            session.connections.push(id);
        }
    }

    /// Ends a session and with it its streams: the one removal path of sessions. A stale key does nothing.
    pub fn end_session(&mut self, key: SessionKey, cause: Cause, now: Instant) -> Option<LoggedOut> {
        self.session(key)?;
        let session = self.sessions.remove(key.slot as usize);
        self.tokens.remove(&session.token);
        self.sessions_of_users.remove(&(Arc::clone(&session.principal.user), key));
        self.deadlines.leases.remove(session.lease_entry, key);
        session.scope.end(cause);
        let cause = session.scope.cause().cloned()?;
        self.stats.sessions_ended[cause.reason.index()] += 1;
        self.release_connections(&session, &cause, now);
        // After a storm the memory goes back.
        if self.tokens.capacity() > 64 + 4 * self.tokens.len() {
            self.tokens.shrink_to(2 * self.tokens.len());
        }
        if self.sessions.is_empty() {
            self.sessions = Slab::new();
        }
        let streams = u32::try_from(session.streams.len()).unwrap_or(u32::MAX);
        for stream in session.streams {
            if let Some(stream) = self.stream_mut(stream) {
                stream.wake_pump();
            }
        }
        let ended = Ended {
            number: 0,
            node: EndedNode::Session,
            session: key,
            principal: session.principal,
            cause,
            started_at: session.started_at,
            ended_at: now,
        };
        self.ended.push_session(ended, session.token);
        Some(LoggedOut { scope: session.scope, streams })
    }

    /// A session leaves its connections. After a logout, and when memory is short, those that carry no other session's
    /// stream are closed as soon as its own streams are gone.
    fn release_connections(&mut self, session: &SessionState, cause: &Cause, now: Instant) {
        for id in &session.connections {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.sessions.retain(|other| *other != session.key);
            }
            self.look_at_use(*id, now);
            if !matches!(cause.reason, EndReason::SessionLoggedOut | EndReason::MemoryPressure) {
                continue;
            }
            let carried = |key: &&StreamKey| {
                self.streams.get(key.slot as usize).is_some_and(|stream| stream.connection == *id)
            };
            let own = session.streams.iter().filter(carried).count();
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.streams as usize == own {
                connection.close_when_unused = Some(cause.clone());
                connection.close_if_unused();
            }
        }
    }

    /// Opens a stream of a session on a connection.
    ///
    /// # Errors
    /// When the session is gone, or a count is at its limit.
    pub fn open_stream(
        &mut self,
        session: SessionKey,
        connection: ConnectionId,
        rpc: Rpc,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Result<(StreamKey, Scope), Refusal> {
        let limits = self.limits();
        let owner = self.session(session).ok_or(Refusal::SessionGone)?;
        check("limits.streams_per_session_max", owner.streams.len(), limits.streams_per_session_max)?;
        let (principal, scope) = (owner.principal.clone(), owner.scope.child());
        let running = owner.scope.token();
        let carrier = self.connections.get_mut(&connection).ok_or(Refusal::ConnectionGone)?;
        let streams_max = limits.streams_per_connection_max;
        check("limits.streams_per_connection_max", carrier.streams as usize, streams_max)?;
        carrier.streams += 1;
        self.stream_numbers += 1;
        let entry = self.streams.vacant_entry();
        // Bounded by sessions times streams per session.
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let key = StreamKey { slot, number: self.stream_numbers };
        entry.insert(Box::new(StreamState {
            key,
            session,
            principal,
            connection,
            rpc,
            scope: scope.clone(),
            started_at: now,
            deadline,
            delivered: Delivered::default(),
            heard_at: now,
            quiet_entry: now,
            _running: running,
            cursors: Vec::new(),
            ready: std::collections::VecDeque::new(),
            control: Vec::new(),
            pump: None,
            inbound: None,
        }));
        if let Some(owner) = self.session_mut(session) {
            owner.streams.push(key);
        }
        self.deadlines.streams.insert(now, key);
        self.rearm();
        Ok((key, scope))
    }

    /// Asks a stream to end. The first cause wins; a stale key does nothing.
    pub fn end_stream(&mut self, key: StreamKey, cause: Cause) -> bool {
        let Some(stream) = self.stream_mut(key) else { return false };
        let first = stream.scope.end(cause);
        stream.wake_pump();
        first
    }

    /// Forgets a stream whose call is over: the one removal path of streams. `cause` counts where none was set
    /// before. A stale key does nothing.
    pub fn close_stream(&mut self, key: StreamKey, cause: Cause, now: Instant) -> Option<Cause> {
        let lag_bytes = self.lag_bytes(key)?;
        for index in 0..self.stream(key)?.cursors.len() {
            self.remove_cursor(key, index, now);
        }
        let stream = self.streams.remove(key.slot as usize);
        self.deadlines.streams.remove(stream.quiet_entry, key);
        self.control_bytes -= stream.control.capacity();
        if self.streams.is_empty() {
            self.streams = Slab::new();
        }
        stream.scope.end(cause);
        let cause = stream.scope.cause().cloned()?;
        if let Some(owner) = self.session_mut(stream.session) {
            owner.streams.retain(|other| *other != key);
        }
        if let Some(carrier) = self.connections.get_mut(&stream.connection) {
            carrier.streams -= 1;
            carrier.close_if_unused();
        }
        self.stats.streams_ended[cause.reason.index()] += 1;
        self.ended.push_stream(Ended {
            number: 0,
            node: EndedNode::Stream {
                key,
                rpc: stream.rpc,
                connection: stream.connection,
                delivered: stream.delivered,
                lag_bytes,
            },
            session: stream.session,
            principal: stream.principal,
            cause: cause.clone(),
            started_at: stream.started_at,
            ended_at: now,
        });
        Some(cause)
    }

    /// Ends, or with `dry_run` only counts, one stream. One that is ending already delivers no more; its first cause
    /// stays. `None` when it is not there.
    pub fn cancel_stream(&mut self, number: u64, cause: &Cause, dry_run: bool) -> Option<Cancelled> {
        let stream = self.streams.iter().find(|(_, stream)| stream.key.number == number)?.1;
        let (key, untouched) = (stream.key, u32::from(!stream.scope.is_ending()));
        if !dry_run {
            self.cut_stream(key, cause);
        }
        let others_untouched = self.count_untouched() - if dry_run { untouched } else { 0 };
        Some(Cancelled { streams: 1, sessions: 0, others_untouched })
    }

    fn cut_stream(&mut self, key: StreamKey, cause: &Cause) {
        if let Some(stream) = self.stream_mut(key) {
            stream.scope.abort(cause.clone());
            stream.wake_pump();
        }
    }

    /// Ends, or with `dry_run` only counts, one session and its streams; of a session that is ending already, the
    /// streams that are left. `None` when there is neither.
    pub fn cancel_session(
        &mut self,
        key: SessionKey,
        cause: &Cause,
        dry_run: bool,
        now: Instant,
    ) -> Option<Cancelled> {
        let own = self.streams().filter(|stream| stream.session == key);
        let streams: Vec<(StreamKey, bool)> =
            own.map(|stream| (stream.key, !stream.scope.is_ending())).collect();
        let sessions = u32::from(self.session(key).is_some());
        if sessions == 0 && streams.is_empty() {
            return None;
        }
        if !dry_run {
            self.end_session(key, cause.clone(), now);
            for (stream, _) in &streams {
                self.cut_stream(*stream, cause);
            }
        }
        let untouched = streams.iter().filter(|(_, untouched)| *untouched && dry_run).count();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let others_untouched = self.count_untouched() - count(untouched);
        Some(Cancelled { streams: count(streams.len()), sessions, others_untouched })
    }

    fn count_untouched(&self) -> u32 {
        let untouched = self.streams.iter().filter(|(_, stream)| !stream.scope.is_ending()).count();
        u32::try_from(untouched).unwrap_or(u32::MAX)
    }

    /// Live sessions.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionState> {
        self.sessions.iter().map(|(_, session)| &**session)
    }

    /// Live streams.
    pub fn streams(&self) -> impl Iterator<Item = &StreamState> {
        self.streams.iter().map(|(_, stream)| &**stream)
    }

    /// What a live stream has delivered.
    #[must_use]
    pub fn delivered(&self, key: StreamKey) -> Option<Delivered> {
        self.stream(key).map(|stream| stream.delivered)
    }

    /// Open connections.
    pub fn connections(&self) -> impl Iterator<Item = (&ConnectionId, &ConnectionState)> {
        self.connections.iter()
    }

    /// One open connection.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<&ConnectionState> {
        self.connections.get(&id)
    }

    /// What ended.
    #[must_use]
    pub fn ended(&self) -> &EndedRing {
        &self.ended
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// When the hub began.
    #[must_use]
    pub fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Sequence of the newest accepted event.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.sequence
    }
}

/// Refuses when `count` has reached `limit`.
pub(super) fn check(key: &'static str, count: usize, limit: u32) -> Result<(), Refusal> {
    if count >= limit as usize {
        return Err(Refusal::Quota(Quota { key, value: u64::from(limit) }));
    }
    Ok(())
}
