//! The tasks of a file as they run: started, ended, changed by SIGHUP, stopped by SIGTERM.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::base::event::{Overflow, Position, Start};
use crate::base::order::map_of;
use crate::cli::exec::Exec;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::pipe::file::{Destination, Hub, Mistakes, PipeFile, TaskSpec};
use crate::cli::pipe::plan::plan;
use crate::cli::sink::Sink;
use crate::cli::supervised::Outage;
use crate::cli::tail::{matches, parse_regex};
use crate::cli::text::{clean, count};
use crate::client::{
    Credentials, EndWhy, Group, HandlerError, Item, Pipeline, PipelineConfig, Target, Task, TaskEnd,
    TaskHandle, Word,
};
use crate::config::environment;
use crate::daemon::systemd::Notifier;
use crate::wire::v1;

/// A command may finish its event for so long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// All of the stopping: that, and a logout.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(13);
/// systemd that watches nobody is looked at this often all the same: it costs nothing.
const UNWATCHED: Duration = Duration::from_secs(3600);

/// Runs the tasks until all have ended or a signal stops them.
///
/// # Errors
/// When the last has ended and one of them by an error: that of the last one.
pub(crate) async fn run(
    file: PipeFile,
    load: &dyn Fn() -> Result<PipeFile, Mistakes>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let notifier = Notifier::from_environment(&environment());
    let mut service = Service::start(file, output)?;
    notifier.ready(&service.status());
    let watchdog = notifier.watchdog_interval();
    let mut due = Instant::now();
    loop {
        tokio::select! {
            Some((name, number, end)) = service.ends.next(), if !service.ends.is_empty() => {
                service.ended(&name, number, &end);
                notifier.status(&service.status());
            }
            stops = signals.next() => {
                if stops {
                    break;
                }
                notifier.reloading();
                service.reload(load()).await;
                notifier.ready(&service.status());
            }
            () = sleep_until(due) => {
                due = Instant::now() + watchdog.unwrap_or(UNWATCHED);
                notifier.watchdog();
            }
        }
        if service.is_over() {
            notifier.stopping();
            return service.finish().await;
        }
    }
    notifier.stopping();
    service.stop(&mut signals).await
}

struct Signals {
    stops: [Signal; 2],
    reloads: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let take = |kind: SignalKind| {
            signal(kind)
                .map_err(|error| Failure::told(Exit::Internal, format!("cannot watch for signals: {error}.")))
        };
        let stops = [take(SignalKind::terminate())?, take(SignalKind::interrupt())?];
        Ok(Self { stops, reloads: take(SignalKind::hangup())? })
    }
}

/// A task of the file; kept after its end, so that the same words do not start it again.
struct Live {
    spec: TaskSpec,
    handle: TaskHandle,
    /// Tells the ends of one name's tasks apart.
    number: u64,
    is_over: bool,
}

type Ending = Pin<Box<dyn Future<Output = (String, u64, Arc<TaskEnd>)>>>;

struct Service {
    pipeline: Pipeline,
    hub: Hub,
    output: Output,
    outage: Outage,
    tasks: BTreeMap<String, Live>,
    groups: BTreeMap<String, Group>,
    ends: FuturesUnordered<Ending>,
    started: u64,
    /// The last error that ended a task.
    failed: Option<Exit>,
}

impl Service {
    fn start(file: PipeFile, output: &Output) -> Result<Self, Failure> {
        let Hub { server, user, client_name } = file.hub.clone();
        let credentials = Credentials::User { user, password: String::new() };
        let config = PipelineConfig {
            client_name,
            drain_timeout: DRAIN_TIMEOUT,
            ..PipelineConfig::new(server, credentials)
        };
        let pipeline = crate::cli::supervised::start(config)?;
        let mut service = Self {
            pipeline,
            hub: file.hub,
            output: output.clone(),
            outage: Outage::new(output),
            tasks: BTreeMap::new(),
            groups: BTreeMap::new(),
            ends: FuturesUnordered::new(),
            started: 0,
            failed: None,
        };
        for (name, spec) in file.tasks {
            service.begin(&name, spec, &BTreeMap::new())?;
        }
        Ok(service)
    }

