//! `streamward bench fanout`: a closed loop, so many messages in flight, and what a delivery costs.

use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::bench::common::{CommonArgs, bar, number, or_dash, time_bar};
use crate::cli::bench::crew::{Crew, CrewArgs, Plan, parse_count};
use crate::cli::bench::plot::{Across, Chart, Series, draw};
use crate::cli::bench::run::{Cost, Run, Stop, faulty, per_delivery_us, whole_seconds, with};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::text::{count, parse_duration, show_bytes, show_duration, table};
use crate::load::error::LoadError;
use crate::load::message::PUBLISHERS_MAX;
use crate::load::publisher::Until;
use crate::wire::v1;

/// What a delivery costs: publishers to subscribers, some messages in flight
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward bench fanout
  streamward bench fanout --subscribers 50,200 --in-flight 1,64 --json
  streamward bench fanout --size 16384 --in-flight 4 --plot
  streamward bench fanout --messages 10000 --pid \"$(pidof streamward)\"

Every publisher keeps so many messages in flight: a message is in flight until
every subscriber has it. One row per number of subscribers and messages in
flight:

  DELIVERIES/S  messages times subscribers, per second
  MB/S          payload delivered, in millions of bytes per second
  SERVER us     the hub's CPU time per delivery, in microseconds
  LOAD us       the CPU time of this process per delivery
  RSS           the hub's resident memory at the end of the row

More in flight than limits.lag_bytes_max of the hub holds (128 KiB unless
configured: some 600 messages of 100 bytes) end the subscribers as slow.")]
pub(crate) struct FanoutArgs {
    /// Publishers, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..PUBLISHERS_MAX as i64))]
    publishers: u16,
    /// Subscribers; a list is measured one after the other
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "50", value_parser = parse_count)]
    subscribers: Vec<usize>,
    /// Messages in flight of each publisher; a list is measured one after the other
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,64", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    in_flight: Vec<u64>,
    /// How long each row is measured: 500ms, 5s, 1m
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    /// Measure so many messages of each publisher instead of a time
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// What goes before each row and is not measured
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = parse_duration)]
    warmup: Duration,
    #[command(flatten)]
    crew: CrewArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// One measurement.
#[derive(Clone, Debug)]
struct Row {
    subscribers: usize,
    connections: usize,
    in_flight: u64,
    deliveries: u64,
    took: Duration,
    cost: Cost,
    per_second: Vec<u64>,
    /// It was stopped before its end.
    is_partial: bool,
}

/// Measures it.
///
/// # Errors
/// When the hub is not there or refuses, and when a message was lost, doubled or altered.
pub(crate) async fn run(args: FanoutArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut run = Run::start(&args.common, output).await?;
    let (mut rows, mut stop) = (Vec::new(), None);
    for subscribers in &args.subscribers {
        let plan = Plan {
            publishers: args.publishers,
            subscribers: *subscribers,
            stalled: 0,
            overflow: v1::Overflow::Disconnect,
        };
        stop = match run.open(&args.crew, plan).await? {
            Ok(mut crew) => {
                let measured = measure_all(&mut run, &mut crew, &args, *subscribers, &mut rows).await;
                crew.leave().await;
                measured?
            }
            Err(stop) => Some(stop),
        };
        if stop.is_some() {
            break;
        }
    }
    tell(&run.head("fanout", stop.as_ref()).await, &args, &rows, run.output)?;
    run.end(stop.as_ref())
}

/// One row for each number in flight, until something stops it.
async fn measure_all(
    run: &mut Run<'_>,
    crew: &mut Crew,
    args: &FanoutArgs,
    subscribers: usize,
    rows: &mut Vec<Row>,
) -> Result<Option<Stop>, Failure> {
    for in_flight in &args.in_flight {
        let warm = Until::Time(Instant::now() + args.warmup);
        let what = format!("{subscribers} subscribers, {in_flight} in flight");
        let line = || format!("{what}: warming up");
        match run.watch(publish(crew, *in_flight, warm), line).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Ok(Some(faulty(crew, error))),
            None => return Ok(Some(Stop::Interrupted)),
        }
        let clocks = run.clocks().await?;
        let begun = Instant::now();
        crew.arrivals.begin(begun);
        let until = args.messages.map_or(Until::Time(begun + args.duration), Until::Count);
        let expected = args.messages.map(|messages| {
            messages * u64::from(args.publishers) * u64::try_from(subscribers).unwrap_or(u64::MAX)
        });
        let arrivals = Rc::clone(&crew.arrivals);
        let line = || {
            let (elapsed, delivered) = (begun.elapsed(), arrivals.delivered());
            let bar = match expected {
                Some(expected) => bar(delivered, expected),
                None => time_bar(elapsed, args.duration),
            };
            format!("{what}: {bar} {}/s", number(rate(delivered, elapsed)))
        };
        let published = run.watch(publish(crew, *in_flight, until), line).await;
        let took = begun.elapsed();
        let cost = run.cost(&clocks).await?;
        let stop = match published {
            Some(Ok(())) => None,
            Some(Err(error)) => return Ok(Some(faulty(crew, error))),
            None => Some(Stop::Interrupted),
        };
        let row = Row {
            subscribers,
            connections: crew.connections(),
            in_flight: *in_flight,
            deliveries: crew.arrivals.delivered(),
            took,
            cost,
            per_second: crew.arrivals.per_second(),
            is_partial: stop.is_some(),
        };
        rows.push(row);
        if stop.is_some() {
            return Ok(stop);
        }
    }
    Ok(None)
}

