//! Numbers of things as people read them: `1 entry`, `12,345 entries`.

use crate::units::print_size_roughly;

/// `12,345`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 entry`, `12,345 entries`.
pub(super) fn entries(count: u64) -> String {
    of(count, "entry", "entries")
}

/// `1 token`, `2 tokens`.
pub(super) fn of(count: u64, one: &str, many: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{} {noun}", number(count))
}

/// `12,345 entries, 3.2 GiB`.
pub(super) fn stored(read: crate::store::Read) -> String {
    let size = print_size_roughly(read.size_bytes);
    format!("{}, {size}", entries(read.entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_in_groups_of_three_and_one_is_no_plural() {
        for (count, text) in [
            (0, "0 entries"),
            (1, "1 entry"),
            (999, "999 entries"),
            (1000, "1,000 entries"),
            (12_345, "12,345 entries"),
            (1_234_567, "1,234,567 entries"),
        ] {
            assert_eq!(entries(count), text);
        }
    }
}
