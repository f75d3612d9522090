//! The data path: receipts, order, who may follow what, many topics on one stream.

use std::collections::BTreeSet;

use bytes::Bytes;
use tonic::Code;

use super::crowd::{Crowd, ROOM, payload};
use super::house::{House, follow, pass, settle, within};
use super::peer::window;
use super::tape::Tape;
use crate::client::Item;

#[tokio::test(start_paused = true)]
async fn every_publish_over_connect_gets_one_receipt_in_order_and_reaches_every_live_cursor() {
    let mut crowd = Crowd::new(5).await;
    let mut peer = crowd.house.user("talker").await;
    let mut line = peer.follow([follow(ROOM)]).await;
    for number in 0..300 {
        line.publish(ROOM, payload(number), &format!("m{number}"));
        if number % 7 == 0 {
            line.publish("nowhere", payload(number), &format!("refused{number}"));
        }
        if number % 50 == 0 {
            crowd.say(1).await;
        }
    }
    settle().await;
    let receipts = line.tape.receipts();
    let ids: Vec<&str> = receipts.iter().map(|receipt| receipt.message_id.as_str()).collect();
    let expected: Vec<String> = (0..300)
        .flat_map(|number| {
            let refused = (number % 7 == 0).then(|| format!("refused{number}"));
            std::iter::once(format!("m{number}")).chain(refused)
        })
        .collect();
    assert_eq!(ids, expected);
    let mut accepted = crowd.accepted.clone();
    for (receipt, number) in receipts.iter().filter(|receipt| receipt.outcome.is_ok()).zip(0..) {
        accepted.push((receipt.outcome.as_ref().unwrap().sequence, payload(number)));
    }
    for receipt in receipts.iter().filter(|receipt| receipt.message_id.starts_with("refused")) {
        assert_eq!(receipt.outcome.as_ref().unwrap_err().code(), Code::InvalidArgument);
    }
    accepted.sort_by_key(|(sequence, _)| *sequence);
    assert!(accepted.iter().map(|(sequence, _)| *sequence).eq(1..=accepted.len() as u64), "no hole");
    crowd.accepted = accepted;
    crowd.assert_nobody_noticed();
    assert_eq!(line.tape.events(ROOM), crowd.accepted, "one's own events come like all others");
    drop(peer);
    crowd.witnesses.clear();
    drop(crowd.publisher);
    crowd.house.close().await;
}

