//! The serve loop of our own on h2, one file per step in the order a packet meets it: [`accept`], [`conn`],
//! [`connection`], `call`, then the data path (`stream`, `inbound`, `outbound`) or a generated service (`session`,
//! `admin`, `health`, reflection) whose body `pump` carries.
//!
//! Why not `tonic::transport::Server` or hyper: while a peer's window is full they send neither status nor trailers,
//! they wait for ever on a graceful stop, and they cannot end one stream alone.

pub mod accept;
pub mod conn;
pub mod connection;
pub mod status;

mod admin;
mod admission;
mod ask;
mod auth;
pub(crate) mod authority;
mod call;
mod health;
mod inbound;
mod outbound;
mod overload;
mod overview;
mod publish;
mod pump;
mod read_turn;
mod reflection;
mod scan;
mod session;
mod stream;
mod tally;
mod timers;
mod turn;
mod turned_away;
mod unsent;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::event::Epoch;
use crate::base::id::{ConnectionId, SessionKey};
use crate::base::limits::{Limits, Memory, Shutdown};
use crate::base::reason::{Cause, EndReason};
use crate::bus::{Bus, lock};
use crate::hub::{Hub, LoggedOut};
use crate::runtime::bucket::Bucket;
use crate::runtime::ledger::Ledger;
use crate::runtime::phase::{Phase, PhaseCell};
use crate::runtime::scope::Scope;
use crate::runtime::spread::spread;
use crate::runtime::vitals::Vitals;
use crate::server::conn::Meter;
use crate::server::tally::Tally;
use crate::wire::v1::notice::Kind;
use crate::wire::{convert, v1};

/// What every connection shares: one per process.
#[derive(Debug)]
pub struct Core {
    hub: Mutex<Hub>,
    bus: Bus,
    /// Where the process stands.
    pub phase: PhaseCell,
    /// Everything clients can see lives below this scope; it ends before the process's own upkeep.
    pub service: Scope,
    shutdown: Mutex<Shutdown>,
    memory: Mutex<Memory>,
    /// When the drain must be over; set once it began.
    drain_until: Mutex<Option<Instant>>,
    drain_asked: watch::Sender<Option<Cause>>,
    accept_errors: AtomicU64,
    vitals: Mutex<Vitals>,
    /// The parts of the process that the watchdog asks.
    pub ledger: Ledger,
    tally: Tally,
}

/// What a call knows of the connection it came on.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The connection.
    pub connection: ConnectionId,
    /// Ends when the connection is asked to close.
    pub scope: Scope,
    /// The user id behind the admin socket; `None` on the network.
    pub admin_uid: Option<u32>,
    /// Its bytes.
    meter: Arc<Meter>,
    /// The streams it may still open.
    opens: Arc<Mutex<Bucket>>,
}

impl Core {
    /// A core with an empty hub.
    #[must_use]
    pub fn new(epoch: Epoch, limits: Limits, memory: Memory, shutdown: Shutdown) -> Arc<Self> {
        let service = Scope::root();
        let hub = Hub::new(epoch, Arc::new(limits), service.clone(), Instant::now());
        Arc::new(Self {
            hub: Mutex::new(hub),
            bus: Bus::default(),
            phase: PhaseCell::default(),
            service,
            shutdown: Mutex::new(shutdown),
            memory: Mutex::new(memory),
            drain_until: Mutex::new(None),
            drain_asked: watch::Sender::new(None),
            accept_errors: AtomicU64::new(0),
            vitals: Mutex::new(Vitals::default()),
            ledger: Ledger::default(),
            tally: Tally::default(),
        })
    }

