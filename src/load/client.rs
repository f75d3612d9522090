//! The load on Streamward: HTTP/2 by h2 alone, one connection and one session per subscriber.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;
use tonic::Status;

use crate::client::ClientError;
use crate::load::error::LoadError;
use crate::load::framing::{Deframer, framed, server_frame};
use crate::load::message::{Checker, Item, TOPIC, Template, payload};
use crate::load::progress::Progress;
use crate::wire::v1;

/// Wide enough that the windows never hold the server up.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * STREAM_WINDOW_BYTES;

/// One connection with one session on it.
pub struct Session {
    connection: Connection<TcpStream, Bytes>,
    requests: SendRequest<Bytes>,
    authority: String,
    token: String,
}

/// A session and the stream that it follows.
pub struct Subscriber {
    session: Session,
    body: RecvStream,
}

/// A session and the answers to what is published.
pub struct Receipts {
    session: Session,
    response: ResponseFuture,
}

/// Connects and logs in.
pub async fn log_in(addr: SocketAddr, user: &str) -> Result<Session, LoadError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(stream)
        .await?;
    let mut session = Session { connection, requests, authority: addr.to_string(), token: String::new() };
    let login = v1::LoginRequest { user: user.to_owned(), ..Default::default() };
    let response: v1::LoginResponse = unary(&mut session, "SessionService/Login", &login).await?;
    session.token = response.token;
    Ok(session)
}

/// Opens a session with one subscription that is live.
pub async fn subscriber(addr: SocketAddr, user: &str) -> Result<Subscriber, LoadError> {
    let mut session = log_in(addr, user).await?;
    let subscription = v1::Subscription { topic: TOPIC.to_owned(), ..Default::default() };
    let request = v1::SubscribeRequest { subscriptions: vec![subscription] };
    let (response, mut send) = call(&mut session, "MessageService/Subscribe").await?;
    send.send_data(framed(&request.encode_to_vec())?.into(), true)?;
    let mut body = accepted(drive(&mut session.connection, response).await??)?;
    drive(&mut session.connection, async {
        let (mut deframer, mut ready) = (Deframer::default(), false);
        while !ready {
            read(&mut body, &mut deframer, &mut |item| {
                ready |= item == Item::Ready;
                Ok(())
            })
            .await?;
        }
        Ok::<(), LoadError>(())
    })
    .await??;
    Ok(Subscriber { session, body })
}

/// Opens a session with a message stream to publish on, and the stream's other half, which must be followed.
pub async fn publisher(addr: SocketAddr, user: &str) -> Result<(SendStream<Bytes>, Receipts), LoadError> {
    let mut session = log_in(addr, user).await?;
    let (response, send) = call(&mut session, "MessageService/Connect").await?;
    Ok((send, Receipts { session, response }))
}

/// Publishes by a call of its own and waits for the answer.
pub async fn publish(session: &mut Session, publish: &v1::PublishRequest) -> Result<(), LoadError> {
    let _: v1::PublishResponse = unary(session, "MessageService/Publish", publish).await?;
    Ok(())
}

/// The encoded publish.
pub fn template(payload_bytes: usize) -> Result<Template, LoadError> {
    let publish = v1::Publish {
        topic: TOPIC.to_owned(),
        payload: payload(0, payload_bytes).into(),
        ..Default::default()
    };
    let frame = v1::ClientFrame { kind: Some(v1::client_frame::Kind::Publish(publish)) };
    Template::new(framed(&frame.encode_to_vec())?, payload_bytes, 0)
}

/// The encoded logout.
pub fn logout() -> Result<Vec<u8>, LoadError> {
    let frame = v1::ClientFrame { kind: Some(v1::client_frame::Kind::Logout(v1::Logout {})) };
    framed(&frame.encode_to_vec())
}

/// Receives for ever; a fault ends it and is told.
pub async fn follow(subscriber: Subscriber, index: usize, payload_bytes: usize, progress: Rc<Progress>) {
    let Subscriber { mut session, mut body } = subscriber;
    let received = drive(&mut session.connection, async {
        let mut deframer = Deframer::default();
        let mut checker = Checker::new(payload_bytes);
        loop {
            let mut sink = |item: Item<'_>| match item {
                Item::Payload(payload) => checker.accept(payload),
                Item::Ready | Item::Ping | Item::Receipt => Ok(()),
            };
            if let Err(error) = read(&mut body, &mut deframer, &mut sink).await {
                return error;
            }
            progress.advance(index, checker.next);
        }
    });
    let fault = received.await.unwrap_or_else(|error| error);
    progress.fail(format!("subscriber {index}: {fault}"));
}

