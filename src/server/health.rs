//! `grpc.health.v1.Health`: follows the phase, per the health checking protocol.
//!
//! Ours rather than tonic-health's service: a Watch of an unknown service must answer SERVICE_UNKNOWN and stay open,
//! and at drain every Watch gets NOT_SERVING and is ended.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::base::reason::{Cause, EndReason};
use crate::runtime::phase::Phase;
use crate::server::Core;
use crate::wire::status::{EndFacts, ended};

#[derive(Debug)]
pub(super) struct HealthApi(pub(super) Arc<Core>);

/// The empty name is the server as a whole.
const SERVICES: [&str; 4] =
    ["", "streamward.v1.SessionService", "streamward.v1.MessageService", "streamward.v1.AdminService"];

fn serving(known: bool, phase: Phase) -> ServingStatus {
    match phase {
        _ if !known => ServingStatus::ServiceUnknown,
        Phase::Running => ServingStatus::Serving,
        Phase::Refusing | Phase::Draining | Phase::Aborting => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl Health for HealthApi {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found(format!("no service {service:?}; reflection lists what there is")));
        }
        let status = serving(true, self.0.phase.get()).into();
        Ok(Response::new(HealthCheckResponse { status }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = SERVICES.contains(&request.get_ref().service.as_str());
        let phases = self.0.phase.watch();
        let retry_after = Some(self.0.shutdown_times().retry_after);
        // State: the receiver and the phase last told; `None` when the end was told.
        let stream = unfold(Some((phases, None)), move |state| async move {
            let (mut phases, told) = state?;
            let phase = match told {
                None => *phases.borrow_and_update(),
                Some(Phase::Running) => *phases.wait_for(|phase| *phase > Phase::Running).await.ok()?,
                Some(Phase::Refusing | Phase::Draining | Phase::Aborting) => {
                    let facts = EndFacts { retry_after, ..EndFacts::default() };
                    let end = ended(&Cause::server(EndReason::ServerDraining), &facts);
                    return Some((Err(end), None));
                }
            };
            let status = serving(known, phase).into();
            Some((Ok(HealthCheckResponse { status }), Some((phases, Some(phase)))))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
