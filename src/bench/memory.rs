//! What idle connections cost, and whether it comes back.

use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::BenchError;
use crate::procfs::{self, Held};
use crate::servers::{self, Kind, Server};
use streamward::load::client as grpc;
use streamward::load::progress::Progress;

const KIB: f64 = 1024.0;
/// Bytes of one published message.
const PAYLOAD_BYTES: usize = 1000;

/// How the clients go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Leave {
    /// Log out, then close.
    Logout,
    /// Close the connection; the session stays until its lease ends.
    Close,
}

/// Options of `memory`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Connections, each with a session and one open Subscribe stream
    #[arg(long, default_value_t = 2000)]
    connections: u32,
    /// Connections of the small round before, in which the server touches its own code and tables
    #[arg(long, default_value_t = 20)]
    warm: u32,
    /// Messages of 1,000 bytes published to all of them, in either round
    #[arg(long, default_value_t = 200)]
    messages: u64,
    /// How the clients go
    #[arg(long, value_enum, default_value_t = Leave::Logout)]
    leave: Leave,
    /// Seconds of quiet before each reading
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// Core of the server
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The streamward program
    #[arg(long, default_value = env!("CARGO_BIN_EXE_streamward"))]
    server: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the measurement and prints it.
pub(crate) async fn run(
    options: Options,
    out: &mut dyn Write,
    log: &mut dyn Write,
) -> Result<(), BenchError> {
    let server = servers::start(Kind::Streamward, &options.server, options.server_core).await?;
    let settle = Duration::from_secs(options.settle);
    sleep(settle).await;
    let started = procfs::held(server.pid())?;
    round(&server, options.warm, &options).await?;
    sleep(settle).await;
    let warm = procfs::held(server.pid())?;
    writeln!(log, "warm: {:.0} KiB; opening {} connections", kib(warm.rss), options.connections)?;
    let full = round(&server, options.connections, &options).await?;
    writeln!(log, "full: {:.0} KiB; all left", kib(full.rss))?;
    sleep(settle).await;
    let left = procfs::held(server.pid())?;
    servers::stop(server).await?;
    let readings = [("started", started), ("warm", warm), ("all connected", full), ("all gone", left)];
    print(&options, readings, out)
}

/// That many clients come, hear what is published, and leave. Returns what the server held while they were there.
async fn round(server: &Server, connections: u32, options: &Options) -> Result<Held, BenchError> {
    let leave = CancellationToken::new();
    let mut clients = JoinSet::new();
    for index in 0..connections {
        let subscriber = grpc::subscriber(server.addr, &format!("user-{index}")).await?;
        clients.spawn_local(grpc::hold(
            subscriber,
            leave.clone().cancelled_owned(),
            options.leave == Leave::Logout,
        ));
    }
    publish(server, options.messages).await?;
    sleep(Duration::from_secs(options.settle)).await;
    let held = procfs::held(server.pid())?;
    leave.cancel();
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(held)
}

/// Publishes until every message has its receipt.
async fn publish(server: &Server, messages: u64) -> Result<(), BenchError> {
    let (mut send, receipts) = grpc::publisher(server.addr, "publisher").await?;
    let progress = Rc::new(Progress::new(1));
    let mut follower = JoinSet::new();
    follower.spawn_local(grpc::follow_publisher(receipts, Rc::clone(&progress)));
    let template = grpc::template(PAYLOAD_BYTES)?;
    for number in 0..messages {
        let mut frame = Vec::new();
        template.append(&mut frame, number);
        send.send_data(frame.into(), false)?;
        while progress.receipts_seen() <= number {
            progress.changed().await?;
        }
    }
    send.send_data(grpc::logout()?.into(), false)?;
    // The stream's end is what the follower calls a fault.
    while progress.changed().await.is_ok() {}
    Ok(())
}

fn print(options: &Options, readings: [(&str, Held); 4], out: &mut dyn Write) -> Result<(), BenchError> {
    let [_, (_, warm), (_, full), (_, left)] = readings;
    let each = (kib(full.rss) - kib(warm.rss)) / f64::from(options.connections.max(1));
    let ratio = left.rss as f64 / warm.rss as f64;
    if options.json {
        let readings = readings.map(|(when, held)| {
            json!({
                "when": when, "rss_bytes": held.rss, "anonymous_bytes": held.anonymous, "threads": held.threads,
                "descriptors": held.descriptors,
            })
        });
        let result = json!({
            "benchmark": "memory", "connections": options.connections, "rss_kib_per_connection": each,
            "left_to_warm": ratio, "leave": format!("{:?}", options.leave).to_lowercase(), "readings": readings,
        });
        writeln!(out, "{result}")?;
        return Ok(());
    }
    writeln!(out, "\nMemory of {}, {} connections", options.server.display(), options.connections)?;
    writeln!(
        out,
        "{:<14} {:>10}  {:>10}  {:>8}  {:>11}",
        "", "RSS KiB", "heap KiB", "threads", "descriptors"
    )?;
    for (when, held) in readings {
        let (rss, anonymous) = (kib(held.rss), kib(held.anonymous));
        let Held { threads, descriptors, .. } = held;
        writeln!(out, "{when:<14} {rss:>10.0}  {anonymous:>10.0}  {threads:>8}  {descriptors:>11}")?;
    }
    writeln!(out, "per connection {each:>10.1}  (connection, session, one Subscribe stream)")?;
    writeln!(out, "gone / warm    {ratio:>10.2}")?;
    Ok(())
}

fn kib(bytes: u64) -> f64 {
    bytes as f64 / KIB
}
