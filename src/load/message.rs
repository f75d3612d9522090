//! What the load publishes, and the check that a subscriber got exactly that: content, count and order.

use crate::load::error::LoadError;

/// The topic everything is published to, as MQTT and Streamward write it.
pub const TOPIC: &str = "room/bench";

/// Bytes of a payload that carry its number.
pub const NUMBER_BYTES: usize = 8;

/// The number's upper bits say whose message it is.
const PUBLISHER_SHIFT: u32 = 48;
/// Publishers that can be told apart.
pub const PUBLISHERS_MAX: usize = 1 << (u64::BITS - PUBLISHER_SHIFT);

/// The number that goes into the publisher's message `count`.
#[must_use]
pub fn number(publisher: u16, count: u64) -> u64 {
    u64::from(publisher) << PUBLISHER_SHIFT | count
}

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

    /// Bytes of one.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
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
    publisher: u16,
    expected: Vec<u8>,
}

impl Checker {
    /// Expects messages 0, 1, 2… with payloads of this size.
    pub fn new(payload_bytes: usize) -> Self {
        Self::of(0, payload_bytes)
    }

    /// The same of one publisher among several.
    #[must_use]
    pub fn of(publisher: u16, payload_bytes: usize) -> Self {
        Self { next: 0, publisher, expected: payload(0, payload_bytes) }
    }

    /// Counts the payload, or says how it differs from the one due.
    pub fn accept(&mut self, payload: &[u8]) -> Result<(), LoadError> {
        self.expected[..NUMBER_BYTES].copy_from_slice(&number(self.publisher, self.next).to_le_bytes());
        if payload != self.expected {
            return Err(LoadError::Void(self.difference(payload)));
        }
        self.next += 1;
        Ok(())
    }

    /// How the payload differs from the one due.
    fn difference(&self, payload: &[u8]) -> String {
        let due = format!("message {} of publisher {}", self.next, self.publisher);
        let came = numbered(payload);
        match came {
            Some((publisher, count))
                if publisher == self.publisher
                    && payload[NUMBER_BYTES..] == self.expected[NUMBER_BYTES..] =>
            {
                let what =
                    if count < self.next { "came again or late" } else { "came too early: some were lost" };
                format!("message {count} of publisher {publisher} {what}; {due} was due")
            }
            Some(_) | None => {
                format!(
                    "{} bytes of other content came where {due} was due; does somebody else publish to {TOPIC}?",
                    payload.len()
                )
            }
        }
    }
}

/// Whose message it is, and which.
fn numbered(payload: &[u8]) -> Option<(u16, u64)> {
    let number = u64::from_le_bytes(*payload.first_chunk()?);
    // 16 bits are left.
    let publisher = u16::try_from(number >> PUBLISHER_SHIFT).ok()?;
    Some((publisher, number & ((1 << PUBLISHER_SHIFT) - 1)))
}

/// What one subscriber of several publishers must receive next: each one's messages in order, in any order among them.
pub struct Checks(Vec<Checker>);

impl Checks {
    /// Expects the messages of so many publishers.
    #[must_use]
    pub fn new(publishers: u16, payload_bytes: usize) -> Self {
        Self((0..publishers).map(|publisher| Checker::of(publisher, payload_bytes)).collect())
    }

    /// Counts the payload and says which of its publisher's messages it is, or how it differs from the one due.
    pub fn accept(&mut self, payload: &[u8]) -> Result<u64, LoadError> {
        let publisher = match &self.0[..] {
            // All that does not fit the only one is told by it.
            [_] => 0,
            _ => numbered(payload).map_or(0, |(publisher, _)| usize::from(publisher)),
        };
        // What names none of them is no message of any.
        let checker = match self.0.get_mut(publisher) {
            Some(checker) => checker,
            None => &mut self.0[0],
        };
        checker.accept(payload)?;
        Ok(checker.next - 1)
    }

    /// How many messages of each publisher came.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|checker| checker.next)
    }
}