/// All publishers at once.
async fn publish(crew: &mut Crew, in_flight: u64, until: Until) -> Result<(), LoadError> {
    let arrivals = &crew.arrivals;
    let loops = crew.publishers.iter_mut().map(|publisher| publisher.closed(in_flight, until, arrivals));
    try_join_all(loops).await.map(|_| ())
}

fn rate(number: u64, took: Duration) -> f64 {
    number as f64 / took.as_secs_f64().max(1e-9)
}

fn tell(head: &Value, args: &FanoutArgs, rows: &[Row], output: &mut Output) -> Result<(), Failure> {
    let size = args.crew.size;
    if output.json {
        let rows: Vec<Value> = rows.iter().map(|row| row_json(row, size)).collect();
        let more = json!({ "publishers": args.publishers, "size_bytes": size, "rows": rows });
        output.json(&with(head.clone(), more))?;
    } else if !rows.is_empty() {
        let what =
            format!("{}, {size}-byte messages, {} a row", count(args.publishers, "publisher"), bound(args));
        output.line(&what)?;
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row_cells(row, size)).collect();
        output.table(&table(
            &[
                "SUBSCRIBERS",
                "CONNECTIONS",
                "IN FLIGHT",
                "DELIVERIES/S",
                "MB/S",
                "SERVER us",
                "LOAD us",
                "RSS",
            ],
            &cells,
        ))?;
    }
    let series = rows.iter().map(|row| {
        Series::per_second(
            &format!("{} x {}", row.subscribers, row.in_flight),
            whole_seconds(&row.per_second, row.took),
        )
    });
    let title = "Deliveries per second (subscribers x in flight)".to_owned();
    let chart = Chart { title, across: Across::Seconds, series: series.collect() };
    draw(&[chart], args.common.plot, args.common.svg.as_deref(), output)
}

fn bound(args: &FanoutArgs) -> String {
    match args.messages {
        Some(messages) => count(messages, "message"),
        None => show_duration(args.duration),
    }
}

fn row_cells(row: &Row, size: usize) -> Vec<String> {
    let per_second = rate(row.deliveries, row.took);
    let server = row.cost.server_cpu.and_then(|cpu| per_delivery_us(cpu, row.deliveries));
    let load = per_delivery_us(row.cost.load_cpu, row.deliveries);
    let partial = if row.is_partial { " (partial)" } else { "" };
    vec![
        row.subscribers.to_string(),
        row.connections.to_string(),
        format!("{}{partial}", row.in_flight),
        number(per_second),
        format!("{:.1}", per_second * size as f64 / 1e6),
        or_dash(server.map(|us| format!("{us:.3}"))),
        or_dash(load.map(|us| format!("{us:.3}"))),
        or_dash(row.cost.rss_bytes.map(show_bytes)),
    ]
}

fn row_json(row: &Row, size: usize) -> Value {
    let per_second = rate(row.deliveries, row.took);
    json!({
        "subscribers": row.subscribers,
        "connections": row.connections,
        "in_flight": row.in_flight,
        "partial": row.is_partial,
        "deliveries": row.deliveries,
        "seconds": row.took.as_secs_f64(),
        "deliveries_per_second": per_second,
        "megabytes_per_second": per_second * size as f64 / 1e6,
        "server_cpu_us_per_delivery": row.cost.server_cpu.and_then(|cpu| per_delivery_us(cpu, row.deliveries)),
        "load_cpu_us_per_delivery": per_delivery_us(row.cost.load_cpu, row.deliveries),
        "server_rss_bytes": row.cost.rss_bytes,
        "per_second": row.per_second,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::tests::parsed;
    use crate::cli::tests::captured;

    fn row() -> Row {
        Row {
            subscribers: 50,
            connections: 26,
            in_flight: 64,
            deliveries: 1_000_000,
            took: Duration::from_millis(2500),
            cost: Cost {
                server_cpu: Some(Duration::from_millis(500)),
                load_cpu: Duration::from_secs(1),
                rss_bytes: Some(4 << 20),
            },
            per_second: vec![400_000, 400_000, 200_000],
            is_partial: false,
        }
    }

    #[test]
    fn a_row_tells_rates_and_costs_per_delivery() {
        let (mut output, out, _) = captured(false);
        let args: FanoutArgs = parsed("fanout");
        tell(
            &json!({}),
            &args,
            &[row(), Row { is_partial: true, cost: Cost::default(), ..row() }],
            &mut output,
        )
        .unwrap();
        let text = out.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "1 publisher, 100-byte messages, 5s a row");
        let cells: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(cells, ["50", "26", "64", "400000", "40.0", "0.500", "1.000", "4", "MiB"]);
        assert!(lines[3].contains("64 (partial)") && lines[3].ends_with("0.000    -"), "{}", lines[3]);
    }

    #[test]
    fn the_document_has_units_in_its_keys() {
        let (mut output, out, _) = captured(true);
        tell(&json!({"work": "fanout"}), &parsed("fanout"), &[row()], &mut output).unwrap();
        let document: Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!((&document["work"], &document["size_bytes"]), (&json!("fanout"), &json!(100)));
        let row = &document["rows"][0];
        assert_eq!(row["server_cpu_us_per_delivery"], 0.5);
        assert_eq!(row["deliveries_per_second"], 400_000.0);
        assert_eq!((&row["server_rss_bytes"], &row["partial"]), (&json!(4 << 20), &json!(false)));
    }

    #[test]
    fn the_second_it_ended_in_is_not_drawn() {
        assert_eq!(whole_seconds(&row().per_second, row().took), [400_000, 400_000]);
    }
}
