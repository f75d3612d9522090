//! A server with its subscribers and its publisher: the load in a closed loop, and in an open one.

use std::cell::RefCell;
use std::mem::take;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use streamward::load::client;
use streamward::load::latencies::Latencies;
use streamward::load::message::Template;
use streamward::load::progress::Progress;
use streamward::load::schedule::Schedule;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use crate::follower;
use crate::kind::Kind;
use crate::lines::{self, Dialect, Line};
use crate::servers::{self, Program, Server};
use crate::{BenchError, Common, procfs};

/// The machine may take its cores away for this long: that is late deliveries, not a rate that cannot be kept.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One connection that follows the topic.
pub(crate) enum Subscriber {
    Line(Line),
    Grpc(Box<client::Subscriber>),
}

/// A server with its subscribers and its publisher.
pub(crate) struct Room {
    /// The server.
    pub(crate) server: Server,
    progress: Rc<Progress>,
    publisher: Publisher,
    /// Messages published so far.
    published: u64,
    /// Whether every publish is answered.
    receipts: bool,
    followers: JoinSet<()>,
}

struct Publisher {
    template: Template,
    buffer: Vec<u8>,
    to: To,
}

enum To {
    Line(OwnedWriteHalf),
    Grpc(SendStream<Bytes>),
}

/// What a number of messages took.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    /// Messages.
    pub(crate) count: u64,
    /// CPU time of the server.
    pub(crate) server_ns: u64,
    /// CPU time of the load.
    pub(crate) load_ns: u64,
    /// Wall time.
    pub(crate) wall_ns: u64,
}

/// The clocks of a server, of the load and of the wall when something began.
pub(crate) struct Clocks {
    pid: u32,
    server_ns: u64,
    load_ns: u64,
    pub(crate) started: Instant,
}

impl Clocks {
    /// Now.
    pub(crate) fn of(server: &Server) -> Result<Self, BenchError> {
        let pid = server.pid();
        let (server_ns, load_ns) = (procfs::cpu_ns(pid)?, procfs::cpu_ns(std::process::id())?);
        Ok(Self { pid, server_ns, load_ns, started: Instant::now() })
    }

    /// What `count` messages took since.
    pub(crate) fn took(&self, count: u64) -> Result<Took, BenchError> {
        let wall_ns = u64::try_from(self.started.elapsed().as_nanos())?.max(1);
        Ok(Took {
            count,
            server_ns: procfs::cpu_ns(self.pid)? - self.server_ns,
            load_ns: procfs::cpu_ns(std::process::id())? - self.load_ns,
            wall_ns,
        })
    }
}

impl Took {
    /// Messages a second.
    pub(crate) fn per_second(&self) -> u64 {
        self.count.saturating_mul(1_000_000_000) / self.wall_ns.max(1)
    }
}

/// What the server speaks, if not gRPC by this project's contract.
fn dialect(kind: Kind) -> Option<Dialect> {
    match kind {
        Kind::Mosquitto => Some(Dialect::Mqtt),
        Kind::NatsServer => Some(Dialect::Nats),
        Kind::Streamward | Kind::PlainTonic | Kind::GrpcJs | Kind::Grpcio => None,
    }
}

/// Opens a connection that follows the topic.
pub(crate) async fn subscriber(server: &Server, name: &str) -> Result<Subscriber, BenchError> {
    Ok(match dialect(server.kind) {
        Some(dialect) => Subscriber::Line(lines::subscriber(dialect, server.addr, name).await?),
        None => Subscriber::Grpc(Box::new(client::subscriber(server.addr, name).await?)),
    })
}

