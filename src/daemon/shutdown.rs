//! Stopping: refuse, drain, abort. Each phase has a deadline, and a second signal goes straight to the last.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::base::id::SessionKey;
use crate::base::reason::{Cause, EndReason};
use crate::daemon::Stopped;
use crate::daemon::signals::Signals;
use crate::daemon::systemd::Notifier;
use crate::runtime::phase::Phase;
use crate::server::Core;

/// Between the notice that the server is going down and the first end: long enough for the notice to leave.
const REFUSE_TIME: Duration = Duration::from_millis(100);
/// Pause between the ends of two sessions, at most; a quarter of the drain time for all of them.
const SPREAD_PAUSE_MAX: Duration = Duration::from_millis(10);
/// How often progress is looked at and told.
const TICK: Duration = Duration::from_millis(50);
/// How much more time systemd is asked for while pending bytes fall.
const EXTENSION: Duration = Duration::from_secs(10);

/// Takes the server down for `cause`, which every end will carry.
pub async fn run(core: &Core, notifier: &Notifier, cause: &Cause, signals: &mut Signals) -> Stopped {
    tokio::select! {
        biased;
        stopped = phases(core, notifier, cause) => stopped,
        second = signals.stop() => {
            log::warn!("{second} again: cutting what is left");
            let owed = owed(core);
            abort(core, notifier, cause).await;
            told(owed)
        }
    }
}

/// Says how it went; what was cut is named.
fn told(owed: Vec<String>) -> Stopped {
    if owed.is_empty() {
        log::info!("drained: everything accepted was delivered");
        return Stopped::Drained;
    }
    for stream in &owed {
        log::error!("cut before it had everything: {stream}");
    }
    Stopped::Cut(owed)
}

/// The three phases. Also what tests without signals call.
pub async fn phases(core: &Core, notifier: &Notifier, cause: &Cause) -> Stopped {
    refuse(core, notifier, cause).await;
    let owed = drain(core, notifier, cause).await;
    abort(core, notifier, cause).await;
    told(owed)
}

/// The cause of a stop that someone asked for, such as `SIGTERM`.
#[must_use]
pub fn cause(asked_by: &str) -> Cause {
    Cause { asked_by: asked_by.into(), ..Cause::server(EndReason::ServerDraining) }
}

/// Nothing new is taken, and everyone is told when to come back.
async fn refuse(core: &Core, notifier: &Notifier, cause: &Cause) {
    core.phase.advance(Phase::Refusing);
    log::info!("{}: stopping; no new connections, sessions or streams", cause.asked_by);
    notifier.stopping();
    notifier.status("refusing new work");
    core.tell_draining();
    sleep(REFUSE_TIME).await;
}

/// Ends the sessions one after the other, delivering what they are owed; returns what was still owed at the end of
/// the drain time.
async fn drain(core: &Core, notifier: &Notifier, cause: &Cause) -> Vec<String> {
    let until = Instant::now() + core.shutdown_times().drain_timeout;
    core.set_drain_until(until);
    core.phase.advance(Phase::Draining);
    let all = core.hub().streams().count();
    let spread = async {
        let sessions: Vec<SessionKey> = core.hub().sessions().map(|session| session.key).collect();
        let share = core.shutdown_times().drain_timeout / 4;
        let pause = share.div_f64(sessions.len().max(1) as f64).min(SPREAD_PAUSE_MAX);
        for session in sessions {
            core.hub().end_session(session, cause.clone(), Instant::now());
            sleep(pause).await;
        }
    };
    let watch = async {
        let mut pending_bytes = u64::MAX;
        let mut ticks = interval(TICK);
        loop {
            ticks.tick().await;
            let (left, now_pending_bytes) = pending(core);
            notifier.status(&format!("draining {left}/{all} streams"));
            // Only real progress buys time, so that a stuck drain is ended by systemd too.
            if now_pending_bytes < pending_bytes && pending_bytes != u64::MAX {
                notifier.extend_timeout(EXTENSION);
            }
            pending_bytes = now_pending_bytes;
            if left == 0 {
                return;
            }
        }
    };
    let work = async {
        spread.await;
        watch.await;
    };
    tokio::select! {
        biased;
        () = work => Vec::new(),
        () = sleep_until(until) => owed(core),
    }
}

/// What is left ends now: a status for those who can take it, then the connections.
async fn abort(core: &Core, notifier: &Notifier, cause: &Cause) {
    let flush_timeout = core.shutdown_times().flush_timeout;
    {
        let mut hub = core.hub();
        let sessions: Vec<SessionKey> = hub.sessions().map(|session| session.key).collect();
        for session in sessions {
            hub.end_session(session, cause.clone(), Instant::now());
        }
    }
    core.phase.advance(Phase::Aborting);
    core.hub().wake_all();
    for (_, connection) in core.hub().connections() {
        connection.scope.end(cause.clone());
    }
    notifier.status("closing connections");
    // Everything below the service scope is a connection or the admin socket's acceptor.
    if tokio::time::timeout(flush_timeout, core.service.finished()).await.is_err() {
        let left = core.hub().connections().count();
        log::info!("cutting {left} connections that did not close by themselves");
        core.service.abort(cause.clone());
        core.service.finished().await;
    }
}

fn pending(core: &Core) -> (usize, u64) {
    let hub = core.hub();
    let lag_bytes = hub.streams().filter_map(|stream| hub.lag_bytes(stream.key)).sum();
    (hub.streams().count(), lag_bytes)
}

/// The streams that are still there, and what they have not got.
fn owed(core: &Core) -> Vec<String> {
    let hub = core.hub();
    let line = |stream: &crate::hub::registry::StreamState| {
        let principal = &stream.principal;
        format!(
            "{} of {} ({} {:?}), {} bytes behind",
            stream.key,
            stream.session,
            principal.user,
            principal.client_name,
            hub.lag_bytes(stream.key).unwrap_or(0)
        )
    };
    hub.streams().map(line).collect()
}
