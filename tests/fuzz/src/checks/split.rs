//! How bytes are cut into reads: by choices that follow from the bytes themselves.

/// A source of choices: xorshift, seeded with the bytes (FNV-1a).
pub struct Choices(u64);

impl Choices {
    /// The choices that belong to these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mixed = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(mixed | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    /// The lengths of a few reads, most of them short; some are empty.
    pub fn lengths(&mut self) -> Vec<usize> {
        let longest = [2, 8, 40, 600, 5000][self.below(5)];
        let mut lengths: Vec<_> = (0..8).map(|_| self.below(longest)).collect();
        // One that is not empty, or no end would come.
        lengths.push(longest);
        lengths
    }
}

/// Cuts `bytes` into pieces of these lengths, again and again.
pub fn pieces<'b>(bytes: &'b [u8], lengths: &[usize]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, later) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    pieces
}
