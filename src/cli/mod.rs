//! The command line: what is asked for, handed to one file per command. All of it is private but [`main`] and [`command`].
//!
//! A command takes its arguments and the [`Output`], and returns an [`Exit`] or a [`Failure`]; only here is a failure
//! told and a runtime built.

mod bench;
mod cancel;
mod chat;
mod completions;
mod doctor;
mod drain;
mod ended;
mod events;
mod exec;
mod exit;
mod hub;
mod output;
mod pipe;
mod progress;
mod records;
mod send;
mod serve;
mod sessions;
mod shed;
mod sink;
mod status;
mod stdin;
mod streams;
mod supervised;
mod tail;
#[cfg(test)]
mod tests;
mod text;
mod top;
mod tree;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// Version, and between brackets the commit and the target, which tell two builds apart.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT_AND_TARGET"), ")");

/// A gRPC session and message hub: every stream has an owner, a bound and a recorded end
#[derive(Parser, Debug)]
#[command(
    name = "streamward",
    version = VERSION,
    arg_required_else_help = true,
    after_help = "\
Try it:
  streamward chat kitchen --user bob  and in another terminal --user alice
  streamward tree                     who holds what
  streamward cancel session/0.1       end one session; nobody else notices"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::ServeArgs),
    CheckConfig(serve::CheckConfigArgs),
    Send(send::SendArgs),
    Tail(tail::TailArgs),
    Chat(chat::ChatArgs),
    Pipe(pipe::PipeArgs),
    Status(status::StatusArgs),
    Tree(tree::TreeArgs),
    Top(top::TopArgs),
    Sessions(sessions::SessionsArgs),
    Streams(streams::StreamsArgs),
    Ended(ended::EndedArgs),
    Cancel(cancel::CancelArgs),
    Shed(shed::ShedArgs),
    Drain(drain::DrainArgs),
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
}

/// Runs the program: reads the command line, does what it asks, and says with the exit code how it went.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli.command).into(),
        Err(error) => {
            // Help and version are answers, not errors. A closed stdout is nobody's loss.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
        }
    }
}

/// The command line as clap describes it: what manual pages and completions are made from.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

fn run(command: Command) -> Exit {
    let mut output = Output::stdio(command.json());
    match dispatch(command, &mut output) {
        Ok(exit) => exit,
        Err(failure) => {
            if !matches!(failure, Failure::PipeClosed) {
                output.error(&failure.to_string());
            }
            failure.exit()
        }
    }
}

fn dispatch(command: Command, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        Command::Serve(args) => serve::serve(&args, output),
        Command::CheckConfig(args) => serve::check_config(&args, output),
        Command::Send(args) => block_on(send::run(args, output)),
        Command::Tail(args) => block_on(tail::run(args, output)),
        Command::Chat(args) => block_on(chat::run(args, output)),
        Command::Pipe(args) => pipe::run(&args, output),
        Command::Status(args) => block_on(status::run(args, output)),
        Command::Tree(args) => block_on(tree::run(args, output)),
        Command::Top(args) => block_on(top::run(args, output)),
        Command::Sessions(args) => block_on(sessions::run(args, output)),
        Command::Streams(args) => block_on(streams::run(args, output)),
        Command::Ended(args) => block_on(ended::run(args, output)),
        Command::Cancel(args) => block_on(cancel::run(args, output)),
        Command::Shed(args) => block_on(shed::run(args, output)),
        Command::Drain(args) => block_on(drain::run(args, output)),
        Command::Doctor(args) => doctor::run(&args, output),
        Command::Bench(args) => block_on(bench::run(args, output)),
        Command::Completions(args) => completions::run(&args, output),
    }
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Self::Send(args) => args.json,
            Self::Tail(args) => args.json,
            Self::Status(args) => args.admin.json,
            Self::Tree(args) => args.admin.json,
            Self::Sessions(args) => args.admin.json,
            Self::Streams(args) => args.admin.json,
            Self::Ended(args) => args.admin.json,
            Self::Cancel(args) => args.admin.json,
            Self::Shed(args) => args.admin.json,
            Self::Drain(args) => args.admin.json,
            Self::Doctor(args) => args.json,
            Self::Bench(args) => args.json(),
            Self::Serve(_)
            | Self::CheckConfig(_)
            | Self::Chat(_)
            | Self::Pipe(_)
            | Self::Top(_)
            | Self::Completions(_) => false,
        }
    }
}

/// Runs a client command on a runtime of one thread. In a box: the runtime's code is there once for all commands.
pub(crate) fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    run_boxed(Box::pin(command))
}

fn run_boxed(command: Pin<Box<dyn Future<Output = Result<Exit, Failure>> + '_>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // One for reading standard input, one for looking up a host's name.
        .max_blocking_threads(2)
        .build()
        .map_err(|error| Failure::told(Exit::Internal, format!("cannot start: {error}.")))?;
    let done = runtime.block_on(command);
    // A read of standard input that will never end must not keep the program.
    runtime.shutdown_background();
    done
}
