//! A connection with subscribers on it: one session, several streams, and one task for all of it.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::load::arrivals::Arrivals;
use crate::load::error::LoadError;
use crate::load::message::{Checks, Item};
use crate::load::session::{Frames, Session};
use crate::wire::v1;

/// Who a line is, and what its subscribers expect.
#[derive(Clone, Debug)]
pub struct Caller {
    /// As the request names the server.
    pub authority: String,
    /// The session's user.
    pub user: String,
    /// The session's client name.
    pub client_name: String,
    /// Publishers there are.
    pub publishers: u16,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// What becomes of a subscriber that is slow.
    pub overflow: v1::Overflow,
}

/// A session that could not be logged out, because its connection is gone.
#[derive(Debug)]
pub struct Left {
    /// Its token: another connection may log it out.
    pub token: String,
}

struct Subscriber {
    /// Its number among all.
    index: usize,
    frames: Frames,
    checks: Checks,
}

/// A line whose subscriptions are live.
pub(crate) struct Line<IO> {
    session: Session<IO>,
    subscribers: Vec<Subscriber>,
}

/// Opens a line for the subscribers `first`, `first + 1`… and says so by `ready` with the epoch of the hub's order;
/// follows until `leave`, and logs out. A fault is told to `arrivals`; the line then only waits to leave.
pub async fn follow<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    dial: impl Future<Output = Result<IO, LoadError>>,
    caller: Caller,
    subscribers: Range<usize>,
    arrivals: Rc<Arrivals>,
    ready: oneshot::Sender<Result<String, LoadError>>,
    leave: CancellationToken,
) -> Option<Left> {
    let name = format!("subscriber {}", subscribers.start);
    let mut line = match Line::open(dial, &caller, subscribers).await {
        // Whoever asked may have left.
        Ok((line, epoch)) => {
            let _ = ready.send(Ok(epoch));
            line
        }
        Err((error, left)) => {
            let _ = ready.send(Err(error));
            return left;
        }
    };
    if let Err(error) = line.read(&arrivals, &leave).await {
        arrivals.fail(&name, error);
        leave.cancelled().await;
    }
    line.log_out().await
}

/// Ends the session, or says which it is.
pub(crate) async fn log_out<IO: AsyncRead + AsyncWrite + Unpin>(mut session: Session<IO>) -> Option<Left> {
    match session.log_out().await {
        // Refused: it is over already.
        Ok(()) | Err(LoadError::Refused(_)) => None,
        Err(_) => Some(Left { token: session.token().to_owned() }),
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> Line<IO> {
    /// Logs in and opens the streams one after the other; with the epoch of the hub's order.
    pub(crate) async fn open(
        dial: impl Future<Output = Result<IO, LoadError>>,
        caller: &Caller,
        subscribers: Range<usize>,
    ) -> Result<(Self, String), (LoadError, Option<Left>)> {
        let log_in = async {
            Session::log_in(dial.await?, &caller.authority, &caller.user, &caller.client_name).await
        };
        let session = log_in.await.map_err(|error| (error, None))?;
        let mut line = Self { session, subscribers: Vec::new() };
        match line.subscribe(caller, subscribers).await {
            Ok(epoch) => Ok((line, epoch)),
            Err(error) => Err((error, line.log_out().await)),
        }
    }

    async fn subscribe(&mut self, caller: &Caller, subscribers: Range<usize>) -> Result<String, LoadError> {
        let mut epoch = String::new();
        for index in subscribers {
            let (frames, of_hub) = self.session.follow(caller.overflow).await?;
            epoch = of_hub;
            let checks = Checks::new(caller.publishers, caller.payload_bytes);
            self.subscribers.push(Subscriber { index, frames, checks });
        }
        Ok(epoch)
    }

    pub(crate) async fn log_out(self) -> Option<Left> {
        log_out(self.session).await
    }

    /// Receives until `leave`.
    pub(crate) async fn read(
        &mut self,
        arrivals: &Arrivals,
        leave: &CancellationToken,
    ) -> Result<(), LoadError> {
        let mut left = pin!(leave.cancelled());
        let mut beats = beats(self.session.heartbeat_interval);
        let mut beat = None;
        poll_fn(|context| {
            if left.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = poll_beat(&mut self.session, &mut beats, &mut beat, context) {
                return Poll::Ready(Err(error));
            }
            let ended = self.session.poll_connection(context);
            for subscriber in &mut self.subscribers {
                // Looked at even when the connection has ended: what arrived before counts.
                if let Poll::Ready(error) = subscriber.poll_read(context, arrivals) {
                    return Poll::Ready(Err(error));
                }
            }
            ended.map(Err)
        })
        .await
    }
}

impl Subscriber {
    /// Takes all that came; ready with why no more will come.
    fn poll_read(&mut self, context: &mut Context<'_>, arrivals: &Arrivals) -> Poll<LoadError> {
        loop {
            // One look at the clock for all that came together.
            let mut now = None;
            let checks = &mut self.checks;
            let mut sink = |item: Item<'_>| {
                if let Item::Payload(payload) = item {
                    arrivals.came(checks.accept(payload)?, *now.get_or_insert_with(Instant::now));
                }
                Ok(())
            };
            match self.frames.poll_read(context, &mut sink) {
                Poll::Ready(Ok(())) => arrivals.advance(self.index, self.checks.counts()),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

type Beat = Pin<Box<dyn Future<Output = Result<(), LoadError>>>>;

/// When signs of life are due.
pub(crate) fn beats(every: Duration) -> Interval {
    let mut beats = interval_at(Instant::now() + every, every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// Sends a sign of life when one is due, and takes the answer to the one before.
fn poll_beat<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    session: &mut Session<IO>,
    beats: &mut Interval,
    beat: &mut Option<Beat>,
    context: &mut Context<'_>,
) -> Result<(), LoadError> {
    if let Some(waiting) = beat {
        match waiting.as_mut().poll(context) {
            Poll::Ready(answer) => {
                *beat = None;
                answer?;
            }
            Poll::Pending => return Ok(()),
        }
    }
    if beats.poll_tick(context).is_ready() {
        *beat = Some(Box::pin(session.heartbeat()?));
        // Nobody has polled it yet.
        context.waker().wake_by_ref();
    }
    Ok(())
}
