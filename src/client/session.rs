//! A login and what it owns: the token, the heartbeat, the calls made in its name.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use crate::base::event::Position;
use crate::base::limits::{DATA_FRAME_BYTES_MAX, EVENT_OVERHEAD_BYTES_MAX};
use crate::client::call::Caller;
use crate::client::error::ClientError;
use crate::client::stream::{FRAMES_WAITING_MAX, MessageStream, Sender};
use crate::wire::v1;

/// A connection to a hub, without a login yet. Several sessions may share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

/// A live login. It heartbeats by itself until it is dropped or logged out.
///
/// Dropping it without [`logout`](Self::logout) leaves the session to its lease: the hub ends it, and streams still
/// open, when the lease has run out.
///
/// A session does not reconnect its streams. The channel under it does connect again when a call is made, so a program
/// that wants a stream back opens it again with the position of the last event it handled in each topic
/// ([`v1::subscription::Start::After`]); the end of the stream says whether and when
/// ([`StreamEnd::reason`](crate::client::stream::StreamEnd)). A [`Pipeline`](crate::client::Pipeline) does this by
/// itself, and resends what has no receipt.
pub struct Session {
    id: String,
    token: String,
    policy: v1::SessionPolicy,
    previous_end: Option<v1::Ended>,
    /// Boxed: a session is moved about in many futures.
    caller: Box<Caller>,
    /// Aborted when dropped.
    heartbeats: JoinSet<()>,
}

const LOGIN: &str = "/streamward.v1.SessionService/Login";
const HEARTBEAT: &str = "/streamward.v1.SessionService/Heartbeat";
const LOGOUT: &str = "/streamward.v1.SessionService/Logout";
const PUBLISH: &str = "/streamward.v1.MessageService/Publish";
const SUBSCRIBE: &str = "/streamward.v1.MessageService/Subscribe";
const CONNECT: &str = "/streamward.v1.MessageService/Connect";

/// A frame is a run of events that fits a DATA frame, or one large event; other answers are smaller.
const ANSWER_BYTES_MIN: usize = 4 * 1024 * 1024;

impl Client {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// Opens a session. `client_name` tells this user's clients apart and may be empty; a live session of the same
    /// user and the same non-empty name ends with `SESSION_TAKEN_OVER`.
    ///
    /// Must be called on a tokio runtime: the session's heartbeat runs there.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for names the hub does not take, a full hub or one that is stopping;
    /// [`ClientError::Transport`] when the connection breaks.
    pub async fn login(&self, user: &str, password: &str, client_name: &str) -> Result<Session, ClientError> {
        let mut session = self.login_quiet(user, password, client_name).await?;
        let every = heartbeat_interval(&session.policy);
        session.heartbeats.spawn(heartbeat(session.caller.clone(), every));
        Ok(session)
    }

    /// The same without a heartbeat: for who sends it and wants to see the answer.
    pub(crate) async fn login_quiet(
        &self,
        user: &str,
        password: &str,
        client_name: &str,
    ) -> Result<Session, ClientError> {
        let request = v1::LoginRequest {
            user: user.to_owned(),
            password: password.to_owned(),
            client_name: client_name.to_owned(),
        };
        let caller = Caller::new(self.channel.clone(), ANSWER_BYTES_MIN);
        let answer: v1::LoginResponse = caller.unary(LOGIN, &request).await?;
        let policy = answer.policy.ok_or(ClientError::Contract("a login without a policy"))?;
        let mut session = self.resume(&answer.session_id, &answer.token, policy)?;
        session.previous_end = answer.previous_end;
        Ok(session)
    }

    /// Acts for a session that is live already, by its token; `id` is empty where unknown. Whether it still is shows at the first call. It does not
    /// heartbeat by itself.
    ///
    /// # Errors
    /// [`ClientError::Contract`] for a token that cannot be one.
    pub(crate) fn resume(
        &self,
        id: &str,
        token: &str,
        policy: v1::SessionPolicy,
    ) -> Result<Session, ClientError> {
        let mut bearer = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| ClientError::Contract("a token that fits no metadata"))?;
        bearer.set_sensitive(true);
        let caller = Caller::new(self.channel.clone(), frame_bytes_max(&policy)).in_the_name_of(bearer);
        Ok(Session {
            id: id.to_owned(),
            token: token.to_owned(),
            policy,
            previous_end: None,
            caller: Box::new(caller),
            heartbeats: JoinSet::new(),
        })
    }
}

impl Session {
    /// The session's name in the hub's lists: `session/<slot>.<incarnation>`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret that other connections may use to act in this session's name.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What the hub expects of this client, and its bounds.
    #[must_use]
    pub fn policy(&self) -> &v1::SessionPolicy {
        &self.policy
    }

    /// Why the last session of this user and client name ended, when the hub knows.
    #[must_use]
    pub fn previous_end(&self) -> Option<&v1::Ended> {
        self.previous_end.as_ref()
    }

