//! What the load publishes, and the check that a subscriber got exactly that: content, count and order.

use crate::load::error::LoadError;

/// The topic everything is published to, as MQTT and Streamward write it.
pub const TOPIC: &str = "room/bench";

/// Bytes of a payload that carry its number.
pub const NUMBER_BYTES: usize = 8;

/// What a parser found in a server's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// The payload of one delivered message.
    Payload(&'a [u8]),
    /// The server has accepted what was asked of it last.
    Ready,
    /// The server asks for a sign of life.
    Ping,
    /// The server has accepted one published message.
    Receipt,
}

/// The payload with this number: eight bytes of number, then filler.
pub fn payload(number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![b'.'; bytes.max(NUMBER_BYTES)];
    payload[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    payload
}

/// One encoded publish, in which only the number changes from message to message.
pub struct Template {
    bytes: Vec<u8>,
    number_at: usize,
}

impl Template {
    /// A template of an encoded publish that holds `payload(0, payload_bytes)` and `after` bytes behind it.
    pub fn new(bytes: Vec<u8>, payload_bytes: usize, after: usize) -> Result<Self, LoadError> {
        let number_at = bytes.len().checked_sub(payload_bytes.max(NUMBER_BYTES) + after);
        let number_at = number_at.ok_or(LoadError::Malformed("a template shorter than its payload"))?;
        if bytes[number_at..bytes.len() - after] != payload(0, payload_bytes) {
            return Err(LoadError::Malformed("a template that does not end with its payload"));
        }
        Ok(Self { bytes, number_at })
    }

    /// Appends the publish of message `number`.
    pub fn append(&self, out: &mut Vec<u8>, number: u64) {
        let number_at = out.len() + self.number_at;
        out.extend_from_slice(&self.bytes);
        out[number_at..number_at + NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    }
}

/// What one subscriber must receive next.
pub struct Checker {
    /// Number of the next message; also how many were received.
    pub next: u64,
    expected: Vec<u8>,
}

impl Checker {
    /// Expects messages 0, 1, 2… with payloads of this size.
    pub fn new(payload_bytes: usize) -> Self {
        Self { next: 0, expected: payload(0, payload_bytes) }
    }

    /// Counts the payload, or says how it differs from the one due.
    pub fn accept(&mut self, payload: &[u8]) -> Result<(), LoadError> {
        self.expected[..NUMBER_BYTES].copy_from_slice(&self.next.to_le_bytes());
        if payload != self.expected {
            let number = payload.first_chunk().map(|number| u64::from_le_bytes(*number));
            let came = format!("message {number:?} of {} bytes came, {} was due", payload.len(), self.next);
            return Err(LoadError::Void(came));
        }
        self.next += 1;
        Ok(())
    }
}
