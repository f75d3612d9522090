//! Rules and whether they held.

use std::io::Write;

use serde_json::{Value, json};

use crate::SoakError;

/// One rule.
pub(crate) struct Rule {
    name: &'static str,
    held: bool,
    seen: String,
}

/// All rules of a run.
#[derive(Default)]
pub(crate) struct Verdict(Vec<Rule>);

impl Verdict {
    /// Adds a rule, and what was seen.
    pub(crate) fn rule(&mut self, name: &'static str, held: bool, seen: String) {
        self.0.push(Rule { name, held, seen });
    }

    /// Whether every rule held.
    pub(crate) fn holds(&self) -> bool {
        self.0.iter().all(|rule| rule.held)
    }

    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        self.0.iter().map(|rule| json!({ "rule": rule.name, "held": rule.held, "seen": rule.seen })).collect()
    }

    /// One line per rule.
    pub(crate) fn print(&self, out: &mut dyn Write) -> Result<(), SoakError> {
        writeln!(out)?;
        for Rule { name, held, seen } in &self.0 {
            writeln!(out, "{}  {name}: {seen}", if *held { "PASS" } else { "FAIL" })?;
        }
        Ok(())
    }
}

/// Mebibytes, for people.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
