//! Supervised tasks that follow topics: each is started by name, comes back by itself, and ends once, for one reason.

pub mod config;
pub mod end;
pub mod halt;
pub mod link;
pub mod observe;
pub mod places;
pub mod publisher;
pub mod run;

mod registry;
mod retry;
mod unary;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::base::event::Position;
use crate::base::limits::{PIPELINE_ABORT_TIMEOUT, PIPELINE_BATCH_MAX, PIPELINE_TASKS_MAX};
use crate::client::connector::{Keepalive, connect_with};
use crate::client::error::ClientError;
use crate::client::pipeline::config::{ConfigError, PipelineConfig};
use crate::client::pipeline::end::{HandlerError, TaskEnd, TaskStatus};
use crate::client::pipeline::halt::{Group, Halt, StopWhen, Stopping, cancelled};
use crate::client::pipeline::link::{Dial, Keeper, Link, State};
use crate::client::pipeline::observe::{Observer, Word};
use crate::client::pipeline::places::{Places, Target};
use crate::client::pipeline::publisher::{Ids, Message, PublishError, Publisher};
use crate::client::pipeline::registry::{Entry, Registered, Registry, Taken};
use crate::client::pipeline::run::{Batch, Handler, Runner, Until};
use crate::client::pipeline::unary::publish_alone;
use crate::runtime::scope::Scope;
use crate::wire::v1;

/// A supervisor of named tasks on one hub: one connection and one session for all, made again when they are lost.
///
/// It is owned by its value: nothing is global, and two pipelines do not know each other. [`Self::shutdown`] ends it
/// in order; dropping it ends every task at once and leaves the session to its lease.
pub struct Pipeline {
    config: Arc<PipelineConfig>,
    registry: Arc<Registry>,
    link: Link,
    /// Above all groups and tasks.
    tasks: Scope,
    /// The publishers', which outlive the tasks: handlers publish.
    publishers: Scope,
    /// The link's, which outlives all who use it.
    upkeep: Scope,
    ids: Ids,
}

/// A task to start.
pub struct Task {
    id: String,
    targets: Vec<Target>,
    timeout: Option<Duration>,
    until: Option<Until>,
    stop_when: Option<StopWhen>,
    group: Option<Group>,
    observer: Option<Observer>,
    max_retries: Option<u32>,
    batch_max: usize,
}

/// What the hub said at login.
#[derive(Clone, Debug, Default)]
pub struct Welcome {
    /// The session's name in the hub's lists.
    pub session_id: String,
    /// The hub's bounds for it.
    pub policy: v1::SessionPolicy,
    /// Why the last session of this user and client name ended, when the hub knows.
    pub previous_end: Option<v1::Ended>,
}

/// Why a task was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A live task has the name.
    #[error("there is a task {0} already; cancel it first, or take another name")]
    NameTaken(String),
    /// No more tasks fit.
    #[error("a pipeline has at most {PIPELINE_TASKS_MAX} tasks; end one first")]
    Full,
    /// Nothing to follow.
    #[error("task {0} has no topic to follow")]
    NoTarget(String),
    /// The same topic twice.
    #[error("task {0} names topic {1} twice")]
    TopicTwice(String, String),
    /// Its group would not end with this pipeline.
    #[error("task {0}: its group is another pipeline's; make one with this pipeline's `group`")]
    OthersGroup(String),
    /// The pipeline was shut down.
    #[error("the pipeline was shut down")]
    ShutDown,
}

/// A started task. Dropping it changes nothing: the pipeline owns the task.
#[derive(Clone)]
pub struct TaskHandle {
    entry: Arc<Entry>,
    ended: watch::Receiver<Option<Arc<TaskEnd>>>,
}

/// What a shutdown found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Tasks that ended.
    pub ended: usize,
    /// Tasks whose handler did not finish in time and was dropped where it waited.
    pub forced: Vec<String>,
}

impl Task {
    /// A task of that name for these topics.
    #[must_use]
    pub fn new(id: &str, targets: impl IntoIterator<Item = impl Into<Target>>) -> Self {
        Self {
            id: id.to_owned(),
            targets: targets.into_iter().map(Into::into).collect(),
            timeout: None,
            until: None,
            stop_when: None,
            group: None,
            observer: None,
            max_retries: None,
            batch_max: PIPELINE_BATCH_MAX,
        }
    }

    /// Ends it after this long, however it is.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Ends it with the first event of which this is true, once the handler has had it. It is asked once for each
    /// event, before the handler gets it.
    #[must_use]
    pub fn until(self, until: impl FnMut(&v1::Event) -> bool + Send + 'static) -> Self {
        Self { until: Some(Box::new(until)), ..self }
    }

    /// Ends it when the future is ready.
    #[must_use]
    pub fn stop_when(self, future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { stop_when: Some(Box::pin(future)), ..self }
    }

    /// Makes it a member: it ends with the group.
    #[must_use]
    pub fn in_group(self, group: &Group) -> Self {
        Self { group: Some(group.clone()), ..self }
    }

