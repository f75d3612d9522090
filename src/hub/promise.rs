//! What a session's client was told it may count on.

use std::time::Duration;

use crate::base::id::SessionKey;
use crate::hub::Hub;

/// The times that hold for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// How often to heartbeat.
    pub heartbeat_interval: Duration,
    /// How long it lives without any.
    pub lease: Duration,
    /// How long a stream of it may be idle; zero is off.
    pub stream_idle_timeout: Duration,
}

impl Hub {
    /// What is told to the client of a session now, and holds until the session ends. Of times that became shorter
    /// the client may never hear, if the answer is lost; it does not end for doing what it was told before.
    pub fn promise(&mut self, key: SessionKey) -> Option<Promise> {
        let limits = self.limits();
        let session = self.session_mut(key)?;
        session.lease = session.lease.max(limits.lease);
        session.silence = session.silence.max(limits.stale_after());
        let idle = limits.stream_idle_timeout;
        Some(Promise {
            heartbeat_interval: limits.told_heartbeat_interval(),
            lease: session.lease,
            stream_idle_timeout: if idle.is_zero() { idle } else { idle.max(session.silence) },
        })
    }
}
