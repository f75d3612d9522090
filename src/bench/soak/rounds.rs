//! Many whole lives, and many that are cut short.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use streamward::base::reason::EndReason;
use streamward::wire::ended::end_details;
use streamward::wire::v1;
use streamward::wire::v1::{client_frame, notice};
use tokio::task::JoinSet;
use tonic::Code;

use crate::SoakError;
use crate::dice::Dice;
use crate::peer::{Dial, Failure, Peer, Stream, within};
use crate::procfs;
use crate::samples::{self, Sample, Samples};
use crate::server::{Server, Settings};
use crate::verdict::{Verdict, mib};
use crate::wire::Cut;

/// Sessions left without a logout end this soon.
const LEASE: Duration = Duration::from_secs(3);
/// What memory may grow by at least, whatever a tenth of it is.
const GROWTH_BYTES: u64 = 1 << 20;
/// Publishes of one round at most.
const PUBLISHES_MAX: usize = 8;
/// Bytes of a payload at most.
const PAYLOAD_BYTES_MAX: usize = 2048;
/// A cut falls on one of these first bytes of what a client says.
const CUT_BYTES_MAX: usize = 1500;
/// How often the run looks how far it is, and every how many times it says so.
const TICK: Duration = Duration::from_millis(100);
const TICKS_TOLD: u64 = 100;
/// Failures told in full.
const FAILURES_TOLD: usize = 5;

/// Options of `rounds`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds in all
    #[arg(long, default_value_t = 100_000)]
    rounds: u64,
    /// Clients at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=250))]
    clients: u16,
    /// Of what the rounds do and where they are cut
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The streamward program
    #[arg(long, default_value = env!("CARGO_BIN_EXE_streamward"))]
    server: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What a round does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Whole,
    Unary,
    HalfClosed,
    Cancelled,
    TakenOver,
    NoLogout,
    Cut,
}

/// Shared by all clients.
struct Run {
    addr: SocketAddr,
    seed: u64,
    rounds: u64,
    next: Cell<u64>,
    whole: Cell<u64>,
    cut: Cell<u64>,
    heard: Cell<u64>,
    failures: RefCell<Vec<String>>,
    failed: Cell<u64>,
}

/// What the server held and said.
struct Seen {
    samples: Vec<Sample>,
    /// Which of them were taken while the rounds ran, after the first tenth of them.
    flat: std::ops::Range<usize>,
    descriptors_before: usize,
    descriptors: usize,
    connections_before: u32,
    left: v1::ServerStatus,
    cpu_us_per_round: f64,
    complaints: Vec<String>,
    stopped: Option<ExitStatus>,
}

/// Runs the rounds, prints what was seen and returns whether every rule held.
pub(crate) async fn run(
    options: Options,
    out: &mut dyn Write,
    log: &mut dyn Write,
) -> Result<bool, SoakError> {
    let server = Server::start(&options.server, &settings(), None).await?;
    let run = Rc::new(Run {
        addr: server.addr,
        seed: options.seed,
        rounds: options.rounds,
        next: Cell::new(0),
        whole: Cell::new(0),
        cut: Cell::new(0),
        heard: Cell::new(0),
        failures: RefCell::default(),
        failed: Cell::new(0),
    });
    let seen = play(server, &run, options.clients, log).await?;
    let verdict = judge(&run, &seen, options.clients);
    let (rounds, cut) = (run.whole.get() + run.cut.get(), run.cut.get());
    if options.json {
        let result = json!({
            "soak": "rounds", "seed": run.seed, "rounds": rounds, "cut": cut,
            "server_cpu_us_per_round": seen.cpu_us_per_round,
            "held": verdict.holds(), "rules": verdict.json(), "samples": samples::json(&seen.samples),
        });
        writeln!(out, "{result}")?;
    } else {
        samples::print(&seen.samples, out)?;
        let Run { seed, .. } = *run;
        let cpu_us = seen.cpu_us_per_round;
        writeln!(out, "\n{rounds} rounds ({cut} cut), seed {seed}, {cpu_us:.0} µs of server CPU each")?;
        verdict.print(out)?;
    }
    Ok(verdict.holds())
}

