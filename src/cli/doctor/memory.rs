//! RAM against the hub's budget.

use crate::base::bill;
use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::Root;
use crate::cli::text::show_bytes;
use crate::config::Config;
use crate::config::machine::number;

/// What `/proc/meminfo` says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) total_bytes: Option<u64>,
    pub(crate) available_bytes: Option<u64>,
}

pub(crate) fn read(root: &Root) -> Memory {
    root.text("/proc/meminfo").map_or_else(Memory::default, |text| Memory {
        total_bytes: bytes(&text, "MemTotal:"),
        available_bytes: bytes(&text, "MemAvailable:"),
    })
}

/// The number of KiB after a label.
fn bytes(meminfo: &str, label: &str) -> Option<u64> {
    number(meminfo, label, 0)?.checked_mul(1024)
}

/// What the hub may hold on this machine, by this configuration.
pub(crate) fn budget_bytes(memory: &Memory, config: &Config) -> Option<u64> {
    match (config.memory.budget_bytes, memory.total_bytes) {
        (0, None) => None,
        (_, total_bytes) => Some(bill::budget_bytes(&config.memory, total_bytes.unwrap_or(0))),
    }
}

pub(crate) fn judge(memory: &Memory, config: &Config) -> Finding {
    const ID: &str = "memory";
    let Some((total, budget)) = memory.total_bytes.zip(budget_bytes(memory, config)) else {
        return Finding::warn(
            ID,
            "not known: /proc/meminfo cannot be read",
            "Without it the hub takes the machine for one with 1 GiB, and does not see when memory runs short.",
            "Mount /proc. The unit must not have ProcSubset=pid.",
        );
    };
    let bill = bill::bill(&config.limits);
    let available = memory.available_bytes.map_or_else(|| "?".to_owned(), show_bytes);
    let (budget_text, idle) = (show_bytes(budget), show_bytes(bill.idle_bytes));
    let found = format!("{} of RAM, {available} available; budget {budget_text}", show_bytes(total));
    let finding = if bill.idle_bytes > budget {
        Finding::fail(
            ID,
            found,
            format!("The limits cost {idle} before anyone does anything: the hub does not start."),
            "Lower limits.connections_max or limits.tails_bytes_max, or raise memory.budget_bytes.",
        )
    } else if budget > total / 2 {
        Finding::warn(
            ID,
            found,
            "The budget is more than half of the RAM: what the system needs beside it may go to swap.",
            "Lower memory.budget_bytes; 0 takes a quarter of the RAM, 256 MiB at most.",
        )
    } else if memory.available_bytes.is_some_and(|available| available < budget) {
        Finding::warn(
            ID,
            found,
            "Less is available than the budget: new sessions are refused, and streams ended, sooner than it says.",
            "See what else holds memory (`ps aux --sort=-rss | head`), or lower memory.budget_bytes.",
        )
    } else {
        let worst = show_bytes(bill.worst_bytes);
        let rest = if bill.worst_bytes > budget {
            format!("the worst case, {worst}, does not: before that the hub refuses and sheds.")
        } else {
            format!("so does the worst case, {worst}.")
        };
        Finding::ok(ID, found, format!("All connections the limits admit, idle, cost {idle} and fit; {rest}"))
    };
    finding
        .value("total_bytes", total)
        .value("available_bytes", memory.available_bytes)
        .value("budget_bytes", budget)
        .value("idle_bytes", bill.idle_bytes)
        .value("worst_bytes", bill.worst_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    const MIB: u64 = 1024 * 1024;

    fn memory(total: u64, available: u64) -> Memory {
        Memory { total_bytes: Some(total * MIB), available_bytes: Some(available * MIB) }
    }

    fn with_budget(budget: u64) -> Config {
        let mut config = Config::default();
        config.memory.budget_bytes = budget * MIB;
        config
    }

    #[test]
    fn a_pi_zero_with_the_defaults_is_well() {
        let finding = judge(&memory(416, 300), &Config::default());
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        assert!(finding.found.ends_with("budget 104 MiB"), "{finding:?}");
    }

    #[test]
    fn too_little_is_told_by_how_bad_it_is() {
        for (memory, budget, verdict) in [
            (memory(416, 103), 0, Verdict::Warn),
            (memory(416, 104), 0, Verdict::Ok),
            (memory(1024, 1000), 513, Verdict::Warn),
            (memory(1024, 1000), 512, Verdict::Ok),
            (memory(100, 100), 0, Verdict::Fail),
            (Memory { available_bytes: None, ..memory(1024, 0) }, 0, Verdict::Ok),
            (Memory::default(), 0, Verdict::Warn),
            (Memory::default(), 100, Verdict::Warn),
        ] {
            let finding = judge(&memory, &with_budget(budget));
            assert_eq!(finding.verdict, verdict, "{memory:?} {budget}: {finding:?}");
        }
    }

    #[test]
    fn the_numbers_come_from_their_labels() {
        let text = "MemTotal:         931508 kB\nMemFree: 1 kB\nMemAvailable:     500000 kB\n";
        assert_eq!(bytes(text, "MemTotal:"), Some(931_508 * 1024));
        assert_eq!(bytes(text, "MemAvailable:"), Some(500_000 * 1024));
        for text in ["", "MemTotal:\n", "MemTotal: x kB\n", "MemTotal: 18446744073709551615 kB\n"] {
            assert_eq!(bytes(text, "MemTotal:"), None, "{text:?}");
        }
    }
}
