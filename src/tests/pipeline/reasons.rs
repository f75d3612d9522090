//! What the client does after each end the hub may send: comes back or not, when, as whom, from where.

use std::time::Duration;

use tonic::{Code, Status};

use super::line::{GRACE, Line, ROOM, Seen, end, message, say, target, texts};
use super::scripted::{Did, EPOCH, Play, Script, live, said};
use crate::base::event::Position;
use crate::base::reason::{Cause, EndReason, Retry};
use crate::client::{ClientError, EndWhy, TaskState};
use crate::tests::house::{House, pass, settle, within};
use crate::wire::v1;
use crate::wire::v1::notice;
use crate::wire::v1::subscription::Start;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    Never,
    AtOnce,
    ByBackoff,
    AsTold,
}

/// What DESIGN says of each reason, without and with a time to come back.
fn expected(reason: EndReason) -> [Back; 2] {
    use EndReason::*;
    match reason {
        Completed | ClientCancelled | SessionLoggedOut | SessionTakenOver | AdminCancelled | Internal
        | InvalidRequest | DeadlineExceeded | IdleTimeout => [Back::Never; 2],
        QuotaExceeded => [Back::Never, Back::AsTold],
        MemoryPressure | ServerDraining | ConnectionLost => [Back::ByBackoff, Back::AsTold],
        SlowConsumer | SessionExpired => [Back::AtOnce, Back::AsTold],
    }
}

fn after(sequence: u64) -> Option<Start> {
    Some(Start::After(v1::Position { epoch: EPOCH.to_owned(), sequence }))
}

fn code(reason: EndReason) -> Code {
    Code::from_i32(i32::from(reason.code() as u8))
}

fn status(reason: EndReason, wait: Option<Duration>) -> Status {
    if reason == EndReason::Completed { Status::ok("") } else { said(reason, code(reason), wait) }
}

const TOLD: Duration = Duration::from_secs(3);

async fn play(reason: EndReason, wait: Option<Duration>, back: Back) {
    let script = Script::default();
    let first = live(5, &[6, 9]);
    script.play([Play::Serve(vec![first], Some((Duration::ZERO, status(reason, wait))))]);
    let pipeline = script.pipeline(Line::config("anna"));
    let seen = Seen::default();
    let mut task = pipeline.start("room", [target(ROOM)], seen.handler()).unwrap();
    pass(600).await;
    let subscribes = script.subscribes();
    assert_eq!(subscribes[0].2, Some(Start::FromNow(true)));
    assert_eq!(seen.texts(ROOM), ["event 6", "event 9"]);
    if back == Back::Never {
        assert_eq!(subscribes.len(), 1);
        let end = end(&mut task).await;
        assert!(matches!(&end.why, EndWhy::Ended(end) if end.reason == Some(reason)), "{end:?}");
        assert_eq!(end.positions[ROOM].sequence, 9);
        assert!(pipeline.list().is_empty());
    } else {
        assert_eq!(subscribes.len(), 2);
        let waited = subscribes[1].0 - subscribes[0].0;
        let bounds = match back {
            Back::AtOnce => 0..50,
            Back::ByBackoff => 800..1250,
            Back::AsTold => 3000..3050,
            Back::Never => unreachable!("see above"),
        };
        assert!(bounds.contains(&waited.as_millis()), "{waited:?}");
        assert_eq!(subscribes[1].2, after(9), "from the last position handled");
        assert_eq!(task.status().state, TaskState::Streaming);
    }
    let logins = script.count(|did| matches!(did, Did::LogIn(_)));
    assert_eq!(logins, 1, "the session lives: it is asked, not made again");
    within(pipeline.shutdown(GRACE)).await;
}