    /// Publishes one event and returns its place in the hub's order. `message_id` and `content_type` may be empty.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it was not published; [`ClientError::Transport`] when that is unknown.
    pub async fn publish(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
        message_id: &str,
        content_type: &str,
    ) -> Result<Position, ClientError> {
        let request = v1::PublishRequest {
            topic: topic.to_owned(),
            payload: payload.into(),
            message_id: message_id.to_owned(),
            content_type: content_type.to_owned(),
        };
        let answer: v1::PublishResponse = self.caller.unary(PUBLISH, &request).await?;
        Ok(Position { epoch: answer.epoch, sequence: answer.sequence })
    }

    /// Renews the lease and says how the hub is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the session is over; [`ClientError::Transport`] when the connection is.
    pub(crate) async fn heartbeat(&self) -> Result<v1::HeartbeatResponse, ClientError> {
        Ok(self.caller.unary(HEARTBEAT, &v1::HeartbeatRequest {}).await?)
    }

    /// Follows topics on a server stream of its own.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the hub refuses the stream or one of the topics.
    pub async fn subscribe(
        &self,
        subscriptions: Vec<v1::Subscription>,
    ) -> Result<MessageStream, ClientError> {
        let request = v1::SubscribeRequest { subscriptions };
        Ok(MessageStream::new(self.caller.follow(SUBSCRIBE, &request).await?))
    }

    /// Opens the message stream: publish, subscribe and unsubscribe on one stream. At most [`FRAMES_WAITING_MAX`]
    /// frames wait for the hub; then sending waits.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the hub refuses the stream.
    pub async fn open(&self) -> Result<(Sender, MessageStream), ClientError> {
        let (frames, mut waiting) = mpsc::channel(FRAMES_WAITING_MAX);
        let requests = stream::poll_fn(move |context| waiting.poll_recv(context));
        let answers = self.caller.open(CONNECT, requests).await?;
        Ok((Sender::new(frames), MessageStream::new(answers)))
    }

    /// Ends the session and its streams on the hub; returns how many streams that ended.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the session was over already; [`ClientError::Transport`] when the connection is
    /// lost, in which case the lease ends the session.
    pub async fn logout(mut self) -> Result<u32, ClientError> {
        self.heartbeats.abort_all();
        self.end().await
    }

    /// The same for a session that is shared and has no heartbeat of its own.
    pub(crate) async fn end(&self) -> Result<u32, ClientError> {
        let answer: v1::LogoutResponse = self.caller.unary(LOGOUT, &v1::LogoutRequest {}).await?;
        Ok(answer.streams_ended)
    }
}

impl fmt::Debug for Session {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Renews the lease once per interval, until the hub says that the session is over.
async fn heartbeat(caller: Box<Caller>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once; the login was just now.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        match caller.unary::<v1::HeartbeatResponse>(HEARTBEAT, &v1::HeartbeatRequest {}).await {
            Err(status) if status.code() == Code::Unauthenticated => return,
            // A lost connection: the lease may outlast it, the next beat tries again.
            Ok(_) | Err(_) => {}
        }
    }
}

/// The policy's interval; a third of the lease, or 30 s, when the hub names none.
pub(crate) fn heartbeat_interval(policy: &v1::SessionPolicy) -> Duration {
    let duration = |field: Option<prost_types::Duration>| {
        field.and_then(|duration| Duration::try_from(duration).ok()).filter(|duration| !duration.is_zero())
    };
    duration(policy.heartbeat_interval)
        .or_else(|| duration(policy.lease).map(|lease| lease / 3))
        .unwrap_or(Duration::from_secs(30))
        .max(Duration::from_millis(10))
}

/// A frame is a run of events that fits a DATA frame, or one large event, with notices beside it.
fn frame_bytes_max(policy: &v1::SessionPolicy) -> usize {
    let message = usize::try_from(policy.max_message_bytes).unwrap_or(usize::MAX);
    message.saturating_add(EVENT_OVERHEAD_BYTES_MAX + 4 * DATA_FRAME_BYTES_MAX).max(ANSWER_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(heartbeat_ms: i32, lease_s: i64) -> v1::SessionPolicy {
        v1::SessionPolicy {
            heartbeat_interval: Some(prost_types::Duration { seconds: 0, nanos: heartbeat_ms * 1_000_000 }),
            lease: Some(prost_types::Duration { seconds: lease_s, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn the_heartbeat_follows_the_policy_and_never_spins() {
        assert_eq!(heartbeat_interval(&policy(250, 90)), Duration::from_millis(250));
        assert_eq!(heartbeat_interval(&policy(0, 90)), Duration::from_secs(30));
        assert_eq!(heartbeat_interval(&policy(1, 90)), Duration::from_millis(10));
        assert_eq!(heartbeat_interval(&v1::SessionPolicy::default()), Duration::from_secs(30));
    }

    #[test]
    fn a_frame_with_the_largest_message_is_accepted() {
        let large = v1::SessionPolicy { max_message_bytes: 16 * 1024 * 1024, ..Default::default() };
        assert!(frame_bytes_max(&large) > 16 * 1024 * 1024);
    }
}
