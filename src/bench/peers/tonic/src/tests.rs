//! One message goes round.

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use crate::streamward::v1::message_service_client::MessageServiceClient;
use crate::streamward::v1::session_service_client::SessionServiceClient;
use crate::*;

const TOPIC: &str = "room/a";

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn subscription() -> Subscription {
    Subscription { topic: TOPIC.to_owned(), ..Default::default() }
}

async fn next(stream: &mut Streaming<ServerFrame>) -> ServerFrame {
    stream.message().await.unwrap().unwrap()
}

#[tokio::test]
async fn a_message_goes_round() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(router().serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let login = LoginRequest { user: "ada".to_owned(), ..Default::default() };
    let token = SessionServiceClient::new(channel.clone()).login(login).await.unwrap().into_inner().token;
    let mut client = MessageServiceClient::new(channel);

    let wanted = SubscribeRequest { subscriptions: vec![subscription()] };
    let mut follower = client.subscribe(with_token(wanted, &token)).await.unwrap().into_inner();
    assert_eq!(next(&mut follower).await.notices.len(), 1);

    let publish = Publish { topic: TOPIC.to_owned(), payload: "streamed".into(), ..Default::default() };
    let frames = [client_frame::Kind::Subscribe(subscription()), client_frame::Kind::Publish(publish)];
    let frames = tokio_stream::iter(frames.map(|kind| ClientFrame { kind: Some(kind) }));
    let mut stream = client.connect(with_token(frames, &token)).await.unwrap().into_inner();
    let mut heard = ServerFrame::default();
    while heard.notices.is_empty() || heard.receipts.is_empty() || heard.events.is_empty() {
        let frame = next(&mut stream).await;
        heard.notices.extend(frame.notices);
        heard.receipts.extend(frame.receipts);
        heard.events.extend(frame.events);
    }
    assert_eq!(heard.events[0].payload, "streamed");

    let publish = PublishRequest { topic: TOPIC.to_owned(), payload: "unary".into(), ..Default::default() };
    assert_eq!(client.publish(with_token(publish.clone(), &token)).await.unwrap().into_inner().sequence, 2);
    for (sequence, payload) in [(1, "streamed"), (2, "unary")] {
        let event = next(&mut follower).await.events.remove(0);
        assert_eq!(
            (event.sender.as_str(), event.sequence, &event.payload[..]),
            ("ada", sequence, payload.as_bytes())
        );
    }
    let refused = client.publish(publish).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}