/// Counts receipts for ever; a fault ends it and is told.
pub async fn follow_publisher(receipts: Receipts, progress: Rc<Progress>) {
    let Receipts { mut session, response } = receipts;
    let received = drive(&mut session.connection, async {
        let mut body = accepted(response.await?)?;
        let (mut deframer, mut count) = (Deframer::default(), 0);
        loop {
            read(&mut body, &mut deframer, &mut |item| {
                count += u64::from(item == Item::Receipt);
                Ok(())
            })
            .await?;
            progress.receipts(count);
        }
    });
    let received: Result<Result<(), LoadError>, LoadError> = received.await;
    let fault = received.and_then(|ended| ended).err();
    progress.fail(format!("publisher: {fault:?}"));
}

/// Keeps the connection alive until `leave` is done; logs the session out first when asked to.
pub async fn hold(
    subscriber: Subscriber,
    leave: impl Future<Output = ()>,
    log_out: bool,
) -> Result<(), LoadError> {
    let Subscriber { mut session, mut body } = subscriber;
    drive(&mut session.connection, async {
        let mut leave = pin!(leave);
        let mut deframer = Deframer::default();
        let mut sink = |_: Item<'_>| Ok(());
        loop {
            tokio::select! {
                () = &mut leave => return Ok::<(), LoadError>(()),
                read = read(&mut body, &mut deframer, &mut sink) => read?,
            }
        }
    })
    .await??;
    if log_out {
        let _: v1::LogoutResponse =
            unary(&mut session, "SessionService/Logout", &v1::LogoutRequest {}).await?;
    }
    Ok(())
}

/// Does `work` while the connection moves.
async fn drive<T>(
    connection: &mut Connection<TcpStream, Bytes>,
    work: impl Future<Output = T>,
) -> Result<T, LoadError> {
    let mut work = pin!(work);
    poll_fn(|context| {
        let ended = Pin::new(&mut *connection).poll(context);
        // Looked at even when the connection has ended: what arrived before counts.
        match (work.as_mut().poll(context), ended) {
            (Poll::Ready(done), _) => Poll::Ready(Ok(done)),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error.into())),
            (Poll::Pending, Poll::Ready(Ok(()))) => Poll::Ready(Err(LoadError::Closed)),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}

async fn call(session: &mut Session, method: &str) -> Result<(ResponseFuture, SendStream<Bytes>), LoadError> {
    let mut request = Request::post(format!("http://{}/streamward.v1.{method}", session.authority))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if !session.token.is_empty() {
        request = request.header("authorization", format!("Bearer {}", session.token));
    }
    let mut requests = drive(&mut session.connection, session.requests.clone().ready()).await??;
    Ok(requests.send_request(
        request.body(()).map_err(|_| LoadError::Malformed("a token that no header can carry"))?,
        false,
    )?)
}

async fn unary<T: Message + Default>(
    session: &mut Session,
    method: &str,
    message: &impl Message,
) -> Result<T, LoadError> {
    let (response, mut send) = call(session, method).await?;
    send.send_data(framed(&message.encode_to_vec())?.into(), true)?;
    let connection = &mut session.connection;
    drive(connection, async {
        let mut body = accepted(response.await?)?;
        let (mut deframer, mut answer) = (Deframer::default(), None);
        while let Some(chunk) = body.data().await {
            deframer.feed(&chunk?, &mut |message| {
                answer =
                    Some(T::decode(message).map_err(|_| LoadError::Malformed("an answer of another kind"))?);
                Ok(())
            })?;
        }
        let trailers = body.trailers().await?;
        answer.ok_or_else(|| status(trailers.as_ref()))
    })
    .await?
}

/// The response's body, unless the head already carries a status.
fn accepted(response: http::Response<RecvStream>) -> Result<RecvStream, LoadError> {
    if response.headers().contains_key("grpc-status") {
        Err(status(Some(response.headers())))
    } else {
        Ok(response.into_body())
    }
}

/// Takes the next chunk of a stream of `ServerFrame` and gives its window back.
async fn read(
    body: &mut RecvStream,
    deframer: &mut Deframer,
    sink: &mut impl FnMut(Item<'_>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let Some(chunk) = body.data().await else {
        return Err(status(body.trailers().await?.as_ref()));
    };
    let chunk = chunk?;
    body.flow_control().release_capacity(chunk.len())?;
    deframer.feed(&chunk, &mut |frame| server_frame(frame, sink))
}

/// What the server says by a status, as the client library tells it.
fn status(headers: Option<&HeaderMap>) -> LoadError {
    match headers.and_then(Status::from_header_map) {
        Some(status) => LoadError::Refused(ClientError::from(status)),
        None => LoadError::Malformed("a call that ends without a status"),
    }
}
