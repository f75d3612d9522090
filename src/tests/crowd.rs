//! Witnesses: clients that follow one room while something happens to another, and must not notice.

use std::time::Duration;

use bytes::Bytes;

use super::house::{House, follow, settle};
use super::peer::{Line, Peer};

/// The room of every crowd.
pub(super) const ROOM: &str = "room/crowd";

/// A house with a publisher and witnesses on connections of their own.
pub(super) struct Crowd {
    pub(super) house: House,
    pub(super) publisher: Peer,
    pub(super) witnesses: Vec<(Peer, Line)>,
    /// What the hub accepted: sequence and payload.
    pub(super) accepted: Vec<(u64, Bytes)>,
}

impl Crowd {
    pub(super) async fn new(witnesses: usize) -> Self {
        // Nobody has to heartbeat.
        Self::of(House::with(|limits, _| limits.lease = Duration::from_secs(7200)), witnesses).await
    }

    pub(super) async fn of(mut house: House, witnesses: usize) -> Self {
        let publisher = house.user("publisher").await;
        let mut crowd = Self { house, publisher, witnesses: Vec::new(), accepted: Vec::new() };
        for number in 0..witnesses {
            let mut peer = crowd.house.user(&format!("witness{number}")).await;
            let line = peer.follow([follow(ROOM)]).await;
            crowd.witnesses.push((peer, line));
        }
        crowd
    }

    /// Publishes that many events of different lengths.
    pub(super) async fn say(&mut self, count: usize) {
        for _ in 0..count {
            let payload = payload(self.accepted.len() as u64);
            let sequence = self.publisher.publish(ROOM, &payload).await.unwrap();
            self.accepted.push((sequence, payload));
        }
        settle().await;
    }

    /// Sequence of the newest event.
    pub(super) fn newest(&self) -> u64 {
        self.accepted.last().map_or(0, |(sequence, _)| *sequence)
    }

    /// What was accepted after a sequence.
    pub(super) fn since(&self, sequence: u64) -> Vec<(u64, Bytes)> {
        self.accepted.iter().filter(|(accepted, _)| *accepted > sequence).cloned().collect()
    }

    /// Every witness lives and has every event in order, byte for byte; nobody was told of a gap.
    pub(super) fn assert_nobody_noticed(&self) {
        for (at, (_, line)) in self.witnesses.iter().enumerate() {
            assert!(line.tape.is_live(), "witness {at} was ended: {:?}", line.tape.end());
            assert_eq!(line.tape.events(ROOM), self.accepted, "witness {at}");
            assert_eq!(line.tape.gaps(), [], "witness {at}");
        }
    }

    /// Publishes once more, checks the witnesses, lets everyone go and checks that nothing is left.
    pub(super) async fn close(mut self) {
        self.say(3).await;
        self.assert_nobody_noticed();
        self.witnesses.clear();
        drop(self.publisher);
        self.house.close().await;
    }
}

/// Bytes that tell `number` and have its own length.
pub(super) fn payload(number: u64) -> Bytes {
    let length = 1 + usize::try_from(number * 37 % 211).unwrap();
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let byte = |at: usize| seed.to_le_bytes()[at % 8] ^ u8::try_from(at % 256).unwrap();
    (0..length).map(byte).collect()
}
