//! Tests of the load's own parts.

use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;

use crate::load::error::LoadError;
use crate::load::framing::{Deframer, framed, server_frame};
use crate::load::latencies::Latencies;
use crate::load::message::{Checker, Checks, Item, TOPIC, Template, number, payload};
use crate::load::progress::Progress;
use crate::load::schedule::Schedule;
use crate::wire::v1;

const PAYLOAD_BYTES: usize = 100;

fn event(number: u64) -> v1::Event {
    v1::Event {
        topic: TOPIC.to_owned(),
        sequence: number + 1,
        sender: "publisher".to_owned(),
        published_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        payload: payload(number, PAYLOAD_BYTES).into(),
        ..Default::default()
    }
}

fn subscribed() -> v1::Notice {
    let subscribed = v1::Subscribed { topic: TOPIC.to_owned(), recovered: true, ..Default::default() };
    v1::Notice { kind: Some(v1::notice::Kind::Subscribed(subscribed)) }
}

fn items(frame: &v1::ServerFrame) -> Result<Vec<String>, LoadError> {
    let mut items = Vec::new();
    server_frame(&frame.encode_to_vec(), &mut |item| {
        items.push(match item {
            Item::Payload(bytes) => format!("payload {}", bytes.len()),
            Item::Ready => "ready".to_owned(),
            Item::Ping => "ping".to_owned(),
            Item::Receipt => "receipt".to_owned(),
        });
        Ok(())
    })?;
    Ok(items)
}

#[test]
fn a_body_cut_anywhere_gives_the_same_messages() {
    let messages: Vec<Vec<u8>> = [0, 1, 5, 300].map(|bytes| vec![7; bytes]).to_vec();
    let body: Vec<u8> = messages.iter().flat_map(|message| framed(message).unwrap()).collect();
    for chunk_bytes in 1..=body.len() {
        let (mut deframer, mut seen) = (Deframer::default(), Vec::new());
        for chunk in body.chunks(chunk_bytes) {
            let mut each = |message: &[u8]| {
                seen.push(message.to_vec());
                Ok(())
            };
            deframer.feed(chunk, &mut each).unwrap();
        }
        assert_eq!(seen, messages, "in chunks of {chunk_bytes}");
    }
}

#[test]
fn compressed_messages_are_refused() {
    assert!(Deframer::default().feed(&[1, 0, 0, 0, 0], &mut |_| Ok(())).is_err());
}

#[test]
fn a_server_frame_is_read_as_prost_wrote_it() {
    let frame = v1::ServerFrame {
        events: vec![event(0), event(1)],
        receipts: vec![v1::Receipt { position: Some(v1::Position::default()), ..Default::default() }],
        notices: vec![subscribed()],
        ..Default::default()
    };
    assert_eq!(items(&frame).unwrap(), ["payload 100", "payload 100", "receipt", "ready"]);
}

#[test]
fn gaps_refusals_and_drains_make_a_measurement_void() {
    let gap = v1::ServerFrame { gaps: vec![v1::Gap::default()], ..Default::default() };
    let error = Some(tonic_types::pb::Status::default());
    let refused =
        v1::ServerFrame { receipts: vec![v1::Receipt { error, ..Default::default() }], ..Default::default() };
    let kind = Some(v1::notice::Kind::Draining(v1::Draining::default()));
    let draining = v1::ServerFrame { notices: vec![v1::Notice { kind }], ..Default::default() };
    let kind = Some(v1::notice::Kind::Refused(v1::SubscriptionRefused::default()));
    let unsubscribed = v1::ServerFrame { notices: vec![v1::Notice { kind }], ..Default::default() };
    for frame in [gap, refused, draining, unsubscribed] {
        assert!(items(&frame).is_err(), "{frame:?}");
    }
}

#[test]
fn a_frame_cut_short_is_an_error() {
    let frame = v1::ServerFrame { events: vec![event(0)], ..Default::default() }.encode_to_vec();
    for bytes in 1..frame.len() {
        assert!(server_frame(&frame[..bytes], &mut |_| Ok(())).is_err(), "{bytes} bytes");
    }
}

#[test]
fn a_template_changes_the_number_only() {
    let publish = v1::Publish {
        topic: TOPIC.to_owned(),
        payload: payload(0, PAYLOAD_BYTES).into(),
        ..Default::default()
    };
    let template = Template::new(publish.encode_to_vec(), PAYLOAD_BYTES, 0).unwrap();
    let mut out = b"before".to_vec();
    template.append(&mut out, 258);
    let decoded = v1::Publish::decode(&out[6..]).unwrap();
    assert_eq!(decoded, v1::Publish { payload: payload(258, PAYLOAD_BYTES).into(), ..publish });
    assert!(Template::new(vec![0; PAYLOAD_BYTES], PAYLOAD_BYTES, 0).is_err(), "not a payload");
}