#[tokio::test(start_paused = true)]
async fn receipts_wait_for_a_client_that_does_not_read_and_none_is_lost() {
    let mut house = House::new();
    let owner = house.user("talker").await;
    let mut peer = house.peer_with(window(500)).await;
    peer.borrow_session(&owner);
    let mut line = peer.open().await;
    line.stall();
    for number in 0..2000 {
        line.publish(ROOM, payload(number), &format!("m{number}"));
    }
    settle().await;
    let accepted = house.core.hub().last_sequence();
    assert!(accepted < 2000, "what is accepted for a client that does not read is bounded");
    line.go_on();
    // Larger than its whole window: sent in parts, after a moment.
    pass(2).await;
    let receipts = line.tape.receipts();
    let ids = (0..2000).map(|number| format!("m{number}"));
    assert!(receipts.iter().map(|receipt| receipt.message_id.clone()).eq(ids));
    assert!(receipts.iter().map(|receipt| receipt.outcome.as_ref().unwrap().sequence).eq(1..=2000));
    drop((peer, owner));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_sender_the_server_knows_and_what_the_sender_gave() {
    let mut house = House::new();
    let alice = house.login("alice", "").await;
    let bob = house.login("bob", "").await;
    let stream = within(bob.session.subscribe(vec![follow(ROOM)])).await.unwrap();
    let (tape, mut tasks) = (Tape::default(), tokio::task::JoinSet::new());
    tasks.spawn(tape.clone().record(stream));
    settle().await;
    let position = within(alice.session.publish(ROOM, "hi", "id-1", "text/plain")).await.unwrap();
    settle().await;
    let event = &tape.all_events()[0];
    assert_eq!((event.sender.as_str(), event.sequence), ("alice", position.sequence));
    assert_eq!((event.message_id.as_str(), event.content_type.as_str()), ("id-1", "text/plain"));
    assert_eq!((event.topic.as_str(), event.payload.as_ref()), (ROOM, b"hi".as_slice()));
    assert!(event.published_at.is_some());
    drop((alice, bob, tasks));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn only_its_user_follows_an_inbox_and_anyone_publishes_to_it() {
    let mut house = House::new();
    let mut alice = house.user("alice").await;
    let mut bob = house.user("bob").await;
    let own = alice.follow([follow("user/alice")]).await;
    let mut foreign = bob.follow([follow("user/alice"), follow("user/bob")]).await;
    let (topic, status) = &foreign.tape.refused()[0];
    assert_eq!((topic.as_str(), status.code()), ("user/alice", Code::PermissionDenied));
    let whole = bob.subscribe(vec![follow(ROOM), follow("user/alice")]).await;
    assert_eq!(whole.tape.end().status.code(), Code::PermissionDenied);
    bob.publish("user/alice", b"for alice").await.unwrap();
    foreign.publish("user/alice", Bytes::from_static(b"too"), "m");
    foreign.publish("user/bob", Bytes::from_static(b"mine"), "m");
    settle().await;
    let payloads = |tape: &Tape| tape.all_events().into_iter().map(|event| event.payload).collect::<Vec<_>>();
    assert_eq!(payloads(&own.tape), ["for alice", "too"]);
    assert_eq!(payloads(&foreign.tape), ["mine"]);
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_subscription_to_a_topic_is_refused_and_the_stream_goes_on() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    let mut line = peer.follow([follow(ROOM), follow(ROOM)]).await;
    line.unsubscribe("room/other");
    line.unsubscribe("not a topic");
    settle().await;
    let codes: Vec<Code> = line.tape.refused().iter().map(|(_, status)| status.code()).collect();
    assert_eq!(codes, [Code::FailedPrecondition, Code::FailedPrecondition, Code::InvalidArgument]);
    peer.publish(ROOM, b"once").await.unwrap();
    settle().await;
    assert_eq!(line.tape.sequences(ROOM), [1], "not twice");
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn unsubscribe_stops_the_events_of_that_topic_only() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    let mut line = peer.follow([follow("room/a"), follow("room/b")]).await;
    let other = peer.follow([follow("room/a")]).await;
    peer.publish("room/a", b"1").await.unwrap();
    line.unsubscribe("room/a");
    settle().await;
    peer.publish("room/a", b"2").await.unwrap();
    peer.publish("room/b", b"3").await.unwrap();
    line.subscribe(follow("room/a"));
    settle().await;
    peer.publish("room/a", b"4").await.unwrap();
    settle().await;
    assert_eq!(line.tape.sequences("room/a"), [1, 4]);
    assert_eq!(line.tape.sequences("room/b"), [3]);
    assert_eq!(other.tape.sequences("room/a"), [1, 2, 4]);
    assert_eq!(house.core.hub().count_subscriptions(), 3);
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_follows_64_topics_gets_each_event_of_each() {
    let mut house = House::new();
    let mut talker = house.user("talker").await;
    let mut peer = house.user("listener").await;
    let topics: Vec<String> = (0..64).map(|number| format!("room/{number}")).collect();
    let line = peer.follow(topics.iter().map(|topic| follow(topic))).await;
    assert_eq!(line.tape.subscribed().len(), 64);
    for round in 0..3 {
        for (at, topic) in topics.iter().enumerate().rev() {
            let sequence = talker.publish(topic, &payload(at as u64)).await.unwrap();
            settle().await;
            let newest = line.tape.all_events().pop().unwrap();
            assert_eq!((newest.topic.as_str(), newest.sequence), (topic.as_str(), sequence));
        }
        assert_eq!(line.tape.all_events().len(), 64 * (round + 1));
    }
    drop((talker, peer));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_flooded_topic_does_not_hold_up_the_others_of_its_stream() {
    let mut house = House::new();
    let mut talker = house.user("talker").await;
    let mut peer = house.user("listener").await;
    let topics: Vec<String> = (0..64).map(|number| format!("room/{number}")).collect();
    let line = peer.follow(topics.iter().map(|topic| follow(topic))).await;
    // While nothing is read, one topic gets far more than a window, then each other one event.
    line.stall();
    for _ in 0..100 {
        talker.publish(&topics[0], &[7; 1000]).await.unwrap();
    }
    for topic in &topics[1..] {
        talker.publish(topic, b"small").await.unwrap();
    }
    settle().await;
    line.go_on();
    settle().await;
    let events = line.tape.all_events();
    assert_eq!(events.len(), 163);
    let last_other = events.iter().rposition(|event| event.topic != topics[0]).unwrap();
    let flood_before = events[..last_other].iter().filter(|event| event.topic == topics[0]).count();
    assert!(flood_before <= 64 + 16, "{flood_before} of the flood came before the others");
    drop((talker, peer));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_stalled_peer_beside_twenty_honest_ones_is_a_cursor_and_nothing_else() {
    let mut crowd = Crowd::new(20).await;
    let owner = crowd.house.user("stalled").await;
    let mut options = window(0);
    options.room = 1024;
    let mut stalled = crowd.house.peer_with(options).await;
    stalled.borrow_session(&owner);
    let line = stalled.follow([follow(ROOM)]).await;
    let number = crowd.house.newest_stream();
    for round in 0..10 {
        crowd.say(20).await;
        let key = crowd.house.live(number).unwrap();
        let hub = crowd.house.core.hub();
        assert_eq!(hub.delivered(key).unwrap().bytes, 0, "round {round}: taken from the cursor");
        assert!(hub.lag_bytes(key).unwrap() > 0);
        drop(hub);
        crowd.assert_nobody_noticed();
    }
    assert_eq!(line.tape.items().len(), 0);
    // Asleep as a process is that was stopped: its TCP window is full, too.
    stalled.tap.shut();
    crowd.say(20).await;
    crowd.assert_nobody_noticed();
    drop((stalled, owner));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_frame_is_answered() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    let mut line = peer.open().await;
    line.heartbeat();
    line.heartbeat();
    settle().await;
    let items = line.tape.items();
    assert_eq!(items.len(), 2);
    assert!(items.iter().all(|(_, item)| matches!(item, Item::HeartbeatAck { .. })), "{items:?}");
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn sequences_are_one_order_over_all_topics_and_publishers() {
    let mut house = House::new();
    let mut peers = [house.user("a").await, house.user("b").await, house.user("c").await];
    let mut all = BTreeSet::new();
    for round in 0..30 {
        for (at, peer) in peers.iter_mut().enumerate() {
            let topic = format!("room/{}", (round + at) % 4);
            assert!(all.insert(peer.publish(&topic, b"x").await.unwrap()), "a sequence was given twice");
        }
    }
    assert!(all.into_iter().eq(1..=90));
    drop(peers);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn events_above_half_a_window_reach_a_reader_that_keeps_up_at_once() {
    let mut house = House::new();
    let mut talker = house.user("talker").await;
    for window_bytes in [50, 1000, 65_535] {
        let owner = house.user("reader").await;
        let mut reader = house.peer_with(window(window_bytes)).await;
        reader.borrow_session(&owner);
        let line = reader.follow([follow(ROOM)]).await;
        // A client tells the server what it read only now and then: h2 when it is half of what is left of its window.
        let mut sent = 0;
        for share in [30, 72, 30, 72, 10, 95, 60, 60] {
            let bytes = usize::try_from(window_bytes * share / 100).unwrap();
            talker.publish(ROOM, &vec![7; bytes.min(65_536)]).await.unwrap();
            sent += 1;
            settle().await;
            let seen = line.tape.events(ROOM).len();
            assert_eq!(seen, sent, "window {window_bytes}: {share} % of it did not arrive");
        }
        drop((owner, reader));
    }
    drop(talker);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_the_largest_size_at_once_end_no_honest_reader() {
    let mut house = House::new();
    let most = house.core.limits().message_bytes_max;
    let mut reader = house.user("reader").await;
    let line = reader.follow([follow(ROOM)]).await;
    let mut talkers = Vec::new();
    // Together more than lag_bytes_max and less than tail_bytes_max, before the reader has run once.
    for _ in 0..3 {
        let mut peer = house.user("talker").await;
        talkers.push((peer.open().await, peer));
    }
    for round in 1..=3 {
        for (line, _) in &mut talkers {
            line.publish(ROOM, Bytes::from(vec![7; most]), "");
        }
        pass(1).await;
        assert!(line.tape.is_live(), "round {round}: {:?}", line.tape.end());
        assert_eq!(line.tape.events(ROOM).len(), 3 * round);
    }
    drop((talkers, reader));
    house.close().await;
}
