//! The clients of a storm, and what they share.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use streamward::wire::ended::end_details;
use streamward::wire::v1;
use streamward::wire::v1::client_frame;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Code;

use crate::SoakError;
use crate::dice::Dice;
use crate::ledger::Accepted;
use crate::peer::{Dial, Failure, Peer, Stream};
use crate::reader;

/// Topics everyone shares.
pub(crate) const TOPICS: usize = 16;
/// Bytes of the largest payload.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// Publishes of one stream that wait for their receipts.
const IN_FLIGHT: usize = 32;
/// Streams of one client that does not read.
const DEAF_STREAMS: usize = 4;
/// What the server may have under way to a client that does not read.
const DEAF_WINDOW_BYTES: u32 = 65_535;
/// Little for the kernel to take on such a client's behalf.
const DEAF_RECEIVE_BYTES: u32 = 4096;
/// Where the server names no time, and where no connection came to be.
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(3);
/// How long the last receipts and events may take once nobody publishes any more.
pub(crate) const QUIET_PATIENCE: Duration = Duration::from_secs(20);
/// Odd things told in full.
const ODD_TOLD: usize = 8;

/// Where the storm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everyone does what it came for.
    Blowing,
    /// Publishers wait for their last receipts and leave; those who do not read leave.
    Quiet,
    /// Readers read what is left and leave.
    Closing,
}

/// What all clients share.
pub(crate) struct Storm {
    pub(crate) addr: SocketAddr,
    pub(crate) seed: u64,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) accepted: RefCell<Vec<Accepted>>,
    /// A payload of topic `n` is a run from the start of block `n`.
    pub(crate) blocks: Vec<Bytes>,
    /// What happened, by name.
    pub(crate) counts: RefCell<BTreeMap<String, u64>>,
    /// What must not happen.
    pub(crate) refused_badly: RefCell<Vec<String>>,
    pub(crate) ended_badly: RefCell<Vec<String>>,
    pub(crate) misheard: RefCell<Vec<String>>,
    pub(crate) lost: Cell<u64>,
    pub(crate) heard: Cell<u64>,
    pub(crate) gaps: Cell<u64>,
}

impl Storm {
    fn new(addr: SocketAddr, seed: u64, phase: watch::Receiver<Phase>) -> Self {
        let block = |topic: usize| {
            (0..PAYLOAD_BYTES_MAX).map(|at| u8::try_from((at * 7 + topic) % 251).unwrap_or(0)).collect()
        };
        Self {
            addr,
            seed,
            phase,
            accepted: RefCell::new((0..TOPICS).map(|_| Accepted::default()).collect()),
            blocks: (0..TOPICS).map(block).collect(),
            counts: RefCell::default(),
            refused_badly: RefCell::default(),
            ended_badly: RefCell::default(),
            misheard: RefCell::default(),
            lost: Cell::new(0),
            heard: Cell::new(0),
            gaps: Cell::new(0),
        }
    }

    /// Counts something.
    pub(crate) fn count(&self, what: impl Into<String>) {
        *self.counts.borrow_mut().entry(what.into()).or_default() += 1;
    }

    /// The phase now.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the storm is there.
    pub(crate) async fn reaches(&self, phase: Phase) {
        // Its end is the end of the tool.
        let _ = self.phase.clone().wait_for(|now| *now >= phase).await;
    }

    /// Waits as the server said, or a while.
    pub(crate) async fn wait(&self, told: Option<Duration>, dice: &mut Dice) {
        let wait = told.unwrap_or_else(|| dice.between(RETRY_LEAST, RETRY_MOST));
        let _ = timeout(wait, self.reaches(Phase::Quiet)).await;
    }

