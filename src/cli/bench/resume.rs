//! `streamward bench resume`.

use clap::Args;

use crate::cli::bench::common::CommonArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// How long a crowd takes to come back
#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Measures it.
///
/// # Errors
/// Always, for now.
pub(crate) async fn run(_: ResumeArgs, _: &mut Output) -> Result<Exit, Failure> {
    Err(Failure::told(Exit::Internal, "bench resume is not there yet."))
}
