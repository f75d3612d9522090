//! Lines become events, many under way at once; what became of each is known at the end, or where to go on.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tonic::Code;

use crate::base::event::Position;
use crate::base::reason::EndReason;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::Interrupt;
use crate::cli::output::Output;
use crate::cli::progress::{Done, Progress};
use crate::cli::send::input::Input;
use crate::cli::send::{RunId, accepted_json, publish_failure};
use crate::cli::stdin::Line;
use crate::cli::text::{clean, count};
use crate::client::{ClientError, Message, PublishError, Publisher};

/// Published lines that wait for their receipts.
pub(crate) const IN_FLIGHT_MAX: usize = 64;
/// Without any receipt for so long, that is told.
const STALL_TOLD_AFTER: Duration = Duration::from_secs(5);
/// Then the hub is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// One run over an input.
pub(crate) struct Sending {
    publisher: Publisher,
    template: Message,
    run: RunId,
    skip: u64,
    tally: Tally,
}

/// What became of the lines so far.
#[derive(Debug, Default)]
struct Tally {
    /// Lines read, those passed over included.
    lines: u64,
    /// Line numbers whose receipts are due, in order.
    in_flight: VecDeque<u64>,
    accepted: u64,
    refused: u64,
}

impl Tally {
    /// Every line up to this one is settled.
    fn settled(&self) -> u64 {
        self.in_flight.front().map_or(self.lines, |first| first - 1)
    }
}

/// Why no more is read.
enum Stopped {
    /// All is.
    End,
    Interrupted,
    /// By something that is not about one line.
    Failed(Failure),
}

impl Sending {
    pub(crate) fn new(publisher: Publisher, template: Message, run: RunId, skip: u64) -> Self {
        Self { publisher, template, run, skip, tally: Tally::default() }
    }

    /// Sends all of it, and tells what became of it.
    pub(crate) async fn all(
        mut self,
        mut input: Input,
        interrupt: &mut Interrupt,
        output: &mut Output,
    ) -> Result<Exit, Failure> {
        let mut progress = Progress::new(Instant::now());
        let stopped = self.run(&mut input, interrupt, &mut progress, output).await;
        progress.clear(output);
        self.tell(stopped, output)
    }

    async fn run(
        &mut self,
        input: &mut Input,
        interrupt: &mut Interrupt,
        progress: &mut Progress,
        output: &mut Output,
    ) -> Stopped {
        let mut receipts = FuturesOrdered::new();
        let (mut reading, mut interrupted, mut is_stall_told) = (true, false, false);
        let mut heard_at = Instant::now();
        while reading || !receipts.is_empty() {
            let patience = if is_stall_told { STALL_TIMEOUT } else { STALL_TOLD_AFTER };
            let done = tokio::select! {
                line = input.next(), if reading && receipts.len() < IN_FLIGHT_MAX => {
                    if receipts.is_empty() {
                        heard_at = Instant::now();
                    }
                    match line {
                        Ok(Some(line)) => match self.begin(line, output) {
                            Ok(Some((line, pending))) => {
                                receipts.push_back(async move { (line, pending.received().await) });
                                Ok(())
                            }
                            Ok(None) => Ok(()),
                            Err(failure) => Err(failure),
                        },
                        Ok(None) => {
                            reading = false;
                            Ok(())
                        }
                        Err(failure) => Err(failure),
                    }
                }
                Some((line, answer)) = receipts.next(), if !receipts.is_empty() => {
                    (heard_at, is_stall_told) = (Instant::now(), false);
                    if answer.is_err() {
                        progress.clear(output);
                    }
                    self.settle(line, answer, output)
                }
                () = sleep_until(heard_at + patience), if !receipts.is_empty() => {
                    progress.clear(output);
                    if is_stall_told {
                        Err(Failure::told(Exit::TempFail, "no receipt for a minute."))
                    } else {
                        is_stall_told = true;
                        output.notice("no receipt for 5 seconds; waiting for the hub");
                        Ok(())
                    }
                }
                () = interrupt.next() => {
                    if interrupted {
                        return Stopped::Interrupted;
                    }
                    output.interrupted();
                    (reading, interrupted) = (false, true);
                    Ok(())
                }
            };
            if let Err(failure) = done {
                return Stopped::Failed(failure);
            }
            let (bytes, bytes_all) = (input.bytes_read(), input.bytes_all);
            progress.draw(Done { events: self.tally.accepted, bytes, bytes_all }, Instant::now(), output);
        }
        if interrupted { Stopped::Interrupted } else { Stopped::End }
    }

