//! The table of keys: the one place where a key is declared.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::base::limits::REMEMBERED_IDS_MAX;
use crate::config::environment::PREFIX;
use crate::config::{AuthMode, Config};

/// A key's field, by kind. One accessor reads and writes.
pub(crate) enum Field {
    Address(fn(&mut Config) -> &mut SocketAddr),
    /// None when empty.
    OptionalAddress(fn(&mut Config) -> &mut Option<SocketAddr>),
    Path(fn(&mut Config) -> &mut PathBuf),
    Mode(fn(&mut Config) -> &mut AuthMode),
    Level(fn(&mut Config) -> &mut LevelFilter),
    Switch(fn(&mut Config) -> &mut bool),
    Count(fn(&mut Config) -> &mut u32),
    Percent(fn(&mut Config) -> &mut u8),
    Bytes(fn(&mut Config) -> &mut usize),
    Window(fn(&mut Config) -> &mut u32),
    Budget(fn(&mut Config) -> &mut u64),
    Time(fn(&mut Config) -> &mut Duration),
}

/// One key.
pub(crate) struct Key {
    /// `<section>.<key>`.
    pub(crate) name: &'static str,
    pub(crate) field: Field,
    /// Smallest value, in counts, percent, bytes or milliseconds; unused for other kinds.
    pub(crate) least: u64,
    /// Largest value.
    pub(crate) most: u64,
    /// One line for the reference.
    pub(crate) help: &'static str,
}

impl Key {
    /// `limits` of `limits.lease`.
    pub(crate) fn section(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(section, _)| section)
    }

    /// `lease` of `limits.lease`.
    pub(crate) fn short(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, short)| short)
    }

    /// `STREAMWARD_LIMITS_LEASE` for `limits.lease`.
    pub(crate) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// Whether a running process takes a new value. New connections get new windows; sockets, users and the number
    /// of permits the acceptors began with stay.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.section(), "server" | "auth")
            && !matches!(self.name, "limits.connections_max" | "limits.half_open_max")
    }
}

/// The sections in the order of the reference, each with one line about it.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("server", "Where the server listens. Read at start only."),
    ("auth", "Who may log in. Read at start only."),
    ("log", "What is written to standard error."),
    ("limits", "Every bound. The defaults are for a Raspberry Pi with 1 GB."),
    ("memory", "What the process may hold, and the ladder that keeps it there."),
    ("shutdown", "How the server stops: refuse, drain, abort."),
];

/// Smallest flow-control window: less than one DATA frame would stall every message.
const WINDOW_BYTES_MIN: u64 = 16 * 1024;
/// Largest flow-control window (RFC 9113, 6.9.1).
const WINDOW_BYTES_MAX: u64 = (1 << 31) - 1;
/// Largest size any key takes; every offset then fits 32 bits.
const SIZE_BYTES_MAX: u64 = 1 << 30;
/// Longest duration: one year. Clock arithmetic must not overflow.
const TIME_MS_MAX: u64 = 365 * 24 * 3_600_000;
const COUNT_MAX: u64 = u32::MAX as u64;

const fn count(name: &'static str, least: u64, at: fn(&mut Config) -> &mut u32, help: &'static str) -> Key {
    Key { name, field: Field::Count(at), least, most: COUNT_MAX, help }
}

const fn percent(name: &'static str, least: u64, at: fn(&mut Config) -> &mut u8, help: &'static str) -> Key {
    Key { name, field: Field::Percent(at), least, most: 100, help }
}

const fn bytes(name: &'static str, at: fn(&mut Config) -> &mut usize, help: &'static str) -> Key {
    Key { name, field: Field::Bytes(at), least: 1, most: SIZE_BYTES_MAX, help }
}

const fn window(name: &'static str, at: fn(&mut Config) -> &mut u32, help: &'static str) -> Key {
    Key { name, field: Field::Window(at), least: WINDOW_BYTES_MIN, most: WINDOW_BYTES_MAX, help }
}

const fn time(
    name: &'static str,
    least: u64,
    at: fn(&mut Config) -> &mut Duration,
    help: &'static str,
) -> Key {
    Key { name, field: Field::Time(at), least, most: TIME_MS_MAX, help }
}

const fn other(name: &'static str, field: Field, help: &'static str) -> Key {
    Key { name, field, least: 0, most: u64::MAX, help }
}

