//! Watches memory, threads and the event loop, and keeps the process within its budget. The ladder, in order:
//!
//! - ELEVATED: no anonymous work, no new sessions; idle timeouts shrink in proportion.
//! - HIGH: tails shrink in proportion; sessions that missed a heartbeat end.
//! - CRITICAL: no new streams; streams end, furthest behind first, then by what they hold.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::base::bill::{budget_bytes, size_text};
use crate::base::limits::{
    ACCOUNTS_SLACK_BYTES, GIVE_BACK_EVERY, LOOP_LAG_MEMORY, Memory, SCALE_LEAST_PERMILLE,
    STALLED_ELEVATED_PERMILLE, UNSENT_SHARE,
};
use crate::daemon::procfs::{Procfs, Reading};
use crate::hub::shed::{Shortage, Step, Victim};
use crate::runtime::heap;
use crate::runtime::ledger::Part;
use crate::runtime::pressure::{Level, Permille, Thresholds, permille, scale};
use crate::runtime::scope::Scope;
use crate::runtime::throttle::Throttle;
use crate::runtime::vitals::{MemoryVitals, Vitals};
use crate::server::Core;

/// What is remembered from tick to tick.
#[derive(Debug)]
pub struct Monitor {
    mem_total_bytes: u64,
    threads_max: u32,
    pressure: Pressure,
    /// The first resident set that was read.
    start_bytes: u64,
    lags: Lags,
    returns: Returns,
    accounts_told: Throttle,
    is_blind: bool,
    has_too_many_threads: bool,
}

/// Looks every `memory.tick` until `upkeep` ends. The first look is the caller's.
///
/// The watchdog asks it from this call on.
pub fn run(core: Arc<Core>, upkeep: Scope, monitor: Monitor, procfs: Procfs) -> impl Future<Output = ()> {
    let part = core.ledger.part("monitor");
    watch(core, upkeep, monitor, procfs, part)
}

async fn watch(core: Arc<Core>, upkeep: Scope, mut monitor: Monitor, mut procfs: Procfs, mut part: Part) {
    loop {
        let due = Instant::now() + core.memory().tick;
        tokio::select! {
            () = part.during(sleep_until(due)) => {}
            () = upkeep.ending() => return,
        }
        let now = Instant::now();
        monitor.tick(&core, &procfs.read(), now.saturating_duration_since(due), now);
    }
}

impl Monitor {
    /// For a machine with that much RAM and a process of at most `threads_max` threads.
    #[must_use]
    pub fn new(mem_total_bytes: u64, threads_max: u32) -> Self {
        Self {
            mem_total_bytes,
            threads_max,
            pressure: Pressure::default(),
            start_bytes: 0,
            lags: Lags::default(),
            returns: Returns::default(),
            accounts_told: Throttle::default(),
            is_blind: false,
            has_too_many_threads: false,
        }
    }

    /// Judges one reading and acts on it. `late` is how much after its time the tick came.
    pub fn tick(&mut self, core: &Core, reading: &Reading, late: Duration, now: Instant) {
        let memory = core.memory();
        let thresholds = Thresholds::from(&memory);
        if self.start_bytes == 0 {
            self.start_bytes = reading.rss_bytes;
        }
        let found = weigh(reading, budget_bytes(&memory, self.mem_total_bytes), self.start_bytes);
        let before = self.pressure.level();
        self.pressure = self.pressure.next(&found, &thresholds);
        let used = permille(found.used_bytes, found.ceiling_bytes);
        let vitals = Vitals {
            level: self.pressure.level(),
            memory: found,
            threads: reading.threads,
            threads_max: self.threads_max,
            descriptors: reading.descriptors,
            descriptors_max: reading.descriptors_max,
            loop_lag: late,
            loop_lag_max: self.lags.push(now, late),
            idle_scale: scale(used, thresholds.elevated, thresholds.critical, SCALE_LEAST_PERMILLE),
            tails_scale: scale(used, thresholds.high, thresholds.critical, SCALE_LEAST_PERMILLE),
        };
        core.set_vitals(vitals);
        tell_level(before, &vitals);
        self.tell_blind(reading);
        self.tell_threads(&vitals);
        self.look_at_accounts(core, &vitals, now);
        relieve(core, &vitals, &memory, thresholds, now);
    }

    fn tell_blind(&mut self, reading: &Reading) {
        let is_blind = reading.rss_bytes == 0;
        if is_blind && !self.is_blind {
            log::warn!("/proc/self/statm cannot be read: memory is not watched; mount /proc");
        }
        self.is_blind = is_blind;
    }

