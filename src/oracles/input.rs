//! Reads values from a fuzzer's bytes. What is missing is zero or empty.

pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `bytes` bytes.
    pub(super) fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// Big-endian, from a byte that says how many bytes follow: small numbers stay short.
    pub(super) fn number(&mut self) -> u64 {
        let bytes = usize::from(self.byte() % 9);
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A byte of length, then as many bytes.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let bytes = usize::from(self.byte());
        self.take(bytes)
    }

    /// As [`Self::bytes`], what is not UTF-8 replaced.
    pub(super) fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Cuts `bytes` into chunks of 0 to 15 bytes, another way for each `seed`.
pub(super) fn cut(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed);
    let mut input = Input(bytes);
    let mut chunks = Vec::new();
    while !input.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        chunks.push(input.take(usize::from(state.to_be_bytes()[0] % 16)));
    }
    chunks
}
