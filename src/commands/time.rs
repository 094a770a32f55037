//! Points in time as people and scripts read them. The store counts milliseconds since 1970 UTC.

use jiff::Timestamp;

/// To the minute, in UTC, as a person reads it.
pub(super) fn date(ms: i64) -> String {
    timestamp(ms).strftime("%Y-%m-%d %H:%M").to_string()
}

/// As scripts read it.
pub(super) fn rfc3339(ms: i64) -> String {
    timestamp(ms).to_string()
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}
