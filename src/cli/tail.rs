//! `streamward tail`: follow topics, one event per line, over lost connections and restarts of the hub.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use regex_lite::Regex;
use tokio::sync::mpsc;

use crate::base::event::{Overflow, Position, Start};
use crate::base::limits::PIPELINE_PATIENCE_MAX;
use crate::base::topic::Topic;
use crate::cli::exec::Exec;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::{HubArgs, Interrupt};
use crate::cli::output::Output;
use crate::cli::sink::Sink;
use crate::cli::supervised;
use crate::cli::supervised::Outage;
use crate::cli::text::parse_duration;
use crate::client::{HandlerError, Item, Pipeline, StartError, Target, Task, TaskHandle, Word};
use crate::wire::v1;

/// Follow topics and print their events
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward tail room/kitchen               what is published from now on
  streamward tail room/a room/b --since all  what is still kept, then the rest
  streamward tail room/kitchen --since 120   after #120, or a word what is gone
  streamward tail room/logs --json | jq .payload
  streamward tail room/a --max 1 --for 30s   one event, within 30 seconds
  streamward tail room/deploy --until '^done'
  streamward tail room/door --exec 'aplay ding.wav'
  streamward tail room/notes --exec 'cat >> \"$STREAMWARD_SENDER.txt\"'

Every event is one line: time topic #sequence sender: payload.
Payloads that are not UTF-8 are shown in hex, control characters escaped;
--json is exact. Gaps and notices go to stderr, or with --json into the output
as documents with the key \"gap\" or \"notice\".

A lost connection and a restarted hub are told and outlived: what is still kept
follows, what is not is told as a gap. --retries 0 ends with them instead.

--exec runs CMD with sh for one event after the other, the payload on its
standard input, STREAMWARD_TOPIC, _SEQUENCE, _SENDER, _CONTENT_TYPE and
_MESSAGE_ID in its environment. It is ended with tail.

Exit codes: 0 done, 69 no hub, 75 come back later, 76 the command of --exec
failed, 77 told to stay away.")]
pub(crate) struct TailArgs {
    /// What to follow: room/NAME, or user/YOU for your inbox
    #[arg(required = true, value_name = "TOPIC", value_parser = Topic::parse)]
    topics: Vec<Topic>,
    /// Start after this sequence number, or with all the hub still keeps
    #[arg(long, value_name = "SEQ|all", value_parser = parse_since)]
    since: Option<Since>,
    /// The epoch that the sequence number of --since belongs to [default: the present one]
    #[arg(long, value_name = "EPOCH", requires = "since")]
    epoch: Option<String>,
    /// When falling behind, skip to the newest event instead of being disconnected
    #[arg(long)]
    skip: bool,
    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Stop after this long: 500ms, 90s, 10m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Stop after the first event whose payload matches
    #[arg(long, value_name = "REGEX", value_parser = parse_regex)]
    until: Option<Regex>,
    /// Give up after so many failures in a row [default: at once for the first connection, then never]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Run this for every event instead of printing it
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Print one JSON document per event
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    All,
    Sequence(u64),
}

fn parse_since(text: &str) -> Result<Since, &'static str> {
    if text == "all" {
        return Ok(Since::All);
    }
    // People copy the `#` of the output.
    let number = text.strip_prefix('#').unwrap_or(text);
    number.parse().map(Since::Sequence).map_err(|_| "write a sequence number, or `all`")
}

/// A regular expression over a payload as text.
pub(crate) fn parse_regex(text: &str) -> Result<Regex, regex_lite::Error> {
    Regex::new(text)
}

/// Whether the payload matches; bytes that are no text count as U+FFFD.
pub(crate) fn matches(regex: &Regex, payload: &[u8]) -> bool {
    regex.is_match(&String::from_utf8_lossy(payload))
}

/// Follows the topics until a bound, a signal or an end for good.
///
/// # Errors
/// When the hub is not there, or it ended for a reason that is not success.
pub(crate) async fn run(args: TailArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let pipeline = supervised::start(supervised::config(&args.hub, args.retries)?)?;
    supervised::connected(&pipeline, &args.hub, args.retries, &mut interrupt, output).await?;
    let followed = follow(&pipeline, &args, &mut interrupt, output).await;
    supervised::stop(pipeline, &mut interrupt).await;
    followed
}

async fn follow(
    pipeline: &Pipeline,
    args: &TailArgs,
    interrupt: &mut Interrupt,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let outage = Outage::new(output);
    let start = interrupt.or(start(pipeline, args, &outage)).await?;
    let mut handle = start_task(pipeline, args, &start, &outage, output)?;
    let end = tokio::select! {
        end = handle.ended() => end,
        () = interrupt.next() => {
            output.interrupted();
            handle.cancel();
            tokio::select! {
                end = handle.ended() => end,
                () = interrupt.next() => return Ok(Exit::Ok),
            }
        }
    };
    match outage.exit(&end) {
        // It was told to end, as we were.
        Err(Failure::Told { exit: Exit::Interrupted, message }) => {
            output.notice(&message);
            Ok(Exit::Ok)
        }
        exit => exit,
    }
}

