//! Points in time as people and scripts read and write them. The store counts milliseconds since 1970 UTC.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use super::Failure;
use crate::units::parse_duration;

/// To the minute, in UTC, as a person reads it.
pub(super) fn date(ms: i64) -> String {
    timestamp(ms).strftime("%Y-%m-%d %H:%M").to_string()
}

/// A day, counted from 1970-01-01, as people and scripts read it.
pub(super) fn day(day: i64) -> String {
    let ms = day.saturating_mul(24 * 60 * 60 * 1000);
    timestamp(ms).strftime("%Y-%m-%d").to_string()
}

/// As scripts read it: always with milliseconds, so that texts sort as times do.
pub(super) fn rfc3339(ms: i64) -> String {
    timestamp(ms).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// As the name of a file has it, to the second, in UTC.
pub(super) fn compact(ms: i64) -> String {
    timestamp(ms).strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The time that [`compact`] wrote.
pub(super) fn parse_compact(text: &str) -> Option<i64> {
    let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let zoned = civil.to_zoned(TimeZone::UTC).ok()?;
    Some(zoned.timestamp().as_millisecond())
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// The beginning of a time that lasts until now: `2h` for two hours ago, `2026-11-20` for its first moment in
/// UTC, or a moment as RFC 3339 writes it.
pub(super) fn since(text: &str, now_ms: i64) -> Result<i64, Failure> {
    let since_ms = ago_ms(text, now_ms)
        .or_else(|| midnight_ms(text))
        .or_else(|| moment_ms(text));
    match since_ms {
        Some(since_ms) if since_ms <= now_ms => Ok(since_ms),
        Some(_) => Err(Failure::usage(format!(
            "--since: '{text}' is in the future"
        ))),
        None => Err(Failure::usage(format!(
            "--since: '{text}' is no time: write '2h' or '7d' (that long ago), '2026-11-20' (UTC) or \
             '2026-11-20T08:30:00Z'"
        ))),
    }
}

fn ago_ms(text: &str, now_ms: i64) -> Option<i64> {
    let ago = parse_duration(text).ok()?;
    // What is longer ago than can be counted is before everything.
    let ago_ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
    Some(now_ms.saturating_sub(ago_ms))
}

/// Exactly `2026-11-20`: what else reads as a date may be half a moment.
fn midnight_ms(text: &str) -> Option<i64> {
    let is_plain = text.len() == 10
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-');
    let date: Date = text.parse().ok().filter(|_| is_plain)?;
    let midnight = date.to_zoned(TimeZone::UTC).ok()?;
    Some(midnight.timestamp().as_millisecond())
}

fn moment_ms(text: &str) -> Option<i64> {
    Some(text.parse::<Timestamp>().ok()?.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    /// 2026-11-22T12:00:00Z.
    const NOW_MS: i64 = 1_795_348_800_000;

    #[test]
    fn since_is_an_age_a_day_or_a_moment() {
        for (text, since_ms) in [
            ("2h", NOW_MS - 2 * HOUR_MS),
            ("0s", NOW_MS),
            ("500ms", NOW_MS - 500),
            ("1d", NOW_MS - 24 * HOUR_MS),
            ("2026-11-22", NOW_MS - 12 * HOUR_MS),
            ("2026-11-20", NOW_MS - 60 * HOUR_MS),
            ("2026-11-22T12:00:00Z", NOW_MS),
            ("2026-11-22T13:00:00+02:00", NOW_MS - HOUR_MS),
            ("2026-11-22T11:59:59.999Z", NOW_MS - 1),
            ("1970-01-01", 0),
        ] {
            let read = since(text, NOW_MS).map_err(|error| error.to_string());
            assert_eq!(read, Ok(since_ms), "{text}");
        }
        // Before everything.
        assert!(since("99999999999d", NOW_MS).is_ok_and(|ms| ms < 0));
    }

    #[test]
    fn times_for_scripts_have_three_digits_of_milliseconds() {
        for (ms, text) in [
            (NOW_MS, "2026-11-22T12:00:00.000Z"),
            (NOW_MS + 7, "2026-11-22T12:00:00.007Z"),
            (NOW_MS + 120, "2026-11-22T12:00:00.120Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }

    #[test]
    fn the_future_and_what_is_no_time_are_refused() {
        for text in [
            "2026-11-23",
            "2026-11-22T12:00:00.001Z",
            "2099-01-01T00:00:00Z",
        ] {
            let refused = since(text, NOW_MS).expect_err(text).to_string();
            assert_eq!(refused, format!("--since: '{text}' is in the future"));
        }
        for text in [
            "",
            " ",
            "2",
            "yesterday",
            "2 h",
            "-2h",
            "2026-11",
            "2026-13-01",
            "2026-02-30",
            "20261120",
            "2026-11-20T08:30:00",
            "2026-11-20 08:30",
            "2026-11-20Z",
            "now",
            "1795348800000",
        ] {
            let refused = since(text, NOW_MS).expect_err(text).to_string();
            assert!(
                refused.starts_with(&format!("--since: '{text}' is no time: write '2h'")),
                "{refused}"
            );
        }
    }
}
