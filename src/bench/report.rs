//! What a run of measurements comes to.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::{Value, json};

use crate::BenchError;
use crate::kind::Kind;
use crate::marks::{self, Verdict};

/// A kind of number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    /// Its key in JSON.
    pub(crate) key: &'static str,
    /// Its name and unit in tables.
    pub(crate) title: &'static str,
    /// Digits behind the point.
    digits: usize,
}

const fn metric(key: &'static str, title: &'static str, digits: usize) -> Metric {
    Metric { key, title, digits }
}

pub(crate) const CPU_US: Metric = metric("cpu_us", "server CPU µs", 3);
pub(crate) const LOAD_US: Metric = metric("load_cpu_us", "load CPU µs", 3);
pub(crate) const PER_SECOND: Metric = metric("per_second", "per second", 0);
pub(crate) const WALL_US: Metric = metric("wall_us", "wall µs", 1);
pub(crate) const P50_US: Metric = metric("p50_us", "p50 µs", 0);
pub(crate) const P99_US: Metric = metric("p99_us", "p99 µs", 0);
pub(crate) const P999_US: Metric = metric("p999_us", "p99.9 µs", 0);
pub(crate) const P99_BEFORE_US: Metric = metric("p99_before_us", "p99 before µs", 0);
pub(crate) const P99_WITH_US: Metric = metric("p99_with_us", "p99 with µs", 0);
pub(crate) const P99_RATIO: Metric = metric("p99_ratio", "p99 with / before", 2);
pub(crate) const START_MS: Metric = metric("start_ms", "start ms", 1);
pub(crate) const RSS_MIB: Metric = metric("rss_mib", "RSS MiB", 2);
pub(crate) const FILE_MIB: Metric = metric("file_mib", "file MiB", 2);
pub(crate) const CONNECTION_KIB: Metric = metric("rss_kib_per_connection", "RSS KiB / connection", 1);
pub(crate) const LEFT: Metric = metric("left_to_warm", "gone / warm", 2);
pub(crate) const FULL_MIB: Metric = metric("full_mib", "RSS MiB, all connected", 1);
pub(crate) const WAKEUPS: Metric = metric("wakeups_per_second", "wake-ups / s", 1);
pub(crate) const IDLE_CPU_US: Metric = metric("cpu_us_per_second", "CPU µs / s", 0);
pub(crate) const THREADS: Metric = metric("threads", "threads", 0);
pub(crate) const HEAP_MIB: Metric = metric("heap_mib", "of it heap", 1);
pub(crate) const LEFT_DESCRIPTORS: Metric = metric("left_descriptors", "descriptors, all gone", 0);
const METRICS: [&Metric; 21] = [
    &CPU_US,
    &LOAD_US,
    &PER_SECOND,
    &WALL_US,
    &P50_US,
    &P99_US,
    &P999_US,
    &P99_BEFORE_US,
    &P99_WITH_US,
    &P99_RATIO,
    &START_MS,
    &RSS_MIB,
    &FILE_MIB,
    &CONNECTION_KIB,
    &LEFT,
    &FULL_MIB,
    &WAKEUPS,
    &IDLE_CPU_US,
    &THREADS,
    &HEAP_MIB,
    &LEFT_DESCRIPTORS,
];

/// One measurement of one server.
pub(crate) struct Sample {
    /// What was asked of it.
    pub(crate) case: String,
    /// Of which server.
    pub(crate) server: Kind,
    /// Which round, from 0.
    pub(crate) round: usize,
    /// What was measured.
    pub(crate) numbers: Vec<(&'static Metric, f64)>,
}

/// All measurements of one work.
pub(crate) struct Outcome {
    /// As the command line names it.
    pub(crate) work: &'static str,
    what: String,
    /// What is compared, and shown where there is room for little.
    shown: &'static [&'static Metric],
    pub(crate) samples: Vec<Sample>,
    faults: Vec<String>,
    /// Told each measurement as it comes.
    log: Box<dyn Write>,
}

/// Median, lowest and highest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// `median (lowest-highest)`, or the median alone where all are the same.
    pub(crate) fn show(&self, digits: usize) -> String {
        let [median, low, high] =
            [self.median, self.low, self.high].map(|number| format!("{number:.digits$}"));
        if low == high { median } else { format!("{median} ({low}-{high})") }
    }
}

