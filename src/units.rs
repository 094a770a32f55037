//! Byte sizes (`20GiB`) and durations (`30d`), as people write them: parsed and printed.
//!
//! Only whole numbers with one unit are read, so that every value has one meaning; what is printed
//! parses back to the same value. Inside the program sizes are bytes in a `u64` and durations are
//! [`Duration`]; text with units exists only at the edges.

use std::time::Duration;

/// The units of a size, each with its bytes; at equal length the first one is printed.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// The units of a duration, each with its milliseconds.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Other words for the units, offered as a correction, never accepted.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("t", "TiB"),
    ("g", "GiB"),
    ("m", "MiB"),
    ("k", "KiB"),
    ("day", "d"),
    ("days", "d"),
    ("hour", "h"),
    ("hours", "h"),
    ("hr", "h"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
];

/// What a text lacks to be a size or a duration. The message quotes the text and gives an example.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing but white space, or nothing at all.
    #[error("is empty, write {0}")]
    Empty(&'static str),
    /// The text does not begin with a digit.
    #[error("'{0}' does not begin with a number, write {1}")]
    NoNumber(String, &'static str),
    /// A decimal point, a comma or an underscore in the number.
    #[error("'{0}' is not a whole number with one unit, write {1}")]
    NotWhole(String, &'static str),
    /// A duration without its unit.
    #[error("'{0}' has no unit, write {1}")]
    NoUnit(String, &'static str),
    /// A unit that does not exist, with the one that was probably meant.
    #[error("'{text}' has the unknown unit '{unit}', {advice}")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// The part after the number.
        unit: String,
        /// The same number with a unit that exists, or an example.
        advice: String,
    },
    /// More than can be counted in 64 bits.
    #[error("'{0}' is too large to count")]
    Overflow(String),
}

const SIZE_EXAMPLE: &str = "a size like '20GiB', '512KiB' or '1024' (bytes)";
const DURATION_EXAMPLE: &str = "a duration like '30d', '12h', '90s' or '500ms'";

/// Reads a size in bytes: `20GiB`, `512KiB`, `10MB`, `1024`.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text, SIZE_EXAMPLE)?;
    let factor = if unit.is_empty() {
        1
    } else {
        factor_of(text, unit, SIZE_UNITS, SIZE_EXAMPLE)?
    };
    multiply(text, number, factor)
}

/// Reads a duration: `30d`, `12h`, `5m`, `90s`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text, DURATION_EXAMPLE)?;
    if unit.is_empty() {
        return Err(UnitError::NoUnit(text.to_owned(), DURATION_EXAMPLE));
    }
    let factor = factor_of(text, unit, DURATION_UNITS, DURATION_EXAMPLE)?;
    Ok(Duration::from_millis(multiply(text, number, factor)?))
}

/// Prints a size in bytes with the unit that leaves the smallest whole number.
pub fn print_size(size_bytes: u64) -> String {
    if size_bytes == 0 {
        return "0B".to_owned();
    }
    let whole = SIZE_UNITS
        .iter()
        .filter(|(_, bytes)| size_bytes.is_multiple_of(*bytes));
    let shortest = whole.min_by_key(|(_, bytes)| size_bytes / bytes).copied();
    let (unit, bytes) = shortest.unwrap_or(("B", 1));
    format!("{}{unit}", size_bytes / bytes)
}

/// Prints a size for a reader, to a tenth of the largest binary unit in it: `12.3 MiB`. Not to be read back.
pub fn print_size_roughly(size_bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if size_bytes < 1024 {
        return format!("{size_bytes} B");
    }
    // In tenths, and by whole numbers: rounding up to 1024.0 has to give the next unit.
    let mut shift = 10;
    let tenths = loop {
        let unit = 1_u128 << shift;
        let tenths = (u128::from(size_bytes) * 10 + unit / 2) / unit;
        if tenths < 10_240 || shift == 60 {
            break tenths;
        }
        shift += 10;
    };
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[shift / 10 - 1])
}

/// Prints a duration, to the millisecond, with the largest unit that divides it.
///
/// `120s` stays `120s` and not `2m`: minutes are printed from an hour on, where seconds are hard to read.
pub fn print_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let readable = DURATION_UNITS.iter().find(|(unit, factor)| {
        let factor = u128::from(*factor);
        millis != 0 && millis.is_multiple_of(factor) && (*unit != "m" || millis >= 3_600_000)
    });
    match readable {
        Some((unit, factor)) => format!("{}{unit}", millis / u128::from(*factor)),
        None => "0s".to_owned(),
    }
}

