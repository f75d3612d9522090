//! The pressure ladder: each rung in its order and not before its level, told with a time to come back, and nobody else
//! notices. Readings are made up; a budget of 100,000 bytes makes a permille a hundred of them.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::house::{House, follow, pass, settle, take_warnings};
use super::peer::{Line, Peer, framed, window};
use crate::base::limits::{Limits, Memory, SCALE_LEAST_PERMILLE, Shutdown};
use crate::base::reason::EndReason;
use crate::daemon::monitor::Monitor;
use crate::daemon::procfs::Reading;
use crate::hub::registry::EndedNode;
use crate::runtime::pressure::Level;
use crate::wire::ended::end_details;
use crate::wire::status::PUSHBACK;
use crate::wire::v1;

const BUDGET_BYTES: u64 = 100_000;
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// A house whose monitor sees what the test says.
struct Pressed {
    house: House,
    monitor: Monitor,
}

impl Pressed {
    fn new() -> Self {
        Self::with(16, |_| ())
    }

    fn with(ends_per_tick_max: u32, change: impl FnOnce(&mut Limits)) -> Self {
        let house = House::with(|limits, _| {
            limits.lease = Duration::from_secs(7200);
            change(limits);
        });
        let memory = Memory { budget_bytes: BUDGET_BYTES, ends_per_tick_max, ..Memory::default() };
        let limits = (*house.core.limits()).clone();
        house.core.reconfigure(limits, memory, Shutdown::default());
        Self { house, monitor: Monitor::new(1 << 30, 2) }
    }

    /// One tick with that much of the budget used; only what it does at once has happened after.
    fn press(&mut self, used_permille: u64) {
        self.read(&Reading { rss_bytes: used_permille * 100, threads: 1, ..Reading::default() });
    }

    fn read(&mut self, reading: &Reading) {
        self.monitor.tick(&self.house.core, reading, Duration::ZERO, Instant::now());
    }

    /// One tick, and all that follows from it.
    async fn tick(&mut self, used_permille: u64) {
        self.press(used_permille);
        settle().await;
    }

    fn level(&self) -> Level {
        self.house.core.vitals().level
    }

    /// Names of what has ended, in order, with their reasons.
    fn ended(&self) -> Vec<(String, EndReason)> {
        let name = |ended: crate::hub::registry::Ended| match ended.node {
            EndedNode::Session => (ended.session.to_string(), ended.cause.reason),
            EndedNode::Stream { key, .. } => (key.to_string(), ended.cause.reason),
        };
        self.house.ended().into_iter().map(name).collect()
    }

    async fn plan(&mut self) -> v1::PlanShedResponse {
        let mut admin = self.house.admin().await;
        admin.ask("/streamward.v1.AdminService/PlanShed", &v1::PlanShedRequest {}).await.unwrap()
    }

    async fn status(&mut self) -> v1::ServerStatus {
        let mut admin = self.house.admin().await;
        let answer: v1::GetStatusResponse =
            admin.ask("/streamward.v1.AdminService/GetStatus", &v1::GetStatusRequest {}).await.unwrap();
        answer.status.unwrap()
    }

    /// The warnings were expected: every level from HIGH on is told, and every end.
    async fn close(self) {
        self.house.assert_accounts();
        let unexpected: Vec<_> =
            take_warnings().into_iter().filter(|line| !line.contains("memory pressure")).collect();
        let is_known = |line: &String| line.contains("MEMORY_PRESSURE") || line.contains("to save memory");
        assert!(unexpected.iter().all(is_known), "{unexpected:#?}");
        self.house.close().await;
    }
}

