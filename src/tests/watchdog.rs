//! The watchdog: a ping says that every part has answered, and a part that does not is named.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;

use super::house::{House, pass, settle, take_warnings};
use crate::base::limits::{Limits, Shutdown};
use crate::daemon::systemd::Notifier;
use crate::daemon::{reaper, watchdog};
use crate::runtime::phase::Phase;
use crate::runtime::scope::Scope;
use crate::server::Core;
use crate::server::accept;

const PING: &str = "WATCHDOG=1";
/// What systemd waits; the watchdog acts twice in it.
const WATCHDOG_USEC: &str = "60000000";
const INTERVAL_S: u64 = 30;

/// A server whose watchdog talks to the test. Sends on the manager's socket are done when they return, so the paused
/// clock does no harm.
struct Watched {
    house: House,
    manager: UnixDatagram,
    directory: TempDir,
    tasks: JoinSet<()>,
}

impl Watched {
    fn new() -> Self {
        Self::with(|_, _| ())
    }

    fn with(change: impl FnOnce(&mut Limits, &mut Shutdown)) -> Self {
        let house = House::with(change);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", WATCHDOG_USEC)];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let notifier = Notifier::from_environment(&variables);
        let core = Arc::clone(&house.core);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match watchdog::run(&core, &notifier).await {} });
        Self { house, manager, directory, tasks }
    }

    fn core(&self) -> Arc<Core> {
        Arc::clone(&self.house.core)
    }

    /// Both listeners, not yet served.
    async fn listeners(&self) -> [accept::Listener; 2] {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let unix = UnixListener::bind(self.directory.path().join("admin")).unwrap();
        [accept::Listener::Tcp(tcp), accept::Listener::Unix(unix)]
    }

    /// All that was said since the last call.
    fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            match self.manager.recv(&mut buffer) {
                Ok(length) => heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return heard,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next interval brings exactly one ping and names nobody.
    async fn expect_ping(&self) {
        pass(INTERVAL_S).await;
        let heard = self.heard();
        let pings = heard.iter().filter(|message| *message == PING);
        assert_eq!(pings.count(), 1, "{heard:?}");
        assert!(!heard.iter().any(|message| message.contains("no answer")), "{heard:?}");
    }

    /// The next interval brings no ping and names these.
    async fn expect_stale(&self, names: &str) {
        pass(INTERVAL_S).await;
        assert_eq!(self.heard(), [format!("STATUS=running, no answer from: {names}")]);
    }
}

#[tokio::test(start_paused = true)]
async fn while_every_part_answers_each_interval_brings_one_ping() {
    let mut watched = Watched::new();
    for listener in watched.listeners().await {
        watched.tasks.spawn(accept::run(watched.core(), listener));
    }
    // The first question was asked as the watchdog began.
    pass(INTERVAL_S / 2).await;
    assert_eq!(watched.heard(), [PING, "STATUS=running, sessions: 0, streams: 0"]);
    for _ in 0..100 {
        watched.expect_ping().await;
    }
    assert_eq!(take_warnings(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn each_part_that_never_runs_is_named_and_no_ping_goes() {
    let watched = Watched::new();
    pass(INTERVAL_S / 2).await;
    watched.heard();
    let [tcp, unix] = watched.listeners().await;
    let acceptor = accept::run(watched.core(), tcp);
    watched.expect_stale("acceptor").await;
    drop(acceptor);
    watched.expect_ping().await;
    let acceptor = accept::run(watched.core(), unix);
    watched.expect_stale("admin acceptor").await;
    let reaper = reaper::run(watched.core(), Scope::root());
    watched.expect_stale("admin acceptor, reaper").await;
    drop(acceptor);
    watched.expect_stale("reaper").await;
    drop(reaper);
    watched.expect_ping().await;
    let errors = take_warnings();
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert!(errors.iter().all(|error| error.starts_with("ERROR")), "{errors:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_stays_silent_is_logged_once_and_pings_come_back_with_its_answer() {
    let mut watched = Watched::new();
    let mut silent = watched.core().ledger.part("monitor");
    pass(INTERVAL_S / 2).await;
    watched.heard();
    for _ in 0..10 {
        watched.expect_stale("monitor").await;
    }
    let errors = take_warnings();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].contains("no answer to the watchdog from: monitor;"), "{errors:#?}");
    watched.tasks.spawn(async move { silent.during(std::future::pending()).await });
    for _ in 0..10 {
        watched.expect_ping().await;
    }
    assert_eq!(take_warnings(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_that_waits_for_a_permit_answers() {
    let mut watched = Watched::with(|limits, _| {
        limits.connections_max = 1;
        limits.handshake_timeout = std::time::Duration::from_secs(3600);
    });
    let [tcp, _unix] = watched.listeners().await;
    let accept::Listener::Tcp(listener) = &tcp else { unreachable!() };
    let address = listener.local_addr().unwrap();
    watched.tasks.spawn(accept::run(watched.core(), tcp));
    let _client = TcpStream::connect(address).await.unwrap();
    // Connected in the kernel already: the acceptor finds it at its next turn.
    while watched.core().service.running() == 0 {
        settle().await;
    }
    pass(INTERVAL_S / 2).await;
    watched.heard();
    for _ in 0..10 {
        watched.expect_ping().await;
    }
    assert_eq!(watched.core().service.running(), 1, "the connection still holds the only permit");
}

#[tokio::test(start_paused = true)]
async fn pings_go_on_through_the_phases_of_stopping_and_who_ended_on_purpose_is_not_missed() {
    let mut watched = Watched::new();
    for listener in watched.listeners().await {
        watched.tasks.spawn(accept::run(watched.core(), listener));
    }
    pass(INTERVAL_S / 2).await;
    watched.heard();
    for (phase, tasks) in [(Phase::Refusing, 2), (Phase::Draining, 2), (Phase::Aborting, 1)] {
        watched.core().phase.advance(phase);
        watched.expect_ping().await;
        while watched.tasks.try_join_next().is_some() {}
        assert_eq!(
            watched.tasks.len(),
            tasks,
            "{phase:?}: the watchdog, and the admin socket until the abort"
        );
    }
    assert_eq!(take_warnings(), [""; 0]);
}
