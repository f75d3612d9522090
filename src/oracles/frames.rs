//! A request body, cut anywhere: the same messages come out, and each is read as everything it could be.

use std::fmt::Debug;

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::base::event::{Overflow, Position, Start};
use crate::base::reason::EndReason;
use crate::oracles::elements;
use crate::oracles::input::cut;
use crate::oracles::topic;
use crate::wire::codec::{Deframer, FrameError, PREFIX_BYTES, prefix};
use crate::wire::convert;
use crate::wire::ended::end_details;
use crate::wire::v1;
use crate::wire::v1::client_frame::Kind;

type Cut = (Vec<Bytes>, Result<(), FrameError>);

/// The first byte is the largest message in units of 4 bytes, the second says where the rest is cut.
pub fn frames(data: &[u8]) {
    let Some(([bound, seed], body)) = data.split_first_chunk() else { return };
    let bytes_max = usize::from(*bound) * 4;
    let expected = naive(body, bytes_max);
    for chunks in [vec![body], body.chunks(1).collect(), cut(body, *seed)] {
        assert_eq!(deframed(bytes_max, &chunks, true), expected, "cut into {chunks:?}");
        assert_eq!(deframed(bytes_max, &chunks, false), expected, "cut into {chunks:?}, read at the end");
    }
    for message in &expected.0 {
        decoded(message);
    }
    // What is no body may still be a message.
    decoded(body);
}

fn deframed(bytes_max: usize, chunks: &[&[u8]], read_at_once: bool) -> Cut {
    let mut deframer = Deframer::new(bytes_max);
    let mut messages = Vec::new();
    for (at, chunk) in chunks.iter().enumerate() {
        deframer.push(Bytes::copy_from_slice(chunk));
        if !read_at_once && at + 1 < chunks.len() {
            continue;
        }
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Err(error)),
            }
        }
    }
    (messages, deframer.finish())
}

/// The rule, over the whole body.
fn naive(mut body: &[u8], bytes_max: usize) -> Cut {
    let mut messages = Vec::new();
    while !body.is_empty() {
        let Some((head, rest)) = body.split_first_chunk::<PREFIX_BYTES>() else {
            return (messages, Err(FrameError::Truncated));
        };
        let bytes = head[1..].iter().fold(0, |bytes, byte| bytes * 256 + usize::from(*byte));
        let end = match head[0] {
            1 => Err(FrameError::Compressed),
            2.. => Err(FrameError::Flag(head[0])),
            0 if bytes > bytes_max => Err(FrameError::TooLarge { bytes, bytes_max }),
            0 if bytes > rest.len() => Err(FrameError::Truncated),
            0 => Ok(()),
        };
        if end.is_err() {
            return (messages, end);
        }
        assert_eq!(prefix(bytes), *head);
        messages.push(Bytes::copy_from_slice(&rest[..bytes]));
        body = &rest[bytes..];
    }
    (messages, Ok(()))
}

/// As every message a client, or a server to our client, may send.
fn decoded(message: &[u8]) {
    if let Some(frame) = stable::<v1::ClientFrame>(message) {
        client_frame(frame);
    }
    if let Some(frame) = stable::<v1::ServerFrame>(message) {
        frame.events.iter().for_each(|event| {
            let at = event.published_at.unwrap_or_default();
            let since = (at.seconds.unsigned_abs(), at.nanos.unsigned_abs());
            elements::event(&event.topic, &event.sender, since, &event.payload, event.sequence);
        });
    }
    if let Some(request) = stable::<v1::SubscribeRequest>(message) {
        request.subscriptions.iter().for_each(subscription);
    }
    if let Some(request) = stable::<v1::WatchStatusRequest>(message) {
        request.interval.iter().for_each(duration);
    }
    if let Some(count) = stable::<v1::ReasonCount>(message) {
        reason(count.reason);
    }
    stable::<v1::PublishRequest>(message);
    stable::<v1::LoginRequest>(message);
    stable::<v1::ListSessionsRequest>(message);
    stable::<v1::ListStreamsRequest>(message);
    stable::<v1::ListEndedRequest>(message);
    stable::<v1::CancelRequest>(message);
    stable::<v1::DrainRequest>(message);
    stable::<v1::LoginResponse>(message);
    stable::<pb::Status>(message);
    let status = Status::with_details(Code::Unavailable, "text", Bytes::copy_from_slice(message));
    if let Some(details) = end_details(&status) {
        assert_eq!(EndReason::from_name(details.reason.name()), Some(details.reason));
    }
}

/// What is read can be written and reads back the same.
fn stable<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len());
    assert_eq!(M::decode(written.as_slice()).as_ref(), Ok(&message));
    Some(message)
}

fn client_frame(frame: v1::ClientFrame) {
    match frame.kind {
        Some(Kind::Publish(event)) => {
            topic::check(&event.topic);
            elements::event(&event.topic, &event.message_id, (0, 0), &event.payload, u64::MAX);
        }
        Some(Kind::Subscribe(asked)) => subscription(&asked),
        Some(Kind::Unsubscribe(asked)) => topic::check(&asked.topic),
        Some(Kind::Heartbeat(_) | Kind::Logout(_)) | None => {}
    }
}

fn subscription(asked: &v1::Subscription) {
    use crate::wire::v1::subscription::Start as Wire;
    topic::check(&asked.topic);
    let start = convert::start(asked);
    match &asked.start {
        Some(Wire::AllRetained(true)) => assert_eq!(start, Start::AllRetained),
        Some(Wire::After(v1::Position { epoch, sequence })) => {
            let position = Position { epoch: epoch.clone(), sequence: *sequence };
            assert_eq!(start, Start::After(position.clone()));
            assert_eq!(asked.start, Some(Wire::After(convert::position(position))));
        }
        _ => assert_eq!(start, Start::FromNow),
    }
    let expected = if asked.overflow == 1 { Overflow::Skip } else { Overflow::Disconnect };
    assert_eq!(convert::overflow(asked), expected);
}

fn duration(asked: &prost_types::Duration) {
    let read = convert::duration_from(asked);
    assert_eq!(read.is_some(), asked.seconds >= 0 && asked.nanos >= 0);
    if let Some(read) = read {
        let written = convert::duration(read);
        if asked.nanos < 1_000_000_000 {
            assert_eq!(written, *asked);
        }
        if written.seconds < i64::MAX {
            assert_eq!(convert::duration_from(&written), Some(read));
        }
    }
}

fn reason(number: i32) {
    if let Some(known) = convert::reason_from(number) {
        assert_eq!(i32::from(convert::reason(known)), number);
    }
}
