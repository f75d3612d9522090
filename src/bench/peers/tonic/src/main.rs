//! The fan-out server that tonic's guides lead to: `transport::Server` and a broadcast channel per topic. It knows no
//! sessions, keeps nothing, and tells a reader that fell behind only that it did.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_stream::{Stream, StreamExt, StreamMap};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
mod streamward {
    pub mod v1 {
        tonic::include_proto!("streamward.v1");
    }
}

use streamward::v1::message_service_server::{MessageService, MessageServiceServer};
use streamward::v1::session_service_server::{SessionService, SessionServiceServer};
use streamward::v1::{client_frame, notice, *};

/// Events that a reader may be behind before it loses some: more than the benchmarks have in flight.
const EVENTS_BEHIND_MAX: usize = 4096;
/// Frames that wait for one Connect stream's window.
const FRAMES_WAITING_MAX: usize = 128;
const EPOCH: &str = "plain";

type Frames = Pin<Box<dyn Stream<Item = Result<ServerFrame, Status>> + Send>>;

#[derive(Clone, Default)]
struct Hub(Arc<Topics>);

#[derive(Default)]
struct Topics {
    last_sequence: AtomicU64,
    senders: Mutex<HashMap<String, broadcast::Sender<Event>>>,
}

impl Hub {
    fn follow(&self, topic: &str) -> broadcast::Receiver<Event> {
        let mut senders = self.0.senders.lock().unwrap();
        let sender =
            senders.entry(topic.to_owned()).or_insert_with(|| broadcast::channel(EVENTS_BEHIND_MAX).0);
        sender.subscribe()
    }

    fn publish(&self, publish: Publish, sender: &str) -> u64 {
        let sequence = self.0.last_sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let event = Event {
            sequence,
            sender: sender.to_owned(),
            published_at: Some(SystemTime::now().into()),
            topic: publish.topic,
            payload: publish.payload,
            message_id: publish.message_id,
            content_type: publish.content_type,
        };
        if let Some(sender) = self.0.senders.lock().unwrap().get(&event.topic) {
            // Fails when nobody follows the topic.
            sender.send(event).ok();
        }
        sequence
    }
}

fn subscribed(topic: &str) -> ServerFrame {
    let subscribed = Subscribed { topic: topic.to_owned(), position: None, recovered: true };
    let notice = Notice { kind: Some(notice::Kind::Subscribed(subscribed)) };
    ServerFrame { notices: vec![notice], ..Default::default() }
}

fn event(event: Event) -> ServerFrame {
    ServerFrame { events: vec![event], ..Default::default() }
}

fn receipt(message_id: String, sequence: u64) -> ServerFrame {
    let position = Some(Position { epoch: EPOCH.to_owned(), sequence });
    ServerFrame { receipts: vec![Receipt { message_id, position, error: None }], ..Default::default() }
}

/// The token is the user's name.
fn sender<T>(request: &Request<T>) -> Result<String, Status> {
    let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer "));
    token.map(str::to_owned).ok_or_else(|| Status::unauthenticated("log in first"))
}

#[tonic::async_trait]
impl SessionService for Hub {
    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        let user = request.into_inner().user;
        Ok(Response::new(LoginResponse { session_id: user.clone(), token: user, ..Default::default() }))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Ok(Response::new(HeartbeatResponse::default()))
    }

    async fn logout(&self, _: Request<LogoutRequest>) -> Result<Response<LogoutResponse>, Status> {
        Ok(Response::new(LogoutResponse::default()))
    }
}

#[tonic::async_trait]
impl MessageService for Hub {
    type SubscribeStream = Frames;
    type ConnectStream = ReceiverStream<Result<ServerFrame, Status>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let sender = sender(&request)?;
        let PublishRequest { topic, payload, message_id, content_type } = request.into_inner();
        let sequence = self.publish(Publish { topic, payload, message_id, content_type }, &sender);
        Ok(Response::new(PublishResponse { sequence, epoch: EPOCH.to_owned() }))
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Frames>, Status> {
        sender(&request)?;
        let topics = request.into_inner().subscriptions.into_iter().map(|subscription| subscription.topic);
        let (mut notices, mut followed) = (Vec::new(), StreamMap::new());
        for topic in topics {
            notices.push(Ok(subscribed(&topic)));
            followed.insert(topic.clone(), BroadcastStream::new(self.follow(&topic)));
        }
        let events = followed.map(|(_, received)| match received {
            Ok(received) => Ok(event(received)),
            Err(lagged) => Err(Status::resource_exhausted(lagged.to_string())),
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(notices).chain(events))))
    }

    async fn connect(
        &self,
        request: Request<Streaming<ClientFrame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (hub, user) = (self.clone(), sender(&request)?);
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(ClientFrame { kind: Some(kind) })) = incoming.message().await {
                let answer = match kind {
                    client_frame::Kind::Publish(publish) => {
                        let message_id = publish.message_id.clone();
                        receipt(message_id, hub.publish(publish, &user))
                    }
                    client_frame::Kind::Subscribe(Subscription { topic, .. }) => {
                        tokio::spawn(forward(hub.follow(&topic), frames.clone()));
                        subscribed(&topic)
                    }
                    client_frame::Kind::Logout(_) => break,
                    client_frame::Kind::Unsubscribe(_) | client_frame::Kind::Heartbeat(_) => continue,
                };
                if frames.send(Ok(answer)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Hands a topic's events to a Connect stream until that ends.
async fn forward(mut from: broadcast::Receiver<Event>, to: mpsc::Sender<Result<ServerFrame, Status>>) {
    loop {
        let frame = match from.recv().await {
            Ok(received) => Ok(event(received)),
            Err(lagged) => Err(Status::resource_exhausted(lagged.to_string())),
        };
        let is_last = frame.is_err();
        if to.send(frame).await.is_err() || is_last {
            return;
        }
    }
}

fn router() -> Router {
    let hub = Hub::default();
    Server::builder()
        .add_service(SessionServiceServer::new(hub.clone()))
        .add_service(MessageServiceServer::new(hub))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1).ok_or("usage: plain-tonic HOST:PORT")?.parse()?;
    router().serve(addr).await?;
    Ok(())
}
