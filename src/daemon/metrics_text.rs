//! The server's facts as Prometheus and OpenMetrics read them: one family per fact, base units, the words of the
//! status.

use std::fmt::{Display, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use crate::runtime::phase::Phase;
use crate::runtime::pressure::{Level, Permille};
use crate::server::status::ServerFacts;

/// The two ways to write the same page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The media type of a page in this format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The whole page.
#[must_use]
pub fn page(facts: &ServerFacts, format: Format) -> String {
    let mut page = Page { format, text: String::new() };
    page.identity(facts);
    page.holds(facts);
    page.memory(facts);
    page.process(facts);
    page.history(facts);
    if format == Format::OpenMetrics {
        page.line(format_args!("# EOF"));
    }
    page.text
}

struct Page {
    format: Format,
    text: String,
}

/// What a family is, in the words of OpenMetrics.
#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
    Info,
    StateSet,
}

impl Page {
    fn identity(&mut self, facts: &ServerFacts) {
        let labels = [("version", facts.version), ("epoch", &*facts.epoch.0)];
        let name = self.family("streamward_build", Kind::Info, "The program and the epoch of its order.");
        self.sample(&name, &labels, 1);
        self.gauge(
            "streamward_start_time_seconds",
            "When the process started, in seconds since 1970.",
            seconds(facts.started_at.duration_since(UNIX_EPOCH).unwrap_or_default()),
        );
        let phases = [Phase::Running, Phase::Refusing, Phase::Draining, Phase::Aborting].map(Phase::name);
        self.states(
            "streamward_phase",
            "Where the process stands between start and stop.",
            &phases,
            facts.phase.name(),
        );
    }

    fn holds(&mut self, facts: &ServerFacts) {
        self.gauge("streamward_connections", "Open connections.", facts.connections);
        self.gauge("streamward_sessions", "Live sessions.", facts.sessions);
        self.gauge("streamward_streams", "Live streams.", facts.streams);
        self.gauge("streamward_subscriptions", "Live subscriptions of all streams.", facts.subscriptions);
        self.gauge("streamward_topics", "Topics that are followed or retain something.", facts.topics);
        self.gauge("streamward_last_sequence", "Position of the newest accepted event.", facts.last_sequence);
    }

    fn memory(&mut self, facts: &ServerFacts) {
        let memory = facts.vitals.memory;
        let levels = Level::ALL.map(Level::name);
        self.states("streamward_pressure", "How full memory is.", &levels, facts.vitals.level.name());
        let name = self.family(
            "streamward_pressure_begins_ratio",
            Kind::Gauge,
            "Share of the ceiling at which the level begins.",
        );
        for level in Level::ALL.into_iter().filter(|level| *level != Level::Normal) {
            self.sample(&name, &[("level", level.name())], ratio(level.begins(&facts.thresholds)));
        }
        for (name, help, bytes) in [
            (
                "streamward_resident_memory_bytes",
                "Resident set of the process.",
                facts.vitals.memory.rss_bytes,
            ),
            ("streamward_memory_budget_bytes", "What the process may hold.", memory.budget_bytes),
            ("streamward_memory_ceiling_bytes", "What may be used now.", memory.ceiling_bytes),
            ("streamward_memory_used_bytes", "What counts as used of the ceiling.", memory.used_bytes),
            ("streamward_tails_bytes", "Memory held by topic tails.", facts.tails_bytes),
            ("streamward_tails_max_bytes", "What topic tails may hold.", facts.tails_bytes_max),
        ] {
            self.gauge(name, help, bytes);
        }
        for (name, help, bytes) in [
            (
                "streamward_memory_available_bytes",
                "MemAvailable of the machine; absent when unknown.",
                memory.available_bytes,
            ),
            (
                "streamward_cgroup_current_bytes",
                "memory.current of the cgroup; absent without one.",
                memory.cgroup_current_bytes,
            ),
            (
                "streamward_cgroup_high_bytes",
                "memory.high of the cgroup; absent when there is no limit.",
                memory.cgroup_high_bytes,
            ),
            (
                "streamward_cgroup_max_bytes",
                "memory.max of the cgroup; absent when there is no limit.",
                memory.cgroup_max_bytes,
            ),
        ] {
            self.known_gauge(name, help, bytes);
        }
        self.gauge(
            "streamward_memory_stalled_ratio",
            "Share of the last ten seconds in which something waited for memory.",
            ratio(memory.stalled),
        );
        self.gauge(
            "streamward_idle_scale_ratio",
            "Idle timeouts are multiplied by this.",
            ratio(facts.vitals.idle_scale),
        );
        self.gauge(
            "streamward_tails_scale_ratio",
            "Share of their maximum that topic tails may hold now.",
            ratio(facts.vitals.tails_scale),
        );
        self.accounts(facts);
    }

