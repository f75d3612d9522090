//! `streamward bench fanout`.

use clap::Args;

use crate::cli::bench::common::CommonArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// What a delivery costs: publishers to subscribers, some messages in flight
#[derive(Args, Debug)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Measures it.
///
/// # Errors
/// Always, for now.
pub(crate) async fn run(_: FanoutArgs, _: &mut Output) -> Result<Exit, Failure> {
    Err(Failure::told(Exit::Internal, "bench fanout is not there yet."))
}
