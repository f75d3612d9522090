//! Makes the `:authority` of gRPC's C core readable on a Unix socket.
//!
//! For the target `unix:/run/x.sock`, clients built on C core (Python, C++, Ruby, PHP) send the percent-encoded path
//! `run%2Fx.sock` as `:authority`. A `%` is not allowed in an authority's host as h2 reads it, and every call would be
//! reset with PROTOCOL_ERROR. Nothing here needs the name, so each `%` in it becomes `-` on its way to h2: the length
//! stays, and with it HPACK's and HTTP/2's own lengths.
//!
//! This walks frames (RFC 9113, 4.1) and header fields (RFC 7541, 6) only as far as needed to find the value. What it
//! cannot follow, such as a Huffman-coded value, passes unchanged.

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
const NAME: &[u8] = b":authority";
/// The name's place in HPACK's static table.
const NAME_INDEX: u8 = 1;

/// Walks one connection's bytes from its first.
#[derive(Debug)]
pub(crate) struct AuthorityFilter {
    frame: Frame,
    field: Field,
}

#[derive(Debug)]
enum Frame {
    /// Bytes to pass before the next head.
    Skip(usize),
    Head {
        bytes: [u8; HEAD_BYTES],
        have: usize,
    },
    /// The pad length of a HEADERS frame comes next.
    PadLength {
        left: usize,
        priority: bool,
    },
    /// A header block: `before` bytes of priority, then `block`, then `padding`.
    Block {
        before: usize,
        block: usize,
        padding: usize,
    },
}

/// Where in a header block we are; it may go on in the next frame.
#[derive(Clone, Copy, Debug)]
enum Field {
    Start,
    /// The rest of an integer that is not needed.
    Integer {
        then: Next,
    },
    /// A string's length comes next.
    Length(Text),
    /// The rest of a string's length.
    LongLength {
        text: Text,
        length: usize,
        shift: u32,
        huffman: bool,
    },
    /// A string's bytes.
    Bytes {
        text: Text,
        left: usize,
        huffman: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Field,
    Value,
}

#[derive(Clone, Copy, Debug)]
enum Text {
    /// A name, and how much of [`NAME`] it has matched; `None` when it is another.
    Name(Option<usize>),
    Value {
        authority: bool,
    },
}

impl AuthorityFilter {
    pub(crate) const fn new() -> Self {
        Self { frame: Frame::Skip(PREFACE_BYTES), field: Field::Start }
    }

    /// Passes what was read, in place.
    pub(crate) fn pass(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            // Payloads of other frames are passed in one step.
            if let Frame::Skip(left) = &mut self.frame {
                let passed = (bytes.len() - at).min(*left);
                *left -= passed;
                if *left == 0 {
                    self.frame = Frame::Head { bytes: [0; HEAD_BYTES], have: 0 };
                }
                at += passed;
            } else {
                self.pass_one(&mut bytes[at]);
                at += 1;
            }
        }
    }

    fn pass_one(&mut self, byte: &mut u8) {
        match &mut self.frame {
            Frame::Skip(_) => {}
            Frame::Head { bytes, have } => {
                bytes[*have] = *byte;
                *have += 1;
                if *have == HEAD_BYTES {
                    self.frame = after_head(bytes);
                }
            }
            Frame::PadLength { left, priority } => {
                let (left, before) = (*left - 1, if *priority { 5 } else { 0 });
                let padding = usize::from(*byte).min(left);
                self.frame = block(before, left - padding, padding);
            }
            Frame::Block { before, block, padding } => {
                *block -= 1;
                if *before > 0 {
                    *before -= 1;
                } else {
                    self.field = self.field.pass(byte);
                }
                if *block == 0 {
                    self.frame = Frame::Skip(*padding);
                }
            }
        }
        if matches!(self.frame, Frame::Skip(0)) {
            self.frame = Frame::Head { bytes: [0; HEAD_BYTES], have: 0 };
        }
    }
}

fn after_head(head: &[u8; HEAD_BYTES]) -> Frame {
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let (kind, flags) = (head[3], head[4]);
    match kind {
        HEADERS if flags & FLAG_PADDED != 0 && length > 0 => {
            Frame::PadLength { left: length, priority: flags & FLAG_PRIORITY != 0 }
        }
        HEADERS => block(if flags & FLAG_PRIORITY != 0 { 5 } else { 0 }, length, 0),
        CONTINUATION => block(0, length, 0),
        _ => Frame::Skip(length),
    }
}

fn block(before: usize, block: usize, padding: usize) -> Frame {
    if block == 0 { Frame::Skip(padding) } else { Frame::Block { before, block, padding } }
}

