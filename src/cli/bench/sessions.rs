//! `streamward bench sessions`: how many clients per second may come and go.

use std::cell::RefCell;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::cli::bench::common::{CommonArgs, or_dash, show_latency, time_bar, watched};
use crate::cli::bench::ground::{
    Ground, Holdings, LATENCY_HEADER, known_bytes, latency_json, latency_row, settle, verdict,
};
use crate::cli::bench::plot::{Across, Chart, Series, draw};
use crate::cli::bench::run::with;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::Interrupt;
use crate::cli::output::Output;
use crate::cli::text::{count, parse_duration, show_duration, table};
use crate::load::dial::{Closing, dial_from};
use crate::load::error::LoadError;
use crate::load::latencies::Latencies;
use crate::load::seconds::Seconds;
use crate::load::visit::{Kept, Visit, Visitor, alone};
use crate::runtime::cpu::process_time;

/// After Ctrl-C a visit under way may take this long to its end.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// How many clients per second may log in, follow a topic and log out
#[derive(Args, Debug)]
#[command(after_help = "\
Each client logs in, opens a stream, waits until it is live, logs out, sees the
stream end by that, and begins again. The logout also closes the connection, as
it carries nothing any more; so each visit includes a new connection, unless
--keep-connection holds it open by another session's stream.

With --keep-connection a hub with default limits soon refuses: it takes 50
streams a second on one connection (limits.stream_opens_per_second_max). See
`streamward bench limits`.

Memory is read when all is quiet, after the warm-up and at the end.

Examples:
  streamward bench sessions
  streamward bench sessions --keep-connection --clients 8 --duration 30s")]
pub(crate) struct SessionsArgs {
    /// Clients that come and go at once, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Keep the clients' connections open
    #[arg(long)]
    keep_connection: bool,
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long before that, without measuring
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// What all clients did together.
#[derive(Default)]
struct Tally {
    visits: RefCell<Visits>,
    fault: RefCell<Option<(u32, LoadError)>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Visits {
    login: Latencies,
    stream: Latencies,
    logout: Latencies,
    /// Visits that ended in each second.
    per_second: Seconds,
}

/// What was measured.
#[derive(Default)]
struct Measured {
    took: Duration,
    hub_cpu: Option<Duration>,
    load_cpu: Duration,
    rss_before: Option<u64>,
    rss_after: Option<u64>,
    left: Option<Holdings>,
    is_whole: bool,
}

impl Visits {
    fn add(&mut self, visit: &Visit, after: Duration) {
        self.login.record(visit.login);
        self.stream.record(visit.stream);
        self.logout.record(visit.logout);
        self.per_second.count(after);
    }
}

/// Measures it.
///
/// # Errors
/// When the hub is not there or refuses, and when the measurement is void.
pub(crate) async fn run(args: SessionsArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let ground = Ground::find(&args.common, args.clients, output).await?;
    let (mut measured, mut tally) = (Measured::default(), Tally::default());
    let finished = {
        let warm_up = Tally::default();
        let finished = load(&args, &ground, &warm_up, args.warmup, &mut interrupt, output).await?;
        finished && watched(settle(), || "warm; waiting".to_owned(), &mut interrupt, output).await.is_some()
    };
    if finished {
        let before = ground.meter.read().await?;
        measured.rss_before = before.rss_bytes;
        let (begun_at, load_cpu) = (Instant::now(), process_time());
        measured.is_whole = load(&args, &ground, &tally, args.duration, &mut interrupt, output).await?;
        measured.took = begun_at.elapsed();
        measured.load_cpu = process_time().saturating_sub(load_cpu);
        measured.hub_cpu = ground.meter.read().await?.cpu_since(&before);
    }
    if measured.is_whole {
        watched(settle(), || "done; waiting".to_owned(), &mut interrupt, output).await;
        measured.rss_after = ground.meter.read().await?.rss_bytes;
    }
    measured.left = ground.left().await?;
    let visits = tally.visits.get_mut();
    if output.json {
        let head = ground.head("sessions", &args.common, measured.is_whole).await?;
        output.json(&with(head, document(&args, &measured, visits)))?;
    } else {
        report(&args, &measured, visits, output)?;
    }
    draw(&charts(visits), args.common.plot, args.common.svg.as_deref(), output)?;
    verdict(measured.is_whole, measured.left)
}

/// Has the clients come and go for so long; false when it was interrupted. All have left when it returns.
async fn load(
    args: &SessionsArgs,
    ground: &Ground,
    tally: &Tally,
    time: Duration,
    interrupt: &mut Interrupt,
    output: &mut Output,
) -> Result<bool, Failure> {
    let (stop, begun_at) = (&tally.stop, Instant::now());
    let until = begun_at + time;
    let clients = async {
        // In one task: there is nothing else to do, and nobody outlives it.
        let clients = (0..args.clients).map(|client| come_and_go(args, ground, tally, client, begun_at));
        join_all(clients).await;
    };
    let mut clients = pin!(clients);
    let ended = async {
        tokio::select! {
            () = &mut clients => {}
            () = sleep_until(until) => {
                stop.cancel();
                (&mut clients).await;
            }
        }
    };
    let line = || {
        let visits = tally.visits.borrow().login.count();
        format!("{} {visits} visits", time_bar(begun_at.elapsed(), time))
    };
    let is_whole = watched(ended, line, interrupt, output).await.is_some();
    if !is_whole {
        stop.cancel();
        // What does not end now is ended by its lease.
        let _ = timeout(LEAVE_PATIENCE, clients).await;
    }
    match tally.fault.borrow_mut().take() {
        Some((client, error)) => Err(args.common.failure(&format!("client {client}"), &error)),
        None => Ok(is_whole),
    }
}

/// One client, visit after visit.
async fn come_and_go(args: &SessionsArgs, ground: &Ground, tally: &Tally, client: u32, begun_at: Instant) {
    let visitor = ground.visitor(client);
    let visits = async {
        if args.keep_connection {
            let dial = dial_from(ground.address, client, Closing::Orderly);
            let mut kept = Kept::open(dial, &visitor).await?;
            let visited = stay_open(&mut kept, &visitor, tally, begun_at).await;
            let left = kept.leave().await;
            return visited.and(left);
        }
        while !tally.stop.is_cancelled() {
            let dial = dial_from(ground.address, client, Closing::Orderly);
            tally.count(&alone(dial, &visitor).await?, begun_at);
        }
        Ok(())
    };
    if let Err(error) = visits.await {
        tally.fault.borrow_mut().get_or_insert((client, error));
        tally.stop.cancel();
    }
}

async fn stay_open(
    kept: &mut Kept<TcpStream>,
    visitor: &Visitor,
    tally: &Tally,
    begun_at: Instant,
) -> Result<(), LoadError> {
    while !tally.stop.is_cancelled() {
        tally.count(&kept.visit(visitor).await?, begun_at);
    }
    Ok(())
}

impl Tally {
    fn count(&self, visit: &Visit, begun_at: Instant) {
        self.visits.borrow_mut().add(visit, begun_at.elapsed());
    }
}

impl Measured {
    /// Of what everything was, this much for one visit.
    fn of_one(whole: Duration, visits: u64) -> Option<Duration> {
        (visits > 0).then(|| whole.div_f64(visits as f64))
    }

