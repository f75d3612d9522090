//! Reads what the status of an ended or refused call says about why (the `google.rpc` error details).

use std::time::Duration;

use tonic::Status;
use tonic_types::StatusExt as _;

use crate::base::reason::EndReason;
use crate::wire::status::DOMAIN;

/// Why a call ended or was refused, and what the client may do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndDetails {
    /// Why.
    pub reason: EndReason,
    /// The session that owned the call, as `session/<slot>.<incarnation>`.
    pub session: Option<String>,
    /// The stream that ended, as `stream/<number>`.
    pub stream: Option<String>,
    /// Highest sequence the server handed to the connection; what arrived may be less.
    pub last_sequence: Option<u64>,
    /// Come back after this long.
    pub retry_after: Option<Duration>,
    /// The limit that was reached.
    pub quota: Option<QuotaReached>,
}

/// One violation of `QuotaFailure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaReached {
    /// What the limit is on, for example the configuration's key.
    pub subject: String,
    /// The limit in words.
    pub description: String,
}

/// The details of an end, when the status carries `ErrorInfo` of this domain with a reason of this contract.
#[must_use]
pub fn end_details(status: &Status) -> Option<EndDetails> {
    // Most statuses carry no details; decoding nothing three times would find nothing three times.
    if status.details().is_empty() {
        return None;
    }
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let metadata = |key: &str| info.metadata.get(key).filter(|value| !value.is_empty()).cloned();
    Some(EndDetails {
        reason: EndReason::from_name(&info.reason)?,
        session: metadata("session"),
        stream: metadata("stream"),
        last_sequence: metadata("last_sequence").and_then(|text| text.parse().ok()),
        retry_after: status.get_details_retry_info().and_then(|retry| retry.retry_delay),
        quota: status.get_details_quota_failure().and_then(|failure| {
            let violation = failure.violations.into_iter().next()?;
            Some(QuotaReached { subject: violation.subject, description: violation.description })
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    fn status(domain: &str, reason: &str, more: impl FnOnce(&mut ErrorDetails)) -> Status {
        let metadata = HashMap::from([
            ("session".to_owned(), "session/1.2".to_owned()),
            ("stream".to_owned(), "stream/3".to_owned()),
            ("last_sequence".to_owned(), "41".to_owned()),
        ]);
        let mut details = ErrorDetails::with_error_info(reason, domain, metadata);
        more(&mut details);
        Status::with_error_details(Code::ResourceExhausted, "text", details)
    }

    #[test]
    fn every_detail_the_server_tells_is_read() {
        let status = status(DOMAIN, "QUOTA_EXCEEDED", |details| {
            details.set_retry_info(Some(Duration::from_millis(1500)));
            details.add_quota_failure_violation("limits.sessions_max", "at most 256 sessions");
        });
        let details = end_details(&status).unwrap();
        assert_eq!(details.reason, EndReason::QuotaExceeded);
        assert_eq!(details.session.as_deref(), Some("session/1.2"));
        assert_eq!(details.stream.as_deref(), Some("stream/3"));
        assert_eq!(details.last_sequence, Some(41));
        assert_eq!(details.retry_after, Some(Duration::from_millis(1500)));
        let quota = details.quota.unwrap();
        assert_eq!(quota.subject, "limits.sessions_max");
        assert_eq!(quota.description, "at most 256 sessions");
    }

    #[test]
    fn other_domains_reasons_and_plain_statuses_say_nothing() {
        assert_eq!(end_details(&Status::unavailable("x")), None);
        assert_eq!(end_details(&status("other.example", "QUOTA_EXCEEDED", |_| ())), None);
        assert_eq!(end_details(&status(DOMAIN, "FROM_A_LATER_VERSION", |_| ())), None);
        assert_eq!(end_details(&Status::with_details(Code::Internal, "x", vec![0xff; 3].into())), None);
    }

    #[test]
    fn optional_parts_may_be_missing() {
        let details = end_details(&status(DOMAIN, "SESSION_LOGGED_OUT", |_| ())).unwrap();
        assert_eq!(details.reason, EndReason::SessionLoggedOut);
        assert_eq!((details.retry_after, details.quota), (None, None));
    }
}
