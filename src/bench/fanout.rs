//! Server CPU per delivered message, against other servers in the same run.

use std::io::Write;
use std::path::PathBuf;
use std::process;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use crate::BenchError;
use crate::lines::{self, Dialect};
use crate::servers::{self, Kind, Server};
use crate::{procfs, report};
use streamward::load::client as grpc;
use streamward::load::message::{NUMBER_BYTES, Template};
use streamward::load::progress::Progress;

/// Server CPU of the trial runs that say how many messages a measurement takes.
const TRIAL_NS: u64 = 100_000_000;
/// Longest wall time of one measurement, as far as the trial can tell.
const WALL_NS_MAX: u64 = 20_000_000_000;

/// Options of `fanout`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Servers to measure, in this order
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Kind::Streamward, Kind::Mosquitto, Kind::NatsServer])]
    servers: Vec<Kind>,
    /// Rounds; every server and window is measured once per round
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages in flight
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 1024])]
    windows: Vec<u64>,
    /// Subscribers, each with a connection of its own
    #[arg(long, default_value_t = 50)]
    subscribers: usize,
    /// Payload, bytes (at least 8)
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// Server CPU per measurement, milliseconds
    #[arg(long, default_value_t = 1000)]
    cpu_ms: u64,
    /// Core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the load
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Let the load poll without ever sleeping: the server then pays no wake-ups of the load's core
    #[arg(long)]
    busy_poll: bool,
    /// Fail when a measurement is void, or a mark is missed or could not be looked at
    #[arg(long)]
    check: bool,
    /// The streamward program
    #[arg(long, default_value = env!("CARGO_BIN_EXE_streamward"))]
    server: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One measurement.
pub(crate) struct Sample {
    /// Of which server.
    pub(crate) kind: Kind,
    /// Messages in flight.
    pub(crate) window: u64,
    /// Which round, from 0.
    pub(crate) round: usize,
    /// Server CPU per delivery, nanoseconds.
    pub(crate) cpu_ns: f64,
    /// The load's CPU per delivery, nanoseconds.
    pub(crate) load_ns: f64,
    /// Deliveries per second.
    pub(crate) rate: f64,
    /// Deliveries.
    pub(crate) deliveries: u64,
}

/// A server with its subscribers and its publisher.
struct Bench {
    server: Server,
    progress: Rc<Progress>,
    publisher: Publisher,
    /// Messages published so far.
    published: u64,
    /// Whether every publish is answered.
    receipts: bool,
    followers: JoinSet<()>,
}

struct Publisher {
    template: Template,
    buffer: Vec<u8>,
    to: To,
}

enum To {
    Line(OwnedWriteHalf),
    Grpc(SendStream<Bytes>),
}

/// Runs all rounds and prints the result. Returns whether `--check` is content.
pub(crate) async fn run(
    options: Options,
    out: &mut dyn Write,
    log: &mut dyn Write,
) -> Result<bool, BenchError> {
    if options.payload_bytes < NUMBER_BYTES || options.subscribers == 0 || options.windows.contains(&0) {
        return Err("a payload has at least 8 bytes; subscribers and windows are at least 1".into());
    }
    pin_load(options.load_core)?;
    let mut busy = JoinSet::new();
    if options.busy_poll {
        busy.spawn_local(poll_for_ever());
    }
    let (mut samples, mut faults) = (Vec::new(), Vec::new());
    let mut kinds = Vec::new();
    for kind in &options.servers {
        match servers::find(*kind, &options.server) {
            Some(program) => kinds.push((*kind, program)),
            None => writeln!(log, "{}: not here, skipped", kind.name())?,
        }
    }
    for round in 0..options.rounds {
        let mut benches = Vec::new();
        for (kind, program) in &kinds {
            match open(*kind, program, &options).await {
                Ok(bench) => benches.push(bench),
                Err(error) => note(&mut faults, log, *kind, &format!("round {}: {error}", round + 1))?,
            }
        }
        for window in &options.windows {
            for bench in &mut benches {
                let kind = bench.server.kind;
                match measure(bench, *window, round, &options).await {
                    Ok(sample) => {
                        writeln!(log, "{}", report::line(&sample))?;
                        samples.push(sample);
                    }
                    Err(error) => {
                        note(
                            &mut faults,
                            log,
                            kind,
                            &format!("round {}, {window} in flight: {error}", round + 1),
                        )?;
                    }
                }
            }
        }
        for bench in benches {
            let Bench { server, followers, .. } = bench;
            drop(followers);
            let kind = server.kind;
            if let Err(error) = servers::stop(server).await {
                writeln!(log, "{}: {error}", kind.name())?;
            }
        }
    }
    let summary = report::summarize(&samples, &options.windows);
    if options.json {
        writeln!(
            out,
            "{}",
            report::json(&summary, &samples, &faults, options.subscribers, options.payload_bytes)
        )?;
    } else {
        report::table(&summary, &faults, options.subscribers, options.payload_bytes, out)?;
    }
    Ok(!options.check || (faults.is_empty() && report::marks_kept(&summary, &options.windows)))
}

fn note(faults: &mut Vec<String>, log: &mut dyn Write, kind: Kind, what: &str) -> Result<(), BenchError> {
    let fault = format!("{}: {what}", kind.name());
    writeln!(log, "VOID {fault}")?;
    faults.push(fault);
    Ok(())
}

