//! As much of MQTT 3.1.1 as the load needs: QoS 0, one topic.

use crate::BenchError;
use streamward::load::message::{Item, TOPIC, payload};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;

/// CONNECT with a clean session and no keep-alive.
fn connect(client_id: &str) -> Result<Vec<u8>, BenchError> {
    let mut body = Vec::new();
    string(&mut body, "MQTT")?;
    body.extend_from_slice(&[4, 0x02, 0, 0]); // level 4, clean session, keep-alive off
    string(&mut body, client_id)?;
    packet(CONNECT, &body)
}

/// What a subscriber sends; answered by CONNACK and SUBACK, the second of which is [`Item::Ready`].
pub(crate) fn subscriber_opening(client_id: &str) -> Result<Vec<u8>, BenchError> {
    let mut body = vec![0, 1]; // packet identifier
    string(&mut body, TOPIC)?;
    body.push(0); // QoS 0
    Ok([connect(client_id)?, packet(SUBSCRIBE, &body)?].concat())
}

/// What a publisher sends; the answer to its PINGREQ is [`Item::Ready`].
pub(crate) fn publisher_opening(client_id: &str) -> Result<Vec<u8>, BenchError> {
    Ok([connect(client_id)?, packet(PINGREQ, &[])?].concat())
}

/// One PUBLISH of message 0; its payload comes last.
pub(crate) fn publish(payload_bytes: usize) -> Result<Vec<u8>, BenchError> {
    let mut body = Vec::new();
    string(&mut body, TOPIC)?;
    body.extend_from_slice(&payload(0, payload_bytes));
    packet(PUBLISH, &body)
}

/// Hands every whole packet's meaning to `sink` and returns how many bytes they took.
pub(crate) fn parse(
    bytes: &[u8],
    sink: &mut impl FnMut(Item<'_>) -> Result<(), BenchError>,
) -> Result<usize, BenchError> {
    let mut at = 0;
    while let Some((header, length)) = header(&bytes[at..])? {
        let Some(body) = bytes.get(at + header..at + header + length) else { break };
        match bytes[at] & 0xf0 {
            PUBLISH => sink(Item::Payload(publish_payload(body)?))?,
            CONNACK if body.get(1) != Some(&0) => return Err(format!("refused by CONNACK {body:?}").into()),
            CONNACK => (),
            SUBACK if body.last().is_none_or(|code| *code > 2) => return Err("subscription refused".into()),
            SUBACK | PINGRESP => sink(Item::Ready)?,
            other => return Err(format!("unexpected MQTT packet type {other:#04x}").into()),
        }
        at += header + length;
    }
    Ok(at)
}

/// Bytes of the fixed header and of what follows it; `None` while the header is incomplete.
fn header(bytes: &[u8]) -> Result<Option<(usize, usize)>, BenchError> {
    let mut length = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((index + 2, length)));
        }
    }
    if bytes.len() > 4 { Err("MQTT length of more than four bytes".into()) } else { Ok(None) }
}

fn publish_payload(body: &[u8]) -> Result<&[u8], BenchError> {
    let topic_bytes = body.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)));
    topic_bytes.and_then(|length| body.get(2 + length..)).ok_or_else(|| "short PUBLISH".into())
}

fn string(out: &mut Vec<u8>, text: &str) -> Result<(), BenchError> {
    out.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn packet(kind: u8, body: &[u8]) -> Result<Vec<u8>, BenchError> {
    let mut out = vec![kind];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left & 0x7f)?;
        left >>= 7;
        out.push(if left == 0 { low } else { low | 0x80 });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    Ok(out)
}
