//! The one connection and session of a pipeline: made, watched by heartbeats, made again.
//!
//! Tasks look at its state and never connect themselves, so a thousand of them cost the hub one attempt at a time.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Code;

use crate::base::limits::{PIPELINE_DIAL_TIMEOUT, PIPELINE_HEALTHY_AFTER};
use crate::base::reason::EndReason;
use crate::client::error::ClientError;
use crate::client::pipeline::config::{Credentials, PipelineConfig};
use crate::client::pipeline::retry::{Next, after_error, wait};
use crate::client::session::{Client, Session, heartbeat_interval};
use crate::client::stream::StreamEnd;
use crate::runtime::scope::Scope;
use crate::wire::v1;

/// How a pipeline gets a connection.
pub type Dial = Box<dyn Fn() -> Dialling + Send + Sync>;
/// A connection being made.
pub type Dialling = Pin<Box<dyn Future<Output = Result<Client, ClientError>> + Send>>;

/// A session on a connection that was well when last looked at.
pub(super) struct Lane {
    /// Each has its own number.
    number: u64,
    pub(super) session: Session,
}

/// How the link is.
#[derive(Clone)]
pub(super) enum State {
    /// Under way, or waiting for the next attempt.
    Connecting {
        /// Attempts that failed, since the pipeline's start.
        failed: u64,
        /// Why the last one failed.
        error: Option<Arc<ClientError>>,
    },
    Up(Arc<Lane>),
    /// It will not come back, and why.
    Closed(Arc<ClientError>),
}

/// What tasks see of the link.
#[derive(Clone)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    doubts: Arc<Doubts>,
}

#[derive(Default)]
struct Doubts {
    of: Mutex<Doubt>,
    told: Notify,
}

#[derive(Default)]
struct Doubt {
    /// The number of the lane in doubt.
    lane: u64,
    /// When the hub may be asked again.
    not_before: Option<Instant>,
    /// A lane whose session the hub said is over, and its word.
    over: Option<(u64, ClientError)>,
}

impl Doubts {
    fn lock(&self) -> MutexGuard<'_, Doubt> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// The lane once there is one. `failed` hears of attempts that failed meanwhile: how many more, and why; it says
    /// whether to go on waiting.
    ///
    /// # Errors
    /// Why there will be none.
    pub(super) async fn up(
        &mut self,
        mut failed: impl FnMut(u64, &ClientError) -> bool,
    ) -> Result<Arc<Lane>, Option<Arc<ClientError>>> {
        let mut counted = None;
        loop {
            match &*self.state.borrow_and_update() {
                State::Up(lane) => return Ok(Arc::clone(lane)),
                State::Closed(why) => return Err(Some(Arc::clone(why))),
                State::Connecting { failed: total, error } => {
                    let more = total - counted.unwrap_or(*total);
                    counted = Some(*total);
                    if let (1.., Some(error)) = (more, error)
                        && !failed(more, error)
                    {
                        return Err(None);
                    }
                }
            }
            // The sender lives as long as the pipeline's tasks.
            if self.state.changed().await.is_err() {
                return Err(None);
            }
        }
    }

    /// A lane, or why the last attempt failed when more than so many did.
    pub(super) async fn first(&mut self, retries: u64) -> Result<Arc<Lane>, Arc<ClientError>> {
        loop {
            match &*self.state.borrow_and_update() {
                State::Up(lane) => return Ok(Arc::clone(lane)),
                State::Closed(why) => return Err(Arc::clone(why)),
                State::Connecting { failed, error: Some(why) } if *failed > retries => {
                    return Err(Arc::clone(why));
                }
                State::Connecting { .. } => {}
            }
            // The sender lives as long as the pipeline.
            if self.state.changed().await.is_err() {
                return Err(Arc::new(ClientError::StreamEnded));
            }
        }
    }

    /// Resolves when the lane is no longer the link's.
    pub(super) async fn left(&mut self, lane: &Lane) {
        let is_other = |state: &State| !matches!(state, State::Up(up) if up.number == lane.number);
        // The sender lives as long as the pipeline's tasks.
        let _ = self.state.wait_for(is_other).await;
    }

