//! `streamward bench resume`: all connections are cut at once, and all clients come back at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::bench::common::{CommonArgs, bar, or_dash, show_latency, watched};
use crate::cli::bench::ground::{
    Ground, Holdings, LATENCY_HEADER, known_bytes, latency_json, latency_row, verdict, void,
};
use crate::cli::bench::plot::{Across, Chart, Series, draw};
use crate::cli::bench::run::with;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::Interrupt;
use crate::cli::output::Output;
use crate::cli::records::pressure_name;
use crate::cli::text::{clean, count, parse_duration, show_bytes, table};
use crate::load::comeback::{Crowd, Told, follow, speak};
use crate::load::dial::{Closing, dial_from};
use crate::load::error::LoadError;

/// How often the hub's memory is looked at. The hub itself looks once a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long all may take to leave.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

/// How long a crowd takes to come back when all connections are cut at once
#[derive(Args, Debug)]
#[command(after_help = "\
The clients follow room/bench while a publisher speaks. Then all connections but
the publisher's are reset at once, and as soon as the last one is, all clients
connect again, name the session they have, and resume after the last event they
got. Who is refused comes back when the hub says; who is not told when, or whose
connection breaks, soon and then less often. No client is known to the hub as
gone before it is back, so a hub needs room for some more connections than there
are clients.

Void when an event came twice, was altered, or is missing without a gap that
tells it. A refusal that does not say when to come back, and a connection that
breaks, are shown and counted, with the cause.

For more clients than a hub with default limits takes, see
`streamward bench limits`.

Examples:
  streamward bench resume
  streamward bench resume --clients 2000 --log-in")]
