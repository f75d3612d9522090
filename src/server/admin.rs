//! `AdminService`: who holds what, and ending any part of it. Only behind the admin socket.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::base::id::{SessionKey, parse_stream_number};
use crate::base::limits::{NOTE_BYTES_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use crate::base::order::map_of;
use crate::base::reason::{Cause, EndReason};
use crate::hub::registry::{Ended, EndedNode, SessionState, StreamState};
use crate::hub::{Cancelled, Hub};
use crate::server::overview::{count, server_status, shed_plan};
use crate::server::session::peer_of;
use crate::server::{Core, Peer};
use crate::wire::status::{invalid_field, not_found};
use crate::wire::v1::admin_service_server::AdminService;
use crate::wire::{convert, v1};

#[derive(Debug)]
pub(super) struct AdminApi(pub(super) Arc<Core>);

/// Shortest and longest interval of `WatchStatus`.
const WATCH_INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

#[tonic::async_trait]
impl AdminService for AdminApi {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(v1::GetStatusResponse { status: Some(server_status(&self.0)) }))
    }

    type WatchStatusStream = Pin<Box<dyn Stream<Item = Result<v1::WatchStatusResponse, Status>> + Send>>;

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let interval = match &request.get_ref().interval {
            None => Duration::from_secs(1),
            Some(interval) => convert::duration_from(interval)
                .filter(|interval| WATCH_INTERVAL.contains(interval))
                .ok_or_else(|| invalid_field("interval", "must be between 100 ms and 1 h"))?,
        };
        let core = Arc::clone(&self.0);
        let ticks = tokio::time::interval(interval);
        let stream = unfold((core, ticks), |(core, mut ticks)| async move {
            ticks.tick().await;
            let status = Some(server_status(&core));
            Some((Ok(v1::WatchStatusResponse { status }), (core, ticks)))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let hub = self.0.hub();
        // By age: a page token stays right while sessions come and go.
        let all = map_of(hub.sessions().map(|session| (session.key.incarnation, session)));
        let (page, next_page_token) = page(&all, request.page_size, &request.page_token)?;
        let sessions = page.into_iter().map(|session| session_info(&hub, session)).collect();
        Ok(Response::new(v1::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn list_streams(
        &self,
        request: Request<v1::ListStreamsRequest>,
    ) -> Result<Response<v1::ListStreamsResponse>, Status> {
        let request = request.into_inner();
        let of_session = match request.session_id.as_str() {
            "" => None,
            id => Some(parse_session(id)?),
        };
        let hub = self.0.hub();
        let chosen = hub.streams().filter(|stream| of_session.is_none_or(|key| stream.session == key));
        let all = map_of(chosen.map(|stream| (stream.key.number, stream)));
        let (page, next_page_token) = page(&all, request.page_size, &request.page_token)?;
        let streams = page.into_iter().map(|stream| stream_info(&hub, stream)).collect();
        Ok(Response::new(v1::ListStreamsResponse { streams, next_page_token }))
    }

    async fn list_ended(
        &self,
        request: Request<v1::ListEndedRequest>,
    ) -> Result<Response<v1::ListEndedResponse>, Status> {
        let request = request.into_inner();
        let hub = self.0.hub();
        // Newest first: the key falls as the number rises.
        let ends = hub.ended().newest_first();
        let all = map_of(ends.iter().map(|ended| (u64::MAX - ended.number, ended)));
        let (page, next_page_token) = page(&all, request.page_size, &request.page_token)?;
        let ended = page.into_iter().map(ended_info).collect();
        Ok(Response::new(v1::ListEndedResponse { ended, next_page_token }))
    }

    async fn cancel_stream(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let cause = admin_cause(&peer_of(&request)?, &request.get_ref().note)?;
        let v1::CancelRequest { id, dry_run, .. } = request.into_inner();
        let number = parse_stream_number(&id).map_err(|error| invalid_field("id", &error.to_string()))?;
        let cancelled = self.0.hub().cancel_stream(number, &cause, dry_run);
        let cancelled = cancelled.ok_or_else(|| not_found(format!("no live stream {id}"), "id"))?;
        if !dry_run {
            log::info!("{id} cancelled by {}: {:?}", cause.asked_by, cause.note);
        }
        Ok(Response::new(cancel_response(cancelled)))
    }

    async fn cancel_session(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let cause = admin_cause(&peer_of(&request)?, &request.get_ref().note)?;
        let v1::CancelRequest { id, dry_run, .. } = request.into_inner();
        let key = parse_session(&id)?;
        let cancelled = self.0.hub().cancel_session(key, &cause, dry_run, Instant::now());
        let cancelled = cancelled.ok_or_else(|| not_found(format!("no live session {id}"), "id"))?;
        if !dry_run {
            log::info!("{id} cancelled by {}: {:?}", cause.asked_by, cause.note);
        }
        Ok(Response::new(cancel_response(cancelled)))
    }

    async fn plan_shed(
        &self,
        _: Request<v1::PlanShedRequest>,
    ) -> Result<Response<v1::PlanShedResponse>, Status> {
        Ok(Response::new(shed_plan(&self.0)))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let cause = admin_cause(&peer_of(&request)?, &request.get_ref().note)?;
        let status = server_status(&self.0);
        log::info!("drain asked for by {}: {:?}", cause.asked_by, cause.note);
        self.0.ask_for_drain(Cause { reason: EndReason::ServerDraining, ..cause });
        let drain_timeout = Some(convert::duration(self.0.shutdown_times().drain_timeout));
        Ok(Response::new(v1::DrainResponse {
            streams: status.streams,
            sessions: status.sessions,
            drain_timeout,
        }))
    }
}

fn parse_session(id: &str) -> Result<SessionKey, Status> {
    id.parse().map_err(|error: crate::base::id::SessionIdError| invalid_field("id", &error.to_string()))
}

fn admin_cause(peer: &Peer, note: &str) -> Result<Cause, Status> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(invalid_field("note", "has at most 512 bytes"));
    }
    let uid = peer.admin_uid.map_or_else(String::new, |uid| uid.to_string());
    let asked_by = format!("admin uid={uid}").into();
    Ok(Cause { asked_by, ..Cause::server(EndReason::AdminCancelled).with_note(note) })
}

/// One page of `all` in the order of its keys (AIP-158). The token is the last key of the page before.
fn page<'a, T>(all: &BTreeMap<u64, &'a T>, size: i32, token: &str) -> Result<(Vec<&'a T>, String), Status> {
    let size = match usize::try_from(size) {
        Err(_) => return Err(invalid_field("page_size", "must not be negative")),
        Ok(0) => PAGE_SIZE_DEFAULT,
        Ok(size) => size.min(PAGE_SIZE_MAX),
    };
    let after =
        match token {
            "" => None,
            token => Some(token.parse::<u64>().map_err(|_| {
                invalid_field("page_token", "must be the next_page_token of the page before")
            })?),
        };
    let mut rest = all.iter().filter(|(key, _)| after.is_none_or(|after| **key > after));
    let page: Vec<_> = rest.by_ref().take(size).collect();
    let more = rest.next().is_some();
    let next = page.last().filter(|_| more).map(|(key, _)| key.to_string()).unwrap_or_default();
    Ok((page.into_iter().map(|(_, item)| *item).collect(), next))
}

