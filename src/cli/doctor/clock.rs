//! Whether the clock is right. Only `published_at` and the log depend on it; every timer is monotonic.
//!
//! The kernel's own word (adjtimex) cannot be had without unsafe code, so the files of the programs that set the clock
//! are asked.

use std::time::{Duration, SystemTime};

use crate::base::limits::DOCTOR_CLOCK_LEAST_S;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::Root;
use crate::cli::text::show_time;

/// The clock and who keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    now: SystemTime,
    keeper: Keeper,
    /// One that runs on without power: none before the Pi 5, and there only with its battery.
    has_rtc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    /// systemd-timesyncd, which says whether it has synchronised.
    Timesyncd {
        is_synchronized: bool,
    },
    /// One that must be asked, and how.
    Other {
        name: &'static str,
        ask: &'static str,
    },
    None,
}

/// Made by others that keep the clock while they run.
const OTHERS: [(&str, &str, &str); 3] = [
    ("/run/chrony", "chronyd", "chronyc tracking"),
    ("/run/ntpsec", "ntpd", "ntpq -p"),
    ("/run/ntpd.pid", "ntpd", "ntpq -p"),
];

pub(crate) fn read(root: &Root) -> Clock {
    let other = OTHERS.iter().find(|(path, _, _)| root.exists(path));
    let keeper = match other {
        // Made at the first synchronisation since boot; stays when another has taken over.
        _ if root.exists("/run/systemd/timesync/synchronized") => Keeper::Timesyncd { is_synchronized: true },
        Some((_, name, ask)) => Keeper::Other { name, ask },
        None if root.exists("/run/systemd/timesync") => Keeper::Timesyncd { is_synchronized: false },
        None => Keeper::None,
    };
    Clock { now: SystemTime::now(), keeper, has_rtc: root.exists("/sys/class/rtc/rtc0") }
}

pub(crate) fn judge(clock: &Clock) -> Finding {
    const ID: &str = "clock";
    const WRONG: &str =
        "Leases and timeouts do not depend on it; published_at of the events and the log's times do.";
    let since_1970 = clock.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let shown = show_time(Some(&clock.now.into()));
    let without_rtc =
        if clock.has_rtc { "" } else { " Without a real-time clock it starts wrong after every power cut." };
    let finding = match clock.keeper {
        _ if since_1970.as_secs() < DOCTOR_CLOCK_LEAST_S => Finding::fail(
            ID,
            format!("{shown}, which is past"),
            format!("It was never set since the machine started. {WRONG}"),
            "Let the machine reach a time server (`timedatectl set-ntp true`), or set it: `timedatectl set-time`.",
        ),
        Keeper::Timesyncd { is_synchronized: true } => Finding::ok(
            ID,
            format!("synchronised by systemd-timesyncd, {shown}"),
            format!("Times can be trusted.{without_rtc}"),
        ),
        Keeper::Other { name, ask } => Finding::ok(
            ID,
            format!("{name} keeps it, {shown}"),
            format!("`{ask}` tells how well.{without_rtc}"),
        ),
        Keeper::Timesyncd { is_synchronized: false } => Finding::warn(
            ID,
            format!("not synchronised since boot, {shown}"),
            format!("{WRONG}{without_rtc}"),
            "`timedatectl timesync-status` tells which server is tried; UDP port 123 must get through.",
        ),
        Keeper::None => Finding::warn(
            ID,
            format!("nobody keeps it that is known here, {shown}"),
            format!("{WRONG}{without_rtc}"),
            "Turn on systemd-timesyncd: `timedatectl set-ntp true`.",
        ),
    };
    finding.value("has_rtc", clock.has_rtc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    fn clock(seconds: u64, keeper: Keeper) -> Clock {
        Clock { now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), keeper, has_rtc: false }
    }

    #[test]
    fn a_synchronised_clock_is_well_and_one_that_is_not_a_warning() {
        for (keeper, verdict) in [
            (Keeper::Timesyncd { is_synchronized: true }, Verdict::Ok),
            (Keeper::Timesyncd { is_synchronized: false }, Verdict::Warn),
            (Keeper::Other { name: "chronyd", ask: "chronyc tracking" }, Verdict::Ok),
            (Keeper::None, Verdict::Warn),
        ] {
            let finding = judge(&clock(DOCTOR_CLOCK_LEAST_S, keeper));
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.meaning.contains("real-time clock"), "{finding:?}");
            let with_rtc = Clock { has_rtc: true, ..clock(DOCTOR_CLOCK_LEAST_S, keeper) };
            assert!(!judge(&with_rtc).meaning.contains("real-time clock"));
        }
    }

    #[test]
    fn a_clock_that_cannot_be_right_fails_whoever_vouches_for_it() {
        let finding = judge(&clock(0, Keeper::Timesyncd { is_synchronized: true }));
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.found.starts_with("1970-01-01T00:00:00"), "{finding:?}");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(judge(&Clock { now: before, ..clock(0, Keeper::None) }).verdict, Verdict::Fail);
    }

    #[test]
    fn the_keeper_is_known_by_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let make = |path: &str| std::fs::create_dir_all(root.path(path)).unwrap();
        assert_eq!(read(&root).keeper, Keeper::None);
        make("/run/systemd/timesync");
        assert_eq!(read(&root).keeper, Keeper::Timesyncd { is_synchronized: false });
        make("/run/chrony");
        assert!(matches!(read(&root).keeper, Keeper::Other { name: "chronyd", .. }));
        make("/run/systemd/timesync/synchronized");
        assert_eq!(read(&root).keeper, Keeper::Timesyncd { is_synchronized: true });
        assert!(!read(&root).has_rtc);
        make("/sys/class/rtc/rtc0");
        assert!(read(&root).has_rtc);
    }
}
