//! A message stream as typed items with a typed end.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::base::event::Position;
use crate::base::reason::EndReason;
use crate::client::call::{self, Answers};
use crate::client::error::{ClientError, is_made_here, status_of_reset, stream_reset};
use crate::wire::ended::{EndDetails, end_details};
use crate::wire::v1;
use crate::wire::v1::client_frame;
use crate::wire::v1::notice;

/// Frames that may wait to be sent on one stream; then sending waits.
pub const FRAMES_WAITING_MAX: usize = 64;

/// One thing the hub says on a message stream. The order within a topic is the hub's.
#[derive(Clone, Debug)]
pub enum Item {
    /// An event of a topic this stream follows.
    Event(v1::Event),
    /// The answer to one publish; answers come in the order of the publishes.
    Receipt(Receipt),
    /// Events of a topic that will not come.
    Gap(v1::Gap),
    /// A subscription is live.
    Subscribed(v1::Subscribed),
    /// The hub is going down and will end this stream.
    Draining {
        /// When to come back, counted from now.
        retry_after: Option<Duration>,
    },
    /// The call's own deadline is near.
    DeadlineNear {
        /// What is left.
        remaining: Duration,
    },
    /// The answer to [`Sender::heartbeat`].
    HeartbeatAck {
        /// The hub's clock.
        server_time: Option<SystemTime>,
    },
    /// A subscribe or unsubscribe that was not obeyed; the stream goes on.
    Refused {
        /// The topic asked for.
        topic: String,
        /// Why not.
        status: Box<Status>,
    },
}

/// The answer to one publish.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The id the sender gave.
    pub message_id: String,
    /// Where the event is in the hub's order, or why it was refused.
    pub outcome: Result<Position, Box<Status>>,
}

/// How a message stream ended. Every stream ends with one.
#[derive(Clone, Debug)]
pub struct StreamEnd {
    /// Why: as the hub said, or [`EndReason::ConnectionLost`] when the connection broke. Unset for plain gRPC errors.
    pub reason: Option<EndReason>,
    /// The call's status.
    pub status: Box<Status>,
    /// What the hub said beside the reason.
    pub details: Option<Box<EndDetails>>,
}

impl StreamEnd {
    /// The end a status tells.
    #[must_use]
    pub fn from_status(status: Status) -> Self {
        let status = stream_reset(&status).map_or(status, status_of_reset);
        let details = end_details(&status).map(Box::new);
        let reason = match &details {
            Some(details) => Some(details.reason),
            None if status.code() == Code::Ok => Some(EndReason::Completed),
            None if is_made_here(&status) => Some(EndReason::ConnectionLost),
            None => None,
        };
        // tonic calls a broken connection UNKNOWN; to a program that branches on the code it is UNAVAILABLE.
        let is_lost = details.is_none() && reason == Some(EndReason::ConnectionLost);
        let status = if is_lost { Status::unavailable(status.message()) } else { status };
        Self { reason, status: Box::new(status), details }
    }
}

/// The receiving half of a message stream.
#[derive(Debug)]
pub struct MessageStream {
    frames: Answers,
    waiting: VecDeque<Item>,
}

impl MessageStream {
    pub(crate) fn new(frames: Answers) -> Self {
        Self { frames, waiting: VecDeque::new() }
    }

    /// The next item. Safe to drop while it waits: nothing is lost.
    ///
    /// # Errors
    /// The stream's end, once everything before it was handed out. Asked again, the end is `COMPLETED`.
    pub async fn next(&mut self) -> Result<Item, StreamEnd> {
        loop {
            if let Some(item) = self.waiting.pop_front() {
                return Ok(item);
            }
            match call::next(&mut self.frames).await {
                Ok(Some(frame)) => unpack(frame, &mut self.waiting),
                Ok(None) => return Err(StreamEnd::from_status(Status::ok(""))),
                Err(status) => return Err(StreamEnd::from_status(status)),
            }
        }
    }
}

impl MessageStream {
    /// An item that is there already, without waiting.
    pub(crate) fn next_at_hand(&mut self) -> Option<Item> {
        self.waiting.pop_front()
    }
}

/// The sending half of a message stream. Dropping it half-closes the stream: the hub delivers what is pending and
/// ends it with `COMPLETED`.
#[derive(Clone, Debug)]
pub struct Sender {
    frames: mpsc::Sender<v1::ClientFrame>,
}

impl Sender {
    pub(crate) fn new(frames: mpsc::Sender<v1::ClientFrame>) -> Self {
        Self { frames }
    }

