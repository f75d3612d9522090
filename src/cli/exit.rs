//! Exit codes (sysexits.h) and the failures that lead to them.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tonic::Code;

use crate::base::reason::EndReason;
use crate::cli::text::{clean, show_duration};
use crate::client::{ClientError, StreamEnd};
use crate::wire::ended::EndDetails;

/// How the program ends, as scripts and service managers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// `doctor` found what must be put right. As check programs answer; sysexits.h has no code for it.
    Unwell = 1,
    /// The command line is wrong.
    Usage = 64,
    /// What was given cannot be used: refused events, ids that name nothing.
    Data = 65,
    /// No hub there.
    Unavailable = 69,
    /// A bug, here or in the hub.
    Internal = 70,
    /// The system refused what every process needs.
    OsError = 71,
    /// The admin socket cannot be made.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Come back later.
    TempFail = 75,
    /// A command of the user's failed. sysexits.h calls it EX_PROTOCOL: the one we ran for an event did not do its part.
    Command = 76,
    /// Not allowed, or told to stay away.
    NoPerm = 77,
    /// The configuration has mistakes.
    Config = 78,
    /// Stopped by a signal before everything was done.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command stops early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What went wrong, where, and what to do, for a person.
    #[error("{message}")]
    Told {
        /// The exit code.
        exit: Exit,
        /// One or more whole sentences.
        message: String,
    },
    /// Nobody reads our output any more, as in `streamward tail … | head`.
    #[error("the output was closed")]
    PipeClosed,
    /// Writing the output failed otherwise, for example on a full disk.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
}

impl Failure {
    pub(crate) fn told(exit: Exit, message: impl Into<String>) -> Self {
        Self::Told { exit, message: message.into() }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Told { exit, .. } => *exit,
            Self::PipeClosed => Exit::Ok,
            Self::Output(_) => Exit::Io,
        }
    }
}

impl From<io::Error> for Failure {
    /// Only the writer uses `?` on an io::Error; reads name what they read.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::PipeClosed } else { Self::Output(error) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::from(&error)
    }
}

impl From<&ClientError> for Failure {
    fn from(error: &ClientError) -> Self {
        match error {
            ClientError::Endpoint(error) => Self::told(Exit::Usage, format!("--server: {error}.")),
            ClientError::Connect { endpoint, why, kind } => connect_failure(endpoint, why, *kind),
            ClientError::Refused { status, details } => {
                let advice = advice(details.as_deref());
                let exit = exit_of(details.as_ref().map(|details| details.reason), status.code());
                Self::told(
                    exit,
                    format!("the hub refused: {}.{advice}", sentence(status.message(), status.code())),
                )
            }
            ClientError::Transport { why } => Self::told(
                Exit::TempFail,
                format!(
                    "the connection to the hub broke: {}. Whether the call was obeyed is unknown.",
                    clean(why)
                ),
            ),
            error @ (ClientError::StreamEnded | ClientError::Contract(_)) => {
                Self::told(Exit::Internal, format!("{error}."))
            }
        }
    }
}

fn connect_failure(endpoint: &str, why: &str, kind: Option<io::ErrorKind>) -> Failure {
    let (exit, advice) = if kind == Some(io::ErrorKind::PermissionDenied) {
        (Exit::NoPerm, "Only the server's owner and root may: try `sudo`.")
    } else {
        (Exit::Unavailable, "Is it running? Start one with `streamward serve`.")
    };
    Failure::told(exit, format!("cannot reach the hub at {endpoint}: {}. {advice}", clean(why)))
}

/// The exit code of an ended or refused call.
pub(crate) fn exit_of(reason: Option<EndReason>, code: Code) -> Exit {
    let Some(reason) = reason else { return exit_of_code(code) };
    match reason {
        EndReason::Completed => Exit::Ok,
        EndReason::InvalidRequest => Exit::Data,
        EndReason::Internal => Exit::Internal,
        // Told to stay away: a service manager must not start us again.
        EndReason::SessionLoggedOut | EndReason::SessionTakenOver | EndReason::AdminCancelled => Exit::NoPerm,
        EndReason::ClientCancelled
        | EndReason::ConnectionLost
        | EndReason::DeadlineExceeded
        | EndReason::SessionExpired
        | EndReason::IdleTimeout
        | EndReason::SlowConsumer
        | EndReason::QuotaExceeded
        | EndReason::MemoryPressure
        | EndReason::ServerDraining => Exit::TempFail,
    }
}