pub(crate) struct ResumeArgs {
    /// Clients
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    clients: u32,
    /// Messages published per second
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Log in again, too, instead of going on with the session
    #[arg(long)]
    log_in: bool,
    /// How long the crowd follows before it is cut
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    before: Duration,
    /// Longest wait for the last one to be back
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    patience: Duration,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// What was measured beside what the crowd was told.
#[derive(Default)]
struct Measured {
    hub_cpu: Option<Duration>,
    rss_before: Option<u64>,
    rss_peak: Option<u64>,
    budget: Option<u64>,
    pressure_peak: i32,
    left: Option<Holdings>,
    is_whole: bool,
}

/// Measures it.
///
/// # Errors
/// When the hub is not there or refuses, and when the measurement is void.
pub(crate) async fn run(args: ResumeArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let ground = Ground::find(&args.common, args.clients, output).await?;
    let crowd = Rc::new(Crowd::new(args.log_in));
    let mut tasks = gather(&args, &ground, &crowd);
    let mut measured = Measured::default();
    let stage = Cell::new("connecting");
    let storm = Box::pin(storm(&args, &ground, &crowd, &stage, &mut measured));
    let line = || {
        let count = crowd.count();
        let back = if crowd.go.is_cancelled() { count.caught_up } else { count.following };
        format!("{} {}", bar(back.into(), args.clients.into()), stage.get())
    };
    let ended = watched(storm, line, &mut interrupt, output).await;
    // Whatever happened: nobody stays.
    crowd.hush.cancel();
    crowd.leave.cancel();
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = timeout(LEAVE_PATIENCE, all).await;
    measured.is_whole = ended.transpose()?.is_some();
    measured.left = ground.left().await?;
    let told = crowd.told.take();
    if output.json {
        let head = ground.head("resume", &args.common, measured.is_whole).await?;
        output.json(&with(head, document(&args, &measured, &told)))?;
    } else {
        report(&args, &measured, &told, output)?;
    }
    draw(&charts(&told), args.common.plot, args.common.svg.as_deref(), output)?;
    judge(&args, &measured, &told)
}

fn judge(args: &ResumeArgs, measured: &Measured, told: &Told) -> Result<Exit, Failure> {
    if measured.is_whole && told.count.caught_up < args.clients {
        return Err(void("not all clients came back in time"));
    }
    if measured.is_whole && told.lost > 0 {
        return Err(void("events are missing without a word"));
    }
    verdict(measured.is_whole, measured.left)
}

/// The publisher, who waits for its word, and the clients, on their way in a few at a time.
fn gather(args: &ResumeArgs, ground: &Ground, crowd: &Rc<Crowd>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for client in 0..args.clients {
        let address = ground.address;
        let dial = move || dial_from(address, client, Closing::Reset);
        tasks.spawn_local(follow(dial, ground.visitor(client), Rc::clone(crowd)));
    }
    let dial = dial_from(ground.address, args.clients, Closing::Orderly);
    let period = Duration::from_secs(1) / args.rate;
    tasks.spawn_local(speak(dial, ground.visitor(args.clients), period, Rc::clone(crowd)));
    tasks
}

/// The whole story, the clients' leaving excepted.
async fn storm(
    args: &ResumeArgs,
    ground: &Ground,
    crowd: &Crowd,
    stage: &Cell<&'static str>,
    measured: &mut Measured,
) -> Result<(), Failure> {
    let failure = |error: LoadError| args.common.failure("the crowd", &error);
    crowd.until(|crowd| crowd.count().following == args.clients).await.map_err(failure)?;
    crowd.speak.cancel();
    happen(args, ground, crowd, stage, measured).await?;
    if crowd.count().caught_up < args.clients {
        // Told by the counts.
        return Ok(());
    }
    crowd.hush.cancel();
    crowd.until(|crowd| crowd.hushed.is_cancelled()).await.map_err(failure)?;
    stage.set("comparing");
    let complete = timeout(args.patience, crowd.until(Crowd::is_complete)).await;
    // Who lacks something by now lacks it without a word.
    complete
        .unwrap_or_else(|_| Err(LoadError::Void("not all clients have all events".to_owned())))
        .map_err(failure)
}

/// Quiet, cut, and back.
async fn happen(
    args: &ResumeArgs,
    ground: &Ground,
    crowd: &Crowd,
    stage: &Cell<&'static str>,
    measured: &mut Measured,
) -> Result<(), Failure> {
    let failure = |error: LoadError| args.common.failure("the crowd", &error);
    stage.set("following");
    sleep(args.before).await;
    let early = ground.meter.read().await?;
    (measured.rss_before, measured.rss_peak) = (early.rss_bytes, early.rss_bytes);
    stage.set("coming back");
    crowd.cut.cancel();
    crowd.until(|crowd| crowd.count().cut == args.clients).await.map_err(failure)?;
    crowd.begin();
    let back = async {
        let back = crowd.until(|crowd| crowd.count().caught_up == args.clients);
        // Who is not back in time is told by the counts.
        if let Ok(back) = timeout(args.patience, back).await {
            back.map_err(failure)?;
        }
        Ok::<_, Failure>(ground.meter.read().await?.cpu_since(&early))
    };
    let peak = RefCell::new(&mut *measured);
    tokio::select! {
        cpu = back => peak.borrow_mut().hub_cpu = cpu?,
        failed = look(ground, &peak) => failed?,
    }
    // The hub's own look at its memory may be a second old.
    let late = Instant::now() + 5 * LOOK_EVERY;
    tokio::select! {
        () = tokio::time::sleep_until(late) => Ok(()),
        failed = look(ground, &peak) => failed,
    }
}

/// Looks at the hub's memory until told otherwise.
async fn look(ground: &Ground, peak: &RefCell<&mut Measured>) -> Result<(), Failure> {
    loop {
        let (rss, status) = match ground.meter.status().await? {
            Some(status) => (Some(status.rss_bytes), Some(status)),
            None => (ground.meter.read().await?.rss_bytes, None),
        };
        {
            let mut peak = peak.borrow_mut();
            peak.rss_peak = peak.rss_peak.max(rss);
            if let Some(status) = status {
                peak.budget = status.memory.map(|memory| memory.budget_bytes);
                peak.pressure_peak = peak.pressure_peak.max(status.pressure);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

fn report(args: &ResumeArgs, measured: &Measured, told: &Told, output: &mut Output) -> Result<(), Failure> {
    if !measured.is_whole {
        output.notice("Stopped before the end: these are the clients that were back by then.");
    }
    output.line(&format!(
        "{}, all cut at once: {} live again, {} caught up, {}",
        count(args.clients, "client"),
        told.count.live,
        told.count.caught_up,
        count(told.attempts, "attempt"),
    ))?;
    let told_when = count(sum(&told.refused), "refusal");
    output.line(&format!(
        "{told_when} with the time to come back, {} attempts failed without; {} missing, a gap told it, and {} without a \
         word",
        sum(&told.unexplained),
        count(told.missed, "event"),
        told.lost,
    ))?;
    for (causes, what) in [(&told.refused, "refused"), (&told.unexplained, "failed")] {
        for (cause, times) in causes {
            output.line(&format!("  {what} {times} times: {}", clean(cause)))?;
        }
    }
    output.line(&format!(
        "hub's memory: {} before, {} at most, of a budget of {}; CPU {}; left behind: {}",
        known_bytes(measured.rss_before),
        known_bytes(measured.rss_peak),
        or_dash(measured.budget.map(show_bytes)),
        or_dash(measured.hub_cpu.map(show_latency)),
        or_dash(measured.left.map(Holdings::text)),
    ))?;
    let rows = [latency_row("live", &told.live), latency_row("caught up", &told.caught_up)];
    output.table(&table(&LATENCY_HEADER, &rows))
}

fn sum(causes: &BTreeMap<String, u64>) -> u64 {
    causes.values().sum()
}

fn document(args: &ResumeArgs, measured: &Measured, told: &Told) -> Value {
    json!({
        "clients": args.clients,
        "rate_per_s": args.rate,
        "logs_in": args.log_in,
        "live_again": told.count.live,
        "caught_up": told.count.caught_up,
        "attempts": told.attempts,
        "refused_with_retry_info": sum(&told.refused),
        "failed_without_retry_info": sum(&told.unexplained),
        "refused_causes": told.refused,
        "failed_causes": told.unexplained,
        "events_missed_by_gaps": told.missed,
        "events_lost": told.lost,
        "live": latency_json(&told.live),
        "catch_up": latency_json(&told.caught_up),
        "server_cpu_s": measured.hub_cpu.map(|cpu| cpu.as_secs_f64()),
        "rss_before_bytes": measured.rss_before,
        "rss_peak_bytes": measured.rss_peak,
        "budget_bytes": measured.budget,
        "pressure_peak": pressure_name(measured.pressure_peak),
        "left": measured.left.map(Holdings::json),
    })
}

fn charts(told: &Told) -> [Chart; 1] {
    let series = vec![
        Series::percentiles("live again", &told.live),
        Series::percentiles("caught up", &told.caught_up),
    ];
    [Chart { title: "Time until clients are back, ms".to_owned(), across: Across::Nines, series }]
}
