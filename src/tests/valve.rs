//! The client's end of an in-memory connection, which the test can stop as if the process slept, or cut.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

#[derive(Debug)]
struct State {
    io: Option<DuplexStream>,
    is_closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What the client reads and writes.
#[derive(Debug)]
pub(super) struct Valve(Arc<Mutex<State>>);

/// What the test turns.
#[derive(Clone, Debug)]
pub(super) struct Tap(Arc<Mutex<State>>);

/// A pipe that holds `room` bytes in each direction: the client's end, its tap, the server's end.
pub(super) fn pipe(room: usize) -> (Valve, Tap, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(room);
    let state = Arc::new(Mutex::new(State { io: Some(ours), is_closed: false, reader: None, writer: None }));
    (Valve(Arc::clone(&state)), Tap(state), theirs)
}

impl Tap {
    /// The client neither reads nor writes from now on.
    pub(super) fn shut(&self) {
        self.0.lock().unwrap().is_closed = true;
    }

    /// It does again.
    pub(super) fn open(&self) {
        let mut state = self.0.lock().unwrap();
        state.is_closed = false;
        state.wake();
    }

    /// The connection is gone, unsent bytes with it.
    pub(super) fn cut(&self) {
        let mut state = self.0.lock().unwrap();
        state.io = None;
        state.is_closed = false;
        state.wake();
    }
}

impl State {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    /// The pipe, unless it is shut. Whoever polls is woken when the tap is turned.
    fn io(&mut self) -> Poll<io::Result<Pin<&mut DuplexStream>>> {
        if self.is_closed {
            return Poll::Pending;
        }
        Poll::Ready(self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::ConnectionReset.into()))
    }

    fn reading(&mut self, cx: &Context<'_>) -> Poll<io::Result<Pin<&mut DuplexStream>>> {
        self.reader = Some(cx.waker().clone());
        self.io()
    }

    fn writing(&mut self, cx: &Context<'_>) -> Poll<io::Result<Pin<&mut DuplexStream>>> {
        self.writer = Some(cx.waker().clone());
        self.io()
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.0.lock().unwrap().io = None;
    }
}

impl AsyncRead for Valve {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0.lock().unwrap().reading(cx) {
            Poll::Ready(Ok(io)) => io.poll_read(cx, buf),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Valve {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.0.lock().unwrap().writing(cx) {
            Poll::Ready(Ok(io)) => io.poll_write(cx, buf),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.lock().unwrap().writing(cx) {
            Poll::Ready(Ok(io)) => io.poll_shutdown(cx),
            Poll::Ready(Err(_)) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}
