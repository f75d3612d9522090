//! What a run of measurements comes to.

use std::io::Write;

use serde_json::{Value, json};

use crate::BenchError;
use crate::fanout::Sample;
use crate::servers::Kind;

const KINDS: [Kind; 3] = [Kind::Streamward, Kind::Mosquitto, Kind::NatsServer];
/// A lone message may cost as much as at the cheaper peer.
const ALONE_RATIO_MAX: f64 = 1.0;
/// Batched messages cost at least 2.5 times less than at nats-server.
const BATCHED_RATIO_MAX: f64 = 0.4;

/// Median, lowest and highest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// All rounds of one server and window.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) window: u64,
    /// Server CPU per delivery, microseconds.
    pub(crate) cpu_us: Spread,
    /// The load's CPU per delivery, microseconds.
    pub(crate) load_us: Spread,
    /// Deliveries per second.
    pub(crate) rate: Spread,
    /// This server's CPU over nats-server's, of the same round and window.
    pub(crate) to_nats: Option<Spread>,
    /// This server's CPU over mosquitto's.
    pub(crate) to_mosquitto: Option<Spread>,
}

/// The spread of the numbers; `None` when there are none.
pub(crate) fn spread(mut numbers: Vec<f64>) -> Option<Spread> {
    numbers.sort_by(f64::total_cmp);
    let (low, high) = (*numbers.first()?, *numbers.last()?);
    let middle = numbers.len() / 2;
    let median =
        if numbers.len() % 2 == 1 { numbers[middle] } else { (numbers[middle - 1] + numbers[middle]) / 2.0 };
    Some(Spread { median, low, high })
}

/// One row per server and window, in the order of the windows.
pub(crate) fn summarize(samples: &[Sample], windows: &[u64]) -> Vec<Row> {
    let mut rows = Vec::new();
    for window in windows {
        for kind in KINDS {
            let of = |kind: Kind| samples.iter().filter(move |s| s.kind == kind && s.window == *window);
            let all = |number: fn(&Sample) -> f64| spread(of(kind).map(number).collect());
            let ratio = |peer: Kind| {
                let pairs = of(kind).filter_map(|own| {
                    let same_round = of(peer).find(|other| other.round == own.round)?;
                    Some(own.cpu_ns / same_round.cpu_ns)
                });
                if kind == peer { None } else { spread(pairs.collect()) }
            };
            if let (Some(cpu_us), Some(load_us), Some(rate)) =
                (all(|s| s.cpu_ns / 1e3), all(|s| s.load_ns / 1e3), all(|s| s.rate))
            {
                let (to_nats, to_mosquitto) = (ratio(Kind::NatsServer), ratio(Kind::Mosquitto));
                rows.push(Row { kind, window: *window, cpu_us, load_us, rate, to_nats, to_mosquitto });
            }
        }
    }
    rows
}

/// Whether this project's server was measured in every window and keeps each mark.
pub(crate) fn marks_kept(rows: &[Row], windows: &[u64]) -> bool {
    let kept = |window| rows.iter().any(|row| row.window == window && mark(row) == Some(true));
    windows.iter().all(|window| kept(*window))
}

/// Whether the row keeps its mark; `None` for a peer or without a peer to compare with.
fn mark(row: &Row) -> Option<bool> {
    if row.kind != Kind::Streamward {
        return None;
    }
    let to_nats = row.to_nats.map(|ratio| ratio.median);
    if row.window > 1 {
        return to_nats.map(|ratio| ratio <= BATCHED_RATIO_MAX);
    }
    let to_mosquitto = row.to_mosquitto.map(|ratio| ratio.median);
    to_nats.into_iter().chain(to_mosquitto).reduce(f64::max).map(|ratio| ratio <= ALONE_RATIO_MAX)
}

/// One measurement as a line of progress.
pub(crate) fn line(sample: &Sample) -> String {
    format!(
        "round {} {:>5} in flight  {:<12} {:7.3} µs/delivery  {:>9.0} deliveries/s  {} deliveries",
        sample.round + 1,
        sample.window,
        sample.kind.name(),
        sample.cpu_ns / 1e3,
        sample.rate,
        sample.deliveries
    )
}

/// The result for people.
pub(crate) fn table(
    rows: &[Row],
    faults: &[String],
    subscribers: usize,
    payload_bytes: usize,
    out: &mut dyn Write,
) -> Result<(), BenchError> {
    writeln!(
        out,
        "\nServer CPU per delivered message, {subscribers} subscribers, {payload_bytes}-byte payloads"
    )?;
    writeln!(
        out,
        "{:>9}  {:<12} {:>30}  {:>12}  {:>9}  {:>8}  {:>12}  mark",
        "in flight",
        "server",
        "µs/delivery, median (min-max)",
        "deliveries/s",
        "load µs",
        "/ nats",
        "/ mosquitto"
    )?;
    for row in rows {
        let Spread { median, low, high } = row.cpu_us;
        let ratio =
            |ratio: Option<Spread>| ratio.map_or("-".to_owned(), |ratio| format!("{:.2}", ratio.median));
        let mark = mark(row).map_or("", |kept| if kept { "kept" } else { "MISSED" });
        writeln!(
            out,
            "{:>9}  {:<12} {:>30}  {:>12.0}  {:>9.3}  {:>8}  {:>12}  {mark}",
            row.window,
            row.kind.name(),
            format!("{median:.3} ({low:.3}-{high:.3})"),
            row.rate.median,
            row.load_us.median,
            ratio(row.to_nats),
            ratio(row.to_mosquitto),
        )?;
    }
    for fault in faults {
        writeln!(out, "VOID {fault}")?;
    }
    Ok(())
}

/// The result for programs.
pub(crate) fn json(
    rows: &[Row],
    samples: &[Sample],
    faults: &[String],
    subscribers: usize,
    payload_bytes: usize,
) -> Value {
    let spread = |s: Spread| json!({ "median": s.median, "min": s.low, "max": s.high });
    let rows = rows.iter().map(|row| {
        json!({
            "server": row.kind.name(), "in_flight": row.window,
            "cpu_us_per_delivery": spread(row.cpu_us), "load_us_per_delivery": spread(row.load_us),
            "deliveries_per_second": spread(row.rate), "ratio_to_nats": row.to_nats.map(spread),
            "ratio_to_mosquitto": row.to_mosquitto.map(spread), "mark_kept": mark(row),
        })
    });
    let samples = samples.iter().map(|s| {
        json!({
            "server": s.kind.name(), "in_flight": s.window, "round": s.round + 1, "cpu_ns_per_delivery": s.cpu_ns,
            "load_ns_per_delivery": s.load_ns, "deliveries_per_second": s.rate, "deliveries": s.deliveries,
        })
    });
    json!({
        "benchmark": "fanout", "subscribers": subscribers, "payload_bytes": payload_bytes,
        "rows": rows.collect::<Vec<_>>(), "samples": samples.collect::<Vec<_>>(), "void": faults,
    })
}
