//! Why a stream or session ended: one closed enum from which code, return advice, log level and label follow.

use std::sync::Arc;

/// Why a stream or session ended. The first cause wins and is never overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndReason {
    /// Half-close, or in-band logout of the stream that asked.
    Completed,
    /// `RST_STREAM` from the peer.
    ClientCancelled,
    /// Socket error, end of file or keep-alive timeout.
    ConnectionLost,
    /// `grpc-timeout` passed.
    DeadlineExceeded,
    /// The session logged out.
    SessionLoggedOut,
    /// The lease ran out.
    SessionExpired,
    /// The same user and client name logged in again.
    SessionTakenOver,
    /// No traffic for the stream's idle timeout.
    IdleTimeout,
    /// Lag bound passed with the disconnect policy.
    SlowConsumer,
    /// A count, size or rate limit.
    QuotaExceeded,
    /// Refused or shed to save memory.
    MemoryPressure,
    /// An administrator ended it.
    AdminCancelled,
    /// The server is stopping.
    ServerDraining,
    /// A bug of the server.
    Internal,
    /// The client sent what is not a frame of the contract.
    InvalidRequest,
}

/// gRPC status codes the reasons use, with their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// Ended on purpose by someone.
    Cancelled = 1,
    /// What was sent can never work.
    InvalidArgument = 3,
    /// The call's own time is over.
    DeadlineExceeded = 4,
    /// A limit.
    ResourceExhausted = 8,
    /// Start over at a higher level.
    Aborted = 10,
    /// A bug.
    Internal = 13,
    /// Come back later.
    Unavailable = 14,
    /// Log in again.
    Unauthenticated = 16,
}

/// Whether and how the client should come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Do not.
    No,
    /// The application knows.
    Application,
    /// Log in, then open the stream again.
    LogInAgain,
    /// At once, resuming from the last sequence.
    Resume,
    /// After `RetryInfo`, each stream at its own time.
    Later,
}

/// How loudly an end is logged (STYLE: ERROR = a human must look, INFO = state change, DEBUG = a peer hanging up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loudness {
    /// A human must look.
    Error,
    /// Unexpected, carried on.
    Warn,
    /// A state change.
    Info,
    /// A peer hanging up.
    Debug,
}

impl EndReason {
    /// Every reason, in the order of the contract's numbers.
    pub const ALL: [Self; 15] = [
        Self::Completed,
        Self::ClientCancelled,
        Self::ConnectionLost,
        Self::DeadlineExceeded,
        Self::SessionLoggedOut,
        Self::SessionExpired,
        Self::SessionTakenOver,
        Self::IdleTimeout,
        Self::SlowConsumer,
        Self::QuotaExceeded,
        Self::MemoryPressure,
        Self::AdminCancelled,
        Self::ServerDraining,
        Self::Internal,
        Self::InvalidRequest,
    ];