    /// Starts a task, where it was in topics it had.
    fn begin(
        &mut self,
        name: &str,
        spec: TaskSpec,
        positions: &BTreeMap<String, Position>,
    ) -> Result<(), Failure> {
        let sink = sink(&spec, &self.output)?;
        let task = self.task(name, &spec, positions)?.batch_max(sink.batch_max());
        let handler = move |batch, stopping| {
            let sink = sink.clone();
            async move { sink.take(batch, stopping).await.map_err(HandlerError::from) }
        };
        let started = self.pipeline.start_task(task, handler);
        let handle = started.map_err(|error| Failure::told(Exit::Internal, format!("{error}.")))?;
        self.started += 1;
        let (mut ending, number, of) = (handle.clone(), self.started, name.to_owned());
        self.ends.push(Box::pin(async move { (of, number, ending.ended().await) }));
        self.tasks.insert(name.to_owned(), Live { spec, handle, number, is_over: false });
        Ok(())
    }

    fn task(
        &mut self,
        name: &str,
        spec: &TaskSpec,
        positions: &BTreeMap<String, Position>,
    ) -> Result<Task, Failure> {
        let overflow = if spec.skip { Overflow::Skip } else { Overflow::Disconnect };
        let begins = if spec.since_all { Start::AllRetained } else { Start::FromNow };
        let targets = spec.topics.iter().map(|topic| {
            let start = positions.get(topic.as_str()).cloned().map_or(begins.clone(), Start::After);
            Target { topic: topic.clone(), start, overflow }
        });
        let outage = self.outage.clone();
        let mut task = Task::new(name, targets).observe(move |word| match word {
            Word::Setback { .. } | Word::Said(Item::Subscribed(_)) => outage.hears(word),
            Word::Said(_) => {}
        });
        if let Some(text) = &spec.until {
            let regex = parse_regex(text)
                .map_err(|error| Failure::told(Exit::Config, format!("task {}: {error}.", clean(name))))?;
            task = task.until(move |event: &v1::Event| matches(&regex, &event.payload));
        }
        if let Some(duration) = spec.duration {
            task = task.timeout(duration);
        }
        if let Some(retries) = spec.retries {
            task = task.max_retries(retries);
        }
        if let Some(group) = &spec.group {
            let pipeline = &self.pipeline;
            let group = self.groups.entry(group.clone()).or_insert_with(|| pipeline.group());
            task = task.in_group(group);
        }
        Ok(task)
    }

    /// Takes an end that nobody asked for.
    fn ended(&mut self, name: &str, number: u64, end: &TaskEnd) {
        let Some(live) = self.tasks.get_mut(name).filter(|live| live.number == number && !live.is_over)
        else {
            return;
        };
        live.is_over = true;
        let group = live.spec.group.clone();
        let name = clean(name);
        match exit(end, &self.outage) {
            Ok(_) => self.output.notice(&format!("task {name} ended: {}", end.why)),
            Err(failure) => {
                self.failed = Some(failure.exit());
                self.output.error(&format!("task {name} ended: {failure}"));
            }
        }
        // One that starts later is in a group of its own.
        if let Some(group) = group.and_then(|group| self.groups.remove(&group)) {
            group.cancel();
        }
    }

    fn is_over(&self) -> bool {
        self.tasks.values().all(|live| live.is_over)
    }

    fn status(&self) -> String {
        let running = self.tasks.values().filter(|live| !live.is_over).count() as u64;
        format!("{} running", count(running, "task"))
    }