    fn accounts(&mut self, facts: &ServerFacts) {
        let name = self.family(
            "streamward_accounts_bytes",
            Kind::Gauge,
            "Memory by holder, by the server's own count; holders as in the bill of check-config.",
        );
        for account in &facts.accounts {
            self.sample(&name, &[("holder", account.holder)], account.bytes);
        }
        let name = self.family("streamward_accounts", Kind::Gauge, "How many there are of each holder.");
        for account in &facts.accounts {
            self.sample(&name, &[("holder", account.holder)], account.count);
        }
    }

    fn process(&mut self, facts: &ServerFacts) {
        let vitals = facts.vitals;
        // The name every exporter gives it, so that dashboards find it.
        let name = self.family(
            "process_cpu_seconds",
            Kind::Counter,
            "User and system time of the process since its start.",
        );
        self.sample(&name, &[], seconds(facts.cpu_time));
        self.gauge("streamward_threads", "Threads of the process.", facts.vitals.threads);
        self.known_gauge(
            "streamward_threads_max",
            "More threads than this, and no new sessions are taken; absent when unknown.",
            u64::from(vitals.threads_max),
        );
        self.gauge("streamward_descriptors", "Open descriptors.", facts.vitals.descriptors);
        self.known_gauge(
            "streamward_descriptors_max",
            "RLIMIT_NOFILE; absent when there is no limit.",
            vitals.descriptors_max,
        );
        self.gauge(
            "streamward_loop_lag_seconds",
            "How late the event loop came to its last tick.",
            seconds(vitals.loop_lag),
        );
        self.gauge(
            "streamward_loop_lag_max_seconds",
            "The worst of the last minute.",
            seconds(vitals.loop_lag_max),
        );
    }

