//! What the process last found out about itself and its machine: plain numbers, zero where nothing says.

use std::time::Duration;

use crate::runtime::pressure::{Level, Permille, Thresholds};

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryVitals {
    /// Resident set.
    pub rss_bytes: u64,
    /// Resident set when the server had just started: what the process costs before anyone comes.
    pub start_bytes: u64,
    /// What the process may hold by its configuration.
    pub budget_bytes: u64,
    /// What it may hold now: the least of the budget, the cgroup's limit, and what it uses plus what the machine has
    /// left.
    pub ceiling_bytes: u64,
    /// What counts as used of the ceiling.
    pub used_bytes: u64,
    /// `MemAvailable` of the machine.
    pub available_bytes: u64,
    /// `memory.current` of the cgroup (v2).
    pub cgroup_current_bytes: u64,
    /// `memory.high` of the cgroup.
    pub cgroup_high_bytes: u64,
    /// `memory.max` of the cgroup.
    pub cgroup_max_bytes: u64,
    /// Share of the last ten seconds in which something waited for memory (PSI, some avg10).
    pub stalled: Permille,
}

impl MemoryVitals {
    /// Bytes that have to come back for `level` to fall below critical; 0 below it.
    #[must_use]
    pub fn needed_bytes(&self, level: Level, thresholds: &Thresholds) -> u64 {
        if level < Level::Critical {
            return 0;
        }
        let below = thresholds.critical.saturating_sub(thresholds.hysteresis);
        let left_at = u128::from(self.ceiling_bytes) * u128::from(below) / 1000;
        let left_at = u64::try_from(left_at).unwrap_or(u64::MAX);
        // A level is left when less than that is used.
        self.used_bytes.saturating_add(1).saturating_sub(left_at)
    }
}

/// What one tick of the monitor found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// How full memory is.
    pub level: Level,
    /// What that is judged by.
    pub memory: MemoryVitals,
    /// Threads of the process.
    pub threads: u32,
    /// Above this no new sessions are taken; 0 when nobody has said.
    pub threads_max: u32,
    /// Open descriptors.
    pub descriptors: u64,
    /// `RLIMIT_NOFILE`; 0 is no limit.
    pub descriptors_max: u64,
    /// How late the event loop came to its last tick.
    pub loop_lag: Duration,
    /// The worst of the last minute.
    pub loop_lag_max: Duration,
    /// Idle timeouts are multiplied by this.
    pub idle_scale: Permille,
    /// Tails may hold this share of their budget.
    pub tails_scale: Permille,
}

impl Vitals {
    /// Whether there are more threads than there may be.
    #[must_use]
    pub const fn has_too_many_threads(&self) -> bool {
        self.threads_max > 0 && self.threads > self.threads_max
    }
}

impl Default for Vitals {
    /// Nothing known, nothing held back.
    fn default() -> Self {
        Self {
            level: Level::Normal,
            memory: MemoryVitals::default(),
            threads: 0,
            threads_max: 0,
            descriptors: 0,
            descriptors_max: 0,
            loop_lag: Duration::ZERO,
            loop_lag_max: Duration::ZERO,
            idle_scale: 1000,
            tails_scale: 1000,
        }
    }
}
