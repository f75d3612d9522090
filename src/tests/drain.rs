//! Stopping: refuse, drain, abort; nothing accepted is lost, and nobody holds it up for ever.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Code;

use super::crowd::{Crowd, ROOM, payload};
use super::house::{House, follow, pass, settle};
use super::peer::{Options, window};
use super::tape::Tape;
use crate::base::reason::EndReason;
use crate::client::Item;
use crate::daemon::Stopped;
use crate::hub::registry::EndedNode;
use crate::runtime::phase::Phase;
use crate::wire::ended::end_details;

/// When the `Draining` notices told to come back.
fn slots(tape: &Tape) -> Vec<Duration> {
    let slot = |item: &Item| {
        if let Item::Draining { retry_after } = item { Some(retry_after.unwrap()) } else { None }
    };
    tape.items().iter().filter_map(|(_, item)| slot(item)).collect()
}

#[tokio::test(start_paused = true)]
async fn server_draining_is_announced_and_ends_everyone_with_a_slot_of_their_own() {
    let mut crowd = Crowd::new(50).await;
    crowd.say(5).await;
    let retry_after = crowd.house.core.shutdown_times().retry_after;
    let began_at = Instant::now();
    assert_eq!(crowd.house.stop().await, Stopped::Drained);
    assert!(began_at.elapsed() < Duration::from_secs(2), "{:?}", began_at.elapsed());
    settle().await;
    let mut all = Vec::new();
    for (peer, line) in &crowd.witnesses {
        line.tape.assert_ended(EndReason::ServerDraining);
        assert_eq!(line.tape.events(ROOM), crowd.accepted);
        let told = slots(&line.tape);
        assert_eq!(told.len(), 1);
        assert!(told[0] >= retry_after && told[0] < retry_after * 2, "{told:?}");
        let again = line.tape.end().details.unwrap().retry_after.unwrap();
        assert_eq!(again, told[0], "the end says the same as the notice");
        assert_eq!(peer.closed().as_deref(), Some(""), "closed gracefully");
        all.push(told[0]);
    }
    // Fifty in five seconds: no two together, no tenth of the time empty or with more than twice its share.
    all.sort();
    assert!(all.windows(2).all(|pair| pair[1] - pair[0] > Duration::from_millis(1)), "{all:?}");
    for tenth in 0..10 {
        let (from, to) =
            (retry_after + retry_after / 10 * tenth, retry_after + retry_after / 10 * (tenth + 1));
        let share = all.iter().filter(|slot| **slot >= from && **slot < to).count();
        assert!((1..=10).contains(&share), "tenth {tenth} has {share} of 50: {all:?}");
    }
    let records = crowd.house.ended();
    assert_eq!(records.len(), 50 + 51, "streams and sessions, the publisher's too");
    assert!(records.iter().all(|record| record.cause.reason == EndReason::ServerDraining));
    assert!(records.iter().all(|record| &*record.cause.asked_by == "signal"));
    assert_eq!(crowd.house.counts(), [0; 4]);
    crowd.witnesses.clear();
    drop(crowd.publisher);
    crowd.house.close().await;
}

