//! A hub that is killed again and again, as programs that use the library see it.

use std::collections::HashSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use streamward::base::topic::Topic;
use streamward::client::{
    self, Credentials, Delivery, HandlerError, Message, Pipeline, PipelineConfig, Publisher, Stopping, Target,
};
use streamward::wire::v1;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{PATIENCE, Program, Server, within};

const PIPELINES: usize = 20;
const PUBLISHERS: usize = 2;
const ROOM: &str = "room/crowd";
/// One life of the hub.
const LIFE: Duration = Duration::from_secs(2);

type Dialled = Arc<Mutex<Vec<Instant>>>;

/// A pipeline as a program would have it, with shorter waits: the hub never lives for a minute.
fn pipeline(server: &Server, user: &str, dialled: &Dialled) -> Pipeline {
    let endpoint: client::Endpoint = server.address.to_string().parse().unwrap();
    let credentials = Credentials::User { user: user.to_owned(), password: String::new() };
    let mut config = PipelineConfig::new(endpoint.clone(), credentials);
    config.backoff.first = Duration::from_millis(200);
    config.backoff.max = Duration::from_secs(1);
    let dialled = Arc::clone(dialled);
    Pipeline::over(config, move || {
        dialled.lock().unwrap().push(Instant::now());
        let endpoint = endpoint.clone();
        async move { client::connect(&endpoint).await }
    })
    .unwrap()
}

/// What one task was given, checked as it comes. All publishes go to one topic, so a hub's sequences have no holes.
#[derive(Default)]
struct Ledger {
    through: Option<u64>,
    events: u64,
    epochs: u64,
    gaps: u64,
}

impl Ledger {
    fn take(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Event(event) => {
                if let Some(through) = self.through {
                    assert_eq!(event.sequence, through + 1, "twice, or lost without a word");
                }
                self.through = Some(event.sequence);
                self.events += 1;
            }
            Delivery::Gap(gap) if gap.reason() == v1::GapReason::EpochChanged => {
                self.through = Some(gap.to_sequence);
                self.epochs += 1;
            }
            Delivery::Gap(gap) => {
                assert_eq!(Some(gap.from_sequence), self.through.map(|through| through + 1), "{gap:?}");
                self.through = Some(gap.to_sequence);
                self.gaps += 1;
            }
        }
    }
}

/// Follows the room; says when it has heard the end. A broken rule fails the handler, and so ends the task.
fn follow(pipeline: &Pipeline, done: &watch::Sender<usize>) -> Arc<Mutex<Ledger>> {
    let ledger = Arc::<Mutex<Ledger>>::default();
    let (mine, done) = (Arc::clone(&ledger), done.clone());
    let handler = move |batch: client::Batch, _: Stopping| {
        let mut ledger = mine.lock().unwrap();
        for delivery in &batch.deliveries {
            ledger.take(delivery);
            if matches!(delivery, Delivery::Event(event) if &event.payload[..] == b"the end") {
                done.send_modify(|count| *count += 1);
            }
        }
        std::future::ready(Ok::<(), HandlerError>(()))
    };
    pipeline.start("crowd", [Target::new(Topic::parse(ROOM).unwrap())], handler).unwrap();
    ledger
}

/// Publishes until it is told to stop; how many were confirmed, and how many not.
async fn chatter(publisher: Publisher, mut stop: watch::Receiver<bool>) -> (u64, u64) {
    let (mut confirmed, mut unknown) = (0, 0);
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        match publisher.publish(Message::text(ROOM, &format!("number {number}"))).await {
            Ok(_) => confirmed += 1,
            Err(_) => unknown += 1,
        }
        // A pace, not a wait.
        let _ = tokio::time::timeout(Duration::from_millis(10), stop.changed()).await;
    }
    (confirmed, unknown)
}

/// Another hub at the same address.
async fn again(server: Server) -> Server {
    let address = server.address.to_string();
    server.program.signal(Signal::KILL);
    server.exited().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let command =
        Program::streamward(["serve", "--listen", &address, "--admin-socket", socket.to_str().unwrap()]);
    Server::launch(command, directory).await
}

