//! The last ends, in memory of their own.
//!
//! Ends come thickest when a crowd of clients leaves. Records that held on to their names would lie scattered over the
//! memory that the crowd had used, and keep it from going back to the system. So names are copied into buffers that
//! were there before.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;

use crate::base::id::SessionKey;
use crate::base::limits::ENDED_KEPT_MAX;
use crate::base::order::sort_by;
use crate::base::principal::Principal;
use crate::base::reason::{Cause, EndReason, Quota};
use crate::hub::registry::{Ended, EndedNode, Token};

/// Room for the texts of one record without growing: names and who asked. Notes are rare.
const TEXTS_BYTES: usize = 64;

/// The last [`ENDED_KEPT_MAX`] ended streams, and as many ended sessions.
#[derive(Debug)]
pub struct EndedRing {
    count: u64,
    streams: Ring,
    sessions: Ring,
    /// The tokens of the sessions, in the order of their records: apart, so that a look for one reads nothing else.
    tokens: VecDeque<Token>,
    /// Hashes of their owners, likewise: every login of a named client looks for its last session.
    owners: VecDeque<u64>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Ring {
    records: VecDeque<Record>,
    /// The texts of all records, in their order.
    texts: VecDeque<u8>,
}

/// An [`Ended`] without its texts.
#[derive(Debug)]
struct Record {
    number: u64,
    node: EndedNode,
    session: SessionKey,
    reason: EndReason,
    quota: Option<Quota>,
    started_at: Instant,
    ended_at: Instant,
    /// Lengths of user, client name, note, and who asked.
    lengths: [usize; 4],
}

impl Default for EndedRing {
    fn default() -> Self {
        Self {
            count: 0,
            streams: Ring::default(),
            sessions: Ring::default(),
            tokens: VecDeque::with_capacity(ENDED_KEPT_MAX),
            owners: VecDeque::with_capacity(ENDED_KEPT_MAX),
            hasher: RandomState::new(),
        }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            records: VecDeque::with_capacity(ENDED_KEPT_MAX),
            texts: VecDeque::with_capacity(ENDED_KEPT_MAX * TEXTS_BYTES),
        }
    }
}

impl Record {
    fn texts_bytes(&self) -> usize {
        self.lengths.iter().sum()
    }
}

impl Ring {
    fn push(&mut self, ended: &Ended) {
        if self.records.len() == ENDED_KEPT_MAX
            && let Some(oldest) = self.records.pop_front()
        {
            self.texts.drain(..oldest.texts_bytes());
        }
        let Ended { principal, cause, .. } = ended;
        let texts = [&principal.user, &principal.client_name, &cause.note, &cause.asked_by];
        for text in texts {
            self.texts.extend(text.as_bytes());
        }
        self.records.push_back(Record {
            number: ended.number,
            node: ended.node.clone(),
            session: ended.session,
            reason: cause.reason,
            quota: cause.quota,
            started_at: ended.started_at,
            ended_at: ended.ended_at,
            lengths: texts.map(|text| text.len()),
        });
    }

    /// Every record with where its texts begin, newest first.
    fn newest_first(&self) -> impl Iterator<Item = (&Record, usize)> {
        self.records.iter().rev().scan(self.texts.len(), |at, record| {
            *at -= record.texts_bytes();
            Some((record, *at))
        })
    }

    fn read(&self, record: &Record, texts_at: usize) -> Ended {
        let mut at = texts_at;
        let [user, client_name, note, asked_by] = record.lengths.map(|bytes| {
            at += bytes;
            self.text(at - bytes..at)
        });
        Ended {
            number: record.number,
            node: record.node.clone(),
            session: record.session,
            principal: Principal { user, client_name },
            cause: Cause { reason: record.reason, note, asked_by, quota: record.quota },
            started_at: record.started_at,
            ended_at: record.ended_at,
        }
    }

    /// The record at this place, the oldest is at 0.
    fn at(&self, place: usize) -> Option<Ended> {
        let record = self.records.get(place)?;
        let texts_at = self.records.range(..place).map(Record::texts_bytes).sum();
        Some(self.read(record, texts_at))
    }

    fn text(&self, range: Range<usize>) -> Arc<str> {
        let bytes: Vec<u8> = self.texts.range(range).copied().collect();
        String::from_utf8_lossy(&bytes).into()
    }

    fn is_of(&self, record: &Record, texts_at: usize, principal: &Principal) -> bool {
        let [user, client_name, ..] = record.lengths;
        let names = principal.user.bytes().chain(principal.client_name.bytes());
        (user, client_name) == (principal.user.len(), principal.client_name.len())
            && self.texts.range(texts_at..texts_at + user + client_name).copied().eq(names)
    }
}

impl EndedRing {
    pub(super) fn push_stream(&mut self, mut ended: Ended) {
        self.count += 1;
        ended.number = self.count;
        self.streams.push(&ended);
    }

    pub(super) fn push_session(&mut self, mut ended: Ended, token: Token) {
        self.count += 1;
        ended.number = self.count;
        self.sessions.push(&ended);
        if self.tokens.len() == ENDED_KEPT_MAX {
            self.tokens.pop_front();
            self.owners.pop_front();
        }
        self.tokens.push_back(token);
        self.owners.push_back(self.hasher.hash_one(&ended.principal));
    }

    /// How many are kept, and the memory they use.
    #[must_use]
    pub fn account(&self) -> (usize, usize) {
        let of = |ring: &Ring| ring.records.len() * size_of::<Record>() + ring.texts.len();
        let tokens_bytes = self.tokens.len() * (size_of::<Token>() + size_of::<u64>());
        let count = self.streams.records.len() + self.sessions.records.len();
        (count, of(&self.streams) + of(&self.sessions) + tokens_bytes)
    }

