//! The other end of a connection: bytes prepared in, bytes out counted. It speaks no more HTTP/2 than it must, so that
//! nearly all instructions are the server's.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use streamward::server::conn::Transport;
use streamward::wire::codec::{PREFIX_BYTES, prefix};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `SETTINGS_INITIAL_WINDOW_SIZE` of the largest value: no window is ever granted again.
const WIDE_STREAMS: [u8; 6] = [0, 4, 0x7f, 0xff, 0xff, 0xff];
/// What is missing from the connection's window of 65,535 to the largest one.
const WIDE_CONNECTION: u32 = 0x7fff_ffff - 0xffff;

/// What both ends see.
#[derive(Debug, Default)]
struct Pipe {
    to_server: VecDeque<u8>,
    reader: Option<Waker>,
    /// The client has gone.
    closed: bool,
    /// The server has.
    dropped: bool,
    /// Kept only while the client looks at what it is told.
    kept: Option<Vec<u8>>,
}

/// The server's end.
#[derive(Debug)]
pub(crate) struct ServerEnd(Arc<Mutex<Pipe>>);

/// The client's end.
#[derive(Debug)]
pub(crate) struct ClientEnd {
    pipe: Arc<Mutex<Pipe>>,
    next_stream: u32,
    /// The fields of its unary call are in the header table.
    has_fields: bool,
}

/// What the server sent on one stream.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Everything in DATA frames.
    pub(crate) data: Vec<u8>,
    /// Whether the stream is over.
    pub(crate) ended: bool,
}

/// A connection that has said its preface and listens.
pub(crate) fn connection() -> (ClientEnd, ServerEnd) {
    let pipe = Arc::new(Mutex::new(Pipe { kept: Some(Vec::new()), ..Pipe::default() }));
    let client = ClientEnd { pipe: Arc::clone(&pipe), next_stream: 1, has_fields: false };
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &WIDE_STREAMS);
    frame(&mut bytes, WINDOW_UPDATE, 0, 0, &WIDE_CONNECTION.to_be_bytes());
    client.push(&bytes);
    (client, ServerEnd(pipe))
}

