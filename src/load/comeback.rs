//! A crowd whose connections are all cut at once, and how each client of it comes back: at once, then as it is told to,
//! from where it was.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::base::reason::Retry;
use crate::client::ClientError;
use crate::load::error::LoadError;
use crate::load::guest::stay;
use crate::load::latencies::Latencies;
use crate::load::message::{NUMBER_BYTES, TOPIC};
use crate::load::session::{Frames, Session};
use crate::load::visit::{Visitor, closed};
use crate::runtime::backoff::Backoff;
use crate::wire::v1;
use crate::wire::v1::notice::Kind;
use crate::wire::v1::subscription::Start;

/// Where nobody says when to come back: soon, for this is the storm, but longer each time.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    factor_permille: 1600,
    jitter_permille: 200,
    max: Duration::from_secs(5),
};
/// How often one who waits for the crowd looks: no step of a storm is that short.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Different causes told; further ones are counted together.
const CAUSES_MAX: usize = 16;

/// What happens to the whole crowd, and what became of it.
#[derive(Debug, Default)]
pub struct Crowd {
    /// All connections are cut.
    pub cut: CancellationToken,
    /// All come back.
    pub go: CancellationToken,
    /// All leave.
    pub leave: CancellationToken,
    /// Each logs in anew, instead of going on with the session it had.
    logs_in: bool,
    /// Published and accepted.
    pub published: Cell<u64>,
    /// What they were told.
    pub told: RefCell<Told>,
    begun_at: Cell<Option<Instant>>,
    /// How many messages each client has heard of.
    reached: RefCell<Vec<u64>>,
}

/// What a crowd was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Clients that follow, that are cut, that are live again, that have what they missed, and that are gone.
    pub count: Count,
    /// How long it took to be live again.
    pub live: Latencies,
    /// How long it took to have all that was published when it was live again.
    pub caught_up: Latencies,
    /// Attempts to come back.
    pub attempts: u64,
    /// Attempts that were answered with the time to come back, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Attempts that failed without that, by cause.
    pub unexplained: BTreeMap<String, u64>,
    /// Events missing that a gap told.
    pub missed: u64,
    /// Events missing without a word.
    pub lost: u64,
    /// Sessions left to their lease.
    pub left: u64,
    /// What makes the measurement void.
    pub fault: Option<LoadError>,
}

/// Clients by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Live for the first time.
    pub following: u32,
    /// Without a connection.
    pub cut: u32,
    /// Live again.
    pub live: u32,
    /// Live again, with all that was published by then.
    pub caught_up: u32,
}

impl Crowd {
    /// A crowd of nobody yet, whose clients log in anew when they come back, or go on with the session they had.
    #[must_use]
    pub fn new(logs_in: bool) -> Self {
        Self { logs_in, ..Self::default() }
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.borrow_mut());
    }

    /// Whether all have all that was published.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.reached.borrow().iter().all(|reached| *reached >= self.published.get())
    }

    /// The first fault counts.
    fn fail(&self, fault: LoadError) {
        self.tell(|told| _ = told.fault.get_or_insert(fault));
    }

    /// Lets all come back from now on.
    pub fn begin(&self) {
        self.begun_at.set(Some(Instant::now()));
        self.go.cancel();
    }

    fn since_begin(&self) -> Duration {
        self.begun_at.get().map(|begun_at| begun_at.elapsed()).unwrap_or_default()
    }

    /// Waits until this holds; a fault ends the wait.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) -> Result<(), LoadError> {
        loop {
            let fault = self.told.borrow_mut().fault.take();
            if let Some(fault) = fault {
                return Err(fault);
            }
            if holds(self) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// How far all are.
    #[must_use]
    pub fn count(&self) -> Count {
        self.told.borrow().count
    }
}

