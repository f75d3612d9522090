//! Times to come back, spread so that those who went together do not come back together.

use std::time::Duration;

/// In `[1, 2) × base`, for the how-manieth: the golden-ratio sequence spreads any run of numbers evenly (Knuth, The Art
/// of Computer Programming 3, 6.4).
#[must_use]
pub fn spread(base: Duration, number: u64) -> Duration {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let share = number.wrapping_mul(GOLDEN) >> 48;
    let extra = (base.as_millis() * u128::from(share)) >> 16;
    base + Duration::from_millis(u64::try_from(extra).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_went_together_come_back_one_by_one() {
        let base = Duration::from_secs(5);
        let mut times: Vec<_> = (0..100).map(|number| spread(base, number)).collect();
        times.sort();
        assert!(times.iter().all(|time| (base..2 * base).contains(time)));
        let widest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest < base / 30, "{widest:?} between two of a hundred");
    }
}
