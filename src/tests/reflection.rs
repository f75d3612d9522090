//! Server reflection as a tool meets it: question after question on one stream.

use prost::Message as _;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::house::{House, within};
use super::peer::framed;
use crate::wire::codec::Deframer;

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

#[tokio::test(start_paused = true)]
async fn each_question_is_answered_in_turn_and_the_client_ends_it() {
    let mut house = House::new();
    let mut peer = house.peer().await;
    let (response, mut send) = peer.call(REFLECTION, None).await;
    let mut body = within(response).await.unwrap().into_body();
    let mut deframer = Deframer::new(64 * 1024);
    for question in [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("streamward.v1.MessageService".to_owned()),
        MessageRequest::FileByFilename("google/protobuf/timestamp.proto".to_owned()),
    ] {
        let request = ServerReflectionRequest { host: "h".to_owned(), message_request: Some(question) };
        send.send_data(framed(&request), false).unwrap();
        let message = loop {
            if let Some(message) = deframer.next_message().unwrap() {
                break message;
            }
            deframer.push(within(body.data()).await.unwrap().unwrap());
        };
        let answer = ServerReflectionResponse::decode(message).unwrap();
        assert_eq!((answer.valid_host.as_str(), answer.original_request.as_ref()), ("h", Some(&request)));
        match answer.message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => assert_eq!(list.service.len(), 5, "{list:?}"),
            MessageResponse::FileDescriptorResponse(file) => assert_eq!(file.file_descriptor_proto.len(), 1),
            other @ (MessageResponse::AllExtensionNumbersResponse(_) | MessageResponse::ErrorResponse(_)) => {
                panic!("{other:?}")
            }
        }
    }
    send.send_data(bytes::Bytes::new(), true).unwrap();
    assert!(within(body.data()).await.is_none());
    let trailers = within(body.trailers()).await.unwrap().unwrap();
    assert_eq!(tonic::Status::from_header_map(&trailers).unwrap().code(), tonic::Code::Ok);
    drop(peer);
    house.close().await;
}
