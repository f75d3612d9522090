//! What is quiet for too long is ended; what gives a sign of life is not.

use std::time::Duration;

use tokio::time::Instant;

use super::crowd::{Crowd, ROOM, payload};
use super::house::{House, after, follow, pass, retained, settle};
use super::peer::Peer;
use crate::base::limits::{EMPTY_TOPIC_TIMEOUT, Limits};
use crate::base::reason::EndReason;

const IDLE: Duration = Duration::from_secs(40);

fn house() -> House {
    House::with(|limits, _| limits.stream_idle_timeout = IDLE)
}

/// The rest of the session heartbeats by itself.
async fn heartbeats(peer: &mut Peer, seconds: u64) {
    for _ in 0..seconds / 10 {
        pass(10).await;
        peer.heartbeat().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_ends_a_silent_stream_alone_and_its_session_lives_on() {
    let mut crowd = Crowd::of(house(), 5).await;
    let mut peer = crowd.house.user("quiet").await;
    let opened_at = Instant::now();
    let lines = [peer.follow([follow(ROOM)]).await, peer.open().await];
    // Events it is sent are no sign of life: a proxy or a stopped process takes them too.
    for _ in 0..5 {
        tokio::time::sleep(IDLE / 5).await;
        crowd.say(1).await;
        for (witness, _) in &mut crowd.witnesses {
            witness.heartbeat().await.unwrap();
        }
    }
    settle().await;
    for line in &lines {
        line.tape.assert_ended(EndReason::IdleTimeout);
        assert_eq!(line.tape.end().status.code(), tonic::Code::Aborted);
        let lived = line.tape.ended_at() - opened_at;
        assert!(lived >= IDLE && lived < IDLE + Duration::from_millis(10), "{lived:?}");
    }
    assert!(crowd.house.has_session(&peer.session_id));
    // It may come back where it was.
    let line = peer.follow([after(ROOM, 2)]).await;
    settle().await;
    assert_eq!(line.tape.sequences(ROOM), [3, 4, 5]);
    crowd.assert_nobody_noticed();
    drop((peer, lines, line));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_subscriber_that_heartbeats_is_not_idle() {
    let mut house = house();
    let mut by_call = house.user("by_call").await;
    let mut by_frame = house.user("by_frame").await;
    // One that cannot send frames, and one that could but does not.
    let streams = [
        by_call.subscribe(vec![follow(ROOM)]).await,
        by_call.open().await,
        by_frame.subscribe(vec![follow(ROOM)]).await,
    ];
    let mut beating = by_frame.open().await;
    for _ in 0..20 {
        pass(19).await;
        by_call.heartbeat().await.unwrap();
        beating.heartbeat();
    }
    assert!(streams.iter().chain([&beating]).all(|line| line.tape.is_live()));
    drop((by_call, by_frame, streams, beating));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_speaks_for_its_own_stream_only() {
    let mut house = house();
    let mut peer = house.user("talker").await;
    let (mut talking, silent) = (peer.open().await, peer.open().await);
    for number in 0..10 {
        pass(10).await;
        talking.publish(ROOM, payload(number), &number.to_string());
    }
    silent.tape.assert_ended(EndReason::IdleTimeout);
    assert!(talking.tape.is_live());
    drop((peer, talking, silent));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_to_heartbeat_often_enough_for_the_idle_timeout() {
    let mut house = house();
    let mut peer = house.peer().await;
    let policy = peer.login("alice", "").await.policy.unwrap();
    assert_eq!(policy.stream_idle_timeout.unwrap().seconds, 40);
    assert_eq!(policy.heartbeat_interval.unwrap().seconds, 20);
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_set_while_running_holds_for_streams_that_are_there() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    let line = peer.open().await;
    heartbeats(&mut peer, 100).await;
    let limits = Limits { stream_idle_timeout: IDLE, ..Limits::default() };
    house.core.reconfigure(limits, house.core.memory(), house.core.shutdown_times());
    settle().await;
    assert!(line.tape.is_live(), "its last heartbeat was just now");
    // It was told to heartbeat every 30 s, and one may be late by half.
    pass(44).await;
    assert!(line.tape.is_live());
    pass(1).await;
    line.tape.assert_ended(EndReason::IdleTimeout);
    drop((peer, line));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn shorter_timeouts_set_while_running_do_not_break_what_clients_were_promised() {
    let mut house = House::new();
    let mut old = house.user("old").await;
    let old_line = old.open().await;
    let second = Duration::from_secs(1);
    let limits = Limits {
        stream_idle_timeout: 4 * second,
        lease: 10 * second,
        heartbeat_interval: 3 * second,
        ..Limits::default()
    };
    house.core.reconfigure(limits, house.core.memory(), house.core.shutdown_times());
    let mut new = house.user("new").await;
    let new_line = new.open().await;
    for _ in 0..4 {
        pass(30).await;
        old.heartbeat().await.unwrap();
    }
    assert!(old_line.tape.is_live(), "it does as it was told");
    new_line.tape.assert_ended(EndReason::IdleTimeout);
    assert!(!house.has_session(&new.session_id));
    pass(91).await;
    old_line.tape.assert_ended(EndReason::IdleTimeout);
    assert!(!house.has_session(&old.session_id));
    drop((old, new, old_line, new_line));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn idle_timeouts_shrink_in_proportion_but_not_for_who_heartbeats_as_told() {
    let mut house = House::with(|limits, _| limits.stream_idle_timeout = Duration::from_secs(400));
    let mut silent = house.user("silent").await;
    let mut polite = house.user("polite").await;
    let lines = [silent.open().await, polite.open().await];
    let mut nobody = house.peer().await;
    nobody.try_login("", "").await.unwrap_err();
    house.core.hub().set_idle_scale(250);
    // A quarter of 60 s.
    pass(14).await;
    assert_eq!(nobody.closed(), None);
    polite.heartbeat().await.unwrap();
    pass(2).await;
    assert_eq!(nobody.closed().as_deref(), Some(""));
    for _ in 0..3 {
        pass(29).await;
        polite.heartbeat().await.unwrap();
    }
    // The lease of 90 s came before the quarter of 400 s.
    lines[0].tape.assert_ended(EndReason::SessionExpired);
    assert!(lines[1].tape.is_live());
    drop((silent, polite, nobody, lines));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_nobody_follows_and_that_holds_nothing_is_forgotten_and_others_are_not() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    let mut line = peer.follow([follow("room/empty"), follow("room/followed")]).await;
    peer.publish("room/kept", &payload(1)).await.unwrap();
    let topics = |house: &House| house.core.hub().topics().len();
    assert_eq!(topics(&house), 3);
    line.unsubscribe("room/empty");
    settle().await;
    let left_at = Instant::now();
    while left_at.elapsed() + Duration::from_secs(11) < EMPTY_TOPIC_TIMEOUT {
        heartbeats(&mut peer, 10).await;
    }
    assert_eq!(topics(&house), 3);
    heartbeats(&mut peer, 20).await;
    assert_eq!(topics(&house), 2);
    // Neither the follower of one nor the events of the other noticed.
    line.publish("room/followed", payload(2), "m");
    line.subscribe(retained("room/kept"));
    settle().await;
    assert_eq!((line.tape.sequences("room/followed"), line.tape.sequences("room/kept")), (vec![2], vec![1]));
    drop((peer, line));
    house.close().await;
}