/// Splits a text into its digits and its unit.
fn split<'t>(text: &'t str, example: &'static str) -> Result<(&'t str, &'t str), UnitError> {
    if text.trim().is_empty() {
        return Err(UnitError::Empty(example));
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber(text.to_owned(), example));
    }
    if unit.contains(|c: char| !c.is_alphabetic()) {
        return Err(UnitError::NotWhole(text.to_owned(), example));
    }
    Ok((number, unit))
}

fn factor_of(
    text: &str,
    unit: &str,
    units: &[(&'static str, u64)],
    example: &str,
) -> Result<u64, UnitError> {
    if let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) {
        return Ok(*factor);
    }
    let advice = match meant(unit, units) {
        Some(meant) => format!("did you mean '{}{meant}'?", text.trim_end_matches(unit)),
        None => format!("write {example}"),
    };
    Err(UnitError::UnknownUnit {
        text: text.to_owned(),
        unit: unit.to_owned(),
        advice,
    })
}

/// The unit that somebody who wrote `unit` had in mind, if that is plain.
fn meant(unit: &str, units: &[(&'static str, u64)]) -> Option<&'static str> {
    let known = |word: &str| {
        units
            .iter()
            .map(|(name, _)| *name)
            .find(|name| *name == word)
    };
    let same_letters = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let other_word = || {
        let lower = unit.to_ascii_lowercase();
        let mut words = OTHER_WORDS.iter().filter(|(word, _)| *word == lower);
        words.find_map(|(_, name)| known(name))
    };
    same_letters.map(|(name, _)| *name).or_else(other_word)
}

fn multiply(text: &str, number: &str, factor: u64) -> Result<u64, UnitError> {
    let product = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    product.ok_or_else(|| UnitError::Overflow(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size_error(text: &str) -> String {
        parse_size(text).expect_err(text).to_string()
    }

    fn duration_error(text: &str) -> String {
        parse_duration(text).expect_err(text).to_string()
    }

    #[test]
    fn sizes_are_read_in_binary_decimal_and_bare_bytes() {
        for (text, size_bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("7B", 7),
            ("512KiB", 512 << 10),
            ("10MB", 10_000_000),
            ("20GiB", 20 << 30),
            ("1TiB", 1 << 40),
            ("007KB", 7_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(size_bytes), "{text}");
        }
    }

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("90s", 90_000),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn malformed_sizes_are_refused_with_what_was_wrong() {
        let example = SIZE_EXAMPLE;
        for (text, message) in [
            ("", format!("is empty, write {example}")),
            ("   ", format!("is empty, write {example}")),
            (
                "GiB",
                format!("'GiB' does not begin with a number, write {example}"),
            ),
            (
                "-1",
                format!("'-1' does not begin with a number, write {example}"),
            ),
            (
                "+1",
                format!("'+1' does not begin with a number, write {example}"),
            ),
            (
                " 1",
                format!("' 1' does not begin with a number, write {example}"),
            ),
            (
                "١GiB",
                format!("'١GiB' does not begin with a number, write {example}"),
            ),
            (
                "1 ",
                format!("'1 ' is not a whole number with one unit, write {example}"),
            ),
            (
                "20 GiB",
                format!("'20 GiB' is not a whole number with one unit, write {example}"),
            ),
            (
                "1.5GiB",
                format!("'1.5GiB' is not a whole number with one unit, write {example}"),
            ),
            (
                "1,5GiB",
                format!("'1,5GiB' is not a whole number with one unit, write {example}"),
            ),
            (
                "1_000",
                format!("'1_000' is not a whole number with one unit, write {example}"),
            ),
            (
                "1GiB1MiB",
                format!("'1GiB1MiB' is not a whole number with one unit, write {example}"),
            ),
            (
                "0x10",
                format!("'0x10' is not a whole number with one unit, write {example}"),
            ),
            (
                "1e6",
                format!("'1e6' is not a whole number with one unit, write {example}"),
            ),
            (
                "1GiB\0",
                format!("'1GiB\0' is not a whole number with one unit, write {example}"),
            ),
            (
                "20gib",
                "'20gib' has the unknown unit 'gib', did you mean '20GiB'?".to_owned(),
            ),
            (
                "2G",
                "'2G' has the unknown unit 'G', did you mean '2GiB'?".to_owned(),
            ),
            (
                "2k",
                "'2k' has the unknown unit 'k', did you mean '2KiB'?".to_owned(),
            ),
            (
                "2PiB",
                format!("'2PiB' has the unknown unit 'PiB', write {example}"),
            ),
            (
                "2s",
                format!("'2s' has the unknown unit 's', write {example}"),
            ),
        ] {
            assert_eq!(size_error(text), message);
        }
    }

    #[test]
    fn malformed_durations_are_refused_with_what_was_wrong() {
        let example = DURATION_EXAMPLE;
        for (text, message) in [
            ("", format!("is empty, write {example}")),
            ("30", format!("'30' has no unit, write {example}")),
            (
                "s",
                format!("'s' does not begin with a number, write {example}"),
            ),
            (
                "-30s",
                format!("'-30s' does not begin with a number, write {example}"),
            ),
            (
                "1.5h",
                format!("'1.5h' is not a whole number with one unit, write {example}"),
            ),
            (
                "1h30m",
                format!("'1h30m' is not a whole number with one unit, write {example}"),
            ),
            (
                "30 s",
                format!("'30 s' is not a whole number with one unit, write {example}"),
            ),
            (
                "30S",
                "'30S' has the unknown unit 'S', did you mean '30s'?".to_owned(),
            ),
            (
                "30days",
                "'30days' has the unknown unit 'days', did you mean '30d'?".to_owned(),
            ),
            (
                "5min",
                "'5min' has the unknown unit 'min', did you mean '5m'?".to_owned(),
            ),
            (
                "3y",
                format!("'3y' has the unknown unit 'y', write {example}"),
            ),
            (
                "3GiB",
                format!("'3GiB' has the unknown unit 'GiB', write {example}"),
            ),
            (
                "5µs",
                format!("'5µs' has the unknown unit 'µs', write {example}"),
            ),
        ] {
            assert_eq!(duration_error(text), message);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_overflow_and_never_wraps() {
        for text in [
            "18446744073709551616",
            "99999999999999999999999999999999999999999",
            "18446744073709551615KB",
            "16777216TiB",
            "18014398509481984KiB",
        ] {
            assert_eq!(size_error(text), format!("'{text}' is too large to count"));
        }
        assert_eq!(parse_size("16777215TiB"), Ok(u64::MAX - (1 << 40) + 1));
        for text in [
            "18446744073709551616ms",
            "213503982335d",
            "18446744073709551615s",
        ] {
            assert_eq!(
                duration_error(text),
                format!("'{text}' is too large to count")
            );
        }
    }

    #[test]
    fn sizes_are_printed_with_the_smallest_whole_number() {
        for (size_bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1000, "1KB"),
            (10_000_000, "10MB"),
            (1_000_000_000_000, "1TB"),
            (2 << 30, "2GiB"),
            (3 << 29, "1536MiB"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            assert_eq!(print_size(size_bytes), text);
        }
    }

    #[test]
    fn sizes_for_readers_have_one_decimal_of_the_largest_unit() {
        for (size_bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_000_000, "976.6 KiB"),
            (1024 * 1024 - 52, "1023.9 KiB"),
            (1024 * 1024 - 51, "1.0 MiB"),
            (12_900_000, "12.3 MiB"),
            (1 << 30, "1.0 GiB"),
            ((1 << 40) - 1, "1.0 TiB"),
            (5 << 40, "5.0 TiB"),
            (1 << 50, "1.0 PiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(print_size_roughly(size_bytes), text, "{size_bytes}");
        }
    }

    #[test]
    fn durations_are_printed_with_the_largest_readable_unit() {
        for (millis, text) in [
            (0, "0s"),
            (1, "1ms"),
            (1_500, "1500ms"),
            (120_000, "120s"),
            (5_400_000, "90m"),
            (7_200_000, "2h"),
            (86_400_000, "1d"),
        ] {
            assert_eq!(print_duration(Duration::from_millis(millis)), text);
        }
    }

    proptest! {
        #[test]
        fn every_size_prints_as_text_that_reads_back(size_bytes in any::<u64>(), shift in 0_u32..64) {
            for size_bytes in [size_bytes, size_bytes >> shift, size_bytes >> shift << shift] {
                prop_assert_eq!(parse_size(&print_size(size_bytes)), Ok(size_bytes));
            }
        }

        #[test]
        fn every_duration_prints_as_text_that_reads_back(millis in any::<u64>(), round in 0_usize..5) {
            let factor = DURATION_UNITS[round].1;
            let duration = Duration::from_millis(millis / factor * factor);
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,12}|[0-9]{0,24}[a-zA-Z]{0,4}") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
