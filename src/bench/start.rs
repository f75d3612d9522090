//! From exec to the first subscribed client; memory after it; size of the program.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::kind::Kind;
use crate::report::{FILE_MIB, Outcome, RSS_MIB, START_MS};
use crate::servers::{self, Program};
use crate::turns::take_turns;
use crate::{BenchError, Common, procfs, room};

const MIB: f64 = 1024.0 * 1024.0;
/// Between two tries to connect.
const POLL: Duration = Duration::from_millis(1);
/// What belongs to starting is over after this.
const SETTLE: Duration = Duration::from_secs(1);

/// Options of `start`.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Runs all rounds.
pub(crate) async fn run(_: &Options, common: &Common) -> Result<Outcome, BenchError> {
    let what = "From exec to the first subscribed client, memory after it left, size of the program (of an interpreter \
                or a shared library: without what it loads)";
    let mut outcome =
        Outcome::new("start", what.to_owned(), &[&START_MS, &RSS_MIB, &FILE_MIB], Box::new(io::stderr()));
    take_turns(&mut outcome, &common.programs(&Kind::ALL), common.rounds(5), async |program: &Program| {
        look(program, common).await
    })
    .await?;
    Ok(outcome)
}

type Numbers = Vec<(&'static crate::report::Metric, f64)>;

async fn look(program: &Program, common: &Common) -> Result<Numbers, BenchError> {
    let started = Instant::now();
    let mut server = servers::launch(program, common)?;
    servers::wait_ready(&mut server, POLL).await?;
    let first = room::subscriber(&server, "first").await?;
    let start = started.elapsed();
    drop(first);
    sleep(SETTLE).await;
    let rss = procfs::held(server.pid())?.rss;
    servers::stop(server).await?;
    let file = fs::metadata(&program.path)?.len();
    Ok(vec![
        (&START_MS, start.as_secs_f64() * 1e3),
        (&RSS_MIB, rss as f64 / MIB),
        (&FILE_MIB, file as f64 / MIB),
    ])
}
