//! The load of `bench` against a whole server in memory: what it measures, what makes it void, and that it leaves
//! nothing behind.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::house::{House, pass, settle, within};
use super::valve::{Tap, Valve};
use crate::base::reason::EndReason;
use crate::load::arrivals::Arrivals;
use crate::load::error::LoadError;
use crate::load::line::{self, Caller, Left};
use crate::load::message::{self, TOPIC, payload};
use crate::load::publisher::{Pace, Publisher, Until, Waiting};
use crate::load::schedule::Schedule;
use crate::load::session::Session;
use crate::load::stalled::{self, Fate, Stall};
use crate::wire::v1;

const PAYLOAD_BYTES: usize = 100;
/// What the "kernel" holds in each direction.
const ROOM: usize = 64 * 1024;

/// Subscribers and publishers of a server in memory.
struct Scene {
    house: House,
    arrivals: Rc<Arrivals>,
    lines: JoinSet<Option<Left>>,
    taps: Vec<Tap>,
    leave: CancellationToken,
    publishers: u16,
    opened: usize,
}

impl Scene {
    fn new(publishers: u16, subscribers: usize) -> Self {
        Self {
            house: House::new(),
            arrivals: Rc::new(Arrivals::new(publishers, subscribers)),
            lines: JoinSet::new(),
            taps: Vec::new(),
            leave: CancellationToken::new(),
            publishers,
            opened: 0,
        }
    }

    fn caller(&mut self, overflow: v1::Overflow) -> Caller {
        self.opened += 1;
        Caller {
            authority: "in-memory".to_owned(),
            user: format!("bench-{}", self.opened),
            client_name: "test".to_owned(),
            publishers: self.publishers,
            payload_bytes: PAYLOAD_BYTES,
            overflow,
        }
    }

    fn dial(&mut self, room: usize) -> Valve {
        let (io, tap) = self.house.dial(None, room);
        self.taps.push(tap);
        io
    }

    /// A connection with the next subscribers on it.
    async fn line(&mut self, subscribers: std::ops::Range<usize>) {
        let (io, caller) = (self.dial(ROOM), self.caller(v1::Overflow::Disconnect));
        let (ready, live) = oneshot::channel();
        let arrivals = Rc::clone(&self.arrivals);
        let dial = std::future::ready(Ok(io));
        self.lines.spawn_local(line::follow(dial, caller, subscribers, arrivals, ready, self.leave.clone()));
        let epoch = within(live).await.unwrap().unwrap();
        assert_eq!(epoch, super::house::EPOCH);
    }

    async fn publisher(&mut self, number: u16) -> (Publisher<Valve>, Tap) {
        let (io, caller) = (self.dial(ROOM), self.caller(v1::Overflow::Disconnect));
        let opened = Publisher::open(std::future::ready(Ok(io)), &caller, number);
        (within(Box::pin(opened)).await.unwrap(), self.taps.last().unwrap().clone())
    }

    /// Everybody logs out, and the server has nothing left of it.
    async fn close(mut self, publishers: impl IntoIterator<Item = Publisher<Valve>>) {
        self.leave.cancel();
        for publisher in publishers {
            assert!(Box::pin(publisher.leave()).await.is_none(), "a publisher's session is left");
        }
        while let Some(left) = within(self.lines.join_next()).await {
            assert!(left.unwrap().is_none(), "a line's session is left");
        }
        settle().await;
        assert_eq!(self.house.counts(), [0; 4], "connections, sessions, streams, subscriptions");
        self.house.close().await;
    }
}

/// Runs a test's future where tasks may share what is not `Send`.
async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

async fn open_loop(
    publisher: &mut Publisher<Valve>,
    arrivals: &Arrivals,
    per_second: u64,
    count: u64,
) -> Result<Pace, LoadError> {
    let schedule = Schedule::new(Instant::now(), publisher.published(), per_second);
    arrivals.begin_open(schedule);
    within(Box::pin(publisher.open_loop(schedule, count, Waiting::Sleep, arrivals))).await
}

/// 1,000 messages a second for five seconds, in one of which the tap that `which` names is shut.
async fn with_a_stall(which: impl FnOnce(&[Tap]) -> Tap) -> (Pace, Rc<Arrivals>) {
    let mut scene = Scene::new(1, 2);
    scene.line(0..1).await;
    scene.line(1..2).await;
    let (mut publisher, _) = Box::pin(scene.publisher(0)).await;
    let tap = which(&scene.taps);
    let mut stall = JoinSet::new();
    stall.spawn_local(async move {
        sleep(Duration::from_secs(2)).await;
        tap.shut();
        sleep(Duration::from_secs(1)).await;
        tap.open();
    });
    let arrivals = Rc::clone(&scene.arrivals);
    let pace = open_loop(&mut publisher, &arrivals, 1000, 5000).await.unwrap();
    Box::pin(scene.close([publisher])).await;
    (pace, arrivals)
}

