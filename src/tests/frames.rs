//! A client that writes HTTP/2 frames by hand: it can leave out what every library does by itself.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::house::House;
use super::peer::framed;
use super::valve::Valve;
use crate::wire::codec::PREFIX_BYTES;
use crate::wire::v1;

/// RFC 9113, 3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// The error code of a GOAWAY or RST_STREAM (RFC 9113, 7).
pub(super) const FLOW_CONTROL_ERROR: u32 = 3;
pub(super) const FRAME_SIZE_ERROR: u32 = 6;
pub(super) const CANCEL: [u8; 4] = [0, 0, 0, 8];
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

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
        self.bytes(&encoded(kind, flags, stream, payload)).await;
    }

    /// Sends as much as is taken within a second; false when that was not all.
    pub(super) async fn pour(&mut self, bytes: &[u8]) -> bool {
        let pouring = tokio::time::timeout(Duration::from_secs(1), self.io.write_all(bytes));
        matches!(pouring.await, Ok(Ok(())))
    }

    /// Logs in on stream 1; returns the token.
    pub(super) async fn log_in(&mut self, user: &str) -> String {
        let request = v1::LoginRequest { user: user.to_owned(), ..Default::default() };
        self.call(1, "/streamward.v1.SessionService/Login", None, &request).await;
        let frames = self.frames().await;
        let data = frames.iter().find(|frame| frame.kind == DATA && !frame.payload.is_empty()).unwrap();
        v1::LoginResponse::decode(&data.payload[PREFIX_BYTES..]).unwrap().token
    }

    /// Begins a call.
    pub(super) async fn open(&mut self, stream: u32, path: &str, token: &str) {
        self.send(HEADERS, END_HEADERS, stream, &head(path, Some(token))).await;
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

impl Frame {
    /// What a GOAWAY or RST_STREAM says.
    pub(super) fn error_code(&self) -> u32 {
        let at = self.payload.len().min(8) - 4;
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A frame's bytes.
pub(super) fn encoded(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request head in HPACK, nothing indexed (RFC 7541, 6.2.2).
pub(super) fn head(path: &str, token: Option<&str>) -> Vec<u8> {
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
