//! A hub that answers as it is told: HTTP/2 by hand, in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::line::ROOM;
use crate::base::reason::EndReason;
use crate::client::{Client, ClientError, Pipeline, PipelineConfig, connect_io};
use crate::tests::peer::framed;
use crate::wire::v1;
use crate::wire::v1::notice;

/// The epoch it speaks of.
pub(super) const EPOCH: &str = "e";

/// What a client did, and when.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Did {
    Dial,
    /// The number of the session it got.
    LogIn(Option<u32>),
    Beat,
    LogOut,
    /// With whose token, and where it starts.
    Subscribe(String, Option<v1::subscription::Start>),
}

/// What becomes of a stream.
#[derive(Clone, Debug)]
pub(super) enum Play {
    Refuse(Status),
    /// Frames; then the end, if there is one.
    Serve(Vec<v1::ServerFrame>, Option<(Duration, Status)>),
}

#[derive(Default)]
struct State {
    logins_refused: VecDeque<Status>,
    beats_refused: VecDeque<Status>,
    plays: VecDeque<Play>,
    sessions: u32,
    did: Vec<(Instant, Did)>,
    tasks: JoinSet<()>,
}

/// The hub. What it was not told it grants: logins, heartbeats, streams that stay.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<State>>);

impl Script {
    pub(super) fn refuse_logins(&self, statuses: impl IntoIterator<Item = Status>) {
        self.0.lock().unwrap().logins_refused.extend(statuses);
    }

    pub(super) fn refuse_beats(&self, statuses: impl IntoIterator<Item = Status>) {
        self.0.lock().unwrap().beats_refused.extend(statuses);
    }

    pub(super) fn play(&self, plays: impl IntoIterator<Item = Play>) {
        self.0.lock().unwrap().plays.extend(plays);
    }

    /// All of it so far.
    pub(super) fn did(&self) -> Vec<(Instant, Did)> {
        self.0.lock().unwrap().did.clone()
    }

    pub(super) fn count(&self, is_it: impl Fn(&Did) -> bool) -> usize {
        self.did().iter().filter(|(_, did)| is_it(did)).count()
    }

    /// The subscriptions: when, by whose token, from where.
    pub(super) fn subscribes(&self) -> Vec<(Instant, String, Option<v1::subscription::Start>)> {
        let subscribe = |(at, did)| match did {
            Did::Subscribe(token, start) => Some((at, token, start)),
            Did::Dial | Did::LogIn(_) | Did::Beat | Did::LogOut => None,
        };
        self.did().into_iter().filter_map(subscribe).collect()
    }

    pub(super) fn pipeline(&self, config: PipelineConfig) -> Pipeline {
        let script = self.clone();
        Pipeline::over(config, move || script.clone().connect()).unwrap()
    }