fn cancel_response(cancelled: Cancelled) -> v1::CancelResponse {
    v1::CancelResponse {
        streams_ended: cancelled.streams,
        sessions_ended: cancelled.sessions,
        others_untouched: cancelled.others_untouched,
    }
}

fn reason_number(cause: Option<&Cause>) -> i32 {
    cause.map_or(0, |cause| convert::reason(cause.reason).into())
}

fn session_info(hub: &Hub, session: &SessionState) -> v1::SessionInfo {
    let lease_until = session.heard_at + hub.limits().lease.max(session.lease);
    v1::SessionInfo {
        id: session.key.to_string(),
        user: session.principal.user.to_string(),
        client_name: session.principal.client_name.to_string(),
        started_at: Some(convert::timestamp(Core::wall(session.started_at))),
        lease_left: Some(convert::duration(lease_until.saturating_duration_since(Instant::now()))),
        streams: count(session.streams.len()),
        connection_ids: session.connections.iter().map(ToString::to_string).collect(),
        ending: reason_number(session.scope.cause()),
    }
}

fn stream_info(hub: &Hub, stream: &StreamState) -> v1::StreamInfo {
    let lag = hub.subscriptions(stream.key);
    let subscriptions: Vec<_> = lag
        .map(|(topic, lag_bytes)| v1::SubscriptionInfo {
            topic: topic.to_string(),
            lag_bytes: lag_bytes as u64,
        })
        .collect();
    let connection = hub.connection(stream.connection);
    let deadline_left = stream.deadline.map(|at| at.saturating_duration_since(Instant::now()));
    v1::StreamInfo {
        id: stream.key.to_string(),
        session_id: stream.session.to_string(),
        user: stream.principal.user.to_string(),
        client_name: stream.principal.client_name.to_string(),
        connection_id: stream.connection.to_string(),
        rpc: stream.rpc.name().to_owned(),
        peer: connection.map(|connection| connection.peer.to_string()).unwrap_or_default(),
        started_at: Some(convert::timestamp(Core::wall(stream.started_at))),
        lag_bytes: subscriptions.iter().map(|subscription| subscription.lag_bytes).sum(),
        subscriptions,
        events_delivered: stream.delivered.events,
        bytes_delivered: stream.delivered.bytes,
        last_sequence: stream.delivered.last_sequence,
        deadline_left: deadline_left.map(convert::duration),
        ending: reason_number(stream.scope.cause()),
    }
}

