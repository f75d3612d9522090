//! One message stream: who owns it, its two halves, and its one recorded end.

use std::future::Future as _;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::Request;
use tokio::time::Instant;
use tonic::Status;

use crate::base::event::{Overflow, Start};
use crate::base::id::{SessionKey, StreamKey};
use crate::base::principal::Principal;
use crate::base::reason::{Cause, EndReason, Loudness, Quota};
use crate::base::topic::Topic;
use crate::hub::registry::Rpc;
use crate::hub::{Refusal, Subscribed};
use crate::runtime::bucket::Bucket;
use crate::runtime::scope::Scope;
use crate::server::accept::lost;
use crate::server::call::{Call, begin, refuse};
use crate::server::conn::Meter;
use crate::server::inbound::{Inbound, InboundEnd};
use crate::server::outbound::Outbound;
use crate::server::publish::read_one;
use crate::server::{Core, Peer, auth, overload};
use crate::wire::convert;
use crate::wire::status::{EndFacts, ended, invalid_field};
use crate::wire::v1;
use crate::wire::v1::notice::Kind;

/// The key of how fast streams may be opened.
const STREAM_OPENS: &str = "limits.stream_opens_per_second_max";

/// What both halves of a stream know.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) core: Arc<Core>,
    pub(super) key: StreamKey,
    pub(super) session: SessionKey,
    pub(super) principal: Principal,
    /// Of the stream.
    pub(super) scope: Scope,
    /// Of the connection.
    pub(super) connection: Scope,
    pub(super) meter: Arc<Meter>,
    pub(super) deadline: Option<Instant>,
}

/// Removes the stream from the hub, whatever way its call is over.
struct Guard(Handle);

impl Drop for Guard {
    fn drop(&mut self) {
        let Handle { core, key, session, connection, .. } = &self.0;
        let cause = if std::thread::panicking() {
            Cause::server(EndReason::Internal)
        } else {
            let known = connection.cause().filter(|cause| cause.reason == EndReason::ConnectionLost);
            known.cloned().unwrap_or_else(lost)
        };
        if let Some(cause) = core.hub().close_stream(*key, cause, Instant::now()) {
            let level = match cause.reason.loudness() {
                Loudness::Error => log::Level::Error,
                Loudness::Warn => log::Level::Warn,
                Loudness::Info => log::Level::Info,
                Loudness::Debug => log::Level::Debug,
            };
            log::log!(level, "{key} of {session} ended: {} ({:?})", cause.reason.name(), cause.text());
        }
    }
}

