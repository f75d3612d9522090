//! `streamward bench slow`: the same open loop without and with readers that have stalled.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::base::reason::EndReason;
use crate::cli::bench::common::{number, or_dash, show_latency};
use crate::cli::bench::crew::{Crew, Plan, parse_count};
use crate::cli::bench::open::{Measured, OpenArgs, measure, measured_json, reached, remarks};
use crate::cli::bench::plot::{Across, Chart, Series, draw};
use crate::cli::bench::run::{Run, Stop, per_delivery_us, whole_seconds, with};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::records::reason_name;
use crate::cli::text::{parse_duration, show_bytes, show_duration, table};
use crate::load::stalled::Fate;
use crate::wire::v1;

/// Ends that are looked at: as many as a hub keeps of streams and of sessions.
const ENDS_MAX: usize = 1024;

/// What stalled readers cost the others
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward bench slow
  streamward bench slow --subscribers 100 --stalled 10 --duration 20s
  streamward bench slow --stalled 1 --skip --json

Measures as `bench latency` does, first with all subscribers reading, then with
some of them stalled for ever: they read nothing off their sockets any more.
Shown are the latencies of the others, the ratio of both, and what became of
the stalled: ended with a reason, told a gap (with --skip), or kept.")]
pub(crate) struct SlowArgs {
    /// Subscribers, those that will stall among them
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_count)]
    subscribers: usize,
    /// How many of them stall, each on a connection of its own
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count)]
    stalled: usize,
    /// The stalled ask to skip what they are too slow for, instead of being disconnected
    #[arg(long)]
    skip: bool,
    /// How long to measure each time: 5s, 1m
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

/// How many of the stalled ended in which way.
type Fates = BTreeMap<String, usize>;

/// Both measurements, as far as they came.
#[derive(Default)]
struct Both {
    without: Option<Measured>,
    with: Option<Measured>,
    fates: Fates,
}

/// Measures it.
///
/// # Errors
/// When the hub is not there or refuses, when a message was lost, doubled or altered, and when the load could not keep up.
pub(crate) async fn run(args: SlowArgs, output: &mut Output) -> Result<Exit, Failure> {
    if args.stalled >= args.subscribers {
        let text = "--stalled must be less than --subscribers: the others are measured.";
        return Err(Failure::told(Exit::Usage, text));
    }
    let mut run = Run::start(&args.open.common, output).await?;
    let plan = Plan {
        publishers: 1,
        subscribers: args.subscribers - args.stalled,
        stalled: args.stalled,
        overflow: if args.skip { v1::Overflow::Skip } else { v1::Overflow::Disconnect },
    };
    let mut both = Both::default();
    let stop = match run.open(&args.open.crew, plan).await? {
        Ok(mut crew) => {
            let stop = measure_both(&mut run, &mut crew, &args, &mut both).await;
            let told = ended_by_hub(&run, &crew).await;
            let fates = crew.leave().await;
            let spoiled = fates.iter().find_map(spoiled);
            if both.with.is_some() {
                both.fates = count_fates(&fates, &told);
            }
            stop?.or(spoiled)
        }
        Err(stop) => Some(stop),
    };
    let head = run.head("slow", stop.as_ref()).await;
    tell(head, &args, &both, run.output)?;
    run.end(stop.as_ref())
}

async fn measure_both(
    run: &mut Run<'_>,
    crew: &mut Crew,
    args: &SlowArgs,
    both: &mut Both,
) -> Result<Option<Stop>, Failure> {
    let (without, stop) = measure(run, crew, &args.open, args.duration, "all read").await?;
    both.without = without;
    if stop.is_some() {
        return Ok(stop);
    }
    crew.stall.begin.cancel();
    let (with, stop) =
        measure(run, crew, &args.open, args.duration, &format!("{} stalled", args.stalled)).await?;
    both.with = with;
    Ok(stop)
}

/// Why the hub ended streams of the stalled, by user, where it can be asked.
async fn ended_by_hub(run: &Run<'_>, crew: &Crew) -> Vec<String> {
    let Some(admin) = run.meter.admin() else { return Vec::new() };
    // A hub that is gone has told the measurement so.
    let ended = admin.ended(ENDS_MAX).await.unwrap_or_default();
    let users = crew.stalled_users();
    let of_stalled = ended.iter().filter(|ended| {
        ended.client_name == run.name
            && ended.kind == i32::from(v1::EndedKind::Stream)
            && users.contains(&ended.user)
    });
    of_stalled.filter_map(|ended| reason_name(ended.reason)).collect()
}

fn spoiled(fate: &Fate) -> Option<Stop> {
    match fate {
        Fate::Spoiled(error) => Some(Stop::Void(format!("a stalled subscriber: {error}"))),
        Fate::Ended(_) | Fate::Gap | Fate::Kept | Fate::Lost => None,
    }
}