/// The latencies of `share` of all messages lie on a line from a second down to nothing.
fn assert_line(arrivals: &Arrivals, share: f64) {
    let latencies = arrivals.latencies();
    assert_eq!((latencies.count(), arrivals.delivered()), (10_000, 10_000));
    for part in [0.1, 0.25, 0.5, 0.75, 0.9] {
        let (found, line) =
            (latencies.quantile(1.0 - share * part), Duration::from_secs(1).mul_f64(1.0 - part));
        assert!(found.abs_diff(line) < Duration::from_millis(20), "{part}: {found:?} and not {line:?}");
    }
    let punctual = latencies.quantile(1.0 - share * 1.1);
    assert!(punctual < Duration::from_millis(5), "the rest is punctual: {punctual:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_in_which_the_server_takes_nothing_is_a_second_of_late_messages_and_not_one() {
    local(Box::pin(async {
        let (pace, arrivals) = Box::pin(with_a_stall(|taps| taps[2].clone())).await;
        // A fifth of the time, and with it a fifth of the messages.
        assert_line(&arrivals, 0.2);
        assert_eq!((pace.sent, pace.asked), (5000, 5000));
        assert!(pace.blocked > Duration::from_millis(500), "{:?}", pace.blocked);
        assert!(pace.late.quantile(1.0) < Duration::from_millis(5), "the hub's doing is not the load's");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_second_in_which_the_server_reaches_one_of_two_is_a_line_of_late_messages_to_that_one() {
    local(Box::pin(async {
        let (pace, arrivals) = Box::pin(with_a_stall(|taps| taps[0].clone())).await;
        assert_line(&arrivals, 0.1);
        assert_eq!((pace.sent, pace.blocked), (5000, Duration::ZERO), "the others' messages go on");
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_the_server_takes_nothing_of_gives_up_a_little_after_its_time() {
    local(Box::pin(async {
        let mut scene = Scene::new(1, 1);
        scene.line(0..1).await;
        let (mut publisher, tap) = Box::pin(scene.publisher(0)).await;
        let (begun, mut reopen) = (Instant::now(), JoinSet::new());
        tap.shut();
        reopen.spawn_local(async move {
            sleep(Duration::from_millis(11_500)).await;
            tap.open();
        });
        let pace = open_loop(&mut publisher, &scene.arrivals, 1000, 10_000).await.unwrap();
        assert!(pace.sent > 0 && pace.sent < 1000, "as many as have room in the window: {}", pace.sent);
        assert!(
            pace.took >= Duration::from_secs(11) && pace.took < Duration::from_millis(11_100),
            "{pace:?}"
        );
        assert!(pace.blocked > Duration::from_secs(10), "{:?}", pace.blocked);
        assert!(begun.elapsed() < Duration::from_secs(12), "what was sent is waited for");
        Box::pin(scene.close([publisher])).await;
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_counts_every_delivery_of_every_publisher() {
    local(Box::pin(async {
        let mut scene = Scene::new(2, 5);
        scene.line(0..3).await;
        scene.line(3..5).await;
        let (mut one, _) = Box::pin(scene.publisher(0)).await;
        let (mut two, _) = Box::pin(scene.publisher(1)).await;
        scene.arrivals.begin(Instant::now());
        let arrivals = Rc::clone(&scene.arrivals);
        let (first, second) = within(async {
            tokio::join!(
                one.closed(1, Until::Count(50), &arrivals),
                two.closed(16, Until::Count(100), &arrivals)
            )
        })
        .await;
        first.unwrap();
        second.unwrap();
        assert_eq!((one.published(), two.published()), (50, 100));
        assert_eq!(scene.arrivals.delivered(), 5 * 150);
        assert_eq!(scene.arrivals.per_second().iter().sum::<u64>(), 5 * 150);
        assert!(scene.arrivals.take_fault().is_none());
        // Over time, too; what is in flight at the end is waited for.
        scene.arrivals.begin(Instant::now());
        let until = Until::Time(Instant::now());
        within(one.closed(4, until, &arrivals)).await.unwrap();
        assert_eq!(scene.arrivals.delivered(), 0);
        Box::pin(scene.close([one, two])).await;
    }))
    .await;
}

/// Somebody else publishes this while the load waits: what the load says of it.
async fn fault_of(foreign: Vec<u8>) -> String {
    let mut scene = Scene::new(1, 2);
    scene.line(0..2).await;
    let (mut publisher, _) = Box::pin(scene.publisher(0)).await;
    let arrivals = Rc::clone(&scene.arrivals);
    within(publisher.closed(4, Until::Count(10), &arrivals)).await.unwrap();
    let guest = scene.house.login("mallory", "").await;
    within(guest.session.publish(TOPIC, foreign, "", "")).await.unwrap();
    settle().await;
    let voided = within(publisher.closed(4, Until::Count(10), &arrivals)).await;
    assert!(voided.is_err(), "the loop goes on");
    let (who, error) = arrivals.take_fault().expect("a fault is kept");
    within(guest.session.logout()).await.unwrap();
    Box::pin(scene.close([publisher])).await;
    format!("{who}: {error}")
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_lost_doubled_or_altered_makes_the_measurement_void() {
    local(Box::pin(async {
        let fault = Box::pin(fault_of(payload(9, PAYLOAD_BYTES))).await;
        assert!(
            fault.contains("subscriber 0") && fault.contains("message 9 of publisher 0 came again"),
            "{fault}"
        );
        let fault = Box::pin(fault_of(payload(11, PAYLOAD_BYTES))).await;
        assert!(fault.contains("message 11 of publisher 0 came too early: some were lost"), "{fault}");
        let mut altered = payload(10, PAYLOAD_BYTES);
        altered[50] ^= 1;
        assert!(Box::pin(fault_of(altered)).await.contains("other content"));
        assert!(
            Box::pin(fault_of(payload(message::number(7, 10), PAYLOAD_BYTES)))
                .await
                .contains("other content")
        );
        assert!(Box::pin(fault_of(b"hello".to_vec())).await.contains("5 bytes of other content"));
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_is_refused_makes_the_measurement_void_and_names_the_limit() {
    local(Box::pin(async {
        let mut scene = Scene::new(1, 1);
        scene.house = House::with(|limits, _| limits.publishes_per_second_max = 5);
        scene.line(0..1).await;
        let (mut publisher, _) = Box::pin(scene.publisher(0)).await;
        let arrivals = Rc::clone(&scene.arrivals);
        let error = within(publisher.closed(50, Until::Count(50), &arrivals)).await.unwrap_err();
        let LoadError::Refused(refused) = error else { panic!("{error}") };
        assert_eq!(refused.reason(), Some(EndReason::QuotaExceeded), "{refused}");
        Box::pin(scene.close([publisher])).await;
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_line_without_traffic_stays_logged_in() {
    local(Box::pin(async {
        let mut scene = Scene::new(1, 1);
        scene.line(0..1).await;
        pass(3600).await;
        assert_eq!(scene.house.counts(), [1, 1, 1, 1]);
        let (mut publisher, _) = Box::pin(scene.publisher(0)).await;
        within(publisher.closed(1, Until::Count(3), &scene.arrivals)).await.unwrap();
        Box::pin(scene.close([publisher])).await;
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_connection_is_gone_is_logged_out_over_another() {
    local(Box::pin(async {
        let mut scene = Scene::new(1, 1);
        scene.line(0..1).await;
        scene.taps[0].cut();
        settle().await;
        assert_eq!(scene.house.counts(), [0, 1, 0, 0], "the session outlives its connection");
        let (who, error) = scene.arrivals.take_fault().expect("the cut is told");
        assert!(who == "subscriber 0" && matches!(error, LoadError::Http2(_) | LoadError::Closed), "{error}");
        scene.leave.cancel();
        let left = within(scene.lines.join_next()).await.unwrap().unwrap().expect("its token is told");
        let io = scene.dial(ROOM);
        within(Box::pin(Session::log_out_of(io, "in-memory", &left.token))).await.unwrap();
        Box::pin(scene.close([])).await;
    }))
    .await;
}

/// Reads, stalls while much is published, reads again: what became of it. The others miss nothing.
async fn fate_of(overflow: v1::Overflow, messages: u64) -> Fate {
    let mut scene = Scene::new(1, 3);
    scene.line(0..3).await;
    let (io, caller, stall) = (scene.dial(4096), scene.caller(overflow), Stall::default());
    let (ready, live) = oneshot::channel();
    let mut stalled = JoinSet::new();
    stalled.spawn_local(stalled::follow(std::future::ready(Ok(io)), caller, stall.clone(), ready));
    within(live).await.unwrap().unwrap();
    let (mut publisher, _) = Box::pin(scene.publisher(0)).await;
    let arrivals = Rc::clone(&scene.arrivals);
    arrivals.begin(Instant::now());
    within(publisher.closed(64, Until::Count(1000), &arrivals)).await.unwrap();
    stall.begin.cancel();
    within(publisher.closed(64, Until::Count(messages), &arrivals)).await.unwrap();
    assert_eq!(arrivals.delivered(), 3 * (1000 + messages), "the others have everything");
    stall.end.cancel();
    let (fate, left) = within(stalled.join_next()).await.unwrap().unwrap();
    assert!(left.is_none(), "its connection is as good as before");
    Box::pin(scene.close([publisher])).await;
    fate
}

#[tokio::test(start_paused = true)]
async fn what_became_of_a_stalled_subscriber_is_told() {
    local(Box::pin(async {
        let fate = Box::pin(fate_of(v1::Overflow::Disconnect, 3000)).await;
        let Fate::Ended(error) = &fate else { panic!("{fate:?}") };
        assert_eq!(error.reason(), Some(EndReason::SlowConsumer), "{error}");
        let fate = Box::pin(fate_of(v1::Overflow::Skip, 3000)).await;
        assert!(matches!(fate, Fate::Gap), "{fate:?}");
        let fate = Box::pin(fate_of(v1::Overflow::Disconnect, 100)).await;
        assert!(matches!(fate, Fate::Kept), "{fate:?}");
    }))
    .await;
}