    fn tell_threads(&mut self, vitals: &Vitals) {
        let has_too_many = vitals.has_too_many_threads();
        if has_too_many && !self.has_too_many_threads {
            log::warn!(
                "{} threads, server.threads_max = {}: no new sessions until they are fewer",
                vitals.threads,
                vitals.threads_max
            );
        } else if self.has_too_many_threads && !has_too_many {
            log::info!("{} threads again, new sessions are taken", vitals.threads);
        }
        self.has_too_many_threads = has_too_many;
    }

    fn look_at_accounts(&mut self, core: &Core, vitals: &Vitals, now: Instant) {
        let rss_bytes = vitals.memory.rss_bytes;
        let accounts_bytes = core.hub().accounts_bytes(vitals.memory.start_bytes);
        if self.returns.is_due(accounts_bytes, rss_bytes, vitals.level, now) {
            heap::give_back();
        }
        if !differ(rss_bytes, accounts_bytes) || self.accounts_told.count(now).is_none() {
            return;
        }
        log::warn!(
            "{} resident, {} by the server's own count: too far apart; `streamward status --json` has the accounts",
            size_text(rss_bytes),
            size_text(accounts_bytes)
        );
    }
}

/// Whether the two are further apart than the allocator's slack and a fifth, or a third where more is counted: h2's
/// buffers count whole, and an idle connection has touched 17 of their 28 KiB.
fn differ(rss_bytes: u64, accounts_bytes: u64) -> bool {
    let apart = rss_bytes.abs_diff(accounts_bytes);
    let apart_max = if accounts_bytes > rss_bytes { rss_bytes / 3 } else { rss_bytes / 5 };
    rss_bytes > 0 && apart > ACCOUNTS_SLACK_BYTES.max(apart_max)
}

/// What counts as used, and of what.
fn weigh(reading: &Reading, budget_bytes: u64, start_bytes: u64) -> MemoryVitals {
    let (rss_bytes, cgroup) = (reading.rss_bytes, &reading.cgroup);
    let left = reading.available_bytes.map(|available| rss_bytes.saturating_add(available));
    let cgroup_limit = [cgroup.max_bytes, cgroup.high_bytes].into_iter().filter(|bytes| *bytes > 0).min();
    let ceiling_bytes =
        [cgroup_limit, left].into_iter().flatten().fold(budget_bytes, |least, bytes| least.min(bytes));
    // The cgroup holds more than we do: its other processes, and kernel memory on our behalf.
    let fuller = cgroup_limit
        .filter(|limit| permille(cgroup.current_bytes, *limit) > permille(rss_bytes, ceiling_bytes));
    let (used_bytes, ceiling_bytes) = match fuller {
        Some(limit) => (cgroup.current_bytes, limit),
        None => (rss_bytes, ceiling_bytes),
    };
    MemoryVitals {
        rss_bytes,
        start_bytes,
        budget_bytes,
        ceiling_bytes,
        used_bytes,
        available_bytes: reading.available_bytes.unwrap_or(0),
        cgroup_current_bytes: cgroup.current_bytes,
        cgroup_high_bytes: cgroup.high_bytes,
        cgroup_max_bytes: cgroup.max_bytes,
        stalled: reading.stalled,
    }
}

/// The level, and what made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pressure {
    /// By what is used.
    fill: Level,
    /// Whether the machine stalls for memory.
    is_stalled: bool,
}

impl Pressure {
    fn next(self, found: &MemoryVitals, thresholds: &Thresholds) -> Self {
        let slack: Permille = if self.is_stalled { thresholds.hysteresis } else { 0 };
        Self {
            // Nothing is known without a resident set.
            fill: if found.used_bytes == 0 {
                Level::Normal
            } else {
                self.fill.next(permille(found.used_bytes, found.ceiling_bytes), thresholds)
            },
            is_stalled: found.stalled.saturating_add(slack) >= STALLED_ELEVATED_PERMILLE,
        }
    }

    fn level(self) -> Level {
        if self.is_stalled { self.fill.max(Level::Elevated) } else { self.fill }
    }
}

fn tell_level(before: Level, vitals: &Vitals) {
    let (level, memory) = (vitals.level, &vitals.memory);
    if level == before {
        return;
    }
    let log_level = if level >= Level::High { log::Level::Warn } else { log::Level::Info };
    log::log!(
        log_level,
        "memory pressure {} (was {}): {} used of {}, stalled {}.{} %",
        level.name(),
        before.name(),
        size_text(memory.used_bytes),
        size_text(memory.ceiling_bytes),
        memory.stalled / 10,
        memory.stalled % 10
    );
}

