//! Tells systemd that the process works: the ping comes from the event loop itself, after a look into the hub.

use std::convert::Infallible;

use crate::daemon::systemd::Notifier;
use crate::runtime::phase::Phase;
use crate::server::Core;

/// Pings at half of the watchdog's period; never ends. Without a watchdog it only waits.
pub async fn run(core: &Core, notifier: &Notifier) -> Infallible {
    let Some(period) = notifier.watchdog_interval() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(period);
    loop {
        ticks.tick().await;
        let status = {
            let hub = core.hub();
            let (sessions, streams) = (hub.sessions().count(), hub.streams().count());
            format!("{}, sessions: {sessions}, streams: {streams}", core.phase.get().name())
        };
        notifier.watchdog();
        // From then on the shutdown tells how far it is.
        if core.phase.get() == Phase::Running {
            notifier.status(&status);
        }
    }
}
