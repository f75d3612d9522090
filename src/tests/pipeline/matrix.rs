//! Each way to end a task in each state it can be in: one end, for the right reason, at the right place, and nothing
//! left of it anywhere; nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::line::{Heard, Line, ROOM, Seen, target};
use crate::base::reason::{Cause, EndReason};
use crate::client::{
    Batch, EndWhy, Group, HandlerError, Pipeline, Stopping, Task, TaskEnd, TaskHandle, TaskState,
};
use crate::tests::house::{Guest, House, pass, settle, within};

/// Where the task is when it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nobody answers.
    HubGone,
    /// The connection is there and nothing moves on it.
    HubSilent,
    Streaming,
    InHandler,
    BackingOff,
    /// It was cancelled and its handler still works.
    Draining,
}

/// What ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Id,
    Handle,
    All,
    Group,
    OuterGroup,
    TaskTimeout,
    PipelineTimeout,
    Until,
    StopWhen,
    Shutdown,
    ShutdownForced,
    Dropped,
    HubSaysNo,
    RetriesExhausted,
    HandlerFails,
    HandlerPanics,
    TakenOver,
}

const STATES: [At; 6] =
    [At::HubGone, At::HubSilent, At::Streaming, At::InHandler, At::BackingOff, At::Draining];

const WAYS: [Way; 17] = [
    Way::Id,
    Way::Handle,
    Way::All,
    Way::Group,
    Way::OuterGroup,
    Way::TaskTimeout,
    Way::PipelineTimeout,
    Way::Until,
    Way::StopWhen,
    Way::Shutdown,
    Way::ShutdownForced,
    Way::Dropped,
    Way::HubSaysNo,
    Way::RetriesExhausted,
    Way::HandlerFails,
    Way::HandlerPanics,
    Way::TakenOver,
];

/// Why there is no such case.
fn impossible(at: At, way: Way) -> Option<&'static str> {
    match (at, way) {
        (At::HubGone | At::HubSilent | At::BackingOff, Way::HubSaysNo) => {
            Some("there is no stream that the hub could end")
        }
        (At::HubGone | At::HubSilent, Way::TakenOver) => Some("nobody can tell of it"),
        _ => None,
    }
}

/// Everything of the task ends with its pipeline or session.
fn ends_siblings(way: Way) -> bool {
    use Way::*;
    matches!(way, All | PipelineTimeout | Shutdown | ShutdownForced | Dropped | RetriesExhausted | TakenOver)
}

/// What the held handler does when it is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Fail,
    Panic,
}

type Gate = watch::Sender<Option<Verdict>>;

/// Notes what it is given when it is done with it; some texts are orders.
async fn obey(
    batch: Batch,
    seen: Seen,
    mut gate: watch::Receiver<Option<Verdict>>,
) -> Result<(), HandlerError> {
    let orders: Vec<String> =
        batch.events().map(|event| String::from_utf8(event.payload.to_vec()).unwrap()).collect();
    for order in orders {
        let verdict = match order.as_str() {
            "hold" => gate.wait_for(Option::is_some).await.map_or(Verdict::Done, |verdict| verdict.unwrap()),
            "fail" => Verdict::Fail,
            "panic" => Verdict::Panic,
            _ => Verdict::Done,
        };
        match verdict {
            Verdict::Done => {}
            Verdict::Fail => return Err("as ordered".into()),
            Verdict::Panic => panic!("as ordered"),
        }
    }
    seen.note(batch);
    Ok(())
}

/// One case: a task, its neighbours near and far, and a hub.
struct Case {
    house: House,
    line: Line,
    speaker: Guest,
    said: Vec<Heard>,
    pipeline: Option<Pipeline>,
    traces: Box<dyn Fn() -> [usize; 4]>,
    inner: Group,
    outer: Group,
    task: Option<TaskHandle>,
    seen: Seen,
    gate: Gate,
    stop: Option<oneshot::Sender<()>>,
    /// A member of the outer group, and one of no group.
    aunt: (TaskHandle, Seen),
    sibling: (TaskHandle, Seen),
    neighbour: Pipeline,
    neighbours: Seen,
    started_at: Instant,
}

/// When the timeouts of a case come.
const TIMEOUT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(1000);

