//! Follows the frames a peer sends without decoding them: which of them do no work, and how long a header block has
//! been open. HTTP/2 lets a peer send such frames without end, and h2 obeys each (CVE-2019-9512, 9515 and the like).

use tokio::time::Instant;

use crate::base::limits::{
    IDLE_FRAMES_BURST, IDLE_FRAMES_PER_DATA_FRAME, IDLE_FRAMES_PER_SECOND, SMALLEST_DATA_BYTES,
};
use crate::runtime::bucket::Bucket;

/// RFC 9113, 3.4.
const PREFACE_BYTES: usize = 24;
/// RFC 9113, 4.1: length, type, flags, stream.
const HEAD_BYTES: usize = 9;
/// The flag of HEADERS and CONTINUATION.
const END_HEADERS: u8 = 4;
/// The flag of DATA.
const END_STREAM: u8 = 1;

/// RFC 9113, 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Unknown,
}

impl From<u8> for Kind {
    fn from(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::RstStream,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }
}

/// Where in the peer's bytes we are.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// So much of the preface is missing.
    Preface(usize),
    /// So much of the next frame's head is there.
    Head([u8; HEAD_BYTES], usize),
    /// So much of a payload is missing; whether a header block is complete after it.
    Payload { left: usize, closes_block: bool },
}

/// What began in some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    pub(super) all: u32,
    /// Those that do no work.
    pub(super) idle: u32,
}

/// One connection's frames.
#[derive(Debug)]
pub(super) struct Scanner {
    place: Place,
    budget: Bucket,
    /// Frames set against the DATA frames we sent.
    granted: u64,
    block_since: Option<Instant>,
    resets: Vec<u32>,
    flood: Option<&'static str>,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Preface(PREFACE_BYTES),
            budget: Bucket::new(IDLE_FRAMES_PER_SECOND, IDLE_FRAMES_BURST),
            granted: 0,
            block_since: None,
            resets: Vec::new(),
            flood: None,
        }
    }

    /// Since when a header block is not complete.
    pub(super) fn header_block_since(&self) -> Option<Instant> {
        self.block_since
    }

    /// What there was too much of.
    pub(super) fn flood(&self) -> Option<&'static str> {
        self.flood
    }

    /// The streams reset by the peer since the last call.
    pub(super) fn take_resets(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.resets)
    }

    /// Whether there are such.
    pub(super) fn has_resets(&self) -> bool {
        !self.resets.is_empty()
    }

    /// Follows the next bytes, received while `data_frames_sent` DATA frames had been sent. Returns the frames
    /// that began in them.
    pub(super) fn scan(&mut self, mut bytes: &[u8], data_frames_sent: u64, now: Instant) -> Frames {
        let mut frames = Frames::default();
        while !bytes.is_empty() {
            match &mut self.place {
                Place::Preface(left) => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.place = Place::Head([0; HEAD_BYTES], 0);
                    }
                }
                Place::Head(head, have) => {
                    let taken = bytes.len().min(HEAD_BYTES - *have);
                    head[*have..*have + taken].copy_from_slice(&bytes[..taken]);
                    *have += taken;
                    bytes = &bytes[taken..];
                    if *have == HEAD_BYTES {
                        let head = *head;
                        frames.all += 1;
                        frames.idle += u32::from(self.begin(head, data_frames_sent, now));
                    }
                }
                Place::Payload { left, .. } => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    bytes = &bytes[taken..];
                    self.finish();
                }
            }
        }
        frames
    }

    /// A frame's head is complete. Says whether the frame does no work.
    fn begin(&mut self, head: [u8; HEAD_BYTES], data_frames_sent: u64, now: Instant) -> bool {
        let [a, b, c, kind, flags, stream @ ..] = head;
        let left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let kind = Kind::from(kind);
        let is_block = matches!(kind, Kind::Headers | Kind::Continuation);
        if is_block {
            self.block_since.get_or_insert(now);
        }
        if kind == Kind::RstStream {
            self.resets.push(u32::from_be_bytes(stream) & (u32::MAX >> 1));
        }
        self.place = Place::Payload { left, closes_block: is_block && flags & END_HEADERS != 0 };
        self.finish();
        let Some(flood) = idle_frame(kind, flags, left) else { return false };
        self.charge(flood, data_frames_sent, now);
        true
    }

    /// What follows once a payload is complete.
    fn finish(&mut self) {
        let Place::Payload { left: 0, closes_block } = self.place else { return };
        if closes_block {
            self.block_since = None;
        }
        self.place = Place::Head([0; HEAD_BYTES], 0);
    }

    /// Who is sent much may send much: clients grant window for each DATA frame, and measure the round trip with a
    /// PING while data flows (gRPC's bandwidth-delay estimators).
    fn charge(&mut self, flood: &'static str, data_frames_sent: u64, now: Instant) {
        if self.granted < data_frames_sent.saturating_mul(IDLE_FRAMES_PER_DATA_FRAME) {
            self.granted += 1;
        } else if self.budget.take(now).is_err() {
            self.flood.get_or_insert(flood);
        }
    }
}

