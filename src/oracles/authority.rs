//! The filter on a Unix socket's bytes against a reader that sees them all at once.

use crate::oracles::input::cut;
use crate::server::authority::AuthorityFilter;

/// The first byte says where the rest, a connection's bytes, is cut.
pub fn authority(data: &[u8]) {
    let Some((seed, sent)) = data.split_first() else { return };
    let whole = filtered(&[sent]);
    assert_eq!(filtered(&cut(sent, *seed)), whole);
    assert_eq!(filtered(&sent.chunks(1).collect::<Vec<_>>()), whole);
    assert_eq!(whole.len(), sent.len());
    let changed: Vec<usize> = (0..sent.len()).filter(|at| whole[*at] != sent[*at]).collect();
    assert!(changed.iter().all(|at| (sent[*at], whole[*at]) == (b'%', b'-')), "more than a % was changed");
    let (expected, known) = naive(sent);
    let changed: Vec<usize> = changed.into_iter().filter(|at| *at < known).collect();
    assert_eq!(changed, expected);
    // What has passed once has nothing left to change.
    assert_eq!(filtered(&[&whole]), whole);
}

fn filtered(chunks: &[&[u8]]) -> Vec<u8> {
    let mut filter = AuthorityFilter::new();
    let mut out = Vec::new();
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        filter.pass(&mut chunk);
        out.extend(chunk);
    }
    out
}

/// Where the connection has a `%` that must change, and up to where that is known: h2 ends a connection whose
/// integers are longer than it takes, so nothing is asked of the bytes after one.
fn naive(sent: &[u8]) -> (Vec<usize>, usize) {
    let block = header_block(sent);
    let mut fields = Fields { sent, block: &block, at: 0 };
    let mut found = Vec::new();
    while let Some(known) = fields.field(&mut found) {
        if let Some(known) = known {
            found.retain(|at| *at < known);
            return (found, known);
        }
    }
    (found, sent.len())
}

/// The places of all bytes of header blocks, in order.
fn header_block(sent: &[u8]) -> Vec<usize> {
    let mut block = Vec::new();
    let mut at = 24;
    while let Some(head) = sent.get(at..at + 9) {
        let length = head[..3].iter().fold(0, |length, byte| length * 256 + usize::from(*byte));
        let (kind, flags) = (head[3], head[4]);
        let (mut start, mut end) = (at + 9, at + 9 + length);
        at = end;
        if kind == 1 && flags & 0x8 != 0 && start < end {
            let padding = sent.get(start).map_or(0, |padding| usize::from(*padding));
            start += 1;
            end -= padding.min(end - start);
        }
        if kind == 1 && flags & 0x20 != 0 {
            start += 5;
        }
        if kind == 1 || kind == 9 {
            block.extend(start..end.min(sent.len()));
        }
    }
    block
}

struct Fields<'a> {
    sent: &'a [u8],
    block: &'a [usize],
    at: usize,
}

impl Fields<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.sent[*self.block.get(self.at)?];
        self.at += 1;
        Some(byte)
    }

    /// RFC 7541, 5.1, without the prefix's upper bits; the inner error is where a too long one begins.
    fn integer(&mut self, first: u8, prefix_bits: u32) -> Option<Result<usize, usize>> {
        let prefix_max = (1 << prefix_bits) - 1;
        let start = self.block[self.at - 1];
        let mut value = usize::from(first & prefix_max);
        if first & prefix_max < prefix_max {
            return Some(Ok(value));
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(Ok(value));
            }
        }
        Some(Err(start))
    }

    /// The places of a string's bytes as far as they are there, and whether it is Huffman-coded.
    fn string(&mut self) -> Option<Result<(bool, Vec<usize>), usize>> {
        let first = self.byte()?;
        let length = match self.integer(first, 7)? {
            Ok(length) => length,
            Err(start) => return Some(Err(start)),
        };
        let end = (self.at + length).min(self.block.len());
        let places = self.block[self.at..end].to_vec();
        self.at = end;
        Some(Ok((first >= 0x80, places)))
    }

    /// Reads one field. None at the end; a place where what follows is not known.
    fn field(&mut self, found: &mut Vec<usize>) -> Option<Option<usize>> {
        let first = self.byte()?;
        let (prefix_bits, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = match self.integer(first, prefix_bits)? {
            Ok(index) => index,
            Err(start) => return Some(Some(start)),
        };
        if !has_value {
            return Some(None);
        }
        let mut is_authority = index == 1;
        if index == 0 {
            match self.string()? {
                Ok((is_huffman, name)) => {
                    let name: Vec<u8> = name.iter().map(|at| self.sent[*at]).collect();
                    is_authority = !is_huffman && name == b":authority";
                }
                Err(start) => return Some(Some(start)),
            }
        }
        match self.string()? {
            Ok((is_huffman, value)) if is_authority && !is_huffman => {
                found.extend(value.into_iter().filter(|at| self.sent[*at] == b'%'));
            }
            Ok(_) => {}
            Err(start) => return Some(Some(start)),
        }
        Some(None)
    }
}
