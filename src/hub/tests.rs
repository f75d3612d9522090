//! What the whole-program tests ask of the hub's insides.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::event::Overflow;
use crate::base::limits::{CONTROL_BYTES_MAX, EVENT_OVERHEAD_BYTES_MAX};
use crate::hub::Hub;
use crate::hub::registry::{EndedNode, StreamState};
use crate::hub::topics::TopicState;

impl Hub {
    fn all_topics(&self) -> impl Iterator<Item = &TopicState> {
        (0..).filter_map(|slot| self.topics.get(slot)).take(self.topics.len())
    }

    /// What is left of sessions and streams beside their own entries: tokens, leases, cursors that wait or count,
    /// message ids.
    pub(crate) fn traces(&self) -> [usize; 5] {
        let waiting = self.all_topics().map(|topic| topic.waiting.len()).sum();
        let counted = self.all_topics().map(|topic| topic.cursors as usize).sum();
        let deadlines = &self.deadlines;
        let quiet =
            [deadlines.leases.len(), deadlines.streams.len(), deadlines.logins.len(), deadlines.unused.len()];
        [self.tokens.len(), quiet.iter().sum(), waiting, counted, self.dedup.len()]
    }

    /// What the accounts count as they go, counted anew: subscriptions, control buffers, unsent bytes, tails, names.
    pub(crate) fn recounted(&self) -> [u64; 5] {
        let control: usize = self.streams().map(|stream| stream.control.capacity()).sum();
        let unsent = self.connections.values().map(|connection| connection.unsent_bytes.get()).sum();
        let tails: usize = self.all_topics().map(|topic| topic.tail.held_bytes()).sum();
        let names: usize = self.all_topics().map(|topic| topic.name.as_str().len()).sum();
        [self.recount_subscriptions() as u64, control as u64, unsent, tails as u64, names as u64]
    }

    fn recount_subscriptions(&self) -> usize {
        self.streams().map(|stream| stream.cursors.iter().flatten().count()).sum()
    }

    /// The same as the accounts have it.
    pub(crate) fn counted(&self) -> [u64; 5] {
        let unsent = self.unsent_bytes.get();
        let (tails, names) = (self.topics.held_bytes() as u64, self.topics.name_bytes() as u64);
        [self.subscriptions as u64, self.control_bytes as u64, unsent, tails, names]
    }

    /// References to cursors that the topics hold, live or not.
    pub(crate) fn cursor_references(&self) -> usize {
        self.all_topics().map(|topic| topic.waiting.len() + topic.behind.len()).sum()
    }

    /// Everything fits together and keeps to its bounds, and nothing is left of what has ended. Only for when every
    /// stream has run and the last publish came alone.
    pub(crate) fn assert_sound(&self) {
        self.assert_sessions();
        self.assert_connections();
        self.assert_ended_once();
        self.assert_topics();
        for stream in self.streams() {
            self.assert_stream(stream);
        }
        self.assert_tails();
        self.dedup.assert_sound();
        let cursors: u32 = self.all_topics().map(|topic| topic.cursors).sum();
        assert_eq!(cursors as usize, self.recount_subscriptions(), "topics count their cursors");
    }

    fn assert_sessions(&self) {
        let limits = &self.limits;
        assert!(self.sessions.len() <= limits.sessions_max as usize);
        assert_eq!(self.tokens.len(), self.sessions.len(), "tokens");
        assert_eq!(self.deadlines.leases.len(), self.sessions.len(), "leases");
        assert_eq!(self.sessions_of_users.len(), self.sessions.len(), "of users");
        for session in self.sessions() {
            assert!(self.sessions_of_users.contains(&(session.principal.user.clone(), session.key)));
            assert_eq!(self.tokens.get(&session.token), Some(&session.key));
            assert_eq!(self.ended.session_of_token(&session.token), None, "{} is live", session.key);
            assert!(self.deadlines.leases.contains(session.lease_entry, session.key));
            assert!(!session.scope.is_ending(), "{} has ended", session.key);
            assert!(session.streams.len() <= limits.streams_per_session_max as usize);
            let own = self.streams().filter(|stream| stream.session == session.key);
            let own: BTreeSet<_> = own.map(|stream| stream.key).collect();
            assert_eq!(own, session.streams.iter().copied().collect(), "streams of {}", session.key);
            for id in &session.connections {
                assert!(self.connections[id].sessions.contains(&session.key), "{} uses {id:?}", session.key);
            }
        }
    }

