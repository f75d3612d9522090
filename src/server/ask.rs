//! One message in, one or many out: the calls of the services that are not the data path. Messages are bytes for all
//! but the ends of a call, because tonic's code for one is several kilobytes for each pair of messages.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderValue, Request, Response, header};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{EncodeBody, SingleMessageCompressionOverride};
use tonic::metadata::MetadataMap;

use crate::base::limits::UNARY_BYTES_MAX;
use crate::server::publish::{frame_status, read_message};
use crate::wire::bytes_codec::BytesCodec;
use crate::wire::codec::FrameError;
use crate::wire::status::invalid_field;

/// What a call is answered with, before it is sent.
pub(super) type Answer = Response<Body>;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Reads the request, asks `method` and answers with its one message.
pub(super) async fn unary<Q, A, F>(
    request: Request<h2::RecvStream>,
    method: impl FnOnce(tonic::Request<Q>) -> F,
) -> Result<Answer, Status>
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<tonic::Response<A>, Status>>,
{
    let answer = method(typed(read(request).await?)?).await?.into_inner();
    let message = Bytes::from(answer.encode_to_vec());
    Ok(answer_with(stream::once(std::future::ready(Ok(message))).boxed()))
}

/// The same for a method that answers with a stream.
pub(super) async fn server_streaming<Q, A, F>(
    request: Request<h2::RecvStream>,
    method: impl FnOnce(tonic::Request<Q>) -> F,
) -> Result<Answer, Status>
where
    Q: Message + Default,
    A: Message + 'static,
    F: Future<Output = Result<tonic::Response<Messages<A>>, Status>>,
{
    let answers = method(typed(read(request).await?)?).await?.into_inner();
    Ok(answer_with(answers.map_ok(|answer| Bytes::from(answer.encode_to_vec())).boxed()))
}

async fn read(request: Request<h2::RecvStream>) -> Result<tonic::Request<Bytes>, Status> {
    let (head, body) = request.into_parts();
    let message = read_message(body, UNARY_BYTES_MAX, &refused).await.map_err(|status| *status)?;
    Ok(tonic::Request::from_parts(MetadataMap::from_headers(head.headers), head.extensions, message))
}

pub(super) fn refused(error: FrameError) -> Status {
    match error {
        // No limit of the configuration.
        FrameError::TooLarge { .. } => Status::out_of_range(error.to_string()),
        FrameError::Compressed | FrameError::Flag(_) | FrameError::Truncated => frame_status(error, 0),
    }
}

fn typed<Q: Message + Default>(request: tonic::Request<Bytes>) -> Result<tonic::Request<Q>, Status> {
    let (metadata, extensions, message) = request.into_parts();
    let message = Q::decode(message).map_err(|error| invalid_field("request", &error.to_string()))?;
    Ok(tonic::Request::from_parts(metadata, extensions, message))
}

/// The answer that these messages are.
pub(super) fn answer_with(messages: Messages<Bytes>) -> Answer {
    let plain = SingleMessageCompressionOverride::default();
    let mut answer =
        Response::new(Body::new(EncodeBody::new_server(BytesCodec, messages, None, plain, None)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}