/// All rounds, and then until the server is as it was, or long enough.
async fn play(
    mut server: Server,
    run: &Rc<Run>,
    clients: u16,
    log: &mut dyn Write,
) -> Result<Seen, SoakError> {
    let before = server.admin.status().await?;
    let descriptors_before = procfs::held(server.pid())?.descriptors;
    let samples = Samples::default();
    let mut watcher = JoinSet::new();
    watcher.spawn_local(samples::watch(server.pid(), server.admin.clone(), Rc::clone(&samples)));
    let mut playing = JoinSet::new();
    for client in 1..=clients {
        playing.spawn_local(live(Rc::clone(run), client));
    }
    let warm_at = progress(run, &samples, &mut playing, log).await?;
    let flat = warm_at..samples.borrow().len();
    if let Some(status) = server.ended()? {
        return Err(format!("the server ended with {status}").into());
    }
    let is_quiet = |status: &v1::ServerStatus| is_quiet(status, before.connections);
    let left = server.until(LEASE + Duration::from_secs(60), is_quiet).await?;
    let cpu_ns = procfs::cpu_ns(server.pid())?;
    let descriptors = procfs::held(server.pid())?.descriptors;
    watcher.abort_all();
    Ok(Seen {
        samples: samples.take(),
        flat,
        descriptors_before,
        descriptors,
        connections_before: before.connections,
        left,
        cpu_us_per_round: cpu_ns as f64 / 1e3 / run.rounds.max(1) as f64,
        complaints: server.complaints(),
        stopped: server.stop().await?,
    })
}

fn is_quiet(status: &v1::ServerStatus, connections: u32) -> bool {
    status.connections <= connections && (status.sessions, status.streams, status.subscriptions) == (0, 0, 0)
}

fn judge(run: &Run, seen: &Seen, clients: u16) -> Verdict {
    let Seen { samples, left, descriptors, descriptors_before, complaints, stopped, .. } = seen;
    let mut verdict = Verdict::default();
    judge_memory(&mut verdict, &samples[seen.flat.clone()]);
    verdict.rule(
        "descriptors are back",
        descriptors <= descriptors_before,
        format!("{descriptors_before} before, {descriptors} after"),
    );
    verdict.rule(
        "connections, sessions, streams and subscriptions are back to none",
        is_quiet(left, seen.connections_before),
        format!(
            "{}, {}, {}, {}",
            left.connections.saturating_sub(seen.connections_before),
            left.sessions,
            left.streams,
            left.subscriptions
        ),
    );
    let topics = left.topics;
    verdict.rule("no more topics than were named", topics <= u32::from(clients), topics.to_string());
    let threads = samples::threads(samples);
    verdict.rule("one thread", threads == 1, threads.to_string());
    let (heard, failed, failures) = (run.heard.get(), run.failed.get(), run.failures.borrow());
    verdict.rule(
        "every stream got what was published",
        failed == 0 && heard > 0,
        format!("{heard} events, {failed} rounds went wrong {failures:?}"),
    );
    verdict.rule("nothing in the log calls for a human", complaints.is_empty(), format!("{complaints:?}"));
    let is_stopped = stopped.is_some_and(|status| status.success());
    verdict.rule(
        "it stops when asked",
        is_stopped,
        stopped.map_or("killed".to_owned(), |status| status.to_string()),
    );
    verdict
}

fn settings() -> Settings {
    let lease = |part| format!("{}ms", LEASE.as_millis() / part);
    vec![
        ("LIMITS_CONNECTIONS_MAX", "4096".to_owned()),
        ("LIMITS_CONNECTIONS_PER_IP_MAX", "4096".to_owned()),
        ("LIMITS_SESSIONS_MAX", "16384".to_owned()),
        ("LIMITS_SESSIONS_PER_USER_MAX", "16384".to_owned()),
        ("LIMITS_LEASE", lease(1)),
        ("LIMITS_HEARTBEAT_INTERVAL", lease(3)),
        ("MEMORY_BUDGET_BYTES", "1GiB".to_owned()),
    ]
}

/// Waits for the last round and tells how it goes; returns how many samples belong to the first tenth.
async fn progress(
    run: &Run,
    samples: &Samples,
    clients: &mut JoinSet<()>,
    log: &mut dyn Write,
) -> Result<usize, SoakError> {
    let mut warm_at = None;
    let mut ticks = tokio::time::interval(TICK);
    for tick in 1_u64.. {
        let done = run.whole.get() + run.cut.get();
        if done >= run.rounds / 10 {
            warm_at.get_or_insert_with(|| samples.borrow().len());
        }
        while let Some(ended) = clients.try_join_next() {
            ended?;
        }
        if clients.is_empty() {
            break;
        }
        if tick % TICKS_TOLD == 0 {
            writeln!(log, "{done} of {} rounds", run.rounds)?;
        }
        ticks.tick().await;
    }
    Ok(warm_at.unwrap_or_default())
}