    /// Hands a line over; none when there is nothing to wait for.
    fn begin(
        &mut self,
        line: Line,
        output: &mut Output,
    ) -> Result<Option<(u64, crate::client::PendingReceipt)>, Failure> {
        self.tally.lines += 1;
        let number = self.tally.lines;
        if number <= self.skip {
            return Ok(None);
        }
        let payload = match line {
            Line::Whole(payload) => payload,
            Line::TooLong(bytes) => {
                self.tally.refused += 1;
                let message = format!("{bytes} bytes are more than this hub takes");
                refuse(number, "ResourceExhausted", &message, output)?;
                return Ok(None);
            }
        };
        let message_id = self.run.message_id(number);
        let message = Message { payload: payload.into(), message_id, ..self.template.clone() };
        // There is a place: no more are under way than the publisher takes.
        let pending = self.publisher.try_publish(message).map_err(|error| publish_failure(&error))?;
        self.tally.in_flight.push_back(number);
        Ok(Some((number, pending)))
    }

    /// Takes a line's receipt; receipts are taken in the order of the lines.
    fn settle(
        &mut self,
        line: u64,
        answer: Result<Position, PublishError>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        match answer {
            Ok(position) => {
                self.tally.in_flight.pop_front();
                self.tally.accepted += 1;
                if output.json {
                    output.json(&accepted_json(line, &position))?;
                }
                Ok(())
            }
            Err(error) => match line_refusal(&error) {
                Some((code, message)) => {
                    self.tally.in_flight.pop_front();
                    self.tally.refused += 1;
                    refuse(line, &code, &message, output)
                }
                None => Err(publish_failure(&error)),
            },
        }
    }

    fn tell(self, stopped: Stopped, output: &mut Output) -> Result<Exit, Failure> {
        let tally = &self.tally;
        let sums = format!("{} accepted, {} refused", count(tally.accepted, "event"), tally.refused);
        let (settled, run) = (tally.settled().max(self.skip), self.run);
        let go_on = format!("--skip-lines {settled} --resume {run}");
        match stopped {
            Stopped::Failed(Failure::Told { exit, message }) => {
                let doubt = doubt(tally);
                let text = format!("{message} {sums}.{doubt} Go on with {go_on}.");
                // Whatever the reason, not everything was sent.
                Err(Failure::told(if exit == Exit::Ok { Exit::TempFail } else { exit }, text))
            }
            Stopped::Failed(failure) => Err(failure),
            Stopped::Interrupted if output.json => {
                output.json(&json!({"interrupted": {
                    "accepted": tally.accepted,
                    "refused": tally.refused,
                    "skip_lines": settled,
                    "resume": run.to_string(),
                }}))?;
                Ok(Exit::Interrupted)
            }
            Stopped::Interrupted => {
                output.notice(&format!("{sums}; stopped after line {settled}.{}", doubt(tally)));
                output.notice(&format!("go on with {go_on}"));
                Ok(if tally.refused > 0 { Exit::Data } else { Exit::Interrupted })
            }
            Stopped::End => {
                if !output.json {
                    output.notice(&sums);
                }
                Ok(if tally.refused > 0 { Exit::Data } else { Exit::Ok })
            }
        }
    }
}

fn doubt(tally: &Tally) -> String {
    match (tally.in_flight.front(), tally.in_flight.back()) {
        (Some(first), Some(last)) if first == last => {
            format!(" Line {first} has no receipt: it may be lost.")
        }
        (Some(first), Some(last)) => format!(" Lines {first} to {last} have no receipt: they may be lost."),
        (_, _) => String::new(),
    }
}

/// Code and text of a refusal that is about one line; all else is about all of them.
fn line_refusal(error: &PublishError) -> Option<(String, String)> {
    let PublishError::Refused(error) = error else { return None };
    let ClientError::Refused { status, .. } = &**error else { return None };
    let is_of_line = match error.reason() {
        Some(EndReason::InvalidRequest | EndReason::QuotaExceeded) => true,
        Some(_) => false,
        None => {
            matches!(status.code(), Code::InvalidArgument | Code::ResourceExhausted | Code::PermissionDenied)
        }
    };
    is_of_line.then(|| (format!("{:?}", status.code()), status.message().to_owned()))
}

