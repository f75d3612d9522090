//! How a task stands, and how it ended.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::event::Position;
use crate::client::error::ClientError;
use crate::client::stream::StreamEnd;

/// What a handler fails with.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// Where a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskState {
    /// Waits for the connection, the session, or its stream's first word.
    #[default]
    Connecting,
    /// Waits for events.
    Streaming,
    /// Its handler works.
    InHandler,
    /// Waits before it tries again.
    BackingOff,
    /// It was asked to stop and its handler still works.
    Draining,
}

impl TaskState {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Streaming => "streaming",
            Self::InHandler => "in handler",
            Self::BackingOff => "backing off",
            Self::Draining => "draining",
        }
    }
}

/// How a task stands.
#[derive(Clone, Debug, Default)]
pub struct TaskStatus {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub state: TaskState,
    /// The last position handled of every topic that has one, or the one it is to start after.
    pub positions: BTreeMap<String, Position>,
    /// Events handled.
    pub handled: u64,
    /// How often it had to start again.
    pub retries: u64,
    /// Failures in a row; 0 while its stream lives.
    pub failures: u32,
    /// What went wrong last.
    pub last_error: Option<Arc<str>>,
    /// Events received that are not handled yet.
    pub lag_events: usize,
    /// How old the newest of the events last handed to the handler was.
    pub lag_time: Option<Duration>,
}

/// Why a task ended.
#[derive(Debug)]
pub enum EndWhy {
    /// By its id, or with all others.
    Cancelled,
    /// With its group, or one above it.
    GroupCancelled,
    /// With the pipeline: it was shut down or dropped.
    Shutdown,
    /// Its time is over.
    TimedOut,
    /// An event was the one it waited for; the handler has had it.
    ConditionMet,
    /// What the caller gave it to wait for has come.
    Stopped,
    /// The hub ended its stream and does not want it back, or leaves that to the application.
    Ended(Box<StreamEnd>),
    /// The hub refused the session, the stream or one of the topics.
    Refused(Arc<ClientError>),
    /// It failed too often in a row.
    RetriesExhausted {
        /// That often.
        failures: u32,
        /// The last time.
        last: Arc<str>,
    },
    /// Its handler failed.
    HandlerFailed(HandlerError),
    /// Its handler panicked.
    HandlerPanicked,
}

impl fmt::Display for EndWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::GroupCancelled => f.write_str("cancelled with its group"),
            Self::Shutdown => f.write_str("the pipeline was shut down"),
            Self::TimedOut => f.write_str("its time is over"),
            Self::ConditionMet => f.write_str("its condition was met"),
            Self::Stopped => f.write_str("what it waited for has come"),
            Self::Ended(end) => match end.reason {
                Some(reason) => write!(f, "the hub ended it: {}: {}", reason.name(), end.status.message()),
                None => write!(f, "the hub ended it: {:?}: {}", end.status.code(), end.status.message()),
            },
            Self::Refused(error) => write!(f, "refused: {error}"),
            Self::RetriesExhausted { failures, last } => {
                write!(f, "given up after {failures} failures in a row: {last}")
            }
            Self::HandlerFailed(error) => write!(f, "its handler failed: {error}"),
            Self::HandlerPanicked => f.write_str("its handler panicked"),
        }
    }
}

/// The one end of a task.
#[derive(Debug)]
pub struct TaskEnd {
    /// The task's name.
    pub id: String,
    /// Why.
    pub why: EndWhy,
    /// Where to go on from: the last position handled of every topic that has one, or the one it was to start after.
    pub positions: BTreeMap<String, Position>,
    /// Events handled.
    pub handled: u64,
    /// How often it had to start again.
    pub retries: u64,
    /// Whether its handler was still at work and had to be dropped.
    pub forced: bool,
}
