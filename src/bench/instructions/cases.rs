//! What is counted: the work, and its steady state.

use std::sync::Arc;

use prost::Message as _;
use streamward::base::event::Epoch;
use streamward::base::limits::{Limits, Memory, Shutdown};
use streamward::daemon::reaper;
use streamward::runtime::scope::Scope;
use streamward::server::{Core, connection};
use streamward::wire::v1;
use tokio::runtime::Runtime;
use tokio::task::yield_now;

use crate::wire::{self, ClientEnd, data, framed};

/// Why a count is void.
pub(crate) type Fault = Box<dyn std::error::Error>;

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// What the baseline calls it.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) work: Work,
    /// How often, before it counts and while it does.
    pub(crate) warm: u32,
    /// While it counts.
    pub(crate) rounds: u32,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// One publisher; counted per delivery.
    Fanout(Fanout),
    /// Connect, log in, open a stream that follows a topic, log out; counted per session. So many others idle.
    Sessions {
        /// Sessions beside it, each with a stream.
        idle: u32,
    },
    /// Publish by a unary call, to a topic nobody follows; counted per call.
    Publish,
}

/// Who is sent what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fanout {
    /// Connections, each with a session that follows all topics.
    pub(crate) subscribers: u32,
    /// Topics, published to in turn.
    pub(crate) topics: u32,
    /// Topics that one stream follows; a subscriber has as many streams as that takes.
    pub(crate) subscriptions: u32,
    /// Messages that arrive together.
    pub(crate) in_flight: u32,
    /// Sessions beside it, each with a stream that follows another topic.
    pub(crate) idle: u32,
    /// Bytes of a payload.
    pub(crate) payload_bytes: usize,
}

/// Fifty subscribers of one topic, a message at a time.
pub(crate) const LONE: Fanout =
    Fanout { subscribers: 50, topics: 1, subscriptions: 1, in_flight: 1, idle: 0, payload_bytes: 100 };

const fn fanout(name: &'static str, rounds: u32, fanout: Fanout) -> Case {
    Case { name, work: Work::Fanout(fanout), warm: 20, rounds }
}

/// Everything that is counted.
pub(crate) const CASES: [Case; 14] = [
    fanout("lone", 200, LONE),
    fanout("flight_64", 40, Fanout { in_flight: 64, ..LONE }),
    Case { name: "session", work: Work::Sessions { idle: 0 }, warm: 600, rounds: 200 },
    Case { name: "publish", work: Work::Publish, warm: 50, rounds: 500 },
    fanout("lone_500_subscribers", 20, Fanout { subscribers: 500, ..LONE }),
    fanout("flight_64_500_subscribers", 5, Fanout { subscribers: 500, in_flight: 64, ..LONE }),
    fanout("lone_10_subscribers", 500, Fanout { subscribers: 10, ..LONE }),
    Case {
        warm: 1000,
        ..fanout(
            "lone_1000_topics",
            1000,
            Fanout { subscribers: 10, topics: 1000, subscriptions: 64, ..LONE },
        )
    },
    Case {
        warm: 64,
        ..fanout("lone_64_subscriptions", 192, Fanout { topics: 64, subscriptions: 64, ..LONE })
    },
    fanout("lone_1000_idle", 200, Fanout { idle: 1000, ..LONE }),
    fanout("flight_64_1000_idle", 40, Fanout { in_flight: 64, idle: 1000, ..LONE }),
    Case { name: "session_100_idle", work: Work::Sessions { idle: 100 }, warm: 600, rounds: 200 },
    Case { name: "session_1000_idle", work: Work::Sessions { idle: 1000 }, warm: 600, rounds: 200 },
    fanout("lone_1024_bytes", 200, Fanout { payload_bytes: 1024, ..LONE }),
];

/// What must cost the same: few of something, and many.
pub(crate) const FLAT: [(&str, &str); 7] = [
    ("lone", "lone_500_subscribers"),
    ("flight_64", "flight_64_500_subscribers"),
    ("lone_10_subscribers", "lone_1000_topics"),
    ("lone", "lone_64_subscriptions"),
    ("lone", "lone_1000_idle"),
    ("flight_64", "flight_64_1000_idle"),
    // Not from none: sets that are ordered grow by the logarithm.
    ("session_100_idle", "session_1000_idle"),
];

/// Turns of the runtime after which work that is not done hangs.
const TURNS_MAX: u32 = 100_000;

