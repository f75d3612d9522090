//! Limits on counts and sizes: the refusal names the limit, and nothing is changed by it.

use bytes::Bytes;
use tonic::{Code, Status};

use super::house::{House, follow, settle};
use super::peer::{Line, Peer};
use crate::base::reason::EndReason;
use crate::wire::ended::end_details;

/// Fails unless the refusal is `QUOTA_EXCEEDED` and names the limit and its value.
fn assert_quota(status: &Status, key: &str, value: u64) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = end_details(status).expect("a refusal has details");
    assert_eq!(details.reason, EndReason::QuotaExceeded);
    let quota = details.quota.expect("a quota has its failure");
    assert_eq!(quota.subject, key);
    assert!(quota.description.contains(&value.to_string()), "{quota:?}");
}

/// A peer with a session and a stream in a house with these limits.
async fn opened(mut house: House) -> (House, Peer, Line) {
    let mut peer = house.user("alice").await;
    let line = peer.open().await;
    (house, peer, line)
}

#[tokio::test(start_paused = true)]
async fn sessions_max_refuses_a_login_and_leaves_the_others() {
    let mut house = House::with(|limits, _| limits.sessions_max = 3);
    let mut peers = Vec::new();
    for user in ["a", "b", "c"] {
        peers.push(house.user(user).await);
    }
    let before = house.counts();
    let mut late = house.peer().await;
    for _ in 0..5 {
        let refused = late.try_login("d", "").await.unwrap_err();
        assert_quota(&refused, "limits.sessions_max", 3);
        assert!(end_details(&refused).unwrap().retry_after.is_some(), "places of others may be free later");
    }
    assert_eq!(house.counts(), [before[0] + 1, 3, 0, 0]);
    for peer in &mut peers {
        peer.heartbeat().await.unwrap();
    }
    peers[0].logout().await.unwrap();
    late.login("d", "").await;
    drop((late, peers));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_max_does_not_stop_a_takeover() {
    let mut house = House::with(|limits, _| limits.sessions_max = 1);
    let mut old = house.peer().await;
    old.login("alice", "phone").await;
    let mut new = house.peer().await;
    let mut other = house.peer().await;
    assert_quota(&other.try_login("bob", "phone").await.unwrap_err(), "limits.sessions_max", 1);
    old.heartbeat().await.unwrap();
    new.login("alice", "phone").await;
    assert_eq!(house.session_end(&old.session_id).cause.reason, EndReason::SessionTakenOver);
    drop((old, new, other));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_per_user_max_is_of_each_user_alone() {
    let mut house = House::with(|limits, _| limits.sessions_per_user_max = 2);
    let mut peers = [house.user("alice").await, house.user("alice").await];
    let mut third = house.peer().await;
    let refused = third.try_login("alice", "third").await.unwrap_err();
    assert_quota(&refused, "limits.sessions_per_user_max", 2);
    third.login("bob", "").await;
    for peer in &mut peers {
        peer.heartbeat().await.unwrap();
    }
    drop((third, peers));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn streams_per_session_max_refuses_the_next_stream_on_any_connection() {
    let (mut house, mut peer, first) =
        opened(House::with(|limits, _| limits.streams_per_session_max = 2)).await;
    let mut second = peer.subscribe(vec![follow("room/a")]).await;
    let mut elsewhere = house.peer().await;
    elsewhere.borrow_session(&peer);
    for _ in 0..3 {
        let refused = elsewhere.open().await;
        assert_quota(&refused.tape.end().status, "limits.streams_per_session_max", 2);
        let refused = elsewhere.subscribe(vec![follow("room/a")]).await;
        assert_quota(&refused.tape.end().status, "limits.streams_per_session_max", 2);
    }
    assert!(first.tape.is_live() && second.tape.is_live());
    assert_eq!(house.counts()[2..], [2, 1]);
    second.reset();
    settle().await;
    assert!(elsewhere.open().await.tape.has_head(), "a place is free again");
    drop((peer, elsewhere));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn subscriptions_per_stream_max_refuses_the_subscription_and_the_stream_goes_on() {
    let limited = House::with(|limits, _| limits.subscriptions_per_stream_max = 3);
    let (house, mut peer, mut line) = opened(limited).await;
    for name in ["a", "b", "c", "d", "e"] {
        line.subscribe(follow(&format!("room/{name}")));
    }
    settle().await;
    let refused = line.tape.refused();
    assert_eq!(refused.len(), 2);
    for (at, topic) in ["room/d", "room/e"].iter().enumerate() {
        assert_eq!(refused[at].0, *topic);
        assert_quota(&refused[at].1, "limits.subscriptions_per_stream_max", 3);
    }
    peer.publish("room/c", b"heard").await.unwrap();
    peer.publish("room/d", b"unheard").await.unwrap();
    line.unsubscribe("room/a");
    line.subscribe(follow("room/d"));
    settle().await;
    peer.publish("room/d", b"heard too").await.unwrap();
    settle().await;
    let heard: Vec<Bytes> = line.tape.all_events().into_iter().map(|event| event.payload).collect();
    assert_eq!(heard, ["heard", "heard too"]);
    let all: Vec<_> = (0..4).map(|number| follow(&format!("room/{number}"))).collect();
    let whole = peer.subscribe(all).await;
    assert_quota(&whole.tape.end().status, "limits.subscriptions_per_stream_max", 3);
    assert_eq!(house.counts()[2..], [1, 3]);
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn topics_max_refuses_a_new_topic_while_all_are_followed() {
    let (house, mut peer, mut line) = opened(House::with(|limits, _| limits.topics_max = 2)).await;
    line.subscribe(follow("room/a"));
    line.subscribe(follow("room/b"));
    line.subscribe(follow("room/c"));
    line.publish("room/d", Bytes::from_static(b"x"), "m1");
    settle().await;
    assert_quota(&line.tape.refused()[0].1, "limits.topics_max", 2);
    assert_quota(line.tape.receipts()[0].outcome.as_ref().unwrap_err(), "limits.topics_max", 2);
    assert_quota(&peer.publish("room/e", b"x").await.unwrap_err(), "limits.topics_max", 2);
    assert_eq!(house.core.hub().last_sequence(), 0, "nothing was accepted");
    assert_eq!(house.core.hub().topics().len(), 2);
    line.unsubscribe("room/a");
    settle().await;
    assert_eq!(peer.publish("room/e", b"x").await.unwrap(), 1);
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn message_bytes_max_is_exact_and_a_larger_payload_changes_nothing() {
    let (house, mut peer, mut line) = opened(House::new()).await;
    let most = house.core.limits().message_bytes_max;
    line.subscribe(follow("room/a"));
    let (fits, too_large) = (vec![7; most], Bytes::from(vec![7; most + 1]));
    assert_eq!(peer.publish("room/a", &fits).await.unwrap(), 1);
    let refused = peer.publish("room/a", &too_large).await.unwrap_err();
    assert_quota(&refused, "limits.message_bytes_max", most as u64);
    line.publish("room/a", too_large, "large");
    line.publish("room/a", Bytes::from(fits.clone()), "fits");
    settle().await;
    let receipts = line.tape.receipts();
    assert_quota(receipts[0].outcome.as_ref().unwrap_err(), "limits.message_bytes_max", most as u64);
    assert_eq!(receipts[1].outcome.as_ref().unwrap().sequence, 2);
    assert!(line.tape.events("room/a").iter().map(|(_, payload)| payload).eq([&fits, &fits]));
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn message_bytes_max_ends_a_stream_that_claims_far_more() {
    let (mut house, mut peer, mut line) = opened(House::new()).await;
    let neighbour = peer.follow([follow("room/a")]).await;
    let most = house.core.limits().message_bytes_max as u64;
    line.send_bytes(Bytes::from_static(&[0, 0, 0x40, 0, 0]));
    settle().await;
    line.tape.assert_ended(EndReason::QuotaExceeded);
    assert_quota(&line.tape.end().status, "limits.message_bytes_max", most);
    assert_eq!(house.stream_reasons(), [EndReason::QuotaExceeded]);
    let mut other = house.user("bob").await;
    other.publish("room/a", b"still here").await.unwrap();
    settle().await;
    assert_eq!(neighbour.tape.sequences("room/a"), [1]);
    drop((peer, other));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn publishes_per_second_max_is_of_each_session_alone_and_says_when_to_come_back() {
    let mut house = House::with(|limits, _| limits.publishes_per_second_max = 10);
    let mut fast = house.user("fast").await;
    let mut other = house.user("other").await;
    let mut line = fast.follow([follow("room/a")]).await;
    let witness = other.follow([follow("room/a")]).await;
    // Over both ways of publishing.
    for number in 0..8 {
        line.publish("room/a", Bytes::from_static(b"x"), &number.to_string());
    }
    settle().await;
    for _ in 0..2 {
        fast.publish("room/a", b"x").await.unwrap();
    }
    let refused = fast.publish("room/a", b"x").await.unwrap_err();
    assert_quota(&refused, "limits.publishes_per_second_max", 10);
    let retry_after = end_details(&refused).unwrap().retry_after.unwrap();
    assert!(retry_after <= std::time::Duration::from_millis(100), "{retry_after:?}");
    line.publish("room/a", Bytes::from_static(b"x"), "late");
    settle().await;
    let receipt = line.tape.receipts().pop().unwrap();
    assert_quota(&receipt.outcome.unwrap_err(), "limits.publishes_per_second_max", 10);
    assert_eq!((line.tape.sequences("room/a").len(), witness.tape.sequences("room/a").len()), (10, 10));
    other.publish("room/a", b"y").await.unwrap();
    tokio::time::sleep(retry_after).await;
    fast.publish("room/a", b"x").await.unwrap();
    assert!(line.tape.is_live() && witness.tape.is_live());
    drop((fast, other, line, witness));
    house.close().await;
}
