//! A server with its subscribers and its publisher: the load in a closed loop, and in an open one.

use std::cell::RefCell;
use std::mem::take;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use streamward::load::client;
use streamward::load::message::Template;
use streamward::load::progress::Progress;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use crate::kind::Kind;
use crate::lines::{self, Dialect, Line};
use crate::servers::{self, Program, Server};
use crate::{BenchError, Common, procfs};

/// One connection that follows the topic.
pub(crate) enum Subscriber {
    Line(Line),
    Grpc(client::Subscriber),
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

/// When messages are due, and how long after that each delivery came.
struct Pace {
    first: u64,
    started: Instant,
    interval_ns: u64,
    late_ns: Vec<u64>,
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
        None => Subscriber::Grpc(client::subscriber(server.addr, name).await?),
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
        match subscriber(&server, &format!("subscriber-{index}")).await? {
            Subscriber::Line(line) => {
                followers.spawn_local(lines::follow(line, index, payload_bytes, progress));
            }
            Subscriber::Grpc(subscriber) => {
                followers.spawn_local(client::follow(subscriber, index, payload_bytes, progress));
            }
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
    let pid = room.server.pid();
    let (server_before, load_before) = (procfs::cpu_ns(pid)?, procfs::cpu_ns(std::process::id())?);
    let started = Instant::now();
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
    let wall_ns = nanoseconds(started.elapsed())?.max(1);
    Ok(Took {
        count,
        server_ns: procfs::cpu_ns(pid)? - server_before,
        load_ns: procfs::cpu_ns(std::process::id())? - load_before,
        wall_ns,
    })
}

/// Publishes at this rate, whatever the server does, and returns how long after the intended moment each delivery came,
/// in nanoseconds, sorted: a server that stops for a second is late with all that was due in that second.
pub(crate) async fn open_loop(
    room: &mut Room,
    per_second: f64,
    duration: Duration,
) -> Result<Vec<u64>, BenchError> {
    let interval_ns = nanoseconds(Duration::from_secs_f64(1.0 / per_second))?.max(1);
    let count = nanoseconds(duration)? / interval_ns;
    let (first, started) = (room.published, Instant::now());
    let pace = Rc::new(RefCell::new(Pace { first, started, interval_ns, late_ns: Vec::new() }));
    let arrivals = Rc::clone(&pace);
    room.progress.on_arrival(move |numbers| arrivals.borrow_mut().arrived(numbers));
    while room.published < first + count {
        let due = (nanoseconds(started.elapsed())? / interval_ns + 1).min(count);
        if first + due > room.published {
            publish(room, first + due).await?;
        }
        // Timers have steps of a millisecond: the load never sleeps.
        yield_now().await;
    }
    if started.elapsed() > duration.mul_f64(1.1) {
        return Err(format!("{per_second:.0} messages a second are more than load and server can do").into());
    }
    while !is_everywhere(room, first + count) {
        room.progress.changed().await?;
    }
    room.progress.on_arrival(|_| ());
    let mut late_ns = take(&mut pace.borrow_mut().late_ns);
    late_ns.sort_unstable();
    Ok(late_ns)
}

impl Room {
    fn followed_by_nobody(&self) -> bool {
        // The publisher's own follower is always there.
        self.followers.len() <= 1
    }
}

impl Pace {
    fn arrived(&mut self, numbers: Range<u64>) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        for number in numbers {
            let due = number.saturating_sub(self.first) * self.interval_ns;
            self.late_ns.push(now.saturating_sub(due));
        }
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

pub(crate) fn nanoseconds(duration: Duration) -> Result<u64, BenchError> {
    Ok(u64::try_from(duration.as_nanos())?)
}