/// Does the work once warm; returns how often it was done while it counted.
pub(crate) fn run(case: &Case, rounds: u32) -> Result<u64, Fault> {
    if let Work::Fanout(fanout) = case.work {
        return Steady::new(fanout, case.warm)?.rounds(rounds);
    }
    let house = House::new()?;
    match case.work {
        Work::Fanout(_) => {}
        Work::Sessions { idle } => {
            let _others = house.runtime.block_on(idlers(&house.core, idle))?;
            house.runtime.block_on(sessions(&house.core, 0, case.warm))?;
            steady_state(&house.runtime, sessions(&house.core, case.warm, rounds))?;
        }
        Work::Publish => {
            let mut guest = house.runtime.block_on(Guest::log_in(&house.core, "publisher"))?;
            house.runtime.block_on(publishes(&mut guest, case.warm))?;
            steady_state(&house.runtime, publishes(&mut guest, rounds))?;
        }
    }
    Ok(u64::from(rounds))
}

/// A server and the one thread it has.
struct House {
    runtime: Runtime,
    core: Arc<Core>,
}

impl House {
    fn new() -> Result<Self, Fault> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
        let core = runtime.block_on(async {
            let (core, upkeep) = (core(), Scope::root());
            upkeep.spawn(reaper::run(Arc::clone(&core), upkeep.clone()));
            core
        });
        Ok(Self { runtime, core })
    }
}

/// A fan-out that is warm.
pub(crate) struct Steady {
    house: House,
    bench: FanoutBench,
}

impl Steady {
    /// After so many rounds.
    pub(crate) fn new(fanout: Fanout, warm: u32) -> Result<Self, Fault> {
        let house = House::new()?;
        let mut bench = house.runtime.block_on(FanoutBench::open(&house.core, fanout))?;
        house.runtime.block_on(bench.rounds(warm))?;
        Ok(Self { house, bench })
    }

    /// Goes on; returns the deliveries.
    pub(crate) fn rounds(&mut self, rounds: u32) -> Result<u64, Fault> {
        steady_state(&self.house.runtime, self.bench.rounds(rounds))?;
        let Fanout { in_flight, subscribers, .. } = self.bench.fanout;
        Ok(u64::from(rounds) * u64::from(in_flight) * u64::from(subscribers))
    }
}

/// Only what runs in here is counted: callgrind is told this name.
#[inline(never)]
fn steady_state<T>(runtime: &Runtime, work: impl Future<Output = T>) -> T {
    runtime.block_on(work)
}

/// A hub with room for everything that is counted here.
fn core() -> Arc<Core> {
    let limits = Limits {
        sessions_max: 100_000,
        sessions_per_user_max: 100_000,
        connections_max: 100_000,
        stream_opens_per_second_max: 1_000_000_000,
        streams_per_session_max: 1000,
        streams_per_connection_max: 1000,
        topics_max: 100_000,
        stream_window_bytes: 1024 * 1024,
        ..Limits::default()
    };
    Core::new(Epoch("00000000000e90c4".into()), limits, Memory::default(), Shutdown::default())
}

/// Lets the server work until `done`.
async fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<(), Fault> {
    for _ in 0..TURNS_MAX {
        if done() {
            return Ok(());
        }
        yield_now().await;
    }
    Err(format!("waited in vain for {what}").into())
}

/// Lets the server do what is left.
async fn settle() {
    for _ in 0..4 {
        yield_now().await;
    }
}

/// A connection with a session.
struct Guest {
    end: ClientEnd,
    token: String,
}

impl Guest {
    async fn log_in(core: &Arc<Core>, user: &str) -> Result<Self, Fault> {
        let (end, server_end) = wire::connection();
        let of = Arc::clone(core);
        core.service.spawn(async move { connection::run(&of, server_end, "memory", None, None).await });
        let mut guest = Self { end, token: String::new() };
        let login =
            v1::LoginRequest { user: user.to_owned(), client_name: "bench".into(), ..Default::default() };
        let login: v1::LoginResponse = guest.ask("SessionService/Login", &login).await?;
        guest.end.confirm_settings();
        guest.token = login.token;
        Ok(guest)
    }

    async fn ask<T: prost::Message + Default>(
        &mut self,
        method: &str,
        request: &impl prost::Message,
    ) -> Result<T, Fault> {
        self.end.forget();
        let stream = self.end.call(method, &self.token, Some(&framed(request)), true);
        until(method, || self.end.answer(stream).ended).await?;
        Ok(T::decode(message(&self.end.answer(stream).data)?)?)
    }

    /// Opens a stream that follows these topics and waits until it does.
    async fn follow(&mut self, topics: impl Iterator<Item = String>) -> Result<u32, Fault> {
        self.end.forget();
        let subscribe = |topic| {
            let subscription = v1::Subscription { topic, ..Default::default() };
            framed(&v1::ClientFrame { kind: Some(v1::client_frame::Kind::Subscribe(subscription)) })
        };
        let frames: Vec<Vec<u8>> = topics.map(subscribe).collect();
        let stream = self.end.call("MessageService/Connect", &self.token, Some(&frames.concat()), false);
        until("subscriptions", || notices(&self.end.answer(stream).data) == frames.len()).await?;
        Ok(stream)
    }
}

/// The one message of an answer.
fn message(data: &[u8]) -> Result<&[u8], Fault> {
    data.get(5..).ok_or_else(|| "an answer without a message".into())
}