    fn history(&mut self, facts: &ServerFacts) {
        for (name, help, count) in [
            (
                "streamward_delivered_events",
                "Events handed to connections, once per stream.",
                facts.events_delivered,
            ),
            ("streamward_delivered_bytes", "Their bytes.", facts.bytes_delivered),
            ("streamward_logins", "Logins granted.", facts.logins),
            ("streamward_accept_errors", "Connections that could not be accepted.", facts.accept_errors),
            (
                "streamward_publishes_refused",
                "Publishes refused, for example for size or topic.",
                facts.refused.publishes,
            ),
            (
                "streamward_publishes_duplicate",
                "Publishes that were there already, by their message_id.",
                facts.publishes_duplicate,
            ),
            (
                "streamward_logins_refused",
                "Logins refused, for a limit or to save memory.",
                facts.refused.logins,
            ),
            (
                "streamward_streams_refused",
                "Streams refused, for a limit or to save memory.",
                facts.refused.streams,
            ),
            (
                "streamward_connections_refused",
                "Connections turned away for a limit.",
                facts.refused.connections,
            ),
            (
                "streamward_connections_abusive",
                "Connections cut for abuse.",
                facts.refused.connections_abusive,
            ),
        ] {
            let name = self.family(name, Kind::Counter, help);
            self.sample(&name, &[], count);
        }
        let name =
            self.family("streamward_ended", Kind::Counter, "Streams and sessions that ended, by reason.");
        for ended in &facts.ended {
            for (kind, count) in [("stream", ended.streams), ("session", ended.sessions)] {
                self.sample(&name, &[("kind", kind), ("reason", ended.reason.name())], count);
            }
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        let name = self.family(name, Kind::Gauge, help);
        self.sample(&name, &[], value);
    }

    /// A gauge of which 0 says that nobody knows: a zero on a graph would lie.
    fn known_gauge(&mut self, name: &str, help: &str, value: u64) {
        if value > 0 {
            self.gauge(name, help, value);
        }
    }

    /// One sample per state, 1 for the one that holds.
    fn states(&mut self, family: &str, help: &str, all: &[&str], now: &str) {
        let name = self.family(family, Kind::StateSet, help);
        for state in all {
            self.sample(&name, &[(family, state)], u8::from(*state == now));
        }
    }

    /// Begins a family. Returns the name its samples have.
    fn family(&mut self, family: &str, kind: Kind, help: &str) -> String {
        let (suffix, open, text) = match kind {
            Kind::Gauge => ("", "gauge", "gauge"),
            Kind::Counter => ("_total", "counter", "counter"),
            // The older format has neither.
            Kind::Info => ("_info", "info", "gauge"),
            Kind::StateSet => ("", "stateset", "gauge"),
        };
        let name = format!("{family}{suffix}");
        match self.format {
            Format::Text => {
                self.line(format_args!("# HELP {name} {help}"));
                self.line(format_args!("# TYPE {name} {text}"));
            }
            Format::OpenMetrics => {
                self.line(format_args!("# TYPE {family} {open}"));
                if let Some(unit) = unit(family) {
                    self.line(format_args!("# UNIT {family} {unit}"));
                }
                self.line(format_args!("# HELP {family} {help}"));
            }
        }
        name
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let pairs: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        if pairs.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", pairs.join(",")));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let written = writeln!(self.text, "{line}");
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    }
}

/// The unit is the end of the name: OpenMetrics asks for both.
fn unit(family: &str) -> Option<&'static str> {
    ["bytes", "seconds", "ratio"].into_iter().find(|unit| family.ends_with(&format!("_{unit}")))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(duration: Duration) -> String {
    format!("{}.{:06}", duration.as_secs(), duration.subsec_micros())
}

fn ratio(permille: Permille) -> String {
    format!("{}.{:03}", permille / 1000, permille % 1000)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::base::event::Epoch;
    use crate::base::limits::{Limits, METRICS_PAGE_BYTES_MAX, Memory, Shutdown};
    use crate::base::reason::EndReason;
    use crate::hub::accounts::Account;
    use crate::server::Core;

    fn facts() -> ServerFacts {
        let core =
            Core::new(Epoch("e\"\\\n".into()), Limits::default(), Memory::default(), Shutdown::default());
        let mut facts = core.facts();
        facts.accounts = vec![
            Account { holder: "tails", count: 3, bytes: 4096 },
            Account { holder: "an \"odd\\holder\n", count: 1, bytes: 1 },
        ];
        facts.vitals.level = Level::High;
        facts.cpu_time = Duration::from_micros(61_000_500);
        facts.vitals.loop_lag = Duration::from_micros(1_500_020);
        facts.vitals.descriptors_max = 1024;
        facts.ended[0].streams = 7;
        facts
    }

    /// One line's name, labels and value, unescaped.
    fn sample(line: &str) -> (String, Vec<(String, String)>, f64) {
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
        let (name, mut rest) = line.split_at(end);
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                let (mut text, mut at) = (String::new(), value.char_indices());
                let end = loop {
                    match at.next().unwrap() {
                        (_, '\\') => text.push(match at.next().unwrap().1 {
                            'n' => '\n',
                            plain @ ('\\' | '"') => plain,
                            other => panic!("\\{other}: {line}"),
                        }),
                        (end, '"') => break end + 1,
                        (_, plain) => text.push(plain),
                    }
                };
                labels.push((label.to_owned(), text));
                rest = &value[end..];
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
        }
        (name.to_owned(), labels, rest.strip_prefix(' ').unwrap().parse().unwrap())
    }

    type Values = BTreeMap<(String, Vec<(String, String)>), f64>;

