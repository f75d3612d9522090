//! A naive model of a script: what each stream must have seen, and how each node must have ended.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::crowd::payload;
use super::script::{Caused, DEDUP_IDS_MAX, DEDUP_WINDOW, Stage, Stream};
use crate::base::reason::EndReason;
use crate::client::Item;
use crate::hub::registry::EndedNode;
use crate::wire::v1::Event;

/// Topic and payload by sequence: the one order.
type Order = BTreeMap<u64, (String, Bytes)>;
/// Causes this near to each other may come in either order.
const TIE: Duration = Duration::from_millis(20);

impl Stage {
    /// The order of events: what the witness saw, which must be every sequence, and what publishers were told.
    pub(super) fn order(&self) -> Order {
        let events = self.witness.tape.all_events();
        let order: Order =
            events.into_iter().map(|event| (event.sequence, (event.topic, event.payload))).collect();
        let last = self.house.core.hub().last_sequence();
        assert!(order.keys().copied().eq(1..=last), "the witness missed something of {last}");
        assert_eq!(self.witness.tape.gaps(), []);
        let lines = self.streams.iter().map(|stream| (&stream.line, &stream.asked));
        for (line, asked) in lines.chain([(&self.speaker, &self.asked)]) {
            let receipts = line.tape.receipts();
            let ids: Vec<u64> = receipts.iter().map(|receipt| receipt.message_id.parse().unwrap()).collect();
            assert!(asked.starts_with(&ids), "receipts come in order and once: {ids:?} of {asked:?}");
            for (receipt, id) in receipts.into_iter().zip(ids) {
                let sequence = receipt.outcome.unwrap().sequence;
                assert_eq!(order[&sequence].1, payload(id), "receipt {id}");
            }
        }
        self.check_duplicates();
        order
    }

    /// What was sent again while its id was remembered was not accepted again; later it was.
    fn check_duplicates(&self) {
        let items = self.witness.tape.items();
        let accepted: Vec<(Instant, Event)> = items
            .into_iter()
            .filter_map(|(at, item)| if let Item::Event(event) = item { Some((at, event)) } else { None })
            .collect();
        let pushed_out = |from: &Event, until: Instant| {
            let newer = |(at, event): &&(Instant, Event)| {
                event.topic == from.topic && event.sequence > from.sequence && *at < until
            };
            accepted.iter().filter(newer).count() >= DEDUP_IDS_MAX as usize
        };
        let mut newest: BTreeMap<(&str, &str), &(Instant, Event)> = BTreeMap::new();
        for this in &accepted {
            let (at, event) = this;
            let Some((before, first)) = newest.insert((&event.sender, &event.message_id), this) else {
                continue;
            };
            let is_over = *at >= *before + DEDUP_WINDOW;
            assert!(is_over || pushed_out(first, *at + TIE), "{event:?} was accepted twice: {first:?}");
        }
        // Receipts of the talker come at once.
        for (at, item) in self.speaker.tape.items() {
            let Item::Receipt(receipt) = item else { continue };
            let sequence = receipt.outcome.unwrap().sequence;
            let (accepted_at, event) = &accepted[usize::try_from(sequence - 1).unwrap()];
            assert_eq!((&*event.sender, &event.message_id), ("talker", &receipt.message_id));
            let is_over = at >= *accepted_at + DEDUP_WINDOW + TIE;
            assert!(
                !is_over && !pushed_out(event, at - TIE),
                "{event:?} was forgotten, but not accepted anew"
            );
        }
    }