    /// Publishes one event; the answer comes as [`Item::Receipt`].
    ///
    /// # Errors
    /// [`ClientError::StreamEnded`], as for every method here.
    pub async fn publish(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
        message_id: &str,
        content_type: &str,
    ) -> Result<(), ClientError> {
        self.send_publish(v1::Publish {
            topic: topic.to_owned(),
            payload: payload.into(),
            message_id: message_id.to_owned(),
            content_type: content_type.to_owned(),
        })
        .await
    }

    /// The same, as the contract has it.
    pub(crate) async fn send_publish(&self, publish: v1::Publish) -> Result<(), ClientError> {
        self.send(client_frame::Kind::Publish(publish)).await
    }

    /// Follows a topic; the answer comes as [`Item::Subscribed`] or [`Item::Refused`].
    ///
    /// # Errors
    /// [`ClientError::StreamEnded`].
    pub async fn subscribe(&self, subscription: v1::Subscription) -> Result<(), ClientError> {
        self.send(client_frame::Kind::Subscribe(subscription)).await
    }

    /// Stops following a topic; events under way may still arrive.
    ///
    /// # Errors
    /// [`ClientError::StreamEnded`].
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), ClientError> {
        self.send(client_frame::Kind::Unsubscribe(v1::Unsubscribe { topic: topic.to_owned() })).await
    }

    /// Renews the session's lease on this stream; the answer comes as [`Item::HeartbeatAck`].
    ///
    /// # Errors
    /// [`ClientError::StreamEnded`].
    pub async fn heartbeat(&self) -> Result<(), ClientError> {
        self.send(client_frame::Kind::Heartbeat(v1::Heartbeat {})).await
    }

    /// Ends the session from within: this stream ends with `COMPLETED`, the session's others with
    /// `SESSION_LOGGED_OUT`.
    ///
    /// # Errors
    /// [`ClientError::StreamEnded`].
    pub async fn logout(&self) -> Result<(), ClientError> {
        self.send(client_frame::Kind::Logout(v1::Logout {})).await
    }

    async fn send(&self, kind: client_frame::Kind) -> Result<(), ClientError> {
        let frame = v1::ClientFrame { kind: Some(kind) };
        self.frames.send(frame).await.map_err(|_| ClientError::StreamEnded)
    }
}

/// Puts the frame's elements in an order that keeps each topic's: a gap or the word that a subscription is live comes
/// before the first event it precedes.
fn unpack(frame: v1::ServerFrame, items: &mut VecDeque<Item>) {
    let mut before = Vec::new();
    let mut after = Vec::new();
    for notice in frame.notices.into_iter().filter_map(|notice| notice.kind) {
        match notice {
            notice::Kind::Subscribed(subscribed) => {
                let sequence = subscribed.position.as_ref().map_or(0, |position| position.sequence);
                before.push((subscribed.topic.clone(), sequence, Item::Subscribed(subscribed)));
            }
            notice::Kind::Draining(draining) => {
                after.push(Item::Draining {
                    retry_after: draining.retry_after.and_then(|d| d.try_into().ok()),
                });
            }
            notice::Kind::DeadlineNear(near) => after.push(Item::DeadlineNear {
                remaining: near.remaining.and_then(|d| d.try_into().ok()).unwrap_or_default(),
            }),
            notice::Kind::HeartbeatAck(ack) => {
                after.push(Item::HeartbeatAck {
                    server_time: ack.server_time.and_then(|t| t.try_into().ok()),
                });
            }
            notice::Kind::Refused(refused) => after.push(Item::Refused {
                topic: refused.topic,
                status: Box::new(status_of(refused.error.unwrap_or_default())),
            }),
        }
    }
    for gap in frame.gaps {
        before.push((gap.topic.clone(), gap.from_sequence.saturating_sub(1), Item::Gap(gap)));
    }
    for event in frame.events {
        // Empty in nearly every frame.
        for (_, _, item) in
            before.extract_if(.., |(topic, after, _)| *topic == event.topic && *after < event.sequence)
        {
            items.push_back(item);
        }
        items.push_back(Item::Event(event));
    }
    items.extend(before.into_iter().map(|(_, _, item)| item));
    items.extend(frame.receipts.into_iter().map(|receipt| Item::Receipt(read_receipt(receipt))));
    items.extend(after);
}

