//! One task per connection: h2's state machine and every call of it, driven together.
//!
//! Calls live in the connection's own task, so a publish costs one wake-up per connection, not two, and everything
//! that is ready leaves in one write.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::CatchUnwind;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::server::Connection;
use h2::{Ping, PingPong, Reason};
use tokio::time::{Instant, Sleep};

use crate::base::id::ConnectionId;
use crate::base::limits;
use crate::base::limits::Limits;
use crate::runtime::bucket::Bucket;
use crate::server::accept::lost;
use crate::server::admission::{Opening, Permit};
use crate::server::call::Call;
use crate::server::conn::{Conn, Drain, Meter, Transport};
use crate::server::stream::take_one;
use crate::server::timers::{Due, Facts, Timers};
use crate::server::turn::{Part, Turns};
use crate::server::{Core, Peer, call};

/// Serves a transport in a task of its own, below the service scope. `permit` is held until the connection is gone,
/// `opening` until its handshake is done.
pub fn spawn(
    core: &Arc<Core>,
    io: Box<dyn Transport>,
    peer: &str,
    admin_uid: Option<u32>,
    permit: Permit,
    opening: Option<Opening>,
) {
    let (core, peer) = (Arc::clone(core), peer.to_owned());
    let service = core.service.clone();
    service.spawn(async move {
        serve(&core, io, &peer, admin_uid, opening).await;
        drop(permit);
    });
}

/// Serves a transport to its end: for callers that own the task, such as tests over memory.
pub async fn run(
    core: &Arc<Core>,
    io: impl Transport,
    peer: &str,
    admin_uid: Option<u32>,
    opening: Option<Opening>,
) {
    serve(core, Box::new(io), peer, admin_uid, opening).await;
}

async fn serve(
    core: &Arc<Core>,
    io: Box<dyn Transport>,
    peer: &str,
    admin_uid: Option<u32>,
    opening: Option<Opening>,
) {
    let mut driver = {
        // Boxed: over long before the connection is, and its size would be every connection's.
        let Some(opened) = Box::pin(handshake(core, io, peer, opening)).await else { return };
        let (id, scope) = {
            let mut hub = core.hub();
            let (id, scope) = hub.open_connection(peer, Instant::now());
            if let Some(connection) = hub.connection(id) {
                opened.meter.count_unsent(Arc::clone(&connection.unsent_bytes));
            }
            (id, scope)
        };
        log::debug!("{id} from {peer} opened");
        let opens_max = core.limits().stream_opens_per_second_max;
        let opens = Arc::new(Mutex::new(Bucket::of_one_second(opens_max)));
        let meter = Arc::clone(&opened.meter);
        Driver::new(core, opened, Peer { connection: id, scope, admin_uid, meter, opens })
    };
    let guard = Guard { core, id: driver.peer.connection };
    let why = driver.run(peer).await;
    log::debug!("{} closed: {why:?}", guard.id);
}

/// A transport that speaks HTTP/2.
struct Opened {
    connection: Connection<Conn, Bytes>,
    drain: Drain,
    meter: Arc<Meter>,
}

async fn handshake(
    core: &Core,
    io: Box<dyn Transport>,
    peer: &str,
    opening: Option<Opening>,
) -> Option<Opened> {
    let limits = core.limits();
    let (conn, drain, meter) = Conn::new(io);
    let handshake = tokio::time::timeout(limits.handshake_timeout, builder(&limits).handshake(conn));
    let taken_away = async {
        match &opening {
            Some(opening) => opening.taken_away().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = core.service.aborted() => {}
        done = handshake => match done {
            Ok(Ok(connection)) => return Some(Opened { connection, drain, meter }),
            Ok(Err(error)) => log::debug!("{peer}: no HTTP/2 handshake: {error}"),
            Err(_) => {
                meter.cut();
                core.tally.count_slow(peer, "no HTTP/2 handshake within limits.handshake_timeout");
            }
        },
        () = taken_away => {
            meter.cut();
            let why = "too many connections without a handshake (limits.half_open_max), most from this address";
            core.tally.count_abusive(peer, why);
        }
        error = drained(&drain) => log::debug!("{peer}: {error}"),
    }
    None
}

/// Every knob set explicitly: some of h2's and hyper's defaults are "no bound" (TRAPS: RUSTSEC-2024-0003).
fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(limits::MAX_FRAME_SIZE)
        .header_table_size(limits::HEADER_TABLE_BYTES)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(limits.calls_per_connection_max())
        .max_concurrent_reset_streams(limits::LOCAL_RESETS_MAX)
        .max_local_error_reset_streams(Some(limits::LOCAL_ERROR_RESETS_MAX))
        .max_pending_accept_reset_streams(limits::PENDING_RESETS_MAX)
        .reset_stream_duration(limits::RESET_MEMORY)
        .max_send_buffer_size(limits.send_buffer_bytes_max())
        .data_frame_budget(limits.connection_window_bytes as usize / 2);
    builder
}

