//! Peers that do not behave.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, Request};
use prost::Message as _;
use streamward::client::{Session, StreamEnd};
use streamward::wire::codec::prefix;
use streamward::wire::v1;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::Status;

use crate::harness::{subscription, within};

/// More than any test publishes.
const WIDE_BYTES: u32 = 1 << 30;

/// A follower that does not take what it asked for.
#[derive(Debug)]
pub(crate) struct Deaf {
    body: RecvStream,
    stop: Arc<Notify>,
    _connection: JoinSet<()>,
}

impl Deaf {
    /// Follows the topic in the session's name and grants no window: not one byte of an event can be sent. The
    /// connection lives.
    pub(crate) async fn follow(address: SocketAddr, session: &Session, topic: &str) -> Self {
        Self::follow_with(0, address, session, topic).await
    }

    /// Follows the topic with a window for everything, until [`stop_reading`](Self::stop_reading).
    pub(crate) async fn follow_wide(address: SocketAddr, session: &Session, topic: &str) -> Self {
        Self::follow_with(WIDE_BYTES, address, session, topic).await
    }

    async fn follow_with(window_bytes: u32, address: SocketAddr, session: &Session, topic: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Little for the kernel to take on this peer's behalf.
        socket.set_recv_buffer_size(4096).unwrap();
        let io = within("a connection", socket.connect(address)).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window_bytes).initial_connection_window_size(WIDE_BYTES);
        let handshake = builder.handshake::<_, Bytes>(io);
        let (client, mut connection) = within("the handshake", handshake).await.unwrap();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            tokio::select! {
                // Its end is seen on the stream, too.
                _ = &mut connection => {}
                () = stopped.notified() => std::future::pending().await,
            }
        });
        let request = Request::post(format!("http://{address}/streamward.v1.MessageService/Subscribe"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {}", session.token()))
            .body(())
            .unwrap();
        let mut client = within("a stream", client.ready()).await.unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        let message = v1::SubscribeRequest { subscriptions: vec![subscription(topic)] }.encode_to_vec();
        let mut body = BytesMut::from(&prefix(message.len())[..]);
        body.put_slice(&message);
        send.send_data(body.freeze(), true).unwrap();
        let response = within("the head of the answer", response).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), stop, _connection: driver }
    }

    /// Takes no byte off the socket any more, not even an answer to a ping; the socket stays open.
    pub(crate) fn stop_reading(&self) {
        self.stop.notify_one();
    }

    /// How the stream ended: none when it was reset or its connection lost.
    pub(crate) async fn ended(mut self) -> Option<StreamEnd> {
        let trailers = within("the stream's end", self.body.trailers()).await;
        let trailers: HeaderMap = trailers.ok().flatten()?;
        Status::from_header_map(&trailers).map(StreamEnd::from_status)
    }
}

/// What the server says before it closes the connection. A reset is an end, too.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let _ = within("the connection's end", stream.read_to_end(&mut said)).await;
    said
}
