//! One warning of a kind in a while, and how often the kind came meanwhile.

use tokio::time::Instant;

use crate::base::limits::WARN_EVERY;

/// One warning in [`WARN_EVERY`] and a counter.
#[derive(Debug, Default)]
pub struct Throttle {
    told_at: Option<Instant>,
    count: u64,
}

impl Throttle {
    /// How often it happened since the last time, when it is time to tell.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told_at.is_some_and(|told_at| now - told_at < WARN_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_in_a_minute_is_told_with_the_count_of_the_others() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let told = [0, 1, 59, 60, 61, 200].map(|second| throttle.count(start + Duration::from_secs(second)));
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