impl Case {
    async fn new(way: Way) -> Self {
        let mut house = House::new();
        let speaker = house.login("speaker", "").await;
        let line = Line::to(&house);
        let pipeline = line.pipeline_with("subject", |config| {
            config.client_name = "phone".to_owned();
            config.max_retries = (way == Way::RetriesExhausted).then_some(2);
            config.task_timeout = (way == Way::PipelineTimeout).then_some(TIMEOUT);
        });
        let neighbour = Line::to(&house).pipeline("neighbour");
        let outer = pipeline.group();
        let inner = outer.group();
        let (aunts, siblings, neighbours) = (Seen::default(), Seen::default(), Seen::default());
        let keep = |id: &str| Task::new(id, [target(ROOM)]).timeout(Duration::from_secs(100_000));
        // The pipeline's timeout is for all who have none of their own.
        let plain = |id: &str| Task::new(id, [target(ROOM)]);
        let new = if way == Way::PipelineTimeout { plain } else { keep };
        let aunt = pipeline.start_task(new("aunt").in_group(&outer), aunts.handler()).unwrap();
        let sibling = pipeline.start_task(new("sibling"), siblings.handler()).unwrap();
        neighbour.start("neighbour", [target(ROOM)], neighbours.handler()).unwrap();
        settle().await;
        let traces = Box::new(pipeline.traces());
        Self {
            house,
            line,
            speaker,
            said: Vec::new(),
            pipeline: Some(pipeline),
            traces,
            inner,
            outer,
            task: None,
            seen: Seen::default(),
            gate: watch::Sender::new(None),
            stop: None,
            aunt: (aunt, aunts),
            sibling: (sibling, siblings),
            neighbour,
            neighbours,
            started_at: Instant::now(),
        }
    }

    fn start(&mut self, way: Way) {
        let (stop, stopped) = oneshot::channel();
        let mut task = Task::new("subject", [target(ROOM)]).in_group(&self.inner);
        if way == Way::TaskTimeout {
            task = task.timeout(TIMEOUT);
        }
        if way == Way::Until {
            task = task.until(|event| &event.payload[..] == b"last");
        }
        if way == Way::StopWhen {
            task = task.stop_when(async {
                let _ = stopped.await;
            });
        }
        let (seen, gate) = (self.seen.clone(), self.gate.subscribe());
        let handler = move |batch: Batch, _: Stopping| obey(batch, seen.clone(), gate.clone());
        self.task = Some(self.pipeline.as_ref().unwrap().start_task(task, handler).unwrap());
        self.stop = Some(stop);
        self.started_at = Instant::now();
    }

    fn task(&self) -> &TaskHandle {
        self.task.as_ref().unwrap()
    }

    fn state(&self) -> TaskState {
        self.task().status().state
    }

    async fn say(&mut self, text: &str) {
        let position = within(self.speaker.session.publish(ROOM, text.to_owned(), "", "")).await.unwrap();
        self.said.push(Heard::Event(position.sequence, text.to_owned()));
    }

    /// Puts the task into a state; half a second before its time is over, when that is what ends it.
    async fn enter(&mut self, at: At, way: Way) {
        let is_timed = matches!(way, Way::TaskTimeout | Way::PipelineTimeout);
        let soon = if is_timed { Duration::from_millis(4500) } else { Duration::from_millis(10) };
        if matches!(at, At::HubGone | At::HubSilent) {
            for text in ["a", "b", "c"] {
                self.say(text).await;
            }
            settle().await;
            if at == At::HubGone {
                self.line.leave()
            } else {
                self.line.hush()
            }
            settle().await;
            self.start(way);
            sleep_until(self.started_at + soon).await;
            assert_eq!(self.state(), TaskState::Connecting);
            return;
        }
        self.start(way);
        settle().await;
        for text in ["a", "b", "c"] {
            self.say(text).await;
        }
        sleep_until(self.started_at + soon).await;
        match at {
            At::InHandler | At::Draining => {
                self.say("hold").await;
                settle().await;
                assert_eq!(self.state(), TaskState::InHandler);
                if at == At::Draining {
                    assert!(self.pipeline.as_ref().unwrap().cancel("subject"));
                    settle().await;
                    assert_eq!(self.state(), TaskState::Draining);
                }
            }
            At::BackingOff => {
                let key = self.house.live(self.house.newest_stream()).unwrap();
                self.house.core.hub().end_stream(key, Cause::server(EndReason::ServerDraining));
                settle().await;
                assert_eq!(self.state(), TaskState::BackingOff);
            }
            At::Streaming => assert_eq!(self.state(), TaskState::Streaming),
            At::HubGone | At::HubSilent => unreachable!("see above"),
        }
    }

