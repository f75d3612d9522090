//! The server's half of a message stream: our pump from cursor to HTTP/2 window.
//!
//! Capacity is reserved first and events are taken only then, so nothing of ours waits inside h2. Therefore a stream
//! can be ended with its status even while the peer's window is full: HEADERS are not flow-controlled.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use h2::{Reason, SendStream};
use tokio::time::{Instant, Sleep};

use crate::base::limits::{DATA_FRAME_BYTES_MAX, DEADLINE_CANCEL_SLACK, PARTIAL_SEND_AFTER};
use crate::base::reason::{Cause, EndReason, Retry};
use crate::hub::Want;
use crate::runtime::phase::Phase;
use crate::server::accept::lost;
use crate::server::call::{ignore_gone, trailers};
use crate::server::stream::Handle;
use crate::wire::codec::{PREFIX_BYTES, prefix};
use crate::wire::convert;
use crate::wire::status::{EndFacts, ended};
use crate::wire::v1;
use crate::wire::v1::notice::Kind;

/// Sends one stream.
#[derive(Debug)]
pub(super) struct Outbound {
    handle: Handle,
    send: SendStream<Bytes>,
    /// The rest of a message that is larger than the window was.
    rest: Bytes,
    /// Capacity asked of h2 and not used yet.
    reserved: usize,
    /// The most window ever granted; messages larger than half of it may have to leave in parts.
    granted_max: usize,
    /// Whether a larger one has been waited for in vain.
    in_parts: bool,
    /// When [`Self::in_parts`] is decided.
    in_parts_at: Option<Instant>,
    /// When the client is told that its deadline is near.
    near_at: Option<Instant>,
    /// Once the stream is ending: until when it may deliver what it is owed.
    deliver_until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A run of events as a message.
fn framed(run: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(PREFIX_BYTES + run.len());
    message.extend_from_slice(&prefix(run.len()));
    message.extend_from_slice(run);
    message.into()
}

/// Whether a message may be taken.
enum Room {
    /// This much may be sent now.
    Bytes(usize),
    /// The waker is registered.
    Wait,
    Gone,
}

/// What became of a message that was taken.
enum Sent {
    /// There may be more.
    Some,
    /// There was no more; the hub keeps the waker.
    All,
    Gone,
}

impl Outbound {
    pub(super) fn new(handle: Handle, send: SendStream<Bytes>) -> Self {
        let near_at = handle.deadline.map(|deadline| {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let notice = (timeout / 10).max(std::time::Duration::from_secs(1));
            deadline.checked_sub(notice).unwrap_or(deadline)
        });
        Self {
            handle,
            send,
            rest: Bytes::new(),
            reserved: 0,
            granted_max: 0,
            in_parts: false,
            in_parts_at: None,
            near_at,
            deliver_until: None,
            timer: None,
        }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ready when the stream is over: its status was sent, or the peer is gone.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // With nobody's waker first: reserving capacity wakes whoever is registered, and that would be us since the
        // last poll.
        match self.send.poll_reset(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(_)) => return self.cancelled(),
            Poll::Ready(Err(_)) => return self.lost(),
            Poll::Pending => {}
        }
        match self.advance(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => match self.send.poll_reset(cx) {
                Poll::Ready(Ok(_)) => self.cancelled(),
                Poll::Ready(Err(_)) => self.lost(),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.poll_times(cx) {
                return self.finish();
            }
            if !self.rest.is_empty() {
                let most = self.rest.len().min(DATA_FRAME_BYTES_MAX);
                match self.room(1, most, cx) {
                    Room::Bytes(room) => {
                        let part = self.rest.split_to(room.min(self.rest.len()));
                        if !self.send(part) {
                            return self.gone(cx);
                        }
                        continue;
                    }
                    Room::Wait => return self.wait(cx),
                    Room::Gone => return self.gone(cx),
                }
            }
            let most_max = DATA_FRAME_BYTES_MAX - PREFIX_BYTES;
            let want = self.handle.core.hub().want(self.handle.key, most_max, cx.waker());
            match want {
                Want::Bytes { least, most } => match self.room(least + PREFIX_BYTES, most + PREFIX_BYTES, cx)
                {
                    Room::Bytes(room) => match self.take_and_send(room, most, cx) {
                        Sent::Some => {}
                        // The usual case; asking the hub again would find nothing.
                        Sent::All if self.deliver_until.is_none() => {
                            self.release();
                            return Poll::Pending;
                        }
                        Sent::All => return self.finish(),
                        Sent::Gone => return self.gone(cx),
                    },
                    Room::Wait => return self.wait(cx),
                    Room::Gone => return self.gone(cx),
                },
                Want::Nothing if self.deliver_until.is_some() => return self.finish(),
                Want::Nothing => {
                    self.release();
                    return Poll::Pending;
                }
                Want::Gone => return Poll::Ready(()),
            }
        }
    }