/// Does what the level asks for.
fn relieve(core: &Core, vitals: &Vitals, memory: &Memory, thresholds: Thresholds, now: Instant) {
    let mut hub = core.hub();
    hub.set_idle_scale(vitals.idle_scale);
    hub.set_tails_scale(vitals.tails_scale);
    hub.set_unsent_bytes_max(vitals.memory.ceiling_bytes / UNSENT_SHARE);
    if vitals.level >= Level::High {
        let shortage = Shortage {
            level: vitals.level,
            memory: vitals.memory,
            thresholds,
            ends_max: memory.ends_per_tick_max,
        };
        let plan = hub.plan_ends(&shortage, now);
        hub.shed(&plan, now);
        plan.steps.iter().take(plan.ends).for_each(tell_step);
    }
    hub.trim_tails(now);
}

/// A stream's end is told where its call ends.
fn tell_step(step: &Step) {
    if let Victim::Session(session) = step.victim {
        log::warn!(
            "{session} of {} ended to save memory: not heard of for {} s; {} streams, {}",
            step.principal.user,
            step.silent_for.as_secs(),
            step.streams,
            size_text(step.bytes)
        );
    }
}

/// When freed memory is to be given back to the system.
#[derive(Debug, Default)]
struct Returns {
    next_at: Option<Instant>,
}

impl Returns {
    /// Now and then, and at every tick while memory is short, as long as the allocator keeps more than a fifth of what
    /// is accounted for.
    fn is_due(&mut self, accounts_bytes: u64, rss_bytes: u64, level: Level, now: Instant) -> bool {
        let keeps_much = rss_bytes > accounts_bytes + accounts_bytes / 5;
        let is_time = level >= Level::High || self.next_at.is_none_or(|next_at| now >= next_at);
        if keeps_much && is_time {
            self.next_at = Some(now + GIVE_BACK_EVERY);
        }
        keeps_much && is_time
    }
}

/// The worst lag of the last minute. What a later, worse one outlives is forgotten at once.
#[derive(Debug, Default)]
struct Lags(VecDeque<(Instant, Duration)>);

