//! The library against a scripted peer: raw HTTP/2 over an in-memory pipe.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::io::DuplexStream;
use tokio::task::JoinSet;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::base::reason::EndReason;
use crate::client::{ClientError, Item, MessageStream, Session, StreamEnd, connect_io};
use crate::wire::v1;

type Respond = SendResponse<Bytes>;
type Call = (Request<h2::RecvStream>, Respond);

/// The hub's side: hands out calls; the connection is driven by a task of its own.
struct Peer {
    calls: tokio::sync::mpsc::Receiver<Call>,
    tasks: JoinSet<()>,
}

impl Peer {
    fn new(io: DuplexStream) -> Self {
        let (sender, calls) = tokio::sync::mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(Ok(call)) = connection.accept().await {
                sender.send(call).await.unwrap();
            }
        });
        Self { calls, tasks }
    }

    /// The next call, which must be to `path`.
    async fn call(&mut self, path: &str) -> Call {
        let call = self.calls.recv().await.unwrap();
        assert!(call.0.uri().path().ends_with(path), "{}", call.0.uri());
        call
    }

    async fn answer(&mut self, path: &str, message: impl Message) -> Request<h2::RecvStream> {
        let (request, respond) = self.call(path).await;
        let mut body = head(respond);
        body.send_data(frame(&message), false).unwrap();
        body.send_trailers(trailers(&Status::ok(""))).unwrap();
        request
    }

    async fn refuse(&mut self, path: &str, status: &Status) {
        let (_, respond) = self.call(path).await;
        head(respond).send_trailers(trailers(status)).unwrap();
    }
}

fn head(mut respond: Respond) -> h2::SendStream<Bytes> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    respond.send_response(head, false).unwrap()
}

fn frame(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

fn trailers(status: &Status) -> HeaderMap {
    // tonic writes a status only into a response's head: the same fields.
    status.clone().into_http::<()>().headers().clone().into_iter().fold(
        HeaderMap::new(),
        |mut map, (name, value)| {
            if let Some(name) = name.filter(|name| *name != "content-type") {
                map.insert(name, value);
            }
            map
        },
    )
}

fn ended_with(reason: &str, code: Code) -> Status {
    let mut details = ErrorDetails::with_error_info(
        reason,
        "streamward",
        HashMap::from([("last_sequence".into(), "9".into())]),
    );
    details.set_retry_info(Some(Duration::from_secs(2)));
    Status::with_error_details_and_metadata(code, "the text", details, MetadataMap::new())
}

fn login_response(heartbeat: Duration) -> v1::LoginResponse {
    v1::LoginResponse {
        session_id: "session/0.1".to_owned(),
        token: "secret".to_owned(),
        policy: Some(v1::SessionPolicy {
            heartbeat_interval: Some(heartbeat.try_into().unwrap()),
            max_message_bytes: 65536,
            ..Default::default()
        }),
        previous_end: None,
    }
}

async fn logged_in() -> (Session, Peer) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut peer = Peer::new(theirs);
    let client = connect_io(ours).await.unwrap();
    let (session, _) = tokio::join!(
        client.login("alice", "", "test"),
        peer.answer("/Login", login_response(Duration::from_secs(3600)))
    );
    (session.unwrap(), peer)
}

async fn subscribed(session: &Session, peer: &mut Peer) -> (MessageStream, h2::SendStream<Bytes>) {
    let answer = async {
        let (request, respond) = peer.call("/Subscribe").await;
        assert_eq!(request.headers()["authorization"], "Bearer secret");
        head(respond)
    };
    let (stream, body) = tokio::join!(session.subscribe(vec![v1::Subscription::default()]), answer);
    (stream.unwrap(), body)
}

