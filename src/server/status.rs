//! What the server knows of itself at one moment. The admin service and the metrics page tell the same facts, so they
//! cannot differ.

use std::time::{Duration, SystemTime};

use crate::base::event::Epoch;
use crate::base::reason::EndReason;
use crate::hub::accounts::Account;
use crate::runtime::cpu;
use crate::runtime::phase::Phase;
use crate::runtime::pressure::Thresholds;
use crate::runtime::vitals::Vitals;
use crate::server::Core;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The state of the server, in plain values.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// The program's version.
    pub version: &'static str,
    /// Identity of the hub's order.
    pub epoch: Epoch,
    /// Where the process stands.
    pub phase: Phase,
    /// When it started.
    pub started_at: SystemTime,
    /// How long ago that is.
    pub uptime: Duration,
    /// User and system time of the process.
    pub cpu_time: Duration,
    /// Open connections.
    pub connections: u32,
    /// Live sessions.
    pub sessions: u32,
    /// Live streams.
    pub streams: u32,
    /// Live subscriptions of all streams.
    pub subscriptions: u32,
    /// Topics that are followed or retain something.
    pub topics: u32,
    /// Position of the newest accepted event.
    pub last_sequence: u64,
    /// Events handed to connections, counted once per stream.
    pub events_delivered: u64,
    /// Their bytes.
    pub bytes_delivered: u64,
    /// Memory held by topic tails.
    pub tails_bytes: u64,
    /// What they may hold.
    pub tails_bytes_max: u64,
    /// What the monitor last found.
    pub vitals: Vitals,
    /// Where the levels of pressure begin.
    pub thresholds: Thresholds,
    /// What the server itself counts, by holder.
    pub accounts: Vec<Account>,
    /// Ends by reason, every reason once, in the order of [`EndReason::ALL`].
    pub ended: Vec<EndCount>,
    /// Logins granted.
    pub logins: u64,
    /// Accept errors.
    pub accept_errors: u64,
    /// Publishes that were there already, by their message id.
    pub publishes_duplicate: u64,
    /// What was refused.
    pub refused: Refused,
}

/// How many ended for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndCount {
    /// The reason.
    pub reason: EndReason,
    /// Streams.
    pub streams: u64,
    /// Sessions.
    pub sessions: u64,
}

/// Refusals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Publishes, for example for their size or topic.
    pub publishes: u64,
    /// Logins, for a limit or to save memory.
    pub logins: u64,
    /// Streams, for a limit or to save memory.
    pub streams: u64,
    /// Connections turned away for a limit.
    pub connections: u64,
    /// Connections cut for abuse.
    pub connections_abusive: u64,
}

impl Core {
    /// The facts now.
    #[must_use]
    pub fn facts(&self) -> ServerFacts {
        let (vitals, thresholds) = (self.vitals(), Thresholds::from(&self.memory()));
        let hub = self.hub();
        let stats = hub.stats();
        let ended = EndReason::ALL.into_iter().map(|reason| EndCount {
            reason,
            streams: stats.streams_ended[reason.index()],
            sessions: stats.sessions_ended[reason.index()],
        });
        ServerFacts {
            version: VERSION,
            epoch: hub.epoch().clone(),
            phase: self.phase.get(),
            started_at: Self::wall(hub.started_at()),
            uptime: hub.started_at().elapsed(),
            cpu_time: cpu::process_time(),
            connections: count(hub.connections().count()),
            sessions: count(hub.sessions().count()),
            streams: count(hub.streams().count()),
            subscriptions: count(hub.count_subscriptions()),
            topics: count(hub.topics().len()),
            last_sequence: hub.last_sequence(),
            events_delivered: stats.events_delivered,
            bytes_delivered: stats.bytes_delivered,
            tails_bytes: hub.topics().held_bytes() as u64,
            tails_bytes_max: hub.tails_bytes_max() as u64,
            vitals,
            thresholds,
            accounts: hub.accounts(vitals.memory.start_bytes).to_vec(),
            ended: ended.collect(),
            logins: stats.logins,
            accept_errors: self.accept_errors(),
            publishes_duplicate: stats.publishes_duplicate,
            refused: Refused {
                publishes: stats.publishes_refused,
                logins: stats.logins_refused,
                streams: stats.streams_refused,
                connections: self.tally.refused(),
                connections_abusive: self.tally.abusive(),
            },
        }
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
