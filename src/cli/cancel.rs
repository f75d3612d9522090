//! `streamward cancel`: end one stream or one session, and nothing else.

use clap::Args;
use serde_json::json;

use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::{AdminArgs, parse_note};
use crate::cli::output::Output;
use crate::cli::text::count;
use crate::client::admin::CancelTarget;
use crate::wire::v1;

/// End one stream, or one session with its streams
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward cancel stream/42 --note 'please update your client'
  streamward cancel session/3.17 --dry-run

The ids are in streamward tree. The client sees ADMIN_CANCELLED and the note;
nobody else notices.")]
pub(crate) struct CancelArgs {
    /// A stream or a session: stream/42, session/3.17
    id: CancelTarget,
    /// What the client is told
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = parse_note)]
    note: String,
    /// Only tell what would end
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Ends it, and tells what ended.
///
/// # Errors
/// When there is none of that id, or the admin socket cannot be reached.
pub(crate) async fn run(args: CancelArgs, output: &mut Output) -> Result<Exit, Failure> {
    let admin = args.admin.connect().await?;
    let done = admin.cancel(&args.id, &args.note, args.dry_run).await?;
    if output.json {
        output.json(&json!({
            "dry_run": args.dry_run,
            "streams_ended": done.streams_ended,
            "sessions_ended": done.sessions_ended,
            "others_untouched": done.others_untouched,
        }))?;
    } else {
        output.line(&text(&done, args.dry_run))?;
    }
    Ok(Exit::Ok)
}

/// What ended, or would.
pub(crate) fn text(done: &v1::CancelResponse, dry_run: bool) -> String {
    format!(
        "{} {} and {}; {} untouched",
        if dry_run { "would end" } else { "ended" },
        count(done.sessions_ended, "session"),
        count(done.streams_ended, "stream"),
        count(done.others_untouched, "other stream"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_reads_as_one() {
        let done = v1::CancelResponse { streams_ended: 2, sessions_ended: 1, others_untouched: 4 };
        assert_eq!(text(&done, false), "ended 1 session and 2 streams; 4 other streams untouched");
        assert_eq!(text(&done, true), "would end 1 session and 2 streams; 4 other streams untouched");
    }
}
