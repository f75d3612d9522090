//! `streamward bench latency`.

use clap::Args;

use crate::cli::bench::common::CommonArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// How late deliveries are at a fixed rate
#[derive(Args, Debug)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Measures it.
///
/// # Errors
/// Always, for now.
pub(crate) async fn run(_: LatencyArgs, _: &mut Output) -> Result<Exit, Failure> {
    Err(Failure::told(Exit::Internal, "bench latency is not there yet."))
}