    /// Visits that fit into one second of the hub's CPU.
    fn per_core_second(&self, visits: u64) -> Option<f64> {
        let cpu = self.hub_cpu?.as_secs_f64();
        (cpu > 0.0).then(|| visits as f64 / cpu)
    }

    fn per_second(&self, visits: u64) -> f64 {
        visits as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

fn report(
    args: &SessionsArgs,
    measured: &Measured,
    visits: &Visits,
    output: &mut Output,
) -> Result<(), Failure> {
    let all = visits.login.count();
    let over = if args.keep_connection { "over connections that stay" } else { "each over a new connection" };
    if !measured.is_whole {
        output.notice("Stopped before the end: these are the visits until then.");
    }
    output.line(&format!(
        "{} by {} in {}, {over}: {:.0} per second",
        count(all, "visit"),
        count(args.clients, "client"),
        show_duration(measured.took),
        measured.per_second(all),
    ))?;
    let hub = measured.hub_cpu.and_then(|cpu| Measured::of_one(cpu, all));
    let load = Measured::of_one(measured.load_cpu, all);
    output.line(&format!(
        "CPU per visit: hub {}, load {}; one core of the hub does {} per second",
        or_dash(hub.map(show_latency)),
        or_dash(load.map(show_latency)),
        or_dash(measured.per_core_second(all).map(|rate| format!("{rate:.0}"))),
    ))?;
    output.line(&format!(
        "hub's memory: {} before, {} after; left behind: {}",
        known_bytes(measured.rss_before),
        known_bytes(measured.rss_after),
        or_dash(measured.left.map(Holdings::text)),
    ))?;
    let rows = [("login", &visits.login), ("stream", &visits.stream), ("logout", &visits.logout)];
    output.table(&table(&LATENCY_HEADER, &rows.map(|(name, latencies)| latency_row(name, latencies))))
}

fn charts(visits: &Visits) -> [Chart; 2] {
    let steps = [("login", &visits.login), ("stream", &visits.stream), ("logout", &visits.logout)];
    [
        Chart {
            title: "Visits per second".to_owned(),
            across: Across::Seconds,
            series: vec![Series::per_second("visits", visits.per_second.counts())],
        },
        Chart {
            title: "Time of each step, ms".to_owned(),
            across: Across::Nines,
            series: steps.map(|(name, latencies)| Series::percentiles(name, latencies)).to_vec(),
        },
    ]
}

fn document(args: &SessionsArgs, measured: &Measured, visits: &Visits) -> Value {
    let all = visits.login.count();
    let micros = |cpu: Duration| Measured::of_one(cpu, all).map(|one| one.as_secs_f64() * 1e6);
    json!({
        "clients": args.clients,
        "keep_connection": args.keep_connection,
        "duration_s": measured.took.as_secs_f64(),
        "visits": all,
        "visits_per_s": measured.per_second(all),
        "visits_per_core_s": measured.per_core_second(all),
        "server_cpu_us_per_visit": measured.hub_cpu.and_then(micros),
        "load_cpu_us_per_visit": micros(measured.load_cpu),
        "rss_before_bytes": measured.rss_before,
        "rss_after_bytes": measured.rss_after,
        "left": measured.left.map(Holdings::json),
        "login": latency_json(&visits.login),
        "stream": latency_json(&visits.stream),
        "logout": latency_json(&visits.logout),
        "visits_of_each_second": visits.per_second.counts(),
    })
}
