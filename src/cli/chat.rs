//! `streamward chat`: talk in a room or to a user, line by line; works in pipes.

use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::io::AsyncBufRead;
use tokio::time::{Instant, sleep};

use crate::base::event::Position;
use crate::base::principal::Principal;
use crate::base::topic::Topic;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::{HubArgs, Interrupt};
use crate::cli::output::Output;
use crate::cli::send::RunId;
use crate::cli::stdin::{Line, Lines};
use crate::cli::supervised;
use crate::cli::supervised::Outage;
use crate::cli::tail::not_started;
use crate::cli::text::{clean, show_payload};
use crate::client::{
    Batch, Delivery, HandlerError, Message, Pipeline, PipelineConfig, PublishError, Publisher, Task,
    TaskHandle,
};
use crate::wire::v1;

/// Lines that wait for their receipts; while the hub is away, no more are read.
const IN_FLIGHT_MAX: usize = 32;
/// A line that waited so long for the hub is old news.
const LINE_TIMEOUT: Duration = Duration::from_secs(600);
/// After the last receipt what was said before it has this long to come.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Talk in a room, or to a user
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward chat kitchen                  talk in room/kitchen
  streamward chat @bob --user alice        write to bob, read your own inbox
  echo 'dinner is ready' | streamward chat kitchen

Every line is sent; what others say is printed as name: text. When the hub goes
away, chat says so and comes back; lines typed meanwhile wait and are sent then.
End with /quit, Ctrl-D or Ctrl-C.")]
pub(crate) struct ChatArgs {
    /// A room's name, or @ and a user's name
    #[arg(value_name = "ROOM|@USER", value_parser = parse_partner)]
    partner: Partner,
    #[command(flatten)]
    hub: HubArgs,
}

/// Whom one talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Partner {
    Room(Topic),
    User(Topic),
}

fn parse_partner(text: &str) -> Result<Partner, String> {
    if let Some(user) = text.strip_prefix('@') {
        Principal::new(user, "").map_err(|error| error.to_string())?;
        return Topic::parse(&format!("user/{user}")).map(Partner::User).map_err(|error| error.to_string());
    }
    // People know topics from the other commands.
    let room = text.strip_prefix("room/").unwrap_or(text);
    Topic::parse(&format!("room/{room}")).map(Partner::Room).map_err(|error| error.to_string())
}

impl Partner {
    /// Where lines go.
    fn publishes_to(&self) -> &str {
        match self {
            Self::Room(topic) | Self::User(topic) => topic.as_str(),
        }
    }

    /// Where answers come: the room, or one's own inbox.
    fn listens_to(&self, user: &str) -> String {
        match self {
            Self::Room(topic) => topic.to_string(),
            Self::User(_) => format!("user/{user}"),
        }
    }
}

/// Talks until the input ends.
///
/// # Errors
/// When the hub cannot be reached, or wants no more of this user.
pub(crate) async fn run(args: ChatArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let config = PipelineConfig {
        in_flight_max: IN_FLIGHT_MAX,
        publish_timeout: LINE_TIMEOUT,
        ..supervised::config(&args.hub, None)?
    };
    let pipeline = supervised::start(config)?;
    let welcome = supervised::connected(&pipeline, &args.hub, None, &mut interrupt, output).await?;
    let user = args.hub.user();
    let message_bytes_max = usize::try_from(welcome.policy.max_message_bytes).unwrap_or(usize::MAX);
    let lines = Lines::stdin(message_bytes_max);
    if io::stdin().is_terminal() {
        output.notice(&format!("you are {user} in {}; /quit or Ctrl-D ends", args.partner.publishes_to()));
    }
    let talked = match Chat::open(&pipeline, &args.partner, &user, output) {
        Ok(chat) => Box::pin(chat.talk(lines, &mut interrupt, output)).await,
        Err(failure) => Err(failure),
    };
    supervised::stop(pipeline, &mut interrupt).await;
    talked
}

/// One conversation.
struct Chat<'a> {
    partner: &'a Partner,
    /// What is heard.
    heard: TaskHandle,
    outage: Outage,
    /// Where answers come.
    listens_to: String,
    publisher: Publisher,
    /// Begins the ids of this program's own lines: the same user may talk from elsewhere, too.
    own: String,
    refused: u64,
    line_number: u64,
    /// The place of the last line that was accepted.
    last: u64,
}

type Receipts = FuturesOrdered<Pin<Box<dyn Future<Output = Result<Position, PublishError>>>>>;

impl<'a> Chat<'a> {
    fn open(pipeline: &Pipeline, partner: &'a Partner, user: &str, output: &Output) -> Result<Self, Failure> {
        let own = format!("{}.", RunId::new()?);
        let topic = partner.listens_to(user);
        let topic = Topic::parse(&topic)
            .map_err(|error| Failure::told(Exit::Usage, format!("cannot listen to {topic}: {error}.")))?;
        let outage = Outage::new(output);
        let watching = outage.clone();
        let listens_to = topic.to_string();
        let task = Task::new("chat", [topic]).observe(move |word| watching.hears(word));
        let hearing = Hearing { user: user.to_owned(), own: own.clone(), output: output.clone() };
        let handler = move |batch: Batch, _| {
            let heard = hearing.clone().hear(&batch);
            std::future::ready(heard.map_err(HandlerError::from))
        };
        let heard = pipeline.start_task(task, handler).map_err(|error| not_started(&error))?;
        let publisher = pipeline.publisher();
        let (refused, line_number, last) = (0, 0, 0);
        Ok(Self { partner, heard, outage, listens_to, publisher, own, refused, line_number, last })
    }