/// Serves `Connect`.
pub(super) fn connect(
    core: Arc<Core>,
    peer: &Peer,
    deadline: Option<Instant>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Call {
    let (head, body) = request.into_parts();
    let opened =
        admit(&core, peer, &head.headers).and_then(|owner| open(core, peer, owner, Rpc::Connect, deadline));
    let guard = match opened {
        Ok(guard) => guard,
        Err(status) => {
            refuse(&mut respond, &status);
            return Box::pin(std::future::ready(()));
        }
    };
    let Ok(send) = begin(&mut respond) else { return Box::pin(std::future::ready(())) };
    let mut outbound = Outbound::new(guard.0.clone(), send);
    let mut inbound = Inbound::new(guard.0.clone(), body);
    Box::pin(async move {
        both_halves(&mut outbound, &mut inbound).await;
        drop(guard);
    })
}

/// Serves `Subscribe`.
pub(super) fn follow(
    core: Arc<Core>,
    peer: Peer,
    deadline: Option<Instant>,
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
) -> Call {
    // In a box of its own: over long before the stream is.
    let begun = Box::pin(begin_follow(core, peer, deadline, request, respond));
    Box::pin(async move {
        let Some((guard, mut outbound)) = begun.await else { return };
        std::future::poll_fn(|cx| outbound.poll(cx)).await;
        drop(guard);
    })
}

async fn begin_follow(
    core: Arc<Core>,
    peer: Peer,
    deadline: Option<Instant>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<(Guard, Outbound)> {
    let (head, body) = request.into_parts();
    let opened = match admit(&core, &peer, &head.headers) {
        Ok(owner) => {
            let wanted = tokio::select! {
                biased;
                wanted = read_subscriptions(&core, &owner.1, body, deadline) => wanted,
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return None,
            };
            wanted.and_then(|wanted| open_with(core, &peer, owner, deadline, &wanted))
        }
        Err(status) => Err(status),
    };
    match opened {
        Ok(guard) => {
            let send = begin(&mut respond).ok()?;
            let outbound = Outbound::new(guard.0.clone(), send);
            Some((guard, outbound))
        }
        Err(status) => {
            refuse(&mut respond, &status);
            None
        }
    }
}

/// Drives a bidirectional stream until its outbound half is over.
async fn both_halves(outbound: &mut Outbound, inbound: &mut Inbound) {
    let handle = outbound.handle().clone();
    let mut inbound = pin!(inbound.run());
    let mut reading = true;
    std::future::poll_fn(|cx| {
        if reading && let Poll::Ready(end) = inbound.as_mut().poll(cx) {
            reading = false;
            inbound_ended(&handle, end);
        }
        outbound.poll(cx)
    })
    .await;
}

fn inbound_ended(handle: &Handle, end: InboundEnd) {
    let Handle { core, key, session, .. } = handle;
    match end {
        InboundEnd::HalfClosed => {
            core.hub().end_stream(*key, Cause::client(EndReason::Completed));
        }
        InboundEnd::LoggedOut => {
            // This stream finished; the others of its session are ended by it.
            let mut hub = core.hub();
            hub.end_stream(*key, Cause::client(EndReason::Completed));
            hub.end_session(*session, Cause::client(EndReason::SessionLoggedOut), Instant::now());
        }
        InboundEnd::Invalid(cause) => {
            core.hub().end_stream(*key, cause);
        }
        // The outbound half sees the same reset or loss, and says which it was.
        InboundEnd::Gone => {}
    }
}

/// One of what a connection may do `per_second`, or how long it has to wait for it.
pub(super) fn take_one(bucket: &Mutex<Bucket>, per_second: u32) -> Result<(), Duration> {
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    bucket.set_rate(per_second, per_second, now);
    bucket.take(now)
}

fn admit(
    core: &Core,
    peer: &Peer,
    headers: &http::HeaderMap,
) -> Result<(SessionKey, Principal), Box<Status>> {
    let streams_max = core.limits().stream_opens_per_second_max;
    if let Err(retry_after) = take_one(&peer.opens, streams_max) {
        let quota = Quota { key: STREAM_OPENS, value: u64::from(streams_max) };
        let facts = EndFacts { retry_after: Some(retry_after), ..EndFacts::default() };
        core.hub().count_refused_stream();
        return Err(Box::new(ended(&Cause::quota(quota), &facts)));
    }
    let (session, principal) = auth::session(core, peer, headers)?;
    if let Some(cause) = core.refusing() {
        let retry_after = Some(core.retry_slot(session));
        let facts = EndFacts { session: Some(session), retry_after, ..EndFacts::default() };
        return Err(Box::new(ended(&cause, &facts)));
    }
    if let Err(status) = overload::admit_stream(core, session) {
        core.hub().count_refused_stream();
        return Err(status);
    }
    Ok((session, principal))
}

fn open(
    core: Arc<Core>,
    peer: &Peer,
    (session, principal): (SessionKey, Principal),
    rpc: Rpc,
    deadline: Option<Instant>,
) -> Result<Guard, Box<Status>> {
    let opened = core.hub().open_stream(session, peer.connection, rpc, deadline, Instant::now());
    let (key, scope) = opened.map_err(|refusal| {
        core.hub().count_refused_stream();
        auth::refusal_of(&core, session, &refusal)
    })?;
    log::debug!("{key} of {session} opened on {}", peer.connection);
    let (connection, meter) = (peer.scope.clone(), Arc::clone(&peer.meter));
    Ok(Guard(Handle { core, key, session, principal, scope, connection, meter, deadline }))
}

/// A checked subscription.
pub(super) struct Wanted {
    pub(super) topic: Topic,
    pub(super) start: Start,
    pub(super) overflow: Overflow,
}

/// Checks one subscription without changing anything.
pub(super) fn check_subscription(
    principal: &Principal,
    subscription: &v1::Subscription,
) -> Result<Wanted, Box<Status>> {
    let topic =
        Topic::parse(&subscription.topic).map_err(|error| invalid_field("topic", &error.to_string()))?;
    if let Some(owner) = topic.inbox_of().filter(|owner| **owner != *principal.user) {
        return Err(Box::new(auth::refusal(&Refusal::NotYourInbox(owner.to_owned()))));
    }
    Ok(Wanted { topic, start: convert::start(subscription), overflow: convert::overflow(subscription) })
}

async fn read_subscriptions(
    core: &Core,
    principal: &Principal,
    body: h2::RecvStream,
    deadline: Option<Instant>,
) -> Result<Vec<Wanted>, Box<Status>> {
    let latest = Instant::now() + core.limits().login_timeout;
    let until = deadline.map_or(latest, |deadline| deadline.min(latest));
    let request: v1::SubscribeRequest = tokio::time::timeout_at(until, read_one(core, body))
        .await
        .map_err(|_| ended(&Cause::server(EndReason::DeadlineExceeded), &EndFacts::default()))??;
    if request.subscriptions.is_empty() {
        return Err(Box::new(invalid_field("subscriptions", "name at least one topic")));
    }
    // Before anything is done for each of them: the request may name thousands.
    let subscriptions_max = core.limits().subscriptions_per_stream_max;
    if request.subscriptions.len() > subscriptions_max as usize {
        let key = "limits.subscriptions_per_stream_max";
        let quota = Quota { key, value: u64::from(subscriptions_max) };
        return Err(Box::new(auth::refusal(&Refusal::Quota(quota))));
    }
    let mut checked: Vec<Wanted> = Vec::new();
    for subscription in &request.subscriptions {
        let wanted = check_subscription(principal, subscription)?;
        if checked.iter().any(|before| before.topic == wanted.topic) {
            let text = format!("{} is named twice; each topic at most once", wanted.topic);
            return Err(Box::new(invalid_field("subscriptions", &text)));
        }
        checked.push(wanted);
    }
    Ok(checked)
}

/// Opens a stream with all its subscriptions, or ends it again with what stands in the way.
fn open_with(
    core: Arc<Core>,
    peer: &Peer,
    owner: (SessionKey, Principal),
    deadline: Option<Instant>,
    wanted: &[Wanted],
) -> Result<Guard, Box<Status>> {
    let guard = open(core, peer, owner, Rpc::Subscribe, deadline)?;
    for wanted in wanted {
        if let Err(refusal) = subscribe(&guard.0, wanted) {
            let cause = match &refusal {
                Refusal::Quota(quota) | Refusal::Rate(quota, _) => Cause::quota(*quota),
                Refusal::SessionGone
                | Refusal::StreamGone
                | Refusal::ConnectionGone
                | Refusal::NotYourInbox(_)
                | Refusal::AlreadySubscribed(_)
                | Refusal::NotSubscribed(_) => {
                    Cause::client(EndReason::InvalidRequest).with_note(&refusal.to_string())
                }
            };
            guard.0.core.hub().end_stream(guard.0.key, cause);
            return Err(Box::new(auth::refusal(&refusal)));
        }
    }
    Ok(guard)
}

/// Places a cursor and tells the client so, before any event of it.
pub(super) fn subscribe(handle: &Handle, wanted: &Wanted) -> Result<(), Refusal> {
    let mut hub = handle.core.hub();
    let Subscribed { position, recovered } =
        hub.subscribe(handle.key, &wanted.topic, &wanted.start, wanted.overflow)?;
    let notice = v1::Subscribed {
        topic: wanted.topic.to_string(),
        position: Some(convert::position(position)),
        recovered,
    };
    hub.push_control(handle.key, |out| convert::encode_notice(Kind::Subscribed(notice), out));
    Ok(())
}
