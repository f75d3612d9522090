//! What the works with an open loop share: its options, the measurement, and whether the load was up to it.

use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::bench::common::{CommonArgs, number, show_latency, time_bar};
use crate::cli::bench::crew::{Crew, CrewArgs};
use crate::cli::bench::run::{Cost, Run, Stop, faulty, per_delivery_us};
use crate::cli::exit::Failure;
use crate::cli::text::parse_duration;
use crate::load::error::LoadError;
use crate::load::latencies::{Latencies, Quantiles};
use crate::load::publisher::{Pace, Waiting};
use crate::load::schedule::Schedule;

/// A rate is reached when at most this part of it is missing.
const MISSING_SHARE_MAX: f64 = 0.05;
/// The load's own lateness is worth a word from here on.
const LATE_WORTH_TELLING: Duration = Duration::from_millis(1);

/// Options of the works with an open loop.
#[derive(Args, Debug)]
pub(crate) struct OpenArgs {
    /// Messages published per second, whatever became of those before
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// What goes before each measurement and is not counted
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// Wait for the next message by timer: leaves the core free, and sends up to some milliseconds late
    #[arg(long)]
    pub(crate) sleep: bool,
    #[command(flatten)]
    pub(crate) crew: CrewArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// One measurement.
pub(crate) struct Measured {
    /// None when it was stopped.
    pub(crate) pace: Option<Pace>,
    pub(crate) latencies: Latencies,
    pub(crate) per_second: Vec<u64>,
    pub(crate) deliveries: u64,
    pub(crate) cost: Cost,
}

impl OpenArgs {
    fn waiting(&self) -> Waiting {
        if self.sleep { Waiting::Sleep } else { Waiting::Spin }
    }
}

fn messages(rate: u32, duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(u64::from(rate));
    whole + u64::from(duration.subsec_millis()) * u64::from(rate) / 1000
}

/// Warms up and measures; what stopped it early, if anything did.
pub(crate) async fn measure(
    run: &mut Run<'_>,
    crew: &mut Crew,
    args: &OpenArgs,
    duration: Duration,
    what: &str,
) -> Result<(Option<Measured>, Option<Stop>), Failure> {
    let warming = async {
        let schedule = begin(crew, args);
        publish(crew, args, schedule, messages(args.rate, args.warmup)).await
    };
    match run.watch(warming, || format!("{what}: warming up")).await {
        Some(Ok(_)) => {}
        Some(Err(error)) => return Ok((None, Some(faulty(crew, error)))),
        None => return Ok((None, Some(Stop::Interrupted))),
    }
    let clocks = run.clocks().await?;
    let messages = messages(args.rate, duration).max(1);
    let schedule = begin(crew, args);
    let (arrivals, begun) = (Rc::clone(&crew.arrivals), schedule.begin());
    let line = || {
        let elapsed = begun.elapsed();
        let per_second = arrivals.delivered() as f64 / elapsed.as_secs_f64().max(1e-9);
        format!("{what}: {} {} deliveries/s", time_bar(elapsed, duration), number(per_second))
    };
    let published = run.watch(publish(crew, args, schedule, messages), line).await;
    let cost = run.cost(&clocks).await?;
    let (pace, stop) = match published {
        Some(Ok(pace)) => {
            let stop = could_not_keep_up(&pace, args.rate).map(Stop::Void);
            (Some(pace), stop)
        }
        Some(Err(error)) => return Ok((None, Some(faulty(crew, error)))),
        None => (None, Some(Stop::Interrupted)),
    };
    let arrivals = &crew.arrivals;
    let measured = Measured {
        pace,
        latencies: arrivals.latencies(),
        per_second: arrivals.per_second(),
        deliveries: arrivals.delivered(),
        cost,
    };
    Ok((Some(measured), stop))
}

fn begin(crew: &Crew, args: &OpenArgs) -> Schedule {
    let first = crew.publishers.first().map_or(0, |publisher| publisher.published());
    let schedule = Schedule::new(Instant::now(), first, u64::from(args.rate));
    crew.arrivals.begin_open(schedule);
    schedule
}

/// The first publisher alone: its time is every message's.
async fn publish(
    crew: &mut Crew,
    args: &OpenArgs,
    schedule: Schedule,
    messages: u64,
) -> Result<Pace, LoadError> {
    let Some(publisher) = crew.publishers.first_mut() else { return Err(LoadError::Closed) };
    publisher.open_loop(schedule, messages, args.waiting(), &crew.arrivals).await
}

/// Messages sent per second.
pub(crate) fn reached(pace: &Pace) -> f64 {
    pace.sent as f64 / pace.took.as_secs_f64().max(1e-9)
}

fn is_short(pace: &Pace, rate: u32) -> bool {
    pace.sent < pace.asked
        || reached(pace) < f64::from(rate) * (1.0 - MISSING_SHARE_MAX) && pace.took > Duration::from_secs(1)
}

/// Whether the hub's window was what held the load up.
fn is_hubs_doing(pace: &Pace) -> bool {
    let asked = pace.took.mul_f64(pace.sent as f64 / pace.asked.max(1) as f64);
    pace.blocked >= pace.took.saturating_sub(asked) / 2 && !pace.blocked.is_zero()
}

fn could_not_keep_up(pace: &Pace, rate: u32) -> Option<String> {
    (is_short(pace, rate) && !is_hubs_doing(pace)).then(|| {
        format!(
            "the load itself could not keep up: it sent {} of {rate} messages per second. Ask for less, or give it a \
             core of its own",
            number(reached(pace))
        )
    })
}

/// What a reader of the numbers should know about the load.
pub(crate) fn remarks(measured: &Measured, rate: u32) -> Vec<String> {
    let Some(pace) = &measured.pace else { return Vec::new() };
    let mut remarks = Vec::new();
    if is_short(pace, rate) && is_hubs_doing(pace) {
        remarks.push(format!(
            "the hub took {} of {rate} messages per second: what waits is counted as late",
            number(reached(pace))
        ));
    }
    let (late, p99) = (pace.late.quantile(0.99), measured.latencies.quantile(0.99));
    if late >= LATE_WORTH_TELLING && late >= p99 / 2 {
        remarks.push(format!(
            "the load itself sent up to {} late (p99): much of the latency is its own",
            show_latency(late)
        ));
    }
    remarks
}

/// The keys of a measurement.
pub(crate) fn measured_json(measured: &Measured) -> Value {
    let us = |duration: Duration| duration.as_secs_f64() * 1e6;
    let Quantiles { p50, p90, p99, p999, max } = measured.latencies.quantiles();
    let late = measured.pace.as_ref().map(|pace| us(pace.late.quantile(0.99)));
    let (cost, deliveries) = (&measured.cost, measured.deliveries);
    json!({
        "partial": measured.pace.is_none(),
        "messages_per_second": measured.pace.as_ref().map(reached),
        "deliveries": deliveries,
        "latency_p50_us": us(p50),
        "latency_p90_us": us(p90),
        "latency_p99_us": us(p99),
        "latency_p999_us": us(p999),
        "latency_max_us": us(max),
        "load_late_p99_us": late,
        "window_full_seconds": measured.pace.as_ref().map(|pace| pace.blocked.as_secs_f64()),
        "server_cpu_us_per_delivery": cost.server_cpu.and_then(|cpu| per_delivery_us(cpu, deliveries)),
        "load_cpu_us_per_delivery": per_delivery_us(cost.load_cpu, deliveries),
        "server_rss_bytes": cost.rss_bytes,
        "per_second": measured.per_second,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(sent: u64, asked: u64, took_ms: u64, blocked_ms: u64) -> Pace {
        let (took, blocked) = (Duration::from_millis(took_ms), Duration::from_millis(blocked_ms));
        Pace { sent, asked, took, blocked, late: Latencies::default() }
    }

    #[test]
    fn a_load_that_was_not_up_to_it_voids_the_run_and_a_full_window_does_not() {
        assert_eq!(could_not_keep_up(&pace(10_000, 10_000, 10_000, 0), 1000), None);
        assert_eq!(could_not_keep_up(&pace(10_000, 10_000, 10_200, 0), 1000), None, "a little late");
        let why = could_not_keep_up(&pace(8_000, 10_000, 11_000, 0), 1000).unwrap();
        assert!(why.contains("sent 727 of 1000"), "{why}");
        let full = pace(8_000, 10_000, 11_000, 9_000);
        assert_eq!(could_not_keep_up(&full, 1000), None);
        let measured = |pace| Measured {
            pace: Some(pace),
            latencies: Latencies::default(),
            per_second: Vec::new(),
            deliveries: 0,
            cost: Cost::default(),
        };
        assert!(remarks(&measured(full), 1000)[0].contains("the hub took 727 of 1000"));
        let mut late = pace(10_000, 10_000, 10_000, 0);
        late.late.record(Duration::from_millis(3));
        assert!(remarks(&measured(late), 1000)[0].contains("3.00ms late"));
        assert!(remarks(&measured(pace(10_000, 10_000, 10_000, 0)), 1000).is_empty());
    }

    #[test]
    fn messages_are_rate_times_duration() {
        assert_eq!(messages(300, Duration::from_millis(2500)), 750);
        assert_eq!(messages(300, Duration::ZERO), 0);
    }
}
