//! One log line as bytes: text for people, JSON for machines.
//!
//! Values come from outside (paths, names, headers). Whatever they hold, a line stays one line, a field
//! stays one field, and nothing in it moves the cursor of a terminal: control characters and the
//! invisible ones that reorder text are escaped in both forms.

use std::fmt::{self, Display, Write};

use jiff::Timestamp;

/// The longest value in a line, in bytes before escaping; the rest is cut and marked with `…`.
const VALUE_MAX_BYTES: usize = 2048;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `2026-11-22T16:00:00.123Z info message key=value`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something was lost, or somebody has to act.
    Error,
    /// Something is not as it should be; the server goes on.
    Warn,
    /// What happens on a good day.
    Info,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
        }
    }
}

/// The value of a field.
#[derive(Clone, Copy)]
pub enum Value<'v> {
    /// Text from anywhere.
    Text(&'v str),
    /// A count, bytes or a time; the unit is the end of its key.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Anything that prints itself: an address, a path, an error.
    Shown(&'v dyn Display),
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Self {
        Self::Text(text)
    }
}

impl<'v> From<&'v String> for Value<'v> {
    fn from(text: &'v String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Value<'_> {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl<'v> From<&'v dyn Display> for Value<'v> {
    fn from(shown: &'v dyn Display) -> Self {
        Self::Shown(shown)
    }
}

/// A line being written into a buffer that its owner uses again.
pub(super) struct Line<'b> {
    buffer: &'b mut String,
    format: Format,
}

impl<'b> Line<'b> {
    /// Begins a line; `message` is ours, so that what comes from outside stands in fields.
    pub(super) fn begin(
        buffer: &'b mut String,
        format: Format,
        time: Timestamp,
        level: Level,
        message: &'static str,
    ) -> Self {
        // Writing to a string cannot fail.
        let _ = match format {
            Format::Text => write!(buffer, "{time:.3} {} {message}", level.name()),
            Format::Json => write!(
                buffer,
                "{{\"time\":\"{time:.3}\",\"level\":\"{}\"",
                level.name()
            ),
        };
        let mut line = Self { buffer, format };
        if format == Format::Json {
            line.field("message", Value::Text(message));
        }
        line
    }

    /// Adds a field; `key` is ours and plain.
    pub(super) fn field(&mut self, key: &'static str, value: Value<'_>) {
        let _ = match self.format {
            Format::Text => write!(self.buffer, " {key}="),
            Format::Json => write!(self.buffer, ",\"{key}\":"),
        };
        let _ = match value {
            Value::Text(text) => self.text(text),
            Value::Number(number) => write!(self.buffer, "{number}"),
            Value::Flag(flag) => write!(self.buffer, "{flag}"),
            Value::Shown(shown) => self.text(&shown.to_string()),
        };
    }

    /// Adds a field whose text needs neither quotes in text nor escapes in JSON: an IP address, a hash
    /// that was checked. Nothing is allocated.
    pub(super) fn plain(&mut self, key: &'static str, value: &dyn Display) {
        let _ = match self.format {
            Format::Text => write!(self.buffer, " {key}={value}"),
            Format::Json => write!(self.buffer, ",\"{key}\":\"{value}\""),
        };
    }

    /// Ends the line.
    pub(super) fn end(self) {
        self.buffer.push_str(match self.format {
            Format::Text => "\n",
            Format::Json => "}\n",
        });
    }

    fn text(&mut self, text: &str) -> fmt::Result {
        let (text, cut) = shortened(text);
        if self.format == Format::Text && !cut && needs_no_quotes(text) {
            return self.buffer.write_str(text);
        }
        self.buffer.push('"');
        match self.format {
            Format::Text => write_escaped(self.buffer, text, |to, c| {
                write!(to, "\\u{{{:x}}}", u32::from(c))
            })?,
            Format::Json => write_escaped(self.buffer, text, write_json_escape)?,
        }
        self.buffer.push_str(if cut { "…\"" } else { "\"" });
        Ok(())
    }
}

/// `text` for a terminal: control characters and invisible ones are escaped, all else stays.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        let _ = match c {
            '\n' => escaped.write_str("\\n"),
            '\r' => escaped.write_str("\\r"),
            '\t' => escaped.write_str("\\t"),
            c if is_unsafe_to_show(c) => write!(escaped, "\\u{{{:x}}}", u32::from(c)),
            c => escaped.write_char(c),
        };
    }
    escaped
}

/// The longest beginning that is allowed, and whether something was cut off.
fn shortened(text: &str) -> (&str, bool) {
    let end = text.floor_char_boundary(VALUE_MAX_BYTES);
    (&text[..end], end < text.len())
}

fn needs_no_quotes(text: &str) -> bool {
    let plain = |c: char| {
        !matches!(c, ' ' | '"' | '=' | '\\') && !c.is_whitespace() && !is_unsafe_to_show(c)
    };
    !text.is_empty() && text.chars().all(plain)
}

