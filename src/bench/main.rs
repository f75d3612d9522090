//! Benchmarks against real servers, run by hand: `cargo bench --bench fanout -- --help`.
//!
//! The server runs on one core and the load in this process on another; what counts is the server's CPU time.

mod fanout;
mod idle;
mod lines;
mod memory;
mod mqtt;
mod nats;
mod procfs;
mod report;
mod servers;

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::runtime;
use tokio::task::LocalSet;

/// Any failure of a benchmark; its text says what went wrong.
pub(crate) type BenchError = Box<dyn Error>;

const LONG_ABOUT: &str = "\
Measures a streamward server and, beside it, mosquitto and nats-server where they are installed.

Needs Linux, taskset and two cores: servers run on --server-core, the load in this process on --load-core. \
Compare numbers of one run only; the rounds take turns among the servers, so that a noisy machine is noisy for all. \
Every subscriber checks the content, count and order of what it receives; a measurement that fails this is void.";

#[derive(Parser)]
#[command(name = "fanout", bin_name = "cargo bench --bench fanout --", about = "Benchmarks of streamward", long_about = LONG_ABOUT)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Passed by cargo
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Server CPU per delivered message: one publisher, many subscribers, some messages in flight
    ///
    /// A message is in flight until every subscriber has it. Columns: the server's CPU time per delivery (median, lowest and
    /// highest of the rounds), deliveries per second, the load's own CPU per delivery, and the ratio of the server's CPU to
    /// each peer's (median of the ratios within the rounds).
    /// Marks: alone in flight at most 1.00 of both peers; more in flight at most 0.40 of nats-server.
    Fanout(fanout::Options),
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
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut out, mut log) = (io::stdout(), io::stderr());
    let content = LocalSet::new().block_on(&runtime, async {
        match command {
            Command::Fanout(options) => fanout::run(options, &mut out, &mut log).await,
            Command::Memory(options) => memory::run(options, &mut out, &mut log).await.map(|()| true),
            Command::IdleWakeups(options) => idle::run(options, &mut out, &mut log).await.map(|()| true),
        }
    })?;
    Ok(if content { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
