//! More clients than memory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use streamward::wire::v1;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::SoakError;
use crate::crowd::{PAYLOAD_BYTES_MAX, Storm, TOPICS, blow};
use crate::ledger::Accepted;
use crate::procfs;
use crate::reader::HEARTBEAT;
use crate::samples::{self, Sample, Samples};
use crate::server::{Cgroup, Server, Settings, admits};
use crate::verdict::{Verdict, mib};

const MIB: u64 = 1 << 20;
/// Sessions left without a logout end this soon.
const LEASE: Duration = HEARTBEAT.saturating_mul(3);
/// The small storm before: the server touches its code and fills its tails.
const WARM_CLIENTS: u32 = 30;
const WARM: Duration = Duration::from_secs(5);
/// How often it tells how it goes.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long everything may take to be as before.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// What the connections beyond the sessions are for: to be told that there is no room.
const SESSIONS_PERCENT: u64 = 75;
/// More connections than any budget of this tool admits.
const CONNECTIONS_MAX: u64 = 1 << 14;

/// Options of `storm`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Clients that keep trying to come in
    #[arg(long, default_value_t = 2000)]
    clients: u32,
    /// How long they try
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Memory budget of the server, MiB
    #[arg(long, default_value_t = 32)]
    budget_mib: u64,
    /// Run the server in a cgroup (v2) with MemoryMax of twice the budget, where that is possible
    #[arg(long)]
    cgroup: bool,
    /// Of what the clients do
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The streamward program
    #[arg(long, default_value = env!("CARGO_BIN_EXE_streamward"))]
    server: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What the server held and said.
struct Seen {
    samples: Vec<Sample>,
    warm: u64,
    after: u64,
    left: v1::ServerStatus,
    is_alive: bool,
    is_confined: bool,
    complaints: Vec<String>,
}

/// Runs the storm, prints what was seen and returns whether every rule held.
pub(crate) async fn run(
    options: Options,
    out: &mut dyn Write,
    log: &mut dyn Write,
) -> Result<bool, SoakError> {
    let budget = options.budget_mib * MIB;
    let (connections, settings) = widest(&options.server, options.budget_mib)?;
    let cgroup = options.cgroup.then(|| Cgroup::new(2 * budget)).transpose();
    let cgroup = match cgroup {
        Ok(cgroup) => cgroup,
        Err(why) => {
            writeln!(log, "--cgroup: not available: {why}")?;
            None
        }
    };
    writeln!(log, "{connections} connections admitted")?;
    let server = Server::start(&options.server, &settings, cgroup).await?;
    let (seen, storm) = weather(server, &options, log).await?;
    let verdict = judge(&seen, &storm, budget);
    if options.json {
        let result = json!({
            "soak": "storm", "seed": options.seed, "clients": options.clients, "seconds": options.seconds,
            "budget_bytes": budget, "connections_max": connections, "confined": seen.is_confined,
            "warm_bytes": seen.warm, "after_bytes": seen.after, "counts": *storm.counts.borrow(),
            "held": verdict.holds(), "rules": verdict.json(), "samples": samples::json(&seen.samples),
        });
        writeln!(out, "{result}")?;
    } else {
        samples::print(&seen.samples, out)?;
        writeln!(out, "\nThe clients saw:")?;
        for (what, count) in storm.counts.borrow().iter() {
            writeln!(out, "{count:>10}  {what}")?;
        }
        verdict.print(out)?;
    }
    Ok(verdict.holds())
}

/// The small storm, the storm, and the calm after it.
async fn weather(
    mut server: Server,
    options: &Options,
    log: &mut dyn Write,
) -> Result<(Seen, Rc<Storm>), SoakError> {
    let (pid, addr) = (server.pid(), server.addr);
    blow(addr, options.seed, WARM_CLIENTS, WARM, |_| Ok(())).await?;
    let is_calm = |status: &v1::ServerStatus| (status.sessions, status.connections) == (0, 1);
    server.until(AFTERWARDS, is_calm).await?;
    sleep(Duration::from_secs(2)).await;
    let warm = procfs::held(pid)?.rss;
    writeln!(log, "{} when warm and idle", mib(warm))?;

    let samples = Samples::default();
    let mut watcher = JoinSet::new();
    watcher.spawn_local(samples::watch(pid, server.admin.clone(), Rc::clone(&samples)));
    let mut told = Duration::ZERO;
    let alive = |elapsed: Duration| {
        if let Some(status) = server.ended()? {
            return Err(format!("the server died after {elapsed:?}: {status}").into());
        }
        if elapsed >= told + TELL_EVERY {
            told = elapsed;
            let rss = samples.borrow().last().map(|sample| sample.rss).unwrap_or_default();
            writeln!(log, "{:.0} s: {}", elapsed.as_secs_f64(), mib(rss))?;
        }
        Ok(())
    };
    let storm =
        blow(addr, options.seed, options.clients, Duration::from_secs(options.seconds), alive).await?;
    let normal = i32::from(v1::Pressure::Normal);
    let left = server.until(AFTERWARDS, |status| is_calm(status) && status.pressure == normal).await?;
    let after = settled(pid, warm).await?;
    watcher.abort_all();
    let seen = Seen {
        samples: samples.take(),
        warm,
        after,
        left,
        is_alive: server.ended()?.is_none(),
        is_confined: server.is_confined(),
        complaints: server.complaints(),
    };
    server.stop().await?;
    Ok((seen, storm))
}

