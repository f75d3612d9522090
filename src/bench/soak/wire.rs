//! A TCP connection that ends where it is told to, in the middle of whatever was being said.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Closed; what the server sent is not read.
    Close,
    /// Reset.
    Reset,
    /// Only this side's half is closed; the other is read to its end.
    Half,
}

/// A connection that is cut after so many written bytes, if at all.
pub(crate) struct Wire {
    io: TcpStream,
    cut: Option<(usize, Cut)>,
}

impl Wire {
    /// Connects from an address of the loopback network, so that no one address runs out of ports.
    pub(crate) async fn connect(
        from: Ipv4Addr,
        to: SocketAddr,
        receive_buffer_bytes: Option<u32>,
        cut: Option<(usize, Cut)>,
    ) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let io = socket.connect(to).await?;
        io.set_nodelay(true)?;
        if matches!(cut, Some((_, Cut::Reset))) {
            SockRef::from(&io).set_linger(Some(Duration::ZERO))?;
        }
        Ok(Self { io, cut })
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some((left, how)) = self.cut else { return Pin::new(&mut self.io).poll_write(cx, buf) };
        if left > 0 {
            let part = &buf[..buf.len().min(left)];
            let written = Pin::new(&mut self.io).poll_write(cx, part);
            if let Poll::Ready(Ok(bytes)) = written {
                self.cut = Some((left - bytes, how));
            }
            return written;
        }
        match how {
            Cut::Close | Cut::Reset => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Cut::Half => {
                // Again and again: only the first time does anything.
                SockRef::from(&self.io).shutdown(Shutdown::Write).ok();
                Poll::Ready(Ok(buf.len()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
