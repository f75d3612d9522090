//! Accepting an event: the checks, the bus, and the unary call.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use http::Request;
use prost::Message as _;
use tokio::time::Instant;
use tonic::Status;

use crate::base::event::Position;
use crate::base::id::SessionKey;
use crate::base::limits::{CONTENT_TYPE_BYTES_MAX, MESSAGE_ID_BYTES_MAX};
use crate::base::principal::Principal;
use crate::base::reason::{Cause, EndReason, Quota};
use crate::base::topic::Topic;
use crate::hub::Message;
use crate::runtime::phase::Phase;
use crate::server::call::{begin, ignore_gone, in_time, refuse, trailers};
use crate::server::{Core, Peer, auth};
use crate::wire::codec::{Deframer, FrameError, PREFIX_BYTES, prefix};
use crate::wire::convert::EventFields;
use crate::wire::status::{EndFacts, ended, invalid_field};
use crate::wire::v1;

/// Checks an event and hands it to the bus. Nothing is changed when it is refused.
pub(super) fn publish(
    core: &Core,
    session: SessionKey,
    principal: &Principal,
    event: &v1::Publish,
) -> Result<Position, Box<Status>> {
    let accepted = accept(core, session, principal, event);
    if accepted.is_err() {
        core.hub().count_refused_publish();
    }
    accepted
}

fn accept(
    core: &Core,
    session: SessionKey,
    principal: &Principal,
    event: &v1::Publish,
) -> Result<Position, Box<Status>> {
    let topic = Topic::parse(&event.topic).map_err(|error| invalid_field("topic", &error.to_string()))?;
    if event.message_id.len() > MESSAGE_ID_BYTES_MAX {
        return Err(Box::new(invalid_field("message_id", "has at most 128 bytes")));
    }
    if event.content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(Box::new(invalid_field("content_type", "has at most 128 bytes")));
    }
    let message_bytes_max = core.limits().message_bytes_max;
    if event.payload.len() > message_bytes_max {
        return Err(Box::new(too_large(message_bytes_max)));
    }
    // From the drain on, nothing is accepted any more: what got a receipt before can then be delivered to the last.
    if core.phase.get() >= Phase::Draining {
        let facts = EndFacts { retry_after: Some(core.retry_slot(session)), ..EndFacts::default() };
        return Err(Box::new(ended(&Cause::server(EndReason::ServerDraining), &facts)));
    }
    let fields = EventFields {
        topic: topic.as_str(),
        sender: &principal.user,
        published_at: std::time::SystemTime::now(),
        payload: &event.payload,
        message_id: &event.message_id,
        content_type: &event.content_type,
    };
    let encode = |sequence, out: &mut Vec<u8>| fields.encode(sequence, out);
    let message = Message { topic: &topic, id: &event.message_id, bytes_hint: fields.bytes_hint() };
    let sequence = core
        .bus
        .publish(&core.hub, session, message, Instant::now(), encode)
        .map_err(|refusal| auth::refusal_of(core, session, &refusal))?;
    Ok(Position { epoch: core.hub().epoch().0.to_string(), sequence })
}

/// The cause of a message above the size limit.
pub(super) fn too_large_cause(message_bytes_max: usize) -> Cause {
    let key = "limits.message_bytes_max";
    Cause::quota(Quota { key, value: message_bytes_max as u64 })
}

fn too_large(message_bytes_max: usize) -> Status {
    ended(&too_large_cause(message_bytes_max), &EndFacts::default())
}

/// What a request body that cannot be read is to the client.
pub(super) fn frame_status(error: FrameError, message_bytes_max: usize) -> Status {
    match error {
        FrameError::TooLarge { .. } => too_large(message_bytes_max),
        FrameError::Compressed => Status::unimplemented(error.to_string()),
        FrameError::Flag(_) | FrameError::Truncated => invalid_field("request", &error.to_string()),
    }
}

/// Serves `MessageService.Publish`.
pub(super) async fn serve(
    core: Arc<Core>,
    peer: Peer,
    deadline: Option<Instant>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let Some(answer) = in_time(deadline, &mut respond, answer(&core, &peer, request)).await else { return };
    match answer {
        Ok(response) => {
            let Ok(mut send) = begin(&mut respond) else { return };
            // A few dozen bytes: sent without waiting for a window that could only be smaller on purpose.
            send.reserve_capacity(response.len());
            peer.meter.sent_data_frame(response.len());
            ignore_gone(send.send_data(response, false));
            ignore_gone(send.send_trailers(trailers(&Status::ok(""))));
        }
        Err(status) => refuse(&mut respond, &status),
    }
}

async fn answer(
    core: &Arc<Core>,
    peer: &Peer,
    request: Request<h2::RecvStream>,
) -> Result<Bytes, Box<Status>> {
    let (head, body) = request.into_parts();
    let (session, principal) = auth::session(core, peer, &head.headers)?;
    let request: v1::Publish = read_one(core, body).await?;
    let position = publish(core, session, &principal, &request)?;
    let response = v1::PublishResponse { sequence: position.sequence, epoch: position.epoch };
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + response.encoded_len());
    bytes.extend_from_slice(&prefix(response.encoded_len()));
    bytes.extend_from_slice(&response.encode_to_vec());
    Ok(bytes.into())
}

/// Reads the one message of a unary or server-streaming request.
pub(super) async fn read_one<M: prost::Message + Default>(
    core: &Core,
    body: h2::RecvStream,
) -> Result<M, Box<Status>> {
    let limits = core.limits();
    let refused = |error| frame_status(error, limits.message_bytes_max);
    let message = read_message(body, limits.event_bytes_max(), &refused).await?;
    M::decode(message).map_err(|error| Box::new(invalid_field("request", &error.to_string())))
}

/// Waits for the one message of a request, of at most `bytes_max` bytes.
pub(super) async fn read_message(
    mut body: h2::RecvStream,
    bytes_max: usize,
    refused: &(dyn Fn(FrameError) -> Status + Sync),
) -> Result<Bytes, Box<Status>> {
    let message = next_message(&mut Deframer::new(bytes_max), &mut body, refused).await?;
    message.ok_or_else(|| Box::new(invalid_field("request", "the request carries no message")))
}

/// Waits for the next message of a request; none when it is over.
pub(super) async fn next_message(
    deframer: &mut Deframer,
    body: &mut h2::RecvStream,
    refused: &(dyn Fn(FrameError) -> Status + Sync),
) -> Result<Option<Bytes>, Box<Status>> {
    loop {
        if let Some(message) = deframer.next_message().map_err(refused)? {
            return Ok(Some(message));
        }
        match body.data().await {
            Some(Ok(chunk)) => {
                ignore_gone(body.flow_control().release_capacity(chunk.len()));
                deframer.push(chunk);
            }
            Some(Err(error)) => return Err(Box::new(Status::cancelled(error.to_string()))),
            None => return deframer.finish().map(|()| None).map_err(refused).map_err(Box::new),
        }
    }
}
