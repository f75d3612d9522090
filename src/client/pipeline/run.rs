//! The life of one task: wait for the link, open, hand over batches, and come back where it was.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout};

use crate::base::limits::PIPELINE_HEALTHY_AFTER;
use crate::base::reason::EndReason;
use crate::client::error::ClientError;
use crate::client::pipeline::config::PipelineConfig;
use crate::client::pipeline::end::{EndWhy, HandlerError, TaskState};
use crate::client::pipeline::halt::{Halt, Stopping};
use crate::client::pipeline::link::{Lane, Link};
use crate::client::pipeline::observe::{Observer, Setback, Word};
use crate::client::pipeline::places::{Delivery, Mark, Places, Step};
use crate::client::pipeline::registry::Entry;
use crate::client::pipeline::retry::{Next, after_end, after_error, end_text, wait};
use crate::client::stream::{Item, MessageStream, StreamEnd};
use crate::wire::v1;

/// What a handler gets at once: in order, at most [`batch_max`](crate::client::Task::batch_max) deliveries, never none.
#[derive(Debug)]
pub struct Batch {
    /// The task's name.
    pub task: Arc<str>,
    /// Events and gaps.
    pub deliveries: Vec<Delivery>,
}

impl Batch {
    /// The events alone.
    pub fn events(&self) -> impl Iterator<Item = &v1::Event> {
        self.deliveries.iter().filter_map(|delivery| match delivery {
            Delivery::Event(event) => Some(event),
            Delivery::Gap(_) => None,
        })
    }
}

pub(super) type Handling = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;
pub(super) type Handler = Box<dyn FnMut(Batch, Stopping) -> Handling + Send>;
pub(super) type Until = Box<dyn FnMut(&v1::Event) -> bool + Send>;

/// Everything one task needs.
pub(super) struct Runner {
    pub(super) config: Arc<PipelineConfig>,
    pub(super) link: Link,
    pub(super) entry: Arc<Entry>,
    pub(super) halt: Halt,
    pub(super) places: Places,
    pub(super) until: Option<Until>,
    pub(super) observer: Option<Observer>,
    pub(super) max_retries: Option<u32>,
    pub(super) batch_max: usize,
    pub(super) handler: Handler,
    /// Failures in a row, for the backoff.
    pub(super) failures: u32,
    /// It had a live stream once.
    pub(super) lived: bool,
}

/// A batch, the places it leads to, and whether it is the last.
struct Work {
    deliveries: Vec<Delivery>,
    marks: Vec<Mark>,
    is_last: bool,
}

/// Why a stream is read no more.
enum Over {
    /// The task is over.
    Task(EndWhy),
    /// The stream is.
    Stream(Box<StreamEnd>),
    /// The link has another lane.
    Left,
}

/// Why a task has to start again.
enum Lost {
    Link,
    Stream(Box<StreamEnd>),
    Opening(ClientError),
}

impl Lost {
    fn text(&self) -> String {
        match self {
            Self::Link => "connected anew".to_owned(),
            Self::Stream(end) => end_text(end),
            Self::Opening(error) => error.to_string(),
        }
    }

    fn setback(&self) -> Setback<'_> {
        match self {
            Self::Link => Setback::Left,
            Self::Stream(end) => Setback::Ended(end),
            Self::Opening(error) => Setback::Failed(error),
        }
    }
}

/// The outcome of the handler.
enum Handled {
    Done,
    Failed(HandlerError),
    /// Done or dropped after the task was asked to stop.
    Halted {
        forced: bool,
        failed: Option<HandlerError>,
    },
}