fn refuse(line: u64, code: &str, message: &str, output: &mut Output) -> Result<(), Failure> {
    if output.json {
        return output.json(&json!({"line": line, "error": {"code": code, "message": message}}));
    }
    output.error(&format!("line {line}: refused: {}", clean(message)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;
    use std::sync::Arc;
    use tonic::Status;

    /// A run on a pipeline that nobody answers.
    fn sending(in_flight: &[u64]) -> Sending {
        let user = crate::client::Credentials::User { user: "alice".to_owned(), password: String::new() };
        let config = crate::client::PipelineConfig::new("127.0.0.1:1".parse().unwrap(), user);
        let dial = || std::future::pending::<Result<crate::client::Client, ClientError>>();
        let pipeline = crate::client::Pipeline::over(config, dial).unwrap();
        let mut sending =
            Sending::new(pipeline.publisher(), Message::default(), "00000000000000af".parse().unwrap(), 0);
        sending.tally.lines = in_flight.last().copied().unwrap_or_default();
        sending.tally.in_flight = in_flight.iter().copied().collect();
        sending
    }

    fn accepted(sequence: u64) -> Result<Position, PublishError> {
        Ok(Position { epoch: "e".to_owned(), sequence })
    }

    fn refused(status: Status) -> Result<Position, PublishError> {
        Err(PublishError::Refused(Arc::new(ClientError::from(status))))
    }

    #[tokio::test]
    async fn every_refused_line_is_told_with_its_number() {
        let (mut output, out, err) = captured(false);
        let mut sending = sending(&[3, 4]);
        sending.settle(3, accepted(10), &mut output).unwrap();
        sending.settle(4, refused(Status::invalid_argument("too\nlong")), &mut output).unwrap();
        assert_eq!((sending.tally.accepted, sending.tally.refused), (1, 1));
        assert_eq!(out.text(), "");
        assert_eq!(err.text(), "streamward: line 4: refused: too\\nlong\n");
    }

    #[tokio::test]
    async fn json_has_one_document_per_line_sent() {
        let (mut output, out, _) = captured(true);
        let mut sending = sending(&[1, 2]);
        sending.settle(1, accepted(10), &mut output).unwrap();
        sending.settle(2, refused(Status::invalid_argument("no")), &mut output).unwrap();
        let lines: Vec<serde_json::Value> =
            out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"line": 1, "sequence": 10, "epoch": "e"}));
        assert_eq!(lines[1], json!({"line": 2, "error": {"code": "InvalidArgument", "message": "no"}}));
    }

    #[tokio::test]
    async fn what_is_about_all_lines_stops_and_says_where_to_go_on() {
        for (error, exit) in [
            (refused(Status::unavailable("restart")), Exit::Unavailable),
            (Err(PublishError::ShutDown), Exit::TempFail),
        ] {
            let (mut output, _, _) = captured(false);
            let mut sending = sending(&[5, 6, 7]);
            sending.tally.accepted = 4;
            let failure = sending.settle(5, error, &mut output).unwrap_err();
            let failure = sending.tell(Stopped::Failed(failure), &mut output).unwrap_err();
            assert_eq!(failure.exit(), exit);
            let text = failure.to_string();
            assert!(text.contains("4 events accepted, 0 refused. Lines 5 to 7 have no receipt"), "{text}");
            assert!(text.ends_with("Go on with --skip-lines 4 --resume 00000000000000af."), "{text}");
        }
    }

    #[tokio::test]
    async fn a_stop_with_every_receipt_goes_on_after_the_last_line() {
        let (mut output, _, err) = captured(false);
        let mut sending = sending(&[]);
        sending.tally.lines = 9;
        assert_eq!(sending.tell(Stopped::Interrupted, &mut output).unwrap(), Exit::Interrupted);
        assert!(
            err.text().ends_with("-- go on with --skip-lines 9 --resume 00000000000000af\n"),
            "{}",
            err.text()
        );
    }

    #[tokio::test]
    async fn lines_that_were_sent_before_are_passed_over_and_keep_their_numbers() {
        let (mut output, _, _) = captured(false);
        let mut sending = sending(&[]);
        sending.skip = 2;
        let line = || Line::Whole(b"x".to_vec());
        assert!(sending.begin(line(), &mut output).unwrap().is_none());
        assert!(sending.begin(line(), &mut output).unwrap().is_none());
        assert_eq!(sending.begin(line(), &mut output).unwrap().unwrap().0, 3);
        assert_eq!(sending.tally.settled(), 2);
    }
}