/// Memory is flat: the most of the last quarter is about the most of the second.
fn judge_memory(verdict: &mut Verdict, samples: &[Sample]) {
    let quarter = samples.len() / 4;
    let (second, last) =
        (samples::peak(&samples[quarter..2 * quarter]), samples::peak(&samples[3 * quarter..]));
    let most = second + (second / 10).max(GROWTH_BYTES);
    let seen = format!("at most {} in the second quarter, {} in the last", mib(second), mib(last));
    verdict.rule("memory is flat", quarter > 0 && last <= most, seen);
}

/// One client, round after round.
async fn live(run: Rc<Run>, client: u16) {
    loop {
        let round = run.next.get();
        if round >= run.rounds {
            return;
        }
        run.next.set(round + 1);
        let mut dice = Dice::new(run.seed, u64::from(client), round);
        let kind = kind(&mut dice);
        let cut = matches!(kind, Kind::Cut).then(|| {
            let how = [Cut::Close, Cut::Reset, Cut::Half][dice.below(3)];
            // The preface deserves its share.
            let within_bytes = [24, 100, CUT_BYTES_MAX][dice.below(3)];
            (dice.below(within_bytes), how)
        });
        let mut client = Client { run: &run, number: client, round, dice, kind, cut };
        match Box::pin(client.round()).await {
            Ok(heard) => {
                run.heard.set(run.heard.get() + heard);
                run.whole.set(run.whole.get() + 1);
            }
            Err(_) if cut.is_some() => run.cut.set(run.cut.get() + 1),
            Err(failure) => {
                run.failed.set(run.failed.get() + 1);
                run.whole.set(run.whole.get() + 1);
                if run.failures.borrow().len() < FAILURES_TOLD {
                    run.failures.borrow_mut().push(format!("round {round}, {kind:?}: {failure}"));
                }
            }
        }
    }
}

fn kind(dice: &mut Dice) -> Kind {
    match dice.below(100) {
        0..50 => Kind::Whole,
        50..58 => Kind::Unary,
        58..65 => Kind::HalfClosed,
        65..73 => Kind::Cancelled,
        73..78 => Kind::TakenOver,
        78..83 => Kind::NoLogout,
        _ => Kind::Cut,
    }
}

struct Client<'a> {
    run: &'a Run,
    number: u16,
    round: u64,
    dice: Dice,
    kind: Kind,
    cut: Option<(usize, Cut)>,
}

