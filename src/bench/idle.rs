//! What a server does when nobody wants anything.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::kind::Kind;
use crate::report::{IDLE_CPU_US, Metric, Outcome, RSS_MIB, THREADS, WAKEUPS};
use crate::servers::{self, Program};
use crate::turns::take_turns;
use crate::{BenchError, Common, procfs};

/// What belongs to starting is over after this.
const SETTLE: Duration = Duration::from_secs(2);

/// Options of `idle-wakeups`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long to look, seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Looks at each server in turn.
pub(crate) async fn run(options: &Options, common: &Common) -> Result<Outcome, BenchError> {
    let what = format!("Idle servers, over {} s", options.seconds);
    let mut outcome = Outcome::new("idle-wakeups", what, &[&WAKEUPS, &IDLE_CPU_US], Box::new(io::stderr()));
    take_turns(&mut outcome, &common.programs(&Kind::ALL), common.rounds(1), async |program: &Program| {
        look(program, options, common).await
    })
    .await?;
    Ok(outcome)
}

async fn look(
    program: &Program,
    options: &Options,
    common: &Common,
) -> Result<Vec<(&'static Metric, f64)>, BenchError> {
    let server = servers::start(program, common).await?;
    let pid = server.pid();
    sleep(SETTLE).await;
    let (wakeups, cpu) = (voluntary_switches(pid)?, procfs::cpu_ns(pid)?);
    let started = Instant::now();
    sleep(Duration::from_secs(options.seconds.max(1))).await;
    let (wakeups_after, cpu_after, held) =
        (voluntary_switches(pid)?, procfs::cpu_ns(pid)?, procfs::held(pid)?);
    let seconds = started.elapsed().as_secs_f64();
    servers::stop(server).await?;
    let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    Ok(vec![
        (&WAKEUPS, per_second(wakeups, wakeups_after)),
        (&IDLE_CPU_US, per_second(cpu, cpu_after) / 1e3),
        (&RSS_MIB, held.rss as f64 / 1024.0 / 1024.0),
        (&THREADS, held.threads as f64),
    ])
}

/// Context switches of all threads that wanted them so far: each is followed by a wake-up.
fn voluntary_switches(pid: u32) -> Result<u64, BenchError> {
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Ok(text) = fs::read_to_string(task?.path().join("status")) {
            switches += procfs::status_number(&text, "voluntary_ctxt_switches")?;
        }
    }
    Ok(switches)
}
