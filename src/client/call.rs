//! Calls as bytes. tonic's code for a call is there once for each pair of messages, several kilobytes of it; here
//! messages become bytes first and are read from bytes last, and the code is there once.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::Codec;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::wire::bytes_codec::{BytesCodec, buffers};
use crate::wire::v1;

/// The messages of a server's answer, not read yet. [`next`] reads them.
pub(crate) type Answers = Streaming<Bytes>;

/// Makes calls on a channel, in a session's name if it has one.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    grpc: Grpc<Channel>,
    bearer: Option<MetadataValue<Ascii>>,
}

impl Caller {
    /// With answers of at most `answer_bytes_max` bytes a message.
    pub(crate) fn new(channel: Channel, answer_bytes_max: usize) -> Self {
        Self { grpc: Grpc::new(channel).max_decoding_message_size(answer_bytes_max), bearer: None }
    }

    /// The same, with the session's token on every call.
    pub(crate) fn in_the_name_of(mut self, bearer: MetadataValue<Ascii>) -> Self {
        self.bearer = Some(bearer);
        self
    }

    /// A call of one message each way.
    pub(crate) async fn unary<A: Message + Default>(
        &self,
        path: &'static str,
        question: &impl Message,
    ) -> Result<A, Status> {
        read(self.ask(path, question.encode_to_vec().into()).await?)
    }

    fn ask(
        &self,
        path: &'static str,
        question: Bytes,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>> {
        let (mut caller, request) = (self.clone(), self.request(question));
        Box::pin(async move {
            caller.ready().await?;
            let path = PathAndQuery::from_static(path);
            caller.grpc.unary(request, path, BytesCodec).await.map(Response::into_inner)
        })
    }

    /// A call of one message, answered by many.
    pub(crate) fn follow(
        &self,
        path: &'static str,
        question: &impl Message,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, Status>> + Send>> {
        self.ask_many(path, question.encode_to_vec().into())
    }

    // In a box of its own: over long before the stream is, and large.
    fn ask_many(
        &self,
        path: &'static str,
        question: Bytes,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, Status>> + Send>> {
        let (mut caller, request) = (self.clone(), self.request(question));
        Box::pin(async move {
            caller.ready().await?;
            let path = PathAndQuery::from_static(path);
            caller.grpc.server_streaming(request, path, BytesCodec).await.map(Response::into_inner)
        })
    }

    /// A call of many messages each way.
    pub(crate) fn open(
        &self,
        path: &'static str,
        frames: impl Stream<Item = v1::ClientFrame> + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, Status>> + Send>> {
        let (mut caller, request) = (self.clone(), self.request(frames));
        Box::pin(async move {
            caller.ready().await?;
            let path = PathAndQuery::from_static(path);
            caller.grpc.streaming(request, path, FramesCodec).await.map(Response::into_inner)
        })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::from_error(error.into()))
    }
}

/// The next message; none when the server ended the call with OK.
pub(crate) async fn next<A: Message + Default>(answers: &mut Answers) -> Result<Option<A>, Status> {
    answers.message().await?.map(read).transpose()
}

/// As tonic says it.
fn read<A: Message + Default>(message: Bytes) -> Result<A, Status> {
    A::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// The frames of a message stream out, bytes in: those are many, and not to be copied once more.
#[derive(Clone, Copy, Debug)]
struct FramesCodec;

impl Codec for FramesCodec {
    type Encode = v1::ClientFrame;
    type Decode = Bytes;
    type Encoder = ProstEncoder<v1::ClientFrame>;
    type Decoder = BytesCodec;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<v1::ClientFrame, ()>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> BytesCodec {
        BytesCodec
    }
}
