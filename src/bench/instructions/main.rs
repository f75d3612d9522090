//! Counts the instructions of the hot paths under callgrind: `scripts/bench-instructions`.
//!
//! A count is the same on a busy machine and on a quiet one, so it can be a test where a time cannot. What runs is the
//! server's own code as it is shipped, but for the system calls and the clock: connections over memory, time paused.

mod baseline;
mod callgrind;
mod cases;
mod curves;
mod wire;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use baseline::{Baseline, Costs, Finding, bends, compare};
use cases::{CASES, Case, FLAT, Fault};
use clap::{CommandFactory as _, Parser, Subcommand};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench/instructions/baseline.txt");

#[derive(Parser)]
#[command(
    name = "instructions",
    bin_name = "scripts/bench-instructions",
    about = "Instructions of the hot paths"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Count everything and compare it with the baseline
    Check,
    /// Count everything and write it to the baseline
    Renew,
    /// Count some cases, and keep what callgrind wrote
    Profile {
        /// Their names; all when there is none
        cases: Vec<String>,
        /// Where to: DIR/callgrind.out.CASE
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
    /// Measure CPU time per delivery against subscribers, topics, subscriptions, idle sessions and payload
    Curves {
        /// Those with this in their name; all when there is none
        #[arg(default_value = "")]
        name: String,
        /// Print JSON instead of tables
        #[arg(long)]
        json: bool,
    },
    /// Do a case, without callgrind
    Run {
        /// Its name
        case: String,
        /// As often as this, and not as often as is counted
        #[arg(long)]
        rounds: Option<u32>,
    },
}

fn main() -> Result<ExitCode, Fault> {
    let mut out = io::stdout();
    match Arguments::parse().command {
        None => writeln!(out, "{}", Arguments::command().render_help())?,
        Some(Command::Check) => return check(&mut out),
        Some(Command::Renew) => renew(&mut out)?,
        Some(Command::Profile { cases, out: directory }) => {
            let cases: Vec<&Case> = match cases.is_empty() {
                true => CASES.iter().collect(),
                false => cases.iter().map(|name| find(name)).collect::<Result<_, _>>()?,
            };
            count(&cases, &directory, &mut out)?;
        }
        Some(Command::Curves { name, json }) => curves::run(&name, json, &mut out, &mut io::stderr())?,
        Some(Command::Run { case, rounds }) => {
            let case = find(&case)?;
            writeln!(out, "operations {}", cases::run(case, rounds.unwrap_or(case.rounds))?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find(name: &str) -> Result<&'static Case, Fault> {
    CASES.iter().find(|case| case.name == name).ok_or_else(|| format!("{name} is no case").into())
}

fn count(cases: &[&Case], directory: &Path, out: &mut dyn Write) -> Result<Costs, Fault> {
    let mut costs = Vec::new();
    for case in cases {
        let cost = callgrind::count(case, &directory.join(format!("callgrind.out.{}", case.name)))?;
        writeln!(out, "{:<28} {cost:>10}", case.name)?;
        costs.push((case.name.to_owned(), cost));
    }
    Ok(costs)
}

fn count_all(out: &mut dyn Write) -> Result<Costs, Fault> {
    let directory = tempfile::tempdir()?;
    count(&CASES.iter().collect::<Vec<_>>(), directory.path(), out)
}

fn check(out: &mut dyn Write) -> Result<ExitCode, Fault> {
    let made_with = callgrind::made_with()?;
    let baseline = Baseline::parse(&fs::read_to_string(BASELINE)?)?;
    writeln!(out, "instructions per operation, built with {made_with}")?;
    let counted = count_all(out)?;
    writeln!(out)?;
    let mut findings = bends(&counted, &FLAT);
    if made_with == baseline.made_with {
        findings.extend(compare(&counted, &baseline));
    } else {
        writeln!(out, "SKIPPED: the counts are compared with nothing: the baseline is of another build")?;
        writeln!(out, "  baseline: {}\n  this:     {made_with}", baseline.made_with)?;
    }
    let failed = findings.iter().filter(|finding| Finding::is_bad(finding)).count();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    writeln!(out, "{} passed, {failed} failed of the instructions", findings.len() - failed)?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn renew(out: &mut dyn Write) -> Result<(), Fault> {
    let old = fs::read_to_string(BASELINE).map_err(Fault::from).and_then(|text| Ok(Baseline::parse(&text)?));
    let old = old.unwrap_or_default();
    let new = Baseline { made_with: callgrind::made_with()?, costs: count_all(out)? };
    writeln!(out, "\nwas made with {}\nis  made with {}", old.made_with, new.made_with)?;
    // What left or came is told too: it is in the file.
    let known = new.costs.iter().filter(|(name, _)| old.cost(name).is_some()).cloned().collect();
    for finding in compare(&known, &old) {
        let (Finding::Good(text) | Finding::Renew(text) | Finding::Bad(text)) = finding;
        writeln!(out, "{}", text.split(": ").next().unwrap_or_default())?;
    }
    fs::write(BASELINE, new.text())?;
    writeln!(out, "{BASELINE} is renewed: the commit says why")?;
    Ok(())
}
