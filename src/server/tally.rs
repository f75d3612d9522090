//! Who was turned away or cut, counted and told: one warning a minute of a kind, not one per peer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::runtime::throttle::Throttle;

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    refused: AtomicU64,
    abusive: AtomicU64,
    told: Mutex<Throttle>,
}

impl Tally {
    /// A connection above a limit. Gives its number among those.
    pub(super) fn count_refused(&self) -> u64 {
        self.refused.fetch_add(1, Ordering::Relaxed)
    }

    /// A connection that was slow rather than a flood: port scanners and health checks are, too.
    pub(super) fn count_slow(&self, peer: &str, why: &str) {
        self.abusive.fetch_add(1, Ordering::Relaxed);
        log::debug!("{peer}: {why}");
    }

    /// A connection that was cut for what it did.
    pub(super) fn count_abusive(&self, peer: &str, why: &str) {
        self.abusive.fetch_add(1, Ordering::Relaxed);
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).count(Instant::now());
        match told {
            Some(count) => {
                log::warn!("closed a connection from {peer}: {why} ({count} such since the last warning)");
            }
            None => log::debug!("closed a connection from {peer}: {why}"),
        }
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn abusive(&self) -> u64 {
        self.abusive.load(Ordering::Relaxed)
    }
}