impl Field {
    fn pass(self, byte: &mut u8) -> Self {
        match self {
            Self::Start => Self::begin(*byte),
            Self::Integer { then } if *byte & 0x80 != 0 => Self::Integer { then },
            Self::Integer { then: Next::Field } => Self::Start,
            Self::Integer { then: Next::Value } => Self::Length(Text::Value { authority: false }),
            Self::Length(text) => {
                let (huffman, length) = (*byte & 0x80 != 0, usize::from(*byte & 0x7f));
                if length == 0x7f {
                    Self::LongLength { text, length, shift: 0, huffman }
                } else {
                    Self::bytes(text, length, huffman)
                }
            }
            Self::LongLength { text, length, shift, huffman } => {
                let part = usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or(0);
                let length = length.saturating_add(part);
                if *byte & 0x80 != 0 {
                    Self::LongLength { text, length, shift: shift.saturating_add(7), huffman }
                } else {
                    Self::bytes(text, length, huffman)
                }
            }
            Self::Bytes { text, left, huffman } => {
                let text = match text {
                    Text::Name(Some(matched)) if !huffman && NAME.get(matched) == Some(byte) => {
                        Text::Name(Some(matched + 1))
                    }
                    Text::Name(_) => Text::Name(None),
                    Text::Value { authority } => {
                        if authority && !huffman && *byte == b'%' {
                            *byte = b'-';
                        }
                        text
                    }
                };
                Self::bytes(text, left - 1, huffman)
            }
        }
    }

    /// The first byte of a field (RFC 7541, 6.1 to 6.3).
    fn begin(byte: u8) -> Self {
        let (prefix_max, then) = match byte {
            0x80.. => (0x7f, Next::Field),
            0x40.. => (0x3f, Next::Value),
            0x20.. => (0x1f, Next::Field),
            _ => (0x0f, Next::Value),
        };
        let index = byte & prefix_max;
        match then {
            _ if index == prefix_max => Self::Integer { then },
            Next::Field => Self::Start,
            Next::Value if index == 0 => Self::Length(Text::Name(Some(0))),
            Next::Value => Self::Length(Text::Value { authority: index == NAME_INDEX }),
        }
    }

    fn bytes(text: Text, left: usize, huffman: bool) -> Self {
        match text {
            _ if left > 0 => Self::Bytes { text, left, huffman },
            Text::Name(matched) => Self::Length(Text::Value { authority: matched == Some(NAME.len()) }),
            Text::Value { .. } => Self::Start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn text(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }

    /// A connection's bytes, with `authority` where C core, others, and padded frames put it.
    fn connection(authority: &[u8]) -> Vec<u8> {
        let by_name = [&[0x40][..], &text(NAME), &text(authority)].concat();
        let by_index = [&[0x41][..], &text(authority)].concat();
        let path = [&[0x04][..], &text(b"/a%2Fb")].concat();
        let long = [&[0x40][..], &text(b"x"), &[0x7f, 0x01], &[b'%'; 128]].concat();
        let first = [&[0x82, 0x3f, 0xe1, 0x1f][..], &path, &by_name, &[0x7f, 0x05], &text(b"%")].concat();
        let second = [&[0xff, 0x10][..], &by_index].concat();
        let (head, rest) = second.split_at(5);
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, b"%%%%%%"),
            frame(HEADERS, 4, &first),
            frame(0, 0, b"%data%"),
            frame(HEADERS, FLAG_PRIORITY, &[&b"%%%%%"[..], head].concat()),
            frame(CONTINUATION, 4, rest),
            frame(HEADERS, 4, &long),
            frame(HEADERS, 4 | FLAG_PADDED, &[&[3][..], &by_index, b"%%%"].concat()),
            frame(0, 1, b""),
        ]
        .concat()
    }

    #[test]
    fn only_the_authority_changes_however_the_bytes_are_cut() {
        let expected = connection(b"run-2Fx.sock");
        for step in [1, 2, 3, 7, 64, 10_000] {
            let mut bytes = connection(b"run%2Fx.sock");
            let mut filter = AuthorityFilter::new();
            bytes.chunks_mut(step).for_each(|chunk| filter.pass(chunk));
            assert_eq!(bytes, expected, "step {step}");
        }
    }

    #[test]
    fn any_bytes_pass_without_a_panic() {
        let mut state = 7_u32;
        let mut filter = AuthorityFilter::new();
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            filter.pass(&mut [state.to_be_bytes()[0]]);
        }
    }
}
