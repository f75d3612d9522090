//! `streamward tail`: follow topics, one event per line.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep_until};

use crate::base::reason::Retry;
use crate::base::topic::Topic;
use crate::cli::events::{event_json, event_line, tell_notice};
use crate::cli::exit::{Exit, Failure, end_text, exit_of};
use crate::cli::hub::{HubArgs, Interrupt, logout};
use crate::cli::output::Output;
use crate::cli::text::{clean, parse_duration};
use crate::client::{Item, MessageStream, Session, StreamEnd};
use crate::wire::v1;
use crate::wire::v1::subscription::Start;

/// Follow topics and print their events
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward tail room/kitchen               what is published from now on
  streamward tail room/a room/b --since all  what is still kept, then the rest
  streamward tail room/kitchen --since 120   after #120, or a word what is gone
  streamward tail room/logs --json | jq .payload
  streamward tail room/a --max 1 --for 30s   one event, within 30 seconds

Every event is one line: time topic #sequence sender: payload.
Payloads that are not UTF-8 are shown in hex, control characters escaped;
--json is exact. Gaps and notices go to stderr, or with --json into the output
as documents with the key \"gap\" or \"notice\".

Exit codes: 0 done, 69 no hub, 75 come back later, 77 told to stay away.")]
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

/// Follows the topics until a bound, a signal or the stream's end.
///
/// # Errors
/// When the stream could not be opened, or ended for a reason that is not success.
pub(crate) async fn run(args: TailArgs, output: &mut Output) -> Result<Exit, Failure> {
    let deadline = args.duration.map(|duration| Instant::now() + duration);
    let mut interrupt = Interrupt::new()?;
    let session = interrupt.or(args.hub.login(output)).await?;
    let mut stream = None;
    let followed = match interrupt.or(open(&session, &args)).await {
        Ok(opened) => follow(stream.insert(opened), &args, deadline, &mut interrupt, output).await,
        Err(failure) => Err(failure),
    };
    // With the stream still open, so that it ends with the session and not as cancelled.
    logout(session, stream, &mut interrupt, output).await;
    followed
}

async fn open(session: &Session, args: &TailArgs) -> Result<MessageStream, Failure> {
    let start = start(session, args).await?;
    let overflow = if args.skip { v1::Overflow::Skip } else { v1::Overflow::Disconnect };
    let subscription = |topic: &Topic| v1::Subscription {
        topic: topic.to_string(),
        start: Some(start.clone()),
        overflow: overflow.into(),
    };
    // Naming a topic twice is no mistake worth refusing.
    let topics: BTreeSet<&Topic> = args.topics.iter().collect();
    Ok(session.subscribe(topics.into_iter().map(subscription).collect()).await?)
}

async fn follow(
    stream: &mut MessageStream,
    args: &TailArgs,
    deadline: Option<Instant>,
    interrupt: &mut Interrupt,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut seen = Seen::default();
    let mut left = args.max;
    loop {
        let item = tokio::select! {
            item = stream.next() => item,
            () = interrupt.next() => {
                output.interrupted();
                return Ok(Exit::Ok);
            }
            () = until(deadline) => return Ok(Exit::Ok),
        };
        match item {
            Ok(Item::Event(event)) => {
                seen.event(&event);
                if output.json {
                    output.json(&event_json(&event))?;
                } else {
                    output.line(&event_line(&event, output.paint))?;
                }
                left = left.map(|left| left - 1);
                if left == Some(0) {
                    return Ok(Exit::Ok);
                }
            }
            Ok(item) => {
                seen.notice(&item);
                tell_notice(&item, output)?;
                tell_start(&item, output);
            }
            Err(end) => return ended(&end, &seen, output),
        }
    }
}