    /// Waits for window, and for an end: that one needs no window.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.handle.core.hub().keep_pump(self.handle.key, cx.waker());
        Poll::Pending
    }

    /// Asks h2 for up to `most` bytes and says whether at least `least`, a whole message, may be sent now.
    ///
    /// A status can follow only a whole message, and a client that stalls leaves some odd rest of its window. So a
    /// message of up to half of the most window ever granted waits until it fits; a larger one goes in parts, at once
    /// to a peer that keeps up and after [`PARTIAL_SEND_AFTER`] to one that does not.
    fn room(&mut self, least: usize, most: usize, cx: &mut Context<'_>) -> Room {
        if self.handle.meter.poll_queue(cx).is_pending() {
            return Room::Wait;
        }
        let most = most.max(least);
        if self.granted_max == 0 {
            // Once, to see how large the window is; what is not used is given back.
            self.reserve(self.handle.core.limits().send_buffer_bytes_max());
            self.granted_max = self.send.capacity();
        }
        if self.reserved < most {
            self.reserve(most);
        }
        loop {
            let capacity = self.send.capacity();
            self.granted_max = self.granted_max.max(capacity);
            // Peers tell what they read once it is half of their window: with no more than that outstanding they keep
            // up, and more than the rest may never be granted.
            let half = self.granted_max / 2;
            let may_never_fit = least > half;
            if capacity >= least || (may_never_fit && capacity > 0 && (self.in_parts || capacity > half)) {
                self.in_parts_at = None;
                return Room::Bytes(capacity);
            }
            match self.send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Room::Gone,
                Poll::Pending if may_never_fit && capacity > 0 => {
                    let at = *self.in_parts_at.get_or_insert_with(|| Instant::now() + PARTIAL_SEND_AFTER);
                    // Arms the timer, and goes on at once when it is over already.
                    if !self.poll_timer(at, cx) {
                        return Room::Wait;
                    }
                    self.in_parts = true;
                }
                Poll::Pending => return Room::Wait,
            }
        }
    }

    fn reserve(&mut self, bytes: usize) {
        self.send.reserve_capacity(bytes);
        self.reserved = bytes;
    }

    fn take_and_send(&mut self, room: usize, most: usize, cx: &Context<'_>) -> Sent {
        let budget = room.saturating_sub(PREFIX_BYTES).min(DATA_FRAME_BYTES_MAX - PREFIX_BYTES);
        let shared = self.handle.core.hub().take_run(self.handle.key, budget, framed, cx.waker());
        let Some((mut message, is_all)) = shared.or_else(|| self.take_mixed(budget, most, cx)) else {
            return Sent::Some;
        };
        if message.len() > room {
            self.rest = message.split_off(room);
        }
        match self.send(message) {
            false => Sent::Gone,
            true if is_all && self.rest.is_empty() => Sent::All,
            true => Sent::Some,
        }
    }

    /// Takes receipts, notices, gaps and events of several topics, and says whether that was all; `None` when there are
    /// none.
    fn take_mixed(&self, budget: usize, most: usize, cx: &Context<'_>) -> Option<(Bytes, bool)> {
        let mut message = Vec::with_capacity(PREFIX_BYTES + most);
        message.extend_from_slice(&[0; PREFIX_BYTES]);
        let Handle { core, key, .. } = &self.handle;
        let is_all = core.hub().take(*key, budget, convert::encode_gap, cx.waker(), &mut message);
        let length = message.len() - PREFIX_BYTES;
        message[..PREFIX_BYTES].copy_from_slice(&prefix(length));
        (length > 0).then(|| (message.into(), is_all))
    }

    fn send(&mut self, data: Bytes) -> bool {
        self.reserved = self.reserved.saturating_sub(data.remaining());
        self.handle.meter.sent_message(&data);
        self.send.send_data(data, false).is_ok()
    }

    /// Gives unused capacity back, so that an idle stream keeps none of the connection's window from its neighbours.
    fn release(&mut self) {
        if self.reserved > 0 {
            self.send.reserve_capacity(0);
            self.reserved = 0;
        }
    }

    /// Looks at the causes and times of the end; true when the stream must finish now.
    fn poll_times(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(cause) = self.handle.scope.cause() {
            let owes_nothing = !cause.reason.delivers_first() || self.handle.scope.is_aborted();
            if owes_nothing || self.handle.core.phase.get() >= Phase::Aborting {
                return true;
            }
            let core = &self.handle.core;
            let reason = cause.reason;
            let until = *self.deliver_until.get_or_insert_with(|| core.deliver_until(reason, Instant::now()));
            if self.poll_timer(until, cx) {
                return true;
            }
        }
        let Some(deadline) = self.handle.deadline else { return false };
        if Instant::now() >= deadline {
            let cause = Cause::server(EndReason::DeadlineExceeded);
            self.handle.core.hub().end_stream(self.handle.key, cause);
            return true;
        }
        if let Some(near_at) = self.near_at
            && self.poll_timer(near_at, cx)
        {
            self.near_at = None;
            let remaining = deadline.saturating_duration_since(Instant::now());
            let near = v1::DeadlineNear { remaining: Some(convert::duration(remaining)) };
            let mut hub = self.handle.core.hub();
            hub.push_control(self.handle.key, |out| convert::encode_notice(Kind::DeadlineNear(near), out));
        }
        self.near_at.is_none() && self.poll_timer(deadline, cx)
    }

    /// Whether `at` has come; arms the one timer for it otherwise. Of several times waited for in one turn the
    /// earliest is armed.
    fn poll_timer(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        if at <= now {
            return true;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() > at || timer.deadline() <= now {
            timer.as_mut().reset(at);
        }
        // Registers the waker; it cannot be ready, its time was just compared.
        let _ = timer.as_mut().poll(cx);
        false
    }

    /// Ends the stream with its status, or, inside a message that cannot be finished, by a reset.
    fn finish(&mut self) -> Poll<()> {
        let Handle { core, key, session, scope, .. } = &self.handle;
        let Some(cause) = scope.cause().cloned() else { return Poll::Ready(()) };
        if !self.rest.is_empty() {
            self.send.send_reset(reset_code(cause.reason));
            return Poll::Ready(());
        }
        let last_sequence = core.hub().delivered(*key).map(|delivered| delivered.last_sequence);
        let retry_after = match cause.reason.retry() {
            Retry::Later if cause.quota.is_none() => Some(core.retry_slot(*session)),
            Retry::Resume => Some(std::time::Duration::ZERO),
            Retry::Later | Retry::No | Retry::Application | Retry::LogInAgain => None,
        };
        let facts = EndFacts { session: Some(*session), stream: Some(*key), last_sequence, retry_after };
        let status =
            if cause.reason == EndReason::Completed { tonic::Status::ok("") } else { ended(&cause, &facts) };
        ignore_gone(self.send.send_trailers(trailers(&status)));
        Poll::Ready(())
    }

    /// The peer reset the stream. A cancel at the call's deadline is the client's own timer: both sides count from
    /// the same `grpc-timeout`, and the client began first.
    fn cancelled(&mut self) -> Poll<()> {
        let Handle { core, key, deadline, .. } = &self.handle;
        let at_deadline = deadline.is_some_and(|deadline| Instant::now() + DEADLINE_CANCEL_SLACK >= deadline);
        let reason = if at_deadline { EndReason::DeadlineExceeded } else { EndReason::ClientCancelled };
        core.hub().end_stream(*key, Cause::client(reason));
        Poll::Ready(())
    }

    /// h2 can send nothing more on this stream: the peer reset it, or the connection is lost.
    fn gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(_)) => self.cancelled(),
            Poll::Ready(Err(_)) | Poll::Pending => self.lost(),
        }
    }

    fn lost(&mut self) -> Poll<()> {
        let Handle { core, key, connection, .. } = &self.handle;
        core.hub().end_stream(*key, connection.cause().cloned().unwrap_or_else(lost));
        Poll::Ready(())
    }
}

/// The reset that clients read as the code nearest to the reason's (gRPC over HTTP/2, errors).
fn reset_code(reason: EndReason) -> Reason {
    match reason {
        EndReason::SlowConsumer | EndReason::QuotaExceeded => Reason::ENHANCE_YOUR_CALM,
        EndReason::MemoryPressure | EndReason::ServerDraining | EndReason::ConnectionLost => {
            Reason::REFUSED_STREAM
        }
        EndReason::Internal => Reason::INTERNAL_ERROR,
        EndReason::Completed
        | EndReason::ClientCancelled
        | EndReason::DeadlineExceeded
        | EndReason::SessionLoggedOut
        | EndReason::SessionExpired
        | EndReason::SessionTakenOver
        | EndReason::IdleTimeout
        | EndReason::AdminCancelled
        | EndReason::InvalidRequest => Reason::CANCEL,
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        // A panic drops us here: the client hears INTERNAL rather than CANCELLED (gRPC over HTTP/2, error codes).
        if std::thread::panicking() {
            self.send.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}
