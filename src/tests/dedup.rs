//! What is sent again under its message id is accepted once.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use super::crowd::{Crowd, ROOM, payload};
use super::house::{EPOCH, House, follow, pass, settle};
use super::peer::{Line, Peer};
use crate::base::event::Position;

/// Positions of all receipts; fails when one was refused.
fn positions(line: &Line) -> Vec<Position> {
    line.tape.receipts().into_iter().map(|receipt| receipt.outcome.unwrap()).collect()
}

fn position(sequence: u64) -> Position {
    Position { epoch: EPOCH.to_owned(), sequence }
}

/// How many publishes the hub found to be duplicates.
fn duplicates(house: &House) -> u64 {
    house.core.facts().publishes_duplicate
}

async fn house_with_two(change: impl FnOnce(&mut crate::base::limits::Limits)) -> (House, Peer, Peer) {
    let mut house = House::with(|limits, _| change(limits));
    let (alice, bob) = (house.user("alice").await, house.user("bob").await);
    (house, alice, bob)
}

#[tokio::test(start_paused = true)]
async fn the_same_id_twice_is_one_event_to_every_subscriber_and_two_receipts_of_one_position() {
    let mut crowd = Crowd::new(20).await;
    let mut sender = crowd.house.user("sender").await;
    let mut line = sender.open().await;
    crowd.say(3).await;
    line.publish(ROOM, payload(100), "once");
    settle().await;
    crowd.accepted.push((4, payload(100)));
    crowd.say(2).await;
    // The second time with another payload: it is not even looked at.
    line.publish(ROOM, payload(101), "once");
    line.publish(ROOM, payload(100), "once");
    settle().await;
    crowd.say(1).await;
    assert_eq!(positions(&line), [position(4), position(4), position(4)]);
    assert!(line.tape.receipts().iter().all(|receipt| receipt.message_id == "once"));
    crowd.assert_nobody_noticed();
    assert_eq!((crowd.newest(), crowd.house.core.hub().last_sequence()), (7, 7), "no sequence was spent");
    assert_eq!(duplicates(&crowd.house), 2);
    assert_eq!(crowd.house.core.facts().refused.publishes, 0);
    drop((line, sender));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_unary_call_and_the_stream_know_the_same_ids() {
    let (house, mut alice, mut bob) = house_with_two(|_| ()).await;
    let witness = bob.follow([follow(ROOM)]).await;
    let mut line = alice.open().await;
    let first = alice.publish_as(ROOM, b"by call", "c").await.unwrap();
    line.publish(ROOM, Bytes::from_static(b"by call"), "c");
    line.publish(ROOM, Bytes::from_static(b"by stream"), "s");
    settle().await;
    let second = alice.publish_as(ROOM, b"by stream", "s").await.unwrap();
    assert_eq!((&first, &second), (&position(1), &position(2)));
    assert_eq!(positions(&line), [first, second]);
    assert_eq!(witness.tape.sequences(ROOM), [1, 2]);
    assert_eq!(duplicates(&house), 2);
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_id_of_another_user_or_to_another_topic_is_another_message() {
    let (house, mut alice, mut bob) = house_with_two(|_| ()).await;
    let witness = bob.follow([follow("room/a"), follow("room/b")]).await;
    let mut said = Vec::new();
    for _ in 0..2 {
        for (is_alice, topic) in [(true, "room/a"), (true, "room/b"), (false, "room/a")] {
            let peer = if is_alice { &mut alice } else { &mut bob };
            said.push(peer.publish_as(topic, b"x", "m").await.unwrap().sequence);
        }
    }
    settle().await;
    assert_eq!(said, [1, 2, 3, 1, 2, 3]);
    assert_eq!((witness.tape.sequences("room/a"), witness.tape.sequences("room/b")), (vec![1, 3], vec![2]));
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn without_an_id_nothing_is_a_duplicate_or_remembered() {
    let (house, mut alice, mut bob) = house_with_two(|_| ()).await;
    let mut line = bob.follow([follow(ROOM)]).await;
    for _ in 0..50 {
        line.publish(ROOM, Bytes::from_static(b"same"), "");
        alice.publish(ROOM, b"same").await.unwrap();
    }
    settle().await;
    assert!(line.tape.sequences(ROOM).into_iter().eq(1..=100));
    assert_eq!((duplicates(&house), house.core.hub().traces()[4]), (0, 0));
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_window_the_id_is_new_and_the_duplicates_did_not_make_it_longer() {
    let (house, mut alice, mut bob) =
        house_with_two(|limits| limits.dedup_window = Duration::from_secs(40)).await;
    let witness = bob.follow([follow(ROOM)]).await;
    for _ in 0..3 {
        assert_eq!(alice.publish_as(ROOM, b"x", "m").await.unwrap().sequence, 1);
        bob.heartbeat().await.unwrap();
        pass(13).await;
    }
    pass(1).await;
    for _ in 0..2 {
        assert_eq!(alice.publish_as(ROOM, b"x", "m").await.unwrap().sequence, 2);
    }
    settle().await;
    assert_eq!(witness.tape.sequences(ROOM), [1, 2]);
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn dedup_ids_max_and_a_window_of_zero_hold_from_a_reload_on() {
    let (house, mut alice, bob) = house_with_two(|limits| limits.dedup_ids_max = 3).await;
    for (id, sequence) in [("a", 1), ("b", 2), ("c", 3), ("a", 1), ("d", 4), ("b", 2), ("a", 5), ("b", 6)] {
        assert_eq!(alice.publish_as(ROOM, b"x", id).await.unwrap().sequence, sequence, "{id}");
    }
    assert_eq!(house.core.hub().traces()[4], 3);
    let mut limits = (*house.core.limits()).clone();
    limits.dedup_window = Duration::ZERO;
    house.core.hub().set_limits(limits.into());
    settle().await;
    assert_eq!(house.core.hub().traces()[4], 0, "off is off at once");
    for sequence in [7, 8] {
        assert_eq!(alice.publish_as(ROOM, b"x", "b").await.unwrap().sequence, sequence);
    }
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lost_its_connection_sends_all_again_on_a_new_session_and_nothing_comes_twice() {
    let mut crowd = Crowd::new(5).await;
    let mut lost = crowd.house.peer().await;
    lost.login("sender", "phone").await;
    let mut line = lost.open().await;
    for number in 0..40 {
        line.publish(ROOM, payload(number), &format!("m{number}"));
    }
    // Its receipts do not come through any more, then half of what it says.
    settle().await;
    for number in 40..60 {
        line.publish(ROOM, payload(number), &format!("m{number}"));
    }
    lost.tap.cut();
    settle().await;
    let accepted = crowd.house.core.hub().last_sequence();
    assert!((40..60).contains(&accepted), "{accepted}");
    let mut back = crowd.house.peer().await;
    back.login("sender", "phone").await;
    assert_ne!(back.session_id, lost.session_id);
    let mut line = back.open().await;
    for number in 0..60 {
        line.publish(ROOM, payload(number), &format!("m{number}"));
    }
    settle().await;
    assert!(positions(&line).into_iter().eq((1..=60).map(position)));
    crowd.accepted = (0..60).map(|number| (number + 1, payload(number))).collect();
    crowd.assert_nobody_noticed();
    assert_eq!(duplicates(&crowd.house), accepted);
    crowd.accepted.truncate(60);
    drop((lost, back, line));
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_publish_is_not_remembered() {
    let (house, mut alice, mut bob) = house_with_two(|limits| {
        limits.topics_max = 1;
        limits.publishes_per_second_max = 2;
    })
    .await;
    let mut other = bob.follow([follow("room/only")]).await;
    assert_eq!(alice.publish_as(ROOM, b"x", "m").await.unwrap_err().code(), Code::ResourceExhausted);
    other.unsubscribe("room/only");
    settle().await;
    assert_eq!(alice.publish_as(ROOM, b"x", "m").await.unwrap().sequence, 1, "the first was refused");
    // A rate holds for duplicates as well: they are work all the same.
    assert_eq!(alice.publish_as(ROOM, b"x", "n").await.unwrap_err().code(), Code::ResourceExhausted);
    pass(1).await;
    assert_eq!(alice.publish_as(ROOM, b"x", "n").await.unwrap().sequence, 2);
    assert_eq!(alice.publish_as(ROOM, b"x", "n").await.unwrap().sequence, 2);
    assert_eq!(duplicates(&house), 1);
    drop((alice, bob, other));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn duplicates_take_nothing_of_the_tail_and_make_nobody_slow() {
    let (house, mut alice, mut bob) = house_with_two(|limits| {
        limits.lag_bytes_max = 3000;
        limits.message_bytes_max = 1000;
        limits.tail_bytes_max = 4000;
    })
    .await;
    let reader = bob.follow([follow(ROOM)]).await;
    let number = house.newest_stream();
    reader.stall();
    let mut line = alice.open().await;
    line.publish(ROOM, Bytes::from(vec![1; 900]), "m");
    settle().await;
    let key = house.live(number).unwrap();
    let held = || {
        let hub = house.core.hub();
        (hub.topics().held_bytes(), hub.lag_bytes(key))
    };
    let before = held();
    for _ in 0..100 {
        line.publish(ROOM, Bytes::from(vec![1; 900]), "m");
        settle().await;
        assert_eq!(held(), before);
    }
    reader.go_on();
    settle().await;
    assert!(reader.tape.is_live());
    assert_eq!((reader.tape.sequences(ROOM), reader.tape.gaps()), (vec![1], vec![]));
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_id_outlives_its_topic_for_its_window() {
    let (house, mut alice, bob) = house_with_two(|limits| limits.topics_max = 2).await;
    assert_eq!(alice.publish_as("room/a", b"x", "m").await.unwrap().sequence, 1);
    for (name, sequence) in [("b", 2), ("c", 3), ("d", 4)] {
        let position = alice.publish_as(&format!("room/{name}"), b"x", "m").await.unwrap();
        assert_eq!(position.sequence, sequence);
    }
    assert_eq!(house.core.hub().topics().len(), 2, "the first topics are forgotten");
    assert_eq!(alice.publish_as("room/a", b"x", "m").await.unwrap().sequence, 1);
    assert_eq!(house.core.hub().topics().len(), 2);
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_id_has_at_most_128_bytes_and_all_of_them_count() {
    let (house, mut alice, bob) = house_with_two(|_| ()).await;
    let (long, other) = ("m".repeat(128), format!("{}n", "m".repeat(127)));
    assert_eq!(alice.publish_as(ROOM, b"x", &long).await.unwrap().sequence, 1);
    assert_eq!(alice.publish_as(ROOM, b"x", &other).await.unwrap().sequence, 2);
    assert_eq!(alice.publish_as(ROOM, b"x", &long).await.unwrap().sequence, 1);
    let refused = alice.publish_as(ROOM, b"x", &"m".repeat(129)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    drop((alice, bob));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_in_the_accounts_until_the_window_is_over() {
    let (house, mut alice, bob) = house_with_two(|_| ()).await;
    let account = || {
        let accounts = house.core.facts().accounts;
        let account = *accounts.iter().find(|account| account.holder == "message ids").unwrap();
        (account.count, account.bytes / crate::base::bill::MESSAGE_ID_BYTES)
    };
    for number in 0..30 {
        alice.publish_as(ROOM, b"x", &number.to_string()).await.unwrap();
        alice.publish_as(ROOM, b"x", &number.to_string()).await.unwrap();
    }
    assert_eq!(account(), (30, 30));
    pass(119).await;
    assert_eq!(account(), (30, 30));
    pass(2).await;
    assert_eq!(account(), (0, 0), "nobody has to publish for it");
    drop((alice, bob));
    house.close().await;
}
