//! What carries a published event to the hub: this node's own now, a distributed engine later.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::base::id::SessionKey;
use crate::hub::{Hub, Message, Refusal};

/// How published events reach the hub.
#[derive(Clone, Copy, Debug, Default)]
pub enum Bus {
    /// Straight into this node's hub.
    #[default]
    Local,
}

impl Bus {
    /// Hands one event to the hub and returns its sequence, which is the first one's when it came before.
    ///
    /// # Errors
    /// When the hub refuses it; nothing was changed then.
    pub fn publish(
        self,
        hub: &Mutex<Hub>,
        session: SessionKey,
        message: Message<'_>,
        now: Instant,
        encode: impl FnOnce(u64, &mut Vec<u8>),
    ) -> Result<u64, Refusal> {
        match self {
            Self::Local => lock(hub).publish(session, message, now, encode),
        }
    }
}

/// The hub, for one synchronous step. A panic inside another step was reported there; the state is still whole
/// enough to end streams in order, so a poisoned lock is taken over.
pub fn lock(hub: &Mutex<Hub>) -> MutexGuard<'_, Hub> {
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}
