//! `streamward drain`: stop the server as SIGTERM does.

use clap::Args;
use serde_json::json;

use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::{AdminArgs, parse_note};
use crate::cli::output::Output;
use crate::cli::text::{count, duration_of, show_duration};

/// Stop the server: refuse, deliver what was accepted, end
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward drain
  streamward drain --note 'update to 0.2'

Returns at once; a service manager that restarts the server will start it again.")]
pub(crate) struct DrainArgs {
    /// Why; noted in the server's log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = parse_note)]
    note: String,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Starts the drain.
///
/// # Errors
/// When the admin socket cannot be reached or refuses.
pub(crate) async fn run(args: DrainArgs, output: &mut Output) -> Result<Exit, Failure> {
    let started = args.admin.connect().await?.drain(&args.note).await?;
    let timeout = duration_of(started.drain_timeout);
    if output.json {
        output.json(&json!({
            "streams": started.streams,
            "sessions": started.sessions,
            "drain_timeout_s": timeout.as_secs_f64(),
        }))?;
    } else {
        output.line(&format!(
            "draining {} of {}; what is left after {} is cut",
            count(started.streams, "stream"),
            count(started.sessions, "session"),
            show_duration(timeout),
        ))?;
    }
    Ok(Exit::Ok)
}
