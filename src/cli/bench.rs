//! `streamward bench`: load on a running hub, and what the hub did with it.
//!
//! One file per work. What they share: the options, the server's readings, the line of progress and the plots.

pub(crate) mod common;
mod crew;
mod fanout;
mod ground;
mod idle;
mod latency;
mod limits;
pub(crate) mod meter;
mod open;
mod plot;
mod resume;
mod run;
mod sessions;
mod slow;
#[cfg(test)]
mod tests;

use clap::{Args, Subcommand};
use tokio::task::LocalSet;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;

/// Measure a running hub
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward bench fanout                          what a delivery costs
  streamward bench fanout --in-flight 1,64 --subscribers 50,200 --json
  streamward bench latency --rate 1000 --plot      how late deliveries are
  streamward bench slow --stalled 10               what stalled readers cost the others
  streamward bench sessions                        what a login and a logout cost
  streamward bench idle --connections 200          what a connection costs
  streamward bench resume                          a crowd that comes back at once
  streamward bench latency --server pi:50051 --svg latency.svg

The load is made in this process. Best give it a machine, or at least a core,
of its own: taskset -c 1 streamward bench ...

The hub's CPU time and memory are read from its admin socket. For a hub on
another machine, bring the socket here first:
  ssh -L /tmp/pi.sock:/run/streamward/admin.sock root@pi
  streamward bench fanout --server pi:50051 --admin-socket /tmp/pi.sock

Everything is published to room/bench by users bench-0, bench-1 and so on, who
are logged out again. What they receive is checked: a message that is lost,
doubled, out of order or altered makes the measurement void.

Exit codes: 0 measured, 65 void, 69 no hub, 75 come back later or a limit was
reached (it is told which), 130 stopped before the end.")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand, Debug)]
enum Work {
    Fanout(fanout::FanoutArgs),
    Latency(latency::LatencyArgs),
    Slow(slow::SlowArgs),
    Sessions(sessions::SessionsArgs),
    Idle(idle::IdleArgs),
    Resume(resume::ResumeArgs),
    Limits(limits::LimitsArgs),
}

impl BenchArgs {
    pub(crate) fn json(&self) -> bool {
        match &self.work {
            Work::Fanout(args) => args.common.json,
            Work::Latency(args) => args.open.common.json,
            Work::Slow(args) => args.open.common.json,
            Work::Sessions(args) => args.common.json,
            Work::Idle(args) => args.common.json,
            Work::Resume(args) => args.common.json,
            Work::Limits(_) => false,
        }
    }
}

/// Measures.
///
/// # Errors
/// When the hub is not there or refuses, and when a measurement is void.
pub(crate) async fn run(args: BenchArgs, output: &mut Output) -> Result<Exit, Failure> {
    // The load's tasks share what they count, on this one thread.
    let local = LocalSet::new();
    // Boxed one by one: the largest is not to be the size of all.
    let work = async {
        match args.work {
            Work::Fanout(args) => Box::pin(fanout::run(args, output)).await,
            Work::Latency(args) => Box::pin(latency::run(args, output)).await,
            Work::Slow(args) => Box::pin(slow::run(args, output)).await,
            Work::Sessions(args) => Box::pin(sessions::run(args, output)).await,
            Work::Idle(args) => Box::pin(idle::run(args, output)).await,
            Work::Resume(args) => Box::pin(resume::run(args, output)).await,
            Work::Limits(args) => limits::run(&args, output),
        }
    };
    local.run_until(work).await
}