impl ClientEnd {
    fn lock(&self) -> MutexGuard<'_, Pipe> {
        lock(&self.pipe)
    }

    /// Hands bytes to the server.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut pipe = self.lock();
        pipe.to_server.extend(bytes);
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
    }

    /// From now on what the server says is dropped.
    pub(crate) fn stop_listening(&self) {
        self.lock().kept = None;
    }

    /// Nothing more will be said, nor heard.
    pub(crate) fn close(&self) {
        let mut pipe = self.lock();
        pipe.closed = true;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
    }

    /// Whether the server has let go of the connection.
    pub(crate) fn is_dropped(&self) -> bool {
        self.lock().dropped
    }

    /// Forgets what was heard.
    pub(crate) fn forget(&self) {
        if let Some(kept) = &mut self.lock().kept {
            kept.clear();
        }
    }

    /// Confirms the server's settings.
    pub(crate) fn confirm_settings(&self) {
        let mut bytes = Vec::new();
        frame(&mut bytes, SETTINGS, ACK, 0, &[]);
        self.push(&bytes);
    }

    /// Begins a call, with its first message if there is one; returns its stream.
    pub(crate) fn call(&mut self, method: &str, token: &str, message: Option<&[u8]>, end: bool) -> u32 {
        let stream = self.next_stream();
        let mut block = vec![METHOD_POST, SCHEME_HTTP];
        let path = format!("/streamward.v1.{method}");
        field(&mut block, &[PATH], &path);
        field(&mut block, &[AUTHORITY], "localhost:50051");
        field(&mut block, &CONTENT_TYPE, "application/grpc");
        field(&mut block, &[0, 2, b't', b'e'], "trailers");
        if !token.is_empty() {
            field(&mut block, &AUTHORIZATION, &format!("Bearer {token}"));
        }
        let mut bytes = Vec::new();
        frame(&mut bytes, HEADERS, END_HEADERS, stream, &block);
        if let Some(message) = message {
            data(&mut bytes, stream, message, end);
        }
        self.push(&bytes);
        stream
    }

    /// The same for a call made over and over on this connection: its fields are sent once and named by their places
    /// in the table from then on, as clients do.
    pub(crate) fn call_again(&mut self, method: &str, token: &str, message: &[u8]) -> u32 {
        let stream = self.next_stream();
        let mut block = vec![METHOD_POST, SCHEME_HTTP];
        if self.has_fields {
            block.extend([66, 65, 64, 63, 62].map(|place: u8| INDEXED | place));
        } else {
            self.has_fields = true;
            field(&mut block, &[REMEMBERED | PATH], &format!("/streamward.v1.{method}"));
            field(&mut block, &[REMEMBERED | AUTHORITY], "localhost:50051");
            field(&mut block, &[REMEMBERED | 31], "application/grpc");
            field(&mut block, &[REMEMBERED, 2, b't', b'e'], "trailers");
            field(&mut block, &[REMEMBERED | 23], &format!("Bearer {token}"));
        }
        let mut bytes = Vec::new();
        frame(&mut bytes, HEADERS, END_HEADERS, stream, &block);
        data(&mut bytes, stream, message, true);
        self.push(&bytes);
        stream
    }

    fn next_stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        stream
    }

    /// What came on a stream since the last [`Self::forget`].
    pub(crate) fn answer(&self, stream: u32) -> Answer {
        let mut answer = Answer::default();
        let pipe = self.lock();
        let mut rest = pipe.kept.as_deref().unwrap_or_default();
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let [a, b, c, kind, flags, on @ ..] = *head;
            let bytes = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let Some((payload, behind)) = behind.split_at_checked(bytes) else { break };
            if u32::from_be_bytes(on) == stream {
                if kind == DATA {
                    answer.data.extend_from_slice(payload);
                }
                answer.ended |= matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
            }
            rest = behind;
        }
        answer
    }
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message with its prefix.
pub(crate) fn framed(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + message.encoded_len());
    bytes.extend_from_slice(&prefix(message.encoded_len()));
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes
}

/// Appends DATA frames of HTTP/2's initial size at most.
pub(crate) fn data(out: &mut Vec<u8>, stream: u32, bytes: &[u8], end: bool) {
    let mut parts = bytes.chunks(16 * 1024).peekable();
    while let Some(part) = parts.next() {
        let flags = if end && parts.peek().is_none() { END_STREAM } else { 0 };
        frame(out, DATA, flags, stream, part);
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    // Shorter than a frame may be.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

// HPACK (RFC 7541, appendix A): fields of the static table, and names in it for literals that are not remembered.
const METHOD_POST: u8 = 0x83;
const SCHEME_HTTP: u8 = 0x86;
const AUTHORITY: u8 = 1;
const PATH: u8 = 4;
const CONTENT_TYPE: [u8; 2] = [0x0f, 31 - 15];
const AUTHORIZATION: [u8; 2] = [0x0f, 23 - 15];
/// A literal that is remembered.
const REMEMBERED: u8 = 0x40;
/// A field named by its place.
const INDEXED: u8 = 0x80;

/// A literal of less than 127 bytes, not compressed.
fn field(block: &mut Vec<u8>, name: &[u8], value: &str) {
    block.extend_from_slice(name);
    block.extend(u8::try_from(value.len()).ok().filter(|length| *length < 127));
    block.extend_from_slice(value.as_bytes());
}

impl Transport for ServerEnd {
    fn forget_unsent(&self) {}
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        lock(&self.0).dropped = true;
    }
}

impl AsyncRead for ServerEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.0);
        if pipe.to_server.is_empty() && !pipe.closed {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (front, _) = pipe.to_server.as_slices();
        let taken = front.len().min(buf.remaining());
        buf.put_slice(&front[..taken]);
        pipe.to_server.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(kept) = &mut lock(&self.0).kept {
            kept.extend_from_slice(buf);
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(kept) = &mut lock(&self.0).kept {
            bufs.iter().for_each(|buf| kept.extend_from_slice(buf));
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