/// The hub's word goes before what could still be read.
fn count_fates(fates: &[Fate], told: &[String]) -> Fates {
    let mut counts = Fates::new();
    for reason in told {
        *counts.entry(reason.clone()).or_default() += 1;
    }
    let untold = fates.iter().filter(|fate| told.is_empty() || matches!(fate, Fate::Gap | Fate::Kept));
    for fate in untold {
        let name = match fate {
            Fate::Ended(error) => error.reason().map_or("ended", EndReason::name),
            Fate::Gap => "gap",
            Fate::Kept => "kept",
            Fate::Lost => "connection lost",
            Fate::Spoiled(_) => "spoiled",
        };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

fn ratio(both: &Both, share: f64) -> Option<f64> {
    let quantile =
        |measured: &Option<Measured>| Some(measured.as_ref()?.latencies.quantile(share).as_secs_f64());
    let (without, with) = (quantile(&both.without)?, quantile(&both.with)?);
    (without > 0.0).then(|| with / without)
}

fn tell(head: Value, args: &SlowArgs, both: &Both, output: &mut Output) -> Result<(), Failure> {
    let rows = [(0, &both.without), (args.stalled, &both.with)];
    let rows = rows.into_iter().filter_map(|(stalled, measured)| Some((stalled, measured.as_ref()?)));
    let rows: Vec<(usize, &Measured)> = rows.collect();
    let (p50, p99) = (ratio(both, 0.5), ratio(both, 0.99));
    if output.json {
        let row = |(stalled, measured): &(usize, &Measured)| {
            with(json!({ "stalled": stalled }), measured_json(measured))
        };
        let more = json!({
            "subscribers": args.subscribers, "size_bytes": args.open.crew.size, "rate": args.open.rate,
            "rows": rows.iter().map(row).collect::<Vec<_>>(),
            "latency_p50_ratio": p50, "latency_p99_ratio": p99, "stalled_ends": both.fates,
        });
        output.json(&with(head, more))?;
    } else if !rows.is_empty() {
        output.line(&format!(
            "{} subscribers, {}-byte messages, {} per second for {} each",
            args.subscribers,
            args.open.crew.size,
            args.open.rate,
            show_duration(args.duration)
        ))?;
        let cells: Vec<_> = rows.iter().map(|(stalled, measured)| cells(*stalled, measured)).collect();
        output
            .table(&table(&["STALLED", "SENT/S", "P50", "P99", "MAX", "LATE", "SERVER us", "RSS"], &cells))?;
        let show = |ratio: Option<f64>| or_dash(ratio.map(|ratio| format!("{ratio:.2}")));
        output.line(&format!("the others, with / without: p50 {}, p99 {}", show(p50), show(p99)))?;
        for (fate, number) in &both.fates {
            output.line(&format!("of the stalled: {number} {fate}"))?;
        }
    }
    for (_, measured) in &rows {
        remarks(measured, args.open.rate).iter().for_each(|remark| output.notice(remark));
    }
    let name = |stalled: usize| format!("{stalled} stalled");
    let curves =
        rows.iter().map(|(stalled, measured)| Series::percentiles(&name(*stalled), &measured.latencies));
    let counts = rows.iter().map(|(stalled, measured)| {
        Series::per_second(&name(*stalled), whole_seconds(&measured.per_second, args.duration))
    });
    let charts = [
        Chart {
            title: "Latency of the others by percentile, milliseconds".to_owned(),
            across: Across::Nines,
            series: curves.collect(),
        },
        Chart {
            title: "Deliveries to the others per second".to_owned(),
            across: Across::Seconds,
            series: counts.collect(),
        },
    ];
    draw(&charts, args.open.common.plot, args.open.common.svg.as_deref(), output)
}

fn cells(stalled: usize, measured: &Measured) -> Vec<String> {
    let quantiles = measured.latencies.quantiles();
    let server = measured.cost.server_cpu.and_then(|cpu| per_delivery_us(cpu, measured.deliveries));
    vec![
        stalled.to_string(),
        measured.pace.as_ref().map_or_else(|| "(partial)".to_owned(), |pace| number(reached(pace))),
        show_latency(quantiles.p50),
        show_latency(quantiles.p99),
        show_latency(quantiles.max),
        or_dash(measured.pace.as_ref().map(|pace| show_latency(pace.late.quantile(0.99)))),
        or_dash(server.map(|us| format!("{us:.3}"))),
        or_dash(measured.cost.rss_bytes.map(show_bytes)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hubs_word_on_the_stalled_goes_before_what_they_could_still_read() {
        let fates = [Fate::Lost, Fate::Kept, Fate::Gap];
        let told = ["SLOW_CONSUMER".to_owned()];
        let named =
            |fates: &Fates| fates.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>();
        assert_eq!(named(&count_fates(&fates, &told)), ["1 SLOW_CONSUMER", "1 gap", "1 kept"]);
        assert_eq!(named(&count_fates(&fates, &[])), ["1 connection lost", "1 gap", "1 kept"]);
    }
}
