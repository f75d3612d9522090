//! How fast things go: counters of two looks become rates, rates become a history.

use std::collections::VecDeque;
use std::time::Duration;

use crate::cli::text::{duration_of, show_bytes};
use crate::wire::v1;

/// Looks remembered: four minutes at one a second.
pub(crate) const SAMPLES_MAX: usize = 240;

/// Something per second, in thousandths, so that slow rates are not nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate {
    thousandths: u64,
}

impl Rate {
    /// How fast a counter went from `before` to `now`. A counter that went back counts nothing.
    pub(crate) fn between(before: u64, now: u64, time: Duration) -> Self {
        let milliseconds = time.as_millis().max(1);
        let thousandths = u128::from(now.saturating_sub(before)) * 1_000_000 / milliseconds;
        Self { thousandths: u64::try_from(thousandths).unwrap_or(u64::MAX) }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { thousandths: self.thousandths.saturating_add(other.thousandths) }
    }

    /// `0.5`, `120`, `12.3k`, `4.1M`.
    pub(crate) fn show(self) -> String {
        let whole = self.thousandths / 1000;
        match whole {
            0 if self.thousandths == 0 => "0".to_owned(),
            0..10 => format!("{}.{}", whole, self.thousandths % 1000 / 100),
            10..10_000 => whole.to_string(),
            10_000..1_000_000 => format!("{}.{}k", whole / 1000, whole % 1000 / 100),
            1_000_000.. => format!("{}.{}M", whole / 1_000_000, whole % 1_000_000 / 100_000),
        }
    }

    /// Microseconds per second as a share: `12.3%`.
    pub(crate) fn show_share(self) -> String {
        let permille = self.thousandths / 1_000_000;
        format!("{}.{}%", permille / 10, permille % 10)
    }

    /// `1.5 KiB`.
    pub(crate) fn show_bytes(self) -> String {
        show_bytes(self.thousandths / 1000)
    }
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) time: Duration,
    pub(crate) events_in: Rate,
    pub(crate) events_out: Rate,
    pub(crate) bytes_out: Rate,
    /// Microseconds of CPU per second.
    pub(crate) cpu: Rate,
}

/// The samples of the last minutes, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
}

/// The time between two statuses of the same run of the server; none when it is another run or no time went by.
pub(crate) fn time_between(before: &v1::ServerStatus, now: &v1::ServerStatus) -> Option<Duration> {
    if before.epoch != now.epoch {
        return None;
    }
    duration_of(now.uptime).checked_sub(duration_of(before.uptime)).filter(|time| !time.is_zero())
}

fn cpu_us(status: &v1::ServerStatus) -> u64 {
    u64::try_from(duration_of(status.cpu_time).as_micros()).unwrap_or(u64::MAX)
}

impl History {
    /// Remembers what happened between two statuses. Another run of the server begins another history.
    pub(crate) fn add(&mut self, before: &v1::ServerStatus, now: &v1::ServerStatus) {
        if before.epoch != now.epoch {
            self.samples.clear();
        }
        let Some(time) = time_between(before, now) else { return };
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            time,
            events_in: Rate::between(before.last_sequence, now.last_sequence, time),
            events_out: Rate::between(before.events_delivered, now.events_delivered, time),
            bytes_out: Rate::between(before.bytes_delivered, now.bytes_delivered, time),
            cpu: Rate::between(cpu_us(before), cpu_us(now), time),
        });
    }

    /// The newest sample.
    pub(crate) fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// The newest `max` values of one rate, oldest first, and the time they span.
    pub(crate) fn newest(&self, max: usize, rate: impl Fn(&Sample) -> Rate) -> (Vec<u64>, Duration) {
        let skip = self.samples.len().saturating_sub(max);
        let samples = || self.samples.iter().skip(skip);
        (
            samples().map(|sample| rate(sample).thousandths).collect(),
            samples().fold(Duration::ZERO, |sum, sample| sum.saturating_add(sample.time)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(epoch: &str, seconds: i64, last_sequence: u64) -> v1::ServerStatus {
        v1::ServerStatus {
            epoch: epoch.to_owned(),
            uptime: Some(prost_types::Duration { seconds, nanos: 0 }),
            last_sequence,
            ..Default::default()
        }
    }

    #[test]
    fn rates_read_short() {
        for (before, now, ms, text) in [
            (0, 0, 1000, "0"),
            (0, 1, 2000, "0.5"),
            (100, 340, 2000, "120"),
            (0, 12_345, 1000, "12.3k"),
            (0, 8_200_000, 2000, "4.1M"),
            (9, 3, 1000, "0"),
            (0, 5, 0, "5000"),
            (0, u64::MAX, 0, "18446744073.7M"),
        ] {
            assert_eq!(Rate::between(before, now, Duration::from_millis(ms)).show(), text);
        }
    }

    #[test]
    fn the_history_is_bounded_and_begins_anew_with_another_run() {
        let mut history = History::default();
        let bound = i64::try_from(SAMPLES_MAX).unwrap();
        for second in 0..2 * bound {
            history.add(&status("a", second, 0), &status("a", second + 1, 7));
        }
        let (values, time) = history.newest(usize::MAX, |sample| sample.events_in);
        assert_eq!(values, vec![7_000; SAMPLES_MAX]);
        assert_eq!(time, Duration::from_secs(240));
        assert_eq!(history.newest(3, |sample| sample.events_in).1, Duration::from_secs(3));
        history.add(&status("a", 9, 0), &status("a", 9, 7));
        assert_eq!(history.samples.len(), SAMPLES_MAX, "no time went by");
        history.add(&status("a", 9, 7), &status("b", 1, 0));
        assert_eq!(history.last(), None);
    }
}
