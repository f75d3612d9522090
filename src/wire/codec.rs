//! gRPC's length-prefixed messages (gRPC over HTTP/2): one flag byte, four bytes of length, the message.

use bytes::{Buf as _, Bytes, BytesMut};

/// Bytes before each message.
pub const PREFIX_BYTES: usize = 5;

/// Why a request body is not a sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The compressed flag is set; no compression is offered.
    #[error("compressed messages are not accepted: send grpc-encoding identity")]
    Compressed,
    /// The flag byte is neither 0 nor 1.
    #[error("a message must begin with flag byte 0, not {0}")]
    Flag(u8),
    /// The claimed length is above the bound. Nothing was reserved for it.
    #[error("a message of {bytes} bytes is larger than the {bytes_max} allowed")]
    TooLarge {
        /// What was claimed.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// The body ended inside a message.
    #[error("the request ended inside a message")]
    Truncated,
}

/// Cuts a request body into messages. Holds at most one message and one received chunk.
#[derive(Debug)]
pub struct Deframer {
    buffer: BytesMut,
    bytes_max: usize,
}

impl Deframer {
    /// For messages of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), bytes_max }
    }

    /// Adds what was received.
    pub fn push(&mut self, chunk: Bytes) {
        if self.buffer.is_empty() {
            // Taken over without a copy when nothing else holds the chunk.
            self.buffer = BytesMut::from(chunk);
        } else {
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The next whole message.
    ///
    /// # Errors
    /// When the bytes are no message this server takes; the stream cannot go on.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        match prefix[0] {
            0 => {}
            1 => return Err(FrameError::Compressed),
            flag => return Err(FrameError::Flag(flag)),
        }
        let bytes = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > self.bytes_max {
            return Err(FrameError::TooLarge { bytes, bytes_max: self.bytes_max });
        }
        if self.buffer.len() < PREFIX_BYTES + bytes {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        let message = self.buffer.split_to(bytes).freeze();
        if self.buffer.is_empty() {
            // Lets go of the chunk's memory.
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }

    /// Checks that the body did not end inside a message.
    ///
    /// # Errors
    /// When it did.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

/// The prefix of a message of `bytes` bytes.
#[must_use]
pub fn prefix(bytes: usize) -> [u8; PREFIX_BYTES] {
    // A message is at most a few times `message_bytes_max`, which the configuration keeps far below 4 GiB.
    let [a, b, c, d] = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|message| [&prefix(message.len()), *message].concat()).collect()
    }

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let messages: [&[u8]; 4] = [b"one", b"", b"three", &[7; 300]];
        let bytes = framed(&messages);
        for step in [1, 2, 3, 5, 7, 64, 1000] {
            let mut deframer = Deframer::new(300);
            let mut out = Vec::new();
            for chunk in bytes.chunks(step) {
                deframer.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = deframer.next_message().unwrap() {
                    out.push(message.to_vec());
                }
            }
            assert_eq!(out, messages, "step {step}");
            assert_eq!(deframer.finish(), Ok(()));
        }
    }

    #[test]
    fn a_claimed_length_above_the_bound_is_refused_before_it_arrives() {
        let mut deframer = Deframer::new(10);
        deframer.push(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
        let bytes = 0xffff_ffff;
        assert_eq!(deframer.next_message(), Err(FrameError::TooLarge { bytes, bytes_max: 10 }));
    }

    #[test]
    fn compressed_unknown_and_truncated_messages_are_refused() {
        let mut deframer = Deframer::new(10);
        deframer.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(deframer.next_message(), Err(FrameError::Compressed));
        let mut deframer = Deframer::new(10);
        deframer.push(Bytes::from_static(&[9, 0, 0, 0, 0]));
        assert_eq!(deframer.next_message(), Err(FrameError::Flag(9)));
        let mut deframer = Deframer::new(10);
        deframer.push(Bytes::from_static(&[0, 0, 0, 0, 3, b'a']));
        assert_eq!(deframer.next_message(), Ok(None));
        assert_eq!(deframer.finish(), Err(FrameError::Truncated));
    }
}
