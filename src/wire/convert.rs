//! Between the contract's messages and the values of the floors below and above.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::bytes::BufMut;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, message};

use crate::base::event::{Gap, GapReason, Overflow, Position, Start};
use crate::base::reason::EndReason;
use crate::base::topic::Topic;
use crate::runtime::pressure::Level;
use crate::wire::v1;
use crate::wire::v1::notice::Kind;

/// An event about to be encoded; nothing is copied before.
#[derive(Clone, Copy, Debug)]
pub struct EventFields<'a> {
    /// Where it is published.
    pub topic: &'a str,
    /// Who published it.
    pub sender: &'a str,
    /// When.
    pub published_at: SystemTime,
    /// What.
    pub payload: &'a [u8],
    /// The sender's name for it.
    pub message_id: &'a str,
    /// The payload's media type.
    pub content_type: &'a str,
}

impl EventFields<'_> {
    /// About how many bytes [`Self::encode`] writes, never fewer than it does.
    #[must_use]
    pub const fn bytes_hint(&self) -> usize {
        64 + self.topic.len()
            + self.sender.len()
            + self.payload.len()
            + self.message_id.len()
            + self.content_type.len()
    }

    /// Writes the event as a field-1 element of `ServerFrame`: a run of such elements is a frame by itself.
    pub fn encode(&self, sequence: u64, out: &mut Vec<u8>) {
        let published_at = timestamp(self.published_at);
        let length = bytes_len(1, self.topic.as_bytes())
            + key_len(2)
            + encoded_len_varint(sequence)
            + bytes_len(3, self.sender.as_bytes())
            + message::encoded_len(4, &published_at)
            + bytes_len(5, self.payload)
            + bytes_len(6, self.message_id.as_bytes())
            + bytes_len(7, self.content_type.as_bytes());
        encode_key(1, WireType::LengthDelimited, out);
        encode_varint(length as u64, out);
        put_bytes(1, self.topic.as_bytes(), out);
        encode_key(2, WireType::Varint, out);
        encode_varint(sequence, out);
        put_bytes(3, self.sender.as_bytes(), out);
        message::encode(4, &published_at, out);
        put_bytes(5, self.payload, out);
        put_bytes(6, self.message_id.as_bytes(), out);
        put_bytes(7, self.content_type.as_bytes(), out);
    }
}

fn bytes_len(tag: u32, bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { key_len(tag) + encoded_len_varint(bytes.len() as u64) + bytes.len() }
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(bytes.len() as u64, out);
        out.put_slice(bytes);
    }
}

/// Writes a receipt as a field-2 element of `ServerFrame`.
pub fn encode_receipt(receipt: &v1::Receipt, out: &mut Vec<u8>) {
    message::encode(2, receipt, out);
}

/// Writes a gap as a field-3 element of `ServerFrame`.
pub fn encode_gap(topic: &Topic, gap: Gap, out: &mut Vec<u8>) {
    let reason = match gap.reason {
        GapReason::EpochChanged => v1::GapReason::EpochChanged,
        GapReason::TailGone => v1::GapReason::TailGone,
        GapReason::LagSkipped => v1::GapReason::LagSkipped,
    };
    let gap = v1::Gap {
        topic: topic.to_string(),
        from_sequence: gap.from_sequence,
        to_sequence: gap.to_sequence,
        reason: reason.into(),
    };
    message::encode(3, &gap, out);
}

/// Writes a notice as a field-4 element of `ServerFrame`.
pub fn encode_notice(kind: Kind, out: &mut Vec<u8>) {
    message::encode(4, &v1::Notice { kind: Some(kind) }, out);
}

/// The start a subscription asks for.
#[must_use]
pub fn start(subscription: &v1::Subscription) -> Start {
    use crate::wire::v1::subscription::Start as Wire;
    match &subscription.start {
        Some(Wire::AllRetained(true)) => Start::AllRetained,
        Some(Wire::After(position)) => {
            Start::After(Position { epoch: position.epoch.clone(), sequence: position.sequence })
        }
        Some(Wire::FromNow(_) | Wire::AllRetained(false)) | None => Start::FromNow,
    }
}

/// The overflow policy a subscription asks for. An unknown one is the default: ending is never silent.
#[must_use]
pub fn overflow(subscription: &v1::Subscription) -> Overflow {
    match subscription.overflow() {
        v1::Overflow::Disconnect => Overflow::Disconnect,
        v1::Overflow::Skip => Overflow::Skip,
    }
}

/// A subscription as a client asks for it.
#[must_use]
pub fn subscription(topic: &str, start: Start, overflow: Overflow) -> v1::Subscription {
    use crate::wire::v1::subscription::Start as Wire;
    let start = match start {
        Start::FromNow => Wire::FromNow(true),
        Start::AllRetained => Wire::AllRetained(true),
        Start::After(after) => Wire::After(position(after)),
    };
    let overflow = match overflow {
        Overflow::Disconnect => v1::Overflow::Disconnect,
        Overflow::Skip => v1::Overflow::Skip,
    };
    v1::Subscription { topic: topic.to_owned(), start: Some(start), overflow: overflow.into() }
}

