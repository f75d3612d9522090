//! A raw HTTP/2 client: windows set by hand, streams that stop reading, half messages, resets, lost connections.

use std::sync::{Arc, Mutex};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use prost::Message;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::Status;

use super::house::{settle, within};
use super::tape::Tape;
use super::valve::{Tap, Valve};
use crate::base::event::Position;
use crate::base::reason::EndReason;
use crate::client::{Item, Receipt, StreamEnd};
use crate::wire::codec::{Deframer, PREFIX_BYTES, prefix};
use crate::wire::v1;
use crate::wire::v1::client_frame::Kind;
use crate::wire::v1::notice;

/// How a raw client is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// `SETTINGS_INITIAL_WINDOW_SIZE`: what the server may send on one stream before it is read.
    pub(super) window: u32,
    /// The same for the connection.
    pub(super) connection_window: u32,
    /// What the "kernel" holds in each direction.
    pub(super) room: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { window: 64 * 1024, connection_window: 1024 * 1024, room: 256 * 1024 }
    }
}

/// A window of this many bytes on each stream.
pub(super) fn window(window: u32) -> Options {
    Options { window, ..Options::default() }
}

/// One connection and, once logged in, one session.
pub(super) struct Peer {
    requests: SendRequest<Bytes>,
    pub(super) tap: Tap,
    /// `authorization` of every call.
    pub(super) token: Option<String>,
    /// The session of the last login.
    pub(super) session_id: String,
    closed: Arc<Mutex<Option<String>>>,
    tasks: JoinSet<()>,
}

/// One stream of a [`Peer`].
pub(super) struct Line {
    pub(super) send: SendStream<Bytes>,
    pub(super) tape: Tape,
    brake: Arc<Brake>,
}

/// Stops a stream's reader from granting window.
#[derive(Debug, Default)]
struct Brake {
    is_pulled: Mutex<bool>,
    released: Notify,
}

const SERVICE: &str = "/streamward.v1.MessageService";