    fn assert_connections(&self) {
        for (id, connection) in &self.connections {
            let own = self.streams().filter(|stream| stream.connection == *id).count();
            assert_eq!(connection.streams as usize, own, "streams of {id:?}");
            assert!(own <= self.limits.streams_per_connection_max as usize);
            for key in &connection.sessions {
                let session = self.session(*key);
                assert!(session.is_some_and(|session| session.connections.contains(id)), "{key} of {id:?}");
            }
            let entry = connection.unused_entry;
            assert!(entry.is_none_or(|since| self.deadlines.unused.contains(since, *id)));
        }
        let unused = self.connections.values().filter(|connection| connection.unused_entry.is_some()).count();
        assert_eq!(self.deadlines.unused.len(), unused, "unused connections");
        assert!(self.deadlines.logins.len() <= self.connections.len(), "connections without a login");
    }

    /// Every stream and session there ever was is live or has one record.
    fn assert_ended_once(&self) {
        let mut streams: Vec<u64> = self.streams().map(|stream| stream.key.number).collect();
        let mut sessions: Vec<u64> = self.sessions().map(|session| session.key.incarnation).collect();
        for ended in self.ended.newest_first() {
            match ended.node {
                EndedNode::Session => sessions.push(ended.session.incarnation),
                EndedNode::Stream { key, .. } => streams.push(key.number),
            }
        }
        streams.sort_unstable();
        sessions.sort_unstable();
        assert!(streams.iter().copied().eq(1..=self.stream_numbers), "streams: {streams:?}");
        assert!(sessions.iter().copied().eq(1..=self.session_incarnations), "sessions: {sessions:?}");
    }

    fn assert_topics(&self) {
        for topic in self.all_topics() {
            for (at, reference) in topic.waiting.iter().enumerate() {
                let stream = &self.streams[reference.stream as usize];
                let cursor = stream.cursors[usize::from(reference.index)].as_ref().expect("one that waits");
                assert_eq!((cursor.number, &cursor.name), (reference.number, &topic.name));
                assert_eq!(cursor.waiting_at.map(|at| at as usize), Some(at));
            }
            assert!(topic.behind.len() <= 32 + 2 * topic.cursors as usize, "references to cursors");
            let mut watched: BTreeMap<u64, u32> = BTreeMap::new();
            for std::cmp::Reverse((_, reference)) in &topic.behind {
                *watched.entry(reference.number).or_default() += 1;
            }
            assert!(watched.values().all(|count| *count == 1), "watched twice in {}", topic.name);
        }
    }

    /// The tail published to last never gives way; its block may be half empty.
    fn assert_tails(&self) {
        let held_bytes_max = self.tails_bytes_max();
        let live_bytes_max = held_bytes_max.min(self.limits.tail_bytes_max);
        let held: Vec<usize> = self.all_topics().map(|topic| topic.tail.held_bytes()).collect();
        let of_all: usize = held.iter().sum();
        let is_only_one = held.contains(&of_all);
        assert!(of_all <= held_bytes_max || is_only_one, "{held:?}, more than {held_bytes_max}");
        let of_one = 2 * (live_bytes_max + EVENT_OVERHEAD_BYTES_MAX);
        assert!(held.iter().all(|held_bytes| *held_bytes <= of_one), "{held:?}, one more than {of_one}");
    }

    fn assert_stream(&self, stream: &StreamState) {
        let is_ending = stream.scope.is_ending();
        assert!(is_ending || self.session(stream.session).is_some(), "{} has no session", stream.key);
        assert!(is_ending || self.deadlines.streams.contains(stream.quiet_entry, stream.key));
        assert!(stream.control.len() <= CONTROL_BYTES_MAX, "{} bytes", stream.control.len());
        let live = stream.cursors.iter().enumerate();
        for (index, cursor) in live.filter_map(|(index, cursor)| Some((index, cursor.as_ref()?))) {
            let ready = stream.ready.iter().filter(|at| usize::from(**at) == index).count();
            let waiting = usize::from(cursor.waiting_at.is_some());
            assert_eq!(ready + waiting, 1, "{} of {} waits or has something", cursor.name, stream.key);
            let topic = self.topics.get(cursor.topic).expect("a topic that is followed");
            assert_eq!(topic.name, cursor.name);
            let is_watched = topic.behind.iter().any(|reference| reference.0.1.number == cursor.number);
            assert!(is_watched || !cursor.watched || is_ending);
            let lag_bytes = topic.tail.end() - cursor.lag_offset(&topic.tail);
            let is_slow = lag_bytes > self.limits.lag_bytes_max as u64;
            let is_bound = cursor.overflow == Overflow::Disconnect && !is_ending;
            assert!(!(is_slow && is_bound), "{} lies {lag_bytes} behind {}", stream.key, cursor.name);
        }
    }
}