    /// The hub, for one synchronous step.
    pub fn hub(&self) -> MutexGuard<'_, Hub> {
        lock(&self.hub)
    }

    /// Counts of sessions and streams, when the hub can be had at once: with one thread it always can, unless a task
    /// sleeps with it.
    #[must_use]
    pub fn probe_hub(&self) -> Option<(usize, usize)> {
        let hub = match self.hub.try_lock() {
            Ok(hub) => hub,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some((hub.sessions().count(), hub.streams().count()))
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> Arc<Limits> {
        self.hub().limits()
    }

    /// The times of stopping in force.
    #[must_use]
    pub fn shutdown_times(&self) -> Shutdown {
        self.shutdown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The bounds of memory in force.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Puts new bounds and times in force.
    pub fn reconfigure(&self, limits: Limits, memory: Memory, shutdown: Shutdown) {
        self.hub().set_limits(Arc::new(limits));
        *self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = memory;
        *self.shutdown.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = shutdown;
    }

    /// Says until when streams may deliver what they are owed while draining.
    pub fn set_drain_until(&self, until: Instant) {
        *self.drain_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(until);
    }

    /// Until when a stream that is ending for `reason` may deliver what it is owed.
    fn deliver_until(&self, reason: EndReason, now: Instant) -> Instant {
        let drain_until = *self.drain_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match drain_until {
            Some(until) if reason == EndReason::ServerDraining => until,
            Some(_) | None => now + self.shutdown_times().flush_timeout,
        }
    }

    /// When the client of this session should come back after a drain: its own slot in `[1, 2) × retry_after`.
    #[must_use]
    pub fn retry_slot(&self, session: SessionKey) -> Duration {
        spread(self.shutdown_times().retry_after, session.incarnation)
    }

    /// The same for a client without a session.
    fn retry_slot_of(&self, connection: ConnectionId) -> Duration {
        spread(self.shutdown_times().retry_after, connection.0)
    }

    /// Tells every stream that the server is going down and when it may come back.
    pub fn tell_draining(&self) {
        let mut slots = HashMap::new();
        for session in self.hub().streams().map(|stream| stream.session) {
            slots.insert(session, self.retry_slot(session));
        }
        self.hub().push_control_to_all(|session, out| {
            let retry_after = slots.get(&session).copied().map(convert::duration);
            convert::encode_notice(Kind::Draining(v1::Draining { retry_after }), out);
        });
    }

    /// Why nothing new is taken, if so.
    fn refusing(&self) -> Option<Cause> {
        (self.phase.get() > Phase::Running).then(|| Cause::server(EndReason::ServerDraining))
    }

    /// Ends a session and waits until its streams are gone, for at most the flush timeouts.
    async fn end_session_and_wait(&self, session: SessionKey, cause: Cause) -> Option<LoggedOut> {
        let ended = self.hub().end_session(session, cause, Instant::now())?;
        // Twice: once for delivering what is owed, once for the status behind it.
        let patience = self.shutdown_times().flush_timeout * 2;
        if tokio::time::timeout(patience, ended.scope.finished()).await.is_err() {
            log::info!("{session}: {} streams are still ending", ended.scope.running());
        }
        Some(ended)
    }

    /// Asks for the same phased stop as SIGTERM. `cause` is what every end will carry; the first one counts.
    pub fn ask_for_drain(&self, cause: Cause) {
        self.drain_asked.send_if_modified(|asked| asked.is_none() && asked.replace(cause).is_none());
    }

    /// Resolves when a drain was asked for.
    pub async fn drain_asked(&self) -> Cause {
        let mut asked = self.drain_asked.subscribe();
        match asked.wait_for(Option::is_some).await.map(|cause| cause.clone()) {
            Ok(Some(cause)) => cause,
            // The sender lives as long as the core.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// What the monitor last found.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        *self.vitals.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Replaces what the monitor last found.
    pub fn set_vitals(&self, vitals: Vitals) {
        *self.vitals.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = vitals;
    }

    /// Accept errors since the start.
    #[must_use]
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// The wall-clock time of a monotonic one: right even after the clock was set.
    fn wall(at: Instant) -> SystemTime {
        SystemTime::now() - Instant::now().saturating_duration_since(at)
    }
}
