//! `streamward bench slow`.

use clap::Args;

use crate::cli::bench::common::CommonArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// What stalled readers cost the others
#[derive(Args, Debug)]
pub(crate) struct SlowArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Measures it.
///
/// # Errors
/// Always, for now.
pub(crate) async fn run(_: SlowArgs, _: &mut Output) -> Result<Exit, Failure> {
    Err(Failure::told(Exit::Internal, "bench slow is not there yet."))
}