fn read_receipt(receipt: v1::Receipt) -> Receipt {
    let outcome = match (receipt.error, receipt.position) {
        (Some(error), _) => Err(Box::new(status_of(error))),
        (None, Some(position)) => Ok(Position { epoch: position.epoch, sequence: position.sequence }),
        (None, None) => Err(Box::new(Status::internal("the hub sent a receipt without a position"))),
    };
    Receipt { message_id: receipt.message_id, outcome }
}

/// A status inside a frame as the status of a call, so that both are read alike.
fn status_of(status: tonic_types::pb::Status) -> Status {
    let details = if status.details.is_empty() { Bytes::new() } else { status.encode_to_vec().into() };
    Status::with_details(Code::from_i32(status.code), status.message, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Arc;
    use tonic_types::{ErrorDetails, StatusExt as _};

    fn event(topic: &str, sequence: u64) -> v1::Event {
        v1::Event { topic: topic.to_owned(), sequence, ..Default::default() }
    }

    fn gap(topic: &str, from_sequence: u64, to_sequence: u64) -> v1::Gap {
        v1::Gap { topic: topic.to_owned(), from_sequence, to_sequence, reason: 0 }
    }

    fn subscribed(topic: &str, sequence: u64) -> v1::Notice {
        let position = Some(v1::Position { epoch: "e".to_owned(), sequence });
        let subscribed = v1::Subscribed { topic: topic.to_owned(), position, recovered: true };
        v1::Notice { kind: Some(notice::Kind::Subscribed(subscribed)) }
    }

    fn shown(items: &VecDeque<Item>) -> String {
        let show = |item: &Item| match item {
            Item::Event(event) => format!("{}{}", event.topic, event.sequence),
            Item::Receipt(receipt) => format!("receipt {}", receipt.message_id),
            Item::Gap(gap) => format!("gap {}{}-{}", gap.topic, gap.from_sequence, gap.to_sequence),
            Item::Subscribed(subscribed) => format!("subscribed {}", subscribed.topic),
            Item::Draining { .. } => "draining".to_owned(),
            Item::DeadlineNear { .. } => "deadline".to_owned(),
            Item::HeartbeatAck { .. } => "ack".to_owned(),
            Item::Refused { topic, .. } => format!("refused {topic}"),
        };
        items.iter().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_gap_and_a_live_subscription_come_before_the_events_they_precede() {
        let frame = v1::ServerFrame {
            events: vec![event("a", 4), event("b", 5), event("a", 10), event("b", 11)],
            gaps: vec![gap("a", 5, 9), gap("c", 1, 2)],
            notices: vec![
                subscribed("b", 4),
                v1::Notice { kind: Some(notice::Kind::Draining(v1::Draining::default())) },
                v1::Notice { kind: None },
            ],
            receipts: vec![v1::Receipt { message_id: "m".to_owned(), ..Default::default() }],
        };
        let mut items = VecDeque::new();
        unpack(frame, &mut items);
        assert_eq!(shown(&items), "a4, subscribed b, b5, gap a5-9, a10, b11, gap c1-2, receipt m, draining");
    }

    #[test]
    fn a_resume_with_loss_tells_subscription_then_gap_then_events() {
        let frame = v1::ServerFrame {
            events: vec![event("a", 10)],
            gaps: vec![gap("a", 5, 9)],
            notices: vec![subscribed("a", 9)],
            ..Default::default()
        };
        let mut items = VecDeque::new();
        unpack(frame, &mut items);
        assert_eq!(shown(&items), "subscribed a, gap a5-9, a10");
    }

    #[test]
    fn a_receipts_refusal_keeps_its_details() {
        let details = ErrorDetails::with_error_info("QUOTA_EXCEEDED", "streamward", HashMap::new());
        let full = Status::with_error_details(Code::ResourceExhausted, "too large", details);
        let error = tonic_types::pb::Status::decode(full.details()).unwrap();
        let receipt = read_receipt(v1::Receipt { error: Some(error), ..Default::default() });
        let status = receipt.outcome.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too large"));
        assert_eq!(end_details(&status).unwrap().reason, EndReason::QuotaExceeded);
    }

    #[test]
    fn an_end_without_the_hubs_word_is_completed_lost_or_unknown() {
        assert_eq!(StreamEnd::from_status(Status::ok("")).reason, Some(EndReason::Completed));
        assert_eq!(StreamEnd::from_status(Status::unimplemented("x")).reason, None);
        let mut broken = Status::unknown("x");
        broken.set_source(Arc::new(std::io::Error::other("x")));
        let lost = StreamEnd::from_status(broken);
        assert_eq!((lost.reason, lost.status.code()), (Some(EndReason::ConnectionLost), Code::Unavailable));
    }
}
