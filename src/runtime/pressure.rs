//! How full a bounded thing is: levels with hysteresis, and scales that follow the fill between two of them.
//!
//! The idea is Envoy's overload manager: a pressure from 0 to 1, actions that are on from a threshold, and actions
//! that scale between two.

use crate::base::limits::Memory;

/// Parts of a whole, 0 to 1,000 and beyond.
pub type Permille = u32;

/// The levels, in the order they are passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    #[default]
    Normal,
    /// Nothing new that is not needed.
    Elevated,
    /// Less is kept.
    High,
    /// Something has to go.
    Critical,
}

/// Where the levels begin, in thousandths of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// [`Level::Elevated`] from here.
    pub elevated: Permille,
    /// [`Level::High`] from here.
    pub high: Permille,
    /// [`Level::Critical`] from here.
    pub critical: Permille,
    /// A level is left this far below where it began.
    pub hysteresis: Permille,
}

impl From<&Memory> for Thresholds {
    fn from(memory: &Memory) -> Self {
        let permille = |percent: u8| Permille::from(percent) * 10;
        Self {
            elevated: permille(memory.elevated_percent),
            high: permille(memory.high_percent),
            critical: permille(memory.critical_percent),
            hysteresis: permille(memory.hysteresis_percent),
        }
    }
}

impl Level {
    /// Every level, in order.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Elevated, Self::High, Self::Critical];

    /// As people and logs read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Elevated => "elevated",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Where it begins.
    #[must_use]
    pub const fn begins(self, thresholds: &Thresholds) -> Permille {
        match self {
            Self::Normal => 0,
            Self::Elevated => thresholds.elevated,
            Self::High => thresholds.high,
            Self::Critical => thresholds.critical,
        }
    }

    /// The level that follows this one at `used`: up at once, down only past the hysteresis.
    #[must_use]
    pub fn next(self, used: Permille, thresholds: &Thresholds) -> Self {
        let holds = |level: Self| {
            let begins = level.begins(thresholds);
            let slack = if level <= self { thresholds.hysteresis } else { 0 };
            level == Self::Normal || used.saturating_add(slack) >= begins
        };
        Self::ALL.into_iter().rev().find(|level| holds(*level)).unwrap_or_default()
    }
}

/// `used` of `whole` in thousandths, rounded down; a whole of nothing is full.
#[must_use]
pub fn permille(used: u64, whole: u64) -> Permille {
    if whole == 0 {
        return Permille::MAX;
    }
    let parts = u128::from(used) * 1000 / u128::from(whole);
    Permille::try_from(parts).unwrap_or(Permille::MAX)
}

/// What is left of a thing that shrinks in proportion: everything up to `from`, `least` from `to` on, in thousandths.
#[must_use]
pub fn scale(used: Permille, from: Permille, to: Permille, least: Permille) -> Permille {
    if used <= from {
        return 1000;
    }
    if used >= to {
        return least;
    }
    let passed = u64::from(used - from) * u64::from(1000 - least) / u64::from(to - from);
    1000 - u32::try_from(passed).unwrap_or(1000 - least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { elevated: 700, high: 850, critical: 950, hysteresis: 50 };

    #[test]
    fn a_level_is_entered_at_once_and_left_past_the_hysteresis() {
        let mut level = Level::Normal;
        let mut seen = Vec::new();
        for used in [699, 700, 651, 649, 850, 801, 799, 2000, 901, 899, 0] {
            level = level.next(used, &THRESHOLDS);
            seen.push(level);
        }
        use Level::{Critical, Elevated, High, Normal};
        assert_eq!(
            seen,
            [Normal, Elevated, Elevated, Normal, High, High, Elevated, Critical, Critical, High, Normal]
        );
    }

    #[test]
    fn a_scale_falls_in_proportion_between_two_levels() {
        let scaled = [0, 700, 825, 950, 2000].map(|used| scale(used, 700, 950, 200));
        assert_eq!(scaled, [1000, 1000, 600, 200, 200]);
    }

    #[test]
    fn shares_do_not_wrap() {
        assert_eq!(permille(1, 2), 500);
        assert_eq!(permille(u64::MAX, 1), Permille::MAX);
        assert_eq!(permille(0, 0), Permille::MAX);
    }
}
