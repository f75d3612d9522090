//! What the comparison with other servers says over gRPC: a subscriber that stays, a publisher, the encoded publish.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use prost::Message;
use tokio::net::TcpStream;

use crate::load::error::LoadError;
use crate::load::framing::framed;
use crate::load::message::{Item, TOPIC, Template, payload};
use crate::load::progress::Progress;
use crate::load::session::{Frames, Session, dial};
use crate::wire::v1;

/// A session and the stream that it follows.
pub struct Subscriber {
    session: Session<TcpStream>,
    frames: Frames,
}

/// A session and the answers to what is published.
pub struct Receipts {
    session: Session<TcpStream>,
    response: ResponseFuture,
}

/// Connects and logs in.
async fn log_in(addr: SocketAddr, user: &str) -> Result<Session<TcpStream>, LoadError> {
    Session::log_in(dial(addr).await?, &addr.to_string(), user, "").await
}

/// Opens a session with one subscription that is live.
pub async fn subscriber(addr: SocketAddr, user: &str) -> Result<Subscriber, LoadError> {
    let mut session = log_in(addr, user).await?;
    let (frames, _) = session.follow(v1::Overflow::Disconnect).await?;
    Ok(Subscriber { session, frames })
}

/// Opens a session with a message stream to publish on, and the stream's other half, which must be followed.
pub async fn publisher(addr: SocketAddr, user: &str) -> Result<(SendStream<Bytes>, Receipts), LoadError> {
    let mut session = log_in(addr, user).await?;
    let (response, send) = session.call("MessageService/Connect").await?;
    Ok((send, Receipts { session, response }))
}

/// The encoded publish.
pub fn template(payload_bytes: usize) -> Result<Template, LoadError> {
    let publish = v1::Publish {
        topic: TOPIC.to_owned(),
        payload: payload(0, payload_bytes).into(),
        ..Default::default()
    };
    let frame = v1::ClientFrame { kind: Some(v1::client_frame::Kind::Publish(publish)) };
    Template::new(framed(&frame.encode_to_vec())?, payload_bytes, 0)
}

/// Counts receipts for ever; a fault ends it and is told.
pub async fn follow_publisher(receipts: Receipts, progress: Rc<Progress>) {
    let Receipts { mut session, response } = receipts;
    let received = session.drive(async {
        let (mut frames, mut count) = (Frames::of(response.await?)?, 0);
        loop {
            frames
                .read(&mut |item| {
                    count += u64::from(item == Item::Receipt);
                    Ok(())
                })
                .await?;
            progress.receipts(count);
        }
    });
    let received: Result<Result<(), LoadError>, LoadError> = received.await;
    let fault = received.and_then(|ended| ended).err();
    progress.fail(format!("publisher: {fault:?}"));
}

/// Keeps the connection alive until `leave` is done; logs the session out first when asked to.
pub async fn hold(
    subscriber: Subscriber,
    leave: impl Future<Output = ()>,
    log_out: bool,
) -> Result<(), LoadError> {
    let Subscriber { mut session, mut frames } = subscriber;
    let held = session.drive(async {
        let mut leave = pin!(leave);
        let mut sink = |_: Item<'_>| Ok(());
        loop {
            tokio::select! {
                () = &mut leave => return Ok::<(), LoadError>(()),
                read = frames.read(&mut sink) => read?,
            }
        }
    });
    held.await??;
    if log_out {
        session.log_out().await?;
    }
    Ok(())
}
