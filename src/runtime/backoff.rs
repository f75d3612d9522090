//! How long to wait between attempts: longer each time, never the same for two.

use std::time::Duration;

/// Exponential backoff with jitter. The default is gRPC's connection backoff (doc/connection-backoff.md): 1 s, × 1.6,
/// ± 20 %, at most 120 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: Duration,
    /// Each wait is this many thousandths of the one before.
    pub factor_permille: u32,
    /// A wait is shorter or longer by at most this many thousandths of itself.
    pub jitter_permille: u32,
    /// No wait is longer, jitter aside.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            factor_permille: 1600,
            jitter_permille: 200,
            max: Duration::from_secs(120),
        }
    }
}

impl Backoff {
    /// The wait after `failures` attempts failed in a row, at least one. `dice` is any number; equal ones give equal
    /// waits.
    #[must_use]
    pub fn delay(&self, failures: u32, dice: u32) -> Duration {
        let mut nanos = self.first.as_nanos();
        let max = self.max.as_nanos();
        for _ in 1..failures {
            if nanos >= max {
                break;
            }
            nanos = nanos * u128::from(self.factor_permille) / 1000;
        }
        let nanos = nanos.min(max);
        // In 0 to 2 × jitter, then shifted down by one jitter.
        let jitter = nanos * u128::from(self.jitter_permille) / 1000;
        let spread = 2 * jitter * u128::from(dice) / u128::from(u32::MAX);
        Duration::from_nanos(u64::try_from(nanos + spread - jitter).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: u32 = u32::MAX / 2;

    #[test]
    fn waits_grow_by_the_factor_up_to_the_longest() {
        let seconds = |failures| Backoff::default().delay(failures, MIDDLE).as_secs_f64();
        for (failures, expected) in
            [(1, 1.0), (2, 1.6), (3, 2.56), (4, 4.096), (12, 120.0), (u32::MAX, 120.0)]
        {
            let delay = seconds(failures);
            assert!((delay - expected).abs() < 0.001 * expected, "{failures}: {delay}");
        }
    }

    #[test]
    fn jitter_is_at_most_a_fifth_either_way() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(1, 0), Duration::from_millis(800));
        assert_eq!(backoff.delay(1, u32::MAX), Duration::from_millis(1200));
        assert_eq!(backoff.delay(99, u32::MAX), Duration::from_secs(144));
    }

    #[test]
    fn nothing_overflows() {
        let backoff = Backoff {
            first: Duration::MAX,
            factor_permille: u32::MAX,
            jitter_permille: 1000,
            max: Duration::MAX,
        };
        assert_eq!(backoff.delay(u32::MAX, u32::MAX), Duration::from_nanos(u64::MAX));
        assert_eq!(backoff.delay(3, 0), Duration::ZERO);
    }
}