    /// No stream lost, doubled or changed an event without a word.
    pub(super) fn check_events(&self, order: &Order) {
        for stream in &self.streams {
            let through = covered(stream, order);
            let is_live = stream.line.tape.is_live() && !stream.is_deaf;
            let owed = if is_live { Some(u64::MAX) } else { stream.owed_through };
            for topic in stream.follows.iter().filter(|_| owed.is_some()) {
                let of_topic = |(sequence, (name, _)): (&u64, &(String, Bytes))| {
                    (name == topic && Some(*sequence) <= owed).then_some(*sequence)
                };
                let newest = order.iter().filter_map(of_topic).next_back().unwrap_or(0);
                let reached = through.get(topic).copied();
                assert!(
                    reached >= Some(newest),
                    "stream/{} of {topic}: {reached:?}, not {newest}: {:?}",
                    stream.number,
                    stream.line.tape
                );
            }
        }
    }

    /// Each stream and each session has one record, with the first cause.
    pub(super) fn check_ends(&self) {
        let lease = self.house.core.limits().lease;
        for stream in &self.streams {
            let record = self.house.stream_end(stream.number);
            let login = self.logins.iter().find(|login| login.id == stream.session).unwrap();
            let lease_end = Some((login.heard_at + lease, EndReason::SessionExpired));
            let deadline = stream.deadline_at.map(|at| (at, EndReason::DeadlineExceeded));
            let reason = record.cause.reason;
            let slow = reason == EndReason::SlowConsumer && stream.has_stalled;
            let idle = self.idle_at(stream.heard_at).map(|at| (at, EndReason::IdleTimeout));
            let causes = [stream.caused, lease_end, deadline, idle];
            assert!(slow || is_first(reason, causes), "{record:#?} but {causes:?}");
            if !stream.line.tape.is_live()
                && stream.line.tape.end().details.is_some()
                && reason != EndReason::ConnectionLost
            {
                assert_eq!(stream.line.tape.reason(), Some(reason), "told as recorded");
            }
        }
        for login in &self.logins {
            let record = self.house.session_end(&login.id);
            let causes =
                [login.caused, Some((login.heard_at + lease, EndReason::SessionExpired)), None, None];
            assert!(is_first(record.cause.reason, causes), "{record:#?} but {causes:?}");
        }
        let records = self.house.ended();
        let streams = records.iter().filter(|record| record.node != EndedNode::Session).count();
        // The talker has two of its own.
        assert!(streams - self.streams.len() <= 2, "a stream nobody opened was recorded");
    }
}

fn is_first(reason: EndReason, causes: [Caused; 4]) -> bool {
    let first: Option<Instant> = causes.iter().flatten().map(|(at, _)| *at).min();
    let mut causes = causes.into_iter().flatten();
    causes.any(|(at, caused)| caused == reason && Some(at) <= first.map(|first| first + TIE))
}

/// Walks through a tape: per topic, through which sequence everything was delivered or told as a gap.
fn covered(stream: &Stream, order: &Order) -> BTreeMap<String, u64> {
    let mut through: BTreeMap<String, u64> = BTreeMap::new();
    for (_, item) in stream.line.tape.items() {
        match item {
            Item::Subscribed(live) => {
                through.insert(live.topic, live.position.unwrap().sequence);
            }
            Item::Gap(gap) => {
                let at = through.get_mut(&gap.topic).expect("a gap of a topic it follows");
                assert!(gap.from_sequence <= *at + 1, "a hole before {gap:?}, at {at}");
                *at = gap.to_sequence.max(*at);
            }
            Item::Event(event) => {
                let at = through.get_mut(&event.topic).expect("an event of a topic it follows");
                assert!(event.sequence > *at, "{} again, at {at}", event.sequence);
                let (topic, payload) = &order[&event.sequence];
                assert_eq!((topic, payload), (&event.topic, &event.payload));
                let lost = order.range(*at + 1..event.sequence).find(|(_, (name, _))| *name == event.topic);
                assert_eq!(lost, None, "stream/{} lost it without a word", stream.number);
                *at = event.sequence;
            }
            Item::Receipt(_)
            | Item::Draining { .. }
            | Item::DeadlineNear { .. }
            | Item::HeartbeatAck { .. }
            | Item::Refused { .. } => {}
        }
    }
    through
}
