//! Tests of the benchmark's own parts; a target of its own, because the benchmark has no test harness.

mod http2;
mod kind;
mod marks;
mod mqtt;
mod nats;
mod report;

use std::error::Error;
use std::io;

use prost::Message as _;
use streamward::load::framing::framed;
use streamward::load::message::{Item, TOPIC, Template, payload};

use streamward::wire::v1;
use tokio::io::AsyncWriteExt as _;

/// Any failure of a benchmark; its text says what went wrong.
pub(crate) type BenchError = Box<dyn Error>;

use crate::kind::Kind;
use crate::report::{CPU_US, Outcome, P99_RATIO, Sample, Spread};

const PAYLOAD_BYTES: usize = 100;
const CASE: &str = "50 subscribers, 1 in flight";

#[test]
fn mqtt_packets_cut_anywhere_are_waited_for() {
    let publish = mqtt::publish(PAYLOAD_BYTES).unwrap();
    let bytes = [&[0x20, 2, 0, 0, 0x90, 3, 0, 1, 0], &publish[..], &mqtt::publish(1000).unwrap()].concat();
    let mut seen = Vec::new();
    let mut at = 0;
    for end in 0..=bytes.len() {
        at += mqtt::parse(&bytes[at..end], &mut |item| {
            seen.push(if let Item::Payload(payload) = item { payload.len() } else { 0 });
            Ok(())
        })
        .unwrap();
    }
    assert_eq!((at, seen), (bytes.len(), vec![0, 100, 1000]));
    assert!(mqtt::parse(&[0x20, 2, 0, 5], &mut |_| Ok(())).is_err(), "CONNACK: not authorized");
    assert!(mqtt::parse(&[0x90, 3, 0, 1, 0x80], &mut |_| Ok(())).is_err(), "SUBACK: failure");
}

#[test]
fn mqtt_openings_are_as_the_standard_writes_them() {
    let connect = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'a'];
    let subscribe = [&[0x82, 15, 0, 1, 0, 10], TOPIC.as_bytes(), &[0]].concat();
    assert_eq!(mqtt::subscriber_opening("a").unwrap(), [&connect[..], &subscribe].concat());
    assert_eq!(mqtt::publisher_opening("a").unwrap(), [&connect[..], &[0xc0, 0]].concat());
}

#[test]
fn nats_operations_cut_anywhere_are_waited_for() {
    let message = [b"MSG room.bench 1 100\r\n", &payload(10, PAYLOAD_BYTES)[..], b"\r\n"].concat();
    let bytes = [b"INFO {}\r\nPING\r\n+OK\r\n", &message[..], b"PONG\r\n"].concat();
    let mut seen = Vec::new();
    let mut at = 0;
    for end in 0..=bytes.len() {
        at += nats::parse(&bytes[at..end], &mut |item| {
            seen.push(format!("{item:?}").chars().take(5).collect::<String>());
            Ok(())
        })
        .unwrap();
    }
    assert_eq!((at, seen.join(" ")), (bytes.len(), "Ping Paylo Ready".to_owned()));
    assert!(nats::parse(b"-ERR 'Slow Consumer'\r\n", &mut |_| Ok(())).is_err());
}

#[test]
fn nats_openings_end_with_a_ping() {
    assert!(nats::subscriber_opening().ends_with(b"SUB room.bench 1\r\nPING\r\n"));
    assert!(nats::publisher_opening().ends_with(b"}\r\nPING\r\n"));
    assert_eq!(nats::PONG, b"PONG\r\n");
    Template::new(nats::publish(PAYLOAD_BYTES), PAYLOAD_BYTES, nats::AFTER_PAYLOAD_BYTES).unwrap();
}

/// One frame on the followed stream's connection.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A message of one event.
fn event_message(number: u64) -> Vec<u8> {
    let event = v1::Event { payload: payload(number, PAYLOAD_BYTES).into(), ..Default::default() };
    framed(&v1::ServerFrame { events: vec![event], ..Default::default() }.encode_to_vec())
        .expect("a short message")
}

fn heard(reader: &mut http2::Reader) -> Result<Vec<Vec<u8>>, BenchError> {
    let mut heard = Vec::new();
    reader.items(&mut |item| {
        if let Item::Payload(payload) = item {
            heard.push(payload.to_vec());
        }
        Ok(())
    })?;
    Ok(heard)
}