    /// Has the lane looked at; nobody need ask the hub again before `after`.
    pub(super) fn doubt(&self, lane: &Lane, after: Option<Duration>) {
        let not_before = after.map(|after| Instant::now() + after);
        let mut doubt = self.doubts.lock();
        doubt.lane = doubt.lane.max(lane.number);
        doubt.not_before = doubt.not_before.max(not_before);
        self.doubts.told.notify_one();
    }

    /// A stream may be the first to hear that its session is over and may not come back. Without this the link would
    /// log in again, and take over who took it over.
    pub(super) fn heed(&self, lane: &Lane, end: &StreamEnd) {
        if let Some(EndReason::SessionTakenOver | EndReason::SessionLoggedOut) = end.reason {
            let said = ClientError::from((*end.status).clone());
            self.doubts.lock().over = Some((lane.number, said));
            self.doubts.told.notify_one();
        }
    }

    /// The state now.
    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }
}

/// Why a lane is given up.
enum Lost {
    /// The pipeline is over.
    Stopped,
    /// The connection or the session: another attempt may help.
    Failed(ClientError),
}

/// The task that keeps the link.
pub(super) struct Keeper {
    config: Arc<PipelineConfig>,
    dial: Dial,
    state: watch::Sender<State>,
    doubts: Arc<Doubts>,
    /// Ends when the pipeline no longer needs the link.
    scope: Scope,
    lanes: u64,
    /// The session that is to go on, if there is one.
    live: Option<Live>,
}

/// What a session needs to go on over another connection.
#[derive(Clone)]
struct Live {
    id: String,
    token: String,
    policy: v1::SessionPolicy,
}

impl Keeper {
    pub(super) fn new(config: Arc<PipelineConfig>, dial: Dial, scope: Scope) -> (Self, Link) {
        let (state, watched) = watch::channel(State::Connecting { failed: 0, error: None });
        let doubts = Arc::new(Doubts::default());
        let live = match &config.credentials {
            Credentials::User { .. } => None,
            Credentials::Token(token) => {
                Some(Live { id: String::new(), token: token.clone(), policy: v1::SessionPolicy::default() })
            }
        };
        let link = Link { state: watched, doubts: Arc::clone(&doubts) };
        (Self { config, dial, state, doubts, scope, lanes: 0, live }, link)
    }

    /// Keeps the link until its scope ends; then logs out. Stops at once when the scope is aborted.
    pub(super) async fn run(mut self) {
        let scope = self.scope.clone();
        tokio::select! {
            biased;
            () = scope.aborted() => {}
            () = self.keep_up() => {}
        }
    }

    async fn keep_up(&mut self) {
        let (mut failed, mut failures) = (0, 0);
        loop {
            let scope = self.scope.clone();
            let connected = tokio::select! {
                biased;
                () = scope.ending() => return,
                connected = self.connect() => connected,
            };
            let up_at = Instant::now();
            let error = match connected {
                Ok(session) => match self.keep(session).await {
                    Lost::Stopped => return,
                    Lost::Failed(error) => error,
                },
                Err(error) => error,
            };
            if up_at.elapsed() >= PIPELINE_HEALTHY_AFTER {
                failures = 0;
            }
            let Next::Again { after, .. } = self.judge(&error) else {
                log::info!("{}: not connected again: {error}", self.config.endpoint);
                self.state.send_replace(State::Closed(Arc::new(error)));
                return;
            };
            failures += 1;
            failed += 1;
            log::info!("{}: {error}", self.config.endpoint);
            self.state.send_replace(State::Connecting { failed, error: Some(Arc::new(error)) });
            let told = self.doubts.lock().not_before.take();
            let due = (Instant::now() + wait(after, failures, &self.config.backoff))
                .max(told.unwrap_or_else(Instant::now));
            tokio::select! {
                () = self.scope.ending() => return,
                () = sleep_until(due) => {}
            }
        }
    }

