//! `streamward bench idle`: what a connection costs while nothing happens on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cli::bench::common::{CommonArgs, bar, or_dash, watched};
use crate::cli::bench::ground::{Ground, Holdings, known_bytes, settle, verdict};
use crate::cli::bench::meter::ServerReading;
use crate::cli::bench::plot::{Across, Chart, Series, draw};
use crate::cli::bench::run::with;
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::Interrupt;
use crate::cli::output::Output;
use crate::cli::text::{count, parse_duration, show_bytes, show_duration};
use crate::load::comeback::COMING_MAX;
use crate::load::dial::{Closing, dial_from};
use crate::load::error::LoadError;
use crate::load::guest::Guest;

/// Clients that come and go before: the hub has touched its code and its tables then.
const WARM_UP_CLIENTS: u32 = 16;
/// How long all may take to leave.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

/// What a connection with one stream costs while nothing happens
#[derive(Args, Debug)]
#[command(after_help = "\
Each client has a connection, a session and a stream of its own, sends
heartbeats as the hub asks for them, and nothing else. Memory is the resident
set with all of them there, less what it was before, for each.

A hub takes 32 connections of one address by default
(limits.connections_per_ip_max). To a hub on this machine the clients come from
many addresses of 127.0.0.0/8; for one elsewhere, and for more than its 256
sessions, see `streamward bench limits`.

Examples:
  streamward bench idle
  streamward bench idle --connections 2000 --hold 60s")]
pub(crate) struct IdleArgs {
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// How long nothing happens
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    hold: Duration,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// The clients.
struct Guests {
    tasks: JoinSet<()>,
    shared: Rc<Shared>,
}

struct Shared {
    here: Cell<u32>,
    fault: RefCell<Option<(u32, LoadError)>>,
    leave: CancellationToken,
    coming: Semaphore,
}

/// What was measured.
#[derive(Default)]
struct Measured {
    before: ServerReading,
    held: ServerReading,
    after: ServerReading,
    /// CPU time of the hub while nothing happened, and how long that was.
    idle: Option<(Duration, Duration)>,
    left: Option<Holdings>,
    /// Resident set of each second with clients there.
    per_second: Vec<u64>,
    is_whole: bool,
}

/// Measures it.
///
/// # Errors
/// When the hub is not there or refuses, and when the measurement is void.
pub(crate) async fn run(args: IdleArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::new()?;
    let ground = Ground::find(&args.common, args.connections, output).await?;
    let warm_up = Guests::come(&ground, WARM_UP_CLIENTS.min(args.connections));
    let warm = warm_up.all_here(&args, WARM_UP_CLIENTS.min(args.connections)).await;
    warm_up.left().await;
    warm?;
    let mut measured = Measured::default();
    if watched(settle(), || "warm; waiting".to_owned(), &mut interrupt, output).await.is_some() {
        measured.before = ground.meter.read().await?;
        Box::pin(hold(&args, &ground, &mut measured, &mut interrupt, output)).await?;
    }
    measured.left = ground.left().await?;
    if measured.is_whole {
        watched(settle(), || "all have left; waiting".to_owned(), &mut interrupt, output).await;
        measured.after = ground.meter.read().await?;
    }
    if output.json {
        let head = ground.head("idle", &args.common, measured.is_whole).await?;
        output.json(&with(head, document(&args, &measured)))?;
    } else {
        report(&args, &measured, output)?;
    }
    draw(&charts(&measured), args.common.plot, args.common.svg.as_deref(), output)?;
    verdict(measured.is_whole, measured.left)
}

/// All come, stay, and leave.
async fn hold(
    args: &IdleArgs,
    ground: &Ground,
    measured: &mut Measured,
    interrupt: &mut Interrupt,
    output: &mut Output,
) -> Result<(), Failure> {
    let guests = Guests::come(ground, args.connections);
    let shared = Rc::clone(&guests.shared);
    let (begun_at, all) = (Cell::new(None::<Instant>), args.connections);
    let held = async {
        guests.all_here(args, all).await?;
        settle().await;
        let early = ground.meter.read().await?;
        begun_at.set(Some(Instant::now()));
        sleep(args.hold).await;
        let late = ground.meter.read().await?;
        measured.held = late;
        measured.idle = late.cpu_since(&early).zip(begun_at.get().map(|begun_at| begun_at.elapsed()));
        guests.all_here(args, all).await
    };
    let per_second = RefCell::new(Vec::new());
    let held = Box::pin(async {
        tokio::select! {
            held = held => held,
            failed = look(ground, &per_second) => failed,
        }
    });
    let line = || match begun_at.get() {
        None => format!("{} connecting", bar(shared.here.get().into(), all.into())),
        Some(begun_at) => {
            format!("{all} idle for {} of {}", show_duration(begun_at.elapsed()), show_duration(args.hold))
        }
    };
    let held = watched(Box::pin(held), line, interrupt, output).await;
    // Whatever happened: nobody stays.
    guests.left().await;
    measured.per_second = per_second.take();
    measured.is_whole = held.transpose()?.is_some();
    Ok(())
}

/// Notes the hub's memory once a second until told otherwise.
async fn look(ground: &Ground, per_second: &RefCell<Vec<u64>>) -> Result<(), Failure> {
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let reading = ground.meter.read().await?;
        per_second.borrow_mut().extend(reading.rss_bytes);
    }
}