    /// Ends it that way. A handler that is held is let go, unless that is the point.
    async fn end(&mut self, at: At, way: Way) {
        let is_held = matches!(at, At::InHandler | At::Draining);
        match way {
            Way::Id => assert!(self.pipeline.as_ref().unwrap().cancel("subject")),
            Way::Handle => self.task().cancel(),
            Way::All => assert_eq!(self.pipeline.as_ref().unwrap().cancel_all(), 3),
            Way::Group => self.inner.cancel(),
            Way::OuterGroup => self.outer.cancel(),
            Way::TaskTimeout | Way::PipelineTimeout => sleep_until(self.started_at + TIMEOUT).await,
            Way::StopWhen => self.stop.take().unwrap().send(()).unwrap(),
            Way::Until => self.say("last").await,
            Way::HandlerFails if !is_held => self.say("fail").await,
            Way::HandlerPanics if !is_held => self.say("panic").await,
            Way::HandlerFails => self.let_go(Verdict::Fail),
            Way::HandlerPanics => self.let_go(Verdict::Panic),
            Way::HubSaysNo => {
                let key = self.house.live(self.house.newest_stream()).unwrap();
                self.house.core.hub().end_stream(key, Cause::server(EndReason::AdminCancelled));
            }
            Way::RetriesExhausted => self.line.leave(),
            Way::TakenOver => drop(self.house.login("subject", "phone").await),
            Way::Dropped => drop(self.pipeline.take()),
            Way::Shutdown | Way::ShutdownForced => {
                let pipeline = self.pipeline.take().unwrap();
                let gate = (way == Way::Shutdown).then_some(&self.gate);
                let let_go = async {
                    sleep(Duration::from_secs(1)).await;
                    gate.map(|gate| gate.send_replace(Some(Verdict::Done)));
                };
                let grace = Duration::from_secs(5);
                let (report, ()) = within(async { tokio::join!(pipeline.shutdown(grace), let_go) }).await;
                let forced: &[&str] = if is_held && way == Way::ShutdownForced { &["subject"] } else { &[] };
                assert_eq!(report.forced, forced);
                assert_eq!(report.ended, 3);
            }
        }
        settle().await;
        // Whatever stood in the way of the condition goes; the condition stays.
        if matches!(at, At::HubGone | At::HubSilent)
            && matches!(way, Way::Until | Way::HandlerFails | Way::HandlerPanics)
        {
            self.come_back(way).await;
        }
        if is_held && !matches!(way, Way::Dropped | Way::ShutdownForced) {
            self.let_go(Verdict::Done);
        }
    }

    /// The first verdict counts.
    fn let_go(&self, verdict: Verdict) {
        self.gate.send_modify(|gate| *gate = gate.or(Some(verdict)));
    }

    /// The task of a hub that was gone follows from now on: the order comes again once it does.
    async fn come_back(&mut self, way: Way) {
        self.line.cut();
        self.line.move_to(&self.house);
        pass(60).await;
        assert_eq!(self.state(), TaskState::Streaming);
        let orders = [(Way::HandlerFails, "fail"), (Way::HandlerPanics, "panic"), (Way::Until, "last")];
        let order = orders.into_iter().find(|(it, _)| *it == way);
        self.say(order.unwrap().1).await;
    }

    async fn check(mut self, at: At, way: Way) {
        let mut task = self.task.clone().unwrap();
        let end = within(task.ended()).await;
        settle().await;
        check_why(at, way, &end);
        self.check_place(at, way, &end);
        self.check_left(at, way).await;
        // Whoever is left hears everything, whatever happened to the line.
        if !ends_siblings(way) {
            self.line.move_to(&self.house);
        }
        pass(60).await;
        for text in ["x", "y", "z"] {
            self.say(text).await;
        }
        pass(60).await;
        assert_eq!(self.neighbours.of(ROOM), self.said, "the neighbour");
        self.check_near(way).await;
        // The one end stays the one.
        sleep(LONG).await;
        assert!(Arc::ptr_eq(&end, &within(task.ended()).await));
        if let Some(pipeline) = self.pipeline.take() {
            assert!(pipeline.list().iter().all(|status| status.id != "subject"));
            within(pipeline.shutdown(Duration::from_secs(5))).await;
        }
        settle().await;
        assert_eq!((self.traces)(), [0; 4], "tasks, running tasks, publishers, links");
        within(self.neighbour.shutdown(Duration::from_secs(5))).await;
        drop(self.speaker);
        self.house.close().await;
    }