fn judge(seen: &Seen, storm: &Storm, budget: u64) -> Verdict {
    let Seen { samples, warm, after, left, complaints, .. } = seen;
    let mut verdict = Verdict::default();
    let confined = if seen.is_confined { "with MemoryMax" } else { "without MemoryMax" };
    verdict.rule("the server lives", seen.is_alive, confined.to_owned());
    let above = samples.iter().filter(|sample| sample.rss > budget + budget / 10).count();
    let peak = samples::peak(samples);
    verdict.rule(
        "memory is within the budget and a tenth at every sample",
        above == 0,
        format!("at most {} of {}, {above} of {} samples above", mib(peak), mib(budget), samples.len()),
    );
    judge_clients(&mut verdict, storm);
    let level = left.pressure().as_str_name();
    verdict.rule(
        "calm afterwards: normal level, no session",
        left.pressure() == v1::Pressure::Normal && left.sessions == 0,
        format!("level {level}, {} sessions", left.sessions),
    );
    verdict.rule(
        "memory is back to within a fifth of the warm idle",
        after * 5 <= warm * 6,
        format!("{} before, {} after", mib(*warm), mib(*after)),
    );
    let threads = samples::threads(samples);
    verdict.rule("one thread", threads == 1, threads.to_string());
    verdict.rule("nothing in the log calls for a human", complaints.is_empty(), format!("{complaints:?}"));
    verdict
}

fn judge_clients(verdict: &mut Verdict, storm: &Storm) {
    let accepted: usize = storm.accepted.borrow().iter().map(Accepted::len).sum();
    let (heard, lost, gaps) = (storm.heard.get(), storm.lost.get(), storm.gaps.get());
    verdict.rule(
        "readers lose nothing without a word",
        lost == 0 && heard > 0 && storm.misheard.borrow().is_empty(),
        format!(
            "{accepted} accepted, {heard} heard, {gaps} gaps told, {lost} lost {:?}",
            storm.misheard.borrow()
        ),
    );
    verdict.rule(
        "every refused login says why and when to come back",
        storm.refused_badly.borrow().is_empty(),
        format!("{:?}", storm.refused_badly.borrow()),
    );
    verdict.rule(
        "every end says why",
        storm.ended_badly.borrow().is_empty(),
        format!("{:?}", storm.ended_badly.borrow()),
    );
}

/// Memory once it no longer falls, or is as before.
async fn settled(pid: u32, warm: u64) -> Result<u64, SoakError> {
    let until = Instant::now() + AFTERWARDS / 2;
    loop {
        let rss = procfs::held(pid)?.rss;
        if rss <= warm + warm / 10 || Instant::now() >= until {
            return Ok(rss);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// As many connections as the server itself admits under this budget.
fn widest(program: &Path, budget_mib: u64) -> Result<(u64, Settings), SoakError> {
    let (mut admitted, mut refused) = (0, CONNECTIONS_MAX);
    while refused - admitted > 1 {
        let between = admitted + (refused - admitted) / 2;
        if admits(program, &settings(budget_mib, between))? {
            admitted = between;
        } else {
            refused = between;
        }
    }
    if admitted < 8 {
        return Err(format!(
            "a budget of {budget_mib} MiB admits {admitted} connections: too few for a storm"
        )
        .into());
    }
    Ok((admitted, settings(budget_mib, admitted)))
}

fn settings(budget_mib: u64, connections: u64) -> Settings {
    let seconds = |duration: Duration| format!("{}s", duration.as_secs());
    let sessions = (connections * SESSIONS_PERCENT / 100).max(1).to_string();
    vec![
        ("MEMORY_BUDGET_BYTES", format!("{budget_mib}MiB")),
        ("LIMITS_CONNECTIONS_MAX", connections.to_string()),
        ("LIMITS_CONNECTIONS_PER_IP_MAX", connections.to_string()),
        ("LIMITS_SESSIONS_MAX", sessions.clone()),
        ("LIMITS_SESSIONS_PER_USER_MAX", sessions),
        ("LIMITS_TOPICS_MAX", (4 * TOPICS).to_string()),
        ("LIMITS_TAILS_BYTES_MAX", "4MiB".to_owned()),
        ("LIMITS_MESSAGE_BYTES_MAX", PAYLOAD_BYTES_MAX.to_string()),
        ("LIMITS_LEASE", seconds(LEASE)),
        ("LIMITS_HEARTBEAT_INTERVAL", seconds(HEARTBEAT)),
        ("LIMITS_PING_INTERVAL", seconds(HEARTBEAT)),
        ("LIMITS_PING_TIMEOUT", seconds(2 * HEARTBEAT)),
        ("LIMITS_CONNECTION_IDLE_TIMEOUT", seconds(LEASE)),
    ]
}