impl Outcome {
    /// Nothing measured yet.
    pub(crate) fn new(
        work: &'static str,
        what: String,
        shown: &'static [&'static Metric],
        log: Box<dyn Write>,
    ) -> Self {
        Self { work, what, shown, samples: Vec::new(), faults: Vec::new(), log }
    }

    /// Adds a measurement, and says so.
    pub(crate) fn push(&mut self, sample: Sample) -> Result<(), BenchError> {
        let Sample { case, server, round, numbers } = &sample;
        let numbers =
            numbers.iter().map(|(metric, number)| format!("{number:.*} {}", metric.digits, metric.title));
        let numbers: Vec<String> = numbers.collect();
        writeln!(self.log, "round {} {case}: {:<12} {}", round + 1, server.name(), numbers.join(", "))?;
        self.samples.push(sample);
        Ok(())
    }

    /// Notes a measurement that says nothing.
    pub(crate) fn void(&mut self, server: Kind, round: usize, error: &BenchError) -> Result<(), BenchError> {
        let fault = format!("{}: {}, round {}: {error}", self.work, server.name(), round + 1);
        writeln!(self.log, "VOID {fault}")?;
        self.faults.push(fault);
        Ok(())
    }

    /// Whether nothing is void and every mark was looked at and kept.
    pub(crate) fn is_content(&self) -> bool {
        self.faults.is_empty() && marks::judge(self).iter().all(|verdict| verdict.kept() == Some(true))
    }

    /// Each case, in the order they were measured in.
    pub(crate) fn cases(&self) -> Vec<&str> {
        let mut cases = Vec::new();
        for sample in &self.samples {
            if !cases.contains(&sample.case.as_str()) {
                cases.push(&sample.case);
            }
        }
        cases
    }

    fn servers(&self) -> Vec<Kind> {
        let is_there = |kind: &Kind| self.samples.iter().any(|sample| sample.server == *kind);
        Kind::ALL.into_iter().filter(is_there).collect()
    }

    fn of<'a>(&'a self, case: &'a str, server: Kind) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.case == case && sample.server == server)
    }

    /// This number of all rounds.
    pub(crate) fn spread(&self, case: &str, server: Kind, metric: &Metric) -> Option<Spread> {
        spread(self.of(case, server).filter_map(|sample| sample.number(metric)).collect())
    }

    /// What this project's server needs of what the peer needs, in the same round.
    pub(crate) fn ratio(&self, case: &str, peer: (Kind, &str), metric: &Metric) -> Option<Spread> {
        let ratios = self.of(case, Kind::Streamward).filter_map(|own| {
            let other = self.of(peer.1, peer.0).find(|other| other.round == own.round)?;
            Some(own.number(metric)? / other.number(metric)?)
        });
        // To a peer that needs nothing there is no ratio.
        spread(ratios.filter(|ratio| ratio.is_finite()).collect())
    }
}

impl Sample {
    fn metrics(&self) -> impl Iterator<Item = &'static Metric> {
        self.numbers.iter().map(|(metric, _)| *metric)
    }

    fn number(&self, metric: &Metric) -> Option<f64> {
        self.numbers.iter().find(|(own, _)| *own == metric).map(|(_, number)| *number)
    }
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

/// The result for people.
pub(crate) fn text(outcomes: &[Outcome], machine: &str) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        out += &work_text(outcome);
    }
    let verdicts: Vec<Verdict> = outcomes.iter().flat_map(marks::judge).collect();
    if !verdicts.is_empty() {
        out += "\nMarks: median of the ratios within the rounds (lowest-highest)\n";
    }
    for verdict in &verdicts {
        let kept = verdict.word();
        writeln!(out, "{kept:<12} {:>7} <= {:<5} {}", verdict.measured(), verdict.at_most, verdict.what).ok();
    }
    writeln!(out, "\n{}", machine).ok();
    out
}