    /// The last position handled, and that the handler had just what leads there.
    fn check_place(&self, at: At, way: Way, end: &TaskEnd) {
        let held = usize::from(matches!(at, At::InHandler | At::Draining));
        let comes_late = matches!(at, At::HubGone | At::HubSilent);
        let is_forced = held == 1 && matches!(way, Way::Dropped | Way::ShutdownForced);
        assert_eq!(end.forced, is_forced);
        let is_failed = matches!(way, Way::HandlerFails | Way::HandlerPanics);
        let before = if comes_late { 0 } else { 3 };
        let last = usize::from(way == Way::Until && at != At::Draining);
        let held = if is_forced || is_failed { 0 } else { held };
        let handled = before + held + last;
        assert_eq!(end.handled, handled as u64);
        let heard = self.seen.of(ROOM);
        assert_eq!(heard.len(), handled, "{heard:?}");
        assert!(self.said.windows(handled.max(1)).any(|said| said == heard) || handled == 0, "{heard:?}");
        let position = end.positions.get(ROOM).map(|position| position.sequence);
        match heard.last() {
            Some(Heard::Event(sequence, _)) => assert_eq!(position, Some(*sequence)),
            _ => assert!(position.is_none() || way == Way::HandlerFails || way == Way::HandlerPanics),
        }
    }

    /// The registry, the pipeline's tasks, and the hub's lists.
    async fn check_left(&mut self, at: At, way: Way) {
        let others = 2 - usize::from(way == Way::OuterGroup) - 2 * usize::from(ends_siblings(way));
        if matches!(way, Way::RetriesExhausted) {
            // The siblings' own failures are counted from when they noticed.
            pass(60).await;
        }
        let is_over = self.pipeline.is_none();
        let links = usize::from(!is_over && way != Way::TakenOver);
        assert_eq!((self.traces)(), [others, others, 0, links], "tasks, running tasks, publishers, links");
        let streams = |house: &House| {
            let hub = house.core.hub();
            hub.streams().filter(|stream| &*stream.principal.user == "subject").count()
        };
        let sessions = {
            let hub = self.house.core.hub();
            hub.sessions().filter(|session| &*session.principal.user == "subject").count()
        };
        let is_cut_off = matches!(at, At::HubGone | At::HubSilent)
            && !matches!(way, Way::Until | Way::HandlerFails | Way::HandlerPanics);
        if at == At::HubSilent && is_cut_off {
            // The hub has not noticed yet.
            return assert_eq!(sessions, 1);
        }
        let expected_streams = if is_cut_off || way == Way::RetriesExhausted { 0 } else { others };
        assert_eq!(streams(&self.house), expected_streams, "streams at the hub");
        // A session that could log out is gone; others have their lease.
        let is_logged_out = matches!(way, Way::Shutdown | Way::ShutdownForced) && !is_cut_off;
        assert_eq!(sessions, usize::from(!is_logged_out), "sessions at the hub");
    }

