//! What a connection has written and the kernel has not taken: small pieces are copied together, a large one that is
//! known to be shared is lent. Listeners of one topic that keep up are sent the same bytes without a copy of their own.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use crate::base::limits::{DATA_FRAME_BYTES_MAX, LOAN_BYTES_MIN, LOANS_MAX, UNSENT_BYTES_MAX};

/// Pieces given to one system call: a header and a loan for each full frame, and what was copied after them.
const SLICES_MAX: usize = 2 * UNSENT_BYTES_MAX.div_ceil(DATA_FRAME_BYTES_MAX) + 2;

thread_local! {
    /// The buffer of whichever connection is being polled: with one thread, one serves all of them.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Messages handed to h2 in this turn, which gives back slices of them.
#[derive(Debug, Default)]
pub(super) struct Lent(VecDeque<Bytes>);

impl Lent {
    /// Remembers a message, instead of the oldest when there are too many: that one is copied.
    pub(super) fn lend(&mut self, message: &Bytes) {
        if self.0.len() >= LOANS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(message.clone());
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The message that `part` is a piece of, cut to it. They are all alive, so what lies inside one is one's.
    pub(super) fn find(&self, part: &[u8]) -> Option<Bytes> {
        let begin = part.as_ptr().addr();
        self.0.iter().find_map(|message| {
            let at = begin.checked_sub(message.as_ptr().addr())?;
            let end = at.checked_add(part.len())?;
            (end <= message.len()).then(|| message.slice(at..end))
        })
    }
}

/// A piece that was not copied.
#[derive(Debug)]
struct Loan {
    /// How much of the copied bytes goes before it.
    after_bytes: usize,
    piece: Bytes,
}

/// At most [`UNSENT_BYTES_MAX`], in the order of writing.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    copied: Vec<u8>,
    loans: Vec<Loan>,
    bytes: usize,
    /// How much of `bytes` the kernel has taken.
    sent_bytes: usize,
    /// Whether `copied` is the buffer of [`SPARE`], to be given back in this turn.
    borrowed: bool,
}

impl Unsent {
    /// Whether everything was taken.
    pub(super) fn is_sent(&self) -> bool {
        self.sent_bytes == self.bytes
    }

    /// Whether nothing was written since it was cleared.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// How much more may be written.
    pub(super) fn room(&self) -> usize {
        UNSENT_BYTES_MAX - (self.bytes - self.sent_bytes)
    }

    /// Memory held.
    pub(super) fn capacity(&self) -> usize {
        self.copied.capacity()
    }

    /// Takes as much of a write as there is room for; returns how much.
    pub(super) fn gather(&mut self, part: &[u8], lent: impl FnOnce(&[u8]) -> Option<Bytes>) -> usize {
        let part = &part[..part.len().min(self.room())];
        if self.copied.capacity() == 0 {
            self.copied = SPARE.take();
            // At once, so that it never has to move; what is not used of it is no memory yet.
            self.copied.reserve_exact(UNSENT_BYTES_MAX);
            self.borrowed = true;
        }
        let loan = if part.len() >= LOAN_BYTES_MIN { lent(part) } else { None };
        match loan {
            Some(piece) => self.loans.push(Loan { after_bytes: self.copied.len(), piece }),
            None => self.copied.extend_from_slice(part),
        }
        self.bytes += part.len();
        part.len()
    }

    /// The kernel took so much.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
    }

    /// What was copied, when that is all there is: one buffer, one cheaper system call.
    pub(super) fn only_copied(&self) -> Option<&[u8]> {
        self.loans.is_empty().then(|| &self.copied[self.sent_bytes..])
    }

    /// Fills `slices` with what comes next; returns those that were.
    pub(super) fn slices<'a, 'b>(&'a self, slices: &'b mut [IoSlice<'a>; SLICES_MAX]) -> &'b [IoSlice<'a>] {
        let mut filled = 0;
        self.pieces(|piece| {
            if let Some(slice) = slices.get_mut(filled) {
                *slice = IoSlice::new(piece);
                filled += 1;
            }
        });
        &slices[..filled]
    }

    /// An array for [`Self::slices`].
    pub(super) fn no_slices<'a>() -> [IoSlice<'a>; SLICES_MAX] {
        [IoSlice::new(&[]); SLICES_MAX]
    }

    /// Calls `each` with every piece that has not been taken.
    fn pieces<'a>(&'a self, mut each: impl FnMut(&'a [u8])) {
        let (mut skip, mut copied_from) = (self.sent_bytes, 0);
        let mut offer = |piece: &'a [u8]| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            if skipped < piece.len() {
                each(&piece[skipped..]);
            }
        };
        for loan in &self.loans {
            offer(&self.copied[copied_from..loan.after_bytes]);
            copied_from = loan.after_bytes;
            offer(&loan.piece);
        }
        offer(&self.copied[copied_from..]);
    }

    /// Everything was taken.
    pub(super) fn clear(&mut self) {
        self.replace(Vec::new());
    }

    /// The kernel takes no more for now. The rest moves to a buffer of its size: the shared one is for whoever is polled
    /// next, and a message must not live for one slow peer.
    pub(super) fn keep_rest(&mut self) {
        if self.borrowed || !self.loans.is_empty() || self.sent_bytes > self.bytes / 2 {
            let mut rest = Vec::with_capacity(self.bytes - self.sent_bytes);
            self.pieces(|piece| rest.extend_from_slice(piece));
            self.replace(rest);
        }
    }

    fn replace(&mut self, rest: Vec<u8>) {
        let mut used = std::mem::replace(&mut self.copied, rest);
        self.loans.clear();
        (self.bytes, self.sent_bytes) = (self.copied.len(), 0);
        if std::mem::take(&mut self.borrowed) {
            used.clear();
            SPARE.set(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(unsent: &Unsent) -> Vec<u8> {
        let mut all = Vec::new();
        unsent.pieces(|piece| all.extend_from_slice(piece));
        all
    }

    #[test]
    fn a_large_message_is_lent_and_a_small_one_copied_in_the_order_of_writing() {
        let (message, mut lent, mut unsent) =
            (vec![7; 2 * LOAN_BYTES_MIN].into(), Lent::default(), Unsent::default());
        lent.lend(&message);
        let foreign = vec![8; LOAN_BYTES_MIN];
        for part in [b"head".as_slice(), &message[1..], b"tail", &foreign, &message[..3]] {
            assert_eq!(unsent.gather(part, |part| lent.find(part)), part.len());
        }
        assert_eq!(unsent.copied.len(), 4 + 4 + foreign.len() + 3);
        assert_eq!(unsent.loans.len(), 1);
        let expected = [b"head".as_slice(), &message[1..], b"tail", &foreign, &message[..3]].concat();
        for sent in 0..expected.len() {
            unsent.sent_bytes = sent;
            let mut slices = Unsent::no_slices();
            let given: Vec<u8> = unsent.slices(&mut slices).iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(given, expected[sent..]);
            assert_eq!(written(&unsent), expected[sent..]);
        }
    }

    #[test]
    fn what_a_peer_does_not_take_holds_no_message_and_not_the_shared_buffer() {
        let (message, mut lent, mut unsent) =
            (Bytes::from(vec![7; LOAN_BYTES_MIN]), Lent::default(), Unsent::default());
        lent.lend(&message);
        unsent.gather(b"head", |_| None);
        unsent.gather(&message, |part| lent.find(part));
        lent.clear();
        assert!(!message.is_unique());
        unsent.sent(3);
        unsent.keep_rest();
        assert!(message.is_unique());
        assert!(unsent.capacity() < UNSENT_BYTES_MAX);
        assert_eq!(written(&unsent), [b"d".as_slice(), &message].concat());
    }

    #[test]
    fn no_more_is_lent_or_copied_than_there_is_room() {
        let (message, mut lent, mut unsent) =
            (Bytes::from(vec![7; UNSENT_BYTES_MAX]), Lent::default(), Unsent::default());
        lent.lend(&message);
        assert_eq!(unsent.gather(b"head", |_| None), 4);
        assert_eq!(unsent.gather(&message, |part| lent.find(part)), UNSENT_BYTES_MAX - 4);
        assert_eq!((unsent.room(), unsent.gather(b"more", |_| None)), (0, 0));
    }

    #[test]
    fn the_oldest_message_lent_is_forgotten_first() {
        let mut lent = Lent::default();
        let messages: Vec<Bytes> = (0..=LOANS_MAX).map(|_| vec![7; 10].into()).collect();
        messages.iter().for_each(|message| lent.lend(message));
        assert!(lent.find(&messages[0]).is_none());
        assert!(messages[1..].iter().all(|message| lent.find(&message[2..]).is_some()));
    }
}