struct Guard<'a> {
    core: &'a Core,
    id: ConnectionId,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.core.hub().close_connection(self.id);
    }
}

struct Driver<'a> {
    core: &'a Arc<Core>,
    connection: Connection<Conn, Bytes>,
    drain: Drain,
    meter: Arc<Meter>,
    peer: Peer,
    /// Streams of the calls under way.
    live: BTreeSet<u32>,
    /// Calls the peer may still cancel.
    cancels: Mutex<Bucket>,
    /// It cancelled more.
    cancels_exceeded: bool,
    ping_pong: Option<PingPong>,
    timers: Timers,
    timer: Pin<Box<Sleep>>,
    /// Set once the first GOAWAY was sent: when the last one goes even if the peer has not answered.
    goaway_until: Option<Instant>,
}

/// What the connection has to react to.
enum Turn {
    CallEnded(u32),
    Closed(Result<(), h2::Error>),
    Broken(std::io::Error),
    /// Its frames want to be looked at.
    Alarm,
    Ending,
    Aborted,
    Timer,
}

/// Why a peer is given up.
enum GivenUp {
    /// It is gone or does not read.
    Dead(&'static str),
    /// It does what no client needs to.
    Abusive(&'static str),
}

impl<'a> Driver<'a> {
    fn new(core: &'a Arc<Core>, opened: Opened, peer: Peer) -> Self {
        let now = Instant::now();
        let Opened { mut connection, drain, meter } = opened;
        Self {
            core,
            ping_pong: connection.ping_pong(),
            connection,
            drain,
            meter,
            cancels: Mutex::new(Bucket::of_one_second(core.limits().stream_opens_per_second_max)),
            cancels_exceeded: false,
            peer,
            live: BTreeSet::new(),
            timers: Timers::new(now),
            timer: Box::pin(tokio::time::sleep_until(now)),
            goaway_until: None,
        }
    }

    /// Runs until the connection is gone; says why. Whatever is still under way is dropped with it, in this turn.
    async fn run(&mut self, peer: &str) -> String {
        let scope = self.peer.scope.clone();
        let (mut ending, mut aborted) = (pin!(scope.ending()), pin!(scope.aborted()));
        let mut calls = Calls::new();
        let turns = Turns::new();
        let mut is_ending = false;
        loop {
            turns.mark_all();
            let turn = std::future::poll_fn(|cx| {
                let turn = turns.poll(cx, |part, cx| match part {
                    Part::Rest if aborted.as_mut().poll(cx).is_ready() => Poll::Ready(Turn::Aborted),
                    Part::Rest if !is_ending && ending.as_mut().poll(cx).is_ready() => {
                        Poll::Ready(Turn::Ending)
                    }
                    Part::Rest => self.timer.as_mut().poll(cx).map(|()| Turn::Timer),
                    Part::Calls => match calls.poll_next_unpin(cx) {
                        Poll::Ready(Some(stream)) => Poll::Ready(Turn::CallEnded(stream)),
                        Poll::Ready(None) | Poll::Pending => Poll::Pending,
                    },
                    Part::Http2 => self.poll_http2(cx, &mut calls, &turns),
                });
                if turn.is_ready() {
                    return turn;
                }
                // Last: by now everything that was ready has been written. In h2's name, which may wait for room.
                match self.drain.poll(&mut Context::from_waker(turns.waker(Part::Http2))) {
                    Poll::Ready(Err(error)) => Poll::Ready(Turn::Broken(error)),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                }
            })
            .await;
            match turn {
                Turn::CallEnded(stream) => {
                    self.live.remove(&stream);
                    self.call_ended(calls.is_empty());
                }
                Turn::Ending => {
                    is_ending = true;
                    self.goaway_until = Some(Instant::now() + limits::GOAWAY_PING_TIMEOUT);
                    self.connection.graceful_shutdown();
                }
                Turn::Aborted => return self.cut("cut by the server"),
                Turn::Closed(Ok(())) => return "by the peer or after GOAWAY".to_owned(),
                Turn::Closed(Err(error)) => return self.failed(&error, peer),
                Turn::Broken(error) => return self.lost(&error.to_string()),
                Turn::Alarm | Turn::Timer => {}
            }
            match self.look_at_timers(calls.is_empty()) {
                Ok(()) => {}
                Err(GivenUp::Dead(why)) => return self.cut(why),
                Err(GivenUp::Abusive(why)) => return self.throw_out(peer, why, calls).await,
            }
        }
    }

    /// Lets h2 read and write, and begins the calls that came of it.
    fn poll_http2(&mut self, cx: &mut Context<'_>, calls: &mut Calls, turns: &Turns) -> Poll<Turn> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if calls.is_empty() {
                        self.core.hub().connection_in_use(self.peer.connection);
                    }
                    let stream = respond.stream_id().as_u32();
                    self.live.insert(stream);
                    let call = call::run(self.core, &self.peer, request, respond);
                    calls.push(Guarded::new(call, self.peer.connection, stream));
                    turns.mark(Part::Calls);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Turn::Closed(Err(error))),
                Poll::Ready(None) => return Poll::Ready(Turn::Closed(Ok(()))),
                Poll::Pending if self.meter.take_alarm() => {
                    self.count_cancels();
                    return Poll::Ready(Turn::Alarm);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// A reset of a call that is over costs nothing: clients send one when the server was the first to finish.
    fn count_cancels(&mut self) {
        let per_second = self.core.limits().stream_opens_per_second_max;
        for stream in self.drain.take_resets() {
            if self.live.contains(&stream) && take_one(&self.cancels, per_second).is_err() {
                self.cancels_exceeded = true;
            }
        }
    }

    fn call_ended(&mut self, is_quiet: bool) {
        let now = Instant::now();
        self.timers.call_ended(now);
        if is_quiet {
            self.core.hub().connection_quiet(self.peer.connection, now);
        }
    }

    /// Does what is due and sets the timer for what is next; an error is a peer to be given up.
    fn look_at_timers(&mut self, is_quiet: bool) -> Result<(), GivenUp> {
        let now = Instant::now();
        let limits = self.core.limits();
        let facts = Facts {
            now,
            heard_at: self.meter.read_at(),
            blocked_since: self.meter.blocked_since(),
            watch: self.meter.watch(),
            flush_timeout: self.core.shutdown_times().flush_timeout,
        };
        if self.cancels_exceeded {
            let why = "more calls cancelled than limits.stream_opens_per_second_max";
            return Err(GivenUp::Abusive(why));
        }
        let mut next = loop {
            match self.timers.due(&facts, &limits) {
                Due::Wait(until) => break until,
                Due::Ping => self.ping(),
                Due::Dead(why) => return Err(GivenUp::Dead(why)),
                Due::Abusive(why) => return Err(GivenUp::Abusive(why)),
            }
        };
        match self.goaway_until {
            Some(until) if now >= until && is_quiet => self.connection.abrupt_shutdown(Reason::NO_ERROR),
            Some(until) if now >= until => {}
            Some(until) => next = next.min(until),
            None => {}
        }
        self.timer.as_mut().reset(next);
        Ok(())
    }

    fn ping(&mut self) {
        let Some(ping_pong) = &mut self.ping_pong else { return };
        // An answer that came is taken out first: h2 allows one ping at a time. Any byte counts as an answer.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(error)) = ping_pong.poll_pong(&mut cx) {
            log::debug!("{}: pong: {error}", self.peer.connection);
        }
        if let Err(error) = ping_pong.send_ping(Ping::opaque()) {
            log::debug!("{}: ping: {error}", self.peer.connection);
        }
    }

    fn cut(&self, why: &'static str) -> String {
        self.meter.cut();
        self.lost(why)
    }

    fn lost(&self, why: &str) -> String {
        self.peer.scope.abort(lost().with_note(why));
        why.to_owned()
    }

    /// The connection broke, or h2 found the peer's frames to be wrong or too many and has told it so.
    fn failed(&self, error: &h2::Error, peer: &str) -> String {
        if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
            self.core.tally.count_abusive(peer, &error.to_string());
        }
        self.lost(&error.to_string())
    }