#[tokio::test(start_paused = true)]
async fn after_every_reason_the_client_does_what_the_contract_says() {
    for reason in EndReason::ALL {
        for (wait, back) in [None, Some(TOLD)].into_iter().zip(expected(reason)) {
            println!("{reason:?} {wait:?} {back:?}");
            play(reason, wait, back).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_hub_sends_twice_is_handled_once() {
    let script = Script::default();
    let cut = Some((Duration::ZERO, Status::unavailable("cut")));
    script.play([
        Play::Serve(vec![live(5, &[6, 9, 9, 6])], cut),
        Play::Serve(vec![live(9, &[6, 9, 10])], None),
    ]);
    let pipeline = script.pipeline(Line::config("anna"));
    let seen = Seen::default();
    let task = pipeline.start("room", [target(ROOM)], seen.handler()).unwrap();
    pass(10).await;
    assert_eq!(seen.texts(ROOM), ["event 6", "event 9", "event 10"]);
    assert_eq!(task.status().positions[ROOM].sequence, 10);
    within(pipeline.shutdown(GRACE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_loss_that_was_not_told_yet_is_asked_for_again() {
    let script = Script::default();
    let mut lossy = live(5, &[]);
    let Some(notice::Kind::Subscribed(subscribed)) = &mut lossy.notices[0].kind else { panic!("{lossy:?}") };
    subscribed.recovered = false;
    // The connection breaks before the gap comes.
    script.play([Play::Serve(vec![lossy], Some((Duration::ZERO, Status::unavailable("cut"))))]);
    let pipeline = script.pipeline(Line::config("anna"));
    let start = Position { epoch: EPOCH.to_owned(), sequence: 2 };
    pipeline.start("room", [target(ROOM).after(start)], Seen::default().handler()).unwrap();
    pass(10).await;
    let starts: Vec<_> = script.subscribes().into_iter().map(|(_, _, start)| start).collect();
    assert_eq!(starts, [after(2), after(2)]);
    within(pipeline.shutdown(GRACE)).await;
}

#[tokio::test(start_paused = true)]
async fn pushback_is_obeyed_and_can_forbid() {
    for (text, opened) in [("3000", 2), ("-1", 1)] {
        let script = Script::default();
        let mut pushed = Status::unavailable("no reason given");
        pushed.metadata_mut().insert("grpc-retry-pushback-ms", text.parse().unwrap());
        script.play([Play::Serve(vec![live(5, &[])], Some((Duration::ZERO, pushed)))]);
        let pipeline = script.pipeline(Line::config("anna"));
        pipeline.start("room", [target(ROOM)], Seen::default().handler()).unwrap();
        pass(100).await;
        let subscribes = script.subscribes();
        assert_eq!(subscribes.len(), opened);
        if let [first, second] = &subscribes[..] {
            assert_eq!((second.0 - first.0).as_millis() / 10, 300);
        }
        within(pipeline.shutdown(GRACE)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_comes_back_at_once_only_the_first_time_in_a_minute() {
    let script = Script::default();
    let slow = || status(EndReason::SlowConsumer, Some(Duration::ZERO));
    let short = || Play::Serve(vec![live(5, &[])], Some((Duration::ZERO, slow())));
    let long = Play::Serve(vec![live(5, &[])], Some((Duration::from_secs(61), slow())));
    script.play([short(), short(), short(), long, short()]);
    let pipeline = script.pipeline(Line::config("anna"));
    pipeline.start("room", [target(ROOM)], Seen::default().handler()).unwrap();
    pass(200).await;
    let times: Vec<_> = script.subscribes().iter().map(|(at, ..)| *at).collect();
    let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    let bounds = [0..10, 1280..1950, 2040..3100, 61_000..61_010, 1280..1950];
    assert_eq!(waits.len(), bounds.len());
    assert!(waits.iter().zip(&bounds).all(|(wait, bounds)| bounds.contains(wait)), "{waits:?}");
    within(pipeline.shutdown(GRACE)).await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_is_made_again_and_the_stream_goes_on_where_it_was() {
    let script = Script::default();
    let expired = || status(EndReason::SessionExpired, Some(Duration::ZERO));
    script.play([Play::Serve(vec![live(5, &[6, 9])], Some((Duration::from_secs(1), expired())))]);
    // Asked on the old connection, and once more on a new one.
    script.refuse_beats([expired(), expired()]);
    let pipeline = script.pipeline(Line::config("anna"));
    let seen = Seen::default();
    let task = pipeline.start("room", [target(ROOM)], seen.handler()).unwrap();
    pass(60).await;
    let (first, last) = (&script.subscribes()[0], &script.subscribes()[script.subscribes().len() - 1]);
    assert_eq!((first.1.as_str(), last.1.as_str()), ("token 1", "token 2"));
    assert_eq!(last.2, after(9));
    assert_eq!(script.count(|did| matches!(did, Did::LogIn(_))), 2);
    assert_eq!(pipeline.session_id().as_deref(), Some("session/2.1"));
    assert_eq!(task.status().state, TaskState::Streaming);
    within(pipeline.shutdown(GRACE)).await;
    assert_eq!(script.count(|did| *did == Did::LogOut), 1);
}

#[tokio::test(start_paused = true)]
async fn who_was_taken_over_without_a_stream_hears_it_by_heartbeat_and_does_not_fight() {
    let script = Script::default();
    script.refuse_beats([said(EndReason::SessionTakenOver, Code::Unauthenticated, None)]);
    let pipeline = script.pipeline(Line::config("anna"));
    pass(3600).await;
    assert_eq!(script.count(|did| matches!(did, Did::LogIn(_))), 1);
    let mut task = pipeline.start("room", [target(ROOM)], Seen::default().handler()).unwrap();
    let end = end(&mut task).await;
    let is_told = |error: &ClientError| error.reason() == Some(EndReason::SessionTakenOver);
    assert!(matches!(&end.why, EndWhy::Refused(error) if is_told(error)), "{end:?}");
    let publisher = pipeline.publisher();
    assert!(within(publisher.publish(message(1))).await.is_err());
    assert_eq!(script.count(|did| matches!(did, Did::Subscribe(..) | Did::LogOut)), 0);
    within(pipeline.shutdown(GRACE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_tried_once() {
    let script = Script::default();
    script.refuse_logins(std::iter::repeat_n(Status::unauthenticated("wrong password"), 10_000));
    let pipeline = script.pipeline(Line::config("anna"));
    let mut task = pipeline.start("room", [target(ROOM)], Seen::default().handler()).unwrap();
    pass(3600).await;
    assert_eq!(script.count(|did| matches!(did, Did::LogIn(_))), 1);
    let end = end(&mut task).await;
    assert!(matches!(&end.why, EndWhy::Refused(error) if error.to_string() == "wrong password"), "{end:?}");
    within(pipeline.shutdown(GRACE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_forgets_every_session_is_not_stormed() {
    let script = Script::default();
    let unknown = Status::unauthenticated("no such session");
    script.play(std::iter::repeat_n(Play::Refuse(unknown.clone()), 10_000));
    script.refuse_beats(std::iter::repeat_n(unknown, 10_000));
    let pipeline = script.pipeline(Line::config("anna"));
    for number in 0..20 {
        pipeline.start(&format!("task {number}"), [target(ROOM)], Seen::default().handler()).unwrap();
    }
    pass(3600).await;
    let logins: Vec<_> =
        script.did().into_iter().filter(|(_, did)| matches!(did, Did::LogIn(_))).map(|(at, _)| at).collect();
    assert!((20..60).contains(&logins.len()), "{} logins in an hour", logins.len());
    let most =
        logins.iter().map(|from| logins.iter().filter(|at| **at >= *from && **at < *from + TOLD).count());
    assert!(most.max() <= Some(5), "a storm");
    within(pipeline.shutdown(GRACE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_count_is_final_for_newcomers_and_passes_for_who_had_a_place() {
    let script = Script::default();
    let full = || Play::Refuse(status(EndReason::QuotaExceeded, None));
    script.play([full()]);
    let pipeline = script.pipeline(Line::config("anna"));
    let mut newcomer = pipeline.start("new", [target(ROOM)], Seen::default().handler()).unwrap();
    let end = end(&mut newcomer).await;
    assert!(matches!(&end.why, EndWhy::Refused(_)), "{end:?}");
    let lost = Play::Serve(vec![live(5, &[6])], Some((Duration::ZERO, Status::unavailable("cut"))));
    script.play([lost, full(), full(), full()]);
    let task = pipeline.start("old", [target(ROOM)], Seen::default().handler()).unwrap();
    pass(60).await;
    assert_eq!(task.status().state, TaskState::Streaming);
    let starts: Vec<_> = script.subscribes().into_iter().map(|(_, _, start)| start).skip(2).collect();
    assert_eq!(starts, vec![after(6); 4]);
    within(pipeline.shutdown(GRACE)).await;
}

#[tokio::test(start_paused = true)]
async fn all_tasks_come_back_although_the_hub_still_counts_their_lost_streams() {
    let mut house = House::new();
    let line = Line::to(&house);
    // Twice as many would pass the hub's limit for a session.
    let pipeline = line.pipeline_with("listener", |config| {
        config.ping_interval = Duration::from_secs(5);
        config.ping_timeout = Duration::from_secs(5);
    });
    let seen = Seen::default();
    for number in 0..12 {
        pipeline.start(&format!("task {number}"), [target(ROOM)], seen.handler()).unwrap();
    }
    settle().await;
    let session = pipeline.session_id();
    line.hush();
    pass(300).await;
    assert_eq!((line.dialled().len(), pipeline.session_id()), (2, session), "the same session goes on");
    let states: Vec<_> = pipeline.list().iter().map(|status| status.state).collect();
    assert_eq!(states, [TaskState::Streaming; 12]);
    say(&mut house, texts(0..3)).await;
    settle().await;
    assert_eq!(seen.texts(ROOM).len(), 36);
    line.cut();
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_hub_ends_one_stream_for_each_reason_and_the_task_does_what_the_contract_says() {
    for reason in EndReason::ALL {
        println!("{reason:?}");
        let mut house = House::new();
        let line = Line::to(&house);
        let pipeline = line.pipeline("listener");
        let (seen, others) = (Seen::default(), Seen::default());
        let _other = pipeline.start("other", [target(ROOM)], others.handler()).unwrap();
        settle().await;
        let mut task = pipeline.start("room", [target(ROOM)], seen.handler()).unwrap();
        settle().await;
        say(&mut house, texts(0..5)).await;
        settle().await;
        let key = house.live(house.newest_stream()).unwrap();
        house.core.hub().end_stream(key, Cause::server(reason));
        say(&mut house, texts(5..10)).await;
        pass(60).await;
        say(&mut house, texts(10..15)).await;
        pass(1).await;
        // The hub tells a time for all of these.
        let comes_back = matches!(reason.retry(), Retry::Resume | Retry::Later | Retry::LogInAgain);
        if comes_back {
            assert_eq!(seen.texts(ROOM), texts(0..15));
        } else {
            assert_eq!(within(task.ended()).await.positions[ROOM].sequence, seen.of(ROOM).len() as u64);
            assert_eq!(seen.texts(ROOM)[..5], texts(0..5));
        }
        let closes_link = matches!(reason, EndReason::SessionLoggedOut | EndReason::SessionTakenOver);
        if !closes_link {
            assert_eq!(others.texts(ROOM), texts(0..15), "the sibling");
        }
        within(pipeline.shutdown(GRACE)).await;
        super::super::house::take_warnings();
        house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_pipelines_with_one_name_the_first_ends_for_good() {
    let mut house = House::new();
    let (first_line, second_line) = (Line::to(&house), Line::to(&house));
    let named = |config: &mut crate::client::PipelineConfig| config.client_name = "phone".to_owned();
    let first = first_line.pipeline_with("anna", named);
    let seen = Seen::default();
    let mut lost = first.start("room", [target(ROOM)], seen.handler()).unwrap();
    settle().await;
    let second = second_line.pipeline_with("anna", named);
    let task = second.start("room", [target(ROOM)], seen.handler()).unwrap();
    settle().await;
    let end = end(&mut lost).await;
    assert!(
        matches!(&end.why, EndWhy::Ended(end) if end.reason == Some(EndReason::SessionTakenOver)),
        "{end:?}"
    );
    pass(3600).await;
    assert_eq!(task.status().state, TaskState::Streaming);
    assert_eq!((first_line.dialled().len(), second_line.dialled().len()), (1, 1));
    let taken =
        house.ended().iter().filter(|ended| ended.cause.reason == EndReason::SessionTakenOver).count();
    assert_eq!(taken, 2, "one session with one stream");
    let refused = first.start("again", [target(ROOM)], seen.handler()).unwrap().ended().await;
    assert!(matches!(&refused.why, EndWhy::Refused(_)), "{refused:?}");
    say(&mut house, texts(0..3)).await;
    settle().await;
    assert_eq!(seen.texts(ROOM), texts(0..3));
    within(first.shutdown(GRACE)).await;
    within(second.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_ended_by_its_lease_is_made_again_and_nothing_is_missed() {
    let mut house = House::new();
    let line = Line::to(&house);
    let (pipeline, seen, task) = line.follower("listener", "room").await;
    say(&mut house, texts(0..3)).await;
    settle().await;
    let before = pipeline.session_id().unwrap();
    let key = before.parse().unwrap();
    house.core.hub().end_session(key, Cause::server(EndReason::SessionExpired), tokio::time::Instant::now());
    say(&mut house, texts(3..6)).await;
    pass(5).await;
    say(&mut house, texts(6..9)).await;
    settle().await;
    assert_eq!(seen.texts(ROOM), texts(0..9));
    assert_ne!(pipeline.session_id().unwrap(), before);
    assert_eq!(task.status().state, TaskState::Streaming);
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_drains_is_left_in_order_and_the_next_one_is_joined() {
    let mut first = House::new();
    let line = Line::to(&first);
    let (pipeline, seen, task) = line.follower("listener", "room").await;
    say(&mut first, texts(0..3)).await;
    first.stop().await;
    line.leave();
    let mut second = House::of_epoch("00000000000e90c5");
    line.move_to(&second);
    say(&mut second, texts(3..6)).await;
    pass(60).await;
    assert_eq!(seen.texts(ROOM), texts(0..6));
    assert_eq!(seen.of(ROOM).len(), 7, "and one gap");
    assert_eq!(task.status().state, TaskState::Streaming);
    within(pipeline.shutdown(GRACE)).await;
    first.close().await;
    second.close().await;
}