    async fn talk<R: AsyncBufRead + Unpin>(
        mut self,
        mut lines: Lines<R>,
        interrupt: &mut Interrupt,
        output: &mut Output,
    ) -> Result<Exit, Failure> {
        let mut receipts = Receipts::new();
        let mut reading = true;
        while reading || !receipts.is_empty() {
            tokio::select! {
                line = lines.next(), if reading && receipts.len() < IN_FLIGHT_MAX => {
                    let line = line.map_err(|error| {
                        Failure::told(Exit::Io, format!("cannot read standard input: {error}."))
                    })?;
                    reading = match line {
                        Some(line) => self.say(line, &mut receipts, output),
                        None => false,
                    };
                }
                Some(answer) = receipts.next(), if !receipts.is_empty() => self.take(answer, output),
                end = self.heard.ended() => {
                    return self.outage.exit(&end).map_err(|failure| in_doubt(failure, receipts.len()));
                }
                () = interrupt.next() => {
                    output.interrupted();
                    break;
                }
            }
        }
        tokio::select! {
            () = self.hears_the_last() => {}
            () = interrupt.next() => {}
        }
        Ok(if self.refused > 0 { Exit::Data } else { Exit::Ok })
    }

    /// In a room, what was said before our last line is heard before we leave.
    async fn hears_the_last(&self) {
        if !matches!(self.partner, Partner::Room(_)) || self.last == 0 {
            return;
        }
        let heard = || self.heard.status().positions.get(&self.listens_to).map(|position| position.sequence);
        let until = Instant::now() + END_TIMEOUT;
        while heard().is_some_and(|heard| heard < self.last) && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Publishes the line; false when it ends the conversation.
    fn say(&mut self, line: Line, receipts: &mut Receipts, output: &mut Output) -> bool {
        self.line_number += 1;
        let line = match line {
            Line::Whole(line) => line,
            Line::TooLong(_) => {
                self.refused += 1;
                output.error("not sent: the line is longer than this hub takes");
                return true;
            }
        };
        let text = line.trim_ascii();
        if text == b"/quit" {
            return false;
        }
        if text.is_empty() {
            return true;
        }
        let message = Message {
            topic: self.partner.publishes_to().to_owned(),
            payload: line.into(),
            content_type: "text/plain; charset=utf-8".to_owned(),
            message_id: format!("{}{}", self.own, self.line_number),
        };
        match self.publisher.try_publish(message) {
            Ok(pending) => receipts.push_back(Box::pin(pending.received())),
            Err(error) => self.take(Err(error), output),
        }
        true
    }

    fn take(&mut self, answer: Result<Position, PublishError>, output: &mut Output) {
        match answer {
            Ok(position) => self.last = position.sequence,
            Err(error) => {
                self.refused += 1;
                output.error(&format!("not sent: {}", clean(&error.to_string())));
            }
        }
    }
}

/// What prints what others say.
#[derive(Clone)]
struct Hearing {
    user: String,
    own: String,
    output: Output,
}

impl Hearing {
    fn hear(mut self, batch: &Batch) -> Result<(), Failure> {
        for delivery in &batch.deliveries {
            match delivery {
                Delivery::Event(event)
                    if event.sender == self.user && event.message_id.starts_with(&self.own) => {}
                Delivery::Event(event) => {
                    let name = self.output.paint.bold(&clean(&event.sender));
                    self.output.line(&format!("{name}: {}", show_payload(&event.payload)))?;
                }
                Delivery::Gap(gap) => self.output.notice(&gap_text(gap)),
            }
        }
        Ok(())
    }
}

/// A person counts messages, not places.
fn gap_text(gap: &v1::Gap) -> String {
    match (gap.to_sequence + 1).saturating_sub(gap.from_sequence) {
        // Of another epoch: nobody knows what the old one had.
        0 => "the hub has started anew; what was said meanwhile may be lost".to_owned(),
        1 => "1 message may be lost".to_owned(),
        // The places are those of all rooms.
        most => format!("up to {most} messages may be lost"),
    }
}

fn in_doubt(failure: Failure, in_flight: usize) -> Failure {
    let doubt = match in_flight {
        0 => return failure,
        1 => " Your last line has no receipt: it may be lost.",
        2.. => " Your last lines have no receipt: they may be lost.",
    };
    match failure {
        Failure::Told { exit, message } => Failure::told(exit, format!("{message}{doubt}")),
        failure @ (Failure::PipeClosed | Failure::Output(_)) => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_counted_as_a_person_counts() {
        let gap = |from_sequence, to_sequence| {
            gap_text(&v1::Gap { topic: String::new(), from_sequence, to_sequence, reason: 0 })
        };
        assert_eq!(gap(5, 7), "up to 3 messages may be lost");
        assert_eq!(gap(5, 5), "1 message may be lost");
        assert!(gap(1, 0).contains("started anew"));
    }

    #[test]
    fn rooms_and_users_are_told_apart() {
        let room = parse_partner("kitchen").unwrap();
        assert_eq!((room.publishes_to(), room.listens_to("me").as_str()), ("room/kitchen", "room/kitchen"));
        assert_eq!(parse_partner("room/kitchen").unwrap(), room);
        let bob = parse_partner("@bob").unwrap();
        assert_eq!((bob.publishes_to(), bob.listens_to("me").as_str()), ("user/bob", "user/me"));
        for text in ["", "@", "@a b", "@a/b", "a b", "a//b"] {
            assert!(parse_partner(text).is_err(), "{text:?}");
        }
    }
}
