//! How late deliveries come at a fixed rate.

use std::io;
use std::time::Duration;

use crate::kind::Kind;
use crate::report::{Outcome, P50_US, P99_US, P999_US, Sample};
use crate::{BenchError, Common, fanout, room};

const PEERS: [Kind; 2] = [Kind::NatsServer, Kind::Mosquitto];
const SERVERS: [Kind; 3] = [Kind::Streamward, Kind::NatsServer, Kind::Mosquitto];
/// In flight while the capacity is looked for: enough that the server never waits for the load.
const CAPACITY_WINDOW: u64 = 64;
const CAPACITY_CPU_MS: u64 = 500;
/// Before what counts: caches, buffers, the collector of a peer.
const WARM_UP: Duration = Duration::from_millis(500);

/// Options of `latency`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Messages per second (default: half of what the slower peer can do)
    #[arg(long)]
    rate: Option<u64>,
    /// Subscribers, each with a connection of its own
    #[arg(long, default_value_t = 200)]
    subscribers: usize,
    /// Payload, bytes (at least 8)
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// How long to publish, each time
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Runs all rounds.
pub(crate) async fn run(options: &Options, common: &Common) -> Result<Outcome, BenchError> {
    let rate = match options.rate {
        Some(rate) => rate,
        None => (capacity(options, common).await? / 2).max(1),
    };
    let Options { subscribers, payload_bytes, seconds, .. } = options;
    let what = format!(
        "Delivery latency at {rate} messages a second to {subscribers} subscribers, {payload_bytes}-byte payloads"
    );
    let mut outcome = Outcome::new("latency", what, &[&P50_US, &P99_US, &P999_US], Box::new(io::stderr()));
    for round in 0..common.rounds(5) {
        for program in common.programs(&SERVERS) {
            let late = async {
                let mut room = room::open(&program, *subscribers, *payload_bytes, common).await?;
                room::open_loop(&mut room, rate, WARM_UP).await?;
                let late = room::open_loop(&mut room, rate, Duration::from_secs(*seconds)).await?;
                room::close(room).await?;
                Ok(late)
            };
            match late.await {
                Ok(late) => {
                    let numbers = [(&P50_US, 0.5), (&P99_US, 0.99), (&P999_US, 0.999)];
                    let numbers = numbers
                        .map(|(metric, share)| (metric, late.quantile(share).as_secs_f64() * 1e6))
                        .to_vec();
                    outcome.push(Sample { case: String::new(), server: program.kind, round, numbers })?;
                }
                Err(error) => outcome.void(program.kind, round, &error)?,
            }
        }
    }
    Ok(outcome)
}

/// Messages a second that the slower peer delivers to everyone.
async fn capacity(options: &Options, common: &Common) -> Result<u64, BenchError> {
    let mut capacities = Vec::new();
    for program in common.programs(&PEERS) {
        let mut room = room::open(&program, options.subscribers, options.payload_bytes, common).await?;
        let took = fanout::measure(&mut room, CAPACITY_WINDOW, CAPACITY_CPU_MS).await?;
        room::close(room).await?;
        capacities.push(took.per_second());
    }
    let slower = capacities.into_iter().min();
    slower.ok_or_else(|| "no peer is here whose capacity could be the measure: give a --rate".into())
}
