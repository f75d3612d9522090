//! tonic's codec for messages that are bytes: who calls encodes before and decodes after. What tonic makes of a codec is
//! then there once, and not once for each message.

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// What a stream sets aside at first in each direction, instead of tonic's 8 KiB: a pipeline has thousands of streams.
/// It grows with what is sent.
const STREAM_BUFFER_BYTES: usize = 64;
/// What is encoded before it is sent; tonic's default.
const YIELD_BYTES: usize = 32 * 1024;

/// Messages that are bytes already, and stay so.
#[derive(Clone, Copy, Debug)]
pub struct BytesCodec;

/// Small at first.
#[must_use]
pub fn buffers() -> BufferSettings {
    BufferSettings::new(STREAM_BUFFER_BYTES, YIELD_BYTES)
}

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        // Without a copy: cut off what was received.
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
