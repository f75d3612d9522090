//! What the server knows of itself at one moment. The admin service and the metrics page tell the same facts, so they
//! cannot differ.

use std::time::{Duration, SystemTime};

use crate::base::event::Epoch;
use crate::base::reason::EndReason;
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
    /// Resident set.
    pub rss_bytes: u64,
    /// Threads now.
    pub threads: u32,
    /// Open descriptors now.
    pub descriptors: u32,
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
    /// What was refused.
    pub refused: Refused,
}

/// Memory of one holder, by the server's own count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As in the bill of `check-config`.
    pub holder: &'static str,
    /// How many there are.
    pub count: u64,
    /// What they hold together.
    pub bytes: u64,
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
        let process = ProcessFacts::read();
        let vitals = self.vitals();
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
            connections: count(hub.connections().count()),
            sessions: count(hub.sessions().count()),
            streams: count(hub.streams().count()),
            subscriptions: count(hub.count_subscriptions()),
            topics: count(hub.topics().len()),
            last_sequence: hub.last_sequence(),
            events_delivered: stats.events_delivered,
            bytes_delivered: stats.bytes_delivered,
            tails_bytes: hub.topics().held_bytes() as u64,
            tails_bytes_max: hub.limits().tails_bytes_max as u64,
            rss_bytes: process.rss_bytes,
            threads: process.threads,
            descriptors: process.descriptors,
            vitals,
            thresholds: Thresholds { elevated: 0, high: 0, critical: 0, hysteresis: 0 },
            accounts: Vec::new(),
            ended: ended.collect(),
            logins: stats.logins,
            accept_errors: self.accept_errors(),
            refused: Refused { publishes: stats.publishes_refused, ..Refused::default() },
        }
    }
}

#[derive(Default)]
struct ProcessFacts {
    rss_bytes: u64,
    threads: u32,
    descriptors: u32,
}

impl ProcessFacts {
    /// What /proc says of this process; zeros where it says nothing. These files are made by the kernel as they are
    /// read, no disk is touched.
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        // The listing's own descriptor is not one of ours.
        let descriptors =
            std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
        Self {
            rss_bytes: field("VmRSS:").unwrap_or(0) * 1024,
            threads: field("Threads:").and_then(|threads| u32::try_from(threads).ok()).unwrap_or(0),
            descriptors: count(descriptors),
        }
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