fn start_task(
    pipeline: &Pipeline,
    args: &TailArgs,
    start: &Start,
    outage: &Outage,
    output: &Output,
) -> Result<TaskHandle, Failure> {
    let overflow = if args.skip { Overflow::Skip } else { Overflow::Disconnect };
    // Naming a topic twice is no mistake worth refusing.
    let mut topics: BTreeSet<&Topic> = BTreeSet::new();
    topics.extend(&args.topics);
    let target = |topic: &Topic| Target { topic: topic.clone(), start: start.clone(), overflow };
    let exec = args.exec.clone().map(|command| Exec { command, ends_with_task: true });
    let sink = Sink { output: output.clone(), exec };
    let (mut left, until) = (args.max, args.until.clone());
    let is_last = move |event: &v1::Event| {
        left = left.map(|left| left.saturating_sub(1));
        left == Some(0) || until.as_ref().is_some_and(|until| matches(until, &event.payload))
    };
    let heard = outage.clone();
    let mut task = Task::new("tail", topics.into_iter().map(target))
        .until(is_last)
        .observe(move |word| heard.hears(word))
        .batch_max(sink.batch_max());
    if let Some(duration) = args.duration {
        task = task.timeout(duration.min(PIPELINE_PATIENCE_MAX));
    }
    let outage = outage.clone();
    let handler = move |batch, stopping| {
        let (sink, outage) = (sink.clone(), outage.clone());
        async move {
            outage.check().map_err(HandlerError::from)?;
            sink.take(batch, stopping).await.map_err(HandlerError::from)
        }
    };
    pipeline.start_task(task, handler).map_err(|error| not_started(&error))
}

/// None of them can happen with one task.
pub(crate) fn not_started(error: &StartError) -> Failure {
    Failure::told(Exit::Internal, format!("{error}."))
}

/// The start of every subscription. A bare sequence number means the present epoch, which the hub names.
async fn start(pipeline: &Pipeline, args: &TailArgs, outage: &Outage) -> Result<Start, Failure> {
    match (args.since, &args.epoch) {
        (None, _) => Ok(Start::FromNow),
        (Some(Since::All), _) => Ok(Start::AllRetained),
        (Some(Since::Sequence(sequence)), Some(epoch)) => {
            Ok(Start::After(Position { epoch: epoch.clone(), sequence }))
        }
        (Some(Since::Sequence(sequence)), None) => {
            let epoch = present_epoch(pipeline, args.topics.first(), outage).await?;
            Ok(Start::After(Position { epoch, sequence }))
        }
    }
}

/// The hub names it to whoever begins to follow a topic.
async fn present_epoch(
    pipeline: &Pipeline,
    topic: Option<&Topic>,
    outage: &Outage,
) -> Result<String, Failure> {
    let (told, mut heard) = mpsc::channel(1);
    let outage_of_task = outage.clone();
    let task = Task::new("epoch", topic.cloned()).observe(move |word| match word {
        Word::Said(Item::Subscribed(v1::Subscribed { position: Some(position), .. })) => {
            // The first is enough.
            let _ = told.try_send(position.epoch.clone());
        }
        Word::Said(_) => {}
        Word::Setback { .. } => outage_of_task.hears(word),
    });
    let mut handle =
        pipeline.start_task(task, |_, _| std::future::ready(Ok(()))).map_err(|error| not_started(&error))?;
    tokio::select! {
        biased;
        Some(epoch) = heard.recv() => {
            handle.cancel();
            handle.ended().await;
            Ok(epoch)
        }
        end = handle.ended() => match outage.exit(&end) {
            Ok(_) => Err(Failure::told(Exit::TempFail, format!("the stream ended: {}.", end.why))),
            Err(failure) => Err(failure),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_number_or_all() {
        assert_eq!(parse_since("all"), Ok(Since::All));
        assert_eq!(parse_since("17"), Ok(Since::Sequence(17)));
        assert_eq!(parse_since("#17"), Ok(Since::Sequence(17)));
        for text in ["", "-1", "now", "1.5", "##1"] {
            assert!(parse_since(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_payload_that_is_no_text_is_matched_as_far_as_it_is() {
        let regex = parse_regex("^don?e$").unwrap();
        assert!(matches(&regex, b"done") && !matches(&regex, b"not done"));
        assert!(matches(&parse_regex("b.c").unwrap(), b"\xffab\xfec"));
        assert!(parse_regex("(").is_err());
    }
}