async fn end_of(stream: &mut MessageStream) -> StreamEnd {
    tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Err(end) = stream.next().await {
                return end;
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_refused_login_carries_the_reason() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut peer = Peer::new(theirs);
    let client = connect_io(ours).await.unwrap();
    let refusal = ended_with("QUOTA_EXCEEDED", Code::ResourceExhausted);
    let (login, ()) = tokio::join!(client.login("alice", "", ""), peer.refuse("/Login", &refusal));
    let error = login.unwrap_err();
    assert_eq!(error.reason(), Some(EndReason::QuotaExceeded));
    assert_eq!(error.to_string(), "the text");
    let ClientError::Refused { details: Some(details), .. } = error else { panic!("{error:?}") };
    assert_eq!(details.retry_after, Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn a_stream_hands_out_its_items_and_then_the_hubs_reason() {
    let (session, mut peer) = logged_in().await;
    let (mut stream, mut body) = subscribed(&session, &mut peer).await;
    let event = v1::Event { sequence: 9, payload: "x".into(), ..Default::default() };
    body.send_data(frame(&v1::ServerFrame { events: vec![event], ..Default::default() }), false).unwrap();
    body.send_trailers(trailers(&ended_with("SLOW_CONSUMER", Code::ResourceExhausted))).unwrap();
    assert!(matches!(stream.next().await, Ok(Item::Event(event)) if event.sequence == 9));
    let end = stream.next().await.unwrap_err();
    assert_eq!(end.reason, Some(EndReason::SlowConsumer));
    assert_eq!(end.details.unwrap().last_sequence, Some(9));
    assert_eq!(stream.next().await.unwrap_err().reason, Some(EndReason::Completed), "asked again");
}

#[tokio::test]
async fn ok_is_completed() {
    let (session, mut peer) = logged_in().await;
    let (mut stream, mut body) = subscribed(&session, &mut peer).await;
    body.send_trailers(trailers(&Status::ok(""))).unwrap();
    assert_eq!(end_of(&mut stream).await.reason, Some(EndReason::Completed));
}

#[tokio::test]
async fn a_broken_connection_is_connection_lost() {
    let (session, mut peer) = logged_in().await;
    let (mut stream, _body) = subscribed(&session, &mut peer).await;
    peer.tasks.abort_all();
    assert_eq!(end_of(&mut stream).await.reason, Some(EndReason::ConnectionLost));
    let error = session.publish("room/a", "x", "", "").await.unwrap_err();
    assert!(matches!(error, ClientError::Transport { .. }), "{error:?}");
}

#[tokio::test]
async fn one_reset_stream_is_no_lost_connection() {
    let (session, mut peer) = logged_in().await;
    let (mut stream, mut body) = subscribed(&session, &mut peer).await;
    body.send_reset(h2::Reason::INTERNAL_ERROR);
    let end = end_of(&mut stream).await;
    assert_eq!((end.reason, end.status.code()), (None, Code::Internal), "{end:?}");
    let response = v1::PublishResponse { sequence: 1, epoch: "e".to_owned() };
    let (published, _) =
        tokio::join!(session.publish("room/a", "x", "", ""), peer.answer("/Publish", response));
    assert_eq!(published.unwrap().sequence, 1);
}

#[tokio::test]
async fn dropping_the_sender_half_closes_the_stream() {
    let (session, mut peer) = logged_in().await;
    let answer = async {
        let (request, respond) = peer.call("/Connect").await;
        (request.into_body(), head(respond))
    };
    let (opened, (mut requests, mut body)) = tokio::join!(session.open(), answer);
    let (sender, mut stream) = opened.unwrap();
    sender.publish("room/a", "hello", "m1", "").await.unwrap();
    drop(sender);
    let mut received = BytesMut::new();
    while let Some(data) = requests.data().await {
        received.extend_from_slice(&data.unwrap());
    }
    let sent = v1::ClientFrame::decode(received.freeze().slice(5..)).unwrap();
    let Some(v1::client_frame::Kind::Publish(publish)) = sent.kind else { panic!("{sent:?}") };
    assert_eq!((publish.payload.as_ref(), publish.message_id.as_str()), (b"hello".as_slice(), "m1"));
    body.send_trailers(trailers(&Status::ok(""))).unwrap();
    assert_eq!(end_of(&mut stream).await.reason, Some(EndReason::Completed));
}

#[tokio::test]
async fn a_session_heartbeats_until_it_is_dropped() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut peer = Peer::new(theirs);
    let client = connect_io(ours).await.unwrap();
    let response = login_response(Duration::from_millis(20));
    let (session, _) = tokio::join!(client.login("alice", "", ""), peer.answer("/Login", response));
    let session = session.unwrap();
    for _ in 0..2 {
        let request = peer.answer("/Heartbeat", v1::HeartbeatResponse::default()).await;
        assert_eq!(request.headers()["authorization"], "Bearer secret");
    }
    drop(session);
    // One may have been on its way.
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(200), peer.calls.recv()).await {}
    assert!(tokio::time::timeout(Duration::from_millis(100), peer.calls.recv()).await.is_err());
}

#[tokio::test]
async fn a_session_does_not_show_its_token() {
    let (session, _peer) = logged_in().await;
    assert_eq!(session.token(), "secret");
    assert!(!format!("{session:?}").contains("secret"));
}
