//! A server of the test's own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use streamward::client::{self, Admin, Client, Item, MessageStream, Session};
use streamward::wire::v1;
use tempfile::TempDir;

use crate::harness::{Finished, Program, within};

/// How often the server tells its status while one waits for a change of it.
const STATUS_EVERY: Duration = Duration::from_millis(100);

/// A running server. Its log must be quiet at the end: [`stop`](Self::stop).
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
    /// One connection for all questions, so that asking changes no count.
    pub(crate) admin: Admin,
    directory: TempDir,
}

/// What the server has written: one line per record.
#[derive(Clone, Debug)]
pub(crate) struct Log(pub(crate) Vec<String>);

impl Server {
    /// A server with the defaults.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A server with these variables in its environment.
    pub(crate) async fn with(environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Self::command(directory.path());
        command.envs(environment.iter().copied());
        Self::launch(command, directory).await
    }

    /// `streamward serve` on a free port with its admin socket in `directory`.
    pub(crate) fn command(directory: &Path) -> Command {
        let mut command = Program::streamward(["serve", "--listen", "127.0.0.1:0", "--admin-socket"]);
        command.arg(socket_in(directory));
        command
    }

    /// Starts a server and waits until it listens.
    pub(crate) async fn launch(command: Command, directory: TempDir) -> Self {
        let mut program = Program::spawn(command);
        let line = program.err.with("listening on ").await;
        let (_, rest) = line.split_once("listening on ").unwrap();
        let address = rest.split(',').next().unwrap().parse().unwrap();
        let admin =
            within("the admin socket", Box::pin(Admin::connect(&socket_in(directory.path())))).await.unwrap();
        Self { program, address, admin, directory }
    }

    /// A server on an address that no other test uses, so that it can be started there again.
    pub(crate) async fn on(address: &str, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Program::streamward(["serve", "--listen", address, "--admin-socket"]);
        command.arg(socket_in(directory.path())).envs(environment.iter().copied());
        Self::launch(command, directory).await
    }

    /// Kills it. Its address is free again.
    pub(crate) async fn killed(self) -> String {
        let address = self.address.to_string();
        self.program.signal(Signal::KILL);
        self.program.exited().await;
        address
    }

    /// Its directory, where the admin socket is.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The admin socket.
    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(self.directory())
    }

    /// A connection.
    pub(crate) async fn connect(&self) -> Client {
        let endpoint = self.address.to_string().parse().unwrap();
        within("a connection", Box::pin(client::connect(&endpoint))).await.unwrap()
    }

    /// A session on a connection of its own.
    pub(crate) async fn login(&self, user: &str) -> Session {
        within("a login", self.connect().await.login(user, "", "")).await.unwrap()
    }

    /// The status now.
    pub(crate) async fn status(&self) -> v1::ServerStatus {
        within("the status", self.admin.status()).await.unwrap()
    }

    /// The first status of which this holds.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&v1::ServerStatus) -> bool,
    ) -> v1::ServerStatus {
        let mut last = None;
        let wait = async {
            let mut statuses = self.admin.watch(STATUS_EVERY).await.unwrap();
            loop {
                let status = statuses.next().await.unwrap().expect("the server goes on");
                if holds(&status) {
                    return status;
                }
                last = Some(status);
            }
        };
        match tokio::time::timeout(super::PATIENCE, wait).await {
            Ok(status) => status,
            Err(_) => panic!("waited for {what}; last seen: {last:?}"),
        }
    }

    /// Runs a client command against this server.
    pub(crate) async fn run(&self, args: &[&str]) -> Finished {
        self.spawn(args).exited().await
    }

    /// Starts a client command that talks to this server's port.
    pub(crate) fn spawn(&self, args: &[&str]) -> Program {
        let mut command = Program::streamward(args.iter().copied());
        command
            .env("STREAMWARD_SERVER", self.address.to_string())
            .env("STREAMWARD_SERVER_ADMIN_SOCKET", self.socket());
        Program::spawn(command)
    }

    /// A file of `/proc/<pid>/`.
    pub(crate) fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.program.id())).unwrap()
    }

    /// A number of `/proc/<pid>/status`.
    pub(crate) fn proc_status(&self, key: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.program.id())).unwrap().count()
    }

    /// CPU time used so far, in seconds: user and system, in the hundredths that Linux counts in.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = self.proc("stat");
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        ticks as f64 / 100.0
    }

    /// Sends SIGTERM and waits for its end.
    pub(crate) async fn terminate(self) -> (Finished, Log) {
        self.program.signal(Signal::TERM);
        self.exited().await
    }

    /// Waits for its end.
    pub(crate) async fn exited(self) -> (Finished, Log) {
        let finished = self.program.exited().await;
        let log = Log(finished.err.lines().map(ToOwned::to_owned).collect());
        (finished, log)
    }

    /// Stops it: it drains, exits with 0 and had nothing to complain about.
    pub(crate) async fn stop(self) {
        let (finished, log) = self.terminate().await;
        log.expect_complaints(&[]);
        finished.expect(0);
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("admin.sock")
}

impl Log {
    /// Every WARN and ERROR, and every panic, contains one of `expected`, and each of these was found.
    #[track_caller]
    pub(crate) fn expect_complaints(&self, expected: &[&str]) {
        let is_complaint =
            |line: &&String| [" WARN ", " ERROR ", "panicked"].iter().any(|word| line.contains(word));
        let complaints: Vec<_> = self.0.iter().filter(is_complaint).collect();
        for line in &complaints {
            assert!(expected.iter().any(|text| line.contains(text)), "unexpected: {line}");
        }
        for text in expected {
            assert!(complaints.iter().any(|line| line.contains(text)), "no {text:?} in {complaints:?}");
        }
    }

    /// How many lines contain `needle`.
    pub(crate) fn count(&self, needle: &str) -> usize {
        self.0.iter().filter(|line| line.contains(needle)).count()
    }
}

/// What is published from now on.
pub(crate) fn subscription(topic: &str) -> v1::Subscription {
    v1::Subscription { topic: topic.to_owned(), ..Default::default() }
}

/// A stream that follows the topic: the server has said so.
pub(crate) async fn follow(session: &Session, topic: &str) -> MessageStream {
    let mut stream = within("a stream", session.subscribe(vec![subscription(topic)])).await.unwrap();
    following(&mut stream).await;
    stream
}

/// Reads up to the word that a subscription is live.
pub(crate) async fn following(stream: &mut MessageStream) {
    match within("the word that a subscription is live", stream.next()).await {
        Ok(Item::Subscribed(_)) => {}
        other => panic!("{other:?}"),
    }
}
