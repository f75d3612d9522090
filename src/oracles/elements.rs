//! Elements of a `ServerFrame`, each encoded alone: any run of them is the frame with exactly these elements.

use std::time::{Duration, UNIX_EPOCH};

use prost::Message as _;

use crate::base::event::{Gap, GapReason};
use crate::base::limits;
use crate::base::topic::Topic;
use crate::oracles::input::Input;
use crate::wire::convert;
use crate::wire::convert::EventFields;
use crate::wire::v1;
use crate::wire::v1::notice::Kind;

/// The bytes say which elements, with what in them.
pub fn elements(data: &[u8]) {
    let mut input = Input(data);
    let mut expected = v1::ServerFrame::default();
    let mut run = Vec::new();
    let mut ends = vec![0];
    while !input.is_empty() {
        match input.byte() % 4 {
            0 => expected.events.push(put_event(&mut input, &mut run)),
            1 => expected.receipts.push(put_receipt(&mut input, &mut run)),
            2 => expected.gaps.extend(put_gap(&mut input, &mut run)),
            _ => expected.notices.push(put_notice(&mut input, &mut run)),
        }
        ends.push(run.len());
    }
    assert_eq!(v1::ServerFrame::decode(run.as_slice()).as_ref(), Ok(&expected));
    let mut in_parts = v1::ServerFrame::default();
    for end in ends.windows(2) {
        let part = v1::ServerFrame::decode(&run[end[0]..end[1]]).expect("an element is a frame");
        in_parts.events.extend(part.events);
        in_parts.receipts.extend(part.receipts);
        in_parts.gaps.extend(part.gaps);
        in_parts.notices.extend(part.notices);
    }
    assert_eq!(in_parts, expected);
}

/// An event with these fields reads back with these fields.
pub(super) fn event(topic: &str, sender: &str, since: (u64, u32), payload: &[u8], sequence: u64) {
    let fields = Fields {
        topic: topic.to_owned(),
        sender: sender.to_owned(),
        // `SystemTime` ends with `i64` seconds.
        seconds: since.0 >> 2,
        nanos: since.1 % 1_000_000_000,
        payload: payload.to_vec(),
        message_id: sender.to_owned(),
        content_type: topic.to_owned(),
    };
    let mut bytes = Vec::new();
    let event = fields.put(sequence, &mut bytes);
    let expected = v1::ServerFrame { events: vec![event], ..Default::default() };
    assert_eq!(v1::ServerFrame::decode(bytes.as_slice()), Ok(expected));
}

struct Fields {
    topic: String,
    sender: String,
    seconds: u64,
    nanos: u32,
    payload: Vec<u8>,
    message_id: String,
    content_type: String,
}

impl Fields {
    /// Encodes them, and gives what must be read.
    fn put(self, sequence: u64, run: &mut Vec<u8>) -> v1::Event {
        let fields = EventFields {
            topic: &self.topic,
            sender: &self.sender,
            published_at: UNIX_EPOCH + Duration::new(self.seconds, self.nanos),
            payload: &self.payload,
            message_id: &self.message_id,
            content_type: &self.content_type,
        };
        let before = run.len();
        fields.encode(sequence, run);
        let bytes = run.len() - before;
        assert!(bytes <= fields.bytes_hint(), "{bytes} bytes, the hint was {}", fields.bytes_hint());
        let is_bounded = self.topic.len() <= limits::TOPIC_BYTES_MAX
            && self.sender.len() <= limits::USER_BYTES_MAX
            && self.message_id.len() <= limits::MESSAGE_ID_BYTES_MAX
            && self.content_type.len() <= limits::CONTENT_TYPE_BYTES_MAX;
        let bytes_max = self.payload.len() + limits::EVENT_OVERHEAD_BYTES_MAX;
        assert!(!is_bounded || bytes <= bytes_max, "{bytes} bytes, at most {bytes_max} were promised");
        let seconds = i64::try_from(self.seconds).expect("kept in range");
        let nanos = i32::try_from(self.nanos).expect("kept in range");
        v1::Event {
            topic: self.topic,
            sequence,
            sender: self.sender,
            published_at: Some(prost_types::Timestamp { seconds, nanos }),
            payload: self.payload.into(),
            message_id: self.message_id,
            content_type: self.content_type,
        }
    }
}

fn put_event(input: &mut Input<'_>, run: &mut Vec<u8>) -> v1::Event {
    let sequence = input.number();
    let fields = Fields {
        seconds: input.number() >> 2,
        nanos: u32::try_from(input.number() % 1_000_000_000).unwrap_or(0),
        topic: input.text(),
        sender: input.text(),
        message_id: input.text(),
        content_type: input.text(),
        // Long enough for lengths of three bytes.
        payload: input.bytes().repeat(1 + usize::from(input.byte())),
    };
    fields.put(sequence, run)
}

fn put_receipt(input: &mut Input<'_>, run: &mut Vec<u8>) -> v1::Receipt {
    let message_id = input.text();
    let position = Some(v1::Position { epoch: input.text(), sequence: input.number() });
    let receipt = v1::Receipt { message_id, position, error: None };
    convert::encode_receipt(&receipt, run);
    receipt
}

fn put_gap(input: &mut Input<'_>, run: &mut Vec<u8>) -> Option<v1::Gap> {
    let reason = match input.byte() % 3 {
        0 => GapReason::EpochChanged,
        1 => GapReason::TailGone,
        _ => GapReason::LagSkipped,
    };
    let (from_sequence, to_sequence) = (input.number(), input.number());
    let topic = Topic::parse(&format!("room/{}", input.text())).ok()?;
    convert::encode_gap(&topic, Gap { from_sequence, to_sequence, reason }, run);
    let reason = match reason {
        GapReason::EpochChanged => 1,
        GapReason::TailGone => 2,
        GapReason::LagSkipped => 3,
    };
    Some(v1::Gap { topic: topic.to_string(), from_sequence, to_sequence, reason })
}

fn put_notice(input: &mut Input<'_>, run: &mut Vec<u8>) -> v1::Notice {
    let kind = match input.byte() % 4 {
        0 => Kind::Subscribed(v1::Subscribed {
            topic: input.text(),
            position: Some(v1::Position { epoch: input.text(), sequence: input.number() }),
            recovered: input.byte() % 2 == 1,
        }),
        1 => Kind::Draining(v1::Draining { retry_after: Some(duration(input)) }),
        2 => Kind::DeadlineNear(v1::DeadlineNear { remaining: Some(duration(input)) }),
        _ => Kind::HeartbeatAck(v1::HeartbeatAck { server_time: None }),
    };
    convert::encode_notice(kind.clone(), run);
    v1::Notice { kind: Some(kind) }
}

fn duration(input: &mut Input<'_>) -> prost_types::Duration {
    let nanos = u32::try_from(input.number() % 1_000_000_000).unwrap_or(0);
    let duration = Duration::new(input.number() >> 1, nanos);
    let written = convert::duration(duration);
    assert_eq!(convert::duration_from(&written), Some(duration));
    written
}