/// An end as the contract tells it.
pub(super) fn ended_info(ended: &Ended) -> v1::Ended {
    let common = v1::Ended {
        id: ended.session.to_string(),
        kind: v1::EndedKind::Session.into(),
        session_id: ended.session.to_string(),
        user: ended.principal.user.to_string(),
        client_name: ended.principal.client_name.to_string(),
        reason: convert::reason(ended.cause.reason).into(),
        note: ended.cause.note.to_string(),
        asked_by: ended.cause.asked_by.to_string(),
        ended_at: Some(convert::timestamp(Core::wall(ended.ended_at))),
        started_at: Some(convert::timestamp(Core::wall(ended.started_at))),
        ..v1::Ended::default()
    };
    match &ended.node {
        EndedNode::Session => common,
        EndedNode::Stream { key, rpc, connection, delivered, lag_bytes } => v1::Ended {
            id: key.to_string(),
            kind: v1::EndedKind::Stream.into(),
            events_delivered: delivered.events,
            bytes_delivered: delivered.bytes,
            lag_bytes_left: *lag_bytes,
            last_sequence: delivered.last_sequence,
            rpc: rpc.name().to_owned(),
            connection_id: connection.to_string(),
            ..common
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_loss_while_things_come_and_go() {
        let values: Vec<u64> = (0..10).collect();
        let all: BTreeMap<u64, &u64> = values.iter().map(|value| (*value, value)).collect();
        let (first, token) = page(&all, 4, "").unwrap();
        assert_eq!(first, [&0, &1, &2, &3]);
        let fewer: BTreeMap<u64, &u64> = all.into_iter().filter(|(key, _)| *key > 2).collect();
        let (second, token) = page(&fewer, 4, &token).unwrap();
        assert_eq!(second, [&4, &5, &6, &7]);
        let (third, token) = page(&fewer, 4, &token).unwrap();
        assert_eq!((third, token.as_str()), (vec![&8, &9], ""));
    }

    #[test]
    fn bad_pages_are_refused() {
        let none: BTreeMap<u64, &u64> = BTreeMap::new();
        assert!(page(&none, -1, "").is_err());
        assert!(page(&none, 0, "x").is_err());
        assert_eq!(page(&none, 0, "").unwrap(), (vec![], String::new()));
    }
}
