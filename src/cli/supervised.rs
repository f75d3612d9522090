//! What the commands that come back by themselves share: their pipeline, what is told of its connection, their ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::base::event::Position;
use crate::base::principal::Principal;
use crate::base::reason::{EndReason, Retry};
use crate::cli::events::tell_notice;
use crate::cli::exit::{Exit, Failure, end_text, exit_of};
use crate::cli::hub::{HubArgs, Interrupt, previous_end_text};
use crate::cli::output::Output;
use crate::cli::text::clean;
use crate::client::{
    ClientError, Credentials, EndWhy, Item, Pipeline, PipelineConfig, Setback, StreamEnd, TaskEnd, Welcome,
    Word,
};
use crate::runtime::backoff::Backoff;

/// Logging out, and what is under way, may take this long; after that the lease ends the session.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// A handler that was told to stop, such as a command that was told to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// A person who waits looks again after half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A pipeline's configuration as these commands have it.
///
/// # Errors
/// When the client name cannot be one.
pub(crate) fn config(hub: &HubArgs, retries: Option<u32>) -> Result<PipelineConfig, Failure> {
    let user = hub.user();
    Principal::new(&user, &hub.client_name)
        .map_err(|error| Failure::told(Exit::Usage, format!("--client-name: {error}.")))?;
    let credentials = Credentials::User { user, password: String::new() };
    Ok(PipelineConfig {
        client_name: hub.client_name.clone(),
        max_retries: retries,
        backoff: Backoff { max: BACKOFF_MAX, ..Backoff::default() },
        drain_timeout: DRAIN_TIMEOUT,
        ..PipelineConfig::new(hub.server.clone(), credentials)
    })
}

/// Starts a pipeline; must be called on a runtime.
///
/// # Errors
/// What is wrong with the configuration.
pub(crate) fn start(config: PipelineConfig) -> Result<Pipeline, Failure> {
    Pipeline::new(config).map_err(|error| Failure::told(Exit::Usage, format!("{error}.")))
}

/// Waits for the first session, and tells why the last one of this client name ended, when that was not its own doing.
///
/// # Errors
/// When the first attempt fails, or more than so many: a typing error in the address must not wait for ever.
pub(crate) async fn connected(
    pipeline: &Pipeline,
    hub: &HubArgs,
    retries: Option<u32>,
    interrupt: &mut Interrupt,
    output: &mut Output,
) -> Result<Welcome, Failure> {
    let first =
        async { pipeline.connected(retries.unwrap_or(0)).await.map_err(|error| hub.login_failure(&error)) };
    let welcome = interrupt.or(first).await?;
    if let Some(text) = welcome.previous_end.as_ref().and_then(previous_end_text) {
        output.notice(&text);
    }
    Ok(welcome)
}

/// Ends the pipeline in order, unless another signal comes.
pub(crate) async fn stop(pipeline: Pipeline, interrupt: &mut Interrupt) {
    tokio::select! {
        _ = Box::pin(pipeline.shutdown(SHUTDOWN_TIMEOUT)) => {}
        () = interrupt.next() => {}
    }
}

/// What is told of a connection: its loss and its return once each, and what the last failure was. Clones are one.
#[derive(Clone)]
pub(crate) struct Outage(Arc<Mutex<Told>>);

struct Told {
    output: Output,
    is_lost: bool,
    /// A stream was live once.
    was_live: bool,
    last: Option<Last>,
    failure: Option<Failure>,
}

/// The last failure, for when no more attempts follow.
#[derive(Clone)]
enum Last {
    Ended(Box<StreamEnd>),
    Failed(Exit, String),
}

