//! `streamward send`: publish one event, or one per line of standard input or of files.

mod input;
mod lines;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, stdin};

use crate::base::event::Position;
use crate::base::topic::Topic;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::{HubArgs, Interrupt};
use crate::cli::output::Output;
use crate::cli::send::input::Input;
use crate::cli::send::lines::{IN_FLIGHT_MAX, Sending};
use crate::cli::supervised;
use crate::cli::text::{clean, show_bytes};
use crate::client::{Message, Pipeline, PipelineConfig, PublishError};

/// A receipt may take this long. Lines have their own patience: a rate may hold them up for long.
const LINE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Publish events to a topic
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward send room/kitchen the kettle is on
  journalctl -f | streamward send room/logs     one event per line
  streamward send room/data --lines a.csv --lines b.csv
  generate | streamward send room/data --json   one receipt per line
  streamward send user/bob --file photo.jpg --content-type image/jpeg

A lost connection is made again, and what has no receipt is sent again under the
same id: the hub takes it once. Stopped by Ctrl-C, send waits for the receipts
under way and says how to go on: with --skip-lines, and with --resume, which
keeps the ids, so that a line in doubt is taken once while the hub remembers it.

Exit codes: 0 all accepted, 65 any refused, 69 no hub, 75 come back later,
77 told to stay away, 130 stopped before the end.")]
pub(crate) struct SendArgs {
    /// Where to: room/NAME for all, user/NAME for that user's inbox
    #[arg(value_parser = Topic::parse)]
    topic: Topic,
    /// The event's text, joined by spaces; without it, every line of standard input is one event
    #[arg(allow_negative_numbers = true)]
    text: Vec<String>,
    /// Send this file's bytes as one event (- is standard input)
    #[arg(long, short, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Send every line of this file as one event; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "file"])]
    lines: Vec<PathBuf>,
    /// Pass over so many lines: they were sent before
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, conflicts_with_all = ["text", "file"])]
    skip_lines: u64,
    /// Send under the ids of that run, as it told when it was stopped
    #[arg(long, value_name = "RUN_ID", conflicts_with_all = ["text", "file"])]
    resume: Option<RunId>,
    /// Give up after so many failures in a row [default: at once for the first connection, then never]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Media type of what is sent, passed on as it is
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// Print one JSON document per receipt
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Begins the message ids of one run: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId(u64);

impl RunId {
    /// One no other run has.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(crate) fn new() -> Result<Self, Failure> {
        getrandom::u64()
            .map(Self)
            .map_err(|error| Failure::told(Exit::Internal, format!("no random numbers: {error}.")))
    }

    /// The id of a line.
    fn message_id(self, line: u64) -> String {
        format!("{self}-{line}")
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for RunId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| is_id);
        id.map(Self).ok_or("write the 16 hexadecimal digits that the stopped run told")
    }
}

/// Publishes, and tells what became of it.
///
/// # Errors
/// When nothing could be sent at all; refused events are told and counted in the exit code.
pub(crate) async fn run(args: SendArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let is_one = args.file.is_some() || !args.text.is_empty();
    let mut config =
        PipelineConfig { in_flight_max: IN_FLIGHT_MAX, ..supervised::config(&args.hub, args.retries)? };
    if !is_one {
        config.publish_timeout = LINE_TIMEOUT;
    }
    let pipeline = supervised::start(config)?;
    let welcome = supervised::connected(&pipeline, &args.hub, args.retries, &mut interrupt, output).await?;
    let message_bytes_max = usize::try_from(welcome.policy.max_message_bytes).unwrap_or(usize::MAX);
    let sent = if is_one {
        interrupt.or(send_one(&pipeline, &args, message_bytes_max, output)).await
    } else {
        send_lines(&pipeline, &args, message_bytes_max, &mut interrupt, output).await
    };
    supervised::stop(pipeline, &mut interrupt).await;
    sent
}

/// At most one byte more than a message may have: enough to know that it is too large.
async fn read_file(path: &PathBuf, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut payload = Vec::new();
    let read = if path.as_os_str() == "-" {
        stdin().take(limit).read_to_end(&mut payload).await
    } else {
        use std::io::Read as _;
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut payload))
    };
    read.map_err(|error| Failure::told(Exit::Io, format!("cannot read {}: {error}.", path.display())))?;
    if payload.len() > bytes_max {
        let max = show_bytes(u64::try_from(bytes_max).unwrap_or(u64::MAX));
        return Err(Failure::told(
            Exit::Data,
            format!("{} is too large: this hub takes events of at most {max}.", path.display()),
        ));
    }
    Ok(payload)
}

async fn send_one(
    pipeline: &Pipeline,
    args: &SendArgs,
    bytes_max: usize,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let payload = match &args.file {
        Some(path) => read_file(path, bytes_max).await?,
        None => args.text.join(" ").into_bytes(),
    };
    let message = Message {
        topic: args.topic.to_string(),
        payload: payload.into(),
        content_type: args.content_type.clone(),
        message_id: String::new(),
    };
    let position = pipeline.publish(message).await.map_err(|error| publish_failure(&error))?;
    if output.json {
        output.json(&accepted_json(1, &position))?;
    } else {
        output.line(&format!("{} #{}", args.topic, position.sequence))?;
    }
    Ok(Exit::Ok)
}

fn accepted_json(line: u64, position: &Position) -> serde_json::Value {
    json!({"line": line, "sequence": position.sequence, "epoch": position.epoch})
}

/// A publish that failed, as the program's end.
fn publish_failure(error: &PublishError) -> Failure {
    match error {
        PublishError::Refused(error) => Failure::from(Arc::as_ref(error)),
        PublishError::TimedOut(_) | PublishError::RetriesExhausted { .. } | PublishError::ShutDown => {
            let text = error.to_string();
            Failure::told(Exit::TempFail, format!("{}.", clean(text.trim_end_matches('.'))))
        }
        PublishError::Full => Failure::told(Exit::Internal, format!("{error}.")),
    }
}

async fn send_lines(
    pipeline: &Pipeline,
    args: &SendArgs,
    bytes_max: usize,
    interrupt: &mut Interrupt,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let run = args.resume.map_or_else(RunId::new, Ok)?;
    let input = if args.lines.is_empty() {
        if io::stdin().is_terminal() {
            output.notice("every line is one event; end with Ctrl-D");
        }
        Input::stdin(bytes_max)
    } else {
        Input::files(&args.lines, bytes_max)?
    };
    let template = Message {
        topic: args.topic.to_string(),
        content_type: args.content_type.clone(),
        ..Message::default()
    };
    let sending = Sending::new(pipeline.publisher(), template, run, args.skip_lines);
    Box::pin(sending.all(input, interrupt, output)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_by_sixteen_digits_and_names_its_lines() {
        let run: RunId = "00000000000000af".parse().unwrap();
        assert_eq!(
            (run.to_string().as_str(), run.message_id(7).as_str()),
            ("00000000000000af", "00000000000000af-7")
        );
        assert_eq!(run.to_string().parse(), Ok(run));
        for text in ["", "af", "00000000000000ag", "000000000000000af", "+0000000000000af"] {
            assert!(text.parse::<RunId>().is_err(), "{text:?}");
        }
    }
}
