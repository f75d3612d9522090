//! Ends what ran out of time. Sleeps until the nearest deadline; nothing is scanned.

use std::sync::Arc;

use tokio::time::Instant;

use crate::runtime::scope::Scope;
use crate::server::Core;

/// Ends expired sessions until `upkeep` ends.
pub async fn run(core: Arc<Core>, upkeep: Scope) {
    loop {
        let next = core.hub().next_deadline();
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {
                let expired = core.hub().expire(Instant::now());
                for session in expired {
                    log::info!("{session} expired: no heartbeat and no traffic for its lease");
                }
            }
            // A lease may have become the nearest one.
            () = core.deadlines_changed.notified() => {}
            () = upkeep.ending() => return,
        }
    }
}
