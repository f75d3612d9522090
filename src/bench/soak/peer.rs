//! A client of the contract by h2 alone, so that the tool can also do what the client library never would.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use streamward::wire::codec::{Deframer, prefix};
use streamward::wire::v1;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Status;

use crate::wire::{Cut, Wire};

/// Longest wait for any one answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than any frame of the server.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a call did not do what it was made for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server said so; also how a stream ends, with OK when it completed.
    Told(Box<Status>),
    /// The connection or the stream broke, or never came to be.
    Broken(String),
    /// Nothing came for [`PATIENCE`].
    Silent(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Broken(why) => write!(f, "broken: {why}"),
            Self::Silent(what) => write!(f, "no {what} within {PATIENCE:?}"),
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// How a peer connects.
#[derive(Clone, Copy)]
pub(crate) struct Dial {
    pub(crate) to: SocketAddr,
    pub(crate) from: Ipv4Addr,
    /// What the server may send on one stream before this side reads.
    pub(crate) window_bytes: u32,
    /// Set small where the kernel must not take what the program does not read.
    pub(crate) receive_buffer_bytes: Option<u32>,
    /// After how many bytes the connection is cut, and how.
    pub(crate) cut: Option<(usize, Cut)>,
}

/// One connection, and the session on it once it has logged in. Dropped, it is closed.
pub(crate) struct Peer {
    requests: SendRequest<Bytes>,
    authority: String,
    pub(crate) token: String,
    stop: Rc<Notify>,
    _driver: JoinSet<()>,
}

/// One streaming call.
pub(crate) struct Stream {
    send: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    deframer: Deframer,
}

impl Peer {
    /// Connects.
    pub(crate) async fn connect(dial: Dial) -> Result<Self, Failure> {
        let opening = async {
            let wire = Wire::connect(dial.from, dial.to, dial.receive_buffer_bytes, dial.cut).await;
            let wire = wire.map_err(|error| Failure::Broken(error.to_string()))?;
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(dial.window_bytes);
            builder.initial_connection_window_size(dial.window_bytes.max(1 << 20));
            Ok(builder.handshake::<_, Bytes>(wire).await?)
        };
        let (requests, mut connection) = within("connection", opening).await?;
        let stop = Rc::new(Notify::new());
        let stopped = Rc::clone(&stop);
        let mut driver = JoinSet::new();
        driver.spawn_local(async move {
            tokio::select! {
                // Its end is seen on every call.
                _ = &mut connection => {}
                () = stopped.notified() => std::future::pending().await,
            }
        });
        Ok(Self { requests, authority: dial.to.to_string(), token: String::new(), stop, _driver: driver })
    }

    /// Takes and sends no byte any more; the socket stays open.
    pub(crate) fn freeze(&self) {
        self.stop.notify_one();
    }

    /// Opens a session.
    pub(crate) async fn log_in(&mut self, user: &str, client_name: &str) -> Result<(), Failure> {
        let request = v1::LoginRequest {
            user: user.to_owned(),
            client_name: client_name.to_owned(),
            ..Default::default()
        };
        let answer: v1::LoginResponse = self.unary("SessionService/Login", &request).await?;
        self.token = answer.token;
        Ok(())
    }

    /// Ends the session.
    pub(crate) async fn log_out(&mut self) -> Result<(), Failure> {
        let answer: Result<v1::LogoutResponse, Failure> =
            self.unary("SessionService/Logout", &v1::LogoutRequest {}).await;
        answer.map(|_| ())
    }

    /// One call with one answer.
    pub(crate) async fn unary<T: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<T, Failure> {
        let mut stream = self.open(method).await?;
        stream.send(message, true)?;
        within("answer", async {
            let answer = stream.next::<T>().await?;
            match stream.next::<T>().await {
                Err(Failure::Told(status)) if status.code() == tonic::Code::Ok => Ok(answer),
                Err(failure) => Err(failure),
                Ok(_) => Err(Failure::Broken("two answers to one call".to_owned())),
            }
        })
        .await
    }

    /// A call under way.
    pub(crate) async fn open(&mut self, method: &str) -> Result<Stream, Failure> {
        let mut request = Request::post(format!("http://{}/streamward.v1.{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        let request = request.body(()).map_err(|error| Failure::Broken(error.to_string()))?;
        let mut requests =
            within("room for a call", async { Ok(self.requests.clone().ready().await?) }).await?;
        let (response, send) = requests.send_request(request, false)?;
        Ok(Stream { send, response: Some(response), body: None, deframer: Deframer::new(FRAME_BYTES_MAX) })
    }
}

impl Stream {
    /// Sends one message; it waits here while the server grants no window.
    pub(crate) fn send(&mut self, message: &impl Message, end: bool) -> Result<(), Failure> {
        let length = message.encoded_len();
        let mut framed = BytesMut::with_capacity(length + 5);
        framed.put_slice(&prefix(length));
        framed.put(message.encode_to_vec().as_slice());
        Ok(self.send.send_data(framed.freeze(), end)?)
    }

    /// Sends one frame of a message stream.
    pub(crate) fn frame(&mut self, kind: v1::client_frame::Kind) -> Result<(), Failure> {
        self.send(&v1::ClientFrame { kind: Some(kind) }, false)
    }

    /// Half-closes the stream.
    pub(crate) fn half_close(&mut self) -> Result<(), Failure> {
        Ok(self.send.send_data(Bytes::new(), true)?)
    }

    /// Cancels the call.
    pub(crate) fn cancel(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    /// The next message; the end of the stream as a failure. Safe to drop while it waits.
    pub(crate) async fn next<T: Message + Default>(&mut self) -> Result<T, Failure> {
        loop {
            let whole = self.deframer.next_message().map_err(|error| Failure::Broken(error.to_string()))?;
            if let Some(bytes) = whole {
                return T::decode(bytes).map_err(|error| Failure::Broken(error.to_string()));
            }
            let body = self.body().await?;
            match body.data().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    body.flow_control().release_capacity(chunk.len())?;
                    self.deframer.push(chunk);
                }
                None => return Err(told(body.trailers().await?.as_ref())),
            }
        }
    }

    /// Waits until the stream ends or breaks, and takes nothing of what it brings: the window stays shut.
    pub(crate) async fn end_unread(&mut self) -> Failure {
        let body = match self.body().await {
            Ok(body) => body,
            Err(failure) => return failure,
        };
        // Trailers come past a shut window only when what was sent before them is taken off.
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.into(),
                None => {
                    return body.trailers().await.map_or_else(Into::into, |trailers| told(trailers.as_ref()));
                }
            }
        }
    }

    async fn body(&mut self) -> Result<&mut RecvStream, Failure> {
        if let Some(response) = &mut self.response {
            let head = poll_fn(|cx| std::pin::Pin::new(&mut *response).poll(cx)).await?;
            self.response = None;
            if head.headers().contains_key("grpc-status") {
                return Err(told(Some(head.headers())));
            }
            self.body = Some(head.into_body());
        }
        self.body.as_mut().ok_or_else(|| Failure::Broken("read after its end".to_owned()))
    }
}

fn told(headers: Option<&HeaderMap>) -> Failure {
    match headers.and_then(Status::from_header_map) {
        Some(status) => Failure::Told(Box::new(status)),
        None => Failure::Broken("a call ended without a status".to_owned()),
    }
}

/// What the future gives, unless it takes too long.
pub(crate) async fn within<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout(PATIENCE, work).await.unwrap_or(Err(Failure::Silent(what)))
}