#[test]
fn the_checker_takes_only_what_is_due() {
    let mut checker = Checker::new(PAYLOAD_BYTES);
    checker.accept(&payload(0, PAYLOAD_BYTES)).unwrap();
    assert!(checker.accept(&payload(0, PAYLOAD_BYTES)).is_err(), "twice");
    assert!(checker.accept(&payload(2, PAYLOAD_BYTES)).is_err(), "one is missing");
    let mut spoiled = payload(1, PAYLOAD_BYTES);
    spoiled[PAYLOAD_BYTES - 1] ^= 1;
    assert!(checker.accept(&spoiled).is_err(), "other content");
    checker.accept(&payload(1, PAYLOAD_BYTES)).unwrap();
    assert_eq!(checker.next, 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_in_flight_until_the_last_subscriber_has_it() {
    let progress = Progress::new(3);
    for (index, count, low) in [(0, 5, 0), (1, 2, 0), (1, 4, 0), (2, 3, 3), (2, 9, 4), (1, 9, 5), (0, 9, 9)] {
        progress.advance(index, count);
        assert_eq!(progress.low(), low, "subscriber {index} at {count}");
    }
    progress.receipts(9);
    assert_eq!(progress.receipts_seen(), 9);
    progress.changed().await.unwrap();
    assert!(progress.changed().await.is_err(), "nothing moves");
    progress.fail("first".to_owned());
    progress.fail("second".to_owned());
    assert_eq!(progress.changed().await.unwrap_err().to_string(), "first");
}

#[test]
fn messages_of_several_publishers_come_in_any_order_among_them_and_in_theirs_each() {
    let mut checks = Checks::new(2, PAYLOAD_BYTES);
    let message = |publisher, count| payload(number(publisher, count), PAYLOAD_BYTES);
    for (publisher, count) in [(1, 0), (0, 0), (1, 1), (1, 2), (0, 1)] {
        assert_eq!(checks.accept(&message(publisher, count)).unwrap(), count);
    }
    assert_eq!(checks.counts().collect::<Vec<_>>(), [2, 3]);
    for (publisher, count, word) in [(1, 2, "again"), (0, 3, "too early"), (2, 0, "other content")] {
        let error = checks.accept(&message(publisher, count)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!(checks.accept(b"").is_err());
    assert_eq!(checks.counts().collect::<Vec<_>>(), [2, 3], "nothing of it counted");
}

#[tokio::test(start_paused = true)]
async fn the_next_message_is_the_first_that_is_not_due_whatever_the_rate() {
    let begin = Instant::now();
    for per_second in [1, 3, 7, 1000, 44_100, 999_999] {
        let schedule = Schedule::new(begin, 5, per_second);
        assert_eq!((schedule.intended(5), schedule.next(begin)), (begin, 6));
        for after_us in [1, 999, 333_334, 1_000_000, 86_400_000_007] {
            let now = begin + Duration::from_micros(after_us);
            let next = schedule.next(now);
            assert!(schedule.intended(next - 1) <= now, "{per_second}/s after {after_us} us");
            // Times are whole nanoseconds: one that is cut off may come a nanosecond before its time.
            assert!(
                schedule.intended(next) + Duration::from_nanos(1) > now,
                "{per_second}/s after {after_us} us"
            );
        }
    }
    let schedule = Schedule::new(begin + Duration::from_secs(1), 5, 10);
    assert_eq!(schedule.next(begin), 5, "nothing is due before the beginning");
    assert_eq!(schedule.intended(0), schedule.begin());
}

#[test]
fn quantiles_are_right_to_a_thousandth_and_beyond_the_table_is_its_end() {
    let mut latencies = Latencies::default();
    (1..=10_000).for_each(|micros| latencies.record(Duration::from_micros(micros)));
    let quantiles = latencies.quantiles();
    for (found, micros) in
        [(quantiles.p50, 5000), (quantiles.p99, 9900), (quantiles.p999, 9990), (quantiles.max, 10_000)]
    {
        let expected = Duration::from_micros(micros);
        assert!(found.abs_diff(expected) <= expected / 1000, "{found:?} and not {expected:?}");
    }
    latencies.record(Duration::from_secs(3600));
    let longest = latencies.quantile(1.0);
    assert!(longest >= Duration::from_secs(60) && longest < Duration::from_secs(70), "{longest:?}");
    assert_eq!(latencies.count(), 10_001);
    latencies.clear();
    assert_eq!((latencies.count(), latencies.quantile(0.99)), (0, Duration::ZERO));
}
