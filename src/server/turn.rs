//! Wakers for the parts of one connection's task. A part that is woken while the task runs is looked at in the same
//! turn; only a waker called from outside schedules the task. One delivery is one poll, then: h2 and
//! `FuturesUnordered` both wake the task that is polling them just now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// After this many rounds in one turn other tasks come first.
const ROUNDS_MAX: usize = 32;

/// What is polled apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The calls.
    Calls,
    /// h2's state machine.
    Http2,
    /// Ends and timers.
    Rest,
}

/// The wakers of one connection.
#[derive(Debug)]
pub(super) struct Turns {
    task: Arc<Task>,
    parts: [Arc<Flag>; 3],
    wakers: [Waker; 3],
}

#[derive(Debug, Default)]
struct Task {
    waker: AtomicWaker,
    running: AtomicBool,
}

#[derive(Debug)]
struct Flag {
    task: Arc<Task>,
    woken: AtomicBool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.task.running.load(Ordering::SeqCst) {
            self.task.waker.wake();
        }
    }
}

impl Turns {
    /// All parts are to be polled.
    pub(super) fn new() -> Self {
        let task = Arc::new(Task::default());
        let parts = [Part::Calls, Part::Http2, Part::Rest]
            .map(|_| Arc::new(Flag { task: Arc::clone(&task), woken: AtomicBool::new(true) }));
        let wakers = [0, 1, 2].map(|at: usize| Waker::from(Arc::clone(&parts[at])));
        Self { task, parts, wakers }
    }

    /// Has every part polled again.
    pub(super) fn mark_all(&self) {
        for part in &self.parts {
            part.woken.store(true, Ordering::SeqCst);
        }
    }

    /// Has one part polled again.
    pub(super) fn mark(&self, part: Part) {
        self.parts[part as usize].woken.store(true, Ordering::SeqCst);
    }

    /// The waker of one part.
    pub(super) fn waker(&self, part: Part) -> &Waker {
        &self.wakers[part as usize]
    }

    /// Polls with `poll` every part that was woken, until none is or something came of it. `poll` is given a
    /// context that wakes this part.
    pub(super) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(Part, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.task.waker.register(cx.waker());
        for _ in 0..ROUNDS_MAX {
            self.task.running.store(true, Ordering::SeqCst);
            for part in [Part::Rest, Part::Calls, Part::Http2] {
                let at = part as usize;
                if self.parts[at].woken.swap(false, Ordering::SeqCst) {
                    let done = poll(part, &mut Context::from_waker(&self.wakers[at]));
                    if done.is_ready() {
                        return done;
                    }
                }
            }
            // In this order: what is woken between the two lines is seen by one of them.
            self.task.running.store(false, Ordering::SeqCst);
            if self.parts.iter().all(|part| !part.woken.load(Ordering::SeqCst)) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
