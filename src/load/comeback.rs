//! A crowd whose connections are all cut at once, and how each client of it comes back: at once, then as it is told to,
//! from where it was.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::base::reason::Retry;
use crate::client::ClientError;
use crate::load::error::LoadError;
use crate::load::guest::stay;
use crate::load::latencies::Latencies;
use crate::load::message::{NUMBER_BYTES, TOPIC};
use crate::load::session::{Frames, Session};
use crate::load::teller::publish;
use crate::load::visit::Visitor;
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
/// Clients that come for the first time at once, far fewer than a hub's handshakes under way.
pub const COMING_MAX: usize = 8;
/// How often one who waits for the crowd looks: no step of a storm is that short.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Different causes told; further ones are counted together.
const CAUSES_MAX: usize = 16;

/// What happens to the whole crowd, and what became of it.
#[derive(Debug)]
pub struct Crowd {
    /// All connections are cut.
    pub cut: CancellationToken,
    /// All come back.
    pub go: CancellationToken,
    /// All leave.
    pub leave: CancellationToken,
    /// The publisher begins.
    pub speak: CancellationToken,
    /// The publisher ends.
    pub hush: CancellationToken,
    /// It has ended.
    pub hushed: CancellationToken,
    /// Each logs in anew, instead of going on with the session it had.
    logs_in: bool,
    /// Places for those who come for the first time.
    coming: Arc<Semaphore>,
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
        Self {
            cut: CancellationToken::new(),
            go: CancellationToken::new(),
            leave: CancellationToken::new(),
            speak: CancellationToken::new(),
            hush: CancellationToken::new(),
            hushed: CancellationToken::new(),
            logs_in,
            coming: Arc::new(Semaphore::new(COMING_MAX)),
            published: Cell::new(0),
            told: RefCell::default(),
            begun_at: Cell::new(None),
            reached: RefCell::default(),
        }
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

    /// A place among those who connect politely; none when all leave first.
    async fn place(&self, leave: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = leave.cancelled() => None,
            // Closed by nobody.
            place = Arc::clone(&self.coming).acquire_owned() => place.ok(),
        }
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
    /// Its number among all.
    index: usize,
    /// Held until it is live for the first time.
    place: Option<OwnedSemaphorePermit>,
}

/// Speaks from when it is told until it is told, and logs out.
pub async fn speak<IO: AsyncRead + AsyncWrite + Unpin>(
    dial: impl Future<Output = Result<IO, LoadError>>,
    visitor: Visitor,
    period: Duration,
    crowd: Rc<Crowd>,
) {
    tokio::select! {
        () = crowd.speak.cancelled() => {
            if let Err(fault) = publish(dial, &visitor, period, &crowd.published, &crowd.hush).await {
                crowd.fail(fault);
            }
        }
        () = crowd.hush.cancelled() => {}
    }
    crowd.hushed.cancel();
}

