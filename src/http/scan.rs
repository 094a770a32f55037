//! Finds the end of a request head in bytes as they arrive, and refuses what no head may hold.
//!
//! httparse takes a bare LF for a line end and passes bytes above ASCII; two parsers that disagree on
//! such bytes are how requests are smuggled (RFC 9112, section 11.2). So the raw bytes are checked
//! here, each one once, before httparse sees a complete head.

use super::Reject;

/// The longest head in bytes, from the first byte of the request line to the last empty line.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest target in bytes.
pub(super) const TARGET_BYTES_MAX: usize = 2 * 1024;
/// The longest request line: the longest target, and room for any method and version.
const REQUEST_LINE_BYTES_MAX: usize = TARGET_BYTES_MAX + 64;

/// Where a complete head lies in the bytes that were scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadSpan {
    /// The first byte of the request line: 0, or 2 after an ignored empty line.
    pub start: usize,
    /// The first byte after the head.
    pub end: usize,
}

/// The state of a scan. The bytes may arrive in any pieces: the result is the same.
#[derive(Debug, Default)]
pub struct HeadScanner {
    /// The next byte to look at.
    at: usize,
    /// The first byte of the request line.
    start: usize,
    /// The first byte of the current line.
    line_start: usize,
    /// The request line is complete.
    past_request_line: bool,
    /// The last byte was a CR.
    after_cr: bool,
}

impl HeadScanner {
    /// Looks at the bytes that were added to `bytes` since the last call. `None`: the head goes on.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<HeadSpan>, Reject> {
        let end = bytes.len().min(HEAD_BYTES_MAX);
        while self.at < end {
            if !self.after_cr {
                self.skip_text(&bytes[..end])?;
            }
            let Some(&byte) = bytes[..end].get(self.at) else {
                break;
            };
            self.at += 1;
            if self.take_special(byte)? {
                return Ok(Some(HeadSpan {
                    start: self.start,
                    end: self.at,
                }));
            }
        }
        if self.at >= HEAD_BYTES_MAX {
            return Err(Reject::HeadTooLarge);
        }
        Ok(None)
    }

    /// Passes over the bytes that may stand inside a line.
    fn skip_text(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        let rest = &bytes[self.at..];
        let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
        self.at += rest.iter().take_while(|byte| is_text(byte)).count();
        if !self.past_request_line && self.at - self.start > REQUEST_LINE_BYTES_MAX {
            return Err(Reject::TargetTooLong);
        }
        Ok(())
    }

    /// Takes a byte that is not text, or any byte after a CR. True: the head is complete.
    fn take_special(&mut self, byte: u8) -> Result<bool, Reject> {
        match byte {
            b'\n' if self.after_cr => {
                self.after_cr = false;
                self.end_line()
            }
            b'\r' if !self.after_cr => {
                self.after_cr = true;
                Ok(false)
            }
            _ if self.after_cr || byte == b'\n' => Err(Reject::BareLineEnd),
            _ => Err(Reject::ForbiddenByte),
        }
    }

    /// A line is complete. True: it was the empty line that ends the head.
    fn end_line(&mut self) -> Result<bool, Reject> {
        let is_empty = self.at - self.line_start == 2;
        self.line_start = self.at;
        if !is_empty {
            self.past_request_line = true;
            return Ok(false);
        }
        if self.past_request_line {
            return Ok(true);
        }
        // RFC 9112, section 2.2: one empty line before the request line is ignored.
        if self.start > 0 {
            return Err(Reject::EmptyRequestLine);
        }
        self.start = self.at;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8]) -> Result<Option<HeadSpan>, Reject> {
        HeadScanner::default().advance(bytes)
    }

    #[test]
    fn head_ends_at_its_empty_line_and_not_before() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
        for cut in 0..27 {
            assert_eq!(scan(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let span = HeadSpan { start: 0, end: 27 };
        assert_eq!(scan(bytes), Ok(Some(span)));
    }

    #[test]
    fn one_empty_line_before_the_request_line_is_ignored_and_a_second_is_not() {
        let span = HeadSpan { start: 2, end: 20 };
        assert_eq!(scan(b"\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(span)));
        let two = scan(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(two, Err(Reject::EmptyRequestLine));
    }

    #[test]
    fn bare_line_ends_are_refused_wherever_they_stand() {
        let rows: [&[u8]; 7] = [
            b"\nGET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\nHost: a\n",
            b"GET / HTTP/1.1\r\n\n",
            b"GET / HTTP/1.1\rHost: a",
            b"GET / HTTP/1.1\r\nHost: a\r\r\n",
            b"GET / HTTP/1.1\r\nHost: a\rb\r\n",
        ];
        for bytes in rows {
            assert_eq!(scan(bytes), Err(Reject::BareLineEnd), "{bytes:?}");
        }
    }

    #[test]
    fn every_byte_outside_of_printable_ascii_and_tab_is_refused() {
        for byte in (0..=255u8).filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~'))
        {
            let mut bytes = b"GET / HTTP/1.1\r\nA: ".to_vec();
            bytes.push(byte);
            assert_eq!(scan(&bytes), Err(Reject::ForbiddenByte), "{byte:#x}");
        }
    }

    #[test]
    fn head_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        let head = |fill: usize| {
            let mut bytes = b"GET / HTTP/1.1\r\nA: ".to_vec();
            bytes.resize(fill - 4, b'a');
            bytes.extend_from_slice(b"\r\n\r\n");
            bytes
        };
        let full = HeadSpan {
            start: 0,
            end: HEAD_BYTES_MAX,
        };
        assert_eq!(scan(&head(HEAD_BYTES_MAX)), Ok(Some(full)));
        let over = scan(&head(HEAD_BYTES_MAX + 1));
        assert_eq!(over, Err(Reject::HeadTooLarge));
    }

    #[test]
    fn endless_request_line_is_a_target_too_long() {
        let mut bytes = b"GET /".to_vec();
        bytes.resize(REQUEST_LINE_BYTES_MAX + 1, b'a');
        assert_eq!(scan(&bytes), Err(Reject::TargetTooLong));
    }
}
