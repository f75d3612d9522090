//! Memory pressure in a script: the level, who may go for it, and what is refused meanwhile. A budget of 100,000 bytes
//! makes a permille a hundred of them.

use std::time::Duration;

use tokio::time::Instant;

use super::house::{settle, take_warnings};
use super::pressure::assert_pressed;
use super::script::Stage;
use crate::base::limits::{Memory, Shutdown};
use crate::base::reason::EndReason;
use crate::daemon::procfs::Reading;
use crate::hub::registry::EndedNode;
use crate::hub::shed::Shortage;
use crate::runtime::pressure::{Level, Thresholds};

const BUDGET_BYTES: u64 = 100_000;
/// Sessions and streams that go in one tick at most.
const ENDS_PER_TICK_MAX: usize = 2;
/// A session that fell silent this near to the bound may count as stale or not.
const TIE: Duration = Duration::from_millis(20);

/// Names of sessions and numbers of streams.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gone {
    sessions: Vec<String>,
    streams: Vec<u64>,
}

/// The level of a reading. Those of a script keep out of the hysteresis.
fn level(permille: u16) -> Level {
    match permille {
        0..700 => Level::Normal,
        700..850 => Level::Elevated,
        850..950 => Level::High,
        _ => Level::Critical,
    }
}

impl Stage {
    /// One tick with that much of the budget used. The level stays until the next one.
    pub(super) async fn pressure(&mut self, permille: u16) {
        self.level = level(permille);
        let ends_max = self.ends_max();
        let memory = self.memory(ends_max);
        let limits = (*self.house.core.limits()).clone();
        self.house.core.reconfigure(limits, memory, Shutdown::default());
        let stale = self.stale(TIE);
        let before = self.gone();
        let rss_bytes = u64::from(permille) * BUDGET_BYTES / 1000;
        let reading = Reading { rss_bytes, threads: 1, ..Reading::default() };
        self.monitor.tick(&self.house.core, &reading, Duration::ZERO, Instant::now());
        assert_eq!(self.house.core.vitals().level, self.level);
        self.idle_timeouts.push((Instant::now(), self.idle_timeout(permille)));
        let after = self.gone();
        let sessions: Vec<String> =
            after.sessions.into_iter().filter(|id| !before.sessions.contains(id)).collect();
        let streams = after.streams.into_iter().filter(|number| !before.streams.contains(number)).collect();
        self.judge(&Gone { sessions, streams }, &stale, ends_max);
        settle().await;
    }

    /// As many as may go without the one who knows the order of events.
    fn ends_max(&self) -> usize {
        let memory = self.memory(ENDS_PER_TICK_MAX);
        let shortage = Shortage {
            level: Level::Critical,
            memory: self.house.core.vitals().memory,
            thresholds: Thresholds::from(&memory),
            ends_max: memory.ends_per_tick_max,
        };
        let hub = self.house.core.hub();
        let plan = hub.plan_shed(&shortage, Instant::now());
        let own = plan.steps.iter().position(|step| *step.principal.user == *"talker");
        own.unwrap_or(0).min(ENDS_PER_TICK_MAX)
    }

    fn memory(&self, ends_max: usize) -> Memory {
        let ends_per_tick_max = u32::try_from(ends_max).unwrap();
        Memory { budget_bytes: BUDGET_BYTES, ends_per_tick_max, ..Memory::default() }
    }

    /// Live sessions that have been silent for too long, by more than `by`.
    fn stale(&self, by: Duration) -> Vec<String> {
        let stale_after = self.house.core.limits().stale_after() + by;
        let logins = self.logins.iter().filter(|login| login.heard_at.elapsed() > stale_after);
        let ids = logins.map(|login| login.id.clone());
        ids.filter(|id| self.house.has_session(id)).collect()
    }