/// One client.
struct Follower {
    crowd: Rc<Crowd>,
    visitor: Visitor,
    /// Of the session it has.
    token: String,
    must_log_in: bool,
    /// After what it resumes.
    position: Option<v1::Position>,
    /// Number of the message that is due.
    next: u64,
    is_gap_told: bool,
    is_back: bool,
    /// What it must have to have caught up; none before it is live again, and when it has.
    target: Option<u64>,
    /// Its place among all.
    index: usize,
}

/// Follows from now on, is cut, comes back, goes on until all leave, and logs out.
pub async fn follow<IO, D>(dial: impl Fn() -> D, visitor: Visitor, crowd: Rc<Crowd>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = Result<IO, LoadError>>,
{
    let index = {
        let mut reached = crowd.reached.borrow_mut();
        reached.push(0);
        reached.len() - 1
    };
    let mut follower = Follower {
        crowd: Rc::clone(&crowd),
        visitor,
        index,
        must_log_in: true,
        token: String::new(),
        position: None,
        next: 0,
        is_gap_told: false,
        is_back: false,
        target: None,
    };
    let (cut, leave) = (crowd.cut.clone(), crowd.leave.clone());
    let first = tokio::select! {
        first = follower.come(dial(), async { cut.cancelled().await }) => first,
        () = leave.cancelled() => Ok(None),
    };
    match first {
        // The connection is dropped where it is.
        Ok(gone) => drop(gone),
        Err(fault) => {
            crowd.fail(fault);
            return follower.log_out_of_afar(dial()).await;
        }
    }
    crowd.tell(|told| told.count.cut += 1);
    follower.must_log_in = crowd.logs_in || follower.token.is_empty();
    tokio::select! {
        () = crowd.go.cancelled() => {}
        () = leave.cancelled() => {}
    }
    let mut failures = 0;
    while !leave.is_cancelled() {
        crowd.tell(|told| told.attempts += 1);
        let was_back = follower.is_back;
        let stayed = follower.come(dial(), async { leave.cancelled().await }).await;
        let error = match stayed {
            Ok(Some(session)) => return log_out(session, &crowd).await,
            Ok(None) => break,
            Err(error) => error,
        };
        failures = if follower.is_back && !was_back { 1 } else { failures + 1 };
        let Some(wait) = follower.judge(error, failures) else { return };
        tokio::select! {
            () = sleep(wait) => {}
            () = leave.cancelled() => {}
        }
    }
    follower.log_out_of_afar(dial()).await;
}

async fn log_out<IO: AsyncRead + AsyncWrite + Unpin>(mut session: Session<IO>, crowd: &Crowd) {
    let left = match session.log_out().await {
        Ok(()) => closed(session).await,
        Err(error) => Err(error),
    };
    if left.is_err() {
        crowd.tell(|told| told.left += 1);
    }
}

impl Follower {
    /// Connects, says who it is, follows from where it was, and stays until `until`; then the session is still there.
    async fn come<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        dial: impl Future<Output = Result<IO, LoadError>>,
        until: impl Future<Output = ()>,
    ) -> Result<Option<Session<IO>>, LoadError> {
        let Visitor { authority, user, client_name } = &self.visitor;
        let mut session = if self.must_log_in {
            let session = Session::log_in(dial.await?, authority, user, client_name).await?;
            session.token().clone_into(&mut self.token);
            self.must_log_in = false;
            session
        } else {
            let mut session = Session::over(dial.await?, authority).await?;
            session.act_as(&self.token);
            session
        };
        let start = self.position.clone().map(Start::After);
        let subscription = v1::Subscription { topic: TOPIC.to_owned(), start, ..Default::default() };
        let request = v1::SubscribeRequest { subscriptions: vec![subscription] };
        let mut frames: Frames = session.subscribe(&request).await?;
        stay(&mut session, &mut frames, until, &mut |frame| self.hear(frame)).await?;
        Ok(Some(session))
    }

    /// What came, in its order.
    fn hear(&mut self, frame: v1::ServerFrame) -> Result<(), LoadError> {
        for notice in frame.notices {
            match notice.kind {
                Some(Kind::Subscribed(subscribed)) => self.live(subscribed),
                Some(Kind::Refused(_)) => return Err(LoadError::Void("a resume was refused".to_owned())),
                Some(_) | None => {}
            }
        }
        self.is_gap_told |= !frame.gaps.is_empty();
        for event in frame.events {
            self.take(&event)?;
        }
        let crowd = &self.crowd;
        if self.target.is_some_and(|target| self.next >= target) {
            self.target = None;
            crowd.tell(|told| {
                told.count.caught_up += 1;
                told.caught_up.record(crowd.since_begin());
            });
        }
        crowd.reached.borrow_mut()[self.index] = self.next;
        Ok(())
    }

    fn live(&mut self, subscribed: v1::Subscribed) {
        if self.position.is_none() {
            self.position = subscribed.position;
            self.crowd.tell(|told| told.count.following += 1);
        } else if !self.is_back {
            self.is_back = true;
            self.target = Some(self.crowd.published.get());
            self.crowd.tell(|told| {
                told.count.live += 1;
                told.live.record(self.crowd.since_begin());
            });
        }
    }

    fn take(&mut self, event: &v1::Event) -> Result<(), LoadError> {
        let number = event.payload.first_chunk::<NUMBER_BYTES>().map(|number| u64::from_le_bytes(*number));
        let Some(number) = number.filter(|number| *number >= self.next) else {
            let came = format!("message {number:?} came again or late: {} was due", self.next);
            return Err(LoadError::Void(came));
        };
        let missing = number - self.next;
        if missing > 0 {
            let is_told = std::mem::take(&mut self.is_gap_told);
            self.crowd.tell(|told| {
                let count = if is_told { &mut told.missed } else { &mut told.lost };
                *count += missing;
            });
        }
        self.next = number + 1;
        if let Some(position) = &mut self.position {
            position.sequence = event.sequence;
        }
        Ok(())
    }

    /// Counts why it is not there, and says how long to wait; none when the measurement is void.
    fn judge(&mut self, error: LoadError, failures: u32) -> Option<Duration> {
        let told = match &error {
            LoadError::Void(_) | LoadError::Gap => {
                self.crowd.fail(error);
                return None;
            }
            LoadError::Refused(ClientError::Refused { details, .. }) => details.as_deref(),
            LoadError::Refused(_)
            | LoadError::Socket(_)
            | LoadError::Http2(_)
            | LoadError::Closed
            | LoadError::Malformed(_) => None,
        };
        if told.is_some_and(|details| details.reason.retry() == Retry::LogInAgain) {
            self.must_log_in = true;
        }
        let after = told.and_then(|details| details.retry_after);
        let cause = match told {
            Some(details) => details.quota.as_ref().map_or_else(
                || details.reason.name().to_owned(),
                |quota| format!("{}: {}", details.reason.name(), quota.subject),
            ),
            None => error.to_string(),
        };
        self.crowd.tell(|told| {
            let causes = if after.is_some() { &mut told.refused } else { &mut told.unexplained };
            let is_room = causes.len() < CAUSES_MAX || causes.contains_key(&cause);
            *causes.entry(if is_room { cause } else { "others".to_owned() }).or_default() += 1;
        });
        Some(after.unwrap_or_else(|| BACKOFF.delay(failures, getrandom::u32().unwrap_or_default())))
    }

    /// Logs out without a connection of its own any more, if it has a session.
    async fn log_out_of_afar<IO: AsyncRead + AsyncWrite + Unpin>(
        self,
        dial: impl Future<Output = Result<IO, LoadError>>,
    ) {
        if self.token.is_empty() {
            return;
        }
        let opened = async { Session::over(dial.await?, &self.visitor.authority).await };
        match opened.await {
            Ok(mut session) => {
                session.act_as(&self.token);
                log_out(session, &self.crowd).await;
            }
            Err(_) => self.crowd.tell(|told| told.left += 1),
        }
    }
}
