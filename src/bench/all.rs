//! Every work, in an order that shows early what matters most.

use std::io::{self, Write as _};

use clap::Parser as _;

use crate::report::Outcome;
use crate::{Arguments, BenchError, Common, measure};

/// Each work as one would type it: for about ten minutes in all, and for less than two.
const WORKS: [(&str, &str); 7] = [
    ("fanout --rounds 3", "fanout --rounds 1 --subscribers 50 --windows 1,64 --cpu-ms 300"),
    ("round-trip --rounds 5", "round-trip --rounds 1 --seconds 1"),
    ("latency --rounds 3", "latency --rounds 1 --seconds 2"),
    ("stalled --rounds 3", "stalled --rounds 1 --seconds 1"),
    ("start --rounds 5", "start --rounds 1"),
    ("memory --rounds 1 --connections 1000", "memory --rounds 1 --connections 200 --settle 1"),
    ("idle-wakeups --rounds 1", "idle-wakeups --rounds 1 --seconds 1"),
];

/// Options of `all`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Less of each, for a look: under two minutes
    #[arg(long)]
    quick: bool,
    /// Only these works
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Does them all.
pub(crate) async fn run(options: &Options, common: &Common) -> Result<Vec<Outcome>, BenchError> {
    let mut outcomes = Vec::new();
    let lines = WORKS.map(|(full, quick)| if options.quick { quick } else { full });
    let is_wanted = |line: &str| {
        options.only.is_empty() || options.only.iter().any(|name| line.split(' ').next() == Some(name))
    };
    for name in &options.only {
        if !lines.iter().any(|line| line.split(' ').next() == Some(name)) {
            return Err(format!("there is no work {name} (see --help)").into());
        }
    }
    for line in lines.into_iter().filter(|line| is_wanted(line)) {
        writeln!(io::stderr(), "-- {line}")?;
        let arguments =
            Arguments::try_parse_from([&["peers"], &line.split(' ').collect::<Vec<_>>()[..]].concat())?;
        let command = arguments.command.ok_or("no work")?;
        let common = Common { rounds: common.rounds.or(arguments.common.rounds), ..common.clone() };
        outcomes.push(measure(command, &common).await?);
    }
    Ok(outcomes)
}
