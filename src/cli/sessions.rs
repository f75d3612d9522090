//! `streamward sessions`: who is logged in.

use clap::Args;
use serde_json::json;

use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::AdminArgs;
use crate::cli::output::Output;
use crate::cli::records::{reason_name, session_json};
use crate::cli::text::{duration_of, show_duration, show_time, table};
use crate::wire::v1;

/// List the live sessions
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward sessions
  streamward sessions --json | jq -r '.sessions[].user'")]
pub(crate) struct SessionsArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Lists them.
///
/// # Errors
/// When the admin socket cannot be reached or refuses.
pub(crate) async fn run(args: SessionsArgs, output: &mut Output) -> Result<Exit, Failure> {
    let sessions = args.admin.connect().await?.sessions().await?;
    if output.json {
        output.json(&json!({"sessions": sessions.iter().map(session_json).collect::<Vec<_>>()}))?;
        return Ok(Exit::Ok);
    }
    if sessions.is_empty() {
        output.notice("nobody is logged in");
        return Ok(Exit::Ok);
    }
    let header = ["SESSION", "USER", "CLIENT", "SINCE", "LEASE LEFT", "STREAMS", "CONNECTIONS", "ENDING"];
    output.table(&table(&header, &sessions.iter().map(row).collect::<Vec<_>>()))?;
    Ok(Exit::Ok)
}

fn row(session: &v1::SessionInfo) -> Vec<String> {
    vec![
        session.id.clone(),
        session.user.clone(),
        session.client_name.clone(),
        show_time(session.started_at.as_ref()),
        show_duration(duration_of(session.lease_left)),
        session.streams.to_string(),
        session.connection_ids.join(","),
        reason_name(session.ending).unwrap_or_default(),
    ]
}
