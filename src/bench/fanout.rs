//! Server CPU per delivered message.

use std::io::{self, Write as _};

use streamward::load::message::NUMBER_BYTES;

use crate::kind::Kind;
use crate::report::{CPU_US, LOAD_US, Outcome, PER_SECOND, Sample};
use crate::room::{self, Room, Took};
use crate::{BenchError, Common};

/// Server CPU of the trial runs that say how many messages a measurement takes.
const TRIAL_NS: u64 = 100_000_000;
/// Longest wall time of one measurement, as far as the trial can tell.
const WALL_NS_MAX: u64 = 20_000_000_000;

/// Options of `fanout`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Messages in flight
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 1024])]
    windows: Vec<u64>,
    /// Subscribers, each with a connection of its own
    #[arg(long, value_delimiter = ',', default_values_t = [50, 200])]
    subscribers: Vec<usize>,
    /// Payload, bytes (at least 8)
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// Server CPU per measurement, milliseconds
    #[arg(long, default_value_t = 1000)]
    cpu_ms: u64,
}

/// Runs all rounds.
pub(crate) async fn run(options: &Options, common: &Common) -> Result<Outcome, BenchError> {
    let Options { windows, subscribers, payload_bytes, .. } = options;
    if *payload_bytes < NUMBER_BYTES || subscribers.contains(&0) || windows.contains(&0) {
        return Err("a payload has at least 8 bytes; subscribers and windows are at least 1".into());
    }
    let what = format!("Server CPU per delivered message, {payload_bytes}-byte payloads");
    let mut outcome = Outcome::new("fanout", what, &[&CPU_US], Box::new(io::stderr()));
    let programs = common.programs(&Kind::ALL);
    for round in 0..common.rounds(5) {
        for count in subscribers {
            let mut rooms = Vec::new();
            for program in &programs {
                match room::open(program, *count, *payload_bytes, common).await {
                    Ok(room) => rooms.push(room),
                    Err(error) => outcome.void(program.kind, round, &error)?,
                }
            }
            for window in windows {
                for room in &mut rooms {
                    let kind = room.server.kind;
                    match measure(room, *window, options.cpu_ms).await {
                        Ok(took) => outcome.push(sample(kind, round, *count, *window, took))?,
                        Err(error) => outcome.void(kind, round, &error)?,
                    }
                }
            }
            for room in rooms {
                let kind = room.server.kind;
                if let Err(error) = room::close(room).await {
                    writeln!(io::stderr(), "{}: {error}", kind.name())?;
                }
            }
        }
    }
    Ok(outcome)
}

fn sample(server: Kind, round: usize, subscribers: usize, window: u64, took: Took) -> Sample {
    let deliveries = took.count as f64 * subscribers as f64;
    let numbers = vec![
        (&CPU_US, took.server_ns as f64 / deliveries / 1e3),
        (&LOAD_US, took.load_ns as f64 / deliveries / 1e3),
        (&PER_SECOND, deliveries / took.wall_ns as f64 * 1e9),
    ];
    Sample { case: format!("{subscribers} subscribers, {window} in flight"), server, round, numbers }
}

/// Publishes as many messages as the wanted CPU time takes.
pub(crate) async fn measure(room: &mut Room, window: u64, cpu_ms: u64) -> Result<Took, BenchError> {
    let wanted_ns = cpu_ms * 1_000_000;
    let mut count = window.max(64);
    let trial = loop {
        let took = room::closed_loop(room, count, window).await?;
        if took.server_ns >= TRIAL_NS || took.wall_ns >= WALL_NS_MAX / 10 {
            break took;
        }
        count *= 2;
    };
    // A slow server has been measured by now.
    if trial.server_ns >= wanted_ns {
        return Ok(trial);
    }
    let by_cpu = scaled(count, wanted_ns, trial.server_ns)?;
    let count = by_cpu.min(scaled(count, WALL_NS_MAX, trial.wall_ns)?).max(window);
    room::closed_loop(room, count, window).await
}

/// `count * wanted / measured`, at least 1.
fn scaled(count: u64, wanted: u64, measured: u64) -> Result<u64, BenchError> {
    let scaled = u128::from(count) * u128::from(wanted) / u128::from(measured.max(1));
    Ok(u64::try_from(scaled)?.max(1))
}