    /// Puts another file in force; with a mistake anywhere nothing changes.
    async fn reload(&mut self, loaded: Result<PipeFile, Mistakes>) {
        let file = match loaded {
            Ok(file) => file,
            Err(mistakes) => {
                let text = format!("SIGHUP: the tasks stay as they were, the file has mistakes:\n{mistakes}");
                self.output.error(&text);
                return;
            }
        };
        if file.hub != self.hub {
            self.output.notice("SIGHUP: [hub] stays as it was; the new one takes effect after a restart");
        }
        let old = map_of(self.tasks.iter().map(|(name, live)| (name.clone(), live.spec.clone())));
        let plan = plan(&old, &file.tasks);
        for name in &plan.removed {
            self.cancel(name).await;
            self.output.notice(&format!("SIGHUP: task {} is removed", clean(name)));
        }
        for name in plan.changed.iter().chain(&plan.added) {
            let is_new = !self.tasks.contains_key(name);
            let positions = self.cancel(name).await;
            let Some(spec) = file.tasks.get(name) else { continue };
            let name_shown = clean(name);
            match self.begin(name, spec.clone(), &positions) {
                Ok(()) if is_new => self.output.notice(&format!("SIGHUP: task {name_shown} is started")),
                Ok(()) => self.output.notice(&format!("SIGHUP: task {name_shown} is changed")),
                Err(failure) => {
                    self.failed = Some(failure.exit());
                    self.output.error(&format!("SIGHUP: task {name_shown} is not started: {failure}"));
                }
            }
        }
        if plan == Default::default() {
            self.output.notice("SIGHUP: the tasks have not changed");
        }
    }

    /// Ends a task of that name, if there is one; where it was.
    async fn cancel(&mut self, name: &str) -> BTreeMap<String, Position> {
        let Some(mut live) = self.tasks.remove(name) else { return BTreeMap::new() };
        live.handle.cancel();
        let end = live.handle.ended().await;
        if end.forced {
            self.output.error(&format!("task {}: its command had to be killed", clean(name)));
        }
        end.positions.clone()
    }

    /// All tasks have ended.
    async fn finish(self) -> Result<Exit, Failure> {
        self.pipeline.shutdown(SHUTDOWN_TIMEOUT).await;
        Ok(self.failed.unwrap_or(Exit::Ok))
    }

    /// Lets handlers finish; says who did not.
    async fn stop(mut self, signals: &mut Signals) -> Result<Exit, Failure> {
        self.output.notice("stopping; once more cuts");
        let report = tokio::select! {
            report = Box::pin(self.pipeline.shutdown(SHUTDOWN_TIMEOUT)) => report,
            () = signals.stop() => return Ok(Exit::TempFail),
        };
        let ended = count(report.ended as u64, "task");
        if report.forced.is_empty() {
            self.output.notice(&format!("{ended} ended"));
            return Ok(Exit::Ok);
        }
        let forced: Vec<_> = report.forced.iter().map(|name| clean(name)).collect();
        self.output.error(&format!("{ended} ended, not finished in time: {}", forced.join(", ")));
        Ok(Exit::TempFail)
    }
}

impl Signals {
    async fn stop(&mut self) {
        let [terminate, interrupt] = &mut self.stops;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }

    /// Whether the next of them is to stop; the other one is to read the file again.
    async fn next(&mut self) -> bool {
        let [terminate, interrupt] = &mut self.stops;
        tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            _ = self.reloads.recv() => false,
        }
    }
}

/// How the program would end with this task. The last failure of the connection may be another task's: what the task
/// itself counted is told.
fn exit(end: &TaskEnd, outage: &Outage) -> Result<Exit, Failure> {
    match &end.why {
        EndWhy::RetriesExhausted { .. } => {
            Err(Failure::told(Exit::TempFail, format!("{}.", clean(&end.why.to_string()))))
        }
        EndWhy::Cancelled
        | EndWhy::GroupCancelled
        | EndWhy::Shutdown
        | EndWhy::TimedOut
        | EndWhy::ConditionMet
        | EndWhy::Stopped
        | EndWhy::Ended(_)
        | EndWhy::Refused(_)
        | EndWhy::HandlerFailed(_)
        | EndWhy::HandlerPanicked => outage.exit(end),
    }
}

fn sink(spec: &TaskSpec, output: &Output) -> Result<Sink, Failure> {
    let output = output.with_json(spec.json);
    match &spec.to {
        Destination::Stdout => Ok(Sink { output, exec: None }),
        Destination::Exec(command) => {
            let exec = Exec { command: command.clone(), ends_with_task: false };
            Ok(Sink { output, exec: Some(exec) })
        }
        Destination::File(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path).map_err(|error| {
                Failure::told(Exit::CannotCreate, format!("cannot write {}: {error}.", path.display()))
            })?;
            Ok(Sink { output: output.redirected(file), exec: None })
        }
    }
}
