//! How much one connection reads before the others come. A socket that is never empty would hold the loop otherwise:
//! h2 reads on as long as there is something to read.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use crate::base::limits::{IDLE_FRAMES_PER_TURN_MAX, READ_BYTES_PER_TURN_MAX};

/// What was read in a row, and the pause after it.
#[derive(Debug, Default)]
pub(super) struct ReadTurn {
    bytes: usize,
    idle_frames: u32,
    pause: Option<Arc<Pause>>,
}

/// Over once every task that was ready has run and the sockets have been looked at.
#[derive(Debug)]
struct Pause {
    is_over: AtomicBool,
    waker: Waker,
}

impl Wake for Pause {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

impl ReadTurn {
    /// Whether the next read may happen. If not, `cx` is woken when it may.
    pub(super) fn may_read(&mut self, cx: &Context<'_>) -> bool {
        if let Some(pause) = &self.pause {
            if !pause.is_over.load(Ordering::Acquire) {
                return false;
            }
            self.end();
        }
        if self.bytes < READ_BYTES_PER_TURN_MAX && self.idle_frames < IDLE_FRAMES_PER_TURN_MAX {
            return true;
        }
        let pause = Arc::new(Pause { is_over: AtomicBool::new(false), waker: cx.waker().clone() });
        let waker = Waker::from(Arc::clone(&pause));
        // Only its waker is left behind: the runtime calls it when it has run out of ready tasks.
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        self.pause = Some(pause);
        false
    }

    /// Counts what was read.
    pub(super) fn count(&mut self, bytes: usize, idle_frames: u32) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.idle_frames = self.idle_frames.saturating_add(idle_frames);
    }

    /// There was nothing more to read: the others have their turn by that.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll;

    #[tokio::test]
    async fn after_its_share_a_reader_waits_until_the_others_have_run() {
        let mut turn = ReadTurn::default();
        turn.count(READ_BYTES_PER_TURN_MAX - 1, IDLE_FRAMES_PER_TURN_MAX - 1);
        assert!(turn.may_read(&Context::from_waker(Waker::noop())));
        turn.count(1, 0);
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            let may_read = turn.may_read(cx);
            assert!(!may_read || !turn.may_read(&Context::from_waker(Waker::noop())) || polls == 2);
            if may_read { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert_eq!(polls, 2, "woken once");
        turn.count(0, IDLE_FRAMES_PER_TURN_MAX);
        assert!(!turn.may_read(&Context::from_waker(Waker::noop())));
    }
}
