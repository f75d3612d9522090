//! Whether to come back after an end or a refusal, and when: the hub's word first, then gRPC's.

use std::time::Duration;

use tonic::{Code, Status};

use crate::base::reason::{EndReason, Retry};
use crate::client::error::ClientError;
use crate::client::stream::StreamEnd;
use crate::runtime::backoff::Backoff;
use crate::wire::ended::end_details;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: it is over.
    Stop,
    /// Open it again.
    Again {
        /// When; `None` leaves that to the backoff.
        after: Option<Duration>,
        /// Whether the connection or the session is in doubt.
        link_in_doubt: bool,
    },
}

/// What an ended stream says.
pub(super) fn after_end(end: &StreamEnd) -> Next {
    after(end.reason, &end.status)
}

/// What a failed call says.
pub(super) fn after_error(error: &ClientError) -> Next {
    match error {
        ClientError::Connect { .. } | ClientError::Transport { .. } | ClientError::StreamEnded => {
            Next::Again { after: None, link_in_doubt: true }
        }
        ClientError::Refused { status, .. } => after(error.reason(), status),
        ClientError::Endpoint(_) | ClientError::Contract(_) => Next::Stop,
    }
}

fn after(reason: Option<EndReason>, status: &Status) -> Next {
    let told = told_wait(status);
    if told == Some(Told::Never) {
        return Next::Stop;
    }
    let wait = match told {
        Some(Told::After(wait)) => Some(wait),
        Some(Told::Never) | None => None,
    };
    let again = |after, link_in_doubt| Next::Again { after, link_in_doubt };
    match reason {
        // A token the hub does not know any more says at most why its session ended.
        Some(reason) => match reason.retry() {
            // Only a rate has a time to come back; a count is full until somebody goes.
            Retry::Later if reason == EndReason::QuotaExceeded && wait.is_none() => Next::Stop,
            Retry::Later => again(wait, reason == EndReason::ServerDraining),
            Retry::Resume if reason == EndReason::ConnectionLost => again(wait, true),
            Retry::Resume => again(wait.or(Some(Duration::ZERO)), false),
            Retry::LogInAgain => again(wait.or(Some(Duration::ZERO)), true),
            Retry::No | Retry::Application => Next::Stop,
        },
        None => match status.code() {
            Code::Unauthenticated => again(wait.or(Some(Duration::ZERO)), true),
            Code::Unavailable | Code::Unknown => again(wait, true),
            Code::ResourceExhausted | Code::Aborted => again(wait, false),
            Code::Ok
            | Code::Cancelled
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => Next::Stop,
        },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Never,
    After(Duration),
}

/// `RetryInfo`, or gRPC's pushback (gRFC A6), where a negative or unreadable number means never.
fn told_wait(status: &Status) -> Option<Told> {
    if let Some(wait) = end_details(status).and_then(|details| details.retry_after) {
        return Some(Told::After(wait));
    }
    let pushback = status.metadata().get("grpc-retry-pushback-ms")?;
    let millis = pushback.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    Some(millis.map_or(Told::Never, |millis| Told::After(Duration::from_millis(millis))))
}

/// How long to wait after so many failures in a row: as told, else as the backoff has it. At once is for the first time:
/// what fails at once again and again would never rest.
pub(super) fn wait(after: Option<Duration>, failures: u32, backoff: &Backoff) -> Duration {
    // Where there is no randomness, waits are only less spread.
    let dice = || getrandom::u32().unwrap_or(u32::MAX / 2);
    let told = after.filter(|after| !after.is_zero() || failures == 1);
    told.unwrap_or_else(|| backoff.delay(failures, dice()))
}

/// What is told of it.
pub(super) fn end_text(end: &StreamEnd) -> String {
    match end.reason {
        Some(reason) => format!("{}: {}", reason.name(), end.status.message()),
        None => format!("{:?}: {}", end.status.code(), end.status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic::metadata::MetadataMap;
    use tonic_types::{ErrorDetails, StatusExt as _};

    const SOON: Duration = Duration::from_secs(3);

    fn told(reason: EndReason, wait: Option<Duration>) -> Next {
        let mut details = ErrorDetails::with_error_info(reason.name(), "streamward", HashMap::new());
        details.set_retry_info(wait);
        let code = Code::from_i32(reason.code() as i32);
        let status = Status::with_error_details_and_metadata(code, "", details, MetadataMap::new());
        after_end(&StreamEnd::from_status(status))
    }

    #[test]
    fn every_reason_means_what_the_contract_says() {
        use EndReason::*;
        let again = |after, link_in_doubt| Next::Again { after, link_in_doubt };
        let now = Some(Duration::ZERO);
        for reason in EndReason::ALL {
            let expected = match reason {
                Completed | ClientCancelled | SessionLoggedOut | SessionTakenOver | AdminCancelled
                | Internal | InvalidRequest | DeadlineExceeded | IdleTimeout => (Next::Stop, Next::Stop),
                QuotaExceeded => (Next::Stop, again(Some(SOON), false)),
                MemoryPressure => (again(None, false), again(Some(SOON), false)),
                ServerDraining => (again(None, true), again(Some(SOON), true)),
                SlowConsumer => (again(now, false), again(Some(SOON), false)),
                ConnectionLost => (again(None, true), again(Some(SOON), true)),
                SessionExpired => (again(now, true), again(Some(SOON), true)),
            };
            assert_eq!((told(reason, None), told(reason, Some(SOON))), expected, "{reason:?}");
        }
    }

    #[test]
    fn pushback_wins_over_the_code_and_can_forbid() {
        let with = |text: &'static str| {
            let mut status = Status::unavailable("");
            status.metadata_mut().insert("grpc-retry-pushback-ms", text.parse().unwrap());
            after_end(&StreamEnd::from_status(status))
        };
        assert_eq!(with("3000"), Next::Again { after: Some(SOON), link_in_doubt: true });
        assert_eq!((with("-1"), with("soon")), (Next::Stop, Next::Stop));
    }
}