    /// Newest first.
    #[must_use]
    pub fn newest_first(&self) -> Vec<Ended> {
        let of = |ring: &Ring| ring.newest_first().map(|(record, at)| ring.read(record, at)).collect();
        let mut all: Vec<Ended> = of(&self.streams);
        all.extend::<Vec<Ended>>(of(&self.sessions));
        sort_by(&mut all, |one, other| other.number.cmp(&one.number));
        all
    }

    /// How the session of this token ended. A scan of 16 KiB at most, and only for a call that is refused anyway; an
    /// index would cost every end of a session.
    #[must_use]
    pub fn session_of_token(&self, token: &Token) -> Option<Ended> {
        let place = self.tokens.iter().rposition(|other| other == token)?;
        self.sessions.at(place)
    }

    /// How this session ended.
    #[must_use]
    pub fn session(&self, key: SessionKey) -> Option<Ended> {
        let place = self.sessions.records.iter().rposition(|record| record.session == key)?;
        self.sessions.at(place)
    }

    /// How the last session of this user and client name ended.
    #[must_use]
    pub fn last_session_of(&self, principal: &Principal) -> Option<Ended> {
        if principal.client_name.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(principal);
        if !self.owners.contains(&hash) {
            return None;
        }
        let ring = &self.sessions;
        let hashed = ring.newest_first().zip(self.owners.iter().rev());
        let mut of_hash = hashed.filter(|(_, owner)| **owner == hash).map(|(found, _)| found);
        let (record, at) = of_hash.find(|(record, at)| ring.is_of(record, *at, principal))?;
        Some(ring.read(record, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::NOTE_BYTES_MAX;

    fn ended(number: u64, user: &str, client_name: &str, note: &str) -> Ended {
        let now = Instant::now();
        Ended {
            number,
            node: EndedNode::Session,
            session: SessionKey { slot: 0, incarnation: number },
            principal: Principal::new(user, client_name).unwrap(),
            cause: Cause::server(EndReason::AdminCancelled).with_note(note),
            started_at: now,
            ended_at: now,
        }
    }

    /// The token of the session with that number.
    fn token(number: u64) -> Token {
        Token(std::array::from_fn(|at| number.to_le_bytes().get(at).copied().unwrap_or(171)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_ends_are_read_back_as_they_were_whatever_the_length_of_their_texts() {
        let mut ring = EndedRing::default();
        let mut pushed = Vec::new();
        for number in 1..=2000 {
            let note = "é".repeat(number % (NOTE_BYTES_MAX / 2));
            let one = ended(number as u64, &format!("user{number}"), "phone", &note);
            pushed.push(one.clone());
            ring.push_session(one, token(number as u64));
        }
        let forgotten = pushed[pushed.len() - ENDED_KEPT_MAX - 1].clone();
        let kept: Vec<Ended> = pushed.into_iter().rev().take(ENDED_KEPT_MAX).collect();
        assert_eq!(ring.newest_first(), kept);
        for one in kept {
            assert_eq!(ring.session_of_token(&token(one.number)).as_ref(), Some(&one));
            assert_eq!(ring.session(one.session), Some(one));
        }
        assert_eq!(ring.session_of_token(&token(forgotten.number)), None);
        assert_eq!(ring.session(forgotten.session), None);
        assert_eq!(ring.tokens.len(), ENDED_KEPT_MAX);
        let texts_bytes: usize = ring.sessions.records.iter().map(Record::texts_bytes).sum();
        assert_eq!(ring.sessions.texts.len(), texts_bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_session_is_found_by_both_names() {
        let mut ring = EndedRing::default();
        // Together the same bytes.
        for (number, (user, client_name)) in (1..).zip([("ab", "c"), ("a", "bc"), ("ab", "c"), ("ab", "")]) {
            ring.push_session(ended(number, user, client_name, ""), token(number));
        }
        let number = |user, client_name| {
            ring.last_session_of(&Principal::new(user, client_name).unwrap()).map(|ended| ended.number)
        };
        assert_eq!((number("ab", "c"), number("a", "bc")), (Some(3), Some(2)));
        assert_eq!((number("ab", ""), number("abc", "x")), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_ring_holds_nothing_that_was_allocated_while_it_filled() {
        let mut ring = EndedRing::default();
        let buffers = |ring: &EndedRing| {
            let Ring { records, texts } = &ring.sessions;
            (
                [records.capacity(), texts.capacity(), ring.tokens.capacity(), ring.owners.capacity()],
                records.as_slices().0.as_ptr(),
                texts.as_slices().0.as_ptr(),
                ring.tokens.as_slices().0.as_ptr(),
            )
        };
        ring.push_session(ended(1, "anna", "phone", ""), token(1));
        let before = buffers(&ring);
        let mut names = Vec::new();
        for number in 2..=(ENDED_KEPT_MAX as u64) {
            let one = ended(number, "anna", "phone", "");
            names.push(Arc::downgrade(&one.principal.user));
            ring.push_session(one, token(number));
        }
        assert_eq!(buffers(&ring), before);
        assert!(names.iter().all(|name| name.upgrade().is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_counted_and_not_shown() {
        let mut ring = EndedRing::default();
        ring.push_session(ended(1, "anna", "phone", ""), token(1));
        let shown = format!("{ring:?}");
        assert!(shown.contains("Token(secret)") && !shown.contains("171, 171"), "{shown}");
        let (count, bytes) = ring.account();
        assert_eq!((count, bytes), (1, size_of::<Record>() + "annaphoneserver".len() + 32 + 8));
    }
}
