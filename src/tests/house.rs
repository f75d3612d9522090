//! The harness: a whole server on a paused clock, its clients over memory, and what must be left when all is over.
//!
//! The clock moves only when every task waits, so [`settle`] means "until nobody has anything left to do".

use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::peer::{Options, Peer};
use super::valve::{Tap, Valve, pipe};
use crate::base::event::Epoch;
use crate::base::id::{SessionKey, StreamKey};
use crate::base::limits::{Limits, Memory, Shutdown};
use crate::base::reason::{Cause, EndReason};
use crate::client::{Client, Session, connect_io};
use crate::daemon::{reaper, shutdown, systemd::Notifier};
use crate::hub::registry::{Ended, EndedNode};
use crate::runtime::scope::Scope;
use crate::server::{Core, connection};
use crate::wire::v1;

/// The epoch of every hub here.
pub(super) const EPOCH: &str = "00000000000e90c4";
/// Longer than anything may take on the paused clock; a wait that reaches it is a hang.
const HANG: Duration = Duration::from_secs(24 * 3600);

/// A server and the tasks of its connections.
pub(super) struct House {
    pub(super) core: Arc<Core>,
    upkeep: Scope,
    tasks: JoinSet<()>,
    dialled: u32,
}

/// A faithful client: the crate's own library.
pub(super) struct Guest {
    pub(super) session: Session,
    pub(super) client: Client,
    pub(super) tap: Tap,
}

impl House {
    pub(super) fn new() -> Self {
        Self::with(|_, _| ())
    }

    /// With other limits than the defaults.
    pub(super) fn with(change: impl FnOnce(&mut Limits, &mut Shutdown)) -> Self {
        Self::with_epoch(EPOCH, change)
    }

    /// With an order of its own, as after a restart.
    pub(super) fn of_epoch(epoch: &str) -> Self {
        Self::with_epoch(epoch, |_, _| ())
    }

    pub(super) fn with_epoch(epoch: &str, change: impl FnOnce(&mut Limits, &mut Shutdown)) -> Self {
        catch_warnings();
        let (mut limits, mut shutdown) = (Limits::default(), Shutdown::default());
        change(&mut limits, &mut shutdown);
        let core = Core::new(Epoch(epoch.into()), limits, Memory::default(), shutdown);
        let upkeep = Scope::root();
        let mut tasks = JoinSet::new();
        tasks.spawn(reaper::run(Arc::clone(&core), upkeep.clone()));
        Self { core, upkeep, tasks, dialled: 0 }
    }

    /// A connection whose other end the server serves. `room` is what the "kernel" holds in each direction.
    pub(super) fn dial(&mut self, admin_uid: Option<u32>, room: usize) -> (Valve, Tap) {
        let (ours, tap, theirs) = pipe(room);
        self.dialled += 1;
        let peer = format!("peer {}", self.dialled);
        let core = Arc::clone(&self.core);
        // As `connection::spawn` does below the service scope.
        let token = core.service.token();
        self.tasks.spawn(async move {
            connection::run(&core, theirs, &peer, admin_uid, None).await;
            drop(token);
        });
        (ours, tap)
    }

    /// Connections made so far.
    pub(super) fn dialled(&self) -> u32 {
        self.dialled
    }

    /// A connection of the library.
    pub(super) async fn client(&mut self) -> (Client, Tap) {
        let (io, tap) = self.dial(None, 256 * 1024);
        (within(connect_io(io)).await.unwrap(), tap)
    }

    /// A connection of the library with a session on it.
    pub(super) async fn login(&mut self, user: &str, client_name: &str) -> Guest {
        let (client, tap) = self.client().await;
        let session = within(client.login(user, "", client_name)).await.unwrap();
        Guest { session, client, tap }
    }

    /// A connection of a raw HTTP/2 client.
    pub(super) async fn peer(&mut self) -> Peer {
        self.peer_with(Options::default()).await
    }

    pub(super) async fn peer_with(&mut self, options: Options) -> Peer {
        let (io, tap) = self.dial(None, options.room);
        within(Peer::new(io, tap, &options)).await
    }

    /// A raw client with a session.
    pub(super) async fn user(&mut self, user: &str) -> Peer {
        let mut peer = self.peer().await;
        peer.login(user, "").await;
        peer
    }

    /// A raw client on the admin socket.
    pub(super) async fn admin(&mut self) -> Peer {
        let options = Options::default();
        let (io, tap) = self.dial(Some(0), options.room);
        within(Peer::new(io, tap, &options)).await
    }

    /// The accounts are what a count of everything finds.
    pub(super) fn assert_accounts(&self) {
        let hub = self.core.hub();
        assert_eq!(hub.counted(), hub.recounted(), "subscriptions, control, unsent, tails, names");
    }

    /// Everything in the hub fits together and keeps to its bounds. For when nobody has anything left to do.
    pub(super) fn assert_sound(&self) {
        self.assert_accounts();
        self.core.hub().assert_sound();
    }

    /// Every recorded end, oldest first.
    pub(super) fn ended(&self) -> Vec<Ended> {
        self.core.hub().ended().newest_first().into_iter().rev().collect()
    }

    /// The one record of a stream.
    pub(super) fn stream_end(&self, number: u64) -> Ended {
        let is_it =
            |ended: &&Ended| matches!(ended.node, EndedNode::Stream { key, .. } if key.number == number);
        self.only(&format!("stream/{number}"), self.ended().iter().filter(is_it))
    }