    /// A connection with a session, or how long to wait before the next try.
    pub(crate) async fn come_in(&self, dial: Dial, user: &str) -> Result<Peer, Option<Duration>> {
        let mut peer = match Peer::connect(dial).await {
            Ok(peer) => peer,
            Err(_) => {
                self.count("connections not made");
                return Err(None);
            }
        };
        match peer.log_in(user, "").await {
            Ok(()) => {
                self.count("logins");
                Ok(peer)
            }
            Err(Failure::Told(status)) => {
                let details = end_details(&status);
                let retry_after = details.as_ref().and_then(|details| details.retry_after);
                let reason = details.as_ref().map_or("no reason", |details| details.reason.name());
                self.count(format!("logins refused: {reason}"));
                if details.is_none() || retry_after.is_none() {
                    let text =
                        format!("{:?} {reason} {:?}: {}", status.code(), retry_after, status.message());
                    note(&self.refused_badly, text);
                }
                Err(retry_after)
            }
            Err(Failure::Broken(_) | Failure::Silent(_)) => {
                self.count("logins without an answer");
                Err(None)
            }
        }
    }

    /// Notes how a stream ended; returns when to come back, if the server said.
    pub(crate) fn stream_ended(&self, end: &Failure) -> Option<Duration> {
        let Failure::Told(status) = end else {
            self.count("streams broken");
            return None;
        };
        let details = end_details(status);
        let reason = match &details {
            Some(details) => details.reason.name(),
            None if status.code() == Code::Ok => "COMPLETED",
            None => {
                note(&self.ended_badly, format!("{:?}: {}", status.code(), status.message()));
                "no reason"
            }
        };
        self.count(format!("streams ended: {reason}"));
        details.and_then(|details| details.retry_after)
    }

    /// How this client connects; the addresses differ so that none runs out of ports.
    pub(crate) fn dial(&self, client: u32) -> Dial {
        let [_, _, high, low] = client.to_be_bytes();
        Dial {
            to: self.addr,
            from: Ipv4Addr::new(127, 1, high, low.max(1)),
            window_bytes: 256 * 1024,
            receive_buffer_bytes: None,
            cut: None,
        }
    }
}

/// Keeps the first few.
pub(crate) fn note(list: &RefCell<Vec<String>>, text: String) {
    let mut list = list.borrow_mut();
    if list.len() < ODD_TOLD {
        list.push(text);
    }
}

pub(crate) fn topic(number: usize) -> String {
    format!("room/storm{number}")
}

/// That many clients for that long, a third of each kind; then everyone leaves. What they saw.
pub(crate) async fn blow(
    addr: SocketAddr,
    seed: u64,
    clients: u32,
    duration: Duration,
    mut alive: impl FnMut(Duration) -> Result<(), SoakError>,
) -> Result<Rc<Storm>, SoakError> {
    let (phase, watched) = watch::channel(Phase::Blowing);
    let storm = Rc::new(Storm::new(addr, seed, watched));
    let (mut readers, mut others) = (JoinSet::new(), JoinSet::new());
    for client in 0..clients {
        let storm = Rc::clone(&storm);
        match client % 3 {
            0 => readers.spawn_local(reader::live(storm, client)),
            1 => others.spawn_local(publisher(storm, client)),
            _ => others.spawn_local(deaf(storm, client)),
        };
    }
    let started = Instant::now();
    while started.elapsed() < duration {
        sleep(Duration::from_millis(250)).await;
        alive(started.elapsed())?;
    }
    phase.send_replace(Phase::Quiet);
    while let Some(left) = others.join_next().await {
        left?;
    }
    phase.send_replace(Phase::Closing);
    while let Some(left) = readers.join_next().await {
        left?;
    }
    Ok(storm)
}

/// Publishes as fast as receipts come, some time on each connection.
async fn publisher(storm: Rc<Storm>, client: u32) {
    let mut dice = Dice::new(storm.seed, u64::from(client), 0);
    while storm.phase() == Phase::Blowing {
        match storm.come_in(storm.dial(client), &format!("publisher{client}")).await {
            Ok(mut peer) => {
                let until = Instant::now() + dice.between(Duration::from_secs(5), Duration::from_secs(30));
                let end = publish(&storm, &mut peer, &mut dice, until).await;
                let retry = end.map_or_else(|end| storm.stream_ended(&end), |()| None);
                if dice.below(2) == 0 {
                    peer.log_out().await.ok();
                }
                drop(peer);
                storm.wait(retry, &mut dice).await;
            }
            Err(retry) => storm.wait(retry, &mut dice).await,
        }
    }
}