/// Every key, section by section, in the order of the reference.
pub(crate) const KEYS: &[Key] = &[
    other(
        "server.listen",
        Field::Address(|c| &mut c.server.listen),
        "Where clients connect: address and port.",
    ),
    other(
        "server.admin_socket",
        Field::Path(|c| &mut c.server.admin_socket),
        "Unix socket for `streamward status`, `drain` and the like. Unset: this when systemd or root runs us, \
         else the user's runtime directory.",
    ),
    other(
        "server.metrics_listen",
        Field::OptionalAddress(|c| &mut c.server.metrics_listen),
        "Where http://ADDRESS/metrics answers Prometheus, such as \"127.0.0.1:9464\"; \"\" is off. Loopback only: \
         nobody is asked who they are.",
    ),
    count("server.threads_max", 1, |c| &mut c.server.threads_max, "Threads at most, the main one included."),
    other("auth.mode", Field::Mode(|c| &mut c.auth.mode), "\"open\": anyone, under any user name."),
    other(
        "auth.allow_open",
        Field::Switch(|c| &mut c.auth.allow_open),
        "Allow mode \"open\" on an address that other machines can reach.",
    ),
    other(
        "log.level",
        Field::Level(|c| &mut c.log.level),
        "Least important level written: off, error, warn, info, debug or trace.",
    ),
    count("limits.sessions_max", 1, |c| &mut c.limits.sessions_max, "Sessions at once."),
    count(
        "limits.sessions_per_user_max",
        1,
        |c| &mut c.limits.sessions_per_user_max,
        "Sessions of one user at once.",
    ),
    time(
        "limits.lease",
        1,
        |c| &mut c.limits.lease,
        "A session ends after this long without heartbeat or traffic.",
    ),
    time(
        "limits.heartbeat_interval",
        1,
        |c| &mut c.limits.heartbeat_interval,
        "How often clients are told to send a heartbeat; below the lease, better a third of it.",
    ),
    count(
        "limits.streams_per_session_max",
        1,
        |c| &mut c.limits.streams_per_session_max,
        "Streams of one session at once.",
    ),
    time(
        "limits.stream_idle_timeout",
        0,
        |c| &mut c.limits.stream_idle_timeout,
        "A stream ends after this long without traffic; \"0s\" is off.",
    ),
    time(
        "limits.login_timeout",
        1,
        |c| &mut c.limits.login_timeout,
        "From a connection's handshake to its first request.",
    ),
    count(
        "limits.connections_max",
        1,
        |c| &mut c.limits.connections_max,
        "Connections at once; the admin socket has 16 beside these. The unit's LimitNOFILE must hold both.",
    ),
    count(
        "limits.connections_per_ip_max",
        1,
        |c| &mut c.limits.connections_per_ip_max,
        "Connections of one IP address at once.",
    ),
    count(
        "limits.half_open_max",
        1,
        |c| &mut c.limits.half_open_max,
        "Connections that have not finished their handshake. While as many connections are free, more have 1s for it.",
    ),
    time(
        "limits.handshake_timeout",
        1,
        |c| &mut c.limits.handshake_timeout,
        "From accept to the end of the handshake.",
    ),
    time(
        "limits.connection_idle_timeout",
        1,
        |c| &mut c.limits.connection_idle_timeout,
        "A connection without stream and session is closed after this long.",
    ),
    time(
        "limits.ping_interval",
        1,
        |c| &mut c.limits.ping_interval,
        "A quiet connection is pinged this often.",
    ),
    time(
        "limits.ping_timeout",
        1,
        |c| &mut c.limits.ping_timeout,
        "A ping must be answered within this time.",
    ),
    count(
        "limits.streams_per_connection_max",
        1,
        |c| &mut c.limits.streams_per_connection_max,
        "Streams of one connection at once. Short calls beside them have 16 places of their own.",
    ),
    count(
        "limits.stream_opens_per_second_max",
        1,
        |c| &mut c.limits.stream_opens_per_second_max,
        "Streams a connection may open per second, and calls of any kind it may cancel. Above it a stream is refused, \
         or the connection closed.",
    ),
    bytes("limits.message_bytes_max", |c| &mut c.limits.message_bytes_max, "Largest payload."),
    bytes("limits.tail_bytes_max", |c| &mut c.limits.tail_bytes_max, "What one topic retains."),
    bytes("limits.tails_bytes_max", |c| &mut c.limits.tails_bytes_max, "What all topics together retain."),
    count("limits.topics_max", 1, |c| &mut c.limits.topics_max, "Topics at once."),
    count(
        "limits.subscriptions_per_stream_max",
        1,
        |c| &mut c.limits.subscriptions_per_stream_max,
        "Topics one stream may follow.",
    ),
    bytes(
        "limits.lag_bytes_max",
        |c| &mut c.limits.lag_bytes_max,
        "Bytes a subscription may lie behind its topic; one message with its names must fit.",
    ),
    window(
        "limits.stream_window_bytes",
        |c| &mut c.limits.stream_window_bytes,
        "HTTP/2 window of each stream from the client. New connections get a new value.",
    ),
    window(
        "limits.connection_window_bytes",
        |c| &mut c.limits.connection_window_bytes,
        "HTTP/2 window of each connection from the client. New connections get a new value.",
    ),
    count(
        "limits.publishes_per_second_max",
        0,
        |c| &mut c.limits.publishes_per_second_max,
        "Publishes of one session per second; 0 is off.",
    ),
    time(
        "limits.dedup_window",
        0,
        |c| &mut c.limits.dedup_window,
        "A publish with the same sender, topic and message_id as one accepted within this time is not accepted again; \
         \"0s\" is off.",
    ),
    Key {
        name: "limits.dedup_ids_max",
        field: Field::Count(|c| &mut c.limits.dedup_ids_max),
        least: 1,
        most: REMEMBERED_IDS_MAX as u64,
        help: "Message ids remembered of one topic. All topics together have 28672.",
    },
    Key {
        name: "memory.budget_bytes",
        field: Field::Budget(|c| &mut c.memory.budget_bytes),
        least: 0,
        most: 1 << 40,
        help: "What the process may hold; 0 is a quarter of the RAM, at most 256MiB.",
    },
    percent(
        "memory.elevated_percent",
        1,
        |c| &mut c.memory.elevated_percent,
        "Level ELEVATED from here, percent of the budget.",
    ),
    percent("memory.high_percent", 1, |c| &mut c.memory.high_percent, "Level HIGH from here."),
    percent("memory.critical_percent", 1, |c| &mut c.memory.critical_percent, "Level CRITICAL from here."),
    percent(
        "memory.hysteresis_percent",
        0,
        |c| &mut c.memory.hysteresis_percent,
        "A level is left this far below where it began.",
    ),
    count(
        "memory.ends_per_tick_max",
        1,
        |c| &mut c.memory.ends_per_tick_max,
        "Streams and sessions ended per tick at most.",
    ),
    time("memory.tick", 100, |c| &mut c.memory.tick, "How often memory is looked at; at least \"100ms\"."),
    time(
        "shutdown.drain_timeout",
        0,
        |c| &mut c.shutdown.drain_timeout,
        "How long delivering what was accepted may take. The unit's TimeoutStopSec must be longer.",
    ),
    time(
        "shutdown.flush_timeout",
        0,
        |c| &mut c.shutdown.flush_timeout,
        "How long an ended stream's status may take to leave.",
    ),
    time(
        "shutdown.retry_after",
        0,
        |c| &mut c.shutdown.retry_after,
        "When clients are told to come back, before spreading.",
    ),
];

