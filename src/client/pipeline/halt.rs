//! Everything that asks a task to stop, and which of it came first.

use std::future::{Future, pending};
use std::pin::Pin;

use tokio::time::{Instant, sleep_until};

use crate::base::reason::{Cause, EndReason};
use crate::client::pipeline::end::EndWhy;
use crate::runtime::scope::Scope;

/// Tasks that end together, without their siblings: [`Pipeline::group`](crate::client::Pipeline::group). Clones are
/// the same group.
#[derive(Clone, Debug)]
pub struct Group(pub(super) Scope);

impl Group {
    /// A group within this one: it ends with it, and can end alone.
    #[must_use]
    pub fn group(&self) -> Self {
        Self(self.0.child())
    }

    /// Asks all members, of groups within too, to stop. A task started in it later ends at once.
    pub fn cancel(&self) {
        self.0.end(cancelled());
    }
}

/// Tells a handler that its task was asked to stop: what it does not finish in
/// [`drain_timeout`](crate::client::PipelineConfig::drain_timeout) is dropped where it waits.
#[derive(Clone, Debug)]
pub struct Stopping(pub(super) Scope);

impl Stopping {
    /// Resolves when the task was asked to stop.
    pub async fn requested(&self) {
        self.0.ending().await;
    }

    /// Whether it was.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_ending()
    }
}

/// The cause of every end within a pipeline; which node has it says the rest.
pub(super) fn cancelled() -> Cause {
    Cause::client(EndReason::ClientCancelled)
}

/// What asked a task to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Cancelled,
    GroupCancelled,
    Shutdown,
    TimedOut,
    Stopped,
}

impl From<Asked> for EndWhy {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Cancelled => Self::Cancelled,
            Asked::GroupCancelled => Self::GroupCancelled,
            Asked::Shutdown => Self::Shutdown,
            Asked::TimedOut => Self::TimedOut,
            Asked::Stopped => Self::Stopped,
        }
    }
}

/// What a caller may wait for.
pub(super) type StopWhen = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Watches all of them for one task.
pub(super) struct Halt {
    /// The task's own node.
    scope: Scope,
    /// The pipeline's.
    pipeline: Scope,
    due: Option<Instant>,
    stop_when: Option<StopWhen>,
    asked: Option<Asked>,
}

impl Halt {
    pub(super) fn new(
        scope: Scope,
        pipeline: Scope,
        due: Option<Instant>,
        stop_when: Option<StopWhen>,
    ) -> Self {
        Self { scope, pipeline, due, stop_when, asked: None }
    }

    /// Resolves with what asked first; then always with the same. Safe to drop while it waits.
    pub(super) async fn asked(&mut self) -> Asked {
        if let Some(asked) = self.asked {
            return asked;
        }
        let (scope, due) = (&self.scope, self.due);
        let asked = tokio::select! {
            biased;
            () = scope.ending() => self.by_node(),
            () = until(due) => Asked::TimedOut,
            () = come(&mut self.stop_when) => Asked::Stopped,
        };
        // The handler is told by the same node.
        self.scope.end(cancelled());
        self.asked = Some(asked);
        asked
    }

    fn by_node(&self) -> Asked {
        if self.scope.own_cause().is_some() {
            Asked::Cancelled
        } else if self.pipeline.own_cause().is_some() {
            Asked::Shutdown
        } else {
            Asked::GroupCancelled
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

async fn come(stop_when: &mut Option<StopWhen>) {
    match stop_when {
        Some(future) => future.await,
        None => pending().await,
    }
}
