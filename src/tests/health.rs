//! `grpc.health.v1.Health` follows the phase, and its watches end with the server.

use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::house::{House, pass, settle};
use super::peer::{Peer, framed};
use crate::base::reason::EndReason;
use crate::daemon::Stopped;
use crate::wire::codec::Deframer;
use crate::wire::ended::end_details;
use prost::Message as _;

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// What a watch has seen.
#[derive(Debug, Default)]
struct Watched {
    statuses: Vec<ServingStatus>,
    end: Option<Status>,
}

async fn check(peer: &mut Peer, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer: HealthCheckResponse = peer.ask(CHECK, &request).await?;
    Ok(answer.status())
}

async fn watch(peer: &mut Peer, service: &str, tasks: &mut JoinSet<()>) -> Arc<Mutex<Watched>> {
    let (response, mut send) = peer.call("/grpc.health.v1.Health/Watch", None).await;
    let request = HealthCheckRequest { service: service.to_owned() };
    send.send_data(framed(&request), true).unwrap();
    let watched = Arc::new(Mutex::new(Watched::default()));
    tasks.spawn({
        let watched = Arc::clone(&watched);
        async move {
            let mut body = response.await.unwrap().into_body();
            let mut deframer = Deframer::new(1000);
            while let Some(Ok(chunk)) = body.data().await {
                deframer.push(chunk);
                while let Some(message) = deframer.next_message().unwrap() {
                    let status = HealthCheckResponse::decode(message).unwrap().status();
                    watched.lock().unwrap().statuses.push(status);
                }
            }
            let trailers = body.trailers().await.unwrap().unwrap();
            watched.lock().unwrap().end = Status::from_header_map(&trailers);
        }
    });
    settle().await;
    watched
}

#[tokio::test(start_paused = true)]
async fn check_says_serving_for_what_there_is_and_not_found_for_the_rest() {
    let mut house = House::new();
    let mut peer = house.peer().await;
    for service in ["", "streamward.v1.SessionService", "streamward.v1.MessageService"] {
        assert_eq!(check(&mut peer, service).await.unwrap(), ServingStatus::Serving);
    }
    assert_eq!(check(&mut peer, "no.Such").await.unwrap_err().code(), Code::NotFound);
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn watch_follows_the_phase_and_is_ended_at_drain() {
    let mut house = House::new();
    let (mut peer, mut tasks) = (house.peer().await, JoinSet::new());
    let known = watch(&mut peer, "", &mut tasks).await;
    pass(3600).await;
    assert_eq!(known.lock().unwrap().statuses, [ServingStatus::Serving], "told once");
    assert_eq!(house.stop().await, Stopped::Drained);
    settle().await;
    let Watched { statuses, end } = std::mem::take(&mut *known.lock().unwrap());
    assert_eq!(statuses, [ServingStatus::Serving, ServingStatus::NotServing]);
    let end = end.as_ref().unwrap();
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(end_details(end).unwrap().reason, EndReason::ServerDraining);
    assert_eq!(peer.closed().as_deref(), Some(""));
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn watch_of_an_unknown_service_says_so_and_stays_open() {
    let mut house = House::new();
    let (mut peer, mut tasks) = (house.peer().await, JoinSet::new());
    let unknown = watch(&mut peer, "no.Such", &mut tasks).await;
    pass(3600).await;
    {
        let unknown = unknown.lock().unwrap();
        assert_eq!(unknown.statuses, [ServingStatus::ServiceUnknown]);
        assert!(unknown.end.is_none(), "{:?}", unknown.end);
    }
    assert_eq!(house.stop().await, Stopped::Drained, "it does not hold the drain open");
    settle().await;
    assert_eq!(unknown.lock().unwrap().end.as_ref().unwrap().code(), Code::Unavailable);
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn check_says_not_serving_while_the_server_stops() {
    let mut house = House::new();
    let mut peer = house.peer().await;
    check(&mut peer, "").await.unwrap();
    house.core.phase.advance(crate::runtime::phase::Phase::Refusing);
    assert_eq!(check(&mut peer, "").await.unwrap(), ServingStatus::NotServing);
    drop(peer);
    house.close().await;
}
