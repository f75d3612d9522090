//! `streamward pipe`: a file of named tasks, run as one supervised service.

mod file;
mod plan;
mod service;

use std::path::PathBuf;

use clap::Args;

use crate::cli::block_on;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::pipe::file::{Mistakes, PipeFile};
use crate::cli::text::count;

/// Run the tasks of a file: each follows topics and feeds a command, a file or stdout
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward pipe pipes.toml
  streamward pipe --check pipes.toml   every mistake at once, with its line
  kill -HUP PID                        read the file again

A file:
  [hub]                       # all of it may be left out
  server = \"127.0.0.1:50051\"
  user = \"pi\"
  client_name = \"pipes\"

  [task.doorbell]
  topics = [\"room/door\"]      # needed
  exec = \"aplay ding.wav\"     # this, or output; runs as with tail --exec

  [task.log]
  topics = [\"room/a\", \"room/b\"]
  output = \"/var/log/rooms.jsonl\"  # or \"stdout\"; lines are appended
  format = \"json\"             # or \"text\"
  since = \"all\"               # or \"now\"
  until = \"^the end$\"         # ends after the first payload that matches
  for = \"10m\"                 # ends after this long
  retries = 5                 # ends after so many failures in a row
  skip = true                 # falling behind: skip to the newest event
  group = \"evening\"           # ends with the first of its group that ends

Every task comes back by itself. After SIGHUP tasks that changed start again
where they were, removed ones end, others notice nothing; a file with mistakes
changes nothing. SIGTERM lets commands finish their event, a second one cuts.
systemd hears READY, RELOADING and STOPPING.

Exit codes: 0 all tasks ended well, or stopped; 75 a command had to be killed;
78 the file has mistakes; if all tasks ended and some by an error, the code of
the last error, as tail has it.")]
pub(crate) struct PipeArgs {
    /// The TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only check the file
    #[arg(long)]
    check: bool,
}

impl PipeArgs {
    fn load(&self) -> Result<PipeFile, Mistakes> {
        file::load(&self.file)
    }
}

/// Runs the tasks until all have ended, or a signal.
///
/// # Errors
/// When the file has mistakes, or the last task has ended and one of them by an error.
pub(crate) fn run(args: &PipeArgs, output: &mut Output) -> Result<Exit, Failure> {
    let loaded = args.load();
    let loaded = loaded
        .map_err(|mistakes| Failure::told(Exit::Config, format!("the file has mistakes:\n{mistakes}")))?;
    if args.check {
        output.line(&format!("the file is good: {}", count(loaded.tasks.len() as u64, "task")))?;
        return Ok(Exit::Ok);
    }
    block_on(service::run(loaded, &|| args.load(), output))
}
