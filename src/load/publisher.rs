//! Publishing in a closed loop, so many messages in flight, and in an open one, at a fixed rate.

use std::future::{Future, poll_fn};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::load::arrivals::Arrivals;
use crate::load::client::template;
use crate::load::error::LoadError;
use crate::load::latencies::Latencies;
use crate::load::line::{Caller, Left, log_out};
use crate::load::message::{Item, Template, number};
use crate::load::schedule::Schedule;
use crate::load::session::{Frames, Session};

/// A message goes out when this much of it, or all of it, has room in the windows; h2 keeps the rest of one.
const ROOM_BYTES: usize = 4096;
/// tokio's timers are this coarse: what is due sooner is waited for without one.
const TIMER_STEP: Duration = Duration::from_millis(2);
/// An open loop that is this much of its time late is ended.
const OVERTIME_SHARE: u32 = 10;

/// One connection, one session and the message stream it publishes on.
pub struct Publisher<IO> {
    session: Session<IO>,
    outbox: Outbox,
    frames: Frames,
    receipts: u64,
}

/// The sending half, and how far it is.
struct Outbox {
    send: SendStream<Bytes>,
    template: Template,
    publisher: u16,
    published: u64,
}

/// When a closed loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At this time.
    Time(Instant),
    /// After so many messages of each publisher.
    Count(u64),
}

/// How the next message of an open loop is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Looking again and again: on time, and one core is busy with it.
    Spin,
    /// By timer: up to some milliseconds late, and the core is free.
    Sleep,
}

/// How an open loop went.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Messages sent.
    pub sent: u64,
    /// Messages that were to be sent.
    pub asked: u64,
    /// From the first message's time to when the last was sent.
    pub took: Duration,
    /// Of that, how long the hub's window was full.
    pub blocked: Duration,
    /// How late messages were sent while the window was open: the load's own share of the latency.
    pub late: Latencies,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Publisher<IO> {
    /// Logs in and opens the stream.
    pub async fn open(
        dial: impl Future<Output = Result<IO, LoadError>>,
        caller: &Caller,
        publisher: u16,
    ) -> Result<Self, LoadError> {
        let io = dial.await?;
        let mut session = Session::log_in(io, &caller.authority, &caller.user, &caller.client_name).await?;
        let (send, frames) = session.connect().await?;
        let template = template(caller.payload_bytes)?;
        let outbox = Outbox { send, template, publisher, published: 0 };
        Ok(Self { session, outbox, frames, receipts: 0 })
    }

    /// Messages published so far.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.outbox.published
    }

    /// Keeps `window` messages in flight until the end; then waits until all of them are everywhere.
    pub async fn closed(&mut self, window: u64, until: Until, arrivals: &Arrivals) -> Result<(), LoadError> {
        let Self { session, outbox, frames, receipts } = self;
        let flight = arrivals.flight(outbox.publisher);
        let first = outbox.published;
        let work = async {
            loop {
                let left = match until {
                    Until::Time(end) if Instant::now() < end => u64::MAX,
                    Until::Time(_) => 0,
                    Until::Count(count) => count.saturating_sub(outbox.published - first),
                };
                // No more came than was published, unless the hub invents messages that fit.
                let in_flight = outbox.published.saturating_sub(flight.low());
                if left == 0 && in_flight == 0 && *receipts == outbox.published {
                    return Ok(());
                }
                let room = window.saturating_sub(in_flight).min(left);
                if room > 0 {
                    outbox.publish(room)?;
                }
                tokio::select! {
                    changed = flight.changed() => changed?,
                    read = read_receipts(frames, receipts) => read?,
                }
            }
        };
        session.drive(work).await?
    }

    /// Publishes `count` messages when they are due; then waits until all of them are everywhere.
    pub async fn open_loop(
        &mut self,
        schedule: Schedule,
        count: u64,
        waiting: Waiting,
        arrivals: &Arrivals,
    ) -> Result<Pace, LoadError> {
        let Self { session, outbox, frames, receipts } = self;
        let flight = arrivals.flight(outbox.publisher);
        let work = async {
            let pace = outbox.send_all(schedule, count, waiting, frames, receipts).await?;
            while flight.low() < outbox.published || *receipts < outbox.published {
                tokio::select! {
                    changed = flight.changed() => changed?,
                    read = read_receipts(frames, receipts) => read?,
                }
            }
            Ok(pace)
        };
        session.drive(work).await?
    }

    /// Ends the session.
    pub async fn leave(self) -> Option<Left> {
        log_out(self.session).await
    }
}

