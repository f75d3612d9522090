//! Lengths and windows that cannot be true.

use super::super::crowd::{Crowd, ROOM};
use super::super::frames::{DATA, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, RST_STREAM, WINDOW_UPDATE};
use super::super::house::{follow, settle};
use super::super::peer::window;
use super::{Attack, OPEN, assert_goaway};
use crate::base::reason::EndReason;

#[tokio::test(start_paused = true)]
async fn a_claimed_message_length_ends_that_stream_and_reserves_nothing() {
    for claimed in [u32::MAX, 1 << 22, 70_000] {
        let mut attack = Attack::new().await;
        attack.wire.send(DATA, 0, OPEN, &[&[0][..], &claimed.to_be_bytes()].concat()).await;
        attack.crowd.say(3).await;
        assert_eq!(attack.end().cause.reason, EndReason::QuotaExceeded, "{claimed}");
        assert_eq!(attack.crowd.house.counts()[2], attack.before[2]);
        attack.over().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_giant_frame_ends_the_connection_before_it_arrives() {
    for length in [0x00ff_ffff_u32, 16 * 1024 + 1] {
        let mut attack = Attack::new().await;
        let head = [&length.to_be_bytes()[1..], &[DATA, 0], &OPEN.to_be_bytes()].concat();
        attack.wire.bytes(&head).await;
        attack.crowd.say(3).await;
        assert_goaway(&attack.wire.frames().await, FRAME_SIZE_ERROR);
        assert_eq!(attack.end().cause.reason, EndReason::ConnectionLost);
        assert_eq!(attack.crowd.house.counts(), attack.before);
        attack.over().await;
    }
}

#[tokio::test(start_paused = true)]
async fn more_window_than_there_can_be_ends_the_connection() {
    let mut attack = Attack::new().await;
    attack.wire.send(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]).await;
    attack.crowd.say(3).await;
    assert_goaway(&attack.wire.frames().await, FLOW_CONTROL_ERROR);
    assert_eq!(attack.end().cause.reason, EndReason::ConnectionLost);
    assert_eq!(attack.crowd.house.counts(), attack.before);
    attack.over().await;
}

#[tokio::test(start_paused = true)]
async fn more_window_than_there_can_be_for_a_stream_ends_that_stream_alone() {
    let mut attack = Attack::new().await;
    attack.wire.send(WINDOW_UPDATE, 0, OPEN, &[0x7f, 255, 255, 255]).await;
    attack.crowd.say(3).await;
    let frames = attack.wire.frames().await;
    let reset = frames.iter().find(|frame| frame.kind == RST_STREAM).expect("a reset");
    assert_eq!((reset.stream, reset.error_code()), (OPEN, FLOW_CONTROL_ERROR));
    assert!(!attack.wire.is_closed);
    let mut after = attack.before;
    after[0] += 1;
    assert_eq!(attack.crowd.house.counts(), after, "the stream is gone, its connection is not");
    attack.end();
    attack.over().await;
}

#[tokio::test(start_paused = true)]
async fn a_zero_window_costs_nothing_and_gets_its_status() {
    let mut crowd = Crowd::new(3).await;
    let owner = crowd.house.user("mallory").await;
    let mut peer = crowd.house.peer_with(window(0)).await;
    peer.borrow_session(&owner);
    let line = peer.follow([follow(ROOM)]).await;
    let number = crowd.house.newest_stream();
    crowd.say(50).await;
    assert_eq!(line.tape.items().len(), 0, "not one byte fits");
    let limits = crowd.house.core.limits();
    while crowd.house.live(number).is_some() {
        assert!(crowd.accepted.len() < 10 * limits.lag_bytes_max / 50, "its lag has a bound");
        crowd.say(100).await;
    }
    // The status needs no window.
    line.tape.assert_ended(EndReason::SlowConsumer);
    assert_eq!(crowd.house.stream_end(number).cause.reason, EndReason::SlowConsumer);
    settle().await;
    drop((owner, peer));
    crowd.close().await;
}