impl Client<'_> {
    fn dial(&self) -> Dial {
        let host = self.number.to_be_bytes()[1];
        Dial {
            to: self.run.addr,
            from: Ipv4Addr::new(127, 0, 1, host),
            window_bytes: 1 << 20,
            receive_buffer_bytes: None,
            cut: self.cut,
        }
    }

    fn names(&self) -> (String, String, String) {
        let user = format!("client{}", self.number);
        let client_name =
            if matches!(self.kind, Kind::TakenOver) { format!("name{}", self.round) } else { String::new() };
        (format!("room/{user}"), user, client_name)
    }

    /// One life; returns how many events were heard.
    async fn round(&mut self) -> Result<u64, Failure> {
        let (topic, user, client_name) = self.names();
        let mut peer = Peer::connect(self.dial()).await?;
        peer.log_in(&user, &client_name).await?;
        let mut stream = if matches!(self.kind, Kind::Unary) {
            let mut stream = peer.open("MessageService/Subscribe").await?;
            let subscription = v1::Subscription { topic: topic.clone(), ..Default::default() };
            stream.send(&v1::SubscribeRequest { subscriptions: vec![subscription] }, true)?;
            stream
        } else {
            let mut stream = peer.open("MessageService/Connect").await?;
            stream.frame(client_frame::Kind::Subscribe(v1::Subscription {
                topic: topic.clone(),
                ..Default::default()
            }))?;
            stream
        };
        within("word that the subscription is live", following(&mut stream)).await?;
        let payloads = self.payloads();
        for payload in &payloads {
            self.publish(&mut peer, &mut stream, &topic, payload).await?;
        }
        let receipts = if matches!(self.kind, Kind::Unary) { 0 } else { payloads.len() };
        if matches!(self.kind, Kind::HalfClosed) {
            // What was asked for before is delivered; then the stream completes.
            stream.half_close()?;
        }
        if matches!(self.kind, Kind::Cancelled) && self.dice.below(2) == 0 {
            stream.cancel();
            peer.log_out().await?;
            return Ok(0);
        }
        within("what was published", self.hear(&mut stream, &payloads, receipts)).await?;
        self.leave(peer, stream, &user, &client_name).await?;
        Ok(payloads.len() as u64)
    }

    /// Each says in its first bytes which round it belongs to.
    fn payloads(&mut self) -> Vec<Vec<u8>> {
        let count = 1 + self.dice.below(PUBLISHES_MAX);
        let mut payloads = Vec::new();
        for number in 0..count {
            let length = 9 + self.dice.below(PAYLOAD_BYTES_MAX);
            let mut payload = self.round.to_be_bytes().to_vec();
            payload.resize(length, b'a' + u8::try_from(number).unwrap_or_default());
            payloads.push(payload);
        }
        payloads
    }

    async fn publish(
        &self,
        peer: &mut Peer,
        stream: &mut Stream,
        topic: &str,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let payload = payload.to_vec().into();
        if matches!(self.kind, Kind::Unary) {
            let request = v1::PublishRequest { topic: topic.to_owned(), payload, ..Default::default() };
            let answer: v1::PublishResponse = peer.unary("MessageService/Publish", &request).await?;
            return if answer.sequence > 0 { Ok(()) } else { Err(broken("a publish without a sequence")) };
        }
        let publish = v1::Publish { topic: topic.to_owned(), payload, ..Default::default() };
        stream.frame(client_frame::Kind::Publish(publish))
    }

    /// Reads until every payload and receipt has come, in order.
    async fn hear(&self, stream: &mut Stream, payloads: &[Vec<u8>], receipts: usize) -> Result<(), Failure> {
        let (mut heard, mut received, mut sequence) = (0, 0, 0);
        while heard < payloads.len() || received < receipts {
            let frame: v1::ServerFrame = stream.next().await?;
            for event in frame.events {
                let round = event.payload.first_chunk().map(|round| u64::from_be_bytes(*round));
                if round.is_some_and(|round| round < self.round) {
                    // Of a connection that was cut: the server may read it late.
                    continue;
                }
                if payloads.get(heard).is_none_or(|payload| *payload != event.payload)
                    || event.sequence <= sequence
                {
                    return Err(broken("another event than the one due"));
                }
                (heard, sequence) = (heard + 1, event.sequence);
            }
            for receipt in frame.receipts {
                if receipt.error.is_some() {
                    return Err(broken("a refused publish"));
                }
                received += 1;
            }
            if !frame.gaps.is_empty() {
                return Err(broken("a gap"));
            }
        }
        Ok(())
    }

    async fn leave(
        &mut self,
        mut peer: Peer,
        mut stream: Stream,
        user: &str,
        client_name: &str,
    ) -> Result<(), Failure> {
        match self.kind {
            Kind::Whole | Kind::Unary | Kind::Cut => {
                peer.log_out().await?;
                ended(&mut stream, EndReason::SessionLoggedOut).await
            }
            Kind::HalfClosed => {
                ended(&mut stream, EndReason::Completed).await?;
                peer.log_out().await
            }
            Kind::Cancelled => {
                stream.cancel();
                peer.log_out().await
            }
            Kind::TakenOver => {
                let mut other = Peer::connect(self.dial()).await?;
                other.log_in(user, client_name).await?;
                ended(&mut stream, EndReason::SessionTakenOver).await?;
                other.log_out().await
            }
            // The connection is closed when both are dropped.
            Kind::NoLogout => Ok(()),
        }
    }
}

async fn following(stream: &mut Stream) -> Result<(), Failure> {
    loop {
        let frame: v1::ServerFrame = stream.next().await?;
        if frame.notices.iter().any(|notice| matches!(notice.kind, Some(notice::Kind::Subscribed(_)))) {
            return Ok(());
        }
    }
}

/// The stream ends for this reason; what still comes before is not looked at.
async fn ended(stream: &mut Stream, reason: EndReason) -> Result<(), Failure> {
    let end = async {
        loop {
            match stream.next::<v1::ServerFrame>().await {
                Ok(_) => {}
                Err(failure) => return Ok(failure),
            }
        }
    };
    let end = within("end of the stream", end).await?;
    let seen = match &end {
        Failure::Told(status) if status.code() == Code::Ok => Some(EndReason::Completed),
        Failure::Told(status) => end_details(status).map(|details| details.reason),
        Failure::Broken(_) | Failure::Silent(_) => None,
    };
    if seen == Some(reason) { Ok(()) } else { Err(end) }
}

fn broken(what: &str) -> Failure {
    Failure::Broken(what.to_owned())
}
