//! Giving memory back when it is short: who would end, in which order, and what each returns. The plan changes
//! nothing; the monitor carries out its beginning, and an administrator may look at it at any time.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::bill;
use crate::base::id::{ConnectionId, SessionKey, StreamKey};
use crate::base::order::sort_by;
use crate::base::principal::Principal;
use crate::base::reason::{Cause, EndReason};
use crate::hub::Hub;
use crate::hub::accounts::{connection_bytes, stream_bytes, wide};
use crate::hub::registry::{ConnectionState, SessionState, StreamState};
use crate::runtime::pressure::{Level, Thresholds};
use crate::runtime::vitals::MemoryVitals;

/// Why a step stands where it does. Later rungs wait for the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// The session has missed a heartbeat; longest silent first.
    StaleSession,
    /// The stream lies behind its topics; furthest first.
    LaggingStream,
    /// Any other stream; the one that holds most first, of equals the youngest.
    CostlyStream,
}

/// What a step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// A session with its streams.
    Session(SessionKey),
    /// A stream.
    Stream(StreamKey),
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What ends.
    pub victim: Victim,
    /// Whose it is.
    pub principal: Principal,
    /// Why it stands here.
    pub rung: Rung,
    /// What ending it gives back.
    pub bytes: u64,
    /// How far it lies behind its topics, all its streams together.
    pub lag_bytes: u64,
    /// How long its session has not been heard of.
    pub silent_for: Duration,
    /// Streams that end.
    pub streams: u32,
}

/// How short memory is.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    /// The level now.
    pub level: Level,
    /// What that was judged by.
    pub memory: MemoryVitals,
    /// Where the levels begin.
    pub thresholds: Thresholds,
    /// Steps per tick at most.
    pub ends_max: u32,
}

/// Who would end, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Every candidate.
    pub steps: Vec<Step>,
    /// What has to come back beside what is coming back already.
    pub needed_bytes: u64,
    /// How many steps the next tick takes.
    pub ends: usize,
}

impl Hub {
    /// Everyone who would end, in order, and how many of them end now.
    #[must_use]
    pub fn plan_shed(&self, shortage: &Shortage, now: Instant) -> Plan {
        self.plan(shortage, Rung::CostlyStream, now)
    }

    /// The beginning of [`Self::plan_shed`]: as far as it can be carried out at this level. Below CRITICAL no stream
    /// is looked at.
    #[must_use]
    pub fn plan_ends(&self, shortage: &Shortage, now: Instant) -> Plan {
        let last = if shortage.level < Level::Critical { Rung::StaleSession } else { Rung::CostlyStream };
        self.plan(shortage, last, now)
    }

    fn plan(&self, shortage: &Shortage, last: Rung, now: Instant) -> Plan {
        let mut steps = self.stale_sessions(now);
        let stale: Vec<SessionKey> = steps
            .iter()
            .filter_map(|step| match step.victim {
                Victim::Session(key) => Some(key),
                Victim::Stream(_) => None,
            })
            .collect();
        if last > Rung::StaleSession {
            steps.extend(self.other_streams(&stale, now));
        }
        let needed = shortage.memory.needed_bytes(shortage.level, &shortage.thresholds);
        let needed_bytes = if needed > 0 { needed.saturating_sub(self.coming_back_bytes()) } else { 0 };
        let ends = ends(&steps, shortage.level, needed_bytes, shortage.ends_max);
        Plan { steps, needed_bytes, ends }
    }

    /// Ends what the plan says is next. Whoever went meanwhile is passed over.
    pub fn shed(&mut self, plan: &Plan, now: Instant) {
        for step in plan.steps.iter().take(plan.ends) {
            let cause = Cause::server(EndReason::MemoryPressure);
            match step.victim {
                Victim::Session(key) => drop(self.end_session(key, cause, now)),
                Victim::Stream(key) => {
                    self.end_stream(key, cause.clone());
                    self.close_if_last(key, cause);
                }
            }
        }
    }

