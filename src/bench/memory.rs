//! What idle connections cost, and whether it comes back.

use std::io::{self, Write as _};
use std::time::Duration;

use streamward::load::client;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::kind::Kind;
use crate::report::{CONNECTION_KIB, FULL_MIB, HEAP_MIB, LEFT, LEFT_DESCRIPTORS, Metric, Outcome};
use crate::room::{self, Room, Subscriber};
use crate::servers::Program;
use crate::turns::take_turns;
use crate::{BenchError, Common, lines, procfs};

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
    #[arg(long, default_value_t = 50)]
    messages: u64,
    /// How the clients go
    #[arg(long, value_enum, default_value_t = Leave::Logout)]
    leave: Leave,
    /// Seconds of quiet before each reading
    #[arg(long, default_value_t = 3)]
    settle: u64,
}

/// Runs all rounds.
pub(crate) async fn run(options: &Options, common: &Common) -> Result<Outcome, BenchError> {
    let what = format!(
        "Memory of {} connections, each with one open stream, and after they left",
        options.connections
    );
    let mut outcome =
        Outcome::new("memory", what, &[&CONNECTION_KIB, &FULL_MIB, &LEFT], Box::new(io::stderr()));
    take_turns(&mut outcome, &common.programs(&Kind::ALL), common.rounds(1), async |program: &Program| {
        look(program, options, common).await
    })
    .await?;
    Ok(outcome)
}

async fn look(
    program: &Program,
    options: &Options,
    common: &Common,
) -> Result<Vec<(&'static Metric, f64)>, BenchError> {
    // One who follows, so that every published message is waited for.
    let mut room = room::open(program, 1, PAYLOAD_BYTES, common).await?;
    let settle = Duration::from_secs(options.settle);
    crowd(&mut room, options.warm, options).await?;
    sleep(settle).await;
    let warm = procfs::held(room.server.pid())?;
    writeln!(io::stderr(), "{}: warm {:.0} KiB", program.kind.name(), kib(warm.rss))?;
    let full = crowd(&mut room, options.connections, options).await?;
    sleep(settle).await;
    let left = procfs::held(room.server.pid())?;
    room::close(room).await?;
    Ok(vec![
        (&CONNECTION_KIB, (kib(full.rss) - kib(warm.rss)) / f64::from(options.connections.max(1))),
        (&FULL_MIB, kib(full.rss) / KIB),
        (&HEAP_MIB, kib(full.anonymous) / KIB),
        (&LEFT, left.rss as f64 / warm.rss as f64),
        (&LEFT_DESCRIPTORS, left.descriptors as f64),
    ])
}

/// That many clients come, hear what is published, and leave. Returns what the server held while they were there.
async fn crowd(room: &mut Room, connections: u32, options: &Options) -> Result<procfs::Held, BenchError> {
    let leave = CancellationToken::new();
    let mut clients = JoinSet::new();
    for index in 0..connections {
        let left = leave.clone().cancelled_owned();
        match room::subscriber(&room.server, &format!("user-{index}")).await? {
            Subscriber::Line(line) => clients.spawn_local(lines::hold(line, left)),
            Subscriber::Grpc(subscriber) => {
                let held = client::hold(*subscriber, left, options.leave == Leave::Logout);
                clients.spawn_local(async { held.await.map_err(BenchError::from) })
            }
        };
    }
    room::closed_loop(room, options.messages, 1).await?;
    sleep(Duration::from_secs(options.settle)).await;
    let held = procfs::held(room.server.pid())?;
    leave.cancel();
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(held)
}

fn kib(bytes: u64) -> f64 {
    bytes as f64 / KIB
}
