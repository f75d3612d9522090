//! How late deliveries come while one of the readers has stopped reading.

use std::io;
use std::time::Duration;

use crate::kind::Kind;
use crate::report::{Metric, Outcome, P99_BEFORE_US, P99_RATIO, P99_WITH_US};
use crate::room::{self, Room};
use crate::servers::Program;
use crate::turns::take_turns;
use crate::{BenchError, Common, fanout};

/// Published once the reader has stopped: more than the buffers of two kernels hold.
const BACKLOG_BYTES: usize = 8 * 1024 * 1024;
const BACKLOG_WINDOW: u64 = 16;
const CAPACITY_CPU_MS: u64 = 300;
const WARM_UP: Duration = Duration::from_millis(300);

/// Options of `stalled`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Messages per second, at most; a server that can do less is given half of what it can do
    #[arg(long, default_value_t = 250)]
    rate_max: u64,
    /// Subscribers, each with a connection of its own; one more is the one that stops
    #[arg(long, default_value_t = 99)]
    subscribers: usize,
    /// Payload, bytes (at least 8)
    #[arg(long, default_value_t = 4096)]
    payload_bytes: usize,
    /// How long to publish, before and with the one that stopped
    #[arg(long, default_value_t = 4)]
    seconds: u64,
}

/// Runs all rounds.
pub(crate) async fn run(options: &Options, common: &Common) -> Result<Outcome, BenchError> {
    let Options { subscribers, payload_bytes, .. } = options;
    let what = format!(
        "Delivery latency of {subscribers} readers before and after one more has stopped reading, {payload_bytes}-byte payloads"
    );
    let mut outcome =
        Outcome::new("stalled", what, &[&P99_RATIO, &P99_BEFORE_US, &P99_WITH_US], Box::new(io::stderr()));
    take_turns(&mut outcome, &common.programs(&Kind::ALL), common.rounds(5), async |program: &Program| {
        look(program, options, common).await
    })
    .await?;
    Ok(outcome)
}

/// The p99 of the readers: before one more stops, and after it.
async fn look(
    program: &Program,
    options: &Options,
    common: &Common,
) -> Result<Vec<(&'static Metric, f64)>, BenchError> {
    let mut room = room::open(program, options.subscribers, options.payload_bytes, common).await?;
    let took = fanout::measure(&mut room, BACKLOG_WINDOW, CAPACITY_CPU_MS).await?;
    let rate = (took.per_second() / 2).clamp(1, options.rate_max.max(1));
    let before = p99_us(&mut room, rate, options).await?;
    // Kept, and never read again.
    let stalled = room::subscriber(&room.server, "stalled").await?;
    let backlog = u64::try_from(BACKLOG_BYTES / options.payload_bytes.max(1))?;
    room::closed_loop(&mut room, backlog, BACKLOG_WINDOW).await?;
    let with = p99_us(&mut room, rate, options).await?;
    drop(stalled);
    room::close(room).await?;
    Ok(vec![(&P99_RATIO, with / before), (&P99_BEFORE_US, before), (&P99_WITH_US, with)])
}

async fn p99_us(room: &mut Room, rate: u64, options: &Options) -> Result<f64, BenchError> {
    room::open_loop(room, rate, WARM_UP).await?;
    let late = room::open_loop(room, rate, Duration::from_secs(options.seconds)).await?;
    Ok(late.quantile(0.99).as_secs_f64() * 1e6)
}
