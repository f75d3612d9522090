//! Tests of the benchmark's own parts; a target of its own, because the benchmark has no test harness.

mod mqtt;
mod nats;

use std::error::Error;

use streamward::load::message::{Item, TOPIC, Template, payload};

/// Any failure of a benchmark; its text says what went wrong.
pub(crate) type BenchError = Box<dyn Error>;

const PAYLOAD_BYTES: usize = 100;

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