    /// Everyone who went for memory so far.
    fn gone(&self) -> Gone {
        let hub = self.house.core.hub();
        let is_it = |reason| reason == EndReason::MemoryPressure;
        let records = hub.ended().newest_first();
        let of_sessions = records.iter().filter(|record| is_it(record.cause.reason));
        let sessions = of_sessions
            .filter(|record| record.node == EndedNode::Session)
            .map(|record| record.session.to_string());
        let streams = hub
            .streams()
            .filter(|stream| stream.scope.cause().is_some_and(|cause| is_it(cause.reason)))
            .map(|stream| stream.key.number);
        Gone { sessions: sessions.collect(), streams: streams.collect() }
    }

    /// Whether these may have gone, and notes why they did.
    fn judge(&mut self, gone: &Gone, stale: &[String], ends_max: usize) {
        let (now, cause) = (Instant::now(), EndReason::MemoryPressure);
        let stale_after = self.house.core.limits().stale_after();
        for login in self.logins.iter_mut().filter(|login| gone.sessions.contains(&login.id)) {
            assert!(login.heard_at.elapsed() + TIE > stale_after, "{} was not stale", login.id);
            login.caused.get_or_insert((now, cause));
        }
        let mut alone = 0;
        for stream in self.streams.iter_mut().filter(|stream| gone.streams.contains(&stream.number)) {
            alone += usize::from(!gone.sessions.contains(&stream.session));
            stream.caused.get_or_insert((now, cause));
        }
        assert!(alone == 0 || self.level == Level::Critical, "{gone:?} at {:?}", self.level);
        assert!(gone.sessions.is_empty() || self.level >= Level::High, "{gone:?} at {:?}", self.level);
        assert!(gone.sessions.len() + alone <= ends_max, "{gone:?}, more than {ends_max}");
        if self.level >= Level::High {
            assert!(gone.sessions.len() >= stale.len().min(ends_max), "{gone:?}, but stale are {stale:?}");
        }
    }

    /// What is left of the idle timeout of streams: a quarter from CRITICAL on, but who heartbeats as told is not idle.
    fn idle_timeout(&self, permille: u16) -> Duration {
        let (elevated, critical) = (700, 950);
        let over = u32::from(permille.clamp(elevated, critical) - elevated);
        let limits = self.house.core.limits();
        let idle_timeout = limits.stream_idle_timeout;
        let scaled = idle_timeout * (1000 - over * 750 / 250) / 1000;
        scaled.max(idle_timeout.min(limits.stale_after()))
    }

    /// When a stream that was last heard of then is idle for too long.
    pub(super) fn idle_at(&self, heard_at: Instant) -> Option<Instant> {
        let ends = self.idle_timeouts.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
        self.idle_timeouts.iter().zip(ends).find_map(|((begin, timeout), end)| {
            let due_at = (*begin).max(heard_at + *timeout);
            (!timeout.is_zero() && end.is_none_or(|end| due_at < end)).then_some(due_at)
        })
    }

    /// Whether a login of the client is let in.
    pub(super) fn admits_login(&self, takes_over: bool) -> bool {
        match self.level {
            Level::Normal => true,
            Level::Elevated | Level::High => takes_over,
            Level::Critical => false,
        }
    }

    /// The client is refused: its login, and at CRITICAL also a stream of the session it may still have.
    pub(super) async fn be_refused(&mut self, client: u8) {
        let mut peer = self.house.peer().await;
        let refused = peer.try_login("guest", &format!("client{client}")).await;
        assert_pressed(&refused.unwrap_err());
        if self.level == Level::Critical && self.borrow(client, &mut peer) {
            let refused = peer.open().await;
            assert_pressed(&refused.tape.end().status);
        }
    }

    /// The warnings were expected: every level from HIGH on is told, and every end.
    pub(super) fn assert_warnings(&self) {
        let known = ["memory pressure", "MEMORY_PRESSURE", "to save memory"];
        let is_known = |line: &String| known.iter().any(|known| line.contains(known));
        let unexpected: Vec<_> = take_warnings().into_iter().filter(|line| !is_known(line)).collect();
        assert!(unexpected.is_empty(), "{unexpected:#?}");
    }
}
