//! As much of the NATS text protocol as the load needs: one subject, no acknowledgements.

use crate::BenchError;
use streamward::load::message::{Item, payload};

const SUBJECT: &str = "room.bench";
const CONNECT: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"0\",\"protocol\":1}\r\n";
const END: &[u8] = b"\r\n";

/// The answer to [`Item::Ping`].
pub(crate) const PONG: &[u8] = b"PONG\r\n";
/// Bytes behind the payload of a PUB.
pub(crate) const AFTER_PAYLOAD_BYTES: usize = END.len();

/// What a subscriber sends; the PONG is [`Item::Ready`].
pub(crate) fn subscriber_opening() -> Vec<u8> {
    format!("{CONNECT}SUB {SUBJECT} 1\r\nPING\r\n").into_bytes()
}

/// What a publisher sends; the PONG is [`Item::Ready`].
pub(crate) fn publisher_opening() -> Vec<u8> {
    format!("{CONNECT}PING\r\n").into_bytes()
}

/// One PUB of message 0.
pub(crate) fn publish(payload_bytes: usize) -> Vec<u8> {
    let payload = payload(0, payload_bytes);
    [format!("PUB {SUBJECT} {}\r\n", payload.len()).as_bytes(), &payload, END].concat()
}

/// Hands every whole operation's meaning to `sink` and returns how many bytes they took.
pub(crate) fn parse(
    bytes: &[u8],
    sink: &mut impl FnMut(Item<'_>) -> Result<(), BenchError>,
) -> Result<usize, BenchError> {
    let mut at = 0;
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let line = bytes[at..at + end].trim_ascii_end();
        let body_at = at + end + 1;
        at = match line {
            [b'M', b'S', b'G', b' ', ..] => {
                let body_end = body_at + message_bytes(line)?;
                if bytes.len() < body_end + END.len() {
                    break;
                }
                sink(Item::Payload(&bytes[body_at..body_end]))?;
                body_end + END.len()
            }
            b"PING" => sink(Item::Ping).map(|()| body_at)?,
            b"PONG" => sink(Item::Ready).map(|()| body_at)?,
            b"+OK" | [b'I', b'N', b'F', b'O', ..] => body_at,
            other => return Err(format!("unexpected line {}", String::from_utf8_lossy(other)).into()),
        };
    }
    Ok(at)
}

/// The last word of a MSG line: how many bytes of payload follow.
fn message_bytes(line: &[u8]) -> Result<usize, BenchError> {
    let digits = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    Ok(std::str::from_utf8(digits)?.parse()?)
}