    /// Tells what goes on beside events and gaps. Called where the task runs: it must not wait for anything.
    #[must_use]
    pub fn observe(self, observer: impl FnMut(Word<'_>) + Send + 'static) -> Self {
        Self { observer: Some(Box::new(observer)), ..self }
    }

    /// Gives up after so many failures in a row, whatever [`PipelineConfig::max_retries`] says.
    #[must_use]
    pub fn max_retries(self, retries: u32) -> Self {
        Self { max_retries: Some(retries), ..self }
    }

    /// Hands over at most so many deliveries at once, at least one. With one, what a handler did before it was stopped
    /// is never done again.
    #[must_use]
    pub fn batch_max(self, deliveries: usize) -> Self {
        Self { batch_max: deliveries.clamp(1, PIPELINE_BATCH_MAX), ..self }
    }

    fn check(&self) -> Result<(), StartError> {
        if self.targets.is_empty() {
            return Err(StartError::NoTarget(self.id.clone()));
        }
        let mut topics = BTreeSet::new();
        match self.targets.iter().find(|target| !topics.insert(&target.topic)) {
            Some(twice) => Err(StartError::TopicTwice(self.id.clone(), twice.topic.to_string())),
            None => Ok(()),
        }
    }
}

impl Pipeline {
    /// A pipeline that connects by itself, from now on. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn new(config: PipelineConfig) -> Result<Self, ConfigError> {
        let endpoint = config.endpoint.clone();
        let keepalive = Keepalive { interval: config.ping_interval, timeout: config.ping_timeout };
        Self::over(config, move || {
            let endpoint = endpoint.clone();
            async move { connect_with(&endpoint, keepalive).await }
        })
    }

    /// A pipeline over connections of the caller's, for example [`connect_io`](crate::client::connect_io); the
    /// configuration's endpoint only names them.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn over<F>(
        config: PipelineConfig,
        dial: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Self, ConfigError>
    where
        F: Future<Output = Result<crate::client::Client, ClientError>> + Send + 'static,
    {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        let config = Arc::new(config);
        let upkeep = Scope::root();
        let dial: Dial = Box::new(move || Box::pin(dial()));
        let (keeper, link) = Keeper::new(Arc::clone(&config), dial, upkeep.clone());
        upkeep.spawn_boxed(keeper.run());
        let (tasks, publishers) = (Scope::root(), Scope::root());
        Ok(Self { config, registry: Arc::default(), link, tasks, publishers, upkeep, ids: Ids::new() })
    }

