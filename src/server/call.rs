//! One call: checks its head, finds who serves it, and sends what has no stream of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use tokio::time::Instant;
use tonic::Status;
use tonic_health::pb::health_server::Health as _;

use crate::base::limits::UNARY_TIMEOUT;
use crate::base::reason::{Cause, EndReason};
use crate::server::admin::AdminApi;
use crate::server::ask::{Answer, server_streaming, unary};
use crate::server::health::HealthApi;
use crate::server::session::SessionApi;
use crate::server::{Core, Peer, overload, publish, pump, reflection, stream};
use crate::wire::status;
use crate::wire::timeout::parse_timeout;
use crate::wire::v1::admin_service_server::AdminService as _;
use crate::wire::v1::session_service_server::SessionService as _;

/// A call under way. Boxed one by one: a stream is not to carry the size of a login.
pub(super) type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves one call to its end.
pub(super) fn run(
    core: &Arc<Core>,
    peer: &Peer,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Call {
    let deadline = match check_head(&request) {
        Ok(timeout) => timeout.map(|timeout| Instant::now() + timeout),
        Err(refusal) => {
            refuse_head(&mut respond, refusal);
            return Box::pin(std::future::ready(()));
        }
    };
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        // The client has given up by now: nothing is carried out.
        refuse_late(&mut respond);
        return Box::pin(std::future::ready(()));
    }
    let core = Arc::clone(core);
    match request.uri().path() {
        "/streamward.v1.MessageService/Connect" => stream::connect(core, peer, deadline, request, respond),
        "/streamward.v1.MessageService/Subscribe" => {
            stream::follow(core, peer.clone(), deadline, request, respond)
        }
        "/streamward.v1.MessageService/Publish" => {
            Box::pin(publish::serve(core, peer.clone(), deadline, request, respond))
        }
        _ => Box::pin(generated(core, peer.clone(), deadline, request, respond)),
    }
}

enum HeadError {
    /// Not gRPC at all.
    Http(StatusCode),
    /// gRPC, but not answerable.
    Grpc(Box<Status>),
}

/// gRPC over HTTP/2: POST, a gRPC content type, and a timeout that can be read.
fn check_head(request: &Request<h2::RecvStream>) -> Result<Option<Duration>, HeadError> {
    if request.method() != Method::POST {
        return Err(HeadError::Http(StatusCode::METHOD_NOT_ALLOWED));
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = |value: &[u8]| {
        value
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    };
    if !content_type.is_some_and(|value| is_grpc(value.as_bytes())) {
        return Err(HeadError::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    match request.headers().get("grpc-timeout") {
        None => Ok(None),
        Some(value) => parse_timeout(value.as_bytes()).map(Some).map_err(|error| {
            HeadError::Grpc(Box::new(status::invalid_field("grpc-timeout", &error.to_string())))
        }),
    }
}

fn refuse_head(respond: &mut SendResponse<Bytes>, refusal: HeadError) {
    match refusal {
        HeadError::Grpc(status) => refuse(respond, &status),
        HeadError::Http(code) => {
            let mut response = Response::new(());
            *response.status_mut() = code;
            ignore_gone(respond.send_response(response, true).map(drop));
        }
    }
}

/// Ends a call with a status alone ("trailers only").
pub(super) fn refuse(respond: &mut SendResponse<Bytes>, status: &Status) {
    let mut response = Response::new(());
    *response.headers_mut() = trailers(status);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    ignore_gone(respond.send_response(response, true).map(drop));
}

/// Begins the answer of a call.
pub(super) fn begin(respond: &mut SendResponse<Bytes>) -> Result<SendStream<Bytes>, h2::Error> {
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    respond.send_response(response, false)
}

/// A status as trailers.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // A text that is no header value; the code alone still tells.
        headers.clear();
        headers.insert("grpc-status", header::HeaderValue::from(status.code() as i32));
    }
    headers
}

/// Writing to a stream that the peer has already reset is no error of ours; how it ended is recorded elsewhere.
pub(super) fn ignore_gone(result: Result<(), h2::Error>) {
    if let Err(error) = result {
        log::trace!("the peer was gone: {error}");
    }
}

/// Serves a call through the generated services.
async fn generated(
    core: Arc<Core>,
    peer: Peer,
    deadline: Option<Instant>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let Some(answer) = in_time(deadline, &mut respond, dispatch(&core, &peer, request)).await else { return };
    pump::run(&peer, deadline, answer, respond).await;
}

/// Waits for an answer as long as the call may take. `None` when its time is over, which the client is told, or when
/// the client reset it.
pub(super) async fn in_time<A>(
    deadline: Option<Instant>,
    respond: &mut SendResponse<Bytes>,
    answer: impl Future<Output = A>,
) -> Option<A> {
    let latest = Instant::now() + UNARY_TIMEOUT;
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = tokio::time::sleep_until(deadline.map_or(latest, |deadline| deadline.min(latest))) => {
            refuse_late(respond);
            None
        }
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => None,
    }
}