fn write_escaped(
    to: &mut String,
    text: &str,
    other: impl Fn(&mut String, char) -> fmt::Result,
) -> fmt::Result {
    text.chars().try_for_each(|c| match c {
        '"' => to.write_str("\\\""),
        '\\' => to.write_str("\\\\"),
        '\n' => to.write_str("\\n"),
        '\r' => to.write_str("\\r"),
        '\t' => to.write_str("\\t"),
        c if is_unsafe_to_show(c) => other(to, c),
        c => to.write_char(c),
    })
}

/// JSON counts in UTF-16: what lies above 0xffff takes two escapes.
fn write_json_escape(to: &mut String, c: char) -> fmt::Result {
    c.encode_utf16(&mut [0; 2])
        .iter()
        .try_for_each(|unit| write!(to, "\\u{unit:04x}"))
}

/// Characters that act on a terminal or deceive a reader: controls (C0, DEL, C1), zero-width and
/// direction marks, line and paragraph separators, the byte order mark, and tags.
fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn render(format: Format, fields: &[(&'static str, Value<'_>)]) -> String {
        let mut buffer = String::new();
        let time = Timestamp::new(1_795_363_200, 123_999_999).unwrap();
        let mut line = Line::begin(&mut buffer, format, time, Level::Info, "a message");
        for (key, value) in fields {
            line.field(key, *value);
        }
        line.end();
        buffer
    }

    fn text(value: &str) -> String {
        let line = render(Format::Text, &[("k", value.into())]);
        line.strip_prefix("2026-11-22T16:00:00.123Z info a message k=")
            .unwrap()
            .to_owned()
    }

    fn json(value: &str) -> serde_json::Value {
        serde_json::from_str(&render(Format::Json, &[("k", value.into())])).unwrap()
    }

    #[test]
    fn a_text_line_has_time_level_message_and_fields() {
        let address: &dyn Display = &"[::1]:8787";
        let line = render(
            Format::Text,
            &[
                ("address", address.into()),
                ("count", 3_usize.into()),
                ("empty", "".into()),
                ("on", true.into()),
            ],
        );
        assert_eq!(
            line,
            "2026-11-22T16:00:00.123Z info a message address=[::1]:8787 count=3 empty=\"\" on=true\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object_with_typed_fields() {
        let line = render(
            Format::Json,
            &[
                ("path", "/a b".into()),
                ("n", 3_u64.into()),
                ("on", false.into()),
            ],
        );
        assert_eq!(
            line,
            "{\"time\":\"2026-11-22T16:00:00.123Z\",\"level\":\"info\",\"message\":\"a message\",\
             \"path\":\"/a b\",\"n\":3,\"on\":false}\n"
        );
    }

    #[test]
    fn values_are_quoted_when_a_reader_could_mistake_them() {
        for (value, shown) in [
            ("plain", "plain\n"),
            ("grüße/日本", "grüße/日本\n"),
            ("a b", "\"a b\"\n"),
            ("a=b", "\"a=b\"\n"),
            ("say \"hi\"", "\"say \\\"hi\\\"\"\n"),
            ("back\\slash", "\"back\\\\slash\"\n"),
            ("x\nerror forged=1", "\"x\\nerror forged=1\"\n"),
            ("\r\t", "\"\\r\\t\"\n"),
            ("\u{1b}[31mred", "\"\\u{1b}[31mred\"\n"),
            ("\u{9b}31m", "\"\\u{9b}31m\"\n"),
            ("\u{7f}\0", "\"\\u{7f}\\u{0}\"\n"),
            ("a\u{202e}b", "\"a\\u{202e}b\"\n"),
            ("a\u{a0}b", "\"a\u{a0}b\"\n"),
        ] {
            assert_eq!(text(value), shown);
        }
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let shown = text(&"é".repeat(VALUE_MAX_BYTES));
        assert_eq!(shown, format!("\"{}…\"\n", "é".repeat(VALUE_MAX_BYTES / 2)));
        assert_eq!(
            text(&"x".repeat(VALUE_MAX_BYTES)),
            "x".repeat(VALUE_MAX_BYTES) + "\n"
        );
    }

    #[test]
    fn escaped_text_is_one_line_without_controls() {
        assert_eq!(
            escaped("a\nb\u{1b}[2J \"q\" \\ é"),
            "a\\nb\\u{1b}[2J \"q\" \\ é"
        );
    }

    proptest! {
        #[test]
        fn whatever_the_value_a_line_is_one_line_and_json_reads_back(value in any::<String>()) {
            let line = text(&value);
            let body = line.strip_suffix('\n').unwrap();
            prop_assert!(!body.chars().any(is_unsafe_to_show), "{line:?}");
            let read_back = json(&value);
            prop_assert_eq!(read_back["k"].as_str(), Some(value.as_str()));
            let raw = render(Format::Json, &[("k", value.as_str().into())]);
            prop_assert!(!raw.trim_end_matches('\n').chars().any(is_unsafe_to_show), "{raw:?}");
        }
    }
}