/// Keeps this process, which has one thread, on one core.
fn pin_load(core: usize) -> Result<(), BenchError> {
    let pid = process::id().to_string();
    let output =
        process::Command::new("taskset").args(["-a", "-c", "-p", &core.to_string(), &pid]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("taskset: {}", String::from_utf8_lossy(&output.stderr)).into())
}

async fn poll_for_ever() {
    loop {
        yield_now().await;
    }
}

async fn open(kind: Kind, program: &std::path::Path, options: &Options) -> Result<Bench, BenchError> {
    let server = servers::start(kind, program, options.server_core).await?;
    let progress = Rc::new(Progress::new(options.subscribers));
    let mut followers = JoinSet::new();
    let bytes = options.payload_bytes;
    let dialect = match kind {
        Kind::Streamward => None,
        Kind::Mosquitto => Some(Dialect::Mqtt),
        Kind::NatsServer => Some(Dialect::Nats),
    };
    for index in 0..options.subscribers {
        let name = format!("subscriber-{index}");
        let progress = Rc::clone(&progress);
        if let Some(dialect) = dialect {
            let line = lines::subscriber(dialect, server.addr, &name).await?;
            followers.spawn_local(lines::follow(line, index, bytes, progress));
        } else {
            let subscriber = grpc::subscriber(server.addr, &name).await?;
            followers.spawn_local(grpc::follow(subscriber, index, bytes, progress));
        }
    }
    let (template, to) = if let Some(dialect) = dialect {
        let (write, line) = lines::publisher(dialect, server.addr, "publisher").await?;
        followers.spawn_local(lines::follow_publisher(line, Rc::clone(&progress)));
        (lines::template(dialect, bytes)?, To::Line(write))
    } else {
        let (send, receipts) = grpc::publisher(server.addr, "publisher").await?;
        followers.spawn_local(grpc::follow_publisher(receipts, Rc::clone(&progress)));
        (grpc::template(bytes)?, To::Grpc(send))
    };
    let publisher = Publisher { template, buffer: Vec::new(), to };
    Ok(Bench { server, progress, publisher, published: 0, receipts: dialect.is_none(), followers })
}

/// Publishes as many messages as the wanted CPU time takes and reads the server's clock before and after.
async fn measure(
    bench: &mut Bench,
    window: u64,
    round: usize,
    options: &Options,
) -> Result<Sample, BenchError> {
    let pid = bench.server.pid();
    let mut count = window.max(64);
    let (mut cpu, mut wall);
    loop {
        (cpu, wall) = timed(bench, pid, count, window).await?;
        if cpu >= TRIAL_NS || wall >= WALL_NS_MAX / 10 {
            break;
        }
        count *= 2;
    }
    let by_cpu = scaled(count, options.cpu_ms * 1_000_000, cpu)?;
    let count = by_cpu.min(scaled(count, WALL_NS_MAX, wall)?).max(window);
    let load_before = procfs::cpu_ns(process::id())?;
    let (cpu, wall) = timed(bench, pid, count, window).await?;
    let load = procfs::cpu_ns(process::id())? - load_before;
    let deliveries = count * u64::try_from(options.subscribers)?;
    let per_delivery = |ns: u64| ns as f64 / deliveries as f64;
    Ok(Sample {
        kind: bench.server.kind,
        window,
        round,
        cpu_ns: per_delivery(cpu),
        load_ns: per_delivery(load),
        rate: 1e9 / per_delivery(wall),
        deliveries,
    })
}

/// `count * wanted / measured`, at least 1.
fn scaled(count: u64, wanted: u64, measured: u64) -> Result<u64, BenchError> {
    let scaled = u128::from(count) * u128::from(wanted) / u128::from(measured.max(1));
    Ok(u64::try_from(scaled)?.max(1))
}

/// Publishes `count` messages; server CPU and wall time in nanoseconds until all of them are everywhere.
async fn timed(bench: &mut Bench, pid: u32, count: u64, window: u64) -> Result<(u64, u64), BenchError> {
    let cpu_before = procfs::cpu_ns(pid)?;
    let started = Instant::now();
    let end = bench.published + count;
    loop {
        let low = bench.progress.low();
        let receipts_due = bench.receipts && bench.progress.receipts_seen() < end;
        if low >= end && !receipts_due {
            break;
        }
        let next = bench.published;
        let room = window.saturating_sub(next - low).min(end - next);
        if room > 0 {
            bench.published += room;
            publish(&mut bench.publisher, next, next + room).await?;
        }
        bench.progress.changed().await?;
    }
    let wall = u64::try_from(started.elapsed().max(Duration::from_nanos(1)).as_nanos())?;
    Ok((procfs::cpu_ns(pid)? - cpu_before, wall))
}

async fn publish(publisher: &mut Publisher, from: u64, to: u64) -> Result<(), BenchError> {
    for number in from..to {
        publisher.template.append(&mut publisher.buffer, number);
    }
    match &mut publisher.to {
        To::Line(write) => {
            write.write_all(&publisher.buffer).await?;
            publisher.buffer.clear();
        }
        To::Grpc(send) => send.send_data(std::mem::take(&mut publisher.buffer).into(), false)?,
    }
    Ok(())
}
