//! `streamward send`: publish one event, or one per line of standard input.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, BufReader, Stdin, stdin};
use tokio::time::timeout;

use crate::base::event::Position;
use crate::base::topic::Topic;
use crate::cli::events::tell_notice;
use crate::cli::exit::{Exit, Failure, end_text, exit_of};
use crate::cli::hub::{HubArgs, Interrupt, logout};
use crate::cli::output::Output;
use crate::cli::stdin::{Line, Lines};
use crate::cli::text::{clean, count, show_bytes};
use crate::client::{ClientError, Item, MessageStream, Receipt, Sender, Session, StreamEnd};

/// Published lines that wait for their receipts.
const IN_FLIGHT_MAX: usize = 64;
/// After the last receipt the hub has this long to end the stream.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Publish events to a topic
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward send room/kitchen the kettle is on
  journalctl -f | streamward send room/logs     one event per line
  generate | streamward send room/data --json   one receipt per line
  streamward send user/bob --file photo.jpg --content-type image/jpeg

Exit codes: 0 all accepted, 65 any refused, 69 no hub, 75 come back later,
77 told to stay away.")]
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
    /// Media type of what is sent, passed on as it is
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// Print one JSON document per receipt
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Publishes, and tells what became of it.
///
/// # Errors
/// When nothing could be sent at all; refused events are told and counted in the exit code.
pub(crate) async fn run(args: SendArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let session = interrupt.or(args.hub.login(output)).await?;
    let message_bytes_max = usize::try_from(session.policy().max_message_bytes).unwrap_or(usize::MAX);
    let sent = match (&args.file, args.text.is_empty()) {
        (Some(path), _) => match interrupt.or(read_file(path, message_bytes_max)).await {
            Ok(payload) => interrupt.or(send_one(&session, &args, payload, output)).await,
            Err(failure) => Err(failure),
        },
        (None, false) => {
            let payload = args.text.join(" ").into_bytes();
            interrupt.or(send_one(&session, &args, payload, output)).await
        }
        (None, true) => {
            if io::stdin().is_terminal() {
                output.notice("every line is one event; end with Ctrl-D");
            }
            let lines = Lines::stdin(message_bytes_max);
            send_lines(&session, &args, lines, &mut interrupt, output).await
        }
    };
    logout(session, None, &mut interrupt, output).await;
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
    session: &Session,
    args: &SendArgs,
    payload: Vec<u8>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let position = session.publish(args.topic.as_str(), payload, "", &args.content_type).await?;
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

/// What became of the lines so far.
#[derive(Default)]
struct Tally {
    /// Lines read.
    lines: u64,
    /// Line numbers whose receipts are due, in the order of the receipts.
    in_flight: VecDeque<u64>,
    accepted: u64,
    refused: u64,
}

async fn send_lines(
    session: &Session,
    args: &SendArgs,
    mut lines: Lines<BufReader<Stdin>>,
    interrupt: &mut Interrupt,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let (sender, mut stream) = interrupt.or(async { Ok(session.open().await?) }).await?;
    let mut tally = Tally::default();
    let mut reading = true;
    let mut interrupted = false;
    let ended = loop {
        if !reading && tally.in_flight.is_empty() {
            break None;
        }
        tokio::select! {
            line = lines.next(), if reading && tally.in_flight.len() < IN_FLIGHT_MAX => {
                let line = line.map_err(|error| {
                    Failure::told(Exit::Io, format!("cannot read standard input: {error}."))
                })?;
                reading = line.is_some();
                if let Some(line) = line {
                    // An ended stream is told by reading it, below.
                    publish(&sender, args, line, &mut tally, output).await?;
                }
            }
            item = stream.next() => match item {
                Ok(Item::Receipt(receipt)) => take_receipt(&receipt, &mut tally, output)?,
                Ok(item) => tell_notice(&item, output)?,
                Err(end) => break Some(end),
            },
            () = interrupt.next() => {
                if interrupted {
                    break None;
                }
                output.interrupted();
                (reading, interrupted) = (false, true);
            }
        }
    };
    drop(sender);
    let exit = match ended {
        Some(end) => return Err(cut_short(&end, &tally)),
        None if tally.refused > 0 => Exit::Data,
        None if interrupted => Exit::Interrupted,
        None => Exit::Ok,
    };
    // Half-closed: let the hub end the stream as completed, so that its record says so.
    let _ = timeout(END_TIMEOUT, drain(&mut stream)).await;
    if !output.json {
        output.notice(&format!("{} accepted, {} refused", count(tally.accepted, "event"), tally.refused));
    }
    Ok(exit)
}

async fn publish(
    sender: &Sender,
    args: &SendArgs,
    line: Line,
    tally: &mut Tally,
    output: &mut Output,
) -> Result<(), Failure> {
    tally.lines += 1;
    let payload = match line {
        Line::Whole(payload) => payload,
        Line::TooLong(bytes) => {
            tally.refused += 1;
            let message = format!("{bytes} bytes are more than this hub takes");
            return refuse(tally.lines, "ResourceExhausted", &message, output);
        }
    };
    match sender.publish(args.topic.as_str(), payload, "", &args.content_type).await {
        Ok(()) => tally.in_flight.push_back(tally.lines),
        // The stream has ended: reading it tells why, and that this line went nowhere.
        Err(ClientError::StreamEnded) => tally.in_flight.push_back(tally.lines),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn take_receipt(receipt: &Receipt, tally: &mut Tally, output: &mut Output) -> Result<(), Failure> {
    let Some(line) = tally.in_flight.pop_front() else {
        return Err(Failure::told(Exit::Internal, "the hub sent a receipt for nothing."));
    };
    match &receipt.outcome {
        Ok(position) => {
            tally.accepted += 1;
            if output.json {
                output.json(&accepted_json(line, position))?;
            }
            Ok(())
        }
        Err(status) => {
            tally.refused += 1;
            refuse(line, &format!("{:?}", status.code()), status.message(), output)
        }
    }
}

fn refuse(line: u64, code: &str, message: &str, output: &mut Output) -> Result<(), Failure> {
    if output.json {
        return output.json(&json!({"line": line, "error": {"code": code, "message": message}}));
    }
    output.error(&format!("line {line}: refused: {}", clean(message)));
    Ok(())
}

/// The stream ended before every receipt was there.
fn cut_short(end: &StreamEnd, tally: &Tally) -> Failure {
    let unknown = match (tally.in_flight.front(), tally.in_flight.back()) {
        (Some(first), Some(last)) if first == last => {
            format!(" Line {first} has no receipt: it may be lost.")
        }
        (Some(first), Some(last)) => format!(" Lines {first} to {last} have no receipt: they may be lost."),
        (_, _) => String::new(),
    };
    let accepted = count(tally.accepted, "event");
    let text = format!(
        "the stream ended: {} {accepted} accepted, {} refused.{unknown}",
        end_text(end),
        tally.refused
    );
    // Whatever the reason, not everything was sent.
    let exit = exit_of(end.reason, end.status.code());
    Failure::told(if exit == Exit::Ok { Exit::TempFail } else { exit }, text)
}

async fn drain(stream: &mut MessageStream) {
    while stream.next().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;
    use tonic::Status;

    fn receipt(outcome: Result<u64, Status>) -> Receipt {
        let outcome = outcome.map(|sequence| Position { epoch: "e".to_owned(), sequence }).map_err(Box::new);
        Receipt { message_id: String::new(), outcome }
    }

    #[test]
    fn every_refused_line_is_told_with_its_number() {
        let (mut output, out, err) = captured(false);
        let mut tally = Tally { in_flight: VecDeque::from([3, 4]), ..Default::default() };
        take_receipt(&receipt(Ok(10)), &mut tally, &mut output).unwrap();
        take_receipt(&receipt(Err(Status::invalid_argument("too\nlong"))), &mut tally, &mut output).unwrap();
        assert_eq!((tally.accepted, tally.refused), (1, 1));
        assert_eq!(out.text(), "");
        assert_eq!(err.text(), "streamward: line 4: refused: too\\nlong\n");
        assert!(take_receipt(&receipt(Ok(11)), &mut tally, &mut output).is_err());
    }

    #[test]
    fn json_has_one_document_per_line_sent() {
        let (mut output, out, _) = captured(true);
        let mut tally = Tally { in_flight: VecDeque::from([1, 2]), ..Default::default() };
        take_receipt(&receipt(Ok(10)), &mut tally, &mut output).unwrap();
        take_receipt(&receipt(Err(Status::invalid_argument("no"))), &mut tally, &mut output).unwrap();
        let lines: Vec<serde_json::Value> =
            out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"line": 1, "sequence": 10, "epoch": "e"}));
        assert_eq!(lines[1], json!({"line": 2, "error": {"code": "InvalidArgument", "message": "no"}}));
    }

    #[test]
    fn a_stream_cut_short_says_which_lines_are_in_doubt() {
        let end = StreamEnd::from_status(Status::unavailable("restart"));
        let tally = Tally { in_flight: VecDeque::from([5, 6, 7]), accepted: 4, ..Default::default() };
        let failure = cut_short(&end, &tally);
        assert_eq!(failure.exit(), Exit::Unavailable);
        let text = failure.to_string();
        assert!(text.contains("4 events accepted, 0 refused. Lines 5 to 7 have no receipt"), "{text}");
        let completed = StreamEnd::from_status(Status::ok(""));
        assert_eq!(cut_short(&completed, &tally).exit(), Exit::TempFail);
    }
}