#[test]
fn http2_frames_cut_anywhere_give_the_same_events() {
    let messages: Vec<u8> = (0..5).flat_map(event_message).collect();
    let (first, second) = messages.split_at(200);
    let padded = [&[3], second, &[0; 3]].concat();
    let bytes = [
        frame(1, 4, 3, b"any head"),
        frame(0, 0, 3, first),
        frame(8, 0, 0, &[0, 0, 0, 9]),
        frame(0, 0, 1, b"another stream's"),
        frame(0, 8, 3, &padded),
    ]
    .concat();
    let expected: Vec<Vec<u8>> = (0..5).map(|number| payload(number, PAYLOAD_BYTES)).collect();
    for chunk_bytes in [1, 2, 9, 10, 64, bytes.len()] {
        let (mut reader, mut all) = (http2::Reader::new(), Vec::new());
        for chunk in bytes.chunks(chunk_bytes) {
            reader.buffer.extend_from_slice(chunk);
            all.extend(heard(&mut reader).unwrap());
        }
        assert_eq!(all, expected, "in chunks of {chunk_bytes}");
    }
}

#[test]
fn http2_settings_and_pings_are_answered_and_windows_given_back() {
    let mut reader = http2::Reader::new();
    reader.buffer.extend_from_slice(&[frame(4, 0, 0, &[]), frame(6, 0, 0, b"12345678")].concat());
    heard(&mut reader).unwrap();
    assert_eq!(reader.replies, [frame(4, 1, 0, &[]), frame(6, 1, 0, b"12345678")].concat());
    reader.replies.clear();
    reader.buffer.extend_from_slice(&[frame(4, 1, 0, &[]), frame(6, 1, 0, b"12345678")].concat());
    heard(&mut reader).unwrap();
    assert!(reader.replies.is_empty(), "answers are not answered");
    let data = frame(0, 0, 3, &event_message(0).repeat(100));
    let mut taken = 0_u32;
    while reader.replies.is_empty() {
        reader.buffer.extend_from_slice(&data);
        heard(&mut reader).unwrap();
        taken += u32::try_from(data.len() - 9).unwrap();
    }
    assert!((2 << 20..3 << 20).contains(&taken), "{taken}");
    let update = |stream| frame(8, 0, stream, &taken.to_be_bytes());
    assert_eq!(reader.replies, [update(0), update(3)].concat());
}

#[test]
fn the_end_of_a_call_or_connection_makes_a_measurement_void() {
    for bytes in [frame(1, 5, 3, b"trailers"), frame(3, 0, 3, &[0; 4]), frame(7, 0, 0, &[0; 8])] {
        let mut reader = http2::Reader::new();
        reader.buffer.extend_from_slice(&bytes);
        assert!(heard(&mut reader).is_err(), "{bytes:?}");
    }
    let mut reader = http2::Reader::new();
    reader.buffer.extend_from_slice(&frame(1, 5, 1, b"the login's trailers"));
    assert!(heard(&mut reader).is_ok(), "another stream's end is no fault");
}

#[tokio::test]
async fn http2_openings_are_as_h2_reads_them() {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let opening = [
        http2::opening("10.0.0.1:50051", "ada").unwrap(),
        http2::subscribing("10.0.0.1:50051", "secret").unwrap(),
    ];
    near.write_all(&opening.concat()).await.unwrap();
    let mut server = h2::server::handshake(far).await.unwrap();
    for (path, token) in [("SessionService/Login", None), ("MessageService/Subscribe", Some("Bearer secret"))]
    {
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        assert_eq!(request.uri().to_string(), format!("http://10.0.0.1:50051/streamward.v1.{path}"));
        assert_eq!(request.method(), "POST");
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("content-type"), Some("application/grpc"));
        assert_eq!((header("te"), header("authorization")), (Some("trailers"), token));
    }
}

/// An outcome of `fanout` with the server CPU of each server, round by round.
fn fanout(case: &str, numbers: &[(Kind, &[f64])]) -> Outcome {
    let mut outcome = Outcome::new("fanout", "CPU".to_owned(), &[&CPU_US], Box::new(io::sink()));
    for (server, rounds) in numbers {
        for (round, number) in rounds.iter().enumerate() {
            let numbers = vec![(&CPU_US, *number)];
            outcome.samples.push(Sample { case: case.to_owned(), server: *server, round, numbers });
        }
    }
    outcome
}

fn verdicts(outcome: &Outcome) -> Vec<(String, &'static str)> {
    marks::judge(outcome).iter().map(|verdict| (verdict.what.clone(), verdict.word())).collect()
}