    /// The one record of a session.
    pub(super) fn session_end(&self, id: &str) -> Ended {
        let key: SessionKey = id.parse().unwrap();
        let is_it = |ended: &&Ended| ended.node == EndedNode::Session && ended.session == key;
        self.only(id, self.ended().iter().filter(is_it))
    }

    fn only<'a>(&self, id: &str, records: impl Iterator<Item = &'a Ended>) -> Ended {
        let records: Vec<_> = records.collect();
        assert_eq!(records.len(), 1, "{id} has {} records: {records:#?}", records.len());
        records[0].clone()
    }

    /// Reasons of all ended streams in the order they ended.
    pub(super) fn stream_reasons(&self) -> Vec<EndReason> {
        let streams = self.ended().into_iter().filter(|ended| ended.node != EndedNode::Session);
        streams.map(|ended| ended.cause.reason).collect()
    }

    /// The live stream of that number.
    pub(super) fn live(&self, number: u64) -> Option<StreamKey> {
        self.core.hub().streams().find(|stream| stream.key.number == number).map(|stream| stream.key)
    }

    /// Whether a live stream was asked to end.
    pub(super) fn is_ending(&self, key: StreamKey) -> bool {
        self.core.hub().streams().any(|stream| stream.key == key && stream.scope.is_ending())
    }

    pub(super) fn has_session(&self, id: &str) -> bool {
        self.core.hub().sessions().any(|session| session.key.to_string() == id)
    }

    /// Number of the stream opened last that is live.
    pub(super) fn newest_stream(&self) -> u64 {
        self.core.hub().streams().map(|stream| stream.key.number).max().expect("a live stream")
    }

    /// Connections, sessions, streams, subscriptions.
    pub(super) fn counts(&self) -> [usize; 4] {
        let hub = self.core.hub();
        [hub.connections().count(), hub.sessions().count(), hub.streams().count(), hub.count_subscriptions()]
    }

    /// The three phases, as after SIGTERM.
    pub(super) async fn stop(&self) -> crate::daemon::Stopped {
        let cause = Cause { asked_by: "signal".into(), ..Cause::server(EndReason::ServerDraining) };
        within(shutdown::phases(&self.core, &Notifier::from_environment(&[]), &cause)).await
    }

    /// After every client is gone: the registries are empty once the leases have run out, no task of the server
    /// panicked, and nothing was logged that a human must look at.
    pub(super) async fn close(mut self) {
        settle().await;
        tokio::time::sleep(self.core.limits().lease + Duration::from_secs(300)).await;
        assert_eq!(self.counts(), [0; 4], "connections, sessions, streams, subscriptions left: {self:?}");
        assert_eq!(self.core.hub().traces(), [0; 5], "tokens, leases, cursors, ids left");
        self.assert_accounts();
        self.upkeep.end(Cause::server(EndReason::ServerDraining));
        within(async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        })
        .await;
        assert_eq!(self.core.service.running(), 0);
        let warnings = take_warnings();
        assert!(warnings.is_empty(), "{warnings:#?}");
    }
}

impl std::fmt::Debug for House {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hub = self.core.hub();
        let streams: Vec<_> = hub.streams().map(|stream| (stream.key, stream.scope.cause())).collect();
        let connections: Vec<_> = hub.connections().map(|(id, state)| (id, &state.peer)).collect();
        f.debug_struct("House")
            .field("connections", &connections)
            .field("streams", &streams)
            .field("ended", &hub.ended().newest_first())
            .finish()
    }
}

/// Until nobody has anything left to do; a millisecond passes.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Lets `seconds` pass, then settles.
pub(super) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    settle().await;
}

/// Fails instead of hanging.
pub(super) async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(HANG, work).await.expect("hung for a day")
}

/// `now - since` in milliseconds.
pub(super) fn millis_since(since: Instant) -> u128 {
    since.elapsed().as_millis()
}

/// A subscription from now on, with the default overflow.
pub(super) fn follow(topic: &str) -> v1::Subscription {
    v1::Subscription { topic: topic.to_owned(), ..Default::default() }
}

/// A subscription after a position in the order of these tests.
pub(super) fn after(topic: &str, sequence: u64) -> v1::Subscription {
    let position = v1::Position { epoch: EPOCH.to_owned(), sequence };
    let start = Some(v1::subscription::Start::After(position));
    v1::Subscription { topic: topic.to_owned(), start, ..Default::default() }
}

/// A subscription to everything the tail holds.
pub(super) fn retained(topic: &str) -> v1::Subscription {
    let start = Some(v1::subscription::Start::AllRetained(true));
    v1::Subscription { topic: topic.to_owned(), start, ..Default::default() }
}

/// The same subscription, jumping over what it is too slow for.
pub(super) fn skipping(mut subscription: v1::Subscription) -> v1::Subscription {
    subscription.set_overflow(v1::Overflow::Skip);
    subscription
}

thread_local! {
    /// What was logged at WARN and above on this thread: one test.
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Catcher;

impl log::Log for Catcher {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        // h2 has its own say about peers at WARN, which the program does not let through either.
        if self.enabled(record.metadata()) && !record.target().starts_with("h2::") {
            let line = format!("{} {}: {}", record.level(), record.target(), record.args());
            WARNINGS.with_borrow_mut(|warnings| warnings.push(line));
        }
    }

    fn flush(&self) {}
}

fn catch_warnings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if log::set_logger(&Catcher).is_ok() {
            log::set_max_level(log::LevelFilter::Warn);
        }
    });
    take_warnings();
}

/// What was logged at WARN and above since the last call.
pub(super) fn take_warnings() -> Vec<String> {
    WARNINGS.take()
}
