//! Publishing that survives a lost connection: what has no receipt is sent again with the same message id, and the hub
//! drops what it had already accepted.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::base::event::Position;
use crate::base::limits::{PIPELINE_CAUTIOUS_RECEIPTS, PIPELINE_HEALTHY_AFTER};
use crate::base::reason::EndReason;
use crate::client::error::ClientError;
use crate::client::pipeline::config::PipelineConfig;
use crate::client::pipeline::link::{Lane, Link};
use crate::client::pipeline::retry::{Next, after_end, after_error, end_text, wait};
use crate::client::stream::{Item, MessageStream, Receipt, Sender};
use crate::runtime::scope::Scope;
use crate::wire::v1;

/// Why something was not published, or is not known to be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// As many publishes as may be are waiting for their receipts.
    #[error("as many publishes as may be wait for their receipts")]
    Full,
    /// No receipt came in time; it may have been published.
    #[error("no receipt within {0:?}; it may have been published")]
    TimedOut(Duration),
    /// The hub refused it, or will not have this client any more.
    #[error("{0}")]
    Refused(Arc<ClientError>),
    /// It failed too often in a row; it may have been published.
    #[error("given up after {failures} failures in a row: {last}")]
    RetriesExhausted {
        /// That often.
        failures: u32,
        /// The last time.
        last: Arc<str>,
    },
    /// The pipeline was shut down first; it may have been published.
    #[error("the pipeline was shut down")]
    ShutDown,
}

/// What is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// Of which kind; may be empty.
    pub content_type: String,
    /// By which the hub knows it when it is sent again; empty has one made.
    pub message_id: String,
}

impl Message {
    /// Text for a topic.
    #[must_use]
    pub fn text(topic: &str, text: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(text.as_bytes()),
            content_type: "text/plain".to_owned(),
            message_id: String::new(),
        }
    }
}

/// Publishes on one stream, many at once. Clones share the stream and its window. Order is kept, but for what a rate
/// limit of the hub refused: that comes again later.
#[derive(Clone)]
pub struct Publisher {
    jobs: mpsc::Sender<Job>,
    window: Arc<Semaphore>,
    ids: Arc<Ids>,
    timeout: Duration,
}

/// A receipt to come. Dropping it does not take the publish back.
#[derive(Debug)]
pub struct PendingReceipt {
    answer: oneshot::Receiver<Result<Position, PublishError>>,
    until: Instant,
    timeout: Duration,
}

type Answer = oneshot::Sender<Result<Position, PublishError>>;

struct Job {
    publish: v1::Publish,
    answer: Answer,
    /// Not sent again after this.
    until: Instant,
    _place: OwnedSemaphorePermit,
}

