//! When which message of an open loop is due: at a fixed rate, whatever became of those before.
//!
//! Latency counts from here and not from when a message was sent. A load that waits for a slow server and then counts
//! from its own late sending would leave out just those moments in which everybody else would have waited ("coordinated
//! omission", Gil Tene, "How NOT to Measure Latency").

use std::time::Duration;

use tokio::time::Instant;

const NANOS: u64 = 1_000_000_000;

/// Messages at a fixed rate.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    begin: Instant,
    /// Number of the message that is due at the beginning.
    first: u64,
    per_second: u64,
}

impl Schedule {
    /// `per_second` messages (at least 1), the first of them, `first`, at once.
    #[must_use]
    pub fn new(begin: Instant, first: u64, per_second: u64) -> Self {
        Self { begin, first, per_second: per_second.max(1) }
    }

    /// When the first is due.
    #[must_use]
    pub fn begin(&self) -> Instant {
        self.begin
    }

    /// When the message is due.
    #[must_use]
    pub fn intended(&self, number: u64) -> Instant {
        let after = number.saturating_sub(self.first);
        let (seconds, rest) = (after / self.per_second, after % self.per_second);
        self.begin + Duration::from_secs(seconds) + Duration::from_nanos(rest * NANOS / self.per_second)
    }

    /// The first message that is not due yet.
    #[must_use]
    pub fn next(&self, now: Instant) -> u64 {
        let Some(since) = now.checked_duration_since(self.begin) else { return self.first };
        // Below the rate: at most 10^9 a second are asked for.
        let part = u64::from(since.subsec_nanos()) * self.per_second / NANOS;
        self.first + since.as_secs() * self.per_second + part + 1
    }
}