/// Fails unless this is `MEMORY_PRESSURE` with a time to come back; returns the time.
pub(super) fn assert_pressed(status: &Status) -> Duration {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let details = end_details(status).expect("a refusal has details");
    assert_eq!(details.reason, EndReason::MemoryPressure);
    let retry_after = details.retry_after.expect("a time to come back");
    let pushback = status.metadata().get(PUSHBACK).expect("pushback").to_str().unwrap();
    assert_eq!(pushback, retry_after.as_millis().to_string());
    let least = Shutdown::default().retry_after;
    assert!(retry_after >= least && retry_after < 2 * least, "{retry_after:?}");
    retry_after
}

/// How an anonymous call that may last is answered: refused at once, or not at all yet.
async fn anonymous(peer: &mut Peer, path: &str) -> Option<Status> {
    let (response, mut send) = peer.call(path, None).await;
    send.send_data(framed(&HealthCheckRequest::default()), false).unwrap();
    // Reflection that is taken waits for its first question.
    let response = tokio::time::timeout(Duration::from_millis(1), response).await.ok()?;
    Status::from_header_map(response.unwrap().headers())
}

async fn is_serving(peer: &mut Peer) -> bool {
    let path = "/grpc.health.v1.Health/Check";
    let answer: HealthCheckResponse = peer.ask(path, &HealthCheckRequest::default()).await.unwrap();
    answer.status() == ServingStatus::Serving
}

/// A user whose only stream follows the room and has yet to read most of it.
async fn laggard(house: &mut House, user: &str, room: &str) -> (Peer, Peer, Line) {
    let owner = house.user(user).await;
    let mut peer = house.peer_with(window(500)).await;
    peer.borrow_session(&owner);
    let line = peer.follow([follow(room)]).await;
    line.stall();
    (owner, peer, line)
}

