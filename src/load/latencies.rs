//! Latencies, counted in a table of bounded size whatever their number.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Shorter ones are not told apart. A loopback delivery takes some tens of microseconds.
const LEAST: Duration = Duration::from_micros(1);
/// Longer ones count as this long: nothing is measured for longer without an event.
const MOST: Duration = Duration::from_secs(60);
/// Significant decimal digits: 0.1 %, finer than two runs agree. The table has 150 KB.
const DIGITS: u8 = 3;

/// How many latencies of which length.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// The quantiles everybody reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Half are not longer.
    pub p50: Duration,
    /// Nine in ten are not longer.
    pub p90: Duration,
    /// All but one in a hundred.
    pub p99: Duration,
    /// All but one in a thousand.
    pub p999: Duration,
    /// None is longer.
    pub max: Duration,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Default for Latencies {
    fn default() -> Self {
        let table = Histogram::new_with_bounds(nanos(LEAST), nanos(MOST), DIGITS);
        Self(table.expect("the bounds are more than a factor of two apart and the digits at most five"))
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(nanos(latency));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share of all does not exceed; zero when there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share).min(self.0.max()))
    }

    /// The quantiles everybody reports.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.quantile(1.0),
        }
    }

    /// Nothing is counted any more.
    pub fn clear(&mut self) {
        self.0.reset();
    }
}
