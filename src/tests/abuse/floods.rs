//! Frames that do no work, in numbers.

use std::time::Duration;

use super::super::frames::{ACK, DATA, PING, PRIORITY, SETTINGS, WINDOW_UPDATE, encoded};
use super::{Attack, OPEN};
use crate::base::limits::{IDLE_FRAMES_BURST, IDLE_FRAMES_PER_SECOND};

/// Twice what is allowed at once is cut.
async fn cut_after_the_burst(frame: &[u8], why: &str) {
    let mut attack = Attack::new().await;
    attack.wire.pour(&frame.repeat(2 * IDLE_FRAMES_BURST as usize)).await;
    attack.assert_thrown_out(why).await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_flood_is_cut() {
    cut_after_the_burst(&encoded(PING, 0, 0, &[0; 8]), "PING").await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_answers_to_pings_nobody_sent_is_cut() {
    cut_after_the_burst(&encoded(PING, ACK, 0, &[0; 8]), "PING").await;
}

#[tokio::test(start_paused = true)]
async fn a_settings_flood_is_cut() {
    cut_after_the_burst(&encoded(SETTINGS, 0, 0, &[]), "SETTINGS").await;
}

#[tokio::test(start_paused = true)]
async fn a_priority_flood_is_cut() {
    cut_after_the_burst(&encoded(PRIORITY, 0, OPEN, &[0, 0, 0, 0, 7]), "PRIORITY").await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_windows_for_nothing_is_cut() {
    cut_after_the_burst(&encoded(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), "WINDOW_UPDATE").await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_frames_is_cut() {
    cut_after_the_burst(&encoded(0xab, 0, 0, b"?"), "no known type").await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_data_flood_is_cut() {
    // h2 counts these itself, and less of them.
    cut_after_the_burst(&encoded(DATA, 0, OPEN, b""), "").await;
}

#[tokio::test(start_paused = true)]
async fn a_tiny_data_flood_is_cut() {
    let mut attack = Attack::new().await;
    // One message, byte by byte.
    let length = 3 * IDLE_FRAMES_BURST;
    let message = [&[0][..], &length.to_be_bytes(), &vec![0x3a; length as usize]].concat();
    let flood: Vec<u8> = message.iter().flat_map(|byte| encoded(DATA, 0, OPEN, &[*byte])).collect();
    attack.wire.pour(&flood).await;
    attack.assert_thrown_out("DATA").await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_pings_within_the_rate_is_left_alone() {
    let mut attack = Attack::new().await;
    let ping = encoded(PING, 0, 0, &[0; 8]);
    for _ in 0..600 {
        assert!(attack.wire.pour(&ping.repeat(IDLE_FRAMES_PER_SECOND as usize / 10)).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
        attack.wire.frames().await;
    }
    attack.crowd.say(3).await;
    attack.assert_lives();
    attack.over().await;
}
