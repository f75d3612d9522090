//! `streamward bench latency`: an open loop at a fixed rate, and how late deliveries are.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::cli::bench::common::{number, or_dash, show_latency};
use crate::cli::bench::crew::{Plan, parse_count};
use crate::cli::bench::open::{Measured, OpenArgs, measure, measured_json, reached, remarks};
use crate::cli::bench::plot::{Across, Chart, Series, draw};
use crate::cli::bench::run::{Run, per_delivery_us, whole_seconds, with};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::text::{parse_duration, show_bytes, show_duration, table};
use crate::load::latencies::Quantiles;
use crate::wire::v1;

/// How late deliveries are at a fixed rate
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward bench latency
  streamward bench latency --rate 2000 --subscribers 200 --plot
  streamward bench latency --rate 100 --duration 1m --svg latency.svg
  streamward bench latency --server pi:50051 --sleep --json

One publisher sends at a fixed rate, whatever became of the messages before. A
latency counts from the time at which its message was due, not from when it was
sent: what waits because the hub or the load was held up counts as late, as it
would be for whoever waits for it.

Publisher and subscribers are one thread of this process: a latency includes
the way to the hub and back, and the time this thread takes to read what came
for the subscribers before. LATE is how late the load itself was (p99); where
it is not far below the latencies, ask for a lower rate or fewer subscribers.
Between messages the thread looks at the clock again and again, which keeps one
core busy; with --sleep it waits by timer, some milliseconds too long. On a
machine with one core use --sleep.")]
pub(crate) struct LatencyArgs {
    /// Subscribers
    #[arg(long, value_name = "N", default_value = "50", value_parser = parse_count)]
    subscribers: usize,
    /// How long to measure: 5s, 1m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

/// Measures it.
///
/// # Errors
/// When the hub is not there or refuses, when a message was lost, doubled or altered, and when the load could not keep up.
pub(crate) async fn run(args: LatencyArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut run = Run::start(&args.open.common, output).await?;
    let plan =
        Plan { publishers: 1, subscribers: args.subscribers, stalled: 0, overflow: v1::Overflow::Disconnect };
    let (connections, measured, stop) = match run.open(&args.open.crew, plan).await? {
        Ok(mut crew) => {
            let what = format!("{} messages/s to {} subscribers", args.open.rate, args.subscribers);
            let measured = measure(&mut run, &mut crew, &args.open, args.duration, &what).await;
            let connections = crew.connections();
            crew.leave().await;
            let (measured, stop) = measured?;
            (connections, measured, stop)
        }
        Err(stop) => (0, None, Some(stop)),
    };
    let head = run.head("latency", stop.as_ref()).await;
    if run.output.json {
        let more = json!({
            "subscribers": args.subscribers, "connections": connections, "size_bytes": args.open.crew.size,
            "rate": args.open.rate, "rows": measured.iter().map(measured_json).collect::<Vec<_>>(),
        });
        run.output.json(&with(head, more))?;
    }
    if let Some(measured) = &measured {
        tell(&args, connections, measured, run.output)?;
    }
    run.end(stop.as_ref())
}

fn tell(
    args: &LatencyArgs,
    connections: usize,
    measured: &Measured,
    output: &mut Output,
) -> Result<(), Failure> {
    if !output.json {
        output.line(&format!(
            "{} subscribers on {connections} connections, {}-byte messages, {} per second for {}",
            args.subscribers,
            args.open.crew.size,
            args.open.rate,
            show_duration(args.duration)
        ))?;
        let header = ["SENT/S", "P50", "P90", "P99", "P99.9", "MAX", "LATE", "SERVER us", "LOAD us", "RSS"];
        output.table(&table(&header, &[cells(measured)]))?;
    }
    remarks(measured, args.open.rate).iter().for_each(|remark| output.notice(remark));
    let latency = Chart {
        title: "Latency by percentile, milliseconds".to_owned(),
        across: Across::Nines,
        series: vec![Series::percentiles("latency", &measured.latencies)],
    };
    let throughput = Chart {
        title: "Deliveries per second".to_owned(),
        across: Across::Seconds,
        series: vec![Series::per_second("deliveries", whole_seconds(&measured.per_second, args.duration))],
    };
    draw(&[latency, throughput], args.open.common.plot, args.open.common.svg.as_deref(), output)
}

fn cells(measured: &Measured) -> Vec<String> {
    let Quantiles { p50, p90, p99, p999, max } = measured.latencies.quantiles();
    let mut cells = vec![match &measured.pace {
        Some(pace) => number(reached(pace)),
        None => "(partial)".to_owned(),
    }];
    cells.extend([p50, p90, p99, p999, max].map(show_latency));
    cells.push(or_dash(measured.pace.as_ref().map(|pace| show_latency(pace.late.quantile(0.99)))));
    let (cost, deliveries) = (&measured.cost, measured.deliveries);
    let server = cost.server_cpu.and_then(|cpu| per_delivery_us(cpu, deliveries));
    let load = per_delivery_us(cost.load_cpu, deliveries);
    cells.extend([server, load].map(|us| or_dash(us.map(|us| format!("{us:.3}")))));
    cells.push(or_dash(cost.rss_bytes.map(show_bytes)));
    cells
}
