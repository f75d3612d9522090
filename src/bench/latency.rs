//! How late deliveries come at a fixed rate.

use std::io;
use std::time::Duration;

use crate::kind::Kind;
use crate::report::{Metric, Outcome, P50_US, P99_US, P999_US};
use crate::servers::Program;
use crate::turns::take_turns;
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
    let Options { subscribers, payload_bytes, .. } = options;
    let what = format!(
        "Delivery latency at {rate} messages a second to {subscribers} subscribers, {payload_bytes}-byte payloads"
    );
    let mut outcome = Outcome::new("latency", what, &[&P50_US, &P99_US, &P999_US], Box::new(io::stderr()));
    take_turns(&mut outcome, &common.programs(&SERVERS), common.rounds(5), async |program: &Program| {
        look(program, rate, options, common).await
    })
    .await?;
    Ok(outcome)
}

async fn look(
    program: &Program,
    rate: u64,
    options: &Options,
    common: &Common,
) -> Result<Vec<(&'static Metric, f64)>, BenchError> {
    let mut room = room::open(program, options.subscribers, options.payload_bytes, common).await?;
    room::open_loop(&mut room, rate, WARM_UP).await?;
    let late = room::open_loop(&mut room, rate, Duration::from_secs(options.seconds)).await?;
    room::close(room).await?;
    let numbers = [(&P50_US, 0.5), (&P99_US, 0.99), (&P999_US, 0.999)];
    Ok(numbers.map(|(metric, share)| (metric, late.quantile(share).as_secs_f64() * 1e6)).to_vec())
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