/// Sockets of this process that are connected to the port.
fn sockets_to(port: u16) -> usize {
    let links =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mine: HashSet<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let is_to_hub = |fields: &Vec<&str>| fields[2].ends_with(&format!(":{port:04X}"));
    let rows =
        table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(is_to_hub);
    rows.filter(|fields| mine.contains(&format!("socket:[{}]", fields[9]))).count()
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Until nothing is left of the pipelines in this process.
async fn until_nothing_left(port: u16, tasks: usize) {
    let deadline = Instant::now() + PATIENCE;
    while sockets_to(port) > 0 || alive_tasks() > tasks {
        let left = (sockets_to(port), alive_tasks());
        assert!(Instant::now() < deadline, "left: {left:?} sockets and tasks, {tasks} tasks before");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Most of these within any one second.
fn most_in_a_second(times: &[Instant]) -> usize {
    let in_second =
        |from: &Instant| times.iter().filter(|at| **at >= *from && **at < *from + LIFE / 2).count();
    times.iter().map(in_second).max().unwrap_or_default()
}

async fn kill_for(seconds: u64) {
    let mut server = Server::start().await;
    let port = server.address.port();
    let tasks = alive_tasks();
    let dialled = Dialled::default();
    let (done, mut heard) = watch::channel(0);
    let pipelines: Vec<_> =
        (0..PIPELINES).map(|number| pipeline(&server, &format!("user{number}"), &dialled)).collect();
    let ledgers: Vec<_> = pipelines.iter().map(|pipeline| follow(pipeline, &done)).collect();
    server.until("all to follow", |status| status.subscriptions as usize == PIPELINES).await;
    let speakers: Vec<_> =
        (0..PUBLISHERS).map(|number| pipeline(&server, &format!("speaker{number}"), &dialled)).collect();
    let (stop, stopped) = watch::channel(false);
    let mut chatting = JoinSet::new();
    for speaker in &speakers {
        chatting.spawn(chatter(speaker.publisher(), stopped.clone()));
    }
    let (until, mut lives, mut logins) = (Instant::now() + Duration::from_secs(seconds), 1, 0);
    while Instant::now() < until {
        tokio::time::sleep(LIFE).await;
        logins += server.status().await.logins;
        server = again(server).await;
        lives += 1;
    }
    stop.send_replace(true);
    let (mut confirmed, mut unknown) = (0, 0);
    while let Some(counts) = within("the speakers", chatting.join_next()).await {
        let (more_confirmed, more_unknown) = counts.unwrap();
        (confirmed, unknown) = (confirmed + more_confirmed, unknown + more_unknown);
    }
    within("the last word", speakers[0].publish(Message::text(ROOM, "the end"))).await.unwrap();
    within("all to hear it", heard.wait_for(|count| *count >= PIPELINES)).await.unwrap();
    let dialled = dialled.lock().unwrap().clone();
    let most = most_in_a_second(&dialled);
    let ledgers: Vec<_> = ledgers.iter().map(|ledger| ledger.lock().unwrap()).collect();
    let sum = |of: fn(&Ledger) -> u64| ledgers.iter().map(|ledger| of(ledger)).sum::<u64>();
    println!(
        "{lives} hubs in {seconds} s, {PIPELINES} tasks: {confirmed} publishes confirmed, {unknown} not; {} events handled, \
         {} epoch gaps, {} other gaps; {} connects, at most {most} in a second; {logins} logins",
        sum(|ledger| ledger.events),
        sum(|ledger| ledger.epochs),
        sum(|ledger| ledger.gaps),
        dialled.len(),
    );
    assert!(sum(|ledger| ledger.epochs) >= PIPELINES as u64, "nobody noticed");
    // One at once and one by backoff for each pipeline: with the hub's life as short as a wait they may meet.
    assert!(most <= 3 * (PIPELINES + PUBLISHERS), "{most} connects in one second");
    let each = dialled.len() / (PIPELINES + PUBLISHERS);
    assert!(each as u64 <= 5 * lives, "{each} connects of each pipeline in {lives} lives");
    drop(ledgers);
    for pipeline in pipelines.into_iter().chain(speakers) {
        let report = within("a shutdown", pipeline.shutdown(Duration::from_secs(10))).await;
        assert_eq!(report.forced, [""; 0]);
    }
    until_nothing_left(port, tasks).await;
    assert_eq!(server.status().await.sessions, 0, "all logged out");
    server.stop().await;
}

#[tokio::test]
async fn a_hub_that_dies_every_two_seconds_loses_nothing_without_a_word_and_is_not_stormed() {
    let seconds = std::env::var("STREAMWARD_RESTARTS_SECONDS").ok().and_then(|text| text.parse().ok());
    Box::pin(kill_for(seconds.unwrap_or(20))).await;
}
