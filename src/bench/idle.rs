//! What a server does when nobody wants anything.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::BenchError;
use crate::procfs;
use crate::servers::{self, Kind};

/// Options of `idle-wakeups`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Servers to look at
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Kind::Streamward, Kind::Mosquitto, Kind::NatsServer])]
    servers: Vec<Kind>,
    /// How long to look, seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The streamward program
    #[arg(long, default_value = env!("CARGO_BIN_EXE_streamward"))]
    server: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

struct Idle {
    kind: Kind,
    wakeups: f64,
    preemptions: f64,
    cpu_us: f64,
    rss_kib: u64,
    threads: u64,
}

/// Looks at each server in turn and prints what was seen.
pub(crate) async fn run(
    options: Options,
    out: &mut dyn Write,
    log: &mut dyn Write,
) -> Result<(), BenchError> {
    let mut seen = Vec::new();
    for kind in &options.servers {
        let looked = match servers::find(*kind, &options.server) {
            Some(program) => look(*kind, &program, &options).await,
            None => Err("not here".into()),
        };
        match looked {
            Ok(idle) => seen.push(idle),
            Err(error) => writeln!(log, "{}: skipped: {error}", kind.name())?,
        }
    }
    if options.json {
        let servers = seen.iter().map(|idle| {
            json!({
                "server": idle.kind.name(), "wakeups_per_second": idle.wakeups, "preemptions_per_second": idle.preemptions,
                "cpu_us_per_second": idle.cpu_us, "rss_kib": idle.rss_kib, "threads": idle.threads,
            })
        });
        writeln!(out, "{}", json!({ "benchmark": "idle-wakeups", "servers": servers.collect::<Vec<_>>() }))?;
        return Ok(());
    }
    writeln!(out, "\nIdle servers, per second over {} s", options.seconds)?;
    writeln!(
        out,
        "{:<12} {:>9}  {:>11}  {:>8}  {:>8}  {:>8}",
        "server", "wake-ups", "preemptions", "CPU µs", "RSS KiB", "threads"
    )?;
    for idle in seen {
        let Idle { kind, wakeups, preemptions, cpu_us, rss_kib, threads } = idle;
        let name = kind.name();
        writeln!(
            out,
            "{name:<12} {wakeups:>9.1}  {preemptions:>11.1}  {cpu_us:>8.0}  {rss_kib:>8}  {threads:>8}"
        )?;
    }
    Ok(())
}

async fn look(kind: Kind, program: &std::path::Path, options: &Options) -> Result<Idle, BenchError> {
    let server = servers::start(kind, program, options.server_core).await?;
    let pid = server.pid();
    sleep(Duration::from_secs(2)).await; // what belongs to starting is over
    let (wakeups, preemptions) = switches(pid)?;
    let cpu = procfs::cpu_ns(pid)?;
    let started = Instant::now();
    sleep(Duration::from_secs(options.seconds.max(1))).await;
    let (wakeups_after, preemptions_after) = switches(pid)?;
    let (cpu_after, held) = (procfs::cpu_ns(pid)?, procfs::held(pid)?);
    let seconds = started.elapsed().as_secs_f64();
    servers::stop(server).await?;
    let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    Ok(Idle {
        kind,
        wakeups: per_second(wakeups, wakeups_after),
        preemptions: per_second(preemptions, preemptions_after),
        cpu_us: per_second(cpu, cpu_after) / 1e3,
        rss_kib: held.rss / 1024,
        threads: held.threads,
    })
}

/// Context switches of all threads so far: the voluntary ones are wake-ups.
fn switches(pid: u32) -> Result<(u64, u64), BenchError> {
    let (mut voluntary, mut involuntary) = (0, 0);
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        if let Ok(text) = fs::read_to_string(task?.path().join("status")) {
            voluntary += procfs::status_number(&text, "voluntary_ctxt_switches")?;
            involuntary += procfs::status_number(&text, "nonvoluntary_ctxt_switches")?;
        }
    }
    Ok((voluntary, involuntary))
}
