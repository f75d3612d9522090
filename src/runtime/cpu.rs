//! The CPU time of this process.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// User and system time of all threads since the start: one system call, to the nanosecond.
#[must_use]
pub fn process_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before = process_time();
        assert!(before > Duration::ZERO);
        // Ends only because the clock counts this very loop.
        while process_time() < before + Duration::from_millis(2) {}
    }
}
