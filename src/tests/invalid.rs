//! What is not a frame of the contract: the stream that sent it ends with `INVALID_REQUEST`, and only that one.

use bytes::Bytes;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

use super::crowd::{Crowd, ROOM};
use super::house::{House, follow, settle};
use super::peer::{Peer, framed};
use crate::base::reason::EndReason;
use crate::wire::{DESCRIPTORS, v1};

#[tokio::test(start_paused = true)]
async fn invalid_request_ends_the_one_stream_that_sent_it() {
    // A publish whose topic is the byte 0xff; a tag without its field; a varint without end.
    let bad_text = [0, 0, 0, 0, 5, 0x0a, 3, 0x0a, 1, 0xff];
    let bad_field = [0, 0, 0, 0, 2, 0x0a, 9];
    let bad_varint = [0, 0, 0, 0, 3, 0xff, 0xff, 0xff];
    let compressed = [1, 0, 0, 0, 0];
    let flag = [7, 0, 0, 0, 0];
    let mut crowd = Crowd::new(3).await;
    let mut victim = crowd.house.user("victim").await;
    let neighbour = victim.follow([follow(ROOM)]).await;
    for (at, bytes) in [&bad_text[..], &bad_field, &bad_varint, &compressed, &flag].iter().enumerate() {
        let mut line = victim.follow([follow(ROOM)]).await;
        crowd.say(1).await;
        line.send_bytes(Bytes::copy_from_slice(bytes));
        settle().await;
        line.tape.assert_ended(EndReason::InvalidRequest);
        assert_eq!(line.tape.events(ROOM).len(), 1);
        assert_eq!(crowd.house.stream_reasons(), vec![EndReason::InvalidRequest; at + 1]);
    }
    assert_eq!(neighbour.tape.events(ROOM), crowd.accepted);
    drop(victim);
    crowd.close().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_request_for_a_body_that_ends_inside_a_message() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    for cut in [1, 4, 5, 9] {
        let mut line = peer.open().await;
        let publish = v1::Publish { topic: ROOM.to_owned(), ..Default::default() };
        let kind = v1::client_frame::Kind::Publish(publish);
        let whole = framed(&v1::ClientFrame { kind: Some(kind) });
        line.send_bytes(whole.slice(..cut));
        line.half_close();
        settle().await;
        line.tape.assert_ended(EndReason::InvalidRequest);
        assert_eq!(line.tape.receipts().len(), 0);
    }
    assert_eq!(house.core.hub().last_sequence(), 0);
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_request_keeps_what_was_accepted_before_it() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    let other = peer.follow([follow(ROOM)]).await;
    let mut line = peer.open().await;
    let publish = v1::Publish { topic: ROOM.to_owned(), ..Default::default() };
    let whole = framed(&v1::ClientFrame { kind: Some(v1::client_frame::Kind::Publish(publish)) });
    let both = [&whole[..], &[9, 9, 9, 9, 9]].concat();
    line.send_bytes(both.into());
    settle().await;
    line.tape.assert_ended(EndReason::InvalidRequest);
    assert_eq!(other.tape.sequences(ROOM), [1], "the publish before it was accepted and delivered");
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_a_newer_contract_is_passed_over() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    let mut line = peer.open().await;
    // Field 99, length 1.
    line.send_bytes(Bytes::from_static(&[0, 0, 0, 0, 4, 0x9a, 0x06, 1, 0]));
    line.publish(ROOM, Bytes::from_static(b"x"), "m1");
    settle().await;
    assert_eq!(line.tape.receipts().len(), 1);
    drop(peer);
    house.close().await;
}

/// A unary call with a body of these bytes.
async fn raw_call(peer: &mut Peer, path: &str, body: &'static [u8]) -> Code {
    let (response, mut send) = peer.call(path, None).await;
    send.send_data(Bytes::from_static(body), true).unwrap();
    let (head, _) = super::house::within(response).await.unwrap().into_parts();
    tonic::Status::from_header_map(&head.headers).expect("trailers only").code()
}

#[tokio::test(start_paused = true)]
async fn unary_calls_with_broken_bodies_are_refused_and_change_nothing() {
    let mut house = House::new();
    let mut peer = house.user("alice").await;
    let publish = "/streamward.v1.MessageService/Publish";
    let subscribe = "/streamward.v1.MessageService/Subscribe";
    let login = "/streamward.v1.SessionService/Login";
    for path in [publish, subscribe, login] {
        assert_eq!(raw_call(&mut peer, path, &[1, 0, 0, 0, 0]).await, Code::Unimplemented, "compressed");
        assert_eq!(raw_call(&mut peer, path, &[9, 0, 0, 0, 0]).await, Code::InvalidArgument, "flag");
        assert_eq!(raw_call(&mut peer, path, &[0, 0, 0, 0, 9, 1]).await, Code::InvalidArgument, "cut");
        assert_eq!(raw_call(&mut peer, path, &[]).await, Code::InvalidArgument, "empty");
        assert_eq!(raw_call(&mut peer, path, &[0, 0, 0, 0, 3, 0x0a, 1, 0xff]).await, Code::InvalidArgument);
    }
    assert_eq!(raw_call(&mut peer, login, &[0, 0, 0, 0x40, 1]).await, Code::OutOfRange, "large");
    assert_eq!(raw_call(&mut peer, "/streamward.v1.SessionService/None", &[0; 5]).await, Code::Unimplemented);
    assert_eq!(house.core.hub().last_sequence(), 0);
    assert_eq!(house.counts()[2..], [0, 0]);
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn every_method_of_the_contract_is_served() {
    let mut house = House::new();
    let mut peer = house.admin().await;
    let mut served = 0;
    for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                // Of no token, and no message.
                let code = raw_call(&mut peer, &path, &[0, 0, 0, 0, 2, 0x0a, 9]).await;
                assert!(matches!(code, Code::InvalidArgument | Code::Unauthenticated), "{path}: {code:?}");
                served += 1;
            }
        }
    }
    assert!(served >= 15, "{served}");
    drop(peer);
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn calls_without_a_valid_token_own_nothing() {
    let mut house = House::new();
    let mut peer = house.peer().await;
    for token in [None, Some("x".to_owned()), Some("0".repeat(64)), Some("\u{fffd}".repeat(0))] {
        peer.token = token;
        let connect = peer.open().await;
        let subscribe = peer.subscribe(vec![follow(ROOM)]).await;
        for line in [connect, subscribe] {
            assert_eq!(line.tape.end().status.code(), Code::Unauthenticated);
        }
        assert_eq!(peer.publish(ROOM, b"x").await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(peer.logout().await.unwrap_err().code(), Code::Unauthenticated);
    }
    assert_eq!(house.counts(), [1, 0, 0, 0]);
    assert_eq!(house.ended().len(), 0);
    assert_eq!(peer.cancel("stream/1", "", false).await.unwrap_err().code(), Code::Unimplemented);
    drop(peer);
    house.close().await;
}
