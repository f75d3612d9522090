//! Endurance of a real server, run by hand: `scripts/soak --help`.
//!
//! Unlike the benchmarks this judges: every rule ends in PASS or FAIL, and the exit code says whether all held.

mod crowd;
mod dice;
mod ledger;
mod peer;
#[path = "../procfs.rs"]
mod procfs;
mod reader;
mod rounds;
mod samples;
mod server;
mod storm;
mod verdict;
mod wire;

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::runtime;
use tokio::task::LocalSet;

/// Any failure of the tool itself; its text says what went wrong.
type SoakError = Box<dyn Error>;

#[derive(Parser)]
#[command(name = "soak", bin_name = "scripts/soak", about = "Endurance tests of a streamward server")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Passed by cargo
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Many clients' whole lives, some cut short at any byte: nothing may be left, and nothing may grow
    ///
    /// Each round connects, logs in, follows a topic, publishes to it, hears it and logs out; or is cut, cancelled,
    /// half-closed, taken over or left without a logout on the way. The same seed makes the same rounds.
    Rounds(rounds::Options),
    /// More clients than memory: the server lives, keeps its budget, and those who read lose nothing
    ///
    /// A third of the clients never read, a third follow topics and check what they get, a third publish as fast as
    /// receipts come. All of them keep trying to come in, and come back when the server tells them to.
    Storm(storm::Options),
}

fn main() -> Result<ExitCode, SoakError> {
    let arguments = Arguments::parse();
    let Some(command) = arguments.command else {
        // Also how `cargo test --all-targets` calls it.
        writeln!(io::stdout(), "{}", Arguments::command().render_help())?;
        return Ok(ExitCode::SUCCESS);
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut out, mut log) = (io::stdout(), io::stderr());
    let held = LocalSet::new().block_on(&runtime, async {
        match command {
            Command::Rounds(options) => rounds::run(options, &mut out, &mut log).await,
            Command::Storm(options) => storm::run(options, &mut out, &mut log).await,
        }
    })?;
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
