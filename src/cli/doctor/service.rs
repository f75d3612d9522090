//! The installed unit against the configuration. The same rules hold for the shipped unit and the defaults; the house's
//! tests see to that. Here they are asked again of what someone has edited.

use std::time::Duration;

use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::memory;
use crate::cli::doctor::memory::Memory;
use crate::cli::doctor::unit::{Setting, UnitFile};
use crate::cli::text::{show_bytes, show_duration};
use crate::config::Config;

/// What systemd knows of the hub.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service<'a> {
    pub(crate) unit: Option<&'a UnitFile>,
    /// `streamward.socket`, if it is enabled.
    pub(crate) socket: Option<&'a UnitFile>,
    /// Whether systemd started this machine.
    pub(crate) is_systemd: bool,
}

/// `DefaultTimeoutStopSec=` when nobody sets it (systemd-system.conf(5)).
const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(90);
const EDIT: &str = "`systemctl edit streamward`";

impl Service<'_> {
    /// The unit itself, and what it sets. Without one there is nothing to say of settings.
    pub(crate) fn judge(&self, config: &Config, memory: &Memory) -> Vec<Finding> {
        let mut findings = vec![self.installed()];
        if let Some(unit) = self.unit.filter(|unit| !unit.is_masked) {
            findings.push(stop_timeout(unit, config));
            findings.push(memory_max(unit, memory, memory::budget_bytes(memory, config)));
            findings.push(watchdog(unit));
        }
        findings
    }

    fn installed(&self) -> Finding {
        const ID: &str = "unit";
        const NOBODY: &str = "Nothing starts the hub at boot, nor again after a crash.";
        let Some(unit) = self.unit else {
            let found = if self.is_systemd {
                "streamward.service is not installed"
            } else {
                "streamward.service is not installed, and systemd did not start this machine"
            };
            return Finding::warn(
                ID,
                found,
                NOBODY,
                "Install the package. Where there is no systemd, have the supervisor start `streamward serve`.",
            );
        };
        let drop_ins = unit.drop_ins.iter().map(|path| format!(", {path}"));
        let found = format!("{}{}", unit.path, drop_ins.collect::<String>());
        let finding = if unit.is_masked {
            Finding::warn(
                ID,
                format!("{found}: masked"),
                NOBODY,
                "`systemctl unmask streamward` takes that back.",
            )
        } else if !unit.unreadable.is_empty() {
            Finding::warn(
                ID,
                found,
                format!("Not all of it can be read by this user: {}.", unit.unreadable.join(", ")),
                "Run this as root.",
            )
        } else if !unit.is_enabled && self.socket.is_none() {
            Finding::warn(
                ID,
                format!("{found}: not enabled"),
                "Nothing starts the hub at boot.",
                "`sudo systemctl enable --now streamward`",
            )
        } else {
            let starter = if unit.is_enabled { "systemd" } else { "systemd, at the first connection," };
            Finding::ok(ID, found, format!("Enabled: {starter} starts the hub, and again after a crash."))
        };
        finding.value("is_enabled", unit.is_enabled)
    }
}

fn stop_timeout(unit: &UnitFile, config: &Config) -> Finding {
    const ID: &str = "stop_timeout";
    let phases = config.shutdown.longest();
    let takes = format!("Draining, flushing twice and leaving may take {}.", show_duration(phases));
    let (timeout, found) = match unit.stop_timeout() {
        Setting::Infinity => return Finding::ok(ID, "systemd waits for ever", takes),
        Setting::Value(timeout) => (timeout, format!("TimeoutStopSec={}", show_duration(timeout))),
        Setting::Unset => (STOP_TIMEOUT_DEFAULT, "no TimeoutStopSec=, systemd's default of 90s".to_owned()),
        Setting::Unclear(text) => {
            return Finding::warn(
                ID,
                format!("TimeoutStopSec={text} is no time"),
                format!("systemd passes over it and takes its default. {takes}"),
                format!("Write it as in `90s` with {EDIT}."),
            );
        }
    };
    let finding = if timeout < phases {
        let seconds = phases.as_secs() + u64::from(phases.subsec_nanos() > 0);
        Finding::fail(
            ID,
            found,
            format!("{takes} systemd kills the hub before: streams are cut that could have been delivered."),
            format!("Set TimeoutStopSec={seconds} or more with {EDIT}, or lower shutdown.drain_timeout."),
        )
    } else {
        Finding::ok(ID, found, format!("Enough. {takes}"))
    };
    finding.value("needed_s", phases.as_secs_f64())
}