impl Guests {
    /// Sends so many in, a few at a time.
    fn come(ground: &Ground, clients: u32) -> Self {
        let shared = Rc::new(Shared {
            here: Cell::new(0),
            fault: RefCell::new(None),
            leave: CancellationToken::new(),
            coming: Semaphore::new(COMING_MAX),
        });
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let (shared, visitor, address) = (Rc::clone(&shared), ground.visitor(client), ground.address);
            tasks.spawn_local(async move {
                let stayed = async {
                    // Closed by nobody.
                    let place = shared.coming.acquire().await.map_err(|_| LoadError::Closed)?;
                    if shared.leave.is_cancelled() {
                        return Ok(());
                    }
                    let dial = dial_from(address, client, Closing::Orderly);
                    let mut guest: Guest<TcpStream> = Guest::come(dial, &visitor).await?;
                    drop(place);
                    shared.here.set(shared.here.get() + 1);
                    guest.stay(shared.leave.cancelled()).await?;
                    guest.leave().await
                };
                if let Err(error) = stayed.await {
                    shared.fault.borrow_mut().get_or_insert((client, error));
                }
            });
        }
        Self { tasks, shared }
    }

    /// Waits until all are here; what happened to one of them ends the wait.
    async fn all_here(&self, args: &IdleArgs, clients: u32) -> Result<(), Failure> {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        loop {
            if let Some((client, error)) = self.shared.fault.borrow_mut().take() {
                return Err(args.common.failure(&format!("client {client}"), &error));
            }
            if self.shared.here.get() == clients {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// All leave. Who does not in time is ended by its lease.
    async fn left(mut self) {
        self.shared.leave.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(LEAVE_PATIENCE, all).await;
    }
}

impl Measured {
    fn per_second_kib(&self) -> Vec<u64> {
        self.per_second.iter().map(|bytes| bytes / 1024).collect()
    }

    fn bytes_per_connection(&self, connections: u32) -> Option<u64> {
        let grown = self.held.rss_bytes?.saturating_sub(self.before.rss_bytes?);
        grown.checked_div(connections.into())
    }

    /// Thousandths of a core.
    fn idle_cores(&self) -> Option<f64> {
        let (cpu, time) = self.idle?;
        (!time.is_zero()).then(|| cpu.as_secs_f64() / time.as_secs_f64())
    }
}

fn report(args: &IdleArgs, measured: &Measured, output: &mut Output) -> Result<(), Failure> {
    let each = measured.bytes_per_connection(args.connections);
    if !measured.is_whole {
        output.notice("Stopped before the end: nothing was measured.");
    }
    output.line(&format!(
        "{} with a session and a stream: {} each",
        count(args.connections, "connection"),
        or_dash(each.map(show_bytes)),
    ))?;
    output.line(&format!(
        "hub's memory: {} before, {} with all of them, {} after",
        known_bytes(measured.before.rss_bytes),
        known_bytes(measured.held.rss_bytes),
        known_bytes(measured.after.rss_bytes),
    ))?;
    output.line(&format!(
        "hub's CPU while idle: {}; left behind: {}",
        or_dash(measured.idle_cores().map(|cores| format!("{:.2}% of a core", cores * 100.0))),
        or_dash(measured.left.map(Holdings::text)),
    ))
}

fn document(args: &IdleArgs, measured: &Measured) -> Value {
    json!({
        "connections": args.connections,
        "hold_s": args.hold.as_secs_f64(),
        "rss_before_bytes": measured.before.rss_bytes,
        "rss_held_bytes": measured.held.rss_bytes,
        "rss_after_bytes": measured.after.rss_bytes,
        "bytes_per_connection": measured.bytes_per_connection(args.connections),
        "server_cpu_cores": measured.idle_cores(),
        "left": measured.left.map(Holdings::json),
        "rss_bytes_of_each_second": measured.per_second,
    })
}

fn charts(measured: &Measured) -> [Chart; 1] {
    let series = vec![Series::per_second("resident KiB", &measured.per_second_kib())];
    [Chart { title: "Hub's memory, KiB".to_owned(), across: Across::Seconds, series }]
}
