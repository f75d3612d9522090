//! Starting where one left off: complete, or with a word about what is missing. And jumping over what is too much.

use bytes::Bytes;

use super::crowd::{Crowd, ROOM};
use super::house::{EPOCH, House, after, follow, pass, retained, settle, skipping};
use super::peer::{Line, Peer};
use crate::base::reason::EndReason;
use crate::client::Item;
use crate::wire::v1;

fn gap(from_sequence: u64, to_sequence: u64, reason: v1::GapReason) -> v1::Gap {
    v1::Gap { topic: ROOM.to_owned(), from_sequence, to_sequence, reason: reason.into() }
}

/// A talker whose events all take the same room.
async fn talker(house: &mut House) -> Peer {
    house.user("talker").await
}

async fn say(talker: &mut Peer, topic: &str, count: usize) -> Vec<(u64, Bytes)> {
    let mut said = Vec::new();
    for _ in 0..count {
        let payload = Bytes::from(vec![7; 100]);
        said.push((talker.publish(topic, &payload).await.unwrap(), payload));
    }
    settle().await;
    said
}

#[tokio::test(start_paused = true)]
async fn resume_after_a_position_the_tail_holds_is_complete() {
    let mut crowd = Crowd::new(2).await;
    crowd.say(20).await;
    let mut peer = crowd.house.user("late").await;
    for from in [0, 1, 7, 19, 20] {
        let line = peer.follow([after(ROOM, from)]).await;
        crowd.say(2).await;
        let live = &line.tape.subscribed()[0];
        assert!(live.recovered);
        let position = live.position.clone().unwrap();
        assert_eq!((position.epoch.as_str(), position.sequence), (EPOCH, from));
        assert_eq!(line.tape.events(ROOM), crowd.since(from), "after {from}");
        assert_eq!(line.tape.gaps(), []);
    }
    drop(peer);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn resume_counts_only_the_events_of_its_own_topic() {
    let mut house = House::new();
    let mut talker = talker(&mut house).await;
    say(&mut talker, ROOM, 3).await;
    say(&mut talker, "room/other", 5).await;
    let newer = say(&mut talker, ROOM, 2).await;
    let mut peer = house.user("late").await;
    // A position inside another topic's events is a position all the same.
    let line = peer.follow([after(ROOM, 6)]).await;
    assert_eq!(line.tape.events(ROOM), newer);
    assert!(line.tape.subscribed()[0].recovered);
    drop((talker, peer));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn resume_after_a_position_the_tail_lost_tells_exactly_what_is_gone() {
    let mut house = House::with(|limits, _| limits.tail_bytes_max = 2000);
    let mut talker = talker(&mut house).await;
    let said = say(&mut talker, ROOM, 50).await;
    let mut peer = house.user("late").await;
    let all = peer.follow([retained(ROOM)]).await;
    let oldest = all.tape.sequences(ROOM)[0];
    assert!((30..50).contains(&oldest), "{oldest}");
    assert!(all.tape.subscribed()[0].recovered, "it asked for nothing older");
    assert_eq!(all.tape.gaps(), []);
    for from in [0, 1, 20, oldest - 2] {
        let line = peer.follow([after(ROOM, from)]).await;
        assert!(!line.tape.subscribed()[0].recovered, "after {from}");
        assert_eq!(line.tape.gaps(), [gap(from + 1, oldest - 1, v1::GapReason::TailGone)]);
        assert_eq!(line.tape.events(ROOM), said[usize::try_from(oldest - 1).unwrap()..]);
        assert_order(&line);
    }
    let line = peer.follow([after(ROOM, oldest - 1)]).await;
    assert!(line.tape.subscribed()[0].recovered, "nothing after it is gone");
    assert_eq!(line.tape.gaps(), []);
    assert_eq!(line.tape.sequences(ROOM)[0], oldest);
    drop((talker, peer));
    house.close().await;
}

/// The word that a subscription is live comes first, then the gap, then events.
fn assert_order(line: &Line) {
    let place = |item: &Item| match item {
        Item::Subscribed(_) => 0,
        Item::Gap(_) => 1,
        Item::Event(_) => 2,
        Item::Receipt(_)
        | Item::Draining { .. }
        | Item::DeadlineNear { .. }
        | Item::HeartbeatAck { .. }
        | Item::Refused { .. } => panic!("{item:?}"),
    };
    let places: Vec<_> = line.tape.items().iter().map(|(_, item)| place(item)).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[tokio::test(start_paused = true)]
async fn resume_from_another_epoch_or_from_the_future_starts_over_and_says_so() {
    let mut crowd = Crowd::new(1).await;
    crowd.say(5).await;
    let mut peer = crowd.house.user("late").await;
    let mut foreign = after(ROOM, 3);
    let position = v1::Position { epoch: "0000000000000bad".to_owned(), sequence: 3 };
    foreign.start = Some(v1::subscription::Start::After(position));
    for subscription in [foreign, after(ROOM, 6), after(ROOM, u64::MAX)] {
        let line = peer.follow([subscription]).await;
        assert!(!line.tape.subscribed()[0].recovered);
        let gaps = line.tape.gaps();
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].reason(), v1::GapReason::EpochChanged);
        assert!(gaps[0].to_sequence < gaps[0].from_sequence, "nothing of this epoch is missing: {gaps:?}");
        assert_eq!(line.tape.events(ROOM), crowd.accepted, "all that is retained");
        assert_order(&line);
    }
    drop(peer);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn all_retained_is_everything_the_tail_holds_and_then_what_follows() {
    let mut crowd = Crowd::new(1).await;
    crowd.say(10).await;
    let mut peer = crowd.house.user("late").await;
    let all = peer.follow([retained(ROOM)]).await;
    let now = peer.follow([follow(ROOM)]).await;
    let empty = peer.follow([retained("room/empty")]).await;
    crowd.say(3).await;
    assert_eq!(all.tape.events(ROOM), crowd.accepted);
    assert_eq!(now.tape.events(ROOM), crowd.since(10));
    let position = now.tape.subscribed()[0].position.clone().unwrap();
    assert_eq!(position.sequence, 10, "events after this one follow");
    assert!(empty.tape.subscribed()[0].recovered && empty.tape.all_events().is_empty());
    drop(peer);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_cursor_whose_tail_gave_way_to_the_shared_budget_is_told_the_range() {
    let mut house = House::with(|limits, _| limits.tails_bytes_max = 20_000);
    let mut talker = talker(&mut house).await;
    let mut reader = house.peer_with(super::peer::window(1000)).await;
    let owner = house.user("reader").await;
    reader.borrow_session(&owner);
    let line = reader.follow([follow(ROOM)]).await;
    line.stall();
    let said = say(&mut talker, ROOM, 30).await;
    // Others push the topic's tail out of the budget.
    for number in 0..10 {
        say(&mut talker, &format!("room/other{number}"), 20).await;
    }
    let newer = say(&mut talker, ROOM, 3).await;
    line.go_on();
    settle().await;
    let seen = line.tape.events(ROOM);
    let before = seen.iter().take_while(|(sequence, _)| *sequence <= 30).count();
    assert!((1..30).contains(&before), "{before}");
    assert_eq!(seen[..before], said[..before]);
    assert_eq!(seen[before..], newer);
    assert_eq!(line.tape.gaps(), [gap(before as u64 + 1, 30, v1::GapReason::TailGone)]);
    assert!(house.core.hub().topics().held_bytes() <= 20_000);
    drop((talker, reader, owner));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_resume_after_the_topic_was_forgotten_is_told_what_may_be_missing() {
    let mut house = House::with(|limits, _| limits.topics_max = 2);
    let mut talker = talker(&mut house).await;
    say(&mut talker, ROOM, 5).await;
    say(&mut talker, "room/b", 1).await;
    say(&mut talker, "room/c", 1).await;
    let mut peer = house.user("late").await;
    let line = peer.follow([after(ROOM, 2)]).await;
    assert!(!line.tape.subscribed()[0].recovered);
    // Room b was forgotten for this one, and of forgotten topics only the highest sequence is known.
    assert_eq!(line.tape.gaps(), [gap(3, 6, v1::GapReason::TailGone)]);
    let newer = say(&mut talker, ROOM, 1).await;
    assert_eq!(line.tape.events(ROOM), newer);
    drop((talker, peer));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn overflow_skip_jumps_to_the_newest_and_tells_the_gap() {
    let mut house = House::with(|limits, _| limits.lag_bytes_max = 2000);
    let mut talker = talker(&mut house).await;
    let mut reader = house.peer_with(super::peer::window(1000)).await;
    let owner = house.user("reader").await;
    reader.borrow_session(&owner);
    let line = reader.follow([skipping(follow(ROOM))]).await;
    line.stall();
    let said = say(&mut talker, ROOM, 100).await;
    pass(3).await;
    assert!(line.tape.is_live(), "skipping does not end it");
    line.go_on();
    settle().await;
    let seen = line.tape.events(ROOM);
    let before = seen.windows(2).position(|pair| pair[1].0 != pair[0].0 + 1).unwrap() + 1;
    let resumed = seen[before].0;
    assert_eq!(line.tape.gaps(), [gap(before as u64 + 1, resumed - 1, v1::GapReason::LagSkipped)]);
    assert!(resumed > 80, "it jumped near the newest: {resumed}");
    assert_eq!(seen[..before], said[..before]);
    assert_eq!(seen[before..], said[usize::try_from(resumed - 1).unwrap()..]);
    let newer = say(&mut talker, ROOM, 5).await;
    assert_eq!(line.tape.events(ROOM)[seen.len()..], newer, "and goes on");
    drop((talker, reader, owner));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn overflow_is_of_each_subscription_alone() {
    let mut house = House::with(|limits, _| limits.lag_bytes_max = 2000);
    let mut talker = talker(&mut house).await;
    let mut reader = house.peer_with(super::peer::window(1000)).await;
    let owner = house.user("reader").await;
    reader.borrow_session(&owner);
    let line = reader.follow([skipping(follow(ROOM)), follow("room/b")]).await;
    let number = house.newest_stream();
    line.stall();
    say(&mut talker, ROOM, 100).await;
    say(&mut talker, "room/b", 10).await;
    assert!(house.live(number).is_some());
    say(&mut talker, "room/b", 20).await;
    let record = house.stream_end(number);
    assert_eq!(record.cause.reason, EndReason::SlowConsumer);
    assert!(record.cause.note.contains("room/b"), "{}", record.cause.note);
    drop((talker, reader, owner));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_asked_for_does_not_make_a_reader_slow() {
    let mut house = House::with(|limits, _| limits.lag_bytes_max = 2000);
    let mut talker = talker(&mut house).await;
    let said = say(&mut talker, ROOM, 300).await;
    let mut peer = house.user("late").await;
    let line = peer.follow([retained(ROOM)]).await;
    let newer = say(&mut talker, ROOM, 3).await;
    assert!(line.tape.is_live());
    assert_eq!(line.tape.events(ROOM), [said, newer].concat());
    drop((talker, peer));
    house.close().await;
}