    /// Starts a task that hands batches to `handler`: [`Self::start_task`] with no conditions.
    ///
    /// # Errors
    /// [`StartError`]; then nothing was started.
    pub fn start<F>(
        &self,
        id: &str,
        targets: impl IntoIterator<Item = impl Into<Target>>,
        handler: impl FnMut(Batch, Stopping) -> F + Send + 'static,
    ) -> Result<TaskHandle, StartError>
    where
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.start_task(Task::new(id, targets), handler)
    }

    /// Starts a task. The handler gets one batch at a time and the stream is not read meanwhile: a handler that is too
    /// slow for its topics makes the hub end the stream, and the task comes back with what the tail still has.
    ///
    /// # Errors
    /// [`StartError`]; then nothing was started.
    pub fn start_task<F>(
        &self,
        task: Task,
        mut handler: impl FnMut(Batch, Stopping) -> F + Send + 'static,
    ) -> Result<TaskHandle, StartError>
    where
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        self.start_boxed(task, Box::new(move |batch, stopping| Box::pin(handler(batch, stopping))))
    }

    fn start_boxed(&self, task: Task, handler: Handler) -> Result<TaskHandle, StartError> {
        task.check()?;
        if self.tasks.is_ending() {
            return Err(StartError::ShutDown);
        }
        if task.group.as_ref().is_some_and(|group| !group.0.is_below(&self.tasks)) {
            return Err(StartError::OthersGroup(task.id));
        }
        let scope = task.group.as_ref().map_or(&self.tasks, |group| &group.0).child();
        let places = Places::new(task.targets);
        let entry = Arc::new(Entry::new(&task.id, scope.clone(), &places));
        self.registry.add(&entry, PIPELINE_TASKS_MAX).map_err(|taken| match taken {
            Taken::Name => StartError::NameTaken(task.id.clone()),
            Taken::Places => StartError::Full,
        })?;
        let due = task.timeout.or(self.config.task_timeout).map(|timeout| Instant::now() + timeout);
        let runner = Runner {
            config: Arc::clone(&self.config),
            link: self.link.clone(),
            entry: Arc::clone(&entry),
            halt: Halt::new(scope, self.tasks.clone(), due, task.stop_when),
            places,
            until: task.until,
            observer: task.observer,
            max_retries: task.max_retries.or(self.config.max_retries),
            batch_max: task.batch_max,
            handler,
            failures: 0,
            lived: false,
        };
        let (ended, watched) = watch::channel(None);
        let registered = Registered::new(Arc::clone(&self.registry), Arc::clone(&entry), ended);
        self.tasks.spawn(async move {
            registered.end(runner.run().await);
        });
        Ok(TaskHandle { entry, ended: watched })
    }

    /// A group for tasks that end together.
    #[must_use]
    pub fn group(&self) -> Group {
        Group(self.tasks.child())
    }

    /// A publisher on a stream of its own; its clones share one window of
    /// [`in_flight_max`](PipelineConfig::in_flight_max).
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::start(&self.config, &self.link, &self.publishers)
    }

    /// Publishes by a call of its own and waits for its place in the hub's order. What is not known to be published is
    /// sent again with the same id, which the hub drops if it had it.
    ///
    /// # Errors
    /// Every [`PublishError`] but `Full`.
    pub async fn publish(&self, mut message: Message) -> Result<Position, PublishError> {
        if message.message_id.is_empty() {
            message.message_id = self.ids.next();
        }
        publish_alone(&self.config, &self.link, message).await
    }

    /// Asks a task to stop; false when there is none of that name.
    pub fn cancel(&self, id: &str) -> bool {
        self.registry.get(id).is_some_and(|entry| {
            entry.scope.end(cancelled());
            true
        })
    }

    /// Asks all tasks to stop; how many there are. The pipeline goes on.
    pub fn cancel_all(&self) -> usize {
        let entries = self.registry.all();
        entries.iter().for_each(|entry| {
            entry.scope.end(cancelled());
        });
        entries.len()
    }

    /// How every task stands, by name.
    #[must_use]
    pub fn list(&self) -> Vec<TaskStatus> {
        self.registry.all().iter().map(|entry| entry.status()).collect()
    }

    /// Waits for the session while no more than `retries` attempts have failed since the start. The pipeline goes on
    /// either way.
    ///
    /// # Errors
    /// Why the last attempt failed.
    pub async fn connected(&self, retries: u32) -> Result<Welcome, Arc<ClientError>> {
        let lane = self.link.clone().first(u64::from(retries)).await?;
        let session = &lane.session;
        let (session_id, previous_end) = (session.id().to_owned(), session.previous_end().cloned());
        Ok(Welcome { session_id, policy: *session.policy(), previous_end })
    }

    /// What must be nothing in the end, also when the pipeline itself is gone: tasks registered; tasks, publishers and
    /// links running.
    #[cfg(test)]
    pub(crate) fn traces(&self) -> impl Fn() -> [usize; 4] + use<> {
        let registry = Arc::clone(&self.registry);
        let scopes = [self.tasks.clone(), self.publishers.clone(), self.upkeep.clone()];
        move || {
            let [tasks, publishers, upkeep] = scopes.each_ref().map(Scope::running);
            [registry.all().len(), tasks, publishers, upkeep]
        }
    }

    /// The session's name at the hub, while there is one; empty when only its token was given.
    #[must_use]
    pub fn session_id(&self) -> Option<String> {
        match self.link.state() {
            State::Up(lane) => Some(lane.session.id().to_owned()),
            State::Connecting { .. } | State::Closed(_) => None,
        }
    }

    /// Ends everything: no stream is read any more, handlers finish, publishes get their receipts, the session logs
    /// out. What is not done after `graceful_timeout` is dropped.
    pub async fn shutdown(self, graceful_timeout: Duration) -> ShutdownReport {
        let until = Instant::now() + graceful_timeout;
        let entries = self.registry.all();
        self.tasks.end(cancelled());
        if timeout_at(until, self.tasks.finished()).await.is_err() {
            self.tasks.abort(cancelled());
            // Who blocks its thread cannot be dropped; it is named all the same.
            let _ = timeout(PIPELINE_ABORT_TIMEOUT, self.tasks.finished()).await;
        }
        self.publishers.end(cancelled());
        if timeout_at(until, self.publishers.finished()).await.is_err() {
            self.publishers.abort(cancelled());
        }
        // Nothing is under way any more. A moment to log out is left whatever the handlers took.
        self.upkeep.end(cancelled());
        let until = until.max(Instant::now() + PIPELINE_ABORT_TIMEOUT);
        if timeout_at(until, self.upkeep.finished()).await.is_err() {
            self.upkeep.abort(cancelled());
        }
        let is_forced = |entry: &&Arc<Entry>| entry.was_forced() || self.registry.get(&entry.id).is_some();
        let forced = entries.iter().filter(is_forced);
        ShutdownReport { ended: entries.len(), forced: forced.map(|entry| entry.id.to_string()).collect() }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        for scope in [&self.tasks, &self.publishers, &self.upkeep] {
            scope.abort(cancelled());
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("config", &self.config).finish_non_exhaustive()
    }
}

impl TaskHandle {
    /// The task's name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// Asks it to stop.
    pub fn cancel(&self) {
        self.entry.scope.end(cancelled());
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> TaskStatus {
        self.entry.status()
    }

    /// Waits for its end. Safe to drop while it waits.
    pub async fn ended(&mut self) -> Arc<TaskEnd> {
        loop {
            if let Some(end) = &*self.ended.borrow_and_update() {
                return Arc::clone(end);
            }
            if self.ended.changed().await.is_err() {
                // The sender sends an end before it goes.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("status", &self.status()).finish_non_exhaustive()
    }
}