/// Follows from now on, is cut, comes back, goes on until all leave, and logs out.
pub async fn follow<IO, D>(dial: impl Fn() -> D, visitor: Visitor, crowd: Rc<Crowd>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = Result<IO, LoadError>>,
{
    let mut follower = Follower::new(Rc::clone(&crowd), visitor);
    let (cut, leave) = (crowd.cut.clone(), crowd.leave.clone());
    let Some(place) = crowd.place(&leave).await else { return };
    follower.place = Some(place);
    let cut_or_left = async {
        tokio::select! {
            () = cut.cancelled() => {}
            () = leave.cancelled() => {}
        }
    };
    match follower.come(dial(), cut_or_left).await {
        Ok(session) if leave.is_cancelled() => return log_out(session, &crowd).await,
        // The connection is dropped where it is.
        Ok(session) => drop(session),
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
            Ok(session) => return log_out(session, &crowd).await,
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

async fn log_out<IO: AsyncRead + AsyncWrite + Unpin>(session: Session<IO>, crowd: &Crowd) {
    if session.leave(()).await.is_err() {
        crowd.tell(|told| told.left += 1);
    }
}

impl Follower {
    fn new(crowd: Rc<Crowd>, visitor: Visitor) -> Self {
        let index = crowd.reached.borrow().len();
        crowd.reached.borrow_mut().push(0);
        Self {
            crowd,
            visitor,
            token: String::new(),
            must_log_in: true,
            position: None,
            next: 0,
            is_gap_told: false,
            is_back: false,
            target: None,
            index,
            place: None,
        }
    }

    /// Connects, says who it is, follows from where it was, and stays until `until`; then the session is still there.
    async fn come<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        dial: impl Future<Output = Result<IO, LoadError>>,
        until: impl Future<Output = ()>,
    ) -> Result<Session<IO>, LoadError> {
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
        Ok(session)
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
            self.place = None;
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
        // All may leave at once: no second storm.
        let _place = match self.place {
            Some(place) => Some(place),
            None => Arc::clone(&self.crowd.coming).acquire_owned().await.ok(),
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::{Cause, EndReason, Quota};
    use crate::load::message::payload;
    use crate::wire::status::{EndFacts, ended};

    fn follower() -> Follower {
        let crowd = Rc::new(Crowd::new(false));
        crowd.begin();
        let visitor = Visitor { authority: "x".to_owned(), user: "x".to_owned(), client_name: String::new() };
        let mut follower = Follower::new(crowd, visitor);
        follower.hear(subscribed()).unwrap();
        follower
    }

    fn subscribed() -> v1::ServerFrame {
        let position = Some(v1::Position { epoch: "e".to_owned(), sequence: 7 });
        let kind = Some(Kind::Subscribed(v1::Subscribed { position, ..Default::default() }));
        v1::ServerFrame { notices: vec![v1::Notice { kind }], ..Default::default() }
    }

    fn events(numbers: impl IntoIterator<Item = u64>) -> v1::ServerFrame {
        let event = |number| v1::Event {
            sequence: 8 + number,
            payload: payload(number, 100).into(),
            ..Default::default()
        };
        v1::ServerFrame { events: numbers.into_iter().map(event).collect(), ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_gap_told_is_missed_and_what_nobody_told_is_lost() {
        let mut follower = follower();
        follower.hear(events(0..3)).unwrap();
        let gap = v1::ServerFrame { gaps: vec![v1::Gap::default()], ..events([5, 6]) };
        follower.hear(gap).unwrap();
        // The gap is used up.
        follower.hear(events([10])).unwrap();
        let told = follower.crowd.told.take();
        assert_eq!((told.missed, told.lost), (2, 3));
        assert_eq!(follower.position.as_ref().map(|position| position.sequence), Some(18));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_comes_twice_makes_it_void() {
        let mut follower = follower();
        follower.hear(events(0..3)).unwrap();
        assert!(matches!(follower.hear(events([2])), Err(LoadError::Void(_))));
        let short = v1::ServerFrame { events: vec![v1::Event::default()], ..Default::default() };
        assert!(matches!(follower.hear(short), Err(LoadError::Void(_))), "other content");
    }

    #[tokio::test(start_paused = true)]
    async fn caught_up_is_who_has_all_that_was_published_when_it_was_live_again() {
        let mut follower = follower();
        let crowd = Rc::clone(&follower.crowd);
        crowd.published.set(4);
        follower.hear(subscribed()).unwrap();
        crowd.published.set(9);
        follower.hear(events(0..3)).unwrap();
        assert_eq!(crowd.count(), Count { following: 1, live: 1, ..Count::default() });
        follower.hear(events(3..4)).unwrap();
        assert_eq!(crowd.count().caught_up, 1);
        assert!(!crowd.is_complete(), "five more were published");
        follower.hear(events(4..9)).unwrap();
        assert!(crowd.is_complete());
        assert_eq!((crowd.count().live, crowd.count().caught_up), (1, 1), "once");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_when_to_come_back_comes_then_and_who_is_not_is_counted_apart() {
        let mut follower = follower();
        let refused = |cause: &Cause, retry_after| {
            let facts = EndFacts { retry_after, ..EndFacts::default() };
            LoadError::Refused(ClientError::from(ended(cause, &facts)))
        };
        follower.must_log_in = false;
        let after = Duration::from_millis(7300);
        let quota = Cause::quota(Quota { key: "limits.connections_max", value: 512 });
        assert_eq!(follower.judge(refused(&quota, Some(after)), 1), Some(after));
        let pressure = Cause::server(EndReason::MemoryPressure);
        for error in [LoadError::Closed, refused(&pressure, None)] {
            let wait = follower.judge(error, 1).unwrap();
            assert!(wait < Duration::from_millis(200), "{wait:?}");
        }
        assert!(!follower.must_log_in, "it still has its session");
        follower.judge(refused(&Cause::server(EndReason::SessionExpired), None), 1);
        assert!(follower.must_log_in);
        let told = follower.crowd.told.take();
        assert_eq!(
            told.refused.into_iter().collect::<Vec<_>>(),
            [("QUOTA_EXCEEDED: limits.connections_max".to_owned(), 1)]
        );
        assert_eq!(told.unexplained.values().sum::<u64>(), 3);
        assert!(told.unexplained.contains_key("MEMORY_PRESSURE"), "{:?}", told.unexplained);
        assert_eq!(follower.judge(LoadError::Gap, 1), None, "void");
        assert!(follower.crowd.told.take().fault.is_some());
    }
}
