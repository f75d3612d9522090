//! Benchmarks beside other servers: `scripts/bench-peers`, or by hand `cargo bench --bench peers -- --help`.
//!
//! The server runs on one core and the load in this process on another; what counts is the server's CPU time.

mod all;
mod fanout;
mod follower;
mod http2;
mod idle;
mod kind;
mod latency;
mod lines;
mod machine;
mod marks;
mod memory;
mod mqtt;
mod nats;
mod procfs;
mod report;
mod room;
mod round_trip;
mod servers;
mod stalled;
mod start;
mod turns;

use std::error::Error;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::{env, fs};

use clap::{CommandFactory as _, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime;
use tokio::task::{JoinSet, LocalSet, yield_now};

use crate::kind::Kind;
use crate::report::Outcome;
use crate::servers::Program;

/// Any failure of a benchmark; its text says what went wrong.
pub(crate) type BenchError = Box<dyn Error>;

const LONG_ABOUT: &str = "\
Measures a streamward server and, beside it, other servers: nats-server and mosquitto where they are installed, and gRPC \
servers written by hand (src/bench/peers), which scripts/bench-peers builds and gives their packages.

Needs Linux, taskset and two cores: servers run on --server-core, the load in this process on --load-core. \
Compare numbers of one run only; the rounds take turns among the servers, so that a noisy machine is noisy for all. \
Every subscriber checks the content, count and order of what it receives; a measurement that fails this is void.";

#[derive(Parser)]
#[command(name = "peers", bin_name = "cargo bench --bench peers --", about = "Benchmarks of streamward and of other servers", long_about = LONG_ABOUT)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
    /// Passed by cargo
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

/// What every work takes.
#[derive(clap::Args, Clone)]
pub(crate) struct Common {
    /// Servers to measure, in this order (default: all that the work is for)
    #[arg(long, global = true, value_delimiter = ',', value_enum)]
    servers: Vec<Kind>,
    /// Rounds; every server is measured once per round (default: the work's own)
    #[arg(long, global = true)]
    rounds: Option<usize>,
    /// Core of the servers
    #[arg(long, global = true, default_value_t = 0)]
    pub(crate) server_core: usize,
    /// Core of the load
    #[arg(long, global = true, default_value_t = 1)]
    load_core: usize,
    /// Let the load poll without ever sleeping: the server then pays no wake-ups of the load's core
    #[arg(long, global = true)]
    busy_poll: bool,
    /// Fail when a measurement is void, or a mark is missed or could not be looked at
    #[arg(long, global = true)]
    check: bool,
    /// The streamward program
    #[arg(long, global = true, default_value = env!("CARGO_BIN_EXE_streamward"))]
    pub(crate) server: PathBuf,
    /// Where the hand-written servers and their packages are (default: the target directory)
    #[arg(long, global = true, default_value_os_t = target_directory())]
    pub(crate) peers: PathBuf,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Write the tables as Markdown to this file, too
    #[arg(long, global = true)]
    markdown: Option<PathBuf>,
}

impl Common {
    /// The servers asked for, of those that the work is for and that are here.
    pub(crate) fn programs(&self, of: &[Kind]) -> Vec<Program> {
        let wanted = if self.servers.is_empty() { of } else { &self.servers };
        let of_both = wanted.iter().filter(|kind| of.contains(kind));
        of_both.filter_map(|kind| servers::find(*kind, self)).collect()
    }

    /// Rounds, unless told otherwise.
    pub(crate) fn rounds(&self, default: usize) -> usize {
        self.rounds.unwrap_or(default)
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Every work below, one after the other
    All(all::Options),
    /// Server CPU per delivered message: one publisher, many subscribers, some messages in flight
    ///
    /// A message is in flight until every subscriber has it.
    Fanout(fanout::Options),
    /// How late deliveries come at a fixed rate, from the moment each was due
    ///
    /// The rate is half of what the slower peer can do, which is measured first. The load never sleeps.
    Latency(latency::Options),
    /// One client publishes and waits for the answer, again and again
    RoundTrip(round_trip::Options),
    /// How late deliveries come while one of the readers has stopped reading
    Stalled(stalled::Options),
    /// From exec to the first subscribed client; memory after it; size of the program
    Start(start::Options),
    /// Resident memory: before, with thousands of open streams, and after they left
    Memory(memory::Options),
    /// Context switches and CPU of servers without clients
    IdleWakeups(idle::Options),
}

fn main() -> Result<ExitCode, BenchError> {
    let arguments = Arguments::parse();
    let Some(command) = arguments.command else {
        // Also how `cargo test --all-targets` calls it.
        writeln!(io::stdout(), "{}", Arguments::command().render_help())?;
        return Ok(ExitCode::SUCCESS);
    };
    let common = arguments.common;
    pin_load(common.load_core)?;
    // Thousands of sockets here, and as many in a server, which inherits this.
    let descriptors = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, ..descriptors })?;
    for kind in Kind::ALL.iter().filter(|kind| common.servers.is_empty() || common.servers.contains(kind)) {
        if servers::find(*kind, &common).is_none() {
            writeln!(io::stderr(), "{}: not here, left out", kind.name())?;
        }
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let outcomes = LocalSet::new().block_on(&runtime, async {
        let mut busy = JoinSet::new();
        if common.busy_poll {
            busy.spawn_local(poll_for_ever());
        }
        if let Command::All(options) = &command {
            return all::run(options, &common).await;
        }
        Ok(vec![measure(command, &common).await?])
    })?;
    let machine = machine::look(&common);
    if let Some(file) = &common.markdown {
        fs::write(file, report::markdown(&outcomes, &machine.sentence()))?;
    }
    let mut out = io::stdout();
    if common.json {
        writeln!(out, "{}", report::json(&outcomes, machine.json()))?;
    } else {
        write!(out, "{}", report::text(&outcomes, &machine.sentence()))?;
    }
    let content = !common.check || outcomes.iter().all(Outcome::is_content);
    Ok(if content { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does one work.
pub(crate) async fn measure(command: Command, common: &Common) -> Result<Outcome, BenchError> {
    match command {
        Command::All(_) => Err("all is not one work".into()),
        Command::Fanout(options) => fanout::run(&options, common).await,
        Command::Latency(options) => latency::run(&options, common).await,
        Command::RoundTrip(options) => round_trip::run(&options, common).await,
        Command::Stalled(options) => stalled::run(&options, common).await,
        Command::Start(options) => start::run(&options, common).await,
        Command::Memory(options) => memory::run(&options, common).await,
        Command::IdleWakeups(options) => idle::run(&options, common).await,
    }
}

/// Where cargo built this.
fn target_directory() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_streamward")).ancestors().nth(2).unwrap_or(Path::new("target")).to_owned()
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
