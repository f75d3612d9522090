//! Carries the body of a generated service's answer into h2. It holds one frame of the body at most, and ends the
//! call with a status when its time is over or the connection is to close.

use bytes::{Buf as _, Bytes};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::Response;
use http_body::Body as _;
use tokio::time::Instant;

use crate::base::limits::{DATA_FRAME_BYTES_MAX, UNARY_TIMEOUT};
use crate::base::reason::{Cause, EndReason};
use crate::server::Peer;
use crate::server::call::{ignore_gone, trailers};
use crate::server::conn::Meter;
use crate::wire::status::{EndFacts, ended};

/// Sends an answer to its end. A body that has nothing to say when the connection is to close is ended.
pub(super) async fn run(
    peer: &Peer,
    deadline: Option<Instant>,
    answer: Response<tonic::body::Body>,
    mut respond: SendResponse<Bytes>,
) {
    let (head, mut body) = answer.into_parts();
    let end = body.is_end_stream();
    let Ok(mut send) = respond.send_response(Response::from_parts(head, ()), end) else { return };
    if end {
        return;
    }
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    let cause = tokio::select! {
        biased;
        () = carry(&peer.meter, &mut body, &mut send) => return,
        () = late => Cause::server(EndReason::DeadlineExceeded),
        () = peer.scope.ending() => match peer.scope.cause() {
            Some(cause) => cause.clone(),
            None => Cause::server(EndReason::ServerDraining),
        },
    };
    // Messages of these services are smaller than a frame and are sent whole: no message is ever cut.
    ignore_gone(send.send_trailers(trailers(&ended(&cause, &EndFacts::default()))));
}

/// Moves frame after frame; returns when the body is done or the peer is gone.
async fn carry(meter: &Meter, body: &mut tonic::body::Body, send: &mut SendStream<Bytes>) {
    loop {
        let frame = tokio::select! {
            biased;
            frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)) => frame,
            _ = std::future::poll_fn(|cx| send.poll_reset(cx)) => return,
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => match tokio::time::timeout(UNARY_TIMEOUT, send_whole(meter, send, data)).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    // Nobody reads the answer. A reset, because part of it may have left.
                    Err(_) => return send.send_reset(Reason::CANCEL),
                },
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return ignore_gone(send.send_trailers(trailers));
                    }
                }
            },
            Some(Err(status)) => return ignore_gone(send.send_trailers(trailers(&status))),
            None => return ignore_gone(send.send_data(Bytes::new(), true)),
        }
    }
}

/// Sends all of `data` as the peer's window allows; false when the peer is gone. What fits one frame waits until it
/// can leave whole.
async fn send_whole(meter: &Meter, send: &mut SendStream<Bytes>, mut data: Bytes) -> bool {
    while data.has_remaining() {
        let wanted = data.len().min(DATA_FRAME_BYTES_MAX);
        send.reserve_capacity(wanted);
        while send.capacity() < wanted {
            let more = std::future::poll_fn(|cx| match send.poll_reset(cx) {
                std::task::Poll::Ready(_) => std::task::Poll::Ready(None),
                std::task::Poll::Pending => send.poll_capacity(cx),
            });
            match more.await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
        meter.sent_data_frame(wanted);
        if send.send_data(data.split_to(wanted), false).is_err() {
            return false;
        }
    }
    true
}
