//! One connection with one session on it, and the calls it makes: HTTP/2 by h2 alone.

use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::Status;

use crate::client::ClientError;
use crate::load::error::LoadError;
use crate::load::framing::{Deframer, framed, server_frame};
use crate::load::message::{Item, TOPIC};
use crate::wire::v1;

/// Wide enough that the windows never hold the server up.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The same for a connection with many streams.
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// A heartbeat when the policy names none: a third of the default lease.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// One connection with one session on it. Nothing moves on the connection but while one of its calls is awaited, or
/// [`drive`](Self::drive) is.
pub struct Session<IO> {
    /// Boxed, and so is what is awaited below: these are in every future of the load.
    connection: Box<Connection<IO, Bytes>>,
    requests: SendRequest<Bytes>,
    authority: String,
    token: String,
    /// How often the server wants a sign of life.
    pub heartbeat_interval: Duration,
}

/// Frames that the server sends on one stream, read in place.
pub struct Frames {
    body: RecvStream,
    deframer: Deframer,
}

/// Connects, without delays of the kernel's.
pub async fn dial(addr: SocketAddr) -> Result<TcpStream, LoadError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Session<IO> {
    /// A connection without a session.
    pub async fn over(io: IO, authority: &str) -> Result<Self, LoadError> {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (requests, connection) = Box::pin(builder.handshake(io)).await?;
        let connection = Box::new(connection);
        let (authority, token) = (authority.to_owned(), String::new());
        Ok(Self { connection, requests, authority, token, heartbeat_interval: HEARTBEAT_INTERVAL })
    }

    /// Logs in over a connection that nothing was said on yet.
    pub async fn log_in(io: IO, authority: &str, user: &str, client_name: &str) -> Result<Self, LoadError> {
        let mut session = Self::over(io, authority).await?;
        session.enter(user, client_name).await?;
        Ok(session)
    }

    /// Logs in over this connection; from here on calls are made in the new session's name.
    pub async fn enter(&mut self, user: &str, client_name: &str) -> Result<(), LoadError> {
        let login = v1::LoginRequest {
            user: user.to_owned(),
            client_name: client_name.to_owned(),
            ..Default::default()
        };
        let response: v1::LoginResponse = self.unary("SessionService/Login", &login).await?;
        self.token = response.token;
        let told = response.policy.and_then(|policy| policy.heartbeat_interval);
        let told = told.and_then(|interval| Duration::try_from(interval).ok());
        self.heartbeat_interval = told.filter(|told| !told.is_zero()).unwrap_or(HEARTBEAT_INTERVAL);
        Ok(())
    }

    /// The secret that other connections may use to act in this session's name.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// From here on calls are made in the name of the session with this token; of none when it is empty.
    pub fn act_as(&mut self, token: &str) {
        token.clone_into(&mut self.token);
    }

    /// Logs out a session of another connection that is gone, by its token.
    pub async fn log_out_of(io: IO, authority: &str, token: &str) -> Result<(), LoadError> {
        let mut session = Self::over(io, authority).await?;
        token.clone_into(&mut session.token);
        session.log_out().await
    }

    /// Begins a call; the request's messages follow on what it returns.
    pub async fn call(&mut self, method: &str) -> Result<(ResponseFuture, SendStream<Bytes>), LoadError> {
        let requests = self.requests.clone().ready();
        self.drive(requests)
            .await?
            .map_err(LoadError::from)?
            .send_request(self.head(method)?, false)
            .map_err(Into::into)
    }

    fn head(&self, method: &str) -> Result<Request<()>, LoadError> {
        let mut request = Request::post(format!("http://{}/streamward.v1.{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        request.body(()).map_err(|_| LoadError::Malformed("a token that no header can carry"))
    }

    /// A call of one message each way.
    pub async fn unary<T: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<T, LoadError> {
        let (response, mut send) = self.call(method).await?;
        send.send_data(framed(&message.encode_to_vec())?.into(), true)?;
        self.drive(answer(response)).await?
    }

    /// Opens a server stream and returns when its head is there.
    pub async fn subscribe(&mut self, request: &v1::SubscribeRequest) -> Result<Frames, LoadError> {
        let (response, mut send) = self.call("MessageService/Subscribe").await?;
        send.send_data(framed(&request.encode_to_vec())?.into(), true)?;
        Frames::of(self.drive(response).await??)
    }

    /// Follows the topic from now on: the stream, live, and the epoch of the hub's order.
    pub async fn follow(&mut self, overflow: v1::Overflow) -> Result<(Frames, String), LoadError> {
        let subscription =
            v1::Subscription { topic: TOPIC.to_owned(), overflow: overflow.into(), ..Default::default() };
        let mut frames = self.subscribe(&v1::SubscribeRequest { subscriptions: vec![subscription] }).await?;
        let epoch = self.drive(frames.live()).await??;
        Ok((frames, epoch))
    }

    /// Opens a message stream to publish on.
    pub async fn connect(&mut self) -> Result<(SendStream<Bytes>, Frames), LoadError> {
        let (response, send) = self.call("MessageService/Connect").await?;
        Ok((send, Frames::of(self.drive(response).await??)?))
    }

    /// A sign of life, which the caller drives: the connection may be busy with other things. It borrows nothing.
    pub fn heartbeat(&mut self) -> Result<impl Future<Output = Result<(), LoadError>> + use<IO>, LoadError> {
        let head = self.head("SessionService/Heartbeat")?;
        let (response, mut send) = self.requests.send_request(head, false)?;
        send.send_data(framed(&v1::HeartbeatRequest {}.encode_to_vec())?.into(), true)?;
        Ok(async { answer::<v1::HeartbeatResponse>(response).await.map(|_| ()) })
    }

    /// Ends the session and its streams on the server.
    pub async fn log_out(&mut self) -> Result<(), LoadError> {
        self.unary("SessionService/Logout", &v1::LogoutRequest {}).await.map(|_: v1::LogoutResponse| ())
    }

    /// Logs out a session that got no stream: it is not to stay until its lease ends. Gives the error back.
    pub(crate) async fn leave_for(&mut self, error: LoadError) -> LoadError {
        // With the connection gone there is nobody to tell.
        let _ = self.log_out().await;
        error
    }

    /// Logs out, lets go of `streams`, and waits until the server has closed the connection.
    pub(crate) async fn leave<T>(mut self, streams: T) -> Result<(), LoadError> {
        self.log_out().await?;
        drop(streams);
        self.closed().await
    }

    /// The server closes a connection that carries nothing any more.
    pub(crate) async fn closed(mut self) -> Result<(), LoadError> {
        match self.drive(pending::<()>()).await {
            Ok(()) | Err(LoadError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Does `work` while the connection moves.
    pub async fn drive<T>(&mut self, work: impl Future<Output = T>) -> Result<T, LoadError> {
        let mut work = pin!(work);
        poll_fn(|context| {
            let ended = self.poll_connection(context);
            // Looked at even when the connection has ended: what arrived before counts.
            match (work.as_mut().poll(context), ended) {
                (Poll::Ready(done), _) => Poll::Ready(Ok(done)),
                (Poll::Pending, Poll::Ready(error)) => Poll::Ready(Err(error)),
                (Poll::Pending, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }

    /// Moves the connection; ready with why it ended.
    pub fn poll_connection(&mut self, context: &mut Context<'_>) -> Poll<LoadError> {
        let ended = ready!(Pin::new(&mut *self.connection).poll(context));
        Poll::Ready(ended.err().map_or(LoadError::Closed, LoadError::from))
    }
}

impl Frames {
    /// The frames of a call whose head is there.
    pub fn of(response: http::Response<RecvStream>) -> Result<Self, LoadError> {
        Ok(Self { body: accepted(response)?, deframer: Deframer::default() })
    }

    /// Hands what the next chunk says to `sink` and gives its window back. The stream's end is an error.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut impl FnMut(Item<'_>) -> Result<(), LoadError>,
    ) -> Poll<Result<(), LoadError>> {
        let Some(chunk) = ready!(self.body.poll_data(context)) else {
            let trailers = ready!(self.body.poll_trailers(context))?;
            return Poll::Ready(Err(status(trailers.as_ref())));
        };
        let chunk = chunk?;
        self.body.flow_control().release_capacity(chunk.len())?;
        Poll::Ready(self.deframer.feed(&chunk, &mut |frame| server_frame(frame, sink)))
    }

    /// The same, awaited.
    pub async fn read(
        &mut self,
        sink: &mut impl FnMut(Item<'_>) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        poll_fn(|context| self.poll_read(context, sink)).await
    }

    /// The whole frames that end in the next chunk, decoded: for a load whose work is not the deliveries. Nothing is
    /// lost when it is dropped.
    pub async fn next(&mut self) -> Result<Vec<v1::ServerFrame>, LoadError> {
        let Some(chunk) = self.body.data().await else {
            return Err(status(self.body.trailers().await?.as_ref()));
        };
        let (chunk, mut frames) = (chunk?, Vec::new());
        self.body.flow_control().release_capacity(chunk.len())?;
        self.deframer.feed(&chunk, &mut |frame| {
            let frame = v1::ServerFrame::decode(frame);
            frames.push(frame.map_err(|_| LoadError::Malformed("a frame of another kind"))?);
            Ok(())
        })?;
        Ok(frames)
    }

    /// Reads up to the word that the subscription is live, and returns the epoch of the hub's order.
    async fn live(&mut self) -> Result<String, LoadError> {
        loop {
            let notices = self.next().await?.into_iter().flat_map(|frame| frame.notices);
            for notice in notices {
                if let Some(v1::notice::Kind::Subscribed(subscribed)) = notice.kind {
                    return Ok(subscribed.position.unwrap_or_default().epoch);
                }
            }
        }
    }
}

async fn answer<T: Message + Default>(response: ResponseFuture) -> Result<T, LoadError> {
    let mut body = accepted(response.await?)?;
    let (mut deframer, mut answer) = (Deframer::default(), None);
    while let Some(chunk) = body.data().await {
        deframer.feed(&chunk?, &mut |message| {
            let decoded =
                T::decode(message).map_err(|_| LoadError::Malformed("an answer of another kind"))?;
            answer = Some(decoded);
            Ok(())
        })?;
    }
    let trailers = body.trailers().await?;
    answer.ok_or_else(|| status(trailers.as_ref()))
}

/// The response's body, unless the head already carries a status.
fn accepted(response: http::Response<RecvStream>) -> Result<RecvStream, LoadError> {
    if response.headers().contains_key("grpc-status") {
        Err(status(Some(response.headers())))
    } else {
        Ok(response.into_body())
    }
}

/// What the server says by a status, as the client library tells it.
fn status(headers: Option<&HeaderMap>) -> LoadError {
    match headers.and_then(Status::from_header_map) {
        Some(status) => LoadError::Refused(ClientError::from(status)),
        None => LoadError::Malformed("a call that ends without a status"),
    }
}
