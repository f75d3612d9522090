//! What systemd hears: ready, alive, and how far the stop is.

use std::path::Path;

use rustix::process::Signal;
use streamward::base::reason::EndReason;
use streamward::client::Item;
use streamward::wire::v1::Phase;
use tokio::net::{TcpStream, UnixDatagram};

use crate::descriptors::bound_descriptors;
use crate::harness::{Deaf, Server, follow, within};

/// A service manager's end of the notification socket.
pub(crate) struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    pub(crate) fn new(path: &Path) -> Self {
        Self { socket: UnixDatagram::bind(path).unwrap(), heard: Vec::new() }
    }

    /// The next message that begins so.
    pub(crate) async fn hears(&mut self, beginning: &str) -> String {
        within(beginning, async {
            loop {
                let message = self.receive().await;
                if message.starts_with(beginning) {
                    return message;
                }
            }
        })
        .await
    }

    async fn receive(&mut self) -> String {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).await.unwrap();
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        self.heard.push(message.clone());
        message
    }
}

#[tokio::test]
async fn ready_comes_once_clients_can_connect_and_then_the_watchdog_is_fed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let mut manager = Manager::new(&path);
    let mut command = Server::command(directory.path());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let program = crate::harness::Program::spawn(command);
    let ready = manager.hears("READY=1").await;
    assert_eq!(manager.heard.len(), 1, "nothing before it: {:?}", manager.heard);
    let address = ready.strip_prefix("READY=1\nSTATUS=listening on ").unwrap();
    let client = streamward::client::connect(&address.parse().unwrap()).await.unwrap();
    let session = client.login("anna", "", "").await.unwrap();
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    manager.hears("STATUS=running, sessions: 1").await;
    session.logout().await.unwrap();
    program.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    program.exited().await.expect(0);
}

#[tokio::test]
async fn a_drain_is_told_and_the_watchdog_fed_but_a_stuck_one_buys_no_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let mut manager = Manager::new(&path);
    let mut command = Server::command(directory.path());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .env("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "10m");
    let server = Server::launch(command, directory).await;
    let session = server.login("deaf").await;
    let deaf = Deaf::follow(server.address, &session, "room/a").await;
    session.publish("room/a", "owed", "", "").await.unwrap();
    server.program.signal(Signal::TERM);
    manager.hears("STOPPING=1").await;
    manager.hears("STATUS=draining 1/1 streams").await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    assert_eq!(server.status().await.phase(), Phase::Draining);
    let unanswered = manager.heard.iter().filter(|message| message.contains("no answer"));
    assert_eq!(unanswered.count(), 0, "the acceptor has ended, nobody is missing: {:?}", manager.heard);
    let extended = manager.heard.iter().filter(|message| message.starts_with("EXTEND_TIMEOUT_USEC="));
    assert_eq!(extended.count(), 0, "nothing moves: {:?}", manager.heard);
    server.program.signal(Signal::TERM);
    deaf.ended().await;
    let (finished, _) = server.exited().await;
    finished.expect(75);
}

#[tokio::test]
async fn an_acceptor_that_backs_off_answers_the_watchdog() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let mut manager = Manager::new(&path);
    let mut command = Server::command(directory.path());
    // Asked every 100 ms; the acceptor sleeps 200 ms after an error.
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let server = Server::launch(command, directory).await;
    bound_descriptors(&server, 1);
    let mut crowd = Vec::new();
    for _ in 0..4 {
        crowd.push(within("a connection", TcpStream::connect(server.address)).await.unwrap());
    }
    let first = server.until("an accept error", |status| status.accept_errors > 0).await.accept_errors;
    manager.heard.clear();
    for _ in 0..10 {
        manager.hears("WATCHDOG=1").await;
    }
    server.until("another error", |status| status.accept_errors > first).await;
    let unanswered = manager.heard.iter().filter(|message| message.contains("no answer"));
    assert_eq!(unanswered.count(), 0, "{:?}", manager.heard);
    drop(crowd);
    let (finished, log) = server.terminate().await;
    log.expect_complaints(&["cannot accept connections: "]);
    finished.expect(0);
}

#[tokio::test]
async fn a_slow_follower_that_reads_on_gets_everything_and_buys_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let mut manager = Manager::new(&path);
    let mut command = Server::command(directory.path());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("STREAMWARD_SHUTDOWN_DRAIN_TIMEOUT", "10m")
        .env("STREAMWARD_LIMITS_LAG_BYTES_MAX", "4MiB")
        .env("STREAMWARD_LIMITS_TAIL_BYTES_MAX", "4MiB");
    let server = Server::launch(command, directory).await;
    let session = server.login("slow").await;
    let mut stream = follow(&session, "room/a").await;
    // Several times its window, and it does not read yet.
    for _ in 0..20 {
        within("a receipt", session.publish("room/a", vec![b'x'; 32 * 1024], "", "")).await.unwrap();
    }
    server.program.signal(Signal::TERM);
    manager.hears("STATUS=draining 1/1 streams").await;
    let mut events = 0;
    let end = loop {
        match within("the rest", stream.next()).await {
            Ok(Item::Event(_)) => events += 1,
            Ok(Item::Draining { .. }) => {}
            Ok(item) => panic!("{item:?}"),
            Err(end) => break end,
        }
    };
    assert_eq!((events, end.reason), (20, Some(EndReason::ServerDraining)));
    manager.hears("EXTEND_TIMEOUT_USEC=").await;
    let (finished, log) = server.exited().await;
    log.expect_complaints(&[]);
    finished.expect(0);
}
