//! `streamward completions`: the shell's tab key.

use clap::Args;
use clap_complete::{Shell, generate};

use crate::cli::command;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// Print a completion script for a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward completions bash | sudo tee /etc/bash_completion.d/streamward
  streamward completions fish > ~/.config/fish/completions/streamward.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// When writing fails.
pub(crate) fn run(args: &CompletionsArgs, output: &mut Output) -> Result<Exit, Failure> {
    // Into memory first: the generator panics when its writer fails, as into a closed pipe.
    let mut script = Vec::new();
    generate(args.shell, &mut command(), "streamward", &mut script);
    output.raw(&script)?;
    Ok(Exit::Ok)
}
