//! Tells systemd that the process works: once per interval every part is asked, and the ping goes only when all of
//! them have answered. Otherwise the status line names who has not.

use std::convert::Infallible;

use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::base::limits::WATCHDOG_ANSWER_SHARE;
use crate::daemon::systemd::Notifier;
use crate::runtime::ledger::Part;
use crate::runtime::phase::Phase;
use crate::server::Core;

/// Asks and pings at half of the watchdog's period; never ends. Without a watchdog it only waits.
pub async fn run(core: &Core, notifier: &Notifier) -> Infallible {
    let Some(period) = notifier.watchdog_interval() else { return std::future::pending().await };
    let mut hub = core.ledger.part("hub");
    let mut told = Vec::new();
    let mut ticks = interval(period);
    // After a stall the next question comes a whole period later, not at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.ledger.ask();
        sleep(period / WATCHDOG_ANSWER_SHARE).await;
        let status = probe(core, &mut hub);
        let stale = core.ledger.stale();
        if stale.is_empty() {
            notifier.watchdog();
        } else {
            notifier.status(&format!("{}, no answer from: {}", core.phase.get().name(), stale.join(", ")));
        }
        // From the refusal on the shutdown tells how far it is.
        if let Some(status) = status.filter(|_| stale.is_empty() && core.phase.get() == Phase::Running) {
            notifier.status(&status);
        }
        log_change(&told, &stale);
        told = stale;
    }
}

/// A look into the hub, which answers by it. A lock that is held here is held by a task that sleeps.
fn probe(core: &Core, part: &mut Part) -> Option<String> {
    let (sessions, streams) = core.probe_hub()?;
    part.stamp();
    Some(format!("{}, sessions: {sessions}, streams: {streams}", core.phase.get().name()))
}

/// Says once who no longer answers, and once that all do again.
fn log_change(before: &[&str], now: &[&str]) {
    if now == before {
        return;
    }
    if now.is_empty() {
        log::info!("every part answers the watchdog again: {}", before.join(", "));
    } else {
        log::error!(
            "no answer to the watchdog from: {}; systemd is not told that the process works and will restart it",
            now.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::event::Epoch;
    use crate::base::limits::{Limits, Memory, Shutdown};

    #[tokio::test]
    async fn a_hub_that_cannot_be_had_has_not_answered() {
        let core = Core::new(Epoch("e".into()), Limits::default(), Memory::default(), Shutdown::default());
        let mut part = core.ledger.part("hub");
        core.ledger.ask();
        let held = core.hub();
        assert_eq!(probe(&core, &mut part), None);
        assert_eq!(core.ledger.stale(), ["hub"]);
        drop(held);
        assert_eq!(probe(&core, &mut part).as_deref(), Some("running, sessions: 0, streams: 0"));
        assert!(core.ledger.stale().is_empty());
    }
}
