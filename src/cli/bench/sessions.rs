//! `streamward bench sessions`.

use clap::Args;

use crate::cli::bench::common::CommonArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// Logins, streams and logouts per second
#[derive(Args, Debug)]
pub(crate) struct SessionsArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Measures it.
///
/// # Errors
/// Always, for now.
pub(crate) async fn run(_: SessionsArgs, _: &mut Output) -> Result<Exit, Failure> {
    Err(Failure::told(Exit::Internal, "bench sessions is not there yet."))
}