/// A position on the wire.
#[must_use]
pub fn position(position: Position) -> v1::Position {
    v1::Position { epoch: position.epoch, sequence: position.sequence }
}

/// A reason on the wire: the enum's numbers are 1 + the order of [`EndReason::ALL`].
#[must_use]
pub fn reason(reason: EndReason) -> v1::EndReason {
    let number = i32::try_from(reason.index()).map_or(0, |index| index + 1);
    v1::EndReason::try_from(number).unwrap_or(v1::EndReason::Unspecified)
}

/// A level of memory pressure on the wire.
#[must_use]
pub const fn pressure(level: Level) -> v1::Pressure {
    match level {
        Level::Normal => v1::Pressure::Normal,
        Level::Elevated => v1::Pressure::Elevated,
        Level::High => v1::Pressure::High,
        Level::Critical => v1::Pressure::Critical,
    }
}

/// A reason from the wire; `None` when it is unset or from a newer contract.
#[must_use]
pub fn reason_from(number: i32) -> Option<EndReason> {
    let index = usize::try_from(number.checked_sub(1)?).ok()?;
    EndReason::ALL.get(index).copied()
}

/// A length of time on the wire.
#[must_use]
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A length of time from the wire; negative ones and those beyond `u64` seconds are `None`.
#[must_use]
pub fn duration_from(duration: &prost_types::Duration) -> Option<Duration> {
    Some(Duration::new(u64::try_from(duration.seconds).ok()?, u32::try_from(duration.nanos).ok()?))
}

/// A wall-clock time on the wire. Before 1970 (a Pi without a clock) is 1970.
#[must_use]
pub fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_run_of_encoded_elements_is_a_frame() {
        let fields = EventFields {
            topic: "room/a",
            sender: "alice",
            published_at: UNIX_EPOCH + Duration::new(1_700_000_000, 5),
            payload: b"hello",
            message_id: "m1",
            content_type: "text/plain",
        };
        let empty = EventFields { payload: b"", message_id: "", content_type: "", ..fields };
        let mut bytes = Vec::new();
        fields.encode(300, &mut bytes);
        assert!(bytes.len() <= fields.bytes_hint());
        empty.encode(u64::MAX, &mut bytes);
        let gap = Gap { from_sequence: 3, to_sequence: 9, reason: GapReason::LagSkipped };
        encode_gap(&Topic::parse("room/a").unwrap(), gap, &mut bytes);
        encode_receipt(&v1::Receipt { message_id: "m1".into(), ..Default::default() }, &mut bytes);
        encode_notice(Kind::HeartbeatAck(v1::HeartbeatAck { server_time: None }), &mut bytes);
        let frame = v1::ServerFrame::decode(bytes.as_slice()).unwrap();
        assert_eq!((frame.events.len(), frame.receipts.len()), (2, 1));
        assert_eq!((frame.gaps.len(), frame.notices.len()), (1, 1));
        let event = &frame.events[0];
        assert_eq!((event.topic.as_str(), event.sequence, event.sender.as_str()), ("room/a", 300, "alice"));
        assert_eq!(event.payload.as_ref(), b"hello");
        assert_eq!(event.published_at, Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }));
        assert_eq!((event.message_id.as_str(), event.content_type.as_str()), ("m1", "text/plain"));
        assert_eq!((frame.events[1].sequence, frame.events[1].payload.len()), (u64::MAX, 0));
        assert_eq!(frame.gaps[0].reason(), v1::GapReason::LagSkipped);
    }

    #[test]
    fn reasons_have_the_contract_s_numbers_and_names() {
        for expected in EndReason::ALL {
            let wire = reason(expected);
            assert_eq!(wire.as_str_name(), expected.name());
            assert_eq!(reason_from(wire.into()), Some(expected));
        }
        assert_eq!(reason_from(0), None);
        assert_eq!(reason_from(999), None);
    }

    #[test]
    fn an_encoded_event_never_exceeds_the_overhead_the_limits_promise() {
        use crate::base::limits;
        let long = |bytes: usize| "x".repeat(bytes);
        let (topic, user) = (long(limits::TOPIC_BYTES_MAX), long(limits::USER_BYTES_MAX));
        let (id, kind) = (long(limits::MESSAGE_ID_BYTES_MAX), long(limits::CONTENT_TYPE_BYTES_MAX));
        let payload = vec![0; limits::Limits::default().message_bytes_max];
        let fields = EventFields {
            topic: &topic,
            sender: &user,
            published_at: UNIX_EPOCH + Duration::new(u64::from(u32::MAX), 999_999_999),
            payload: &payload,
            message_id: &id,
            content_type: &kind,
        };
        let mut bytes = Vec::new();
        fields.encode(u64::MAX, &mut bytes);
        assert!(bytes.len() <= limits::Limits::default().event_bytes_max());
    }
}