#[tokio::test(start_paused = true)]
async fn elevated_refuses_anonymous_work_and_new_sessions_and_nothing_else() {
    let mut pressed = Pressed::new();
    let mut alice = pressed.house.peer().await;
    alice.login("alice", "phone").await;
    let line = alice.follow([follow("room/a")]).await;
    let mut stranger = pressed.house.peer().await;
    pressed.tick(699).await;
    assert_eq!(anonymous(&mut stranger, REFLECTION).await.map(|status| status.code()), None);
    assert_eq!(anonymous(&mut stranger, WATCH).await.map(|status| status.code()), None);
    for used in [700, 649 + 1] {
        pressed.tick(used).await;
        assert_eq!(pressed.level(), Level::Elevated);
        let times = [
            assert_pressed(&anonymous(&mut stranger, REFLECTION).await.unwrap()),
            assert_pressed(&anonymous(&mut stranger, WATCH).await.unwrap()),
            assert_pressed(&stranger.try_login("bob", "phone").await.unwrap_err()),
        ];
        assert!(times.iter().all(|time| *time == times[0]), "one client, one time: {times:?}");
        assert!(is_serving(&mut stranger).await);
        assert_eq!(alice.heartbeat().await.unwrap().pressure(), v1::Pressure::Elevated);
        alice.publish("room/a", b"x").await.unwrap();
        assert!(alice.open().await.tape.has_head());
        let mut admin = pressed.house.admin().await;
        assert!(anonymous(&mut admin, REFLECTION).await.is_none(), "the administrator is never refused");
    }
    // Who takes over a session of their own needs no new place.
    let mut again = pressed.house.peer().await;
    again.login("alice", "phone").await;
    assert_pressed(&again.try_login("alice", "tablet").await.unwrap_err());
    assert_eq!(line.tape.sequences("room/a"), [1, 2]);
    line.tape.assert_ended(EndReason::SessionTakenOver);
    assert_eq!(pressed.status().await.logins_refused, 3);

    pressed.tick(649).await;
    assert_eq!(pressed.level(), Level::Normal);
    stranger.login("bob", "phone").await;
    assert_eq!(stranger.heartbeat().await.unwrap().pressure(), v1::Pressure::Normal);
    assert!(anonymous(&mut stranger, REFLECTION).await.is_none());
    drop((alice, stranger, again));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn refused_clients_come_back_each_in_a_time_of_its_own() {
    let mut pressed = Pressed::new();
    pressed.tick(800).await;
    let mut times = Vec::new();
    for number in 0..20 {
        let mut peer = pressed.house.peer().await;
        times.push(assert_pressed(&peer.try_login(&format!("user{number}"), "").await.unwrap_err()));
    }
    times.sort();
    // Twenty in five seconds: evenly they would be 250 ms apart.
    let apart: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert!(apart.iter().all(|millis| (90..600).contains(millis)), "{apart:?}");
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn critical_refuses_new_streams_and_takeovers_and_high_does_not() {
    let mut pressed = Pressed::new();
    let mut alice = pressed.house.peer().await;
    alice.login("alice", "phone").await;
    pressed.tick(949).await;
    let mut streaming = pressed.house.peer().await;
    streaming.borrow_session(&alice);
    assert!(streaming.open().await.tape.has_head());
    assert_eq!(alice.heartbeat().await.unwrap().pressure(), v1::Pressure::High);
    pressed.tick(950).await;
    assert_eq!(streaming.closed().as_deref(), Some(""), "its last stream went to save memory");
    for _ in 0..2 {
        let refused = alice.open().await;
        assert_pressed(&refused.tape.end().status);
        let refused = alice.subscribe(vec![follow("room/a")]).await;
        assert_pressed(&refused.tape.end().status);
    }
    let mut again = pressed.house.peer().await;
    assert_pressed(&again.try_login("alice", "phone").await.unwrap_err());
    alice.publish("room/a", b"x").await.unwrap();
    assert_eq!(alice.heartbeat().await.unwrap().pressure(), v1::Pressure::Critical);
    let status = pressed.status().await;
    assert_eq!((status.streams_refused, status.logins_refused), (4, 1));
    pressed.tick(899).await;
    assert!(alice.open().await.tape.has_head());
    drop((alice, streaming, again));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn high_ends_stale_sessions_longest_silent_first_and_so_many_a_tick() {
    let mut pressed = Pressed::with(2, |_| ());
    let mut talker = pressed.house.user("talker").await;
    let witness = talker.follow([follow("room/a")]).await;
    let mut silent = Vec::new();
    for user in ["a", "b", "c"] {
        let mut peer = pressed.house.user(user).await;
        let line = peer.follow([follow("room/a")]).await;
        silent.push((peer, line));
        pass(10).await;
    }
    // The first to come is heard of again: the last in the order.
    silent[0].0.heartbeat().await.unwrap();
    let ids: Vec<String> = [1, 2, 0].map(|at: usize| silent[at].0.session_id.clone()).into();
    pass(60).await;
    talker.heartbeat().await.unwrap();
    talker.publish("room/a", b"before").await.unwrap();
    pressed.tick(849).await;
    assert_eq!(pressed.ended(), [], "not before HIGH");

    let plan = pressed.plan().await;
    assert_eq!(plan.steps[..3].iter().map(|step| step.id.clone()).collect::<Vec<_>>(), ids);
    assert_eq!((plan.ends_next_tick, plan.needed_bytes), (0, 0));
    assert!(
        plan.steps[..3].iter().all(|step| step.rung() == v1::ShedRung::StaleSession && step.streams == 1)
    );
    let silences: Vec<_> = plan.steps.iter().map(|step| step.silent_for.unwrap().seconds).collect();
    assert_eq!(silences, [80, 70, 60, 0]);

    pressed.tick(850).await;
    let sessions = |pressed: &Pressed| -> Vec<String> {
        pressed.ended().into_iter().map(|(id, _)| id).filter(|id| id.starts_with("session")).collect()
    };
    assert_eq!(sessions(&pressed), ids[..2]);
    for at in [1, 2] {
        let (peer, line) = &silent[at];
        line.tape.assert_ended(EndReason::MemoryPressure);
        assert_pressed(&line.tape.end().status);
        assert_eq!(peer.closed().as_deref(), Some(""), "its connection went with it");
    }
    assert!(silent[0].1.tape.is_live());
    pressed.tick(850).await;
    assert_eq!(sessions(&pressed), ids);
    pressed.tick(949).await;
    talker.publish("room/a", b"after").await.unwrap();
    settle().await;
    assert_eq!(sessions(&pressed), ids, "who is heard of stays");
    let payloads: Vec<Bytes> = witness.tape.all_events().into_iter().map(|event| event.payload).collect();
    assert_eq!(payloads, ["before", "after"]);
    assert!(witness.tape.is_live() && talker.closed().is_none());
    drop((talker, silent));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_ended_for_memory_leaves_a_connection_that_carries_another_sessions_stream() {
    let mut pressed = Pressed::new();
    let mut shared = pressed.house.peer().await;
    shared.login("stale", "").await;
    let (stale, stale_id) = (shared.follow([follow("room/a")]).await, shared.session_id.clone());
    pass(50).await;
    shared.login("fresh", "").await;
    let fresh = shared.follow([follow("room/a")]).await;
    pressed.tick(900).await;
    stale.tape.assert_ended(EndReason::MemoryPressure);
    assert!(!pressed.house.has_session(&stale_id));
    assert!(fresh.tape.is_live() && shared.closed().is_none());
    shared.publish("room/a", b"x").await.unwrap();
    settle().await;
    assert_eq!(fresh.tape.sequences("room/a"), [1]);
    drop(shared);
    pressed.close().await;
}

/// Three that lie behind differently, two that only hold something, one stale.
async fn everyone(pressed: &mut Pressed) -> (Vec<(Peer, Peer, Line)>, Vec<(Peer, Line)>) {
    let mut stale = pressed.house.user("stale").await;
    let stale_line = stale.follow([follow("room/x")]).await;
    pass(50).await;
    let mut laggards = Vec::new();
    for (user, room) in [("near", "room/near"), ("far", "room/far"), ("middle", "room/middle")] {
        laggards.push(laggard(&mut pressed.house, user, room).await);
    }
    let mut slim = pressed.house.user("slim").await;
    let slim_line = slim.follow([follow("room/x")]).await;
    let mut thick = pressed.house.user("thick").await;
    let rooms = (0..30).map(|number| follow(&format!("room/{number}")));
    let thick_line = thick.follow(rooms).await;
    for (room, count) in [("room/near", 4), ("room/far", 20), ("room/middle", 10)] {
        for _ in 0..count {
            // Smaller than a window: nobody is in the middle of a message when its stream ends.
            slim.publish(room, &[7; 300]).await.unwrap();
        }
    }
    settle().await;
    (laggards, vec![(stale, stale_line), (slim, slim_line), (thick, thick_line)])
}

#[tokio::test(start_paused = true)]
async fn critical_ends_stale_then_lagging_then_costly_and_the_plan_is_the_deed() {
    let mut pressed = Pressed::with(1, |_| ());
    let (laggards, others) = everyone(&mut pressed).await;
    // Tails are not to be trimmed for this.
    pressed.house.core.hub().set_tails_scale(1000);
    let users = ["stale", "far", "middle", "near", "thick", "slim"];
    let plan = pressed.plan().await;
    assert_eq!(plan.steps.iter().map(|step| step.user.as_str()).collect::<Vec<_>>(), users);
    let lags: Vec<_> = plan.steps.iter().map(|step| step.lag_bytes).collect();
    assert!(lags[1] > lags[2] && lags[2] > lags[3] && lags[3] > 0 && lags[4] == 0, "{lags:?}");
    assert!(plan.steps[4].bytes > plan.steps[5].bytes);
    let mut ended = Vec::new();
    for _ in 0..plan.steps.len() {
        // The level is judged anew at each tick; the plan in between is what the next tick does with the same reading.
        pressed.press(2000);
        settle().await;
        let next = pressed.plan().await;
        ended = pressed.ended();
        let expected = if next.steps.is_empty() { 0 } else { 1 };
        assert_eq!(next.ends_next_tick, expected, "one a tick, until nobody is left");
    }
    let expected: Vec<String> = plan.steps.iter().map(|step| step.id.clone()).collect();
    let ids: Vec<String> = ended.iter().map(|(id, _)| id.clone()).collect();
    let of_stale = &others[0].0.session_id;
    assert_eq!(&ids[0], of_stale);
    // The stale session's stream ended with it.
    assert_eq!([&ids[..1], &ids[2..]].concat(), expected);
    assert!(ended.iter().all(|(_, reason)| *reason == EndReason::MemoryPressure));
    for (_, _, line) in &laggards {
        line.go_on();
    }
    settle().await;
    for line in laggards.iter().map(|(_, _, line)| line).chain(others.iter().map(|(_, line)| line)) {
        assert_pressed(&line.tape.end().status);
    }
    for (peer, _) in &others[1..] {
        assert_eq!(peer.closed().as_deref(), Some(""), "most of the memory is in the connection");
        assert!(pressed.house.has_session(&peer.session_id), "and its session may come back");
    }
    drop((laggards, others));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn critical_ends_no_more_than_is_needed_and_counts_nobody_twice() {
    let mut pressed = Pressed::new();
    let mut guests = Vec::new();
    let mut peers = Vec::new();
    for number in 0..4 {
        let mut peer = pressed.house.user(&format!("user{number}")).await;
        for _ in 0..5 {
            guests.push(peer.follow([follow("room/a")]).await);
        }
        peers.push(peer);
    }
    // 950 is entered, 900 is the way out: 5,000 bytes and one.
    pressed.press(950);
    let plan = pressed.house.core.vitals();
    assert_eq!(plan.level, Level::Critical);
    // The streams that end are still there, and what they hold is on its way back.
    pressed.press(950);
    pressed.press(950);
    settle().await;
    let each = crate::base::bill::STREAM_STATE_BYTES;
    let ended = pressed.ended();
    assert!((2..=3).contains(&ended.len()), "5,001 bytes of at least {each} each: {ended:?}");
    // Of equals the youngest goes first.
    let newest: Vec<String> = (0..ended.len()).map(|at| format!("stream/{}", 20 - at)).collect();
    let mut ids: Vec<String> = ended.iter().map(|(id, _)| id.clone()).collect();
    ids.sort_by_key(|id| std::cmp::Reverse(id.trim_start_matches("stream/").parse::<u32>().unwrap()));
    assert_eq!(ids, newest);
    peers[0].publish("room/a", b"x").await.unwrap();
    settle().await;
    for line in &guests[..20 - ended.len()] {
        assert!(line.tape.is_live());
        assert_eq!(line.tape.sequences("room/a"), [1]);
    }
    assert!(peers.iter().all(|peer| peer.closed().is_none()), "each carries other streams");
    drop((guests, peers));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_stream_of_a_connection_gives_the_connection_back_too() {
    let mut pressed = Pressed::new();
    let mut peers = Vec::new();
    let mut lines = Vec::new();
    for number in 0..3 {
        let mut peer = pressed.house.user(&format!("user{number}")).await;
        lines.push(peer.follow([follow("room/a")]).await);
        peers.push(peer);
    }
    // As much as one connection holds: one of them is enough.
    let plan = pressed.plan().await;
    assert!(plan.steps.iter().all(|step| step.bytes > crate::base::bill::H2_BUFFERS_BYTES), "{plan:?}");
    for _ in 0..3 {
        pressed.press(950);
    }
    settle().await;
    assert_eq!(pressed.ended().len(), 1);
    assert_eq!(peers[2].closed().as_deref(), Some(""));
    assert!(lines[..2].iter().all(|line| line.tape.is_live()));
    assert!(pressed.house.has_session(&peers[2].session_id));
    drop((peers, lines));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn critical_ends_at_most_so_many_a_tick_however_much_is_needed() {
    let mut pressed = Pressed::with(4, |_| ());
    let mut guests = Vec::new();
    for number in 0..10 {
        let mut peer = pressed.house.user(&format!("user{number}")).await;
        let line = peer.follow([follow("room/a")]).await;
        guests.push((peer, line));
    }
    for expected in [4, 8, 10, 10] {
        let plan = pressed.plan().await;
        pressed.tick(100_000).await;
        assert_eq!(pressed.ended().len(), expected);
        assert!(plan.ends_next_tick <= 4);
    }
    drop(guests);
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn tails_shrink_in_proportion_and_who_loses_its_place_is_told() {
    let mut pressed = Pressed::with(16, |limits| limits.tails_bytes_max = 30_000);
    let mut talker = pressed.house.user("talker").await;
    let witness = talker.follow([follow("room/new")]).await;
    let (mut owner, reader, line) = laggard(&mut pressed.house, "reader", "room/old").await;
    for room in ["room/old", "room/new"] {
        for _ in 0..8 {
            talker.publish(room, &[7; 1000]).await.unwrap();
        }
    }
    settle().await;
    let held = |pressed: &Pressed| pressed.house.core.hub().topics().held_bytes();
    let before = held(&pressed);
    assert!(before > 18_000, "{before}");
    pressed.tick(850).await;
    assert_eq!(held(&pressed), before, "HIGH begins, nothing has to go yet");
    // Between 850 and 950: 1 - 50 / 100 x 0.75 of 30,000.
    pressed.tick(900).await;
    assert_eq!(pressed.house.core.hub().tails_bytes_max(), 18_750);
    assert!(held(&pressed) <= 18_750 && held(&pressed) > 0, "the least recently published gave way");
    talker.publish("room/old", b"newest").await.unwrap();
    assert!(held(&pressed) <= 18_750, "a publish keeps to it as well");
    line.go_on();
    settle().await;
    let seen = line.tape.sequences("room/old");
    let gaps = line.tape.gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let last_before = seen.iter().filter(|sequence| **sequence <= 8).count() as u64;
    assert_eq!((gaps[0].from_sequence, gaps[0].to_sequence), (last_before + 1, 8));
    assert_eq!(gaps[0].reason(), v1::GapReason::TailGone);
    assert_eq!(seen.last(), Some(&17));
    assert_eq!(witness.tape.sequences("room/new"), (9..=16).collect::<Vec<u64>>());
    assert_eq!(witness.tape.gaps(), []);
    owner.heartbeat().await.unwrap();
    pressed.tick(640).await;
    assert_eq!(pressed.house.core.hub().tails_bytes_max(), 30_000);
    drop((talker, owner, reader));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn idle_timeouts_shrink_in_proportion_and_hold_for_whoever_is_idle_already() {
    let mut pressed = Pressed::new();
    let mut seen = Vec::new();
    for used in [10, 700, 825, 950, 5000, 100] {
        pressed.press(used);
        seen.push(pressed.house.core.vitals().idle_scale);
    }
    assert_eq!(seen, [1000, 1000, 625, SCALE_LEAST_PERMILLE, SCALE_LEAST_PERMILLE, 1000]);
    let mut nobody = pressed.house.peer().await;
    nobody.try_login("", "").await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(nobody.closed(), None);
    pressed.press(949);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(nobody.closed().as_deref(), Some(""), "a quarter of 60 s");
    pressed.press(100);
    drop(nobody);
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_threads_refuse_new_sessions_and_name_the_limit() {
    let mut pressed = Pressed::new();
    let mut alice = pressed.house.peer().await;
    alice.login("alice", "phone").await;
    let reading = |threads| Reading { rss_bytes: 100, threads, ..Reading::default() };
    pressed.read(&reading(2));
    let mut bob = pressed.house.peer().await;
    bob.login("bob", "").await;
    for _ in 0..3 {
        pressed.read(&reading(3));
    }
    let refused = bob.try_login("carol", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = end_details(&refused).unwrap();
    assert_eq!(details.reason, EndReason::QuotaExceeded);
    assert_eq!(details.quota.unwrap().subject, "server.threads_max");
    assert!(details.retry_after.unwrap() > Shutdown::default().retry_after, "a time of its own");
    alice.login("alice", "phone").await;
    assert!(alice.open().await.tape.has_head());
    let status = pressed.status().await;
    assert_eq!((status.threads, status.threads_max, status.pressure()), (3, 2, v1::Pressure::Normal));
    let warnings = take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("3 threads, server.threads_max = 2"), "{warnings:#?}");
    pressed.read(&reading(2));
    bob.login("carol", "").await;
    drop((alice, bob));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_status_has_the_accounts_and_they_add_up() {
    let mut pressed = Pressed::new();
    pressed.press(100);
    let before = pressed.status().await;
    let (owner, reader, line) = laggard(&mut pressed.house, "reader", "room/a").await;
    let mut talker = pressed.house.user("talker").await;
    for _ in 0..20 {
        talker.publish("room/a", &[7; 1000]).await.unwrap();
    }
    // A connection that takes nothing: what waits for it is counted.
    reader.tap.shut();
    line.go_on();
    settle().await;
    let status = pressed.status().await;
    let memory = status.memory.unwrap();
    assert_eq!((memory.used_bytes, memory.ceiling_bytes, memory.budget_bytes), (10_000, 100_000, 100_000));
    let bytes = |status: &v1::ServerStatus, holder: &str| {
        let account = status.accounts.iter().find(|account| account.holder == holder).unwrap();
        (account.count, account.bytes)
    };
    assert_eq!(memory.accounts_bytes, status.accounts.iter().map(|account| account.bytes).sum::<u64>());
    assert_eq!(bytes(&status, "process"), (1, 10_000));
    assert_eq!(bytes(&status, "tails"), (1, status.tails_bytes));
    assert_eq!((bytes(&before, "sessions").0, bytes(&status, "sessions").0), (0, 2));
    assert_eq!((bytes(&before, "streams").0, bytes(&status, "streams").0), (0, 1));
    assert_eq!(bytes(&status, "subscriptions").0, 1);
    assert!(bytes(&status, "tails").1 >= 20_000);
    pressed.house.assert_accounts();
    drop((owner, reader, talker));
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn accounts_far_from_the_resident_set_are_told_once_a_minute() {
    let mut pressed = Pressed::new();
    let reading = |mebibytes: u64| Reading { rss_bytes: mebibytes << 20, threads: 1, ..Reading::default() };
    let memory = Memory { budget_bytes: 1 << 30, ..Memory::default() };
    let limits = (*pressed.house.core.limits()).clone();
    pressed.house.core.reconfigure(limits, memory, Shutdown::default());
    pressed.read(&reading(20));
    pressed.read(&reading(28));
    assert_eq!(take_warnings(), [""; 0]);
    for _ in 0..59 {
        pressed.read(&reading(29));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let warnings = take_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("29.0 MiB resident, 20.0 MiB"), "{warnings:#?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    pressed.read(&reading(29));
    assert_eq!(take_warnings().len(), 1);
    pressed.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_budget_counts_from_the_next_tick() {
    let mut pressed = Pressed::new();
    pressed.press(400);
    assert_eq!(pressed.level(), Level::Normal);
    let memory = Memory { budget_bytes: BUDGET_BYTES / 2, ..Memory::default() };
    let limits = (*pressed.house.core.limits()).clone();
    pressed.house.core.reconfigure(limits, memory, Shutdown::default());
    pressed.press(400);
    assert_eq!(pressed.level(), Level::Elevated);
    pressed.close().await;
}
