//! How often something happened in each second.

use std::time::Duration;

/// Seconds that are counted one by one: a day. Later ones count as the last.
const SECONDS_MAX: usize = 24 * 3600;

/// Counts by second, up to the last one in which something happened.
#[derive(Clone, Debug, Default)]
pub struct Seconds(Vec<u64>);

impl Seconds {
    /// It happened so long after the beginning.
    pub fn count(&mut self, after: Duration) {
        let second = usize::try_from(after.as_secs()).unwrap_or(SECONDS_MAX).min(SECONDS_MAX - 1);
        if self.0.len() <= second {
            self.0.resize(second + 1, 0);
        }
        self.0[second] += 1;
    }

    /// The counts, from the first second on.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.0
    }

    /// Nothing happened yet.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_has_its_count_and_those_after_a_day_count_as_its_last() {
        let mut seconds = Seconds::default();
        for after_ms in [0, 999, 2000] {
            seconds.count(Duration::from_millis(after_ms));
        }
        assert_eq!(seconds.counts(), [2, 0, 1]);
        for after_s in [24 * 3600 - 1, 24 * 3600, u64::MAX] {
            seconds.count(Duration::from_secs(after_s));
        }
        assert_eq!((seconds.counts().len(), seconds.counts().last()), (24 * 3600, Some(&3)));
        seconds.clear();
        assert!(seconds.counts().is_empty());
    }
}
