//! From an address to a channel: TCP, a Unix socket or any IO of the caller.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::codegen::Service;
use tonic::transport::{self, Channel};

use crate::client::error::{ClientError, EndpointError, innermost, io_kind};
use crate::client::session::Client;

/// A connection must be made within this time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The head of an answer must come within this time; a stream may then last for ever.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is pinged this often, and lost when a ping stays unanswered for as long.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What the hub may send on one stream before it is read.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// What the hub may send on a connection before it is read. h2 closes a connection on which too many small frames
/// wait unread, and counts them against half of this: hence more than one stream's window.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Where a hub is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Cleartext HTTP/2 over TCP.
    Tcp(Authority),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Reads `host:port`, `http://host:port` or `unix:/path`.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path.strip_prefix("//").unwrap_or(path));
            let named = path.is_absolute() && path.file_name().is_some();
            return if named { Ok(Self::Unix(path.into())) } else { Err(EndpointError::UnixPath) };
        }
        if text.starts_with("https://") {
            return Err(EndpointError::Tls);
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        if rest.contains("://") {
            return Err(EndpointError::Scheme);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return Err(EndpointError::Empty);
        }
        let authority: Authority = rest.parse().map_err(|_| EndpointError::Host)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(EndpointError::Host);
        }
        // `port()` is none for a missing port as well as for one that is no number.
        match (authority.port_u16(), rest.rsplit_once(':')) {
            (Some(1..), _) => Ok(Self::Tcp(authority)),
            (Some(0), _) => Err(EndpointError::Host),
            (None, Some((_, port))) if !port.ends_with(']') && !port.is_empty() => Err(EndpointError::Host),
            (None, _) => Err(EndpointError::NoPort),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Connects to a hub. Logging in is the next step: [`Client::login`].
///
/// The channel connects again by itself when a call is made after the connection was lost.
///
/// # Errors
/// [`ClientError::Connect`] when nobody answers within [`CONNECT_TIMEOUT`].
pub async fn connect(endpoint: &Endpoint) -> Result<Client, ClientError> {
    connect_with(endpoint, Keepalive::default()).await
}

/// How soon a connection on which nothing moves is known to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keepalive {
    /// Pinged this often.
    pub(crate) interval: Duration,
    /// Lost when a ping stays unanswered for this long.
    pub(crate) timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { interval: KEEP_ALIVE, timeout: KEEP_ALIVE }
    }
}

/// The same with another keep-alive.
pub(crate) async fn connect_with(endpoint: &Endpoint, keepalive: Keepalive) -> Result<Client, ClientError> {
    Ok(Client::new(channel(endpoint, keepalive).await?))
}

/// Talks to a hub over one ready connection, for example one half of [`tokio::io::duplex`].
///
/// There is no second connection: when this one is lost, calls fail.
///
/// # Errors
/// [`ClientError::Connect`] when the other side does not speak HTTP/2.
pub async fn connect_io<IO>(io: IO) -> Result<Client, ClientError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut io = Some(io);
    let once = Connector::Other(Box::new(move || {
        let io = io.take();
        let none_left = || io::Error::from(io::ErrorKind::NotConnected);
        Box::pin(async move { Ok(boxed(io.ok_or_else(none_left)?)) })
    }));
    let connected = tuned("http://in-memory", Keepalive::default())?.connect_with_connector(once).await;
    Ok(Client::new(connected.map_err(|error| connect_error("in memory".to_owned(), &error))?))
}

/// A channel with this module's timeouts and windows.
pub(crate) async fn channel(endpoint: &Endpoint, keepalive: Keepalive) -> Result<Channel, ClientError> {
    let (uri, connector) = match endpoint {
        Endpoint::Tcp(authority) => (format!("http://{authority}"), Connector::tcp()),
        // The authority a Unix socket has in gRPC's other implementations.
        Endpoint::Unix(path) => ("http://localhost".to_owned(), Connector::unix(path.clone())),
    };
    let connected = tuned(&uri, keepalive)?.connect_with_connector(connector).await;
    connected.map_err(|error| connect_error(endpoint.to_string(), &error))
}

fn tuned(uri: &str, keepalive: Keepalive) -> Result<transport::Endpoint, ClientError> {
    let endpoint = transport::Endpoint::from_shared(uri.to_owned())
        .map_err(|error| connect_error(uri.to_owned(), &error))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .http2_keep_alive_interval(keepalive.interval)
        .keep_alive_timeout(keepalive.timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

fn connect_error(endpoint: String, error: &transport::Error) -> ClientError {
    ClientError::Connect { endpoint, why: innermost(error), kind: io_kind(error) }
}

/// What a channel talks over.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Io for IO {}

type BoxError = Box<dyn Error + Send + Sync>;
type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<Box<dyn Io>>, BoxError>> + Send>>;

fn boxed(io: impl Io + 'static) -> TokioIo<Box<dyn Io>> {
    TokioIo::new(Box::new(io))
}

/// Connects, as often as asked. One type for all ways: the code of a channel is there once for each.
enum Connector {
    /// To each address the host's name has, the other family's too when the first does not answer soon.
    Tcp(HttpConnector),
    /// By other means.
    Other(Box<dyn FnMut() -> Connecting + Send>),
}

impl Connector {
    fn tcp() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self::Tcp(connector)
    }

    fn unix(path: PathBuf) -> Self {
        Self::Other(Box::new(move || {
            let path = path.clone();
            Box::pin(async move { Ok(boxed(UnixStream::connect(path).await?)) })
        }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        match self {
            Self::Tcp(connector) => {
                let connecting = connector.call(uri);
                Box::pin(async move { Ok(boxed(connecting.await?.into_inner())) })
            }
            Self::Other(connect) => connect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for (text, shown) in [
            ("127.0.0.1:50051", "127.0.0.1:50051"),
            ("http://pi.local:50051", "pi.local:50051"),
            ("http://pi.local:50051/", "pi.local:50051"),
            ("[::1]:50051", "[::1]:50051"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn every_other_text_is_refused_with_what_to_write() {
        for (text, error) in [
            ("", EndpointError::Empty),
            ("http://", EndpointError::Empty),
            ("https://pi:1", EndpointError::Tls),
            ("ftp://pi:1", EndpointError::Scheme),
            ("pi", EndpointError::NoPort),
            ("pi:", EndpointError::NoPort),
            ("[::1]", EndpointError::NoPort),
            ("pi:x", EndpointError::Host),
            ("pi:0", EndpointError::Host),
            ("pi:70000", EndpointError::Host),
            ("user@pi:1", EndpointError::Host),
            ("pi:1/path", EndpointError::Host),
            ("a b:1", EndpointError::Host),
            (":1", EndpointError::Host),
            ("unix:", EndpointError::UnixPath),
            ("unix:relative", EndpointError::UnixPath),
            ("unix:/", EndpointError::UnixPath),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text:?}");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_told_with_the_address_and_the_cause() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = connect(&address.parse().unwrap()).await.err().unwrap();
        assert_eq!(error.to_string(), format!("cannot reach the hub at {address}: connection refused"));

        let error = connect(&"unix:/nonexistent/x.sock".parse().unwrap()).await.err().unwrap();
        assert!(matches!(error, ClientError::Connect { kind: Some(io::ErrorKind::NotFound), .. }), "{error}");
    }
}
