//! Keys from the terminal, read without a thread and without blocking.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::time::timeout;

/// A lone escape is the key when nothing follows it for this long (ncurses' ESCDELAY is 1 s, vim's common one 50 ms).
const ESCAPE_TIMEOUT: Duration = Duration::from_millis(50);
/// Longest escape sequence; what is longer is no key of ours.
const SEQUENCE_BYTES_MAX: usize = 32;
/// What one read takes.
const READ_BYTES_MAX: usize = 1024;

/// A key press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character typed.
    Char(char),
    /// A character of a paste: text, never a command. Line breaks are spaces.
    Pasted(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-Z.
    Suspend,
    /// Ctrl-L.
    Redraw,
}

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parsed {
    /// A key of this many bytes.
    Key(Key, usize),
    /// A paste begins or ends.
    Paste(bool, usize),
    /// Nothing we know, this long.
    Unknown(usize),
    /// The beginning of something.
    Incomplete,
}

/// Bytes become keys.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    pasting: bool,
}

impl Decoder {
    /// Takes what was read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next key whose bytes are all there.
    pub(crate) fn next(&mut self) -> Option<Key> {
        loop {
            let (key, used) = match parse(&self.bytes) {
                Parsed::Key(key, used) => (Some(key), used),
                Parsed::Paste(begins, used) => {
                    self.pasting = begins;
                    (None, used)
                }
                Parsed::Unknown(used) => (None, used),
                Parsed::Incomplete => return None,
            };
            self.bytes.drain(..used);
            match key {
                Some(Key::Char(c)) if self.pasting => return Some(Key::Pasted(c)),
                Some(Key::Enter) if self.pasting => return Some(Key::Pasted(' ')),
                Some(key) if !self.pasting => return Some(key),
                Some(_) | None => {}
            }
        }
    }

    /// Whether something has begun.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Nothing follows: what has begun is an escape, or nothing.
    pub(crate) fn give_up(&mut self) -> Option<Key> {
        let lone = self.bytes.first() == Some(&0x1b) && !self.pasting;
        let alone = lone && self.bytes.len() == 1;
        self.bytes.clear();
        alone.then_some(Key::Escape)
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some(first) = bytes.first() else { return Parsed::Incomplete };
    match first {
        0x1b => escape(bytes),
        b'\r' | b'\n' => Parsed::Key(Key::Enter, 1),
        0x08 | 0x7f => Parsed::Key(Key::Backspace, 1),
        0x03 => Parsed::Key(Key::Interrupt, 1),
        0x1a => Parsed::Key(Key::Suspend, 1),
        0x0c => Parsed::Key(Key::Redraw, 1),
        0x00..0x20 => Parsed::Unknown(1),
        0x20..0x7f => Parsed::Key(Key::Char(char::from(*first)), 1),
        0x80.. => character(bytes),
    }
}

/// One character of UTF-8 beyond ASCII.
fn character(bytes: &[u8]) -> Parsed {
    let head = &bytes[..bytes.len().min(4)];
    let (valid, broken) = match std::str::from_utf8(head) {
        Ok(text) => (text, None),
        Err(error) => {
            let (valid, _) = head.split_at(error.valid_up_to());
            (std::str::from_utf8(valid).unwrap_or_default(), error.error_len())
        }
    };
    match (valid.chars().next(), broken) {
        // C1 controls are no text.
        (Some(c), _) if c.is_control() => Parsed::Unknown(c.len_utf8()),
        (Some(c), _) => Parsed::Key(Key::Char(c), c.len_utf8()),
        (None, Some(broken)) => Parsed::Unknown(broken),
        (None, None) => Parsed::Incomplete,
    }
}

fn escape(bytes: &[u8]) -> Parsed {
    match bytes.get(1) {
        None => Parsed::Incomplete,
        Some(b'[') => sequence(bytes),
        Some(b'O') => bytes.get(2).map_or(Parsed::Incomplete, |last| named(*last, 3)),
        // Two in a row: the first one was the key.
        Some(0x1b) => Parsed::Key(Key::Escape, 1),
        // Alt and a key.
        Some(_) => Parsed::Unknown(2),
    }
}

/// `ESC [`, parameters, and a last byte (ECMA-48, 5.4).
fn sequence(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes[2..].iter().position(|byte| !(0x20..0x40).contains(byte)) else {
        return if bytes.len() > SEQUENCE_BYTES_MAX {
            Parsed::Unknown(bytes.len())
        } else {
            Parsed::Incomplete
        };
    };
    let (parameters, used) = (&bytes[2..2 + end], 3 + end);
    if bytes[2 + end] != b'~' {
        return named(bytes[2 + end], used);
    }
    let number = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
    match number {
        b"1" | b"7" => Parsed::Key(Key::Home, used),
        b"4" | b"8" => Parsed::Key(Key::End, used),
        b"5" => Parsed::Key(Key::PageUp, used),
        b"6" => Parsed::Key(Key::PageDown, used),
        b"200" => Parsed::Paste(true, used),
        b"201" => Parsed::Paste(false, used),
        _ => Parsed::Unknown(used),
    }
}

fn named(last: u8, used: usize) -> Parsed {
    let key = match last {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        b'F' => Key::End,
        _ => return Parsed::Unknown(used),
    };
    Parsed::Key(key, used)
}

/// The terminal's keys.
#[derive(Debug)]
pub(crate) struct Keys {
    input: Receiver,
    decoder: Decoder,
}

impl Keys {
    /// Keys from our terminal, which is in raw mode.
    ///
    /// It is opened anew, so that reading does not block while standard output, often the same open file, still does.
    pub(crate) fn new() -> io::Result<Self> {
        // A terminal reads like a pipe; `unchecked` for not being one.
        let open = |path| OpenOptions::new().unchecked(true).open_receiver(path);
        // Without a controlling terminal standard input may still be one.
        let input = open("/dev/tty").or_else(|_| open("/proc/self/fd/0"))?;
        Ok(Self { input, decoder: Decoder::default() })
    }

