//! A subscriber that stops reading its socket, and what the server did with it meanwhile.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::client::ClientError;
use crate::load::arrivals::Arrivals;
use crate::load::error::LoadError;
use crate::load::line::{Caller, Left, Line};

/// Little for the kernel to take on this subscriber's behalf, and enough to keep up while it reads.
const RECEIVE_BUFFER_BYTES: u32 = 16 * 1024;
/// Awake again, it has everything when nothing comes for this long.
const QUIET: Duration = Duration::from_secs(1);

/// What became of it.
#[derive(Debug)]
pub enum Fate {
    /// The server ended its stream, and said why.
    Ended(Box<ClientError>),
    /// The server went on with later events, and said so.
    Gap,
    /// The server has waited: everything came.
    Kept,
    /// Its connection is gone without a word that could still be read.
    Lost,
    /// What it read was not what was due: the server broke its word.
    Spoiled(LoadError),
}

/// When it stops and reads again.
#[derive(Clone, Debug, Default)]
pub struct Stall {
    /// From here on nothing is read off the socket.
    pub begin: CancellationToken,
    /// From here on it is read again.
    pub end: CancellationToken,
}

/// Connects with a small receive buffer.
pub async fn dial_narrow(addr: SocketAddr) -> Result<TcpStream, LoadError> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    let stream = socket.connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One subscriber on a line of its own: says by `ready` when it is live, reads, stalls, and reads what there is then.
pub async fn follow<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    dial: impl Future<Output = Result<IO, LoadError>>,
    caller: Caller,
    stall: Stall,
    ready: oneshot::Sender<Result<String, LoadError>>,
) -> (Fate, Option<Left>) {
    let arrivals = Arrivals::new(caller.publishers, 1);
    let mut line = match Line::open(dial, &caller, 0..1).await {
        // Whoever asked may have left.
        Ok((line, epoch)) => {
            let _ = ready.send(Ok(epoch));
            line
        }
        Err((error, left)) => {
            let _ = ready.send(Err(error));
            return (Fate::Lost, left);
        }
    };
    let read = line.read(&arrivals, &stall.begin).await;
    stall.end.cancelled().await;
    let fate = match read {
        Ok(()) => awake(&mut line, &arrivals).await,
        Err(error) => fate(error),
    };
    (fate, line.log_out().await)
}

/// Reads until the stream ends or nothing comes any more.
async fn awake<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    line: &mut Line<IO>,
    arrivals: &Arrivals,
) -> Fate {
    let never = CancellationToken::new();
    loop {
        let before = arrivals.delivered();
        match timeout(QUIET, line.read(arrivals, &never)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return fate(error),
            Err(_) if arrivals.delivered() == before => return Fate::Kept,
            Err(_) => {}
        }
    }
}

fn fate(error: LoadError) -> Fate {
    match error {
        LoadError::Refused(error @ ClientError::Refused { .. }) => Fate::Ended(Box::new(error)),
        LoadError::Gap => Fate::Gap,
        LoadError::Refused(_) | LoadError::Socket(_) | LoadError::Http2(_) | LoadError::Closed => Fate::Lost,
        error @ (LoadError::Void(_) | LoadError::Malformed(_)) => Fate::Spoiled(error),
    }
}
