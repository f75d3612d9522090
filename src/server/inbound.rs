//! The client's half of a message stream: frames in, receipts and notices out.

use std::task::Poll;

use prost::Message as _;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::pb;

use crate::base::reason::{Cause, EndReason};
use crate::base::topic::Topic;
use crate::server::auth;
use crate::server::call::ignore_gone;
use crate::server::publish::{publish, too_large_cause};
use crate::server::stream::{Handle, check_subscription, subscribe};
use crate::wire::codec::{Deframer, FrameError};
use crate::wire::convert;
use crate::wire::v1;
use crate::wire::v1::client_frame::Kind as Frame;
use crate::wire::v1::notice::Kind as Notice;

/// How the client's half ended.
#[derive(Debug)]
pub(super) enum InboundEnd {
    /// Half-close: the client has nothing more to say.
    HalfClosed,
    /// A logout frame.
    LoggedOut,
    /// Not a frame of the contract.
    Invalid(Cause),
    /// Reset, or the connection is lost.
    Gone,
}

/// Reads one stream's frames.
#[derive(Debug)]
pub(super) struct Inbound {
    handle: Handle,
    body: h2::RecvStream,
    deframer: Deframer,
    message_bytes_max: usize,
}

impl Inbound {
    pub(super) fn new(handle: Handle, body: h2::RecvStream) -> Self {
        let limits = handle.core.limits();
        let deframer = Deframer::new(limits.event_bytes_max());
        Self { handle, body, deframer, message_bytes_max: limits.message_bytes_max }
    }

    /// Reads to the end. While receipts wait to leave, nothing more is read: the client's window closes.
    pub(super) async fn run(&mut self) -> InboundEnd {
        loop {
            loop {
                let message = match self.deframer.next_message() {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    Err(error) => return InboundEnd::Invalid(self.invalid_frame(error)),
                };
                self.room().await;
                match v1::ClientFrame::decode(message) {
                    Ok(v1::ClientFrame { kind: Some(Frame::Logout(_)) }) => return InboundEnd::LoggedOut,
                    // A kind of a newer contract is passed over, as unknown fields are.
                    Ok(v1::ClientFrame { kind }) => self.obey(kind),
                    Err(error) => {
                        let cause = Cause::client(EndReason::InvalidRequest);
                        return InboundEnd::Invalid(cause.with_note(&format!("frame: {error}")));
                    }
                }
            }
            match self.body.data().await {
                Some(Ok(chunk)) => {
                    ignore_gone(self.body.flow_control().release_capacity(chunk.len()));
                    if !chunk.is_empty() {
                        self.handle.core.hub().heard(self.handle.key, Instant::now());
                        self.deframer.push(chunk);
                    }
                }
                Some(Err(_)) => return InboundEnd::Gone,
                None => {
                    return match self.deframer.finish() {
                        Ok(()) => InboundEnd::HalfClosed,
                        Err(error) => InboundEnd::Invalid(self.invalid_frame(error)),
                    };
                }
            }
        }
    }

    fn invalid_frame(&self, error: FrameError) -> Cause {
        match error {
            FrameError::TooLarge { .. } => too_large_cause(self.message_bytes_max),
            FrameError::Compressed | FrameError::Flag(_) | FrameError::Truncated => {
                Cause::client(EndReason::InvalidRequest).with_note(&error.to_string())
            }
        }
    }

    async fn room(&self) {
        let Handle { core, key, .. } = &self.handle;
        std::future::poll_fn(|cx| {
            if core.hub().has_control_room(*key, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn obey(&self, frame: Option<Frame>) {
        let Handle { core, key, session, principal, scope, .. } = &self.handle;
        if scope.is_ending() {
            return;
        }
        match frame {
            Some(Frame::Publish(event)) => {
                let receipt = match publish(core, *session, principal, &event) {
                    Ok(position) => v1::Receipt {
                        message_id: event.message_id,
                        position: Some(convert::position(position)),
                        error: None,
                    },
                    Err(status) => {
                        let (message_id, error) = (cut(event.message_id), Some(rpc_status(&status)));
                        v1::Receipt { message_id, position: None, error }
                    }
                };
                core.hub().push_control(*key, |out| convert::encode_receipt(&receipt, out));
            }
            Some(Frame::Subscribe(subscription)) => {
                let placed = check_subscription(principal, &subscription).and_then(|wanted| {
                    subscribe(&self.handle, &wanted).map_err(|refusal| Box::new(auth::refusal(&refusal)))
                });
                if let Err(status) = placed {
                    self.refuse(subscription.topic, &status);
                }
            }
            Some(Frame::Unsubscribe(unsubscribe)) => self.unsubscribe(unsubscribe.topic),
            Some(Frame::Heartbeat(_)) => {
                let server_time = Some(convert::timestamp(std::time::SystemTime::now()));
                let ack = Notice::HeartbeatAck(v1::HeartbeatAck { server_time });
                let mut hub = core.hub();
                hub.heartbeat(*session, Instant::now());
                hub.push_control(*key, |out| convert::encode_notice(ack, out));
            }
            Some(Frame::Logout(_)) | None => {}
        }
    }

    fn unsubscribe(&self, name: String) {
        let done = match Topic::parse(&name) {
            Ok(topic) => {
                let done = self.handle.core.hub().unsubscribe(self.handle.key, &topic, Instant::now());
                done.map_err(|refusal| auth::refusal(&refusal))
            }
            Err(error) => Err(crate::wire::status::invalid_field("topic", &error.to_string())),
        };
        if let Err(status) = done {
            self.refuse(name, &status);
        }
    }

    fn refuse(&self, topic: String, status: &Status) {
        let refused = v1::SubscriptionRefused { topic: cut(topic), error: Some(rpc_status(status)) };
        let Handle { core, key, .. } = &self.handle;
        core.hub().push_control(*key, |out| convert::encode_notice(Notice::Refused(refused), out));
    }
}

/// A name from the client that may be over its bound, cut so that what waits for the client stays bounded.
fn cut(mut name: String) -> String {
    let mut end = name.len().min(crate::base::limits::TOPIC_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}

/// A status as `google.rpc.Status`, details included.
fn rpc_status(status: &Status) -> pb::Status {
    pb::Status::decode(status.details()).unwrap_or_else(|_| pb::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}