    /// Siblings that live have everything byte for byte; those that ended with the pipeline have no hole and nothing twice.
    async fn check_near(&mut self, way: Way) {
        for (name, (task, seen)) in [("aunt", &mut self.aunt), ("sibling", &mut self.sibling)] {
            let heard = seen.of(ROOM);
            let has_ended = ends_siblings(way) || (way == Way::OuterGroup && name == "aunt");
            if !has_ended {
                assert_eq!(heard, self.said, "{name}");
                assert_eq!(task.status().state, TaskState::Streaming, "{name}");
                continue;
            }
            assert_eq!(heard[..], self.said[..heard.len()], "{name}");
            let end = within(task.ended()).await;
            let is_right = match way {
                Way::All => matches!(end.why, EndWhy::Cancelled),
                Way::OuterGroup => matches!(end.why, EndWhy::GroupCancelled),
                Way::PipelineTimeout => matches!(end.why, EndWhy::TimedOut),
                Way::Shutdown | Way::ShutdownForced | Way::Dropped => matches!(end.why, EndWhy::Shutdown),
                Way::RetriesExhausted => matches!(end.why, EndWhy::RetriesExhausted { .. }),
                Way::TakenOver => told(&end.why) == Some(EndReason::SessionTakenOver),
                Way::Id
                | Way::Handle
                | Way::Group
                | Way::TaskTimeout
                | Way::Until
                | Way::StopWhen
                | Way::HubSaysNo
                | Way::HandlerFails
                | Way::HandlerPanics => false,
            };
            assert!(is_right, "{name}: {end:?}");
        }
    }
}

/// What the hub said, on the stream or when asked again.
fn told(why: &EndWhy) -> Option<EndReason> {
    if let EndWhy::Ended(end) = why {
        return end.reason;
    }
    if let EndWhy::Refused(error) = why { error.reason() } else { None }
}

fn check_why(at: At, way: Way, end: &TaskEnd) {
    let why = &end.why;
    let is_right = match (at, way) {
        (_, Way::HandlerFails) => {
            matches!(why, EndWhy::HandlerFailed(error) if error.to_string() == "as ordered")
        }
        (_, Way::HandlerPanics) => matches!(why, EndWhy::HandlerPanicked),
        // The first cause wins.
        (At::Draining, _) => matches!(why, EndWhy::Cancelled),
        (_, Way::Id | Way::Handle | Way::All) => matches!(why, EndWhy::Cancelled),
        (_, Way::Group | Way::OuterGroup) => matches!(why, EndWhy::GroupCancelled),
        (_, Way::TaskTimeout | Way::PipelineTimeout) => matches!(why, EndWhy::TimedOut),
        (_, Way::Until) => matches!(why, EndWhy::ConditionMet),
        (_, Way::StopWhen) => matches!(why, EndWhy::Stopped),
        (_, Way::Shutdown | Way::ShutdownForced | Way::Dropped) => matches!(why, EndWhy::Shutdown),
        (_, Way::HubSaysNo) => told(why) == Some(EndReason::AdminCancelled),
        (_, Way::RetriesExhausted) => matches!(why, EndWhy::RetriesExhausted { failures: 3, .. }),
        (_, Way::TakenOver) => told(why) == Some(EndReason::SessionTakenOver),
    };
    assert!(is_right, "{end:?}");
    assert_eq!(end.id, "subject");
}

/// Says which case it was when the test fails.
struct Name(At, Way);

impl Drop for Name {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was {:?} in state {:?}", self.1, self.0);
        }
    }
}

async fn play(at: At, way: Way) {
    let _told = Name(at, way);
    let mut case = Case::new(way).await;
    case.enter(at, way).await;
    case.end(at, way).await;
    case.check(at, way).await;
}

fn every_way(at: At) {
    let mut played = 0;
    for way in WAYS {
        if let Some(why) = impossible(at, way) {
            println!("{way:?} in state {at:?} cannot be: {why}");
            continue;
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(Box::pin(play(at, way)));
        played += 1;
    }
    assert!(played >= WAYS.len() - 2);
}

#[test]
fn every_way_ends_a_task_once_while_the_hub_is_gone() {
    every_way(At::HubGone);
}

#[test]
fn every_way_ends_a_task_once_while_the_hub_is_silent() {
    every_way(At::HubSilent);
}

#[test]
fn every_way_ends_a_task_once_while_it_streams() {
    every_way(At::Streaming);
}

#[test]
fn every_way_ends_a_task_once_while_its_handler_works() {
    every_way(At::InHandler);
}

#[test]
fn every_way_ends_a_task_once_while_it_backs_off() {
    every_way(At::BackingOff);
}

#[test]
fn every_way_ends_a_task_once_while_it_drains() {
    every_way(At::Draining);
}

#[test]
fn all_but_five_cases_can_be() {
    let all = STATES.into_iter().flat_map(|at| WAYS.map(|way| (at, way)));
    assert_eq!(all.filter(|(at, way)| impossible(*at, *way).is_some()).count(), 5);
}