fn memory_max(unit: &UnitFile, memory: &Memory, budget_bytes: Option<u64>) -> Finding {
    const ID: &str = "memory_max";
    let budget = budget_bytes.unwrap_or(0);
    let budget_text = show_bytes(budget);
    if unit.size("MemoryHigh", memory.total_bytes) != Setting::Unset {
        return Finding::warn(
            ID,
            "MemoryHigh= in the unit",
            "Without swap it stalls the hub instead of ending it: every stream waits.",
            format!("Take it out with {EDIT}, and leave MemoryMax=."),
        );
    }
    match unit.size("MemoryMax", memory.total_bytes) {
        Setting::Unset | Setting::Infinity => Finding::warn(
            ID,
            "no MemoryMax= in the unit",
            "The hub's own monitor keeps its budget, but nothing stops it should it be wrong.",
            format!("Set MemoryMax={} with {EDIT}.", plain_bytes(budget.max(64 << 20))),
        ),
        Setting::Unclear(text) => Finding::warn(
            ID,
            format!("MemoryMax={text} cannot be worked out"),
            "Whether it is below the hub's budget is not known.",
            format!("Write it as in `256M` with {EDIT}."),
        ),
        Setting::Value(most) if most < budget => Finding::warn(
            ID,
            format!("MemoryMax={}, budget {budget_text}", show_bytes(most)),
            "Where the kernel tells the hub (cgroup v2) it keeps below MemoryMax=; elsewhere it is killed before it sheds.",
            format!(
                "Set memory.budget_bytes to at most that, or MemoryMax={} with {EDIT}.",
                plain_bytes(budget)
            ),
        ),
        Setting::Value(most) => Finding::ok(
            ID,
            format!("MemoryMax={}, budget {budget_text}", show_bytes(most)),
            "The hub sheds load before the kernel would end it.",
        ),
    }
}

/// As a unit file takes it: whole MiB, rounded up.
fn plain_bytes(bytes: u64) -> String {
    format!("{}M", bytes.div_ceil(1 << 20))
}

