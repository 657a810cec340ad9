//! Taking an input apart into numbers and pieces, in a way that mutations keep in step.

/// What is left of an input. Taking from an empty one gives zeros and empty pieces.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    /// All of an input.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, self.0), |(byte, rest)| (*byte, rest));
        self.0 = rest;
        byte
    }

    /// A piece with its length before it, two bytes with the low one first. One that claims more
    /// than there is gets what there is.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// All that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The like of [`Parts::piece`].
pub fn push_piece(input: &mut Vec<u8>, piece: &[u8]) {
    let length = u16::try_from(piece.len()).expect("a piece of less than 64 KiB");
    input.extend_from_slice(&length.to_le_bytes());
    input.extend_from_slice(piece);
}
