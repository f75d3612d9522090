//! How an end is told: code, text, `ErrorInfo`, `RetryInfo`, `QuotaFailure` and `grpc-retry-pushback-ms`.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::base::id::{SessionKey, StreamKey};
use crate::base::reason::{Cause, EndReason, Retry};

/// `ErrorInfo.domain` of everything this server says.
pub const DOMAIN: &str = "streamward";
/// gRPC retry design A6: milliseconds after which a client may try again.
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// What is known of the call that ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndFacts {
    /// Its session.
    pub session: Option<SessionKey>,
    /// Its stream.
    pub stream: Option<StreamKey>,
    /// Highest sequence it delivered.
    pub last_sequence: Option<u64>,
    /// When the client may come back, counted from now.
    pub retry_after: Option<Duration>,
}

/// The status of a call that ended for `cause`.
#[must_use]
pub fn ended(cause: &Cause, facts: &EndFacts) -> Status {
    told(Code::from_i32(i32::from(cause.reason.code() as u8)), cause.text(), cause, facts)
}

/// The status of a call whose session ended for `cause` before. The code says what the call lacks; the details say why,
/// and so whether to log in again.
#[must_use]
pub fn session_over(cause: &Cause, facts: &EndFacts) -> Status {
    let advice = match cause.reason.retry() {
        Retry::No => "; do not log in again",
        // The reason's own text says so.
        Retry::LogInAgain if cause.note.is_empty() => "",
        Retry::LogInAgain | Retry::Application | Retry::Resume | Retry::Later => "; log in again",
    };
    let text = format!("the session of this token has ended: {}{advice}", cause.text());
    told(Code::Unauthenticated, &text, cause, facts)
}

fn told(code: Code, text: &str, cause: &Cause, facts: &EndFacts) -> Status {
    let mut metadata = HashMap::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), value);
        }
    };
    put("session", facts.session.map(|session| session.to_string()));
    put("stream", facts.stream.map(|stream| stream.to_string()));
    put("last_sequence", facts.last_sequence.map(|sequence| sequence.to_string()));
    let mut details = ErrorDetails::new();
    if let Some(quota) = &cause.quota {
        details.add_quota_failure_violation(
            quota.key,
            format!("{} = {}; the operator can raise it in the configuration", quota.key, quota.value),
        );
        metadata.insert("limit".to_owned(), quota.key.to_owned());
        metadata.insert("value".to_owned(), quota.value.to_string());
    }
    details.set_error_info(cause.reason.name(), DOMAIN, metadata);
    let mut headers = MetadataMap::new();
    if let Some(after) = facts.retry_after {
        details.set_retry_info(Some(after));
        if let Ok(value) = MetadataValue::try_from(after.as_millis().to_string()) {
            headers.insert(PUSHBACK, value);
        }
    }
    Status::with_error_details_and_metadata(code, text, details, headers)
}

/// The status of a call refused before it owned anything.
#[must_use]
pub fn refused(reason: EndReason, text: &str, retry_after: Option<Duration>) -> Status {
    ended(&Cause::server(reason).with_note(text), &EndFacts { retry_after, ..EndFacts::default() })
}

/// A field of the request breaks a rule of the contract.
#[must_use]
pub fn invalid_field(field: &str, text: &str) -> Status {
    detailed(Code::InvalidArgument, EndReason::InvalidRequest.name(), format!("{field}: {text}"), field)
}

/// The caller may not do this.
#[must_use]
pub fn forbidden(text: &str, field: &str) -> Status {
    detailed(Code::PermissionDenied, "PERMISSION_DENIED", text.to_owned(), field)
}

/// No valid token came with the call.
#[must_use]
pub fn unauthenticated(text: &str) -> Status {
    detailed(Code::Unauthenticated, "UNAUTHENTICATED", text.to_owned(), "authorization")
}

/// What the caller named is not there.
#[must_use]
pub fn not_found(text: String, field: &str) -> Status {
    detailed(Code::NotFound, "NOT_FOUND", text, field)
}

/// The request cannot be obeyed in the present state.
#[must_use]
pub fn precondition(text: String, field: &str) -> Status {
    detailed(Code::FailedPrecondition, "FAILED_PRECONDITION", text, field)
}

/// No such service or method.
#[must_use]
pub fn unimplemented(text: &str) -> Status {
    detailed(Code::Unimplemented, "UNIMPLEMENTED", text.to_owned(), "path")
}

fn detailed(code: Code, reason: &str, text: String, field: &str) -> Status {
    let metadata = HashMap::from([("field".to_owned(), field.to_owned())]);
    Status::with_error_details(code, text, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::Quota;
    use crate::wire::ended::end_details;

    #[test]
    fn every_reason_is_told_with_its_code_name_and_facts() {
        for reason in EndReason::ALL {
            let facts = EndFacts {
                session: Some(SessionKey { slot: 1, incarnation: 2 }),
                stream: Some(StreamKey { slot: 3, number: 4 }),
                last_sequence: Some(5),
                retry_after: (reason.retry() == Retry::Later).then_some(Duration::from_millis(1500)),
            };
            let status = ended(&Cause::server(reason), &facts);
            assert_eq!(status.code() as i32, i32::from(reason.code() as u8));
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.name(), DOMAIN));
            assert_eq!(info.metadata["session"], "session/1.2");
            assert_eq!(info.metadata["stream"], "stream/4");
            assert_eq!(info.metadata["last_sequence"], "5");
            let pushback = status.metadata().get(PUSHBACK).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(pushback, facts.retry_after.map(|_| "1500".to_owned()));
        }
    }

    #[test]
    fn a_session_that_is_over_is_told_with_its_reason_and_whether_to_log_in_again() {
        let session = Some(SessionKey { slot: 1, incarnation: 2 });
        for (reason, note) in EndReason::ALL.into_iter().flat_map(|reason| [(reason, ""), (reason, "a note")])
        {
            let cause = Cause::server(reason).with_note(note);
            let status = session_over(&cause, &EndFacts { session, ..EndFacts::default() });
            assert_eq!(status.code(), Code::Unauthenticated, "whatever the reason's own code is");
            let details = end_details(&status).unwrap();
            assert_eq!((details.reason, details.session.as_deref()), (reason, Some("session/1.2")));
            let text = status.message();
            assert!(text.contains(cause.text()), "{text}");
            assert_eq!(text.matches("log in again").count(), 1, "{text}");
            assert_eq!(text.ends_with("; do not log in again"), reason.retry() == Retry::No, "{text}");
        }
    }

    #[test]
    fn a_quota_names_its_limit_value_and_key() {
        let cause = Cause::quota(Quota { key: "limits.sessions_max", value: 256 });
        let status = ended(&cause, &EndFacts::default());
        let details = status.get_error_details();
        let violation = &details.quota_failure().unwrap().violations[0];
        assert_eq!(violation.subject, "limits.sessions_max");
        assert!(violation.description.contains("256"));
    }

    #[test]
    fn a_status_stays_under_the_header_list_limit_of_small_clients() {
        let note = "\u{e4}".repeat(crate::base::limits::NOTE_BYTES_MAX / 2);
        let cause = Cause::server(EndReason::AdminCancelled).with_note(&note);
        for status in [ended(&cause, &EndFacts::default()), session_over(&cause, &EndFacts::default())] {
            let mut headers = http::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let bytes: usize =
                headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(bytes < 4096, "{bytes}");
        }
    }
}