/// What there is too much of when there is too much of such frames; `None` for those that do work.
fn idle_frame(kind: Kind, flags: u8, payload_bytes: usize) -> Option<&'static str> {
    match kind {
        Kind::Data => {
            let is_small = payload_bytes < SMALLEST_DATA_BYTES && flags & END_STREAM == 0;
            is_small.then_some("too many DATA frames with next to nothing in them")
        }
        // Bounded by h2: CONTINUATION per header block, calls by their number.
        Kind::Headers | Kind::Continuation => None,
        Kind::Priority => Some("too many PRIORITY frames"),
        Kind::RstStream => Some("too many RST_STREAM frames"),
        Kind::Settings => Some("too many SETTINGS frames"),
        Kind::Ping => Some("too many PING frames"),
        Kind::GoAway => Some("too many GOAWAY frames"),
        Kind::WindowUpdate => Some("too many WINDOW_UPDATE frames"),
        Kind::PushPromise | Kind::Unknown => Some("too many frames of no known type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HEADERS: u8 = 1;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn begun() -> Vec<u8> {
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
    }

    #[test]
    fn every_split_of_the_bytes_is_seen_the_same() {
        let now = Instant::now();
        let bytes = [
            begun(),
            frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
            frame(HEADERS, 0, 1, &[7; 20]),
            frame(9, 4, 1, &[7; 5]),
            frame(0, 0, 1, &[PING; 40]),
            frame(0, 0, 1, b""),
            frame(3, 0, 1, &[0, 0, 0, 8]),
            frame(PING, 0, 0, &[0; 8]),
            frame(200, 255, 0, b"?"),
            frame(3, 0, 0x8000_0003, &[0, 0, 0, 8]),
        ]
        .concat();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut scanner = Scanner::new();
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let seen = parts.map(|part| scanner.scan(part, 0, now));
                assert_eq!(seen.iter().map(|frames| frames.idle).sum::<u32>(), 6, "at {first} and {second}");
                assert_eq!(seen.iter().map(|frames| frames.all).sum::<u32>(), 9, "at {first} and {second}");
                assert_eq!(scanner.take_resets(), [1, 3], "split at {first} and {second}");
                assert_eq!((scanner.header_block_since(), scanner.flood()), (None, None));
            }
        }
    }

    #[test]
    fn a_header_block_is_open_from_its_first_frame_head_to_its_last_byte() {
        let start = Instant::now();
        let block = [frame(HEADERS, 1, 1, &[7; 20]), frame(9, 0, 1, b""), frame(9, 4, 1, &[7; 5])].concat();
        let mut scanner = Scanner::new();
        scanner.scan(&begun(), 0, start);
        for (at, byte) in block.iter().enumerate() {
            let now = start + Duration::from_secs(at as u64);
            scanner.scan(&[*byte], 0, now);
            let expected = (8..block.len() - 1).contains(&at).then(|| start + Duration::from_secs(8));
            assert_eq!(scanner.header_block_since(), expected, "after byte {at}");
        }
        scanner.scan(&frame(HEADERS, 4, 3, &[7; 20]), 0, start);
        assert_eq!(scanner.header_block_since(), None, "whole in one frame");
        scanner.scan(&frame(HEADERS, 4, 3, b""), 0, start);
        assert_eq!(scanner.header_block_since(), None, "empty");
    }

    #[test]
    fn idle_frames_have_a_burst_and_a_rate() {
        let (mut scanner, start) = (Scanner::new(), Instant::now());
        scanner.scan(&begun(), 0, start);
        let ping = frame(PING, 1, 0, &[0; 8]);
        for _ in 0..IDLE_FRAMES_BURST {
            scanner.scan(&ping, 0, start);
        }
        assert_eq!(scanner.flood(), None);
        let later = start + Duration::from_secs(1);
        for _ in 0..IDLE_FRAMES_PER_SECOND {
            scanner.scan(&ping, 0, later);
        }
        assert_eq!(scanner.flood(), None);
        scanner.scan(&ping, 0, later);
        assert_eq!(scanner.flood(), Some("too many PING frames"));
    }

    #[test]
    fn a_client_that_is_sent_data_may_answer_each_frame() {
        let (mut scanner, now) = (Scanner::new(), Instant::now());
        scanner.scan(&begun(), 0, now);
        let answer =
            [frame(8, 0, 0, &[0, 0, 0, 9]), frame(8, 0, 1, &[0, 0, 0, 9]), frame(PING, 0, 0, &[0; 8])];
        for sent in 1..=u64::from(10 * IDLE_FRAMES_BURST) {
            scanner.scan(&answer.concat(), sent, now);
        }
        assert_eq!(scanner.flood(), None);
        for _ in 0..=IDLE_FRAMES_BURST {
            scanner.scan(&answer[0], u64::from(10 * IDLE_FRAMES_BURST), now);
        }
        assert_eq!(scanner.flood(), Some("too many WINDOW_UPDATE frames"));
    }

    #[test]
    fn frames_that_do_work_are_free() {
        let (mut scanner, now) = (Scanner::new(), Instant::now());
        scanner.scan(&begun(), 0, now);
        let work = [frame(0, 0, 1, b"five!"), frame(0, END_STREAM, 1, b""), frame(HEADERS, 4, 3, b"x")];
        for _ in 0..10 * IDLE_FRAMES_BURST {
            assert_eq!(scanner.scan(&work.concat(), 0, now), Frames { all: 3, idle: 0 });
        }
        assert_eq!(scanner.flood(), None);
    }
}
