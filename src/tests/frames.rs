//! A client that writes HTTP/2 frames by hand: it can leave out what every library does by itself.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::house::House;
use super::peer::framed;
use super::valve::Valve;

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// One connection.
pub(super) struct Wire {
    io: Valve,
    received: BytesMut,
    /// The server closed the connection.
    pub(super) is_closed: bool,
}

impl Wire {
    /// A connection on which nothing was sent yet.
    pub(super) fn silent(house: &mut House) -> Self {
        let (io, _) = house.dial(None, 64 * 1024);
        Self { io, received: BytesMut::new(), is_closed: false }
    }

    /// A connection with preface and settings.
    pub(super) async fn new(house: &mut House) -> Self {
        let mut wire = Self::silent(house);
        wire.bytes(PREFACE).await;
        wire.send(SETTINGS, 0, 0, &[]).await;
        wire
    }

    pub(super) async fn bytes(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.bytes(&[&head, payload].concat()).await;
    }

    /// A whole unary call.
    pub(super) async fn call(
        &mut self,
        stream: u32,
        path: &str,
        token: Option<&str>,
        request: &impl Message,
    ) {
        self.send(HEADERS, END_HEADERS, stream, &head(path, token)).await;
        self.send(DATA, END_STREAM, stream, &framed(request)).await;
    }

    /// What has arrived, once nobody has anything left to do.
    pub(super) async fn frames(&mut self) -> Vec<Frame> {
        while !self.is_closed {
            let read = self.io.read_buf(&mut self.received);
            match tokio::time::timeout(Duration::from_millis(1), read).await {
                Ok(Ok(0) | Err(_)) => self.is_closed = true,
                Ok(Ok(_)) => {}
                Err(_) => break,
            }
        }
        let mut frames = Vec::new();
        while let Some((head, _)) = self.received.split_first_chunk::<9>() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let (kind, flags) = (head[3], head[4]);
            if self.received.len() < 9 + length {
                break;
            }
            self.received.advance(9);
            let payload = self.received.split_to(length).to_vec();
            frames.push(Frame { kind, flags, stream, payload });
        }
        frames
    }
}

/// A request head in HPACK, nothing indexed (RFC 7541, 6.2.2).
fn head(path: &str, token: Option<&str>) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], "in-memory");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    if let Some(token) = token {
        literal(&[0x0f, 0x08], &format!("Bearer {token}"));
    }
    block
}
