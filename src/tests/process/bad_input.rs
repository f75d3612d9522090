//! What a client may get wrong on the wire: a clear error, and nothing has changed.

use streamward::base::reason::EndReason;
use streamward::client::StreamEnd;
use streamward::wire::ended::end_details;
use streamward::wire::v1;
use streamward::wire::v1::message_service_client::MessageServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::harness::{Server, subscription, within};

async fn messages(server: &Server) -> MessageServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    MessageServiceClient::new(within("a connection", endpoint.connect()).await.unwrap())
}

fn with_authorization<T>(message: T, value: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = value {
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    request
}

fn event(topic: &str, payload_bytes: usize) -> v1::PublishRequest {
    v1::PublishRequest {
        topic: topic.to_owned(),
        payload: vec![b'x'; payload_bytes].into(),
        ..Default::default()
    }
}

/// What must not move while nothing is accepted.
fn holds(status: &v1::ServerStatus) -> [u64; 6] {
    let counts = [status.sessions, status.streams, status.subscriptions, status.topics].map(u64::from);
    [counts[0], counts[1], counts[2], counts[3], status.last_sequence, status.events_delivered]
}

#[track_caller]
fn expect(status: &Status, code: Code, words: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{words:?} is not in {:?}", status.message());
}

#[tokio::test]
async fn calls_without_a_good_token_are_told_what_is_missing_and_change_nothing() {
    let server = Server::start().await;
    let mut messages = messages(&server).await;
    let before = server.status().await;
    let wrong = format!("Bearer {}", "0".repeat(64));
    for (authorization, words) in [
        (None, "`authorization: Bearer <token>` is missing"),
        (Some("Bearer"), "must be `Bearer <token>`"),
        (Some("Basic YTpi"), "must be `Bearer <token>`"),
        (Some(wrong.as_str()), "log in again"),
    ] {
        let publish = messages.publish(with_authorization(event("room/a", 1), authorization)).await;
        expect(&publish.unwrap_err(), Code::Unauthenticated, words);
        let request = v1::SubscribeRequest { subscriptions: vec![subscription("room/a")] };
        let subscribe = messages.subscribe(with_authorization(request, authorization)).await;
        expect(&subscribe.unwrap_err(), Code::Unauthenticated, words);
        let frames = tokio_stream_of(v1::ClientFrame::default());
        let connect = messages.connect(with_authorization(frames, authorization)).await;
        expect(&connect.unwrap_err(), Code::Unauthenticated, words);
    }
    assert_eq!(holds(&server.status().await), holds(&before));
    server.stop().await;
}

fn tokio_stream_of<T: Send>(item: T) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::iter([item])
}

#[tokio::test]
async fn a_token_of_a_session_that_is_over_is_of_no_use() {
    let server = Server::start().await;
    let session = server.login("anna").await;
    let authorization = format!("Bearer {}", session.token());
    session.logout().await.unwrap();
    let mut messages = messages(&server).await;
    let publish = messages.publish(with_authorization(event("room/a", 1), Some(&authorization))).await;
    let refused = publish.unwrap_err();
    expect(&refused, Code::Unauthenticated, "do not log in again");
    assert_eq!(end_details(&refused).map(|details| details.reason), Some(EndReason::SessionLoggedOut));
    server.stop().await;
}

#[tokio::test]
async fn topics_that_are_none_are_refused_with_the_reason_and_change_nothing() {
    let server = Server::start().await;
    let session = server.login("anna").await;
    let authorization = format!("Bearer {}", session.token());
    let mut messages = messages(&server).await;
    let before = server.status().await;
    let long = format!("room/{}", "x".repeat(251));
    let topics = [
        "", "room", "room/", "hall/a", "/room/a", "room//a", "room/a/", "room/a b", "room/ä", "room/\0",
        &long,
    ];
    for topic in topics {
        let publish = messages.publish(with_authorization(event(topic, 1), Some(&authorization))).await;
        expect(&publish.unwrap_err(), Code::InvalidArgument, "topic");
        let request =
            v1::SubscribeRequest { subscriptions: vec![subscription("room/a"), subscription(topic)] };
        let subscribe = messages.subscribe(with_authorization(request, Some(&authorization))).await;
        expect(&subscribe.unwrap_err(), Code::InvalidArgument, "topic");
    }
    let request = v1::SubscribeRequest::default();
    let subscribe = messages.subscribe(with_authorization(request, Some(&authorization))).await;
    expect(&subscribe.unwrap_err(), Code::InvalidArgument, "name at least one topic");
    let request = v1::SubscribeRequest { subscriptions: vec![subscription("user/berta")] };
    let subscribe = messages.subscribe(with_authorization(request, Some(&authorization))).await;
    expect(&subscribe.unwrap_err(), Code::PermissionDenied, "only berta");
    let after = server.status().await;
    assert_eq!(holds(&after), holds(&before));
    assert_eq!(after.publishes_refused, topics.len() as u64);
    server.stop().await;
}

#[tokio::test]
async fn an_oversized_message_names_the_limit_and_changes_nothing() {
    let server = Server::start().await;
    let session = server.login("anna").await;
    let authorization = format!("Bearer {}", session.token());
    let mut messages = messages(&server).await;
    let before = server.status().await;
    // Just above, above what a request may have at all, and far above any window.
    for payload_bytes in [64 * 1024 + 1, 70 * 1024, 2 * 1024 * 1024] {
        let publish =
            messages.publish(with_authorization(event("room/a", payload_bytes), Some(&authorization)));
        let status = within("an answer", publish).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{payload_bytes}: {status:?}");
        let refusal = StreamEnd::from_status(status);
        assert_eq!(refusal.reason, Some(EndReason::QuotaExceeded));
        let quota = refusal.details.and_then(|details| details.quota).unwrap();
        assert_eq!(quota.subject, "limits.message_bytes_max");
    }
    assert_eq!(holds(&server.status().await), holds(&before));
    // The largest there may be is taken.
    let publish =
        messages.publish(with_authorization(event("room/a", 64 * 1024), Some(&authorization))).await;
    assert_eq!(publish.unwrap().into_inner().sequence, 1);
    server.stop().await;
}

#[tokio::test]
async fn logins_under_impossible_names_are_refused_with_the_reason() {
    let server = Server::start().await;
    let client = server.connect().await;
    for (user, client_name) in
        [("", ""), ("a/b", ""), ("a b", ""), (&*"x".repeat(65), ""), ("anna", "no\nline")]
    {
        let error = within("an answer", client.login(user, "", client_name)).await.unwrap_err();
        let streamward::client::ClientError::Refused { status, .. } = error else { panic!("{error:?}") };
        assert_eq!(status.code(), Code::InvalidArgument, "{user:?} {client_name:?}: {status:?}");
        assert!(!status.message().is_empty());
    }
    let status = server.status().await;
    assert_eq!((status.sessions, status.logins), (0, 0));
    server.stop().await;
}
