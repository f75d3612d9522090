//! How much one connection reads before the others come. A socket that is never empty would hold the loop otherwise:
//! h2 reads on as long as there is something to read.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use crate::base::limits::{
    DENSE_FRAME_BYTES, DENSE_READ_BYTES_MAX, FRAMES_PER_TURN_MAX, IDLE_FRAMES_PER_TURN_MAX,
    READ_BYTES_PER_TURN_MAX,
};
use crate::server::scan::Frames;

/// What was read in a row, and the pause after it.
#[derive(Debug, Default)]
pub(super) struct ReadTurn {
    bytes: usize,
    frames: Frames,
    /// The last read was of many small frames: the next one is short, because what was read is not put back.
    is_dense: bool,
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
        let Frames { all, idle } = self.frames;
        if self.bytes < READ_BYTES_PER_TURN_MAX
            && all < FRAMES_PER_TURN_MAX
            && idle < IDLE_FRAMES_PER_TURN_MAX
        {
            return true;
        }
        let pause = Arc::new(Pause { is_over: AtomicBool::new(false), waker: cx.waker().clone() });
        let waker = Waker::from(Arc::clone(&pause));
        // Only its waker is left behind: the runtime calls it when it has run out of ready tasks.
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        self.pause = Some(pause);
        false
    }

    /// How much the next read may take, if that has a bound.
    pub(super) fn read_bytes_max(&self) -> Option<usize> {
        self.is_dense.then_some(DENSE_READ_BYTES_MAX)
    }

    /// Counts what was read.
    pub(super) fn count(&mut self, bytes: usize, frames: Frames) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.frames.all = self.frames.all.saturating_add(frames.all);
        self.frames.idle = self.frames.idle.saturating_add(frames.idle);
        self.is_dense = frames.all as usize > bytes / DENSE_FRAME_BYTES;
    }

    /// There was nothing more to read: the others have their turn by that.
    pub(super) fn end(&mut self) {
        // Most polls of a quiet connection come here with nothing to forget.
        if self.bytes > 0 {
            *self = Self { is_dense: self.is_dense, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll;

    /// Fails unless the turn is over after `bytes` and `frames`, and goes on once the others have run.
    async fn assert_over_after(bytes: usize, frames: Frames) {
        let mut turn = ReadTurn::default();
        assert!(turn.may_read(&Context::from_waker(Waker::noop())));
        turn.count(bytes, frames);
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            assert_eq!(turn.may_read(cx), polls == 2);
            // Asked again in the same turn, as a connection does when one of its calls has ended.
            assert_eq!(turn.may_read(cx), polls == 2);
            if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn after_its_share_a_reader_waits_until_the_others_have_run() {
        assert_over_after(READ_BYTES_PER_TURN_MAX, Frames::default()).await;
        assert_over_after(1, Frames { all: FRAMES_PER_TURN_MAX, idle: 0 }).await;
        assert_over_after(1, Frames { all: 0, idle: IDLE_FRAMES_PER_TURN_MAX }).await;
        let mut turn = ReadTurn::default();
        let frames = Frames { all: FRAMES_PER_TURN_MAX - 1, idle: IDLE_FRAMES_PER_TURN_MAX - 1 };
        turn.count(READ_BYTES_PER_TURN_MAX - 1, frames);
        assert!(turn.may_read(&Context::from_waker(Waker::noop())), "not yet");
    }

    #[test]
    fn after_small_frames_reads_are_short() {
        let mut turn = ReadTurn::default();
        turn.count(8192, Frames { all: 8192 / 16, idle: 0 });
        turn.end();
        assert_eq!(turn.read_bytes_max(), Some(DENSE_READ_BYTES_MAX));
        turn.count(2048, Frames { all: 2048 / 139, idle: 0 });
        assert_eq!(turn.read_bytes_max(), None);
    }
}
