//! A connection that always has more to read does not hold the loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use super::super::crowd::{Crowd, ROOM};
use super::super::frames::{DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, encoded, head};
use super::super::house::settle;
use super::{CONNECT, OPEN};
use crate::base::limits::READ_BYTES_PER_TURN_MAX;

/// Bytes the "kernel" holds of the flood: more than anything may read in a row.
const ROOM_BYTES: usize = 4 << 20;

#[tokio::test(start_paused = true)]
async fn an_event_is_delivered_while_a_flood_is_being_read() {
    let mut crowd = Crowd::new(3).await;
    let mallory = crowd.house.user("mallory").await;
    let (mut io, tap) = crowd.house.dial(None, ROOM_BYTES);
    let token = mallory.token.clone().unwrap();
    let begin = [
        PREFACE,
        &encoded(SETTINGS, 0, 0, &[]),
        &encoded(HEADERS, END_HEADERS, OPEN, &head(CONNECT, Some(&token))),
    ]
    .concat();
    io.write_all(&begin).await.unwrap();
    settle().await;
    let stream = crowd.house.newest_stream();
    // Frames of a newer contract, each a message of two bytes: the most work that is no abuse by itself.
    let flood = encoded(DATA, 0, OPEN, &[0, 0, 0, 0, 2, 0x78, 1]).repeat(10_000);
    let poured = Arc::new(AtomicUsize::new(0));
    let mut flooding = JoinSet::new();
    flooding.spawn({
        let poured = Arc::clone(&poured);
        async move {
            loop {
                for part in flood.chunks(4096) {
                    if io.write_all(part).await.is_err() {
                        return;
                    }
                    poured.fetch_add(part.len(), Ordering::Relaxed);
                }
            }
        }
    });
    while poured.load(Ordering::Relaxed) < ROOM_BYTES {
        assert!(crowd.house.live(stream).is_some(), "{:?}", crowd.house);
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        let number = crowd.accepted.len() as u64;
        let payload = super::super::crowd::payload(number);
        let before = poured.load(Ordering::Relaxed);
        assert!(crowd.house.live(stream).is_some(), "the flood is on: {:?}", crowd.house);
        let sequence = crowd.publisher.publish(ROOM, &payload).await.unwrap();
        crowd.accepted.push((sequence, payload));
        while crowd.witnesses.iter().any(|(_, line)| line.tape.events(ROOM).len() < crowd.accepted.len()) {
            tokio::task::yield_now().await;
        }
        let read_bytes = poured.load(Ordering::Relaxed) - before;
        assert!(read_bytes <= 8 * READ_BYTES_PER_TURN_MAX, "{read_bytes} bytes of the flood came first");
    }
    tap.cut();
    settle().await;
    drop(mallory);
    flooding.shutdown().await;
    crowd.close().await;
}
