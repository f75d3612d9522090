//! Streams opened and calls cancelled in numbers (CVE-2023-44487, at once and paced).

use std::time::Duration;

use tokio::time::Instant;
use tonic_types::StatusExt as _;

use super::super::crowd::{Crowd, ROOM};
use super::super::frames::{CANCEL, END_HEADERS, HEADERS, RST_STREAM, encoded, head};
use super::super::house::{House, follow, settle};
use super::{Attack, CONNECT, HEARTBEAT};

/// A call and its reset.
fn reset_call(stream: u32, path: &str, token: &str) -> Vec<u8> {
    let call = encoded(HEADERS, END_HEADERS, stream, &head(path, Some(token)));
    [call, encoded(RST_STREAM, 0, stream, &CANCEL)].concat()
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_resets_is_cut() {
    let mut attack = Attack::new().await;
    let flood: Vec<u8> = (0..5000).flat_map(|at| reset_call(5 + 2 * at, HEARTBEAT, &attack.token)).collect();
    attack.wire.pour(&flood).await;
    attack.assert_thrown_out("excessive load").await;
}

/// A call that is served, then its reset, every two milliseconds; how many until the attacker was thrown out.
async fn pace(attack: &mut Attack, path: &str, times: u32) -> u32 {
    for at in 0..times {
        let stream = 5 + 2 * at;
        let call = encoded(HEADERS, END_HEADERS, stream, &head(path, Some(&attack.token)));
        attack.wire.pour(&call).await;
        settle().await;
        attack.wire.pour(&encoded(RST_STREAM, 0, stream, &CANCEL)).await;
        settle().await;
        if attack.crowd.house.live(attack.stream).is_none() {
            return at + 1;
        }
        if at % 100 == 0 {
            attack.wire.frames().await;
        }
    }
    times
}

#[tokio::test(start_paused = true)]
async fn paced_resets_are_cut_at_the_rate() {
    let mut attack = Attack::new().await;
    let rate = attack.crowd.house.core.limits().stream_opens_per_second_max;
    let served = pace(&mut attack, HEARTBEAT, 5000).await;
    // A tenth of a second gives back five.
    assert!((rate..rate + rate / 3).contains(&served), "{served} ran");
    attack.assert_thrown_out("more calls cancelled than limits.stream_opens_per_second_max").await;
}

#[tokio::test(start_paused = true)]
async fn paced_resets_of_streams_open_no_more_than_the_rate() {
    let mut attack = Attack::new().await;
    let began_at = Instant::now();
    let before = attack.crowd.house.newest_stream();
    pace(&mut attack, CONNECT, 1000).await;
    let opened = attack.crowd.house.stream_reasons().len();
    let rate = f64::from(attack.crowd.house.core.limits().stream_opens_per_second_max);
    let most = rate * (1.0 + began_at.elapsed().as_secs_f64()) + 1.0;
    assert!(opened as f64 <= most, "{opened} opened since {before}, {most} at most");
    attack.crowd.say(3).await;
    attack.over().await;
}

#[tokio::test(start_paused = true)]
async fn cancels_within_the_rate_are_nobodys_business() {
    let mut attack = Attack::new().await;
    for round in 0..600 {
        let stream = 5 + 2 * round;
        attack.wire.open(stream, CONNECT, &attack.token).await;
        settle().await;
        attack.wire.send(RST_STREAM, 0, stream, &CANCEL).await;
        tokio::time::sleep(Duration::from_millis(25)).await;
        attack.wire.frames().await;
    }
    attack.assert_lives();
    attack.over().await;
}

#[tokio::test(start_paused = true)]
async fn stream_opens_per_second_max_refuses_the_stream_and_says_when() {
    let house = House::with(|limits, _| {
        limits.lease = Duration::from_secs(7200);
        limits.stream_opens_per_second_max = 3;
    });
    let mut crowd = Crowd::of(house, 3).await;
    let mut peer = crowd.house.user("eager").await;
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push(peer.open().await);
    }
    let refused = peer.follow([]).await.tape.end();
    assert_eq!(refused.reason, Some(crate::base::reason::EndReason::QuotaExceeded));
    let details = refused.status.get_error_details();
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "limits.stream_opens_per_second_max");
    let retry_after = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(retry_after > Duration::from_millis(300) && retry_after <= Duration::from_millis(334));
    tokio::time::sleep(retry_after).await;
    let mut next = peer.follow([follow(ROOM)]).await;
    assert!(next.tape.is_live(), "there is one as told");
    // Another connection has a rate of its own.
    let mut other = crowd.house.peer().await;
    other.borrow_session(&peer);
    assert!(other.open().await.tape.is_live());
    // Calls that finish are free.
    for _ in 0..200 {
        peer.heartbeat().await.unwrap();
    }
    next.reset();
    crowd.say(3).await;
    drop((peer, other, lines));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn streams_per_connection_max_refuses_the_stream_and_leaves_room_for_short_calls() {
    let house = House::with(|limits, _| {
        limits.lease = Duration::from_secs(7200);
        limits.streams_per_connection_max = 2;
        limits.streams_per_session_max = 100;
    });
    let mut crowd = Crowd::of(house, 3).await;
    let mut peer = crowd.house.user("eager").await;
    let first = peer.follow([follow(ROOM)]).await;
    let second = peer.subscribe(vec![follow(ROOM)]).await;
    for _ in 0..3 {
        for refused in [peer.open().await, peer.subscribe(vec![follow(ROOM)]).await] {
            let details = refused.tape.end().status.get_error_details();
            let violation = &details.quota_failure().unwrap().violations[0];
            assert_eq!(violation.subject, "limits.streams_per_connection_max");
        }
    }
    peer.heartbeat().await.unwrap();
    crowd.say(3).await;
    assert!(first.tape.is_live() && second.tape.is_live());
    assert_eq!(first.tape.events(ROOM), crowd.accepted);
    assert_eq!(peer.logout().await.unwrap(), 2);
    drop(peer);
    crowd.close().await;
}
