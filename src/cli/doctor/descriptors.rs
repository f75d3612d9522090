//! Descriptors enough for the connections the configuration admits.

use crate::base::limits::Limits;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::Root;
use crate::cli::doctor::unit::{Setting, UnitFile};
use crate::daemon::descriptors::needed;

/// The hard limit of whoever asks; the hub raises its soft one to it by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    At(u64),
    Unlimited,
    Unknown,
}

pub(crate) fn read(root: &Root) -> Own {
    root.text("/proc/self/limits").map_or(Own::Unknown, |text| hard_limit(&text))
}

/// The third column of `Max open files   1024   524288   files`.
fn hard_limit(limits: &str) -> Own {
    let row = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match row.and_then(|row| row.split_whitespace().nth(1)) {
        Some("unlimited") => Own::Unlimited,
        Some(number) => number.parse().map_or(Own::Unknown, Own::At),
        None => Own::Unknown,
    }
}

pub(crate) fn judge(own: &Own, unit: Option<&UnitFile>, limits: &Limits) -> Finding {
    const ID: &str = "descriptors";
    let needed = needed(limits);
    let connections = limits.connections_max;
    let needs = format!("limits.connections_max = {connections} needs {needed}");
    let short = format!("Connections above the limit wait until others have left; {needs}.");
    let finding = match unit.map(|unit| unit.hard_limit("LimitNOFILE")) {
        Some(Setting::Value(limit)) if limit < needed => Finding::fail(
            ID,
            format!("LimitNOFILE={limit} in the unit"),
            short,
            format!(
                "Set LimitNOFILE={needed} or more with `systemctl edit streamward`, or lower limits.connections_max."
            ),
        ),
        Some(Setting::Unclear(text)) => Finding::warn(
            ID,
            format!("LimitNOFILE={text} in the unit is no number"),
            format!("systemd passes over it and takes its default; {needs}."),
            format!("Set LimitNOFILE={needed} or more with `systemctl edit streamward`."),
        ),
        Some(Setting::Value(limit)) => {
            Finding::ok(ID, format!("LimitNOFILE={limit} in the unit"), format!("Enough: {needs}."))
        }
        Some(Setting::Infinity) => Finding::ok(ID, "no limit in the unit", format!("Enough: {needs}.")),
        // 524288 since systemd 240.
        Some(Setting::Unset) => {
            Finding::ok(ID, "systemd's default for the unit", format!("Commonly 524288; {needs}."))
        }
        None => without_unit(ID, *own, needed, &needs, &short),
    };
    finding.value("needed", needed)
}

fn without_unit(id: &'static str, own: Own, needed: u64, needs: &str, short: &str) -> Finding {
    match own {
        Own::At(limit) if limit < needed => Finding::warn(
            id,
            format!("{limit} at most for a hub started from here"),
            short,
            "Raise the hard limit (`ulimit -Hn`, /etc/security/limits.conf), or lower limits.connections_max.",
        ),
        Own::At(limit) => {
            Finding::ok(id, format!("{limit} for a hub started from here"), format!("Enough: {needs}."))
        }
        Own::Unlimited => {
            Finding::ok(id, "no limit for a hub started from here", format!("Enough: {needs}."))
        }
        Own::Unknown => Finding::warn(
            id,
            "not known: /proc/self/limits cannot be read",
            format!("The limit may be too low; {needs}."),
            "See `ulimit -Hn` where the hub is started.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    #[test]
    fn a_unit_with_too_few_descriptors_fails_whatever_the_shell_has() {
        let limits = Limits::default();
        for (setting, verdict) in [
            ("LimitNOFILE=592", Verdict::Ok),
            ("LimitNOFILE=591", Verdict::Fail),
            ("LimitNOFILE=1024:4096", Verdict::Ok),
            ("LimitNOFILE=1024:500", Verdict::Fail),
            ("LimitNOFILE=infinity", Verdict::Ok),
            ("LimitNOFILE=many", Verdict::Warn),
            ("", Verdict::Ok),
        ] {
            let unit = UnitFile::of(&format!("[Service]\n{setting}\n"));
            for own in [Own::At(1), Own::Unlimited] {
                assert_eq!(judge(&own, Some(&unit), &limits).verdict, verdict, "{setting}");
            }
        }
    }

    #[test]
    fn without_a_unit_the_limit_of_the_shell_counts() {
        for (own, verdict) in [
            (Own::At(592), Verdict::Ok),
            (Own::At(591), Verdict::Warn),
            (Own::Unlimited, Verdict::Ok),
            (Own::Unknown, Verdict::Warn),
        ] {
            assert_eq!(judge(&own, None, &Limits::default()).verdict, verdict, "{own:?}");
        }
    }

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(hard_limit(limits), Own::At(524_288));
        assert_eq!(hard_limit(&limits.replace("524288", "unlimited")), Own::Unlimited);
        assert_eq!(hard_limit(&limits.replace("524288", "x")), Own::Unknown);
        assert_eq!(hard_limit(""), Own::Unknown);
    }
}
