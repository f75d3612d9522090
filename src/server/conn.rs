//! The connection's bytes: the same wrapper over TCP, a Unix socket, or memory.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use socket2::SockRef;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::base::limits::{LOAN_BYTES_MIN, UNSENT_BYTES_MAX, UNSENT_BYTES_SHORT};
use crate::runtime::gauge::Gauge;
use crate::server::authority::AuthorityFilter;
use crate::server::read_turn::ReadTurn;
use crate::server::scan::Scanner;
use crate::server::unsent::{Lent, Unsent};

/// What can carry a connection.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Debug + 'static {
    /// Makes the kernel forget unsent bytes when the transport is dropped: a peer that does not read would keep up
    /// to megabytes of them otherwise.
    fn forget_unsent(&self);

    /// Whether clients of this transport may send an `:authority` that h2 refuses.
    fn has_odd_authority(&self) -> bool {
        false
    }
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

    fn has_odd_authority(&self) -> bool {
        true
    }
}

impl Transport for DuplexStream {
    fn forget_unsent(&self) {}
}

/// What is known of a connection's bytes; shared with whoever watches it.
#[derive(Debug, Default)]
pub struct Meter {
    written_bytes: AtomicU64,
    read_at: Mutex<Option<Instant>>,
    blocked_since: Mutex<Option<Instant>>,
    unsent: OnceLock<Arc<Gauge>>,
    cut: AtomicBool,
    data_frames_sent: AtomicU64,
    /// Handed to h2 since everything had left for the last time.
    queued_bytes: AtomicUsize,
    /// Streams that have something to send, but not before that.
    waiting: Mutex<Vec<Waker>>,
    /// What was handed over in this turn and may come back as slices.
    lent: Mutex<Lent>,
    has_lent: AtomicBool,
    watch: Mutex<Watch>,
    alarm: AtomicBool,
}

/// What a peer's frames say of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Watch {
    /// What it sent too much of.
    pub(super) flood: Option<&'static str>,
    /// Since when a header block of it is not complete.
    pub(super) header_block_since: Option<Instant>,
}

impl Meter {
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

    /// Has `gauge` show from now on what waits for the peer.
    pub fn count_unsent(&self, gauge: Arc<Gauge>) {
        // There is one connection for a meter, so it is set once.
        let _ = self.unsent.set(gauge);
    }

    fn holds(&self, unsent_bytes: usize) {
        if let Some(gauge) = self.unsent.get() {
            gauge.set(unsent_bytes as u64);
        }
    }