impl Runner {
    /// Runs to the one end.
    pub(super) async fn run(mut self) -> EndWhy {
        loop {
            self.entry.set_state(TaskState::Connecting);
            let lane = match self.lane().await {
                Ok(lane) => lane,
                Err(why) => return why,
            };
            let opened_at = Instant::now();
            let over = match self.open(&lane).await {
                Ok(stream) => self.read(&lane, stream).await,
                Err(over) => Err(over),
            };
            let (next, lost) = match over {
                Ok(Over::Task(why)) | Err(Opening::Task(why)) => return why,
                Ok(Over::Left) => (Next::Again { after: None, link_in_doubt: false }, Lost::Link),
                Ok(Over::Stream(end)) => match after_end(&end) {
                    Next::Stop => {
                        self.link.heed(&lane, &end);
                        return EndWhy::Ended(end);
                    }
                    next @ Next::Again { .. } => (next, Lost::Stream(end)),
                },
                Err(Opening::Refused(error)) if self.lived && is_count(&error) => {
                    (Next::Again { after: None, link_in_doubt: false }, Lost::Opening(error))
                }
                Err(Opening::Refused(error)) => match after_error(&error) {
                    Next::Stop => return EndWhy::Refused(Arc::new(error)),
                    next @ Next::Again { .. } => (next, Lost::Opening(error)),
                },
            };
            if opened_at.elapsed() >= PIPELINE_HEALTHY_AFTER {
                self.failures = 0;
            }
            if let Err(why) = self.back_off(next, &lost, &lane).await {
                return why;
            }
        }
    }

    /// The lane, once there is one.
    async fn lane(&mut self) -> Result<Arc<Lane>, EndWhy> {
        let (entry, max_retries, observer) = (&self.entry, self.max_retries, &mut self.observer);
        let failed = |more: u64, error: &ClientError| {
            let failures = entry.failed(u32::try_from(more).unwrap_or(u32::MAX), &error.to_string());
            let again = max_retries.is_none_or(|max| failures <= max);
            if let Some(observer) = observer {
                observer(Word::Setback { what: Setback::Failed(error), again });
            }
            again
        };
        tokio::select! {
            biased;
            asked = self.halt.asked() => Err(asked.into()),
            lane = self.link.up(failed) => match lane {
                Ok(lane) => Ok(lane),
                Err(Some(error)) => Err(EndWhy::Refused(error)),
                Err(None) => Err(self.entry.exhausted()),
            },
        }
    }

    async fn open(&mut self, lane: &Lane) -> Result<MessageStream, Opening> {
        let subscriptions = self.places.open();
        tokio::select! {
            biased;
            asked = self.halt.asked() => Err(Opening::Task(asked.into())),
            opened = lane.session.subscribe(subscriptions) => opened.map_err(Opening::Refused),
        }
    }

    /// Reads the stream and feeds the handler, until one of them is over.
    async fn read(&mut self, lane: &Lane, mut stream: MessageStream) -> Result<Over, Opening> {
        loop {
            let item = tokio::select! {
                biased;
                asked = self.halt.asked() => return Ok(Over::Task(asked.into())),
                item = stream.next() => item,
                () = self.link.left(lane) => return Ok(Over::Left),
            };
            let first = match item {
                Ok(item) => item,
                Err(end) => return Ok(Over::Stream(Box::new(end))),
            };
            let work = match self.gather(first, &mut stream) {
                Ok(work) => work,
                Err(refused) => return Err(Opening::Refused(refused)),
            };
            if work.deliveries.is_empty() {
                continue;
            }
            if let Some(why) = self.handle(work).await {
                return Ok(Over::Task(why));
            }
            self.entry.set_state(TaskState::Streaming);
        }
    }

    /// What is there of the stream, without waiting.
    fn gather(&mut self, first: Item, stream: &mut MessageStream) -> Result<Work, ClientError> {
        let mut work = Work { deliveries: Vec::new(), marks: Vec::new(), is_last: false };
        let mut next = Some(first);
        while let Some(item) = next {
            if let Item::Refused { status, .. } = item {
                return Err((*status).into());
            }
            self.tell_said(&item);
            match self.places.take(item) {
                Step::Deliver(delivery, mark) => {
                    work.is_last = self.is_the_one(&delivery);
                    work.deliveries.push(delivery);
                    work.marks.push(mark);
                }
                Step::Live(mark) => {
                    self.lived = true;
                    self.entry.lives();
                    if let Some(mark) = mark {
                        self.places.handled(mark);
                        self.entry.moved(&self.places, 0);
                    }
                }
                Step::Other => {}
            }
            if work.is_last || work.deliveries.len() == self.batch_max {
                break;
            }
            next = stream.next_at_hand();
        }
        Ok(work)
    }

    fn tell_said(&mut self, item: &Item) {
        if let Some(observer) = &mut self.observer
            && !matches!(item, Item::Event(_) | Item::Gap(_))
        {
            observer(Word::Said(item));
        }
    }

