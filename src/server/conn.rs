//! The connection's bytes: the same wrapper over TCP, a Unix socket, or memory.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use socket2::SockRef;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// What can carry a connection.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the kernel forget unsent bytes when the transport is dropped: a peer that does not read would keep up
    /// to megabytes of them otherwise.
    fn forget_unsent(&self);
}

impl Transport for TcpStream {
    fn forget_unsent(&self) {
        if let Err(error) = SockRef::from(self).set_linger(Some(Duration::ZERO)) {
            log::debug!("SO_LINGER: {error}");
        }
    }
}

impl Transport for UnixStream {
    fn forget_unsent(&self) {}
}

impl Transport for DuplexStream {
    fn forget_unsent(&self) {}
}

/// What is known of a connection's bytes; shared with whoever watches it.
#[derive(Debug, Default)]
pub struct Meter {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    read_at: Mutex<Option<Instant>>,
    blocked_since: Mutex<Option<Instant>>,
    cut: AtomicBool,
}

impl Meter {
    /// Bytes read so far.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// When the peer was last heard of.
    #[must_use]
    pub fn read_at(&self) -> Option<Instant> {
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Since when the peer has not taken a byte we have for it.
    #[must_use]
    pub fn blocked_since(&self) -> Option<Instant> {
        *self.blocked_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transport will be dropped without waiting for what the peer does not take.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        let mut blocked_since = self.blocked_since.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.written_bytes.fetch_add(*bytes as u64, Ordering::Relaxed);
                *blocked_since = None;
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                blocked_since.get_or_insert_with(Instant::now);
            }
        }
    }
}

/// A transport that counts.
#[derive(Debug)]
pub struct Conn<T: Transport> {
    io: T,
    meter: Arc<Meter>,
}

impl<T: Transport> Conn<T> {
    /// Wraps a transport.
    pub fn new(io: T) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        (Self { io, meter: Arc::clone(&meter) }, meter)
    }
}

impl<T: Transport> Drop for Conn<T> {
    fn drop(&mut self) {
        if self.meter.cut.load(Ordering::Relaxed) {
            self.io.forget_unsent();
        }
    }
}

impl<T: Transport> AsyncRead for Conn<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.meter.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
            *self.meter.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        result
    }
}

impl<T: Transport> AsyncWrite for Conn<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.meter.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.meter.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