/// Counts the notices in the frames of a stream.
fn notices(mut data: &[u8]) -> usize {
    let mut count = 0;
    while let Some(([_, length @ ..], behind)) = data.split_first_chunk::<5>() {
        let bytes = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some((frame, behind)) = behind.split_at_checked(bytes) else { break };
        count += v1::ServerFrame::decode(frame).map_or(0, |frame| frame.notices.len());
        data = behind;
    }
    count
}

/// Clients that do nothing.
async fn idlers(core: &Arc<Core>, count: u32) -> Result<Vec<Guest>, Fault> {
    let mut idlers = Vec::new();
    for index in 0..count {
        let mut guest = Guest::log_in(core, &format!("idle-{index}")).await?;
        guest.follow(std::iter::once("room/quiet".to_owned())).await?;
        guest.end.stop_listening();
        idlers.push(guest);
    }
    Ok(idlers)
}

/// A session from its connection to the end of both, so many times.
async fn sessions(core: &Arc<Core>, first: u32, count: u32) -> Result<(), Fault> {
    for index in first..first + count {
        let mut guest = Guest::log_in(core, &format!("user-{index}")).await?;
        guest.follow(std::iter::once("room/bench".to_owned())).await?;
        let gone: v1::LogoutResponse = guest.ask("SessionService/Logout", &v1::LogoutRequest {}).await?;
        if gone.streams_ended != 1 {
            return Err(format!("{} streams ended at the logout of one", gone.streams_ended).into());
        }
        guest.end.close();
        until("the end of the connection", || guest.end.is_dropped()).await?;
    }
    Ok(())
}

async fn publishes(guest: &mut Guest, count: u32) -> Result<(), Fault> {
    let payload = vec![b'.'; LONE.payload_bytes].into();
    let request = framed(&v1::PublishRequest { topic: "room/bench".into(), payload, ..Default::default() });
    for _ in 0..count {
        guest.end.forget();
        let stream = guest.end.call_again("MessageService/Publish", &guest.token, &request);
        until("the answer to a publish", || guest.end.answer(stream).ended).await?;
    }
    Ok(())
}

/// Subscribers that are there and a publisher.
struct FanoutBench {
    core: Arc<Core>,
    fanout: Fanout,
    publisher: Guest,
    stream: u32,
    /// One publish to each topic.
    publishes: Vec<Vec<u8>>,
    published: usize,
    _subscribers: Vec<Guest>,
    _idlers: Vec<Guest>,
}

impl FanoutBench {
    async fn open(core: &Arc<Core>, fanout: Fanout) -> Result<Self, Fault> {
        let topic = |index: u32| format!("room/{index}");
        let idlers = idlers(core, fanout.idle).await?;
        let mut subscribers = Vec::new();
        for index in 0..fanout.subscribers {
            let mut guest = Guest::log_in(core, &format!("subscriber-{index}")).await?;
            let mut first = 0;
            while first < fanout.topics {
                let last = fanout.topics.min(first + fanout.subscriptions);
                guest.follow((first..last).map(topic)).await?;
                first = last;
            }
            guest.end.stop_listening();
            subscribers.push(guest);
        }
        let mut publisher = Guest::log_in(core, "publisher").await?;
        let stream = publisher.follow(std::iter::empty()).await?;
        publisher.end.stop_listening();
        let publish = |index| {
            let payload = vec![b'.'; fanout.payload_bytes].into();
            let publish = v1::Publish { topic: topic(index), payload, ..Default::default() };
            framed(&v1::ClientFrame { kind: Some(v1::client_frame::Kind::Publish(publish)) })
        };
        Ok(Self {
            core: Arc::clone(core),
            fanout,
            publisher,
            stream,
            publishes: (0..fanout.topics).map(publish).collect(),
            published: 0,
            _subscribers: subscribers,
            _idlers: idlers,
        })
    }

    /// So many times: as many messages as are in flight, until all subscribers have them.
    async fn rounds(&mut self, rounds: u32) -> Result<(), Fault> {
        let deliveries = u64::from(self.fanout.in_flight) * u64::from(self.fanout.subscribers);
        let delivered = |core: &Core| core.hub().stats().events_delivered;
        for _ in 0..rounds {
            let due = delivered(&self.core) + deliveries;
            let mut messages = Vec::new();
            for _ in 0..self.fanout.in_flight {
                messages.extend_from_slice(&self.publishes[self.published % self.publishes.len()]);
                self.published += 1;
            }
            let mut bytes = Vec::new();
            data(&mut bytes, self.stream, &messages, false);
            self.publisher.end.push(&bytes);
            let core = Arc::clone(&self.core);
            until("deliveries", || delivered(&core) >= due).await?;
            settle().await;
            if delivered(&self.core) != due {
                return Err("more was delivered than was published".into());
            }
        }
        Ok(())
    }
}