fn watchdog(unit: &UnitFile) -> Finding {
    const ID: &str = "watchdog";
    match unit.time("WatchdogSec") {
        Setting::Value(time) if !time.is_zero() => Finding::ok(
            ID,
            format!("WatchdogSec={}", show_duration(time)),
            "A hub that is stuck is restarted.",
        ),
        Setting::Value(_) | Setting::Unset | Setting::Infinity => Finding::warn(
            ID,
            "no WatchdogSec= in the unit",
            "A hub that is stuck stays so until someone notices.",
            format!("Set WatchdogSec=60 with {EDIT}."),
        ),
        Setting::Unclear(text) => Finding::warn(
            ID,
            format!("WatchdogSec={text} is no time"),
            "systemd passes over it: a hub that is stuck stays so until someone notices.",
            format!("Set WatchdogSec=60 with {EDIT}."),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    const SHIPPED: &str = include_str!("../../../systemd/streamward.service");

    fn judged(text: &str, config: &Config) -> Vec<(&'static str, Verdict)> {
        let unit = UnitFile::of(text);
        let memory = Memory { total_bytes: Some(1 << 30), ..Memory::default() };
        let service = Service { unit: Some(&unit), socket: None, is_systemd: true };
        service.judge(config, &memory).iter().map(|finding| (finding.id, finding.verdict)).collect()
    }

    #[test]
    fn the_shipped_unit_is_well_with_the_defaults() {
        let all = [
            ("unit", Verdict::Ok),
            ("stop_timeout", Verdict::Ok),
            ("memory_max", Verdict::Ok),
            ("watchdog", Verdict::Ok),
        ];
        assert_eq!(judged(SHIPPED, &Config::default()), all);
    }

    #[test]
    fn every_setting_that_does_not_fit_is_told() {
        for (from, to, id, verdict) in [
            ("TimeoutStopSec=30", "TimeoutStopSec=28", "stop_timeout", Verdict::Fail),
            ("TimeoutStopSec=30", "TimeoutStopSec=29s", "stop_timeout", Verdict::Ok),
            ("TimeoutStopSec=30", "TimeoutStopSec=infinity", "stop_timeout", Verdict::Ok),
            ("TimeoutStopSec=30", "", "stop_timeout", Verdict::Ok),
            ("TimeoutStopSec=30", "TimeoutStopSec=soon", "stop_timeout", Verdict::Warn),
            ("MemoryMax=256M", "MemoryMax=255M", "memory_max", Verdict::Warn),
            ("MemoryMax=256M", "MemoryMax=25%", "memory_max", Verdict::Warn),
            ("MemoryMax=256M", "MemoryMax=26%", "memory_max", Verdict::Ok),
            ("MemoryMax=256M", "MemoryMax=infinity", "memory_max", Verdict::Warn),
            ("MemoryMax=256M", "MemoryMax=much", "memory_max", Verdict::Warn),
            ("MemoryMax=256M", "MemoryMax=256M\nMemoryHigh=200M", "memory_max", Verdict::Warn),
            ("WatchdogSec=60", "WatchdogSec=0", "watchdog", Verdict::Warn),
            ("WatchdogSec=60", "WatchdogSec=1min", "watchdog", Verdict::Ok),
            ("WatchdogSec=60", "", "watchdog", Verdict::Warn),
            ("WatchdogSec=60", "WatchdogSec=x", "watchdog", Verdict::Warn),
        ] {
            assert!(SHIPPED.contains(from));
            for (found, found_verdict) in judged(&SHIPPED.replace(from, to), &Config::default()) {
                let expected = if found == id { verdict } else { Verdict::Ok };
                assert_eq!(found_verdict, expected, "{found} with {to}");
            }
        }
    }

    #[test]
    fn a_longer_drain_needs_a_longer_stop_timeout() {
        let mut config = Config::default();
        config.shutdown.drain_timeout = Duration::from_millis(80_500);
        let finding = stop_timeout(&UnitFile::of(SHIPPED), &config);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.advice.starts_with("Set TimeoutStopSec=90 or more"), "{finding:?}");
        // The default of systemd would hold that, too.
        assert_eq!(stop_timeout(&UnitFile::of("[Service]\n"), &config).verdict, Verdict::Ok);
        config.shutdown.drain_timeout = Duration::from_secs(90);
        assert_eq!(stop_timeout(&UnitFile::of("[Service]\n"), &config).verdict, Verdict::Fail);
    }

    #[test]
    fn a_unit_that_does_not_start_the_hub_is_told_and_how_to_change_that() {
        let unit = UnitFile::of(SHIPPED);
        let installed =
            |unit: Option<&UnitFile>, socket| Service { unit, socket, is_systemd: true }.installed();
        for (finding, needle) in [
            (installed(None, None), "not installed"),
            (installed(Some(&UnitFile { is_masked: true, ..unit.clone() }), None), "masked"),
            (installed(Some(&UnitFile { is_enabled: false, ..unit.clone() }), None), "not enabled"),
            (installed(Some(&UnitFile { unreadable: vec!["/y".into()], ..unit.clone() }), None), "/x"),
        ] {
            assert_eq!(finding.verdict, Verdict::Warn, "{finding:?}");
            assert!(finding.found.contains(needle) && !finding.advice.is_empty(), "{finding:?}");
        }
        let by_socket = installed(Some(&UnitFile { is_enabled: false, ..unit.clone() }), Some(&unit));
        assert_eq!(by_socket.verdict, Verdict::Ok);
        let masked = UnitFile { is_masked: true, ..unit };
        let service = Service { unit: Some(&masked), socket: None, is_systemd: true };
        assert_eq!(service.judge(&Config::default(), &Memory::default()).len(), 1);
    }
}