    /// Ready while the peer takes what it is sent and less than [`UNSENT_BYTES_MAX`] is on its way to the kernel, or
    /// [`UNSENT_BYTES_SHORT`] while all connections together hold too much. More is not taken from the hub: it would
    /// wait inside h2, as much for each stream as its window admits.
    pub(super) fn poll_queue(&self, cx: &Context<'_>) -> Poll<()> {
        let queued_bytes = self.queued_bytes.load(Ordering::Relaxed);
        if queued_bytes < UNSENT_BYTES_SHORT || queued_bytes < self.queue_bytes_max() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // At most one for each stream of the connection.
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn queue_bytes_max(&self) -> usize {
        let is_short = self.unsent.get().is_some_and(|gauge| gauge.total().is_full());
        if is_short { UNSENT_BYTES_SHORT } else { UNSENT_BYTES_MAX }
    }

    /// The peer takes no more: neither do its streams.
    fn blocked(&self) {
        self.queued_bytes.fetch_max(UNSENT_BYTES_MAX, Ordering::Relaxed);
    }

    /// Everything has left, or what was handed over was dropped with its stream.
    fn emptied(&self) {
        if self.queued_bytes.swap(0, Ordering::Relaxed) >= UNSENT_BYTES_SHORT {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// The transport will be dropped without waiting for what the peer does not take.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// A DATA frame was handed to h2: the peer may send frames of its own for it.
    pub(super) fn sent_data_frame(&self, bytes: usize) {
        self.data_frames_sent.fetch_add(1, Ordering::Relaxed);
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The same of a message that others may be sent, too: what h2 writes of it in this turn is not copied.
    pub(super) fn sent_message(&self, message: &Bytes) {
        self.sent_data_frame(message.len());
        if message.len() >= LOAN_BYTES_MIN {
            self.lent().lend(message);
            self.has_lent.store(true, Ordering::Relaxed);
        }
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn is over: whatever h2 still has of them is copied when it comes.
    fn end_loans(&self) {
        if self.has_lent.load(Ordering::Relaxed) {
            self.lent().clear();
            self.has_lent.store(false, Ordering::Relaxed);
        }
    }

    /// What its frames say of the peer.
    pub(super) fn watch(&self) -> Watch {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the peer's frames want to be looked at since the last call: a flood, a header block that was left
    /// open, a reset.
    pub(super) fn take_alarm(&self) -> bool {
        self.alarm.load(Ordering::Relaxed) && self.alarm.swap(false, Ordering::Relaxed)
    }

    fn heard(&self, now: Instant) {
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Notes what the scanner found.
    fn look_at(&self, scanner: &Scanner) {
        let found = Watch { flood: scanner.flood(), header_block_since: scanner.header_block_since() };
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if scanner.has_resets() || found != *watch {
            *watch = found;
            self.alarm.store(true, Ordering::Relaxed);
        }
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

/// A transport that counts, and gathers what h2 writes.
///
/// h2 writes and flushes every DATA frame by itself, one system call each. Here they are gathered and leave together
/// when the connection's task has polled everything that was ready: see [`Drain`].
#[derive(Debug)]
pub struct Conn(Arc<Mutex<Gathered>>);

/// The other hand on a connection's transport: moves what was gathered to the kernel.
#[derive(Debug)]
pub struct Drain(Arc<Mutex<Gathered>>);

#[derive(Debug)]
struct Gathered {
    /// Not a type parameter: h2 and the connection's task would be in the program once for each transport, and the
    /// call costs nothing beside the system call it leads to.
    io: Box<dyn Transport>,
    meter: Arc<Meter>,
    /// Written by h2, not yet taken by the kernel.
    unsent: Unsent,
    authority: Option<Box<AuthorityFilter>>,
    scanner: Scanner,
    turn: ReadTurn,
}

impl Conn {
    /// Wraps a transport.
    #[must_use]
    pub fn new(io: Box<dyn Transport>) -> (Self, Drain, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        let authority = io.has_odd_authority().then(|| Box::new(AuthorityFilter::new()));
        let gathered = Gathered {
            io,
            authority,
            scanner: Scanner::new(),
            turn: ReadTurn::default(),
            meter: Arc::clone(&meter),
            unsent: Unsent::default(),
        };
        let gathered = Arc::new(Mutex::new(gathered));
        (Self(Arc::clone(&gathered)), Drain(gathered), meter)
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drain {
    /// Moves what it can; ready when nothing is left, or with the transport's error.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.meter.end_loans();
        gathered.poll_drain(cx)
    }

    /// The streams reset by the peer since the last call.
    pub(super) fn take_resets(&self) -> Vec<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).scanner.take_resets()
    }
}

impl Gathered {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_sent() {
            let io = Pin::new(&mut self.io);
            let result = match self.unsent.only_copied() {
                Some(bytes) => io.poll_write(cx, bytes),
                None => io.poll_write_vectored(cx, self.unsent.slices(&mut Unsent::no_slices())),
            };
            self.meter.wrote(&result);
            match result {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => self.unsent.sent(bytes),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.unsent.keep_rest();
                    self.meter.holds(self.unsent.capacity());
                    self.meter.blocked();
                    return Poll::Pending;
                }
            }
        }
        if !self.unsent.is_empty() {
            self.unsent.clear();
            self.meter.holds(0);
        }
        self.meter.emptied();
        Poll::Ready(Ok(()))
    }

    /// Takes as much of a write as the bound allows; returns how much.
    fn gather(&mut self, bytes: &[u8]) -> usize {
        self.unsent.gather(bytes, |part| self.meter.lent().find(part))
    }

    /// Waits until at least one byte is taken.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.room() > 0 {
            return Poll::Ready(Ok(()));
        }
        let drained = self.poll_drain(cx);
        if drained.is_pending() && self.unsent.room() > 0 { Poll::Ready(Ok(())) } else { drained }
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        if self.meter.cut.load(Ordering::Relaxed) {
            self.io.forget_unsent();
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.lock();
        let Gathered { io, meter, authority, scanner, turn, .. } = &mut *gathered;
        if scanner.flood().is_some() {
            // Whoever reads has been told and gives the peer up.
            return Poll::Pending;
        }
        if !turn.may_read(cx) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let result = match turn.read_bytes_max() {
            None => Pin::new(io).poll_read(cx, buf),
            Some(bytes_max) => Pin::new(&mut io.take(bytes_max as u64)).poll_read(cx, buf),
        };
        if result.is_pending() {
            turn.end();
        }
        let read = &mut buf.filled_mut()[before..];
        if !read.is_empty() {
            let now = Instant::now();
            meter.heard(now);
            let sent = meter.data_frames_sent.load(Ordering::Relaxed);
            turn.count(read.len(), scanner.scan(read, sent, now));
            meter.look_at(scanner);
            if let Some(filter) = authority {
                filter.pass(read);
            }
        }
        result
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut gathered = self.lock();
        ready!(gathered.poll_room(cx))?;
        Poll::Ready(Ok(gathered.gather(buf)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.lock();
        ready!(gathered.poll_room(cx))?;
        let mut taken = 0;
        for buf in bufs {
            let part = gathered.gather(buf);
            taken += part;
            if part < buf.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    /// So that h2 hands over frames as they are and does not copy small ones itself first.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing to do: the connection's task drains once it has polled everything.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.lock();
        ready!(gathered.poll_drain(cx))?;
        Pin::new(&mut gathered.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::gauge::Total;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn writes_are_gathered_until_drained_and_then_leave_in_order() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut conn, drain, meter) = Conn::new(Box::new(near));
        conn.write_all(b"one ").await.unwrap();
        conn.write_all(b"two").await.unwrap();
        conn.flush().await.unwrap();
        assert_eq!(meter.written_bytes(), 0);
        std::future::poll_fn(|cx| drain.poll(cx)).await.unwrap();
        let mut seen = [0; 7];
        far.read_exact(&mut seen).await.unwrap();
        assert_eq!((&seen, meter.written_bytes()), (b"one two", 7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_peer_does_not_take_is_bounded_and_told() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut conn, drain, meter) = Conn::new(Box::new(near));
        let flood = async { conn.write_all(&vec![7; 10 * UNSENT_BYTES_MAX]).await };
        assert!(tokio::time::timeout(std::time::Duration::from_secs(1), flood).await.is_err());
        assert!(meter.blocked_since().is_some());
        assert_eq!(drain.0.lock().unwrap().unsent.room(), 0);
        assert!(drain.0.lock().unwrap().unsent.capacity() <= 2 * UNSENT_BYTES_MAX);
        let (mut reader, mut total) = ([0; 1000], 0);
        while total < 1000 {
            total += far.read(&mut reader).await.unwrap();
        }
        assert_eq!(total, 1000);
    }

    #[tokio::test]
    async fn a_short_read_touches_no_more_than_what_came() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut conn, _drain, _) = Conn::new(Box::new(near));
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        far.write_all(&settings.repeat(20)).await.unwrap();
        for _ in 0..2 {
            let mut space = [std::mem::MaybeUninit::uninit(); 8192];
            let mut buf = ReadBuf::uninit(&mut space);
            std::future::poll_fn(|cx| Pin::new(&mut conn).poll_read(cx, &mut buf)).await.unwrap();
            assert!(!buf.filled().is_empty());
            assert_eq!(buf.initialized().len(), buf.filled().len(), "the rest would be memory in use");
            far.write_all(&settings).await.unwrap();
        }
        let is_short = conn.lock().turn.read_bytes_max().is_some();
        assert!(is_short, "small frames make reads short");
    }

    #[tokio::test]
    async fn while_all_together_hold_too_much_each_queues_one_frame() {
        let total = Arc::new(Total::default());
        let (_, _, meter) = Conn::new(Box::new(tokio::io::duplex(1).0));
        meter.count_unsent(Arc::new(Gauge::of(&total)));
        let other = Gauge::of(&total);
        let queues = || std::future::poll_fn(|cx| Poll::Ready(meter.poll_queue(cx).is_ready()));
        total.set_max(100_000);
        other.set(99_999);
        meter.sent_data_frame(UNSENT_BYTES_SHORT);
        assert!(queues().await);
        other.set(100_000);
        assert!(!queues().await);
        meter.emptied();
        meter.sent_data_frame(UNSENT_BYTES_SHORT - 1);
        assert!(queues().await, "what moves is not held up");
        other.set(0);
        meter.sent_data_frame(UNSENT_BYTES_MAX - UNSENT_BYTES_SHORT);
        assert!(queues().await);
        meter.sent_data_frame(1);
        assert!(!queues().await);
    }
}