    /// The connection of a stream that is ending is closed behind it when it carries no other: most of the memory is
    /// there. Its session lives on.
    fn close_if_last(&mut self, key: StreamKey, cause: Cause) {
        let Some(id) = self.stream(key).map(|stream| stream.connection) else { return };
        if self.live_streams_of(id) == 0
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.close_when_unused.get_or_insert(cause);
        }
    }

    fn live_streams_of(&self, id: ConnectionId) -> usize {
        self.streams().filter(|stream| stream.connection == id && !stream.scope.is_ending()).count()
    }

    /// Makes the tails fit what they may hold now. Cursors that lose their place are told by a gap.
    pub fn trim_tails(&mut self, now: Instant) {
        let tails_bytes_max = self.tails_bytes_max();
        if self.topics.trim(tails_bytes_max, now) {
            self.rearm();
        }
    }

    fn stale_sessions(&self, now: Instant) -> Vec<Step> {
        let stale_after = self.limits.stale_after();
        let silent = |session: &SessionState| now.saturating_duration_since(session.heard_at);
        let mut stale: Vec<&SessionState> =
            self.sessions().filter(|session| silent(session) > stale_after).collect();
        if stale.is_empty() {
            return Vec::new();
        }
        let age = |session: &SessionState| (session.heard_at, session.key.incarnation);
        sort_by(&mut stale, |one, other| age(one).cmp(&age(other)));
        let carried = self.bytes_of_connections(&stale);
        let step = |session: &&SessionState| {
            let own = || session.streams.iter().filter_map(|key| self.stream(*key));
            let streams_bytes: u64 = own().map(stream_bytes).sum();
            let carried_bytes = carried.get(&session.key).copied().unwrap_or(0);
            Step {
                victim: Victim::Session(session.key),
                principal: session.principal.clone(),
                rung: Rung::StaleSession,
                bytes: bill::SESSION_BYTES + streams_bytes + carried_bytes,
                lag_bytes: own().filter_map(|stream| self.lag_bytes(stream.key)).sum(),
                silent_for: silent(session),
                streams: u32::try_from(session.streams.len()).unwrap_or(u32::MAX),
            }
        };
        stale.iter().map(step).collect()
    }

    /// What the connections hold that close with these sessions; each counts for the first it closes with.
    fn bytes_of_connections(&self, sessions: &[&SessionState]) -> HashMap<SessionKey, u64> {
        let order: HashMap<SessionKey, usize> =
            sessions.iter().enumerate().map(|(at, session)| (session.key, at)).collect();
        let mut bytes = HashMap::new();
        for (id, connection) in &self.connections {
            let closes_with = |at: &usize| {
                let keys = &sessions[*at].streams;
                let own = keys.iter().filter_map(|key| self.stream(*key));
                own.filter(|stream| stream.connection == *id).count() == connection.streams as usize
            };
            let users = connection.sessions.iter().filter_map(|session| order.get(session).copied());
            if let Some(first) = users.filter(closes_with).min() {
                *bytes.entry(sessions[first].key).or_default() += connection_bytes(connection);
            }
        }
        bytes
    }

    /// Streams that are not ending and not of a session that goes before them.
    fn other_streams(&self, stale: &[SessionKey], now: Instant) -> Vec<Step> {
        let live = || self.streams().filter(|stream| !stream.scope.is_ending());
        let stale: HashSet<&SessionKey> = stale.iter().collect();
        let mut live_of: HashMap<ConnectionId, u32> = HashMap::new();
        for stream in live() {
            *live_of.entry(stream.connection).or_default() += 1;
        }
        // What closes with the last stream of a connection.
        let carried_bytes = |stream: &StreamState| {
            let is_last = live_of.get(&stream.connection) == Some(&1);
            let connection = self.connections.get(&stream.connection).filter(|_| is_last);
            connection.map_or(0, connection_bytes)
        };
        let mut steps: Vec<(Step, u64)> = live()
            .filter(|stream| !stale.contains(&stream.session))
            .map(|stream| {
                let lag_bytes = self.lag_bytes(stream.key).unwrap_or(0);
                let heard_at = self.session(stream.session).map_or(now, |session| session.heard_at);
                let step = Step {
                    victim: Victim::Stream(stream.key),
                    principal: stream.principal.clone(),
                    rung: if lag_bytes > 0 { Rung::LaggingStream } else { Rung::CostlyStream },
                    bytes: stream_bytes(stream) + carried_bytes(stream),
                    lag_bytes,
                    silent_for: now.saturating_duration_since(heard_at),
                    streams: 1,
                };
                (step, stream.key.number)
            })
            .collect();
        let rank = |(step, number): &(Step, u64)| {
            (step.rung, Reverse(step.lag_bytes), Reverse(step.bytes), Reverse(*number))
        };
        sort_by(&mut steps, |one, other| rank(one).cmp(&rank(other)));
        steps.into_iter().map(|(step, _)| step).collect()
    }

    /// What streams and connections that are ending will give back, and tails above what they may hold.
    fn coming_back_bytes(&self) -> u64 {
        let streams = self.streams().filter(|stream| stream.scope.is_ending());
        let is_closing = |connection: &&ConnectionState| {
            connection.scope.is_ending() || connection.close_when_unused.is_some()
        };
        let connections = self.connections.values().filter(is_closing);
        let tails_bytes = self.topics.held_bytes().saturating_sub(self.tails_bytes_max());
        streams.map(stream_bytes).sum::<u64>()
            + connections.map(connection_bytes).sum::<u64>()
            + wide(tails_bytes)
    }
}

/// How many of the steps are taken at once: stale sessions from HIGH on; streams at CRITICAL, until what was ended
/// returns what is needed.
fn ends(steps: &[Step], level: Level, needed_bytes: u64, ends_max: u32) -> usize {
    let mut returned_bytes: u64 = 0;
    let taken = steps.iter().take(ends_max as usize).take_while(|step| {
        let is_next = match step.rung {
            Rung::StaleSession => level >= Level::High,
            Rung::LaggingStream | Rung::CostlyStream => {
                level >= Level::Critical && returned_bytes < needed_bytes
            }
        };
        returned_bytes = returned_bytes.saturating_add(step.bytes);
        is_next
    });
    taken.count()
}