    /// Ends everything of the peer at once and tells it why, for as long as it takes that, at most the flush timeout.
    async fn throw_out(&mut self, peer: &str, why: &'static str, calls: Calls) -> String {
        self.core.tally.count_abusive(peer, why);
        self.lost(why);
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        drop(calls);
        let goodbye = std::future::poll_fn(|cx| {
            let closed = loop {
                match self.connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => break Poll::Ready(()),
                    Poll::Pending => break Poll::Pending,
                }
            };
            match self.drain.poll(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                Poll::Ready(Ok(())) | Poll::Pending => closed,
            }
        });
        if tokio::time::timeout(self.core.shutdown_times().flush_timeout, goodbye).await.is_err() {
            self.meter.cut();
        }
        why.to_owned()
    }
}

/// Moves what was gathered at each poll; resolves only with the transport's error.
pub(super) async fn drained(drain: &Drain) -> std::io::Error {
    std::future::poll_fn(|cx| match drain.poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(error),
        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
    })
    .await
}

/// The calls of one connection.
type Calls = FuturesUnordered<Guarded>;

/// A call whose panic ends it, not its neighbours on the connection. Gives the number of its stream.
struct Guarded {
    call: CatchUnwind<AssertUnwindSafe<Call>>,
    connection: ConnectionId,
    stream: u32,
}

impl Guarded {
    fn new(call: Call, connection: ConnectionId, stream: u32) -> Self {
        Self { call: AssertUnwindSafe(call).catch_unwind(), connection, stream }
    }
}

impl Future for Guarded {
    type Output = u32;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u32> {
        if ready!(Pin::new(&mut self.call).poll(cx)).is_err() {
            log::error!("{}: a call panicked; this is a bug", self.connection);
        }
        Poll::Ready(self.stream)
    }
}
