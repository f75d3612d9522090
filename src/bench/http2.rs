//! As much of HTTP/2 as a subscriber's load needs: two calls, frames read in place.

use bytes::{Buf as _, BytesMut};
use prost::Message;
use streamward::load::framing::{Deframer, framed, server_frame};
use streamward::load::message::{Item, TOPIC};
use streamward::wire::v1;

use crate::BenchError;

/// How much is read at once, at most.
pub(crate) const READ_BYTES: usize = 64 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Wide enough that the windows never hold the server up.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// What a connection's window is before it is widened (RFC 9113, 6.9.2).
const WINDOW_BYTES_AT_FIRST: u32 = 65_535;
const INITIAL_WINDOW_SIZE: u16 = 4;
const HEAD_BYTES: usize = 9;
/// The stream of the login.
pub(crate) const LOGIN_STREAM: u32 = 1;
const FOLLOW_STREAM: u32 = 3;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// What arrived on a connection that is not read yet, and what it is to be answered with.
pub(crate) struct Reader {
    pub(crate) buffer: BytesMut,
    deframer: Deframer,
    /// Taken off the windows and not given back yet.
    taken_bytes: u32,
    /// Frames that the server waits for.
    pub(crate) replies: Vec<u8>,
}

/// One frame of the server's.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

/// What begins the connection: HTTP/2's preface, wide windows, and the login.
pub(crate) fn opening(authority: &str, user: &str) -> Result<Vec<u8>, BenchError> {
    let mut opening = PREFACE.to_vec();
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend_from_slice(&STREAM_WINDOW_BYTES.to_be_bytes());
    put_frame(&mut opening, SETTINGS, 0, 0, &settings)?;
    let wider = CONNECTION_WINDOW_BYTES - WINDOW_BYTES_AT_FIRST;
    put_frame(&mut opening, WINDOW_UPDATE, 0, 0, &wider.to_be_bytes())?;
    let login = v1::LoginRequest { user: user.to_owned(), ..Default::default() };
    put_call(&mut opening, LOGIN_STREAM, "SessionService/Login", authority, "", &login)?;
    Ok(opening)
}

/// The call that follows the topic.
pub(crate) fn subscribing(authority: &str, token: &str) -> Result<Vec<u8>, BenchError> {
    let subscription = v1::Subscription { topic: TOPIC.to_owned(), ..Default::default() };
    let request = v1::SubscribeRequest { subscriptions: vec![subscription] };
    let mut call = Vec::new();
    put_call(&mut call, FOLLOW_STREAM, "MessageService/Subscribe", authority, token, &request)?;
    Ok(call)
}

impl Reader {
    /// Nothing has arrived.
    pub(crate) fn new() -> Self {
        let buffer = BytesMut::with_capacity(READ_BYTES);
        Self { buffer, deframer: Deframer::default(), taken_bytes: 0, replies: Vec::new() }
    }

    /// Hands what the stream delivers to `sink`.
    pub(crate) fn items(
        &mut self,
        sink: &mut impl FnMut(Item<'_>) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let is_over = self.turn(FOLLOW_STREAM, &mut |message| {
            let mut fault = None;
            server_frame(message, &mut |item| {
                fault = fault.take().or_else(|| sink(item).err());
                Ok(())
            })?;
            fault.map_or(Ok(()), Err)
        })?;
        if is_over { Err("the server ended the call".into()) } else { Ok(()) }
    }

    /// Reads the frames that are whole: hands the stream's messages to `each`, notes what is to be answered. Says whether
    /// the stream is over.
    pub(crate) fn turn(
        &mut self,
        stream: u32,
        each: &mut impl FnMut(&[u8]) -> Result<(), BenchError>,
    ) -> Result<bool, BenchError> {
        let Self { buffer, deframer, taken_bytes, replies } = self;
        let (mut used, mut is_over) = (0, false);
        while let Some((frame, bytes)) = frame(&buffer[used..]) {
            used += bytes;
            let is_ours = frame.stream == stream;
            match frame.kind {
                DATA => {
                    *taken_bytes += u32::try_from(frame.payload.len())?;
                    if is_ours {
                        let mut fault = None;
                        deframer.feed(unpadded(&frame)?, &mut |message| {
                            fault = fault.take().or_else(|| each(message).err());
                            Ok(())
                        })?;
                        fault.map_or(Ok(()), Err)?;
                    }
                }
                HEADERS if is_ours => is_over |= frame.flags & END_STREAM != 0,
                RST_STREAM if is_ours => is_over = true,
                SETTINGS if frame.flags & ACK == 0 => put_frame(replies, SETTINGS, ACK, 0, &[])?,
                PING if frame.flags & ACK == 0 => put_frame(replies, PING, ACK, 0, frame.payload)?,
                GOAWAY => return Err("the server closes the connection".into()),
                _ => {}
            }
        }
        buffer.advance(used);
        if *taken_bytes >= STREAM_WINDOW_BYTES / 2 {
            let taken = taken_bytes.to_be_bytes();
            put_frame(replies, WINDOW_UPDATE, 0, 0, &taken)?;
            put_frame(replies, WINDOW_UPDATE, 0, stream, &taken)?;
            *taken_bytes = 0;
        }
        Ok(is_over)
    }
}

/// The first frame of `bytes`, if it is whole, and how many bytes it takes.
fn frame(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let [l0, l1, l2, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD_BYTES>()?;
    let end = HEAD_BYTES + usize::try_from(u32::from_be_bytes([0, l0, l1, l2])).ok()?;
    let payload = bytes.get(HEAD_BYTES..end)?;
    Some((Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }, end))
}

fn unpadded<'a>(frame: &Frame<'a>) -> Result<&'a [u8], BenchError> {
    if frame.flags & PADDED == 0 {
        return Ok(frame.payload);
    }
    let (pad, rest) = frame.payload.split_first().ok_or("a DATA frame without its pad length")?;
    let end = rest.len().checked_sub(usize::from(*pad)).ok_or("a DATA frame of padding alone")?;
    Ok(&rest[..end])
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), BenchError> {
    let [_, length @ ..] = u32::try_from(payload.len())?.to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// A call with its one message. Header fields are literals without indexing (RFC 7541, 6.2.2) over the static table.
fn put_call(
    out: &mut Vec<u8>,
    stream: u32,
    method: &str,
    authority: &str,
    token: &str,
    message: &impl Message,
) -> Result<(), BenchError> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    put_field(&mut block, &[0x04], &format!("/streamward.v1.{method}"))?;
    put_field(&mut block, &[0x01], authority)?;
    put_field(&mut block, &[0x0f, 31 - 15], "application/grpc")?; // content-type
    put_field(&mut block, &[0x00, 2, b't', b'e'], "trailers")?;
    if !token.is_empty() {
        put_field(&mut block, &[0x0f, 23 - 15], &format!("Bearer {token}"))?; // authorization
    }
    put_frame(out, HEADERS, END_HEADERS, stream, &block)?;
    put_frame(out, DATA, END_STREAM, stream, &framed(&message.encode_to_vec())?)
}

fn put_field(block: &mut Vec<u8>, name: &[u8], value: &str) -> Result<(), BenchError> {
    let length = u8::try_from(value.len()).ok().filter(|length| *length < 127);
    block.extend_from_slice(name);
    block.push(length.ok_or("a header field of more than 126 bytes")?);
    block.extend_from_slice(value.as_bytes());
    Ok(())
}
