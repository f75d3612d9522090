//! A token bucket: so many per second, and a burst that may come at once.
//!
//! Kept as one instant, when the bucket will be full again (the "theoretical arrival time" of ATM's generic cell rate
//! algorithm), so nothing has to be refilled and nothing is lost to rounding.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket; it begins full.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Time in which one token comes back.
    interval: Duration,
    burst: u32,
    /// `None` until the first token was taken.
    full_at: Option<Instant>,
}

impl Bucket {
    /// `per_second` tokens come back each second, `burst` of them fit. Neither is below one.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval: interval.max(Duration::from_nanos(1)), burst: burst.max(1), full_at: None }
    }

    /// A bucket that holds what comes back in one second.
    #[must_use]
    pub fn of_one_second(per_second: u32) -> Self {
        Self::new(per_second, per_second)
    }

    /// Puts another rate and burst in force; the tokens taken stay taken. Nothing happens when they are the same.
    pub fn set_rate(&mut self, per_second: u32, burst: u32, now: Instant) {
        let mut other = Self::new(per_second, burst);
        if (other.interval, other.burst) == (self.interval, self.burst) {
            return;
        }
        let owed = self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        let tokens = owed.as_nanos() / self.interval.as_nanos();
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX).min(other.burst);
        other.full_at = Some(now + other.interval * tokens);
        *self = other;
    }

    /// Takes one token, or says how long until there is one; then nothing was taken.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + self.interval;
        let wait = (full_at - now).saturating_sub(self.interval * self.burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full_at = Some(full_at);
        Ok(())
    }

    /// Puts tokens in beside those that come back by themselves; more than fit are lost.
    pub fn put(&mut self, tokens: u32) {
        let back = self.interval * tokens;
        self.full_at = self.full_at.and_then(|full_at| full_at.checked_sub(back));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(bucket: &mut Bucket, now: Instant) -> u32 {
        let mut taken = 0;
        while bucket.take(now).is_ok() {
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_burst_is_there_at_once_and_comes_back_at_the_rate() {
        let (mut bucket, start) = (Bucket::new(50, 20), Instant::now());
        assert_eq!(take_all(&mut bucket, start), 20);
        assert_eq!(bucket.take(start), Err(Duration::from_millis(20)));
        assert_eq!(bucket.take(start + Duration::from_millis(5)), Err(Duration::from_millis(15)));
        assert_eq!(take_all(&mut bucket, start + Duration::from_millis(100)), 5);
        assert_eq!(take_all(&mut bucket, start + Duration::from_secs(3600)), 20, "not more than fits");
    }

    #[test]
    fn whoever_waits_as_told_gets_a_token_and_no_rate_is_exceeded() {
        for per_second in [1, 3, 7, 50, 999_999] {
            let mut bucket = Bucket::of_one_second(per_second);
            let start = Instant::now();
            let burst = take_all(&mut bucket, start);
            assert_eq!(burst, per_second);
            let (mut now, mut taken) = (start, 0);
            while now < start + Duration::from_millis(10) {
                match bucket.take(now) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        now += wait;
                        assert_eq!(bucket.take(now), Ok(()), "{per_second}");
                        taken += 1;
                    }
                }
            }
            assert!(taken <= per_second / 100 + 1, "{per_second}: {taken}");
        }
    }

    #[test]
    fn what_is_put_in_can_be_taken_and_more_than_fits_is_lost() {
        let (mut bucket, start) = (Bucket::new(1, 10), Instant::now());
        bucket.put(5);
        assert_eq!(take_all(&mut bucket, start), 10);
        bucket.put(3);
        assert_eq!(take_all(&mut bucket, start), 3);
        bucket.put(u32::MAX);
        assert_eq!(take_all(&mut bucket, start), 10);
    }

    #[test]
    fn a_new_rate_counts_at_once() {
        let (mut bucket, start) = (Bucket::new(1, 1), Instant::now());
        assert_eq!(take_all(&mut bucket, start), 1);
        bucket.set_rate(1000, 1000, start);
        assert_eq!(take_all(&mut bucket, start), 999);
        bucket.set_rate(1000, 1000, start);
        assert!(bucket.take(start).is_err(), "the same rate changes nothing");
        bucket.set_rate(1, 1, start);
        assert_eq!(bucket.take(start), Err(Duration::from_secs(1)), "no debt from another rate");
        let mut none = Bucket::new(0, 0);
        assert_eq!(take_all(&mut none, start), 1, "never nothing at all");
    }
}
