//! Limits that change while sessions live: what their clients are told, and that it is what holds.

use std::time::Duration;

use super::house::{House, pass};
use super::peer::Peer;
use crate::base::limits::Limits;
use crate::base::reason::EndReason;
use crate::wire::v1::SessionPolicy;

/// As SIGHUP does.
fn reload(house: &House, change: impl FnOnce(&mut Limits)) {
    let mut limits = Limits::default();
    change(&mut limits);
    house.core.reconfigure(limits, house.core.memory(), house.core.shutdown_times());
}

async fn told(peer: &mut Peer) -> SessionPolicy {
    peer.heartbeat().await.unwrap().policy.unwrap()
}

/// Heartbeat interval, lease and idle timeout in seconds.
fn times(policy: &SessionPolicy) -> [i64; 3] {
    [policy.heartbeat_interval, policy.lease, policy.stream_idle_timeout].map(|time| time.unwrap().seconds)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_tells_what_the_login_told_while_nothing_has_changed() {
    for idle in [0, 40, 400] {
        let mut house = House::with(|limits, _| limits.stream_idle_timeout = seconds(idle));
        let mut peer = house.peer().await;
        let policy = peer.login("alice", "").await.policy.unwrap();
        assert_eq!(told(&mut peer).await, policy);
        drop(peer);
        house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn bounds_that_changed_are_told_by_the_next_heartbeat() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    reload(&house, |limits| {
        limits.streams_per_session_max = 3;
        limits.message_bytes_max = 1000;
        limits.lag_bytes_max = 2000;
    });
    let policy = told(&mut peer).await;
    assert_eq!((policy.max_streams, policy.max_message_bytes, policy.max_lag_bytes), (3, 1000, 2000));
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn longer_times_hold_from_the_heartbeat_that_told_them_until_the_session_ends() {
    let mut house = House::with(|limits, _| {
        limits.heartbeat_interval = seconds(5);
        limits.lease = seconds(15);
        limits.stream_idle_timeout = seconds(20);
    });
    let mut follower = house.user("follower").await;
    let mut deaf = house.user("deaf").await;
    let lines = [follower.open().await, deaf.open().await];
    let long = |limits: &mut Limits| {
        limits.heartbeat_interval = seconds(60);
        limits.lease = seconds(300);
        limits.stream_idle_timeout = seconds(200);
    };
    reload(&house, long);
    assert_eq!(times(&told(&mut follower).await), [60, 300, 200]);
    // The operator takes it back; only one of them was told of the long times.
    reload(&house, |limits| {
        limits.heartbeat_interval = seconds(5);
        limits.lease = seconds(15);
        limits.stream_idle_timeout = seconds(20);
    });
    for _ in 0..3 {
        pass(59).await;
        // It beats fast again from here on, if this answer reaches it; if not, it has done nothing wrong.
        assert_eq!(times(&told(&mut follower).await), [5, 300, 90]);
    }
    assert!(lines[0].tape.is_live());
    lines[1].tape.assert_ended(EndReason::SessionExpired);
    // And what it is told is when it ends.
    pass(89).await;
    assert!(lines[0].tape.is_live());
    pass(1).await;
    lines[0].tape.assert_ended(EndReason::IdleTimeout);
    pass(209).await;
    assert!(house.has_session(&follower.session_id));
    pass(2).await;
    assert!(!house.has_session(&follower.session_id));
    drop((follower, deaf, lines));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn shorter_times_are_told_as_they_hold_for_this_session() {
    let mut house = House::new();
    let mut old = house.user("old").await;
    let line = old.open().await;
    reload(&house, |limits| {
        limits.heartbeat_interval = seconds(3);
        limits.lease = seconds(10);
        limits.stream_idle_timeout = seconds(4);
    });
    // One and a half of the 30 s it was told at login.
    assert_eq!(times(&told(&mut old).await), [2, 90, 45]);
    let mut new = house.peer().await;
    assert_eq!(times(&new.login("new", "").await.policy.unwrap()), [2, 10, 4]);
    pass(44).await;
    assert!(line.tape.is_live());
    pass(1).await;
    line.tape.assert_ended(EndReason::IdleTimeout);
    assert!(!house.has_session(&new.session_id));
    // Idle timeouts switched off are off for everyone.
    reload(&house, |limits| limits.lease = seconds(10));
    assert_eq!(times(&told(&mut old).await), [30, 90, 0]);
    drop((old, new, line));
    house.close().await;
}
