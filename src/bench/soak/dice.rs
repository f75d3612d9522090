//! Chance that can be repeated: the same seed throws the same.

use std::time::Duration;

/// SplitMix64.
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice of one client in one round: nobody else's throws change its own.
    pub(crate) fn new(seed: u64, client: u64, round: u64) -> Self {
        let mut dice = Self(seed);
        for part in [client, round] {
            dice = Self(dice.next() ^ part);
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or_default()
    }

    /// Between the two.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let permille = u32::try_from(self.below(1001)).unwrap_or_default();
        least + (most - least) * permille / 1000
    }
}