    /// Reads a page by the rules of its format; panics where it breaks one.
    fn read(text: &str, format: Format) -> Values {
        let text = match format {
            Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("the end is marked"),
            Format::Text => text,
        };
        assert!(text.ends_with('\n'));
        let (mut values, mut families) = (Values::new(), BTreeSet::new());
        let (mut family, mut kind, mut described) = (String::new(), String::new(), String::new());
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "TYPE", name, word] => {
                    assert!(families.insert(name.to_owned()), "twice: {line}");
                    (family, kind) = (name.to_owned(), word.to_owned());
                }
                ["#", "HELP", name, help] => {
                    assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
                    described = name.to_owned();
                }
                ["#", "UNIT", name, unit] => {
                    assert!(format == Format::OpenMetrics && name == family, "{line}");
                    assert!(name.ends_with(&format!("_{unit}")), "{line}");
                }
                ["#", ..] => panic!("{line}"),
                _ => {
                    assert_eq!(described, family, "{line}");
                    let (name, labels, value) = sample(line);
                    let suffix = match (format, kind.as_str()) {
                        (Format::OpenMetrics, "counter") => "_total",
                        (Format::OpenMetrics, "info") => "_info",
                        (Format::OpenMetrics, "stateset") => {
                            assert!(labels.len() == 1 && labels[0].0 == family && value <= 1.0, "{line}");
                            ""
                        }
                        (Format::Text, "counter") => {
                            assert!(name.ends_with("_total"), "{line}");
                            ""
                        }
                        (_, "gauge") => "",
                        (_, other) => panic!("{other}: {line}"),
                    };
                    assert_eq!(name, format!("{family}{suffix}"), "{line}");
                    let shared = name == "process_cpu_seconds_total";
                    assert!(shared || name.starts_with("streamward_"), "{line}");
                    assert_eq!(values.insert((name, labels), value), None, "twice: {line}");
                }
            }
        }
        values
    }

    fn value(values: &Values, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        values.get(&(name.to_owned(), labels)).copied()
    }

    #[test]
    fn both_formats_keep_their_rules_and_tell_the_same() {
        let facts = facts();
        let values = read(&page(&facts, Format::OpenMetrics), Format::OpenMetrics);
        assert_eq!(values, read(&page(&facts, Format::Text), Format::Text));
        let build = [("version", facts.version), ("epoch", "e\"\\\n")];
        assert_eq!(value(&values, "streamward_build_info", &build), Some(1.0));
        let odd = [("holder", "an \"odd\\holder\n")];
        assert_eq!(value(&values, "streamward_accounts_bytes", &odd), Some(1.0));
        assert_eq!(value(&values, "streamward_accounts", &[("holder", "tails")]), Some(3.0));
        assert_eq!(value(&values, "streamward_loop_lag_seconds", &[]), Some(1.50002));
        assert_eq!(value(&values, "process_cpu_seconds_total", &[]), Some(61.0005));
        assert_eq!(value(&values, "streamward_idle_scale_ratio", &[]), Some(1.0));
        assert_eq!(value(&values, "streamward_delivered_bytes_total", &[]), Some(0.0));
    }

    #[test]
    fn every_state_and_every_reason_is_always_there() {
        let values = read(&page(&facts(), Format::OpenMetrics), Format::OpenMetrics);
        let states = |family: &str| -> Vec<(String, f64)> {
            let of = values.iter().filter(|((name, _), _)| name == family);
            of.map(|((_, labels), value)| (labels[0].1.clone(), *value)).collect()
        };
        let expected = [("critical", 0.0), ("elevated", 0.0), ("high", 1.0), ("normal", 0.0)];
        assert_eq!(states("streamward_pressure"), expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(states("streamward_phase").len(), 4);
        for reason in EndReason::ALL {
            for kind in ["stream", "session"] {
                let labels = [("kind", kind), ("reason", reason.name())];
                let wanted = if reason == EndReason::ALL[0] && kind == "stream" { 7.0 } else { 0.0 };
                assert_eq!(value(&values, "streamward_ended_total", &labels), Some(wanted), "{labels:?}");
            }
        }
    }

    #[test]
    fn what_nobody_knows_is_absent_and_not_zero() {
        let values = read(&page(&facts(), Format::Text), Format::Text);
        assert_eq!(value(&values, "streamward_descriptors_max", &[]), Some(1024.0));
        assert_eq!(value(&values, "streamward_cgroup_max_bytes", &[]), None);
        assert_eq!(value(&values, "streamward_memory_available_bytes", &[]), None);
    }

    #[test]
    fn the_longest_page_fits_its_line_in_the_bill() {
        let mut facts = facts();
        facts.accounts =
            vec![Account { holder: "streams: receipts and notices", count: u64::MAX, bytes: u64::MAX }; 32];
        for ended in &mut facts.ended {
            (ended.streams, ended.sessions) = (u64::MAX, u64::MAX);
        }
        let bytes = page(&facts, Format::OpenMetrics).len();
        // Every other value may grow by as many digits as it has not.
        assert!(bytes + 100 * 20 < METRICS_PAGE_BYTES_MAX, "{bytes}");
    }
}
