//! `streamward chat`: talk in a room or to a user, line by line; works in pipes.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use tokio::io::AsyncBufRead;
use tokio::time::timeout;

use crate::base::principal::Principal;
use crate::base::topic::Topic;
use crate::cli::events::notice_line;
use crate::cli::exit::{Exit, Failure, end_text, exit_of};
use crate::cli::hub::{HubArgs, Interrupt, logout};
use crate::cli::output::Output;
use crate::cli::stdin::{Line, Lines};
use crate::cli::text::{clean, show_payload};
use crate::client::{ClientError, Item, MessageStream, Receipt, Sender, Session, StreamEnd};
use crate::wire::v1;

/// Lines that wait for their receipts.
const IN_FLIGHT_MAX: usize = 32;
/// After the last receipt the hub has this long to deliver what is pending.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Talk in a room, or to a user
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward chat kitchen                  talk in room/kitchen
  streamward chat @bob --user alice        write to bob, read your own inbox
  echo 'dinner is ready' | streamward chat kitchen

Every line is sent; what others say is printed as name: text.
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
/// When the hub cannot be reached, or ended the stream.
pub(crate) async fn run(args: ChatArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let session = interrupt.or(args.hub.login(output)).await?;
    let user = args.hub.user();
    let message_bytes_max = usize::try_from(session.policy().max_message_bytes).unwrap_or(usize::MAX);
    let lines = Lines::stdin(message_bytes_max);
    let talked = match interrupt.or(Chat::open(&session, &args.partner, &user)).await {
        Ok(mut chat) => {
            if io::stdin().is_terminal() {
                output.notice(&format!(
                    "you are {user} in {}; /quit or Ctrl-D ends",
                    chat.partner.publishes_to()
                ));
            }
            chat.talk(lines, &mut interrupt, output).await
        }
        Err(failure) => Err(failure),
    };
    logout(session, None, &mut interrupt, output).await;
    talked
}

/// One conversation on one stream.
struct Chat<'a> {
    partner: &'a Partner,
    user: &'a str,
    /// Begins the ids of this program's own lines: the same user may talk from elsewhere, too.
    own: String,
    sender: Option<Sender>,
    stream: MessageStream,
    /// Lines whose receipts are due.
    in_flight: VecDeque<String>,
    refused: u64,
    line_number: u64,
}

impl<'a> Chat<'a> {
    async fn open(session: &Session, partner: &'a Partner, user: &'a str) -> Result<Self, Failure> {
        let mut own = [0; 8];
        getrandom::fill(&mut own)
            .map_err(|error| Failure::told(Exit::Internal, format!("no random numbers: {error}.")))?;
        let (sender, stream) = session.open().await?;
        let topic = partner.listens_to(user);
        sender.subscribe(v1::Subscription { topic, ..Default::default() }).await?;
        Ok(Self {
            partner,
            user,
            own: format!("{:016x}.", u64::from_be_bytes(own)),
            sender: Some(sender),
            stream,
            in_flight: VecDeque::new(),
            refused: 0,
            line_number: 0,
        })
    }

    async fn talk<R: AsyncBufRead + Unpin>(
        &mut self,
        mut lines: Lines<R>,
        interrupt: &mut Interrupt,
        output: &mut Output,
    ) -> Result<Exit, Failure> {
        let mut reading = true;
        while reading || !self.in_flight.is_empty() {
            tokio::select! {
                line = lines.next(), if reading && self.in_flight.len() < IN_FLIGHT_MAX => {
                    let line = line.map_err(|error| {
                        Failure::told(Exit::Io, format!("cannot read standard input: {error}."))
                    })?;
                    reading = match line {
                        Some(line) => self.say(line, output).await?,
                        None => false,
                    };
                }
                item = self.stream.next() => match item {
                    Ok(item) => self.hear(&item, output)?,
                    Err(end) => return Err(ended(&end, self.in_flight.len())),
                },
                () = interrupt.next() => {
                    output.interrupted();
                    break;
                }
            }
        }
        // Half-close: the hub delivers what is pending and ends the stream.
        self.sender = None;
        tokio::select! {
            last = timeout(END_TIMEOUT, self.listen_to_the_end(output)) => {
                if let Ok(heard) = last {
                    heard?;
                }
            }
            () = interrupt.next() => {}
        }
        Ok(if self.refused > 0 { Exit::Data } else { Exit::Ok })
    }

    async fn listen_to_the_end(&mut self, output: &mut Output) -> Result<(), Failure> {
        while let Ok(item) = self.stream.next().await {
            self.hear(&item, output)?;
        }
        Ok(())
    }

    /// Publishes the line; false when it ends the conversation.
    async fn say(&mut self, line: Line, output: &mut Output) -> Result<bool, Failure> {
        self.line_number += 1;
        let line = match line {
            Line::Whole(line) => line,
            Line::TooLong(_) => {
                self.refused += 1;
                output.error("not sent: the line is longer than this hub takes");
                return Ok(true);
            }
        };
        let text = line.trim_ascii();
        if text == b"/quit" {
            return Ok(false);
        }
        let Some(sender) = self.sender.as_ref().filter(|_| !text.is_empty()) else { return Ok(true) };
        let id = format!("{}{}", self.own, self.line_number);
        self.in_flight.push_back(id.clone());
        match sender.publish(self.partner.publishes_to(), line, &id, "text/plain; charset=utf-8").await {
            // Of an ended stream, reading it tells why.
            Ok(()) | Err(ClientError::StreamEnded) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn hear(&mut self, item: &Item, output: &mut Output) -> Result<(), Failure> {
        match item {
            Item::Event(event) if event.sender == self.user && event.message_id.starts_with(&self.own) => {
                Ok(())
            }
            Item::Event(event) => {
                let name = output.paint.bold(&clean(&event.sender));
                output.line(&format!("{name}: {}", show_payload(&event.payload)))
            }
            Item::Receipt(receipt) => {
                self.in_flight.pop_front();
                self.tell_refusal(receipt, output);
                Ok(())
            }
            // Without its subscription the conversation is one-sided: better to stop than to look silent.
            Item::Refused { status, topic } => Err(Failure::told(
                exit_of(None, status.code()),
                format!("cannot listen to {}: {}.", clean(topic), clean(status.message())),
            )),
            Item::Gap(_)
            | Item::Subscribed(_)
            | Item::Draining { .. }
            | Item::DeadlineNear { .. }
            | Item::HeartbeatAck { .. } => {
                if let Some(line) = notice_line(item) {
                    output.notice(&line);
                }
                Ok(())
            }
        }
    }

    fn tell_refusal(&mut self, receipt: &Receipt, output: &mut Output) {
        if let Err(status) = &receipt.outcome {
            self.refused += 1;
            output.error(&format!("not sent: {}", clean(status.message())));
        }
    }
}

fn ended(end: &StreamEnd, in_flight: usize) -> Failure {
    let doubt = match in_flight {
        0 => "",
        1 => " Your last line has no receipt: it may be lost.",
        2.. => " Your last lines have no receipt: they may be lost.",
    };
    let text = format!("the stream ended: {}{doubt}", end_text(end));
    Failure::told(exit_of(end.reason, end.status.code()), text)
}

#[cfg(test)]
mod tests {
    use super::*;

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