    /// The next key; none when the terminal is gone. Safe to drop while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Key>> {
        loop {
            if let Some(key) = self.decoder.next() {
                return Ok(Some(key));
            }
            let read = if self.decoder.is_waiting() {
                timeout(ESCAPE_TIMEOUT, self.read()).await
            } else {
                Ok(self.read().await)
            };
            match read {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(None),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    if let Some(key) = self.decoder.give_up() {
                        return Ok(Some(key));
                    }
                }
            }
        }
    }

    /// Takes what is there; false when the terminal is gone.
    async fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; READ_BYTES_MAX];
        loop {
            self.input.readable().await?;
            match self.input.try_read(&mut bytes) {
                // A terminal that hung up reads as its end or as EIO.
                Ok(0) => return Ok(false),
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Ok(false),
                Ok(read) => {
                    self.decoder.push(&bytes[..read]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(parts: &[&[u8]]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        let mut keys = Vec::new();
        for part in parts {
            decoder.push(part);
            keys.extend(std::iter::from_fn(|| decoder.next()));
        }
        keys.extend(decoder.give_up());
        keys
    }

    #[test]
    fn keys_read_the_same_however_their_bytes_are_cut() {
        let bytes = "qü\x1b[A\x1bOB\x1b[5~\x1b[1;5C\x1b[4~\r\x7f\x03\x1a👋".as_bytes();
        let expected = [
            Key::Char('q'),
            Key::Char('ü'),
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::Right,
            Key::End,
            Key::Enter,
            Key::Backspace,
            Key::Interrupt,
            Key::Suspend,
            Key::Char('👋'),
        ];
        for cut in 0..=bytes.len() {
            assert_eq!(keys(&[&bytes[..cut], &bytes[cut..]]), expected, "{cut}");
        }
    }

    #[test]
    fn a_lone_escape_is_a_key_and_half_a_sequence_is_none() {
        assert_eq!(keys(&[b"\x1b"]), [Key::Escape]);
        assert_eq!(keys(&[b"\x1b\x1b"]), [Key::Escape, Key::Escape]);
        assert_eq!(keys(&[b"\x1b[1;"]), []);
        assert_eq!(keys(&[b"\x1b[99~x", b"\x1bx", b"\x01", b"\xff", b"y"]), [Key::Char('x'), Key::Char('y')]);
        let endless = [b"\x1b[".as_slice(), &[b'1'; 100], b"q"].concat();
        assert_eq!(keys(&[&endless[..90], &endless[90..]]).last(), Some(&Key::Char('q')));
    }

    #[test]
    fn what_is_pasted_presses_no_key() {
        let pasted = keys(&[b"\x1b[200~q\r\x03\x1b[A", b"z\x1b[20", b"1~q"]);
        assert_eq!(pasted, [Key::Pasted('q'), Key::Pasted(' '), Key::Pasted('z'), Key::Char('q')]);
    }

    #[test]
    fn random_bytes_never_stop_the_decoder() {
        let mut state = 1_u32;
        for _ in 0..2_000 {
            let mut decoder = Decoder::default();
            for _ in 0..40 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let bytes = state.to_be_bytes();
                let byte = if bytes[0].is_multiple_of(3) {
                    b"\x1b[O~;12\xc3"[usize::from(bytes[1] % 8)]
                } else {
                    bytes[1]
                };
                decoder.push(&[byte]);
                while decoder.next().is_some() {}
                assert!(decoder.bytes.len() <= SEQUENCE_BYTES_MAX + 4);
            }
        }
    }
}