    /// The name in `ErrorInfo.reason` and in the contract's enum.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "COMPLETED",
            Self::ClientCancelled => "CLIENT_CANCELLED",
            Self::ConnectionLost => "CONNECTION_LOST",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::SessionLoggedOut => "SESSION_LOGGED_OUT",
            Self::SessionExpired => "SESSION_EXPIRED",
            Self::SessionTakenOver => "SESSION_TAKEN_OVER",
            Self::IdleTimeout => "IDLE_TIMEOUT",
            Self::SlowConsumer => "SLOW_CONSUMER",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::MemoryPressure => "MEMORY_PRESSURE",
            Self::AdminCancelled => "ADMIN_CANCELLED",
            Self::ServerDraining => "SERVER_DRAINING",
            Self::Internal => "INTERNAL",
            Self::InvalidRequest => "INVALID_REQUEST",
        }
    }

    /// The reason of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// The gRPC code of the ended call.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Completed => Code::Ok,
            Self::ClientCancelled | Self::SessionLoggedOut | Self::AdminCancelled => Code::Cancelled,
            Self::ConnectionLost | Self::MemoryPressure | Self::ServerDraining => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::SessionExpired => Code::Unauthenticated,
            Self::SessionTakenOver | Self::IdleTimeout => Code::Aborted,
            Self::SlowConsumer | Self::QuotaExceeded => Code::ResourceExhausted,
            Self::Internal => Code::Internal,
            Self::InvalidRequest => Code::InvalidArgument,
        }
    }

    /// Whether the client should come back.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::Completed
            | Self::ClientCancelled
            | Self::SessionLoggedOut
            | Self::SessionTakenOver
            | Self::AdminCancelled
            | Self::Internal
            | Self::InvalidRequest => Retry::No,
            Self::DeadlineExceeded | Self::IdleTimeout => Retry::Application,
            Self::SessionExpired => Retry::LogInAgain,
            Self::ConnectionLost | Self::SlowConsumer => Retry::Resume,
            Self::QuotaExceeded | Self::MemoryPressure | Self::ServerDraining => Retry::Later,
        }
    }

    /// Whether what the stream was owed is delivered before its status.
    ///
    /// True where nothing is wrong with the stream; false where it is out of time, trust or room.
    #[must_use]
    pub const fn delivers_first(self) -> bool {
        match self {
            Self::Completed | Self::SessionLoggedOut | Self::ServerDraining => true,
            Self::ClientCancelled
            | Self::ConnectionLost
            | Self::DeadlineExceeded
            | Self::SessionExpired
            | Self::SessionTakenOver
            | Self::IdleTimeout
            | Self::SlowConsumer
            | Self::QuotaExceeded
            | Self::MemoryPressure
            | Self::AdminCancelled
            | Self::Internal
            | Self::InvalidRequest => false,
        }
    }

    /// How loudly one such end is logged.
    #[must_use]
    pub const fn loudness(self) -> Loudness {
        match self {
            Self::Internal => Loudness::Error,
            Self::MemoryPressure => Loudness::Warn,
            Self::SessionExpired
            | Self::SessionTakenOver
            | Self::SlowConsumer
            | Self::QuotaExceeded
            | Self::AdminCancelled => Loudness::Info,
            Self::Completed
            | Self::ClientCancelled
            | Self::ConnectionLost
            | Self::DeadlineExceeded
            | Self::SessionLoggedOut
            | Self::IdleTimeout
            | Self::ServerDraining
            | Self::InvalidRequest => Loudness::Debug,
        }
    }

    /// What a person reads in the status when the end carries no note.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientCancelled => "the client cancelled the call",
            Self::ConnectionLost => "the connection was lost",
            Self::DeadlineExceeded => "the call's deadline passed",
            Self::SessionLoggedOut => "the session logged out",
            Self::SessionExpired => "the session's lease ran out: no heartbeat and no traffic; log in again",
            Self::SessionTakenOver => "the same user and client name logged in again",
            Self::IdleTimeout => "no traffic for the stream's idle timeout",
            Self::SlowConsumer => "the stream fell behind its lag bound; resume from last_sequence",
            Self::QuotaExceeded => "a limit was reached",
            Self::MemoryPressure => "the server is short of memory; come back later",
            Self::AdminCancelled => "ended by an administrator",
            Self::ServerDraining => "the server is stopping; come back after the time given",
            Self::Internal => "a bug in the server ended this call",
            Self::InvalidRequest => "the client sent an invalid frame",
        }
    }

    /// Index into tables with one entry per reason.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A reason with what else is known: set once, handed to children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Why.
    pub reason: EndReason,
    /// The administrator's note, or a detail for the status text; often empty.
    pub note: Arc<str>,
    /// Who asked: `client`, `server`, `admin uid=<n>` or `signal`.
    pub asked_by: Arc<str>,
    /// The limit that was reached, for `QUOTA_EXCEEDED`.
    pub quota: Option<Quota>,
}

/// A limit that was reached, as `QuotaFailure` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The configuration key, for example `limits.sessions_max`.
    pub key: &'static str,
    /// Its value.
    pub value: u64,
}

impl Cause {
    /// An end the server decided by its own rules.
    #[must_use]
    pub fn server(reason: EndReason) -> Self {
        Self { reason, note: "".into(), asked_by: "server".into(), quota: None }
    }

    /// An end the client asked for or caused.
    #[must_use]
    pub fn client(reason: EndReason) -> Self {
        Self { reason, note: "".into(), asked_by: "client".into(), quota: None }
    }

    /// A reached limit.
    #[must_use]
    pub fn quota(quota: Quota) -> Self {
        Self {
            reason: EndReason::QuotaExceeded,
            note: format!("the limit {} = {} was reached", quota.key, quota.value).into(),
            asked_by: "server".into(),
            quota: Some(quota),
        }
    }

    /// The same cause with a note.
    #[must_use]
    pub fn with_note(mut self, note: &str) -> Self {
        self.note = note.into();
        self
    }

    /// What a person reads: the note, or the reason's own text.
    #[must_use]
    pub fn text(&self) -> &str {
        if self.note.is_empty() { self.reason.text() } else { &self.note }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_name_and_index() {
        for (at, reason) in EndReason::ALL.into_iter().enumerate() {
            assert_eq!(EndReason::from_name(reason.name()), Some(reason));
            assert_eq!(reason.index(), at);
        }
        assert_eq!(EndReason::from_name("COMPLETED "), None);
    }

    #[test]
    fn only_a_completed_end_is_ok() {
        for reason in EndReason::ALL {
            assert_eq!(reason.code() == Code::Ok, reason == EndReason::Completed);
        }
    }
}
