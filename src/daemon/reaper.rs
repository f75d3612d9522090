//! Ends what was quiet for too long. Sleeps until the nearest deadline; nothing is scanned.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::{Instant, sleep_until};

use crate::runtime::ledger::Part;
use crate::runtime::scope::Scope;
use crate::server::Core;

/// Reaps until `upkeep` ends. The watchdog asks it from this call on.
pub fn run(core: Arc<Core>, upkeep: Scope) -> impl Future<Output = ()> {
    let part = core.ledger.part("reaper");
    reap(core, upkeep, part)
}

async fn reap(core: Arc<Core>, upkeep: Scope, mut part: Part) {
    let mut timer = pin!(sleep_until(Instant::now()));
    loop {
        // Asked for at each poll: the hub wakes us when a nearer deadline came.
        let due = poll_fn(|cx| {
            let Some(next) = core.hub().await_deadline(cx.waker()) else { return Poll::Pending };
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            timer.as_mut().poll(cx)
        });
        tokio::select! {
            () = due => {
                let expired = core.hub().reap(Instant::now());
                for session in expired {
                    log::info!("{session} expired: no heartbeat and no traffic for its lease");
                }
            }
            () = part.asked() => part.stamp(),
            () = upkeep.ending() => return,
        }
    }
}