impl Lags {
    fn push(&mut self, now: Instant, late: Duration) -> Duration {
        while self.0.back().is_some_and(|(_, before)| *before <= late) {
            self.0.pop_back();
        }
        self.0.push_back((now, late));
        while self.0.front().is_some_and(|(at, _)| now - *at >= LOOP_LAG_MEMORY) {
            self.0.pop_front();
        }
        self.0.front().map_or(late, |(_, worst)| *worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::procfs::CgroupMemory;

    const MIB: u64 = 1024 * 1024;

    fn reading(rss: u64, available: u64) -> Reading {
        Reading { rss_bytes: rss * MIB, available_bytes: Some(available * MIB), ..Reading::default() }
    }

    fn in_cgroup(rss: u64, current: u64, high: u64, max: u64) -> Reading {
        let cgroup =
            CgroupMemory { current_bytes: current * MIB, high_bytes: high * MIB, max_bytes: max * MIB };
        Reading { cgroup, ..reading(rss, 10_000) }
    }

    /// Used and ceiling in MiB, with a budget of 100.
    fn weighed(reading: &Reading) -> (u64, u64) {
        let found = weigh(reading, 100 * MIB, 0);
        (found.used_bytes / MIB, found.ceiling_bytes / MIB)
    }

    #[test]
    fn the_ceiling_is_the_least_of_budget_cgroup_and_what_the_machine_has_left() {
        assert_eq!(weighed(&reading(40, 1000)), (40, 100));
        assert_eq!(weighed(&reading(40, 30)), (40, 70));
        assert_eq!(weighed(&reading(40, 0)), (40, 40), "nothing is left at all");
        assert_eq!(weighed(&Reading { available_bytes: None, ..reading(40, 0) }), (40, 100), "nobody says");
        assert_eq!(weighed(&in_cgroup(40, 30, 0, 80)), (40, 80));
        assert_eq!(weighed(&in_cgroup(40, 30, 60, 80)), (40, 60));
        assert_eq!(weighed(&in_cgroup(40, 30, 0, 0)), (40, 100), "no limit");
    }

    #[test]
    fn a_cgroup_nearer_to_its_limit_than_we_are_counts_instead() {
        assert_eq!(weighed(&in_cgroup(40, 150, 0, 160)), (150, 160));
        assert_eq!(weighed(&in_cgroup(40, 60, 0, 160)), (40, 100));
        assert_eq!(weighed(&in_cgroup(40, 150, 0, 0)), (40, 100), "what has no limit cannot be full");
    }

    fn levels(found: impl IntoIterator<Item = (u64, Permille)>) -> Vec<Level> {
        let thresholds = Thresholds::from(&Memory::default());
        let mut pressure = Pressure::default();
        let next = |(used_bytes, stalled)| {
            let found = MemoryVitals { used_bytes, stalled, ceiling_bytes: 100, ..MemoryVitals::default() };
            pressure = pressure.next(&found, &thresholds);
            pressure.level()
        };
        found.into_iter().map(next).collect()
    }

    #[test]
    fn levels_begin_at_their_percent_and_are_left_below_the_hysteresis() {
        use Level::{Critical, Elevated, High, Normal};
        let used = [69, 70, 85, 95, 90, 89, 80, 79, 65, 64].map(|used| (used, 0));
        let expected = [Normal, Elevated, High, Critical, Critical, High, High, Elevated, Elevated, Normal];
        assert_eq!(levels(used), expected);
    }

    #[test]
    fn a_machine_that_stalls_lifts_to_elevated_and_no_further() {
        use Level::{Elevated, High, Normal};
        let found = [(10, 99), (10, 100), (10, 1000), (10, 50), (10, 49), (10, 99), (90, 1000)];
        assert_eq!(levels(found), [Normal, Elevated, Elevated, Elevated, Normal, Normal, High]);
    }

    #[test]
    fn without_a_resident_set_nothing_is_held_back() {
        assert_eq!(levels([(99, 0), (0, 0)]), [Level::Critical, Level::Normal]);
        let found = weigh(&Reading::default(), 100 * MIB, 0);
        assert_eq!((found.used_bytes, found.ceiling_bytes), (0, 100 * MIB));
    }

    #[test]
    fn what_is_needed_ends_critical_and_not_a_byte_less() {
        let thresholds = Thresholds::from(&Memory::default());
        for (used_bytes, ceiling_bytes) in
            [(950, 1000), (1_000_003, 1_000_007), (2000, 999), (123_457, 123_459)]
        {
            let memory = |used_bytes| MemoryVitals { used_bytes, ceiling_bytes, ..MemoryVitals::default() };
            let needed = memory(used_bytes).needed_bytes(Level::Critical, &thresholds);
            let level = |used| Level::Critical.next(permille(used, ceiling_bytes), &thresholds);
            assert!(level(used_bytes - needed) < Level::Critical, "{needed} of {used_bytes}");
            assert_eq!(memory(used_bytes).needed_bytes(Level::High, &thresholds), 0);
        }
        let memory = MemoryVitals { used_bytes: 950, ceiling_bytes: 1000, ..MemoryVitals::default() };
        assert_eq!(memory.needed_bytes(Level::Critical, &thresholds), 51);
    }

    #[test]
    fn accounts_may_be_a_fifth_below_a_third_above_or_the_allocators_slack_away() {
        assert!(!differ(100 * MIB, 80 * MIB) && !differ(100 * MIB, 133 * MIB));
        assert!(differ(100 * MIB, 79 * MIB) && differ(100 * MIB, 134 * MIB));
        assert!(!differ(10 * MIB, 2 * MIB) && differ(10 * MIB, 19 * MIB));
        assert!(!differ(0, 100 * MIB), "unknown");
    }

    #[test]
    fn freed_memory_is_given_back_now_and_then_and_at_every_tick_while_it_is_short() {
        let (start, mut returns) = (Instant::now(), Returns::default());
        let mut is_due = |second, rss, level| {
            returns.is_due(10 * MIB, rss * MIB, level, start + Duration::from_secs(second))
        };
        assert!(!is_due(0, 12, Level::Critical), "nothing to give");
        assert!(is_due(1, 13, Level::Normal) && !is_due(2, 13, Level::Normal));
        assert!(is_due(3, 13, Level::High) && is_due(4, 13, Level::High));
        assert!(!is_due(5, 13, Level::Elevated));
        assert!(is_due(4 + GIVE_BACK_EVERY.as_secs(), 13, Level::Normal));
    }

    #[test]
    fn the_worst_lag_is_forgotten_after_a_minute() {
        let (start, mut lags) = (Instant::now(), Lags::default());
        let mut push =
            |second, late| lags.push(start + Duration::from_secs(second), Duration::from_millis(late));
        let seen: Vec<_> = [(0, 5), (1, 50), (2, 7), (59, 3), (60, 1), (61, 1), (62, 2), (119, 0)]
            .map(|(second, late)| push(second, late).as_millis())
            .into();
        assert_eq!(seen, [5, 50, 50, 50, 50, 7, 3, 2]);
        for second in 200..10_000 {
            push(second, 10_000 - second);
        }
        assert!(lags.0.len() <= 60, "{}", lags.0.len());
    }
}
