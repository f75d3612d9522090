//! A node of the cancellation tree: two tokens, a tracker and one write-once cause.
//!
//! `CancellationToken` carries no reason and `cancel()` is silent, so the cause is written first and the token is
//! cancelled after it: whoever is woken finds the cause. Children inherit the cause of the nearest ancestor that
//! ended before them; the first cause wins.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::base::reason::Cause;

/// A node; clones are the same node.
#[derive(Clone, Debug)]
pub struct Scope(Arc<Node>);

#[derive(Debug)]
struct Node {
    parent: Option<Scope>,
    cause: OnceLock<Cause>,
    drain: CancellationToken,
    abort: CancellationToken,
    tracker: TaskTracker,
}

impl Scope {
    /// The top of a tree.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::new(Node {
            parent: None,
            cause: OnceLock::new(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
            tracker: TaskTracker::new(),
        }))
    }

    /// A node below this one: ends with it, and can end alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::new(Node {
            parent: Some(self.clone()),
            cause: OnceLock::new(),
            drain: self.0.drain.child_token(),
            abort: self.0.abort.child_token(),
            tracker: TaskTracker::new(),
        }))
    }

    /// Asks the subtree to finish. Returns false, and changes nothing, when a cause was there already.
    pub fn end(&self, cause: Cause) -> bool {
        let first = self.set_cause(cause);
        self.0.drain.cancel();
        first
    }

    /// Asks the subtree to stop now. The cause counts only where none was there already.
    pub fn abort(&self, cause: Cause) {
        self.set_cause(cause);
        self.0.drain.cancel();
        self.0.abort.cancel();
    }

    fn set_cause(&self, cause: Cause) -> bool {
        self.cause().is_none() && self.0.cause.set(cause).is_ok()
    }

    /// Why this node ends: its own cause, or the one inherited.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.0.cause.get().or_else(|| self.0.parent.as_ref().and_then(Self::cause))
    }

    /// The cause given to this very node, if it was not inherited.
    #[must_use]
    pub fn own_cause(&self) -> Option<&Cause> {
        self.0.cause.get()
    }

    /// Whether the node ends when `above` does, because it is below it.
    #[must_use]
    pub fn is_below(&self, above: &Self) -> bool {
        let mut parents = std::iter::successors(self.0.parent.as_ref(), |parent| parent.0.parent.as_ref());
        parents.any(|parent| Arc::ptr_eq(&parent.0, &above.0))
    }

    /// Whether the node was asked to finish or to stop.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.0.drain.is_cancelled()
    }

    /// Whether the node was asked to stop now.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.0.abort.is_cancelled()
    }

    /// Resolves when the node is asked to finish or to stop.
    pub async fn ending(&self) {
        self.0.drain.cancelled().await;
    }

    /// Resolves when the node is asked to stop now.
    pub async fn aborted(&self) {
        self.0.abort.cancelled().await;
    }

    /// Counts as running below this node until dropped.
    pub fn token(&self) -> TaskTrackerToken {
        self.0.tracker.token()
    }

    /// Resolves when everything that held a [`Self::token`] or was spawned here is gone. Nothing may start after.
    pub async fn finished(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    /// How many tokens and tasks are alive directly at this node.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.tracker.len()
    }

    /// Runs a task owned by this node. It must end by itself when the scope ends.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.0.tracker.spawn(task)
    }

    /// The same for tasks of a kind of which there are few: in a box, because the runtime's code for a task is 5 KB for
    /// each kind of task, and is there once for all of these.
    pub fn spawn_boxed(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task);
        self.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reason::EndReason;

    fn cause(reason: EndReason) -> Cause {
        Cause::server(reason)
    }

    #[test]
    fn the_first_cause_wins_and_children_inherit_it() {
        let session = Scope::root();
        let stream = session.child();
        assert!(session.end(cause(EndReason::SessionLoggedOut)));
        assert!(!stream.end(cause(EndReason::SlowConsumer)));
        assert!(!session.end(cause(EndReason::AdminCancelled)));
        assert_eq!(stream.cause().map(|cause| cause.reason), Some(EndReason::SessionLoggedOut));
    }

    #[test]
    fn a_child_that_ended_first_keeps_its_own_cause_and_its_siblings_go_on() {
        let session = Scope::root();
        let (slow, other) = (session.child(), session.child());
        slow.end(cause(EndReason::SlowConsumer));
        assert!(!other.is_ending() && !session.is_ending());
        session.end(cause(EndReason::SessionLoggedOut));
        assert_eq!(slow.cause().map(|cause| cause.reason), Some(EndReason::SlowConsumer));
        assert_eq!(other.cause().map(|cause| cause.reason), Some(EndReason::SessionLoggedOut));
    }

    #[tokio::test]
    async fn finished_waits_for_every_token() {
        let scope = Scope::root();
        let token = scope.token();
        assert_eq!(scope.running(), 1);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), scope.finished());
        assert!(waiting.await.is_err());
        drop(token);
        scope.finished().await;
    }

    #[tokio::test]
    async fn finished_waits_for_a_boxed_task() {
        let (scope, over) = (Scope::root(), Arc::new(OnceLock::new()));
        let told = Arc::clone(&over);
        scope.spawn_boxed(async move {
            tokio::task::yield_now().await;
            told.get_or_init(|| ());
        });
        scope.finished().await;
        assert!(over.get().is_some());
    }
}