    fn is_the_one(&mut self, delivery: &Delivery) -> bool {
        match (delivery, &mut self.until) {
            (Delivery::Event(event), Some(until)) => until(event),
            (Delivery::Event(_) | Delivery::Gap(_), _) => false,
        }
    }

    /// Hands a batch over; the task's end, if this was it.
    async fn handle(&mut self, work: Work) -> Option<EndWhy> {
        let Work { deliveries, marks, is_last } = work;
        let events = deliveries.iter().filter(|delivery| matches!(delivery, Delivery::Event(_))).count();
        self.entry.begins(events, age(&deliveries));
        let batch = Batch { task: Arc::clone(&self.entry.id), deliveries };
        let handling = (self.handler)(batch, Stopping(self.entry.scope.clone()));
        let handled = self.finish(handling).await;
        let (halted, failed) = match handled {
            Handled::Done => (false, None),
            Handled::Failed(error) => (false, Some(error)),
            Handled::Halted { forced: true, .. } => {
                self.entry.force();
                return Some(self.halt.asked().await.into());
            }
            Handled::Halted { forced: false, failed } => (true, failed),
        };
        if let Some(error) = failed {
            return Some(EndWhy::HandlerFailed(error));
        }
        for mark in marks {
            self.places.handled(mark);
        }
        self.entry.moved(&self.places, events);
        if is_last {
            return Some(EndWhy::ConditionMet);
        }
        if halted {
            return Some(self.halt.asked().await.into());
        }
        None
    }

    /// Waits for the handler; once the task was asked to stop, only so long.
    async fn finish(&mut self, mut handling: Handling) -> Handled {
        tokio::select! {
            biased;
            done = &mut handling => return match done {
                Ok(()) => Handled::Done,
                Err(error) => Handled::Failed(error),
            },
            _ = self.halt.asked() => {}
        }
        self.entry.set_state(TaskState::Draining);
        tokio::select! {
            biased;
            done = timeout(self.config.drain_timeout, handling) => match done {
                Ok(done) => Handled::Halted { forced: false, failed: done.err() },
                Err(_) => Handled::Halted { forced: true, failed: None },
            },
            () = self.entry.scope.aborted() => Handled::Halted { forced: true, failed: None },
        }
    }

    /// Counts the failure and waits as told, or as long as so many failures take.
    async fn back_off(&mut self, next: Next, lost: &Lost, lane: &Lane) -> Result<(), EndWhy> {
        let Next::Again { after, link_in_doubt } = next else { return Ok(()) };
        if link_in_doubt {
            self.link.doubt(lane, after);
        }
        let text = lost.text();
        let failures = self.entry.failed(1, &text);
        let again = self.max_retries.is_none_or(|max| failures <= max);
        if let Some(observer) = &mut self.observer {
            observer(Word::Setback { what: lost.setback(), again });
        }
        if !again {
            return Err(self.entry.exhausted());
        }
        self.failures = self.failures.saturating_add(1);
        let wait = wait(after, self.failures, &self.config.backoff);
        self.entry.set_state(TaskState::BackingOff);
        log::debug!("task {}: {text}; again in {wait:?}", self.entry.id);
        tokio::select! {
            biased;
            asked = self.halt.asked() => Err(asked.into()),
            () = sleep(wait) => Ok(()),
        }
    }
}

/// Why a stream was not opened.
enum Opening {
    /// The task is over.
    Task(EndWhy),
    /// It was refused, or the connection broke.
    Refused(ClientError),
}

/// Whether a count was full. For who had a place this passes: until the hub knows that the lost connection is gone, the
/// streams on it count.
fn is_count(error: &ClientError) -> bool {
    error.reason() == Some(EndReason::QuotaExceeded)
}

/// How old the newest event is by this machine's clock.
fn age(deliveries: &[Delivery]) -> Option<Duration> {
    let newest = deliveries.iter().rev().find_map(|delivery| match delivery {
        Delivery::Event(event) => event.published_at,
        Delivery::Gap(_) => None,
    })?;
    SystemTime::now().duration_since(SystemTime::try_from(newest).ok()?).ok()
}