/// The key of that full name, and its place in [`KEYS`].
pub(crate) fn find(name: &str) -> Option<(usize, &'static Key)> {
    KEYS.iter().enumerate().find(|(_, key)| key.name == name)
}

/// The key that a variable sets.
pub(crate) fn of_variable(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.variable() == name)
}

/// The section of that name.
pub(crate) fn section(name: &str) -> Option<&'static str> {
    SECTIONS.iter().map(|(section, _)| *section).find(|section| *section == name)
}

/// The section most like `name`, or a key of just that name whose section line was forgotten.
pub(crate) fn nearest_section(name: &str) -> Option<String> {
    let forgotten = KEYS.iter().find(|key| key.short() == name).map(|key| key.name.to_owned());
    forgotten
        .or_else(|| nearest(name, SECTIONS.iter().map(|(section, _)| (*section, format!("[{section}]")))))
}

/// The key most like `short` in its section, else in any.
pub(crate) fn nearest_key(section: &str, short: &str) -> Option<String> {
    let keys = |only: bool| KEYS.iter().filter(move |key| !only || key.section() == section);
    let names = |only| keys(only).map(|key| (key.short(), key.name.to_owned()));
    nearest(short, names(true)).or_else(|| nearest(short, names(false)))
}

/// The variable most like `name`.
pub(crate) fn nearest_variable(name: &str) -> Option<String> {
    let variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    nearest(name, variables.iter().map(|variable| (variable.as_str(), variable.clone())))
}

/// The answer whose text takes the fewest edits to become `wanted`, when those are few enough to be a slip.
fn nearest<'a>(wanted: &str, candidates: impl Iterator<Item = (&'a str, String)>) -> Option<String> {
    let few = (wanted.len() / 3).clamp(1, 5);
    // Each byte of difference in length is an edit: a name of any length costs little.
    let near = candidates.filter(|(text, _)| text.len().abs_diff(wanted.len()) <= few);
    let scored = near.map(|(text, answer)| (edits(wanted, text), answer));
    scored.filter(|(edits, _)| *edits <= few).min_by_key(|(edits, _)| *edits).map(|(_, answer)| answer)
}

/// Insertions, deletions and replacements of bytes from one text to the other (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, left) in from.bytes().enumerate() {
        let mut diagonal = above[0];
        above[0] = row + 1;
        for (column, right) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = above[column + 1];
            above[column + 1] = replaced.min(diagonal + 1).min(above[column] + 1);
        }
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_name_and_a_section() {
        for (at, key) in KEYS.iter().enumerate() {
            assert_eq!(find(key.name).map(|(found, _)| found), Some(at), "{} twice", key.name);
            assert_eq!(section(key.section()), Some(key.section()));
            assert!(of_variable(&key.variable()).is_some_and(|found| found.name == key.name));
            assert!(!key.help.is_empty() && !key.help.contains('\n'), "{}", key.name);
        }
    }

    #[test]
    fn edits_are_counted() {
        for (from, to, count) in [("", "", 0), ("lease", "lease", 0), ("leese", "lease", 1), ("abc", "", 3)] {
            assert_eq!(edits(from, to), count, "{from} {to}");
        }
    }
}
