//! `streamward ended`: what ended, why, and who asked for it.

use clap::Args;
use serde_json::json;

use crate::base::limits::ENDED_KEPT_MAX;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::AdminArgs;
use crate::cli::output::Output;
use crate::cli::records::{ended_json, reason_name};
use crate::cli::text::{show_bytes, show_time, table};
use crate::wire::v1;

/// List the sessions and streams that ended, newest first
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward ended
  streamward ended --max 5
  streamward ended --json | jq -r '.ended[].reason' | sort | uniq -c

The hub keeps the last 512 streams and sessions that ended.")]
pub(crate) struct EndedArgs {
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 2 * ENDED_KEPT_MAX, hide_default_value = true)]
    max: usize,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Lists them.
///
/// # Errors
/// When the admin socket cannot be reached or refuses.
pub(crate) async fn run(args: EndedArgs, output: &mut Output) -> Result<Exit, Failure> {
    let ended = args.admin.connect().await?.ended(args.max).await?;
    if output.json {
        output.json(&json!({"ended": ended.iter().map(ended_json).collect::<Vec<_>>()}))?;
        return Ok(Exit::Ok);
    }
    if ended.is_empty() {
        output.notice("nothing has ended yet");
        return Ok(Exit::Ok);
    }
    let header =
        ["WHEN", "WHAT", "USER", "CLIENT", "REASON", "ASKED BY", "EVENTS", "LAST", "LAG LEFT", "NOTE"];
    output.table(&table(&header, &ended.iter().map(row).collect::<Vec<_>>()))?;
    Ok(Exit::Ok)
}

fn row(ended: &v1::Ended) -> Vec<String> {
    vec![
        show_time(ended.ended_at.as_ref()),
        ended.id.clone(),
        ended.user.clone(),
        ended.client_name.clone(),
        reason_name(ended.reason).unwrap_or_default(),
        ended.asked_by.clone(),
        ended.events_delivered.to_string(),
        if ended.last_sequence == 0 { String::new() } else { format!("#{}", ended.last_sequence) },
        show_bytes(ended.lag_bytes_left),
        ended.note.clone(),
    ]
}
