//! `SessionService`: login, heartbeat, logout.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::base::id::SessionKey;
use crate::base::principal::{Principal, PrincipalError};
use crate::base::reason::{Cause, EndReason};
use crate::hub::Refusal;
use crate::hub::registry::Token;
use crate::runtime::phase::Phase;
use crate::server::admin::ended_info;
use crate::server::auth::{self, print_token};
use crate::server::{Core, Peer, overload};
use crate::wire::status::{EndFacts, ended, invalid_field};
use crate::wire::v1::session_service_server::SessionService;
use crate::wire::{convert, v1};

#[derive(Debug)]
pub(super) struct SessionApi(pub(super) Arc<Core>);

/// What the connection put beside the request.
pub(super) fn peer_of<T>(request: &Request<T>) -> Result<Peer, Status> {
    request.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("the call has no connection"))
}

impl SessionApi {
    fn session_of<T>(&self, request: &Request<T>) -> Result<SessionKey, Status> {
        let peer = peer_of(request)?;
        let known = auth::session(&self.0, &peer, request.metadata().as_ref());
        known.map(|(session, _)| session).map_err(|status| *status)
    }
}

#[tonic::async_trait]
impl SessionService for SessionApi {
    async fn login(&self, request: Request<v1::LoginRequest>) -> Result<Response<v1::LoginResponse>, Status> {
        let core = &self.0;
        if let Some(cause) = core.refusing() {
            let retry_after = Some(core.shutdown_times().retry_after);
            return Err(ended(&cause, &EndFacts { retry_after, ..EndFacts::default() }));
        }
        let peer = peer_of(&request)?;
        let login = request.into_inner();
        let principal = Principal::new(&login.user, &login.client_name).map_err(|error| match error {
            PrincipalError::NoUser | PrincipalError::User => invalid_field("user", &error.to_string()),
            PrincipalError::ClientName => invalid_field("client_name", &error.to_string()),
        })?;
        overload::admit_login(core, &peer, &principal).map_err(|status| refused(core, *status))?;
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            log::error!("no randomness for a session token: {error}");
            Status::internal("no randomness for a session token")
        })?;
        let token = Token(bytes);
        let now = Instant::now();
        let granted = core.hub().login(principal.clone(), token.clone(), peer.connection, now);
        let granted = granted.map_err(|refusal| refused(core, no_room(core, &peer, &refusal)))?;
        log::info!(
            "{} is {} {:?} on {}",
            granted.session,
            principal.user,
            principal.client_name,
            peer.connection
        );
        Ok(Response::new(v1::LoginResponse {
            session_id: granted.session.to_string(),
            token: print_token(&token),
            policy: policy(core, granted.session),
            previous_end: granted.previous.as_ref().map(ended_info),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let peer = peer_of(&request)?;
        let known = auth::session(&self.0, &peer, &request.metadata().clone().into_headers());
        let (session, _) = known.map_err(|status| *status)?;
        self.0.hub().heartbeat(session, Instant::now());
        Ok(Response::new(v1::HeartbeatResponse {
            server_time: Some(convert::timestamp(SystemTime::now())),
            pressure: convert::pressure(self.0.vitals().level).into(),
            draining: self.0.phase.get() > Phase::Running,
            policy: policy(&self.0, session),
        }))
    }

    async fn logout(
        &self,
        request: Request<v1::LogoutRequest>,
    ) -> Result<Response<v1::LogoutResponse>, Status> {
        let session = self.session_of(&request)?;
        let cause = Cause::client(EndReason::SessionLoggedOut);
        let ended = self.0.end_session_and_wait(session, cause).await;
        log::info!("{session} logged out");
        let streams_ended = ended.map_or(0, |ended| ended.streams);
        Ok(Response::new(v1::LogoutResponse { streams_ended }))
    }
}

/// Places that others hold may be free later; a user's own are theirs to free.
fn no_room(core: &Core, peer: &Peer, refusal: &Refusal) -> Status {
    if let Refusal::Quota(quota) = refusal
        && quota.key == "limits.sessions_max"
    {
        let retry_after = Some(core.retry_slot_of(peer.connection));
        return ended(&Cause::quota(*quota), &EndFacts { retry_after, ..EndFacts::default() });
    }
    auth::refusal(refusal)
}

/// Counts a refused login.
fn refused(core: &Core, status: Status) -> Status {
    core.hub().count_refused_login();
    status
}

/// What the server expects of a session's client now.
fn policy(core: &Core, session: SessionKey) -> Option<v1::SessionPolicy> {
    let limits = core.limits();
    let promise = core.hub().promise(session)?;
    let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    Some(v1::SessionPolicy {
        heartbeat_interval: Some(convert::duration(promise.heartbeat_interval)),
        lease: Some(convert::duration(promise.lease)),
        stream_idle_timeout: Some(convert::duration(promise.stream_idle_timeout)),
        max_streams: limits.streams_per_session_max,
        max_message_bytes: bytes(limits.message_bytes_max),
        max_lag_bytes: bytes(limits.lag_bytes_max),
    })
}
