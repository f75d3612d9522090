//! What idle connections cost, and whether it comes back.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::grpc;
use crate::message::BenchError;
use crate::procfs::{self, Held};
use crate::servers::{self, Kind};

const KIB: f64 = 1024.0;

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
    let idle = procfs::held(server.pid())?;
    writeln!(log, "idle: {:.0} KiB; opening {} connections", kib(idle), options.connections)?;

    let leave = CancellationToken::new();
    let mut clients = JoinSet::new();
    for index in 0..options.connections {
        let subscriber = grpc::subscriber(server.addr, &format!("user-{index}")).await?;
        clients.spawn_local(grpc::hold(
            subscriber,
            leave.clone().cancelled_owned(),
            options.leave == Leave::Logout,
        ));
    }
    sleep(settle).await;
    let full = procfs::held(server.pid())?;
    writeln!(log, "full: {:.0} KiB; leaving", kib(full))?;

    leave.cancel();
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    sleep(settle).await;
    let left = procfs::held(server.pid())?;
    servers::stop(server).await?;
    print(&options, [("idle", idle), ("all connected", full), ("all gone", left)], out)
}

fn print(options: &Options, readings: [(&str, Held); 3], out: &mut dyn Write) -> Result<(), BenchError> {
    let [(_, idle), (_, full), _] = readings;
    let each = (kib(full) - kib(idle)) / f64::from(options.connections.max(1));
    if options.json {
        let readings = readings.map(|(when, held)| {
            json!({ "when": when, "rss_bytes": held.rss, "threads": held.threads, "descriptors": held.descriptors })
        });
        let result = json!({
            "benchmark": "memory", "connections": options.connections, "rss_kib_per_connection": each,
            "leave": format!("{:?}", options.leave).to_lowercase(), "readings": readings,
        });
        writeln!(out, "{result}")?;
        return Ok(());
    }
    writeln!(out, "\nMemory of {}, {} connections", options.server.display(), options.connections)?;
    writeln!(out, "{:<14} {:>10}  {:>8}  {:>11}", "", "RSS KiB", "threads", "descriptors")?;
    for (when, held) in readings {
        writeln!(out, "{when:<14} {:>10.0}  {:>8}  {:>11}", kib(held), held.threads, held.descriptors)?;
    }
    writeln!(out, "per connection {each:>10.1}  (connection, session, one Subscribe stream)")?;
    Ok(())
}

fn kib(held: Held) -> f64 {
    held.rss as f64 / KIB
}
