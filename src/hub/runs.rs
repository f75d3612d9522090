//! Runs that were made a message of for one stream and serve the others that take the same: a crowd that keeps up
//! costs one copy of what it hears, not one each.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::limits::{SHARED_RUNS_BYTES_MAX, SHARED_RUNS_MAX};

/// Messages that more streams are expected to take, oldest first.
#[derive(Debug, Default)]
pub(super) struct SharedRuns {
    runs: VecDeque<SharedRun>,
    bytes: usize,
}

/// With the sequence of its last event a run has its topic, and with its length its first event: what is equal in both
/// is the same run.
#[derive(Debug)]
struct SharedRun {
    last_sequence: u64,
    run_bytes: usize,
    takers_left: u32,
    message: Bytes,
}

impl SharedRuns {
    /// The message of a run, if it is there. The last stream expected takes it away.
    pub(super) fn take(&mut self, last_sequence: u64, run_bytes: usize) -> Option<Bytes> {
        let is_it = |run: &SharedRun| run.last_sequence == last_sequence && run.run_bytes == run_bytes;
        let at = self.runs.iter().position(is_it)?;
        let run = self.runs.get_mut(at)?;
        run.takers_left = run.takers_left.saturating_sub(1);
        if run.takers_left > 0 {
            return Some(run.message.clone());
        }
        let run = self.runs.remove(at)?;
        self.bytes -= run.message.len();
        Some(run.message)
    }

    /// Keeps a message for as many more streams as may take it. What does not fit pushes the oldest out, which costs
    /// their streams a copy.
    pub(super) fn keep(&mut self, last_sequence: u64, run_bytes: usize, takers_left: u32, message: &Bytes) {
        if takers_left == 0 || message.len() > SHARED_RUNS_BYTES_MAX {
            return;
        }
        while self.runs.len() >= SHARED_RUNS_MAX || self.bytes + message.len() > SHARED_RUNS_BYTES_MAX {
            let Some(oldest) = self.runs.pop_front() else { break };
            self.bytes -= oldest.message.len();
        }
        self.bytes += message.len();
        self.runs.push_back(SharedRun { last_sequence, run_bytes, takers_left, message: message.clone() });
    }

    /// How many messages are kept.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Their bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    #[test]
    fn a_run_is_shared_by_all_that_take_it_and_gone_with_the_last() {
        let mut runs = SharedRuns::default();
        let kept = message(100);
        runs.keep(9, 95, 2, &kept);
        assert_eq!(runs.take(9, 90), None, "another run with the same last event");
        assert_eq!(runs.take(8, 95), None, "another run of the same length");
        for _ in 0..2 {
            assert_eq!(runs.take(9, 95).map(|shared| shared.as_ptr()), Some(kept.as_ptr()), "no copy");
        }
        assert_eq!((runs.take(9, 95), runs.len(), runs.bytes()), (None, 0, 0));
    }

    #[test]
    fn what_only_one_stream_takes_is_not_kept() {
        let mut runs = SharedRuns::default();
        runs.keep(1, 5, 0, &message(10));
        assert_eq!((runs.len(), runs.bytes()), (0, 0));
    }

    #[test]
    fn runs_that_nobody_comes_for_are_bounded_in_count_and_bytes() {
        let mut runs = SharedRuns::default();
        for sequence in 0..10 * SHARED_RUNS_MAX as u64 {
            runs.keep(sequence, 5, 1, &message(10));
        }
        assert_eq!((runs.len(), runs.bytes()), (SHARED_RUNS_MAX, 10 * SHARED_RUNS_MAX));
        for sequence in 1000..1010 {
            runs.keep(sequence, SHARED_RUNS_BYTES_MAX / 2, 1, &message(SHARED_RUNS_BYTES_MAX / 2));
        }
        assert_eq!((runs.len(), runs.bytes()), (2, SHARED_RUNS_BYTES_MAX));
        assert!(runs.take(1009, SHARED_RUNS_BYTES_MAX / 2).is_some(), "the newest stay");
        runs.keep(2000, 0, 1, &message(SHARED_RUNS_BYTES_MAX + 1));
        assert_eq!(runs.take(2000, 0), None, "what is larger than all of them together is not kept");
    }
}