#[test]
fn a_ratio_is_taken_within_each_round() {
    // The machine was half as fast in the second round.
    let rounds: [(Kind, &[f64]); 2] = [(Kind::Streamward, &[1.0, 2.0, 3.0]), (Kind::NatsServer, &[2.0, 4.0])];
    let ratio = fanout(CASE, &rounds).ratio(CASE, (Kind::NatsServer, CASE), &CPU_US);
    assert_eq!(ratio, Some(Spread { median: 0.5, low: 0.5, high: 0.5 }));
    let idle = fanout(CASE, &[(Kind::Streamward, &[1.0]), (Kind::NatsServer, &[0.0])]);
    assert_eq!(idle.ratio(CASE, (Kind::NatsServer, CASE), &CPU_US), None);
}

#[test]
fn a_mark_is_kept_missed_or_not_measured() {
    let outcome = fanout(
        CASE,
        &[
            (Kind::Streamward, &[0.85]),
            (Kind::NatsServer, &[1.0]),
            (Kind::Mosquitto, &[0.99]),
            (Kind::PlainTonic, &[9.0]),
            (Kind::GrpcJs, &[9.0]),
        ],
    );
    let name = |peer: &str| format!("fanout, {CASE}: server CPU µs / {peer}");
    let expected = [
        ("nats-server", "kept"),
        ("mosquitto", "MISSED"),
        ("plain tonic", "kept"),
        ("grpc-js", "kept"),
        ("grpcio", "not measured"),
    ];
    assert_eq!(verdicts(&outcome), expected.map(|(peer, word)| (name(peer), word)));
    assert!(!outcome.is_content());
    let ours = [(Kind::Streamward, &[0.1][..])];
    let peers = Kind::ALL[1..].iter().map(|peer| (*peer, &[10.0][..]));
    let mut content = fanout(CASE, &ours.into_iter().chain(peers).collect::<Vec<_>>());
    assert!(content.is_content());
    content.void(Kind::Grpcio, 0, &"lost a message".into()).unwrap();
    assert!(!content.is_content(), "a void measurement");
}

#[test]
fn marks_of_many_in_flight_are_not_those_of_one() {
    let rounds: [(Kind, &[f64]); 2] = [(Kind::Streamward, &[0.5]), (Kind::NatsServer, &[1.0])];
    let word = |case: &str| verdicts(&fanout(case, &rounds))[0].1;
    assert_eq!(word("200 subscribers, 1 in flight"), "kept");
    assert_eq!(word("200 subscribers, 64 in flight"), "MISSED");
    assert_eq!(word("200 subscribers, 1024 in flight"), "MISSED");
}

#[test]
fn a_mark_of_the_server_alone_needs_no_peer() {
    let mut outcome = Outcome::new("stalled", "late".to_owned(), &[&P99_RATIO], Box::new(io::sink()));
    let numbers = vec![(&P99_RATIO, 1.2)];
    outcome.push(Sample { case: String::new(), server: Kind::Streamward, round: 0, numbers }).unwrap();
    assert_eq!(verdicts(&outcome), [("stalled: p99 with / before".to_owned(), "MISSED")]);
}

#[test]
fn every_report_tells_the_numbers_the_marks_and_what_is_void() {
    let mut outcome =
        fanout(CASE, &[(Kind::Streamward, &[0.5, 0.7, 0.6]), (Kind::NatsServer, &[1.0, 1.0, 1.0])]);
    outcome.void(Kind::Mosquitto, 1, &"lost a message".into()).unwrap();
    let outcomes = [outcome];
    let text = report::text(&outcomes, "a Pi");
    let markdown = report::markdown(&outcomes, "a Pi");
    let json = report::json(&outcomes, "a Pi".into());
    for (document, parts) in [
        (&text, &["server CPU µs", " 0.600 (0.500-0.700)\n", "kept", "not measured"][..]),
        (
            &markdown,
            &["| 50 subscribers, 1 in flight | 0.600 | 1.000 |", "| 0.85 | 0.600 (0.500-0.700) | kept |"],
        ),
    ] {
        for part in parts.iter().chain(&["a Pi", "mosquitto, round 2: lost a message"]) {
            assert!(document.contains(part), "{part} is not in\n{document}");
        }
    }
    let work = &json["works"][0];
    assert_eq!(json["machine"], "a Pi");
    assert_eq!(json["numbers"]["cpu_us"], "server CPU µs");
    assert_eq!((&work["work"], &work["samples"][2]["round"]), (&"fanout".into(), &3.into()));
    assert_eq!(work["samples"][1]["numbers"]["cpu_us"], 0.7);
    assert_eq!((&work["marks"][0]["kept"], &work["marks"][0]["at_most"]), (&true.into(), &0.85.into()));
    assert!(work["marks"][1]["kept"].is_null());
    assert_eq!(work["void"][0], "fanout: mosquitto, round 2: lost a message");
}
