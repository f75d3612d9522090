//! One client publishes and waits for the answer, again and again.

use std::io;
use std::time::Duration;

use streamward::load::message::{TOPIC, payload};
use streamward::load::session::{Session, dial};
use streamward::wire::v1::{PublishRequest, PublishResponse};
use tokio::time::Instant;

use crate::kind::Kind;
use crate::report::{CPU_US, LOAD_US, Outcome, Sample, WALL_US};
use crate::room::{self, Clocks, Took};
use crate::servers::{self, Program};
use crate::{BenchError, Common};

const SERVERS: [Kind; 4] = [Kind::Streamward, Kind::PlainTonic, Kind::GrpcJs, Kind::Grpcio];
const UNARY: &str = "unary";
const CONNECT: &str = "over Connect";
/// Round trips between two looks at the clock.
const BATCH: u64 = 100;

/// Options of `round-trip`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Payload, bytes (at least 8)
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// How long to publish, each way
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// Runs all rounds.
pub(crate) async fn run(options: &Options, common: &Common) -> Result<Outcome, BenchError> {
    let what =
        format!("Publish and its answer, one after the other, {}-byte payloads", options.payload_bytes);
    let mut outcome = Outcome::new("round-trip", what, &[&CPU_US, &WALL_US], Box::new(io::stderr()));
    for round in 0..common.rounds(5) {
        for case in [UNARY, CONNECT] {
            for program in common.programs(&SERVERS) {
                let took = if case == UNARY {
                    unary(&program, options, common).await
                } else {
                    over_connect(&program, options, common).await
                };
                match took {
                    Ok(took) => outcome.push(sample(case, program.kind, round, took))?,
                    Err(error) => outcome.void(program.kind, round, &error)?,
                }
            }
        }
    }
    Ok(outcome)
}

fn sample(case: &str, server: Kind, round: usize, took: Took) -> Sample {
    let each = |ns: u64| ns as f64 / took.count as f64 / 1e3;
    let numbers =
        vec![(&CPU_US, each(took.server_ns)), (&WALL_US, each(took.wall_ns)), (&LOAD_US, each(took.load_ns))];
    Sample { case: case.to_owned(), server, round, numbers }
}

async fn unary(program: &Program, options: &Options, common: &Common) -> Result<Took, BenchError> {
    let server = servers::start(program, common).await?;
    let authority = server.addr.to_string();
    let mut session = Session::log_in(dial(server.addr).await?, &authority, "publisher", "").await?;
    let publish = PublishRequest {
        topic: TOPIC.to_owned(),
        payload: payload(0, options.payload_bytes).into(),
        ..Default::default()
    };
    let mut took = Took { count: 0, server_ns: 0, load_ns: 0, wall_ns: 0 };
    for is_warm in [false, true] {
        let (clocks, mut count) = (Clocks::of(&server)?, 0);
        while clocks.started.elapsed() < span(options, is_warm) {
            for _ in 0..BATCH {
                let _: PublishResponse = session.unary("MessageService/Publish", &publish).await?;
            }
            count += BATCH;
        }
        took = clocks.took(count)?;
    }
    servers::stop(server).await?;
    Ok(took)
}

async fn over_connect(program: &Program, options: &Options, common: &Common) -> Result<Took, BenchError> {
    let mut room = room::open(program, 0, options.payload_bytes, common).await?;
    let mut took = Took { count: 0, server_ns: 0, load_ns: 0, wall_ns: 0 };
    for is_warm in [false, true] {
        let started = Instant::now();
        took = Took { count: 0, server_ns: 0, load_ns: 0, wall_ns: 0 };
        while started.elapsed() < span(options, is_warm) {
            let more = room::closed_loop(&mut room, BATCH, 1).await?;
            took.count += more.count;
            took.server_ns += more.server_ns;
            took.load_ns += more.load_ns;
            took.wall_ns += more.wall_ns;
        }
    }
    room::close(room).await?;
    Ok(took)
}

/// A quarter of the time is for warming up.
fn span(options: &Options, is_warm: bool) -> Duration {
    let whole = Duration::from_secs(options.seconds);
    if is_warm { whole } else { whole / 4 }
}