    async fn connect(self) -> Result<Client, ClientError> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.note(Did::Dial);
        let script = self.clone();
        self.0.lock().unwrap().tasks.spawn(async move {
            let Ok(mut connection) = h2::server::handshake(theirs).await else { return };
            let mut calls = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                calls.spawn(script.clone().answer(request, respond));
            }
        });
        connect_io(ours).await
    }

    fn note(&self, did: Did) {
        let mut state = self.0.lock().unwrap();
        state.did.push((Instant::now(), did));
        assert!(state.did.len() < 5000, "it never rests");
    }

    async fn answer(self, request: Request<h2::RecvStream>, respond: SendResponse<Bytes>) {
        let path = request.uri().path().rsplit('/').next().unwrap().to_owned();
        match path.as_str() {
            "Login" => self.log_in(respond),
            "Heartbeat" => {
                self.note(Did::Beat);
                let refused = self.0.lock().unwrap().beats_refused.pop_front();
                reply(respond, refused.map_or(Ok(v1::HeartbeatResponse::default()), Err));
            }
            "Logout" => {
                self.note(Did::LogOut);
                reply(respond, Ok(v1::LogoutResponse::default()));
            }
            "Subscribe" => self.subscribe(request, respond).await,
            other => panic!("called {other}"),
        }
    }

    fn log_in(&self, respond: SendResponse<Bytes>) {
        let mut state = self.0.lock().unwrap();
        if let Some(refused) = state.logins_refused.pop_front() {
            drop(state);
            self.note(Did::LogIn(None));
            return reply(respond, Err::<v1::LoginResponse, _>(refused));
        }
        state.sessions += 1;
        let number = state.sessions;
        drop(state);
        self.note(Did::LogIn(Some(number)));
        let policy = v1::SessionPolicy { max_message_bytes: 65536, ..Default::default() };
        reply(
            respond,
            Ok(v1::LoginResponse {
                session_id: format!("session/{number}.1"),
                token: format!("token {number}"),
                policy: Some(policy),
                previous_end: None,
            }),
        );
    }

    async fn subscribe(self, request: Request<h2::RecvStream>, respond: SendResponse<Bytes>) {
        let token = request.headers()["authorization"].to_str().unwrap().to_owned();
        let mut body = request.into_body();
        let mut received = BytesMut::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            received.extend_from_slice(&data);
        }
        let asked = v1::SubscribeRequest::decode(received.freeze().slice(5..)).unwrap();
        let start = asked.subscriptions[0].start.clone();
        self.note(Did::Subscribe(token.strip_prefix("Bearer ").unwrap().to_owned(), start));
        let play = self.0.lock().unwrap().plays.pop_front();
        let (frames, end) = match play {
            Some(Play::Refuse(status)) => return refuse(respond, status),
            Some(Play::Serve(frames, end)) => (frames, end),
            None => (vec![live(9, &[])], None),
        };
        let Some(mut stream) = head(respond) else { return };
        for message in &frames {
            let _ = stream.send_data(framed(message), false);
        }
        let Some((after, status)) = end else {
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            return;
        };
        tokio::time::sleep(after).await;
        let _ = stream.send_trailers(trailers(&status));
    }
}

/// The word that the subscription is live after `sequence`, and these events.
pub(super) fn live(sequence: u64, events: &[u64]) -> v1::ServerFrame {
    let position = Some(v1::Position { epoch: EPOCH.to_owned(), sequence });
    let subscribed = v1::Subscribed { topic: ROOM.to_owned(), position, recovered: true };
    let event = |sequence: &u64| v1::Event {
        topic: ROOM.to_owned(),
        sequence: *sequence,
        payload: format!("event {sequence}").into(),
        ..Default::default()
    };
    v1::ServerFrame {
        events: events.iter().map(event).collect(),
        notices: vec![v1::Notice { kind: Some(notice::Kind::Subscribed(subscribed)) }],
        ..Default::default()
    }
}

/// A status as the hub sends it.
pub(super) fn said(reason: EndReason, code: Code, wait: Option<Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason.name(), "streamward", HashMap::new());
    details.set_retry_info(wait);
    Status::with_error_details_and_metadata(code, "as the script says", details, MetadataMap::new())
}

fn reply(respond: SendResponse<Bytes>, answer: Result<impl Message, Status>) {
    let Some(mut body) = head(respond) else { return };
    let status = match answer {
        Ok(message) => {
            let _ = body.send_data(framed(&message), false);
            Status::ok("")
        }
        Err(status) => status,
    };
    let _ = body.send_trailers(trailers(&status));
}

/// Refused before anything: gRPC's "Trailers-Only".
fn refuse(mut respond: SendResponse<Bytes>, status: Status) {
    let _ = respond.send_response(status.into_http::<()>().map(drop), true);
}

fn head(mut respond: SendResponse<Bytes>) -> Option<h2::SendStream<Bytes>> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    respond.send_response(head, false).ok()
}

fn trailers(status: &Status) -> HeaderMap {
    // tonic writes a status only into a response's head: the same fields.
    let mut map = status.clone().into_http::<()>().headers().clone();
    map.remove("content-type");
    map
}