/// A person who waits is told that it works.
fn tell_start(item: &Item, output: &mut Output) {
    if let (Item::Subscribed(subscribed), true) = (item, output.person_waits()) {
        let from = subscribed.position.as_ref().map_or(0, |position| position.sequence);
        output.notice(&format!("following {} after #{from}; Ctrl-C ends", clean(&subscribed.topic)));
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// The start of every subscription. A bare sequence number means the present epoch, which the hub names.
async fn start(session: &Session, args: &TailArgs) -> Result<Start, Failure> {
    match (args.since, &args.epoch) {
        (None, _) => Ok(Start::FromNow(true)),
        (Some(Since::All), _) => Ok(Start::AllRetained(true)),
        (Some(Since::Sequence(sequence)), Some(epoch)) => {
            Ok(Start::After(v1::Position { epoch: epoch.clone(), sequence }))
        }
        (Some(Since::Sequence(sequence)), None) => {
            let epoch = present_epoch(session, args.topics.first()).await?;
            Ok(Start::After(v1::Position { epoch, sequence }))
        }
    }
}

async fn present_epoch(session: &Session, topic: Option<&Topic>) -> Result<String, Failure> {
    let topic = topic.map(ToString::to_string).unwrap_or_default();
    let mut stream: MessageStream =
        session.subscribe(vec![v1::Subscription { topic, ..Default::default() }]).await?;
    loop {
        match stream.next().await {
            Ok(Item::Subscribed(v1::Subscribed { position: Some(position), .. })) => {
                return Ok(position.epoch);
            }
            Ok(_) => {}
            Err(end) => return Err(Failure::told(exit_of(end.reason, end.status.code()), end_text(&end))),
        }
    }
}

/// What is needed to come back without loss.
#[derive(Default)]
struct Seen {
    epoch: String,
    /// Last sequence handled per topic.
    last: HashMap<String, u64>,
}

impl Seen {
    fn event(&mut self, event: &v1::Event) {
        match self.last.get_mut(&event.topic) {
            Some(last) => *last = event.sequence,
            None => {
                self.last.insert(event.topic.clone(), event.sequence);
            }
        }
    }

    fn notice(&mut self, item: &Item) {
        if let Item::Subscribed(v1::Subscribed { topic, position: Some(position), .. }) = item {
            self.epoch.clone_from(&position.epoch);
            self.last.insert(topic.clone(), position.sequence);
        }
    }

    /// The options that resume every topic: one position for all, so the smallest.
    fn resume(&self) -> Option<String> {
        let last = self.last.values().min()?;
        Some(format!("--since {last} --epoch {}", clean(&self.epoch)))
    }
}

fn ended(end: &StreamEnd, seen: &Seen, output: &mut Output) -> Result<Exit, Failure> {
    let exit = exit_of(end.reason, end.status.code());
    let comes_back = match end.reason.map(|reason| reason.retry()) {
        Some(Retry::Resume | Retry::Later | Retry::LogInAgain | Retry::Application) => true,
        Some(Retry::No) | None => false,
    };
    let mut text = format!("the stream ended: {}", end_text(end));
    if let (true, Some(resume)) = (comes_back, seen.resume()) {
        text.push_str(&format!(" Resume with {resume}."));
    }
    if exit == Exit::Ok {
        output.notice(&text);
        return Ok(exit);
    }
    Err(Failure::told(exit, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::EndReason;
    use crate::cli::tests::captured;
    use tonic::Status;

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
    fn an_end_to_resume_from_says_how() {
        let (mut output, _, _) = captured(false);
        let mut seen = Seen::default();
        let position = Some(v1::Position { epoch: "e1".to_owned(), sequence: 3 });
        for topic in ["room/a", "room/b"] {
            let topic = topic.to_owned();
            seen.notice(&Item::Subscribed(v1::Subscribed {
                topic,
                position: position.clone(),
                recovered: true,
            }));
        }
        seen.event(&v1::Event { topic: "room/a".to_owned(), sequence: 9, ..Default::default() });
        assert_eq!(seen.resume().as_deref(), Some("--since 3 --epoch e1"));
        seen.event(&v1::Event { topic: "room/b".to_owned(), sequence: 7, ..Default::default() });

        let mut end = StreamEnd::from_status(Status::resource_exhausted("fell behind"));
        end.reason = Some(EndReason::SlowConsumer);
        let failure = ended(&end, &seen, &mut output).unwrap_err();
        assert_eq!(failure.exit(), Exit::TempFail);
        assert!(failure.to_string().ends_with("Resume with --since 7 --epoch e1."), "{failure}");

        end.reason = Some(EndReason::AdminCancelled);
        let failure = ended(&end, &seen, &mut output).unwrap_err();
        assert_eq!(failure.exit(), Exit::NoPerm);
        assert!(!failure.to_string().contains("Resume"), "{failure}");
    }

    #[test]
    fn a_completed_stream_is_success() {
        let (mut output, _, err) = captured(false);
        let end = StreamEnd::from_status(Status::ok(""));
        assert_eq!(ended(&end, &Seen::default(), &mut output).unwrap(), Exit::Ok);
        assert!(err.text().contains("COMPLETED"));
    }
}