impl Outage {
    /// Nothing is lost yet.
    pub(crate) fn new(output: &Output) -> Self {
        let output = output.clone();
        Self(Arc::new(Mutex::new(Told {
            output,
            is_lost: false,
            was_live: false,
            last: None,
            failure: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a word of a task.
    pub(crate) fn hears(&self, word: Word<'_>) {
        let told = &mut *self.lock();
        let done = match word {
            Word::Setback { what, again } => told.setback(what, again),
            Word::Said(item) => told.said(item),
        };
        // Kept for the handler, which can end the task for it.
        if let Err(failure) = done {
            told.failure = Some(failure);
        }
    }

    /// Why the output could not be written.
    ///
    /// # Errors
    /// That, once.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.lock().failure.take().map_or(Ok(()), Err)
    }

    /// How the program ends with this end of its task.
    ///
    /// # Errors
    /// When that is no success.
    pub(crate) fn exit(&self, end: &TaskEnd) -> Result<Exit, Failure> {
        let told = &mut *self.lock();
        match &end.why {
            EndWhy::Cancelled
            | EndWhy::GroupCancelled
            | EndWhy::Shutdown
            | EndWhy::TimedOut
            | EndWhy::ConditionMet
            | EndWhy::Stopped => Ok(Exit::Ok),
            EndWhy::Ended(stream) => stream_ended(stream, &end.positions, &mut told.output),
            EndWhy::Refused(error) => Err(Failure::from(&**error)),
            EndWhy::RetriesExhausted { last, .. } => match &told.last {
                Some(Last::Ended(stream)) => stream_ended(stream, &end.positions, &mut told.output),
                Some(Last::Failed(exit, text)) => {
                    Err(Failure::told(*exit, format!("{text}{}", resume_text(&end.positions))))
                }
                None => Err(Failure::told(
                    Exit::TempFail,
                    format!("{}.{}", clean(last), resume_text(&end.positions)),
                )),
            },
            EndWhy::HandlerFailed(error) => match error.downcast_ref::<Failure>() {
                Some(Failure::Told { exit, message }) => {
                    Err(Failure::told(*exit, format!("{message}{}", resume_text(&end.positions))))
                }
                Some(Failure::PipeClosed) => Err(Failure::PipeClosed),
                Some(Failure::Output(error)) => {
                    Err(Failure::told(Exit::Io, format!("cannot write the output: {error}.")))
                }
                None => Err(Failure::told(Exit::Internal, format!("{error}."))),
            },
            EndWhy::HandlerPanicked => Err(Failure::told(Exit::Internal, format!("{}.", end.why))),
        }
    }
}

impl Told {
    fn setback(&mut self, what: Setback<'_>, again: bool) -> Result<(), Failure> {
        let why = match what {
            Setback::Left => {
                let lost = EndReason::ConnectionLost;
                let text = format!("the stream ended: {}: {}.", lost.name(), lost.text());
                self.last = Some(Last::Failed(Exit::TempFail, text));
                None
            }
            Setback::Ended(end) => {
                self.last = Some(Last::Ended(Box::new(end.clone())));
                let is_lost = matches!(end.reason, Some(EndReason::ConnectionLost));
                (!is_lost).then(|| format!("the stream ended: {}", end_text(end)))
            }
            Setback::Failed(error) => {
                let failure = Failure::from(error);
                let text = failure.to_string();
                self.last = Some(Last::Failed(failure.exit(), text.clone()));
                let is_lost = matches!(error, ClientError::Transport { .. } | ClientError::StreamEnded);
                (!is_lost).then_some(text)
            }
        };
        if !again || self.is_lost {
            return Ok(());
        }
        self.is_lost = true;
        let why = why.unwrap_or_else(|| "the connection was lost".to_owned());
        if self.output.json {
            return self.output.json(&json!({"notice": {"kind": "reconnecting", "reason": why}}));
        }
        let why = why.trim_end_matches('.');
        self.output.notice(&format!("{why}; trying again"));
        Ok(())
    }

    fn said(&mut self, item: &Item) -> Result<(), Failure> {
        if let Item::Subscribed(subscribed) = item {
            let from = subscribed.position.as_ref().map_or(0, |position| position.sequence);
            if std::mem::take(&mut self.is_lost) && !self.output.json {
                let again = if self.was_live { "connected again" } else { "connected" };
                self.output.notice(again);
            } else if !self.was_live && self.output.person_waits() {
                // A person who waits is told that it works.
                self.output
                    .notice(&format!("following {} after #{from}; Ctrl-C ends", clean(&subscribed.topic)));
            }
            self.was_live = true;
        }
        tell_notice(item, &mut self.output)
    }
}

/// The options that resume every topic: one position for all, so the smallest.
fn resume(positions: &BTreeMap<String, Position>) -> Option<String> {
    let last = positions.values().min_by_key(|position| position.sequence)?;
    Some(format!("--since {} --epoch {}", last.sequence, clean(&last.epoch)))
}

fn resume_text(positions: &BTreeMap<String, Position>) -> String {
    resume(positions).map_or_else(String::new, |resume| format!(" Resume with {resume}."))
}

fn stream_ended(
    end: &StreamEnd,
    positions: &BTreeMap<String, Position>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let exit = exit_of(end.reason, end.status.code());
    let comes_back = match end.reason.map(|reason| reason.retry()) {
        Some(Retry::Resume | Retry::Later | Retry::LogInAgain | Retry::Application) => true,
        Some(Retry::No) | None => false,
    };
    let resume = if comes_back { resume_text(positions) } else { String::new() };
    let text = format!("the stream ended: {}{resume}", end_text(end));
    if exit == Exit::Ok {
        output.notice(&text);
        return Ok(exit);
    }
    Err(Failure::told(exit, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;
    use crate::wire::v1;
    use tonic::Status;

    fn positions(places: &[(&str, u64)]) -> BTreeMap<String, Position> {
        let position = |sequence| Position { epoch: "e1".to_owned(), sequence };
        places.iter().map(|(topic, sequence)| ((*topic).to_owned(), position(*sequence))).collect()
    }

    fn end(why: EndWhy, places: &[(&str, u64)]) -> TaskEnd {
        let id = "tail".to_owned();
        TaskEnd { id, why, positions: positions(places), handled: 0, retries: 0, forced: false }
    }

    fn subscribed(topic: &str) -> Item {
        let position = Some(v1::Position { epoch: "e1".to_owned(), sequence: 3 });
        Item::Subscribed(v1::Subscribed { topic: topic.to_owned(), position, recovered: true })
    }

    fn lost() -> ClientError {
        ClientError::Transport { why: "connection reset".to_owned() }
    }

    #[test]
    fn an_end_to_resume_from_says_how() {
        let (output, _, _) = captured(false);
        let outage = Outage::new(&output);
        let mut stream = StreamEnd::from_status(Status::resource_exhausted("fell behind"));
        stream.reason = Some(EndReason::SlowConsumer);
        let last = Word::Setback { what: Setback::Ended(&stream), again: false };
        outage.hears(last);
        let exhausted = EndWhy::RetriesExhausted { failures: 1, last: "x".into() };
        let failure = outage.exit(&end(exhausted, &[("room/a", 9), ("room/b", 7)])).unwrap_err();
        assert_eq!(failure.exit(), Exit::TempFail);
        assert!(failure.to_string().ends_with("Resume with --since 7 --epoch e1."), "{failure}");

        stream.reason = Some(EndReason::AdminCancelled);
        let ended = EndWhy::Ended(Box::new(stream));
        let failure = outage.exit(&end(ended, &[("room/a", 9)])).unwrap_err();
        assert_eq!(failure.exit(), Exit::NoPerm);
        assert!(!failure.to_string().contains("Resume"), "{failure}");
    }

    #[test]
    fn a_completed_stream_is_success() {
        let (output, _, err) = captured(false);
        let completed = EndWhy::Ended(Box::new(StreamEnd::from_status(Status::ok(""))));
        assert_eq!(Outage::new(&output).exit(&end(completed, &[])).unwrap(), Exit::Ok);
        assert!(err.text().contains("COMPLETED"));
    }

    #[test]
    fn a_loss_and_a_return_are_told_once_each() {
        let (output, _, err) = captured(false);
        let outage = Outage::new(&output);
        outage.hears(Word::Said(&subscribed("room/a")));
        for _ in 0..3 {
            outage.hears(Word::Setback { what: Setback::Failed(&lost()), again: true });
        }
        outage.hears(Word::Said(&subscribed("room/a")));
        outage.hears(Word::Said(&subscribed("room/b")));
        outage.hears(Word::Setback { what: Setback::Left, again: true });
        let expected = "-- the connection was lost; trying again\n-- connected again\n\
                        -- the connection was lost; trying again\n";
        assert_eq!(err.text(), expected);
    }

    #[test]
    fn as_json_a_loss_is_a_document() {
        let (output, out, err) = captured(true);
        let outage = Outage::new(&output);
        outage.hears(Word::Setback { what: Setback::Failed(&lost()), again: true });
        outage.hears(Word::Said(&subscribed("room/a")));
        let documents: Vec<serde_json::Value> =
            out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(documents[0]["notice"]["kind"], "reconnecting");
        assert_eq!(documents[1]["notice"]["kind"], "subscribed");
        assert_eq!(err.text(), "");
    }
}