    /// Whether the error allows another attempt. Who is not let in without a session to go on with was refused for the
    /// password, or has a token only.
    fn judge(&self, error: &ClientError) -> Next {
        let is_stranger =
            matches!(error, ClientError::Refused { status, .. } if status.code() == Code::Unauthenticated);
        let may_log_in = matches!(self.config.credentials, Credentials::User { .. }) && self.live.is_some();
        if is_stranger && !may_log_in { Next::Stop } else { after_error(error) }
    }

    /// A session: the one there was, when it is still live, or a new one.
    async fn connect(&mut self) -> Result<Session, ClientError> {
        let client = match timeout(PIPELINE_DIAL_TIMEOUT, (self.dial)()).await {
            Ok(client) => client?,
            Err(_) => return Err(ClientError::Transport { why: "no connection in time".to_owned() }),
        };
        if let Some(live) = self.live.clone() {
            let session = client.resume(&live.id, &live.token, live.policy)?;
            match self.beat(&session).await {
                Ok(policy) => {
                    let policy = policy.unwrap_or(live.policy);
                    let session = client.resume(&live.id, &live.token, policy)?;
                    self.live = Some(Live { policy, ..live });
                    return Ok(session);
                }
                // It is over. Whether a new one may follow is for the hub to say.
                Err(error) if matches!(self.judge(&error), Next::Stop) => return Err(error),
                Err(ClientError::Refused { status, .. }) if status.code() == Code::Unauthenticated => {
                    self.live = None;
                }
                Err(error) => return Err(error),
            }
        }
        let Credentials::User { user, password } = &self.config.credentials else {
            return Err(ClientError::Contract("a session without a token"));
        };
        let session = client.login_quiet(user, password, &self.config.client_name).await?;
        self.live = Some(Live {
            id: session.id().to_owned(),
            token: session.token().to_owned(),
            policy: *session.policy(),
        });
        Ok(session)
    }

    /// Heartbeats until the lane fails or the pipeline is over.
    async fn keep(&mut self, session: Session) -> Lost {
        self.lanes += 1;
        let number = self.lanes;
        let mut every = self.interval(session.policy());
        let lane = Arc::new(Lane { number, session });
        self.state.send_replace(State::Up(Arc::clone(&lane)));
        let mut due = Instant::now() + every;
        loop {
            tokio::select! {
                biased;
                () = self.scope.ending() => {
                    log_out(&lane.session, self.config.ping_timeout).await;
                    return Lost::Stopped;
                }
                () = self.doubts.told.notified() => {
                    let mut doubt = self.doubts.lock();
                    if let Some((_, said)) = doubt.over.take().filter(|(over, _)| *over == number) {
                        return Lost::Failed(said);
                    }
                    if doubt.lane != number {
                        continue;
                    }
                }
                () = sleep_until(due) => {}
            }
            match self.beat(&lane.session).await {
                // The hub's limits may have changed.
                Ok(Some(policy)) => every = self.interval(&policy),
                Ok(None) => {}
                Err(error) => return Lost::Failed(error),
            }
            self.doubts.lock().lane = 0;
            due = Instant::now() + every;
        }
    }

    /// How often to heartbeat: as often as the hub asks, or more often where that was wanted.
    fn interval(&self, policy: &v1::SessionPolicy) -> Duration {
        let told = heartbeat_interval(policy);
        self.config.heartbeat_interval.map_or(told, |wanted| wanted.min(told))
    }

    /// The policy that holds now, if the hub says.
    async fn beat(&self, session: &Session) -> Result<Option<v1::SessionPolicy>, ClientError> {
        match timeout(self.config.ping_timeout, session.heartbeat()).await {
            Ok(answer) => answer.map(|answer| answer.policy),
            Err(_) => Err(ClientError::Transport { why: "a heartbeat was not answered in time".to_owned() }),
        }
    }
}

/// The hub's lease ends what cannot be told to it.
async fn log_out(session: &Session, patience: Duration) {
    match timeout(patience, session.end()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => log::debug!("not logged out, the session will expire: {error}"),
        Err(_) => log::debug!("not logged out in time, the session will expire"),
    }
}