/// Starts a server and everyone who talks to it.
pub(crate) async fn open(
    program: &Program,
    subscribers: usize,
    payload_bytes: usize,
    common: &Common,
) -> Result<Room, BenchError> {
    let server = servers::start(program, common).await?;
    let progress = Rc::new(Progress::new(subscribers));
    let mut followers = JoinSet::new();
    for index in 0..subscribers {
        let progress = Rc::clone(&progress);
        let name = format!("subscriber-{index}");
        if let Some(dialect) = dialect(server.kind) {
            let line = lines::subscriber(dialect, server.addr, &name).await?;
            followers.spawn_local(lines::follow(line, index, payload_bytes, progress));
        } else {
            let follower = follower::subscriber(server.addr, &name).await?;
            followers.spawn_local(follower::follow(follower, index, payload_bytes, progress));
        }
    }
    let (template, to) = if let Some(dialect) = dialect(server.kind) {
        let (write, line) = lines::publisher(dialect, server.addr, "publisher").await?;
        followers.spawn_local(lines::follow_publisher(line, Rc::clone(&progress)));
        (lines::template(dialect, payload_bytes)?, To::Line(write))
    } else {
        let (send, receipts) = client::publisher(server.addr, "publisher").await?;
        followers.spawn_local(client::follow_publisher(receipts, Rc::clone(&progress)));
        (client::template(payload_bytes)?, To::Grpc(send))
    };
    let receipts = dialect(server.kind).is_none();
    let publisher = Publisher { template, buffer: Vec::new(), to };
    Ok(Room { server, progress, publisher, published: 0, receipts, followers })
}

/// Everyone leaves and the server stops.
pub(crate) async fn close(room: Room) -> Result<(), BenchError> {
    let Room { server, followers, .. } = room;
    drop(followers);
    servers::stop(server).await
}

/// Publishes `count` messages with at most `window` in flight; returns when all of them are everywhere.
pub(crate) async fn closed_loop(room: &mut Room, count: u64, window: u64) -> Result<Took, BenchError> {
    let clocks = Clocks::of(&room.server)?;
    let end = room.published + count;
    while !is_everywhere(room, end) {
        let next = room.published;
        // Without subscribers a message is in flight until it has its receipt.
        let seen =
            if room.followed_by_nobody() { room.progress.receipts_seen() } else { room.progress.low() };
        let free = window.saturating_sub(next - seen).min(end - next);
        if free > 0 {
            publish(room, next + free).await?;
        }
        room.progress.changed().await?;
    }
    clocks.took(count)
}

/// Publishes at this rate, whatever the server does, and returns how long after the intended moment each delivery came.
pub(crate) async fn open_loop(
    room: &mut Room,
    per_second: u64,
    duration: Duration,
) -> Result<Latencies, BenchError> {
    let begin = Instant::now();
    let schedule = Schedule::new(begin, room.published, per_second);
    let end = schedule.next(begin + duration);
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let arrived = Rc::clone(&latencies);
    room.progress.on_arrival(move |numbers| {
        let (now, mut latencies) = (Instant::now(), arrived.borrow_mut());
        for number in numbers {
            latencies.record(now.saturating_duration_since(schedule.intended(number)));
        }
    });
    while room.published < end {
        let due = schedule.next(Instant::now()).min(end);
        if due > room.published {
            publish(room, due).await?;
        }
        // Timers have steps of a millisecond: the load never sleeps.
        yield_now().await;
    }
    if begin.elapsed() > duration.mul_f64(1.1) + PAUSE_MAX {
        return Err(format!("{per_second} messages a second are more than load and server can do").into());
    }
    while !is_everywhere(room, end) {
        room.progress.changed().await?;
    }
    room.progress.on_arrival(|_| ());
    Ok(latencies.take())
}

impl Room {
    fn followed_by_nobody(&self) -> bool {
        // The publisher's own follower is always there.
        self.followers.len() <= 1
    }
}

fn is_everywhere(room: &Room, end: u64) -> bool {
    let is_delivered = room.followed_by_nobody() || room.progress.low() >= end;
    room.published >= end && is_delivered && (!room.receipts || room.progress.receipts_seen() >= end)
}

/// Publishes what comes before message number `end`.
async fn publish(room: &mut Room, end: u64) -> Result<(), BenchError> {
    let publisher = &mut room.publisher;
    for number in room.published..end {
        publisher.template.append(&mut publisher.buffer, number);
    }
    room.published = end;
    match &mut publisher.to {
        To::Line(write) => {
            write.write_all(&publisher.buffer).await?;
            publisher.buffer.clear();
        }
        To::Grpc(send) => send.send_data(take(&mut publisher.buffer).into(), false)?,
    }
    Ok(())
}