impl Peer {
    pub(super) async fn new(io: Valve, tap: Tap, options: &Options) -> Self {
        let mut builder = Builder::new();
        builder
            .initial_window_size(options.window)
            .initial_connection_window_size(options.connection_window)
            .max_send_buffer_size(1 << 20);
        let (requests, connection) = builder.handshake(io).await.unwrap();
        let closed = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let closed = Arc::clone(&closed);
            async move {
                let why = connection.await.map_or_else(|error| error.to_string(), |()| String::new());
                *closed.lock().unwrap() = Some(why);
            }
        });
        Self { requests, tap, token: None, session_id: String::new(), closed, tasks }
    }

    /// Why the connection is over, if it is; empty for a proper end.
    pub(super) fn closed(&self) -> Option<String> {
        self.closed.lock().unwrap().clone()
    }

    /// Begins a call. `timeout` is its `grpc-timeout`.
    pub(super) async fn call(
        &mut self,
        path: &str,
        timeout: Option<&str>,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post(format!("http://in-memory{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let mut requests = within(self.requests.clone().ready()).await.unwrap();
        requests.send_request(request.body(()).unwrap(), false).unwrap()
    }

    /// A unary call.
    pub(super) async fn ask<R: Message + Default>(
        &mut self,
        path: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        let (response, mut send) = self.call(path, None).await;
        send.send_data(framed(request), true).unwrap();
        within(answer(response)).await
    }

    /// Logs in; later calls are of this session.
    pub(super) async fn try_login(
        &mut self,
        user: &str,
        client_name: &str,
    ) -> Result<v1::LoginResponse, Status> {
        let client_name = client_name.to_owned();
        let request = v1::LoginRequest { user: user.to_owned(), client_name, ..Default::default() };
        let granted: v1::LoginResponse = self.ask("/streamward.v1.SessionService/Login", &request).await?;
        self.token = Some(granted.token.clone());
        self.session_id.clone_from(&granted.session_id);
        Ok(granted)
    }

    pub(super) async fn login(&mut self, user: &str, client_name: &str) -> v1::LoginResponse {
        self.try_login(user, client_name).await.unwrap()
    }

    /// Logs in on a connection whose windows may be shut: by a neighbour, whose session this one then uses.
    pub(super) fn borrow_session(&mut self, other: &Self) {
        self.token.clone_from(&other.token);
        self.session_id.clone_from(&other.session_id);
    }

    pub(super) async fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<u64, Status> {
        let payload = Bytes::copy_from_slice(payload);
        let request = v1::PublishRequest { topic: topic.to_owned(), payload, ..Default::default() };
        let answer: v1::PublishResponse = self.ask("/streamward.v1.MessageService/Publish", &request).await?;
        Ok(answer.sequence)
    }

    /// The same with a message id; tells the whole answer.
    pub(super) async fn publish_as(
        &mut self,
        topic: &str,
        payload: &[u8],
        message_id: &str,
    ) -> Result<Position, Status> {
        let (topic, message_id) = (topic.to_owned(), message_id.to_owned());
        let payload = Bytes::copy_from_slice(payload);
        let request = v1::PublishRequest { topic, payload, message_id, ..Default::default() };
        let answer: v1::PublishResponse = self.ask("/streamward.v1.MessageService/Publish", &request).await?;
        Ok(Position { epoch: answer.epoch, sequence: answer.sequence })
    }

    pub(super) async fn logout(&mut self) -> Result<u32, Status> {
        let answer: v1::LogoutResponse =
            self.ask("/streamward.v1.SessionService/Logout", &v1::LogoutRequest {}).await?;
        Ok(answer.streams_ended)
    }

    pub(super) async fn heartbeat(&mut self) -> Result<v1::HeartbeatResponse, Status> {
        self.ask("/streamward.v1.SessionService/Heartbeat", &v1::HeartbeatRequest {}).await
    }

    /// On the admin socket: ends a stream or a session.
    pub(super) async fn cancel(
        &mut self,
        id: &str,
        note: &str,
        dry_run: bool,
    ) -> Result<v1::CancelResponse, Status> {
        let rpc = if id.starts_with("stream") { "CancelStream" } else { "CancelSession" };
        let request = v1::CancelRequest { id: id.to_owned(), note: note.to_owned(), dry_run };
        self.ask(&format!("/streamward.v1.AdminService/{rpc}"), &request).await
    }

    /// Opens a message stream and waits until it stands or was refused.
    pub(super) async fn open(&mut self) -> Line {
        self.open_for(None).await
    }

    /// The same with a `grpc-timeout`.
    pub(super) async fn open_for(&mut self, timeout: Option<&str>) -> Line {
        let (response, send) = self.call(&format!("{SERVICE}/Connect"), timeout).await;
        let line = self.line(response, send);
        settle().await;
        line
    }

    /// Opens a message stream that follows `subscriptions`.
    pub(super) async fn follow(&mut self, subscriptions: impl IntoIterator<Item = v1::Subscription>) -> Line {
        let mut line = self.open().await;
        subscriptions.into_iter().for_each(|subscription| line.subscribe(subscription));
        settle().await;
        line
    }

    /// Opens a `Subscribe` stream.
    pub(super) async fn subscribe(&mut self, subscriptions: Vec<v1::Subscription>) -> Line {
        let (response, mut send) = self.call(&format!("{SERVICE}/Subscribe"), None).await;
        send.send_data(framed(&v1::SubscribeRequest { subscriptions }), true).unwrap();
        let line = self.line(response, send);
        settle().await;
        line
    }

    fn line(&mut self, response: ResponseFuture, send: SendStream<Bytes>) -> Line {
        let line = Line { send, tape: Tape::default(), brake: Arc::default() };
        self.tasks.spawn(read(response, line.tape.clone(), Arc::clone(&line.brake)));
        line
    }
}

impl Line {
    /// The hub's number of this stream is told nowhere but in its end; the n-th opened has number n.
    pub(super) fn say(&mut self, kind: Kind) {
        self.send_bytes(framed(&v1::ClientFrame { kind: Some(kind) }));
    }

    pub(super) fn send_bytes(&mut self, bytes: Bytes) {
        self.send.send_data(bytes, false).unwrap();
    }

    pub(super) fn subscribe(&mut self, subscription: v1::Subscription) {
        self.say(Kind::Subscribe(subscription));
    }

    pub(super) fn unsubscribe(&mut self, topic: &str) {
        self.say(Kind::Unsubscribe(v1::Unsubscribe { topic: topic.to_owned() }));
    }

    pub(super) fn publish(&mut self, topic: &str, payload: Bytes, message_id: &str) {
        let (topic, message_id) = (topic.to_owned(), message_id.to_owned());
        self.say(Kind::Publish(v1::Publish { topic, payload, message_id, content_type: String::new() }));
    }

    pub(super) fn heartbeat(&mut self) {
        self.say(Kind::Heartbeat(v1::Heartbeat {}));
    }

    pub(super) fn logout(&mut self) {
        self.say(Kind::Logout(v1::Logout {}));
    }

    pub(super) fn half_close(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    /// `RST_STREAM(CANCEL)`.
    pub(super) fn reset(&mut self) {
        self.send.send_reset(h2::Reason::CANCEL);
    }

    /// What is read grants no window any more.
    pub(super) fn stall(&self) {
        *self.brake.is_pulled.lock().unwrap() = true;
    }

    /// Grants what was read meanwhile.
    pub(super) fn go_on(&self) {
        *self.brake.is_pulled.lock().unwrap() = false;
        self.brake.released.notify_one();
    }
}

/// A message with its prefix.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    bytes.extend_from_slice(&prefix(message.encoded_len()));
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

async fn answer<R: Message + Default>(response: ResponseFuture) -> Result<R, Status> {
    let broken = |error: h2::Error| Status::unknown(error.to_string());
    let (head, mut body) = response.await.map_err(broken)?.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return Err(status);
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(broken)?;
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.map_err(broken)?.expect("an answer has trailers");
    let status = Status::from_header_map(&trailers).expect("trailers carry a status");
    if status.code() != tonic::Code::Ok {
        return Err(status);
    }
    bytes.advance(PREFIX_BYTES);
    Ok(R::decode(bytes).unwrap())
}

async fn read(response: ResponseFuture, tape: Tape, brake: Arc<Brake>) {
    let end = match response.await {
        Ok(response) => {
            let (head, body) = response.into_parts();
            match Status::from_header_map(&head.headers) {
                Some(status) => StreamEnd::from_status(status),
                None => {
                    tape.begin();
                    read_body(body, &tape, &brake).await
                }
            }
        }
        Err(error) => broken(&error),
    };
    tape.finish(end);
}

async fn read_body(mut body: RecvStream, tape: &Tape, brake: &Brake) -> StreamEnd {
    let mut deframer = Deframer::new(1 << 20);
    let mut owed = 0;
    loop {
        let chunk = tokio::select! {
            chunk = body.data() => chunk,
            () = brake.released.notified() => Some(Ok(Bytes::new())),
        };
        match chunk {
            Some(Ok(chunk)) => {
                owed += chunk.len();
                deframer.push(chunk);
            }
            Some(Err(error)) => return broken(&error),
            None => break,
        }
        while let Some(message) = deframer.next_message().unwrap() {
            unpack(v1::ServerFrame::decode(message).unwrap(), tape);
        }
        if !*brake.is_pulled.lock().unwrap() {
            body.flow_control().release_capacity(std::mem::take(&mut owed)).unwrap();
        }
    }
    match body.trailers().await {
        Ok(trailers) => {
            let trailers = trailers.expect("a stream ends with trailers");
            deframer.finish().expect("the trailers follow a whole message");
            StreamEnd::from_status(Status::from_header_map(&trailers).expect("trailers carry a status"))
        }
        Err(error) => broken(&error),
    }
}

/// An end without a status: a reset tells no reason, a broken connection is lost.
fn broken(error: &h2::Error) -> StreamEnd {
    let reason = (!error.is_reset()).then_some(EndReason::ConnectionLost);
    StreamEnd { reason, status: Box::new(Status::unknown(error.to_string())), details: None }
}

/// Gaps and notices precede the events of their frame.
fn unpack(frame: v1::ServerFrame, tape: &Tape) {
    let notices = frame.notices.into_iter().filter_map(|notice| notice.kind).map(item_of);
    let gaps = frame.gaps.into_iter().map(Item::Gap);
    let events = frame.events.into_iter().map(Item::Event);
    let receipts = frame.receipts.into_iter().map(|receipt| {
        let outcome = match receipt.error {
            Some(error) => Err(Box::new(rpc_status(error))),
            None => {
                let position = receipt.position.expect("a receipt has a position or an error");
                Ok(Position { epoch: position.epoch, sequence: position.sequence })
            }
        };
        Item::Receipt(Receipt { message_id: receipt.message_id, outcome })
    });
    notices.chain(gaps).chain(events).chain(receipts).for_each(|item| tape.push(item));
}

fn item_of(kind: notice::Kind) -> Item {
    let duration = |duration: Option<prost_types::Duration>| duration.unwrap().try_into().unwrap();
    match kind {
        notice::Kind::Subscribed(subscribed) => Item::Subscribed(subscribed),
        notice::Kind::Draining(draining) => {
            Item::Draining { retry_after: Some(duration(draining.retry_after)) }
        }
        notice::Kind::DeadlineNear(near) => Item::DeadlineNear { remaining: duration(near.remaining) },
        notice::Kind::HeartbeatAck(_) => Item::HeartbeatAck { server_time: None },
        notice::Kind::Refused(refused) => {
            let status = Box::new(rpc_status(refused.error.unwrap()));
            Item::Refused { topic: refused.topic, status }
        }
    }
}

fn rpc_status(status: tonic_types::pb::Status) -> Status {
    let details = status.encode_to_vec().into();
    Status::with_details(tonic::Code::from_i32(status.code), status.message, details)
}