impl Outbox {
    /// Sends the next messages.
    fn publish(&mut self, count: u64) -> Result<(), LoadError> {
        let mut buffer = Vec::new();
        for next in self.published..self.published + count {
            self.template.append(&mut buffer, number(self.publisher, next));
        }
        self.published += count;
        Ok(self.send.send_data(buffer.into(), false)?)
    }

    /// How many messages have room in the windows now, of those that are due.
    fn room(&mut self, due: u64) -> u64 {
        let bytes = self.template.bytes();
        let wanted = usize::try_from(due).unwrap_or(usize::MAX).saturating_mul(bytes);
        self.send.reserve_capacity(wanted);
        let capacity = self.send.capacity();
        if capacity < bytes.min(ROOM_BYTES) {
            return 0;
        }
        u64::try_from(capacity / bytes).unwrap_or(u64::MAX).clamp(1, due)
    }

    async fn send_all(
        &mut self,
        schedule: Schedule,
        count: u64,
        waiting: Waiting,
        frames: &mut Frames,
        receipts: &mut u64,
    ) -> Result<Pace, LoadError> {
        let (first, end) = (self.published, self.published + count);
        let (begin, over) = (schedule.intended(first), schedule.intended(end));
        let give_up = over + (over - begin) / OVERTIME_SHARE;
        let mut pace = Pace {
            sent: 0,
            asked: count,
            took: Duration::ZERO,
            blocked: Duration::ZERO,
            late: Latencies::default(),
        };
        // Since when the window is full.
        let mut blocked: Option<Instant> = None;
        // Messages that were due by then are late because the window was full.
        let mut excused: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if let Some(since) = blocked.take() {
                pace.blocked += now - since;
                excused = Some(now);
            }
            pace.sent = self.published - first;
            if self.published == end || now >= give_up {
                pace.took = now.saturating_duration_since(begin);
                return Ok(pace);
            }
            let due = schedule.next(now).min(end) - self.published;
            if due > 0 {
                let room = self.room(due);
                for number in self.published..self.published + room {
                    let intended = schedule.intended(number);
                    if excused.is_none_or(|until| intended > until) {
                        pace.late.record(now.saturating_duration_since(intended));
                    }
                }
                if room > 0 {
                    self.publish(room)?;
                }
                if room < due {
                    blocked = Some(now);
                    tokio::select! {
                        room = poll_fn(|context| self.send.poll_capacity(context)) => {
                            room.ok_or(LoadError::Closed)??;
                        }
                        read = read_receipts(frames, receipts) => read?,
                        () = sleep_until(give_up) => {}
                    }
                    continue;
                }
            }
            tokio::select! {
                () = pause(schedule.intended(self.published), waiting) => {}
                read = read_receipts(frames, receipts) => read?,
            }
        }
    }
}

async fn pause(until: Instant, waiting: Waiting) {
    let left = until.saturating_duration_since(Instant::now());
    match waiting {
        Waiting::Sleep => sleep_until(until).await,
        Waiting::Spin if left > TIMER_STEP => sleep_until(until - TIMER_STEP).await,
        Waiting::Spin => yield_now().await,
    }
}

async fn read_receipts(frames: &mut Frames, receipts: &mut u64) -> Result<(), LoadError> {
    frames
        .read(&mut |item| {
            *receipts += u64::from(item == Item::Receipt);
            Ok(())
        })
        .await
}
