//! The bytes that a connection read and did not use yet: the head that is arriving, the first bytes of
//! its body, requests sent ahead.
//!
//! A head holds a credential, so nothing of it stays here once it was used: what is consumed, moved or grown
//! out of is wiped, and the rest when the connection ends. Bodies are read past this buffer, but for what
//! came with their head.

use zeroize::{Zeroize, Zeroizing};

use crate::http::HEAD_BYTES_MAX;

/// Enough for the head of any Nx request, and small enough for thousands of idle connections.
const BUFFER_BYTES: usize = 4 * 1024;

/// A buffer that grows to the largest head and no further.
pub(super) struct Buffer {
    bytes: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self {
            bytes: Zeroizing::new(vec![0; BUFFER_BYTES]),
            start: 0,
            end: 0,
        }
    }

    /// What was read and not used.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Room for the next read; never empty while a head is incomplete and within its limit.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() {
            self.make_space();
        }
        &mut self.bytes[self.end..]
    }

    /// `count` bytes were read into the space.
    pub(super) fn added(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// The first `count` pending bytes were used.
    pub(super) fn consume(&mut self, count: usize) {
        let used = self.start;
        self.start = (self.start + count).min(self.end);
        self.bytes[used..self.start].zeroize();
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives back what a large head took. For idle connections, which have nothing pending.
    pub(super) fn settle(&mut self) {
        if self.pending().is_empty() && self.bytes.len() > BUFFER_BYTES {
            *self = Self::new();
        }
    }

    fn make_space(&mut self) {
        if self.start > 0 {
            let moved_from = self.end;
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            self.bytes[self.end..moved_from].zeroize();
        } else {
            // Not resized in place, which would free the old bytes as they are.
            let mut grown = Zeroizing::new(vec![0; HEAD_BYTES_MAX]);
            grown[..self.end].copy_from_slice(&self.bytes[..self.end]);
            self.bytes = grown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut Buffer, bytes: &[u8]) {
        for &byte in bytes {
            buffer.space()[0] = byte;
            buffer.added(1);
        }
    }

    #[test]
    fn pending_bytes_survive_moves_and_growth() {
        let mut buffer = Buffer::new();
        fill(&mut buffer, &[1; BUFFER_BYTES - 1]);
        buffer.consume(BUFFER_BYTES - 2);
        fill(&mut buffer, &[2; 100]);
        assert_eq!(buffer.bytes.len(), BUFFER_BYTES, "moved, not grown");
        fill(&mut buffer, &[3; HEAD_BYTES_MAX - 101]);
        assert_eq!(
            buffer.pending()[..102],
            [&[1u8][..], &[2; 100], &[3]].concat()
        );
        assert_eq!(buffer.pending().len(), HEAD_BYTES_MAX);
    }

    #[test]
    fn growth_is_given_back_once_nothing_is_pending() {
        let mut buffer = Buffer::new();
        fill(&mut buffer, &[1; BUFFER_BYTES + 1]);
        buffer.settle();
        assert_eq!(buffer.bytes.len(), HEAD_BYTES_MAX);
        buffer.consume(BUFFER_BYTES + 1);
        buffer.settle();
        assert_eq!(buffer.bytes.len(), BUFFER_BYTES);
    }

    #[test]
    fn what_was_used_or_moved_is_wiped() {
        let mut buffer = Buffer::new();
        let set = |buffer: &Buffer| buffer.bytes.iter().filter(|byte| **byte != 0).count();
        fill(&mut buffer, &[1; BUFFER_BYTES]);
        buffer.consume(BUFFER_BYTES - 10);
        assert_eq!(set(&buffer), 10);
        buffer.space();
        assert_eq!(buffer.pending(), [1; 10]);
        assert_eq!(set(&buffer), 10, "moved, and not left where they were");
        buffer.consume(10);
        assert_eq!(set(&buffer), 0);
    }

    #[test]
    fn what_is_grown_out_of_or_dropped_is_wiped() {
        fn wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let mut buffer = Buffer::new();
        wiped(&buffer.bytes);
        fill(&mut buffer, &[1; BUFFER_BYTES]);
        let before = buffer.bytes.as_ptr();
        buffer.space();
        assert_ne!(
            buffer.bytes.as_ptr(),
            before,
            "a new one, not the same resized"
        );
        wiped(&buffer.bytes);
    }
}
