//! `streamward streams`: what every stream follows and how far behind it is.

use clap::Args;
use serde_json::json;

use crate::base::id::SessionKey;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::AdminArgs;
use crate::cli::output::Output;
use crate::cli::records::{reason_name, stream_json};
use crate::cli::text::{show_bytes, table};
use crate::wire::v1;

/// List the live streams
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward streams
  streamward streams --session session/3.17
  streamward streams --json | jq '.streams[] | select(.lag_bytes > 0)'")]
pub(crate) struct StreamsArgs {
    /// Only the streams of this session
    #[arg(long, value_name = "ID")]
    session: Option<SessionKey>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Lists them.
///
/// # Errors
/// When the admin socket cannot be reached or refuses.
pub(crate) async fn run(args: StreamsArgs, output: &mut Output) -> Result<Exit, Failure> {
    let session = args.session.map(|session| session.to_string());
    let streams = args.admin.connect().await?.streams(session.as_deref()).await?;
    if output.json {
        output.json(&json!({"streams": streams.iter().map(stream_json).collect::<Vec<_>>()}))?;
        return Ok(Exit::Ok);
    }
    if streams.is_empty() {
        output.notice("no streams");
        return Ok(Exit::Ok);
    }
    let header = [
        "STREAM",
        "SESSION",
        "USER",
        "CONNECTION",
        "PEER",
        "RPC",
        "EVENTS",
        "LAST",
        "LAG",
        "TOPICS",
        "ENDING",
    ];
    output.table(&table(&header, &streams.iter().map(row).collect::<Vec<_>>()))?;
    Ok(Exit::Ok)
}

fn row(stream: &v1::StreamInfo) -> Vec<String> {
    let topics: Vec<&str> =
        stream.subscriptions.iter().map(|subscription| subscription.topic.as_str()).collect();
    vec![
        stream.id.clone(),
        stream.session_id.clone(),
        stream.user.clone(),
        stream.connection_id.clone(),
        stream.peer.clone(),
        stream.rpc.clone(),
        stream.events_delivered.to_string(),
        if stream.last_sequence == 0 { String::new() } else { format!("#{}", stream.last_sequence) },
        show_bytes(stream.lag_bytes),
        topics.join(","),
        reason_name(stream.ending).unwrap_or_default(),
    ]
}