fn refuse_late(respond: &mut SendResponse<Bytes>) {
    let cause = Cause::server(EndReason::DeadlineExceeded);
    refuse(respond, &status::ended(&cause, &status::EndFacts::default()));
}

async fn dispatch(
    core: &Arc<Core>,
    peer: &Peer,
    mut request: Request<h2::RecvStream>,
) -> Response<tonic::body::Body> {
    let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
    let service = service.to_owned();
    if overload::is_anonymous_work(request.uri().path())
        && let Err(refused) = overload::admit_anonymous(core, peer)
    {
        return refused.into_http();
    }
    request.extensions_mut().insert(peer.clone());
    let answer = match service.as_str() {
        "streamward.v1.SessionService" => ask_session(core, request).await,
        "streamward.v1.AdminService" if peer.admin_uid.is_some() => ask_admin(core, request).await,
        "streamward.v1.AdminService" => {
            Err(status::unimplemented("AdminService is served on the admin socket only"))
        }
        "grpc.health.v1.Health" => ask_health(core, request).await,
        "grpc.reflection.v1.ServerReflection" if method_of(&request) == "ServerReflectionInfo" => {
            Ok(reflection::serve(request))
        }
        _ => Err(no_such_method()),
    };
    answer.unwrap_or_else(Status::into_http)
}

fn no_such_method() -> Status {
    status::unimplemented("no such service or method; reflection lists what there is")
}

fn method_of(request: &Request<h2::RecvStream>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}

async fn ask_session(core: &Arc<Core>, request: Request<h2::RecvStream>) -> Result<Answer, Status> {
    let api = &SessionApi(Arc::clone(core));
    match method_of(&request) {
        "Login" => unary(request, |login| api.login(login)).await,
        "Heartbeat" => unary(request, |heartbeat| api.heartbeat(heartbeat)).await,
        "Logout" => unary(request, |logout| api.logout(logout)).await,
        _ => Err(no_such_method()),
    }
}

async fn ask_admin(core: &Arc<Core>, request: Request<h2::RecvStream>) -> Result<Answer, Status> {
    let api = &AdminApi(Arc::clone(core));
    match method_of(&request) {
        "GetStatus" => unary(request, |asked| api.get_status(asked)).await,
        "WatchStatus" => server_streaming(request, |asked| api.watch_status(asked)).await,
        "ListSessions" => unary(request, |asked| api.list_sessions(asked)).await,
        "ListStreams" => unary(request, |asked| api.list_streams(asked)).await,
        "ListEnded" => unary(request, |asked| api.list_ended(asked)).await,
        "CancelStream" => unary(request, |asked| api.cancel_stream(asked)).await,
        "CancelSession" => unary(request, |asked| api.cancel_session(asked)).await,
        "PlanShed" => unary(request, |asked| api.plan_shed(asked)).await,
        "Drain" => unary(request, |asked| api.drain(asked)).await,
        _ => Err(no_such_method()),
    }
}

async fn ask_health(core: &Arc<Core>, request: Request<h2::RecvStream>) -> Result<Answer, Status> {
    let api = &HealthApi(Arc::clone(core));
    match method_of(&request) {
        "Check" => unary(request, |asked| api.check(asked)).await,
        "Watch" => server_streaming(request, |asked| api.watch(asked)).await,
        _ => Err(no_such_method()),
    }
}
