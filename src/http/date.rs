//! The `Date` header, written once a second at most.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The length of a date on the wire: `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_BYTES: usize = 29;

/// The date of the current second as text. One for each connection, so that none waits for another.
#[derive(Debug)]
pub struct DateCache {
    second: u64,
    text: [u8; DATE_BYTES],
}

impl Default for DateCache {
    fn default() -> Self {
        Self {
            second: 0,
            text: *b"Thu, 01 Jan 1970 00:00:00 GMT",
        }
    }
}

impl DateCache {
    /// The date as of now.
    pub fn now(&mut self) -> &[u8] {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.at(now.unwrap_or_default().as_secs())
    }

    /// The date of the second `unix_second` after 1970. httpdate panics after the year 9999.
    fn at(&mut self, unix_second: u64) -> &[u8] {
        const YEAR_9999_S: u64 = 253_370_764_800;
        if unix_second != self.second && unix_second < YEAR_9999_S {
            let time = UNIX_EPOCH + Duration::from_secs(unix_second);
            let text = httpdate::fmt_http_date(time);
            if text.len() == DATE_BYTES {
                self.text.copy_from_slice(text.as_bytes());
                self.second = unix_second;
            }
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_follows_the_clock_forwards_and_backwards() {
        let mut dates = DateCache::default();
        assert_eq!(dates.at(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(dates.at(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(dates.at(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn clock_beyond_the_year_9999_does_not_panic() {
        assert_eq!(DateCache::default().at(u64::MAX).len(), DATE_BYTES);
    }
}