fn exit_of_code(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Ok,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => Exit::Data,
        Code::PermissionDenied | Code::Unauthenticated => Exit::NoPerm,
        Code::Unavailable | Code::Unimplemented => Exit::Unavailable,
        Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted => Exit::TempFail,
        Code::Unknown | Code::Internal | Code::DataLoss => Exit::Internal,
    }
}

/// How a stream's end reads on stderr, with what to do.
pub(crate) fn end_text(end: &StreamEnd) -> String {
    let name =
        end.reason.map_or_else(|| format!("{:?}", end.status.code()), |reason| reason.name().to_owned());
    let text = match end.reason {
        // The status of a lost connection is the stack's own wording; ours is shorter.
        Some(EndReason::ConnectionLost) => EndReason::ConnectionLost.text().to_owned(),
        Some(_) | None => sentence(end.status.message(), end.status.code()),
    };
    format!("{name}: {text}.{}", advice(end.details.as_deref()))
}

/// The status text as the start of a sentence without its full stop.
fn sentence(message: &str, code: Code) -> String {
    let message = if message.is_empty() { code.description() } else { message };
    clean(message.trim_end_matches('.')).into_owned()
}

/// When to come back, if the hub says so. Whether to is in its text.
fn advice(details: Option<&EndDetails>) -> String {
    match details.and_then(|details| details.retry_after) {
        Some(Duration::ZERO) => " Come back at once.".to_owned(),
        Some(after) => format!(" Come back in {}.", show_duration(after)),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Retry;
    use tonic::Status;

    #[test]
    fn a_closed_pipe_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit(), Exit::Ok);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit(), Exit::Io);
    }

    #[test]
    fn connect_failures_say_what_where_and_what_to_do() {
        let refused = ClientError::Connect {
            endpoint: "127.0.0.1:50051".to_owned(),
            why: "connection refused".to_owned(),
            kind: Some(io::ErrorKind::ConnectionRefused),
        };
        let failure = Failure::from(refused);
        assert_eq!(failure.exit(), Exit::Unavailable);
        assert_eq!(
            failure.to_string(),
            "cannot reach the hub at 127.0.0.1:50051: connection refused. Is it running? Start one with `streamward serve`."
        );
        let denied = connect_failure("unix:/x", "permission denied", Some(io::ErrorKind::PermissionDenied));
        assert_eq!(denied.exit(), Exit::NoPerm);
        assert!(denied.to_string().contains("sudo"));
    }

    #[test]
    fn ends_to_come_back_from_are_temporary_and_ends_to_stay_away_from_are_not() {
        for reason in EndReason::ALL {
            let exit = exit_of(Some(reason), Code::Unknown);
            match reason.retry() {
                Retry::Resume | Retry::Later | Retry::LogInAgain | Retry::Application => {
                    assert_eq!(exit, Exit::TempFail, "{}", reason.name());
                }
                Retry::No => assert!(
                    matches!(exit, Exit::Ok | Exit::NoPerm | Exit::Internal | Exit::Data | Exit::TempFail),
                    "{}",
                    reason.name()
                ),
            }
        }
        assert_eq!(exit_of(None, Code::Unavailable), Exit::Unavailable);
        assert_eq!(exit_of(None, Code::NotFound), Exit::Data);
    }

    #[test]
    fn an_end_reads_as_reason_text_and_advice() {
        let mut end = StreamEnd::from_status(Status::unavailable("going down for repair."));
        assert_eq!(end_text(&end), "Unavailable: going down for repair.");
        end.reason = Some(EndReason::ServerDraining);
        end.details = Some(Box::new(EndDetails {
            reason: EndReason::ServerDraining,
            session: None,
            stream: None,
            last_sequence: None,
            retry_after: Some(Duration::from_millis(5500)),
            quota: None,
        }));
        assert_eq!(end_text(&end), "SERVER_DRAINING: going down for repair. Come back in 5.5s.");
    }

    #[test]
    fn a_note_cannot_play_with_the_terminal() {
        let end = StreamEnd::from_status(Status::cancelled("bye\x1b[2J"));
        assert_eq!(end_text(&end), "Cancelled: bye\\u{1b}[2J.");
    }
}