fn work_text(outcome: &Outcome) -> String {
    let mut out = format!("\n{}\nmedian (lowest-highest) of the rounds\n", outcome.what);
    let metrics: Vec<&Metric> = outcome.samples.first().into_iter().flat_map(Sample::metrics).collect();
    for case in outcome.cases() {
        write!(out, "{case:<28}").ok();
        for metric in &metrics {
            write!(out, " {:>24}", metric.title).ok();
        }
        out += "             streamward x\n";
        for server in outcome.servers() {
            write!(out, "  {:<26}", server.name()).ok();
            for metric in &metrics {
                let spread = outcome.spread(case, server, metric);
                write!(out, " {:>24}", spread.map_or("-".to_owned(), |spread| spread.show(metric.digits)))
                    .ok();
            }
            let compared = outcome.shown.first().filter(|_| server != Kind::Streamward);
            let ratio = compared.and_then(|metric| outcome.ratio(case, (server, case), metric));
            writeln!(out, " {:>24}", ratio.map_or(String::new(), |ratio| ratio.show(3))).ok();
        }
    }
    for fault in &outcome.faults {
        writeln!(out, "VOID {fault}").ok();
    }
    out
}

/// The result for a document.
pub(crate) fn markdown(outcomes: &[Outcome], machine: &str) -> String {
    let mut out = format!("{}\n", machine);
    for outcome in outcomes {
        let servers = outcome.servers();
        let names: Vec<&str> = servers.iter().map(|server| server.name()).collect();
        write!(
            out,
            "\n{}:\n\n| | {} |\n|---|{}\n",
            outcome.what,
            names.join(" | "),
            "---:|".repeat(names.len())
        )
        .ok();
        for case in outcome.cases() {
            for metric in outcome.shown {
                let title = if outcome.shown.len() > 1 {
                    format!("{case}: {}", metric.title)
                } else {
                    case.to_owned()
                };
                let cells = servers.iter().map(|server| cell(outcome, case, *server, metric));
                writeln!(
                    out,
                    "| {} | {} |",
                    title.trim_start_matches(": "),
                    cells.collect::<Vec<_>>().join(" | ")
                )
                .ok();
            }
        }
        for fault in &outcome.faults {
            writeln!(out, "\nVoid: {fault}").ok();
        }
    }
    let verdicts: Vec<Verdict> = outcomes.iter().flat_map(marks::judge).collect();
    if !verdicts.is_empty() {
        out += "\n| mark | at most | measured | |\n|---|---:|---:|---|\n";
    }
    for verdict in &verdicts {
        let Verdict { what, at_most, .. } = verdict;
        writeln!(out, "| {what} | {at_most} | {} | {} |", verdict.measured(), verdict.word()).ok();
    }
    out
}

/// A median; behind a peer's, what this project's server needs of it.
fn cell(outcome: &Outcome, case: &str, server: Kind, metric: &Metric) -> String {
    let Some(spread) = outcome.spread(case, server, metric) else { return "–".to_owned() };
    format!("{:.*}", metric.digits, spread.median)
}

/// The result for programs.
pub(crate) fn json(outcomes: &[Outcome], machine: Value) -> Value {
    let spread = |s: Spread| json!({ "median": s.median, "min": s.low, "max": s.high });
    let works = outcomes.iter().map(|outcome| {
        let samples = outcome.samples.iter().map(|sample| {
            let numbers =
                sample.numbers.iter().map(|(metric, number)| (metric.key.to_owned(), json!(number)));
            json!({
                "case": sample.case, "server": sample.server.name(), "round": sample.round + 1,
                "numbers": numbers.collect::<serde_json::Map<_, _>>(),
            })
        });
        let marks = marks::judge(outcome).into_iter().map(|verdict| {
            json!({
                "mark": verdict.what, "at_most": verdict.at_most, "measured": verdict.spread.map(spread),
                "kept": verdict.kept(),
            })
        });
        json!({
            "work": outcome.work, "what": outcome.what, "samples": samples.collect::<Vec<_>>(),
            "marks": marks.collect::<Vec<_>>(), "void": outcome.faults,
        })
    });
    let works: Vec<Value> = works.collect();
    let titles: serde_json::Map<_, _> =
        METRICS.iter().map(|metric| (metric.key.to_owned(), json!(metric.title))).collect();
    json!({ "benchmark": "peers", "machine": machine, "numbers": titles, "works": works })
}
