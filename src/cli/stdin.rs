//! Lines from standard input and from files, bounded.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader, ReadBuf, Stdin, stdin};

/// Lines of a reader. A line beyond the bound is told, not kept.
pub(crate) struct Lines<R> {
    reader: R,
    bytes_max: usize,
    line: Vec<u8>,
    /// Bytes of the present line, those beyond the bound included.
    line_bytes: usize,
    /// Bytes of all lines so far.
    pub(crate) bytes_read: u64,
}

/// A regular file, read where it is asked for: the disk answers, nobody is waited for.
pub(crate) struct Disk(pub(crate) File);

impl AsyncRead for Disk {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.read(buffer.initialize_unfilled());
        Poll::Ready(read.map(|read| buffer.advance(read)))
    }
}

/// One line without its line break.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Its bytes.
    Whole(Vec<u8>),
    /// It had more bytes than the bound; this many.
    TooLong(usize),
}

impl Lines<BufReader<Stdin>> {
    /// Standard input. tokio reads it on a thread of its own, which a client can afford.
    pub(crate) fn stdin(bytes_max: usize) -> Self {
        Self::new(BufReader::new(stdin()), bytes_max)
    }
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(crate) fn new(reader: R, bytes_max: usize) -> Self {
        Self { reader, bytes_max, line: Vec::new(), line_bytes: 0, bytes_read: 0 }
    }

    /// The next line, or none at the end. Safe to drop while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                return Ok(if self.line_bytes > 0 { Some(self.take()) } else { None });
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            // One byte more than the bound, for the `\r` that is not part of the line.
            let room = (self.bytes_max + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.line_bytes += part.len();
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            self.bytes_read += used as u64;
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> Line {
        let mut line = std::mem::take(&mut self.line);
        let mut bytes = std::mem::take(&mut self.line_bytes);
        if bytes == line.len() && line.last() == Some(&b'\r') {
            line.pop();
            bytes -= 1;
        }
        if bytes > self.bytes_max { Line::TooLong(bytes) } else { Line::Whole(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(input: &[u8], capacity: usize, bytes_max: usize) -> Vec<Line> {
        let mut lines = Lines::new(BufReader::with_capacity(capacity, input), bytes_max);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn lines_are_split_at_every_kind_of_line_break() {
        for capacity in [1, 2, 3, 64] {
            let lines = read(b"one\r\n\ntwo\nlast", capacity, 10).await;
            assert_eq!(lines, [whole("one"), whole(""), whole("two"), whole("last")], "{capacity}");
        }
        assert_eq!(read(b"", 8, 10).await, []);
    }

    #[tokio::test]
    async fn a_line_beyond_the_bound_is_told_and_the_next_is_read() {
        for capacity in [1, 3, 64] {
            let lines = read(b"12345\n123456\n12345\r\n1234567890\n1", capacity, 5).await;
            let expected = [whole("12345"), Line::TooLong(6), whole("12345"), Line::TooLong(10), whole("1")];
            assert_eq!(lines, expected, "{capacity}");
        }
    }
}
