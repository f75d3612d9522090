//! Header blocks that never end or never fit, and prefaces byte by byte.

use std::time::Duration;

use tokio::time::Instant;

use super::super::crowd::Crowd;
use super::super::frames::{
    CONTINUATION, ENHANCE_YOUR_CALM, HEADERS, PING, PREFACE, SETTINGS, Wire, encoded, head,
};
use super::super::house::{pass, settle, take_warnings};
use super::{Attack, CONNECT, HEARTBEAT, assert_goaway};

/// Longer than a flush timeout: whoever was told to go is gone.
const A_WHILE: Duration = Duration::from_secs(3);

async fn closed_after(wire: &mut Wire, began_at: Instant) -> Duration {
    while !wire.is_closed {
        wire.frames().await;
        assert!(began_at.elapsed() < Duration::from_secs(3600), "never closed");
        tokio::time::sleep(Duration::from_millis(9)).await;
    }
    began_at.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_continuation_flood_is_cut() {
    let mut attack = Attack::new().await;
    let begun = encoded(HEADERS, 0, 5, &head(HEARTBEAT, None));
    // h2 counts them: CVE-2024-27316.
    let flood = [begun, encoded(CONTINUATION, 0, 5, &[]).repeat(5000)].concat();
    attack.wire.pour(&flood).await;
    attack.assert_thrown_out("excessive load").await;
}

#[tokio::test(start_paused = true)]
async fn a_header_bomb_is_cut() {
    let mut attack = Attack::new().await;
    // One entry of 4,000 bytes in the table, then thousands of references of one byte to it.
    let mut block = head(HEARTBEAT, None);
    block.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend_from_slice(&[b'y'; 4000]);
    block.extend_from_slice(&[0xbe; 10_000]);
    let flood = encoded(HEADERS, 4, 5, &block);
    attack.wire.pour(&flood).await;
    attack.assert_thrown_out("excessive load").await;
}

#[tokio::test(start_paused = true)]
async fn a_header_list_somewhat_too_large_costs_that_call_alone() {
    let mut attack = Attack::new().await;
    let mut block = head(HEARTBEAT, Some(&attack.token));
    for _ in 0..12 {
        block.extend_from_slice(&[0x00, 1, b'x', 0x7f, 0x81, 7]);
        block.extend_from_slice(&[b'y'; 1024]);
    }
    attack.wire.send(HEADERS, 5, 5, &block).await;
    let frames = attack.wire.frames().await;
    assert!(frames.iter().all(|frame| frame.stream == 5), "{frames:?}");
    attack.assert_lives();
    attack.over().await;
}

#[tokio::test(start_paused = true)]
async fn half_a_header_block_ends_the_connection_at_the_handshake_timeout() {
    let mut attack = Attack::new().await;
    let block = head(HEARTBEAT, None);
    attack.wire.send(HEADERS, 0, 5, &block[..10]).await;
    let began_at = Instant::now();
    // Drips: a byte of the block each second keeps nothing open.
    for byte in &block[10..14] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        attack.wire.send(CONTINUATION, 0, 5, &[*byte]).await;
    }
    attack.assert_lives();
    pass(1).await;
    assert!(began_at.elapsed() >= attack.crowd.house.core.limits().handshake_timeout);
    attack.assert_thrown_out("a header block was not complete").await;
}

#[tokio::test(start_paused = true)]
async fn half_a_headers_frame_as_first_request_ends_the_connection_at_the_handshake_timeout() {
    let mut crowd = Crowd::new(3).await;
    let mut wire = Wire::new(&mut crowd.house).await;
    let began_at = Instant::now();
    let frame = encoded(HEADERS, 5, 1, &head(HEARTBEAT, None));
    wire.bytes(&frame[..frame.len() - 1]).await;
    let took = closed_after(&mut wire, began_at).await;
    let timeout = crowd.house.core.limits().handshake_timeout;
    assert!(took >= timeout && took < timeout + Duration::from_secs(1), "{took:?}");
    assert!(take_warnings()[0].contains("a header block was not complete"));
    assert_eq!(crowd.status().await.connections_abusive, 1);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_header_block_that_is_slow_but_complete_is_served() {
    let mut attack = Attack::new().await;
    let frame = encoded(HEADERS, 5, 5, &head(CONNECT, Some(&attack.token)));
    let pause =
        attack.crowd.house.core.limits().handshake_timeout * 9 / 10 / u32::try_from(frame.len()).unwrap();
    for byte in frame {
        attack.wire.bytes(&[byte]).await;
        tokio::time::sleep(pause).await;
    }
    settle().await;
    let frames = attack.wire.frames().await;
    assert!(frames.iter().any(|frame| frame.stream == 5 && frame.kind == HEADERS), "{frames:?}");
    pass(60).await;
    attack.over().await;
}

#[tokio::test(start_paused = true)]
async fn a_preface_byte_by_byte_ends_at_the_handshake_timeout() {
    let mut crowd = Crowd::new(3).await;
    let before = crowd.house.counts();
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(Wire::silent(&mut crowd.house));
    }
    let timeout = crowd.house.core.limits().handshake_timeout;
    // One byte short in time.
    for byte in &PREFACE[..23] {
        for wire in &mut slow {
            wire.bytes(&[*byte]).await;
        }
        tokio::time::sleep(timeout / 24).await;
    }
    crowd.say(3).await;
    tokio::time::sleep(timeout / 24 + A_WHILE).await;
    for wire in &mut slow {
        wire.frames().await;
        assert!(wire.is_closed);
    }
    assert_eq!(crowd.house.counts(), before);
    assert_eq!(crowd.status().await.connections_abusive, 20);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_not_of_the_open_header_block_end_the_connection() {
    let mut attack = Attack::new().await;
    attack.wire.send(HEADERS, 0, 5, &head(HEARTBEAT, None)).await;
    attack.wire.send(PING, 0, 0, &[0; 8]).await;
    let frames = attack.wire.frames().await;
    // PROTOCOL_ERROR.
    assert_goaway(&frames, 1);
    assert_eq!(attack.crowd.house.counts(), attack.before);
    attack.over().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_before_any_call_is_cut_too() {
    let mut crowd = Crowd::new(3).await;
    let before = crowd.house.counts();
    let mut wire = Wire::new(&mut crowd.house).await;
    wire.pour(&encoded(SETTINGS, 0, 0, &[]).repeat(5000)).await;
    settle().await;
    assert_goaway(&wire.frames().await, ENHANCE_YOUR_CALM);
    assert_eq!(crowd.house.counts(), before);
    assert_eq!(take_warnings().len(), 1);
    crowd.close().await;
}