async fn publish(storm: &Storm, peer: &mut Peer, dice: &mut Dice, until: Instant) -> Result<(), Failure> {
    let mut stream = peer.open("MessageService/Connect").await?;
    let mut under_way = VecDeque::new();
    loop {
        let goes_on = storm.phase() == Phase::Blowing && Instant::now() < until;
        while goes_on && under_way.len() < IN_FLIGHT {
            let topic = dice.below(TOPICS);
            // Every power of two is as likely as any other.
            let most = 16 << dice.below(11);
            publish_one(storm, &mut stream, topic, most.min(PAYLOAD_BYTES_MAX) - dice.below(8))?;
            under_way.push_back(topic);
        }
        if under_way.is_empty() {
            return stream.half_close();
        }
        let frame = timeout(QUIET_PATIENCE, stream.next::<v1::ServerFrame>()).await;
        let frame = frame.map_err(|_| Failure::Silent("receipt"))??;
        for receipt in frame.receipts {
            let Some(topic) = under_way.pop_front() else {
                return Err(Failure::Broken("a receipt too many".to_owned()));
            };
            match receipt.position {
                Some(position) => storm.accepted.borrow_mut()[topic].add(position.sequence),
                None => storm.count("publishes refused"),
            }
        }
    }
}

fn publish_one(storm: &Storm, stream: &mut Stream, number: usize, bytes: usize) -> Result<(), Failure> {
    let payload = storm.blocks[number].slice(..bytes);
    let publish = v1::Publish { topic: topic(number), payload, ..Default::default() };
    stream.frame(client_frame::Kind::Publish(publish))
}

/// Follows everything and reads nothing: half of them shut their window, half leave their socket alone altogether.
async fn deaf(storm: Rc<Storm>, client: u32) {
    let mut dice = Dice::new(storm.seed, u64::from(client), 0);
    while storm.phase() == Phase::Blowing {
        let mut dial = storm.dial(client);
        dial.window_bytes = DEAF_WINDOW_BYTES;
        dial.receive_buffer_bytes = Some(DEAF_RECEIVE_BYTES);
        let retry = match storm.come_in(dial, &format!("deaf{client}")).await {
            Ok(mut peer) => {
                let until = Instant::now() + dice.between(Duration::from_secs(10), Duration::from_secs(60));
                let frozen = dice.below(2) == 0;
                tokio::select! {
                    retry = hear_nothing(&storm, &mut peer, frozen) => retry,
                    () = sleep_until(until) => None,
                    () = storm.reaches(Phase::Quiet) => None,
                }
            }
            Err(retry) => retry,
        };
        storm.wait(retry, &mut dice).await;
    }
}

async fn hear_nothing(storm: &Storm, peer: &mut Peer, frozen: bool) -> Option<Duration> {
    let mut streams = Vec::new();
    for _ in 0..DEAF_STREAMS {
        match follow_all(peer).await {
            Ok(stream) => streams.push(stream),
            Err(failure) => return storm.stream_ended(&failure),
        }
    }
    if frozen {
        // What was asked for must leave first.
        sleep(Duration::from_secs(1)).await;
        peer.freeze();
        std::future::pending::<()>().await;
    }
    let heartbeats = async {
        loop {
            sleep(reader::HEARTBEAT).await;
            let beat: Result<v1::HeartbeatResponse, Failure> =
                peer.unary("SessionService/Heartbeat", &v1::HeartbeatRequest {}).await;
            if beat.is_err() {
                // The streams tell why.
                std::future::pending::<()>().await;
            }
        }
    };
    let ends = async {
        let ends = join_all(streams.iter_mut().map(Stream::end_unread)).await;
        ends.iter().filter_map(|end| storm.stream_ended(end)).max()
    };
    tokio::select! {
        retry = ends => retry,
        () = heartbeats => None,
    }
}

async fn follow_all(peer: &mut Peer) -> Result<Stream, Failure> {
    let subscription = |number| v1::Subscription { topic: topic(number), ..Default::default() };
    let request = v1::SubscribeRequest { subscriptions: (0..TOPICS).map(subscription).collect() };
    let mut stream = peer.open("MessageService/Subscribe").await?;
    stream.send(&request, true)?;
    Ok(stream)
}