#[tokio::test(start_paused = true)]
async fn server_draining_delivers_everything_that_got_a_receipt() {
    let mut crowd = Crowd::new(10).await;
    let mut talker = crowd.house.user("talker").await;
    let mut line = talker.open().await;
    // A publisher that never pauses, through all phases.
    let talk = async {
        for number in 0..100_000 {
            if line.send.poll_reset(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
                || !line.tape.is_live()
            {
                return;
            }
            line.publish(ROOM, payload(number), &number.to_string());
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        crowd.house.stop().await
    };
    let (stopped, ()) = tokio::join!(stop, talk);
    assert_eq!(stopped, Stopped::Drained);
    settle().await;
    let mut accepted = Vec::new();
    let mut refused = 0;
    for receipt in line.tape.receipts() {
        match receipt.outcome {
            Ok(position) => {
                assert_eq!(refused, 0, "accepted after a refusal");
                accepted.push((position.sequence, payload(receipt.message_id.parse().unwrap())));
            }
            Err(status) => {
                refused += 1;
                assert_eq!(status.code(), Code::Unavailable);
                assert_eq!(end_details(&status).unwrap().reason, EndReason::ServerDraining);
            }
        }
    }
    assert!(accepted.len() > 100, "{}", accepted.len());
    assert_eq!(
        crowd.house.core.hub().last_sequence(),
        accepted.len() as u64,
        "each accepted one has a receipt"
    );
    for (_, line) in &crowd.witnesses {
        line.tape.assert_ended(EndReason::ServerDraining);
        assert_eq!(line.tape.events(ROOM), accepted);
    }
    drop(talker);
    crowd.witnesses.clear();
    drop(crowd.publisher);
    crowd.house.close().await;
}

#[tokio::test(start_paused = true)]
async fn server_draining_refuses_what_is_new_in_each_phase() {
    let mut house = House::new();
    let mut old = house.user("old").await;
    let mut fresh = house.peer().await;
    let line = old.open().await;
    house.core.phase.advance(Phase::Refusing);
    let refused = fresh.try_login("new", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(end_details(&refused).unwrap().retry_after.is_some());
    for refused in [old.open().await, old.subscribe(vec![follow(ROOM)]).await] {
        refused.tape.assert_ended(EndReason::ServerDraining);
    }
    assert_eq!(old.publish(ROOM, b"still").await.unwrap(), 1, "what is under way goes on");
    assert!(old.heartbeat().await.unwrap().draining);
    assert!(line.tape.is_live());
    house.core.phase.advance(Phase::Draining);
    let refused = old.publish(ROOM, b"too late").await.unwrap_err();
    assert_eq!(end_details(&refused).unwrap().reason, EndReason::ServerDraining);
    assert_eq!(house.core.hub().last_sequence(), 1);
    drop((old, fresh));
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn server_draining_ends_at_its_deadline_and_names_who_never_reads() {
    // A message larger than the whole window is sent in parts, and inside one there is no place for a status.
    for (window_bytes, told) in [(0, true), (2000, false), (65_535, true)] {
        let mut crowd = Crowd::new(10).await;
        let owner = crowd.house.user("stuck").await;
        let mut stuck = crowd.house.peer_with(window(window_bytes)).await;
        stuck.borrow_session(&owner);
        let line = stuck.follow([follow(ROOM)]).await;
        line.stall();
        let number = crowd.house.newest_stream();
        for _ in 0..8 {
            let sequence = crowd.publisher.publish(ROOM, &[7; 10_000]).await.unwrap();
            crowd.accepted.push((sequence, Bytes::from(vec![7; 10_000])));
        }
        let times = crowd.house.core.shutdown_times();
        let began_at = Instant::now();
        let Stopped::Cut(owed) = crowd.house.stop().await else { panic!("window {window_bytes}: drained") };
        let took = began_at.elapsed();
        assert!(took >= times.drain_timeout, "{took:?}");
        assert!(took < times.drain_timeout + times.flush_timeout + Duration::from_secs(1), "{took:?}");
        assert_eq!(owed.len(), 1);
        assert!(owed[0].contains(&format!("stream/{number} of {}", owner.session_id)), "{}", owed[0]);
        assert!(owed[0].contains("stuck"), "{}", owed[0]);
        settle().await;
        for (_, witness) in &crowd.witnesses {
            witness.tape.assert_ended(EndReason::ServerDraining);
            assert_eq!(witness.tape.events(ROOM), crowd.accepted);
            assert!(
                witness.tape.ended_at() - began_at < Duration::from_secs(2),
                "nobody waits for the slow one"
            );
        }
        let record = crowd.house.stream_end(number);
        assert_eq!(record.cause.reason, EndReason::ServerDraining);
        let EndedNode::Stream { lag_bytes, .. } = record.node else { panic!("{record:?}") };
        assert!(lag_bytes > 0);
        if told {
            line.tape.assert_ended(EndReason::ServerDraining);
        }
        drop((owner, stuck));
        crowd.witnesses.clear();
        drop(crowd.publisher);
        let warnings = super::house::take_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("cut before it had everything"), "{warnings:?}");
        crowd.house.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn server_draining_waits_for_a_slow_reader_that_goes_on() {
    let mut crowd = Crowd::new(3).await;
    let owner = crowd.house.user("slow").await;
    let mut slow = crowd.house.peer_with(window(20_000)).await;
    slow.borrow_session(&owner);
    let line = slow.follow([follow(ROOM)]).await;
    line.stall();
    for _ in 0..8 {
        let sequence = crowd.publisher.publish(ROOM, &[7; 10_000]).await.unwrap();
        crowd.accepted.push((sequence, Bytes::from(vec![7; 10_000])));
    }
    let go_on = async {
        pass(10).await;
        line.go_on();
    };
    let (stopped, ()) = tokio::join!(crowd.house.stop(), go_on);
    assert_eq!(stopped, Stopped::Drained);
    settle().await;
    line.tape.assert_ended(EndReason::ServerDraining);
    assert_eq!(line.tape.events(ROOM), crowd.accepted);
    crowd.witnesses.clear();
    drop((owner, slow, crowd.publisher));
    crowd.house.close().await;
}

#[tokio::test(start_paused = true)]
async fn server_draining_cuts_a_connection_that_takes_no_bytes() {
    let mut crowd = Crowd::new(5).await;
    let owner = crowd.house.user("asleep").await;
    let mut asleep = crowd.house.peer_with(Options { room: 512, ..window(65_535) }).await;
    asleep.borrow_session(&owner);
    let _line = asleep.follow([follow(ROOM)]).await;
    asleep.tap.shut();
    crowd.say(60).await;
    let times = crowd.house.core.shutdown_times();
    let began_at = Instant::now();
    let stopped = crowd.house.stop().await;
    let took = began_at.elapsed();
    assert!(took < times.drain_timeout + times.flush_timeout * 2 + Duration::from_secs(1), "{took:?}");
    settle().await;
    for (_, witness) in &crowd.witnesses {
        witness.tape.assert_ended(EndReason::ServerDraining);
        assert_eq!(witness.tape.events(ROOM), crowd.accepted, "{stopped:?}");
    }
    assert_eq!(crowd.house.counts(), [0; 4]);
    super::house::take_warnings();
    crowd.witnesses.clear();
    drop((owner, asleep, crowd.publisher));
    crowd.house.close().await;
}

#[tokio::test(start_paused = true)]
async fn server_draining_with_nobody_there_is_over_at_once() {
    let house = House::new();
    let began_at = Instant::now();
    assert_eq!(house.stop().await, Stopped::Drained);
    assert!(began_at.elapsed() < Duration::from_millis(500), "{:?}", began_at.elapsed());
    house.close().await;
}
