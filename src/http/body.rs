//! How many bytes of a body are still to come, in either direction. There is no chunked coding here:
//! every body has a length before its first byte.

use super::Cut;

/// The body of a request.
#[derive(Debug)]
pub struct Incoming {
    remaining: u64,
    awaits_continue: bool,
}

impl Incoming {
    /// A body of `length_bytes`, which the client keeps back until it is told to go on when
    /// `awaits_continue`.
    pub fn new(length_bytes: u64, awaits_continue: bool) -> Self {
        Self {
            remaining: length_bytes,
            awaits_continue: awaits_continue && length_bytes > 0,
        }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The client waits for `100 Continue`.
    pub fn awaits_continue(&self) -> bool {
        self.awaits_continue
    }

    /// The client was told to go on, or went on by itself (RFC 9110, section 10.1.1).
    pub fn go_on(&mut self) {
        self.awaits_continue = false;
    }

    /// As much of a read of `wanted` bytes as belongs to this body.
    pub fn clamp(&self, wanted: usize) -> usize {
        usize::try_from(self.remaining).map_or(wanted, |remaining| wanted.min(remaining))
    }

    /// `count` bytes were read.
    pub fn took(&mut self, count: usize) {
        self.remaining = self.remaining.saturating_sub(count as u64);
    }
}

/// The body of a response.
#[derive(Debug)]
pub struct Outgoing {
    remaining: u64,
    suppressed: bool,
}

impl Outgoing {
    /// A body of `length_bytes`, which is announced but not sent when `suppressed` (HEAD).
    pub fn new(length_bytes: u64, suppressed: bool) -> Self {
        Self {
            remaining: length_bytes,
            suppressed,
        }
    }

    /// What of `bytes` goes on the wire. More than was announced is an error: it would be read as the
    /// next response.
    pub fn admit<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Cut> {
        if self.suppressed {
            return Ok(&[]);
        }
        let length = bytes.len() as u64;
        self.remaining = self.remaining.checked_sub(length).ok_or(Cut::Aborted)?;
        Ok(bytes)
    }

    /// Everything that was announced was admitted.
    pub fn is_complete(&self) -> bool {
        self.suppressed || self.remaining == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_never_reaches_into_the_next_request() {
        let mut body = Incoming::new(10, false);
        assert_eq!(body.clamp(4096), 10);
        body.took(7);
        assert_eq!(body.clamp(4096), 3);
        assert_eq!(body.clamp(2), 2);
        body.took(3);
        assert_eq!((body.clamp(4096), body.remaining()), (0, 0));
    }

    #[test]
    fn client_with_an_empty_body_waits_for_nothing() {
        assert!(!Incoming::new(0, true).awaits_continue());
        assert!(Incoming::new(1, true).awaits_continue());
    }

    #[test]
    fn response_longer_than_announced_is_refused_and_a_shorter_one_is_incomplete() {
        let mut body = Outgoing::new(3, false);
        assert!(body.admit(b"ab").is_ok() && !body.is_complete());
        assert_eq!(body.admit(b"cd"), Err(Cut::Aborted));
        assert!(body.admit(b"c").is_ok() && body.is_complete());
    }

    #[test]
    fn head_sends_nothing_and_is_complete() {
        let mut body = Outgoing::new(3, true);
        assert_eq!(body.admit(b"abcdef"), Ok(&b""[..]));
        assert!(body.is_complete());
    }
}