/// Message ids no other client has: a random word and a number.
pub(super) struct Ids {
    word: String,
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> Self {
        // Without randomness the ids of two clients of a user might meet, which the time tells apart.
        let word = getrandom::u64().unwrap_or_else(|_| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            now.as_secs() ^ u64::from(now.subsec_nanos()) << 32
        });
        Self { word: format!("{word:016x}"), next: AtomicU64::new(0) }
    }

    pub(super) fn next(&self) -> String {
        format!("{}-{}", self.word, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Publisher {
    /// Its worker ends with `upkeep`, or when all clones are gone and nothing is under way.
    pub(super) fn start(config: &Arc<PipelineConfig>, link: &Link, upkeep: &Scope) -> Self {
        let (jobs, waiting) = mpsc::channel(config.in_flight_max);
        let worker = Worker {
            config: Arc::clone(config),
            link: link.clone(),
            scope: upkeep.clone(),
            jobs: waiting,
            queue: Queue::default(),
            failures: 0,
        };
        upkeep.spawn(worker.run());
        let window = Arc::new(Semaphore::new(config.in_flight_max));
        Self { jobs, window, ids: Arc::new(Ids::new()), timeout: config.publish_timeout }
    }

    /// Publishes and waits for the receipt. Waits for a place first when as many as may be are under way.
    ///
    /// # Errors
    /// Every [`PublishError`] but `Full`.
    pub async fn publish(&self, message: Message) -> Result<Position, PublishError> {
        self.begin(message).await?.received().await
    }

    /// Waits for a place and hands the message over; its receipt can be waited for later. What is begun first is
    /// published first.
    ///
    /// # Errors
    /// [`PublishError::TimedOut`] without a place in time, [`PublishError::ShutDown`].
    pub async fn begin(&self, message: Message) -> Result<PendingReceipt, PublishError> {
        let until = Instant::now() + self.timeout;
        match timeout_at(until, Arc::clone(&self.window).acquire_owned()).await {
            Ok(Ok(place)) => self.hand_over(message, place, until),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(PublishError::ShutDown),
            Err(_) => Err(PublishError::TimedOut(self.timeout)),
        }
    }

    /// Hands the message over if there is a place for it now.
    ///
    /// # Errors
    /// [`PublishError::Full`], [`PublishError::ShutDown`].
    pub fn try_publish(&self, message: Message) -> Result<PendingReceipt, PublishError> {
        let until = Instant::now() + self.timeout;
        match Arc::clone(&self.window).try_acquire_owned() {
            Ok(place) => self.hand_over(message, place, until),
            Err(TryAcquireError::NoPermits) => Err(PublishError::Full),
            Err(TryAcquireError::Closed) => Err(PublishError::ShutDown),
        }
    }

    fn hand_over(
        &self,
        message: Message,
        place: OwnedSemaphorePermit,
        until: Instant,
    ) -> Result<PendingReceipt, PublishError> {
        let Message { topic, payload, content_type, message_id } = message;
        let message_id = if message_id.is_empty() { self.ids.next() } else { message_id };
        let (answer, waiting) = oneshot::channel();
        let publish = v1::Publish { topic, payload, message_id, content_type };
        // There are as many places in the queue as permits.
        self.jobs
            .try_send(Job { publish, answer, until, _place: place })
            .map_err(|_| PublishError::ShutDown)?;
        Ok(PendingReceipt { answer: waiting, until, timeout: self.timeout })
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("places", &self.window.available_permits()).finish_non_exhaustive()
    }
}

impl PendingReceipt {
    /// The place of the event in the hub's order.
    ///
    /// # Errors
    /// Every [`PublishError`] but `Full`.
    pub async fn received(self) -> Result<Position, PublishError> {
        match timeout_at(self.until, self.answer).await {
            Ok(Ok(answer)) => answer,
            // The worker is gone.
            Ok(Err(_)) => Err(PublishError::ShutDown),
            Err(_) => Err(PublishError::TimedOut(self.timeout)),
        }
    }
}

/// Publishes without a receipt, in order: first those sent on the present stream, then those a rate refused, then new
/// ones.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    sent: usize,
    refused: usize,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    /// After a rate was reached one goes at a time, for so many receipts.
    cautious: u32,
}

impl Queue {
    /// The next to send, if one may go.
    fn next(&self) -> Option<&v1::Publish> {
        let is_held = self.cautious > 0 && self.sent > 0;
        if is_held { None } else { self.jobs.get(self.sent).map(|job| &job.publish) }
    }

    fn was_sent(&mut self) {
        self.sent += 1;
        self.refused = self.refused.saturating_sub(1);
    }

    /// A new stream: everything is to be sent again, but for what was given up.
    fn restart(&mut self) {
        let now = Instant::now();
        self.jobs.retain(|job| now < job.until);
        (self.sent, self.refused) = (0, 0);
    }

    /// Takes a receipt, which is for the oldest that was sent.
    fn receipt(&mut self, receipt: Receipt) -> Result<(), ClientError> {
        let is_oldest = self.jobs.front().is_some_and(|job| job.publish.message_id == receipt.message_id);
        if self.sent == 0 || !is_oldest {
            return Err(ClientError::Contract("a receipt for something else than the oldest publish"));
        }
        let Some(job) = self.jobs.pop_front() else { return Ok(()) };
        self.sent -= 1;
        let answer = match receipt.outcome {
            Ok(position) => {
                self.cautious = self.cautious.saturating_sub(1);
                Ok(position)
            }
            Err(status) => {
                let error = ClientError::from(*status);
                if let Some(wait) = rate_wait(&error) {
                    self.cautious = PIPELINE_CAUTIOUS_RECEIPTS;
                    self.not_before = Some(Instant::now() + wait);
                    self.jobs.insert(self.sent + self.refused, job);
                    self.refused += 1;
                    return Ok(());
                }
                Err(PublishError::Refused(Arc::new(error)))
            }
        };
        // Nobody may wait any more.
        let _ = job.answer.send(answer);
        Ok(())
    }

    fn fail(&mut self, error: &PublishError) {
        for job in self.jobs.drain(..) {
            let _ = job.answer.send(Err(error.clone()));
        }
        self.restart();
    }
}

/// How long a rate asks to wait, if that is what refused.
fn rate_wait(error: &ClientError) -> Option<Duration> {
    let ClientError::Refused { details: Some(details), .. } = error else { return None };
    details.retry_after.filter(|_| details.reason == EndReason::QuotaExceeded)
}

/// Keeps the stream.
struct Worker {
    config: Arc<PipelineConfig>,
    link: Link,
    scope: Scope,
    jobs: mpsc::Receiver<Job>,
    queue: Queue,
    failures: u32,
}

/// Why the stream is left.
enum Left {
    /// There is nothing more to do.
    Done,
    /// To be opened again, or not.
    Broken(Next, String, Option<Arc<ClientError>>),
}

impl Worker {
    async fn run(mut self) {
        let scope = self.scope.clone();
        tokio::select! {
            biased;
            () = scope.aborted() => {}
            () = self.work() => {}
        }
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            self.queue.jobs.push_back(job);
        }
        self.queue.fail(&PublishError::ShutDown);
    }

    async fn work(&mut self) {
        loop {
            // No stream before there is something to send.
            if self.queue.jobs.is_empty() && !self.first_job().await {
                return;
            }
            let lane = match self.link.up(|_, _| true).await {
                Ok(lane) => lane,
                Err(why) => {
                    self.queue.fail(&why.map_or(PublishError::ShutDown, PublishError::Refused));
                    return;
                }
            };
            let opened_at = Instant::now();
            let (next, text, error) = match lane.session.open().await {
                Ok((sender, mut stream)) => match self.serve(&lane, &sender, &mut stream).await {
                    Left::Done => {
                        // Half-closed: the hub ends the stream as completed, and its record says so.
                        drop(sender);
                        let rest = async { while stream.next().await.is_ok() {} };
                        let _ = timeout(self.config.ping_timeout, rest).await;
                        return;
                    }
                    Left::Broken(next, text, error) => (next, text, error),
                },
                Err(error) => (after_error(&error), error.to_string(), Some(Arc::new(error))),
            };
            if opened_at.elapsed() >= PIPELINE_HEALTHY_AFTER {
                self.failures = 0;
            }
            self.back_off(next, &text, error, &lane).await;
        }
    }

    async fn first_job(&mut self) -> bool {
        let job = tokio::select! {
            biased;
            job = self.jobs.recv() => job,
            () = self.scope.ending() => {
                self.jobs.close();
                self.jobs.recv().await
            }
        };
        let is_one = job.is_some();
        self.queue.jobs.extend(job);
        is_one
    }

    /// Sends and takes receipts until the stream ends or nothing is left to do.
    async fn serve(&mut self, lane: &Lane, sender: &Sender, stream: &mut MessageStream) -> Left {
        self.queue.restart();
        let (mut takes_more, mut is_ending) = (true, false);
        loop {
            if !takes_more && self.queue.jobs.is_empty() {
                return Left::Done;
            }
            let queue = &self.queue;
            let send = async {
                let Some(publish) = queue.next() else { return std::future::pending().await };
                // A sleep takes a millisecond even when it is over.
                if let Some(not_before) = queue.not_before.filter(|at| *at > Instant::now()) {
                    sleep_until(not_before).await;
                }
                sender.send_publish(publish.clone()).await
            };
            tokio::select! {
                biased;
                item = stream.next() => match item {
                    Ok(Item::Receipt(receipt)) => {
                        self.failures = 0;
                        if let Err(error) = self.queue.receipt(receipt) {
                            return broken(error);
                        }
                    }
                    Ok(_) => {}
                    Err(end) => {
                        let text = end_text(&end);
                        self.link.heed(lane, &end);
                        let error = ClientError::from((*end.status).clone());
                        // "On demand" is as soon as there is something to send.
                        let next = if end.reason == Some(EndReason::IdleTimeout) {
                            Next::Again { after: Some(Duration::ZERO), link_in_doubt: false }
                        } else {
                            after_end(&end)
                        };
                        return Left::Broken(next, text, Some(Arc::new(error)));
                    }
                },
                () = self.link.left(lane) => {
                    let again = Next::Again { after: None, link_in_doubt: false };
                    return Left::Broken(again, "connected anew".to_owned(), None);
                }
                // The stream's end says why it was not.
                sent = send => if sent.is_ok() { self.queue.was_sent() },
                job = self.jobs.recv(), if takes_more => match job {
                    Some(job) => self.queue.jobs.push_back(job),
                    None => takes_more = false,
                },
                // What was handed over before still goes out.
                () = self.scope.ending(), if !is_ending => {
                    is_ending = true;
                    self.jobs.close();
                }
            }
        }
    }

    /// Waits as told or as long as so many failures take; at the end of patience everything under way fails.
    async fn back_off(&mut self, next: Next, text: &str, error: Option<Arc<ClientError>>, lane: &Lane) {
        let Next::Again { after, link_in_doubt } = next else {
            let closed = error.unwrap_or_else(|| Arc::new(ClientError::StreamEnded));
            self.queue.fail(&PublishError::Refused(closed));
            // Who publishes next may have more luck, but not at once.
            self.failures = self.failures.saturating_add(1);
            self.rest(wait(None, self.failures, &self.config.backoff)).await;
            return;
        };
        if link_in_doubt {
            self.link.doubt(lane, after);
        }
        self.failures = self.failures.saturating_add(1);
        if self.config.max_retries.is_some_and(|max| self.failures > max) {
            let (failures, last) = (self.failures, Arc::from(text));
            self.queue.fail(&PublishError::RetriesExhausted { failures, last });
        }
        let wait = wait(after, self.failures, &self.config.backoff);
        log::debug!("publisher: {text}; again in {wait:?}");
        self.rest(wait).await;
    }

    /// Waits, at the end only for what is under way.
    async fn rest(&self, wait: Duration) {
        tokio::select! {
            () = self.scope.ending(), if self.queue.jobs.is_empty() => {}
            () = sleep(wait) => {}
        }
    }
}

fn broken(error: ClientError) -> Left {
    let text = error.to_string();
    Left::Broken(after_error(&error), text, Some(Arc::new(error)))
}
