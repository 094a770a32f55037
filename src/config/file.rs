//! The file layer: TOML to settings, each with its line.
//!
//! The document is walked by hand and not by serde, for serde forgets where a value stood. Values
//! become text here; what the text must look like is the business of `settings`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::{self, Kind, Setting};
use super::{ConfigError, Given, Source};

/// Nobody writes a configuration of this length; `--config /dev/zero` must end.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// The settings of the file at `path`, in the order of its lines.
pub(super) fn read(path: &Path) -> Result<Vec<Given>, ConfigError> {
    let fail = |problem: String| ConfigError::new(&path.display(), problem);
    let bytes = read_bytes(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(fail(
            "is larger than 1MiB, so it is no configuration file".to_owned(),
        ));
    }
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let place = Lines { path, text: &bytes }.at(error.valid_up_to());
            return Err(ConfigError::new(&place, "is not UTF-8"));
        }
    };
    parse(path, text)
}

fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Given>, ConfigError> {
    let lines = Lines {
        path,
        text: text.as_bytes(),
    };
    let document = DeTable::parse(text).map_err(|error| {
        let place = lines.at(error.span().map_or(0, |span| span.start));
        ConfigError::new(
            &place,
            format!("not TOML: {}", said_better(error.message())),
        )
    })?;
    let mut found = Vec::new();
    for (key, value) in document.get_ref() {
        top_level(&lines, key, value, &mut found);
    }
    // The table is sorted by key; people read from the top, and want the first mistake.
    found.sort_by_key(|(offset, _)| *offset);
    found.into_iter().map(|(_, setting)| setting).collect()
}

/// What the parser says, on one line. It does not say what is nearly always the matter when it reads a
/// number and finds more: an address or a time without its quotes.
fn said_better(message: &str) -> String {
    let line = message.replace('\n', ", ");
    line.replace(
        ", expected nothing",
        "; text, addresses, sizes and times stand in quotes",
    )
}

/// A place in the file, and what stands there.
type Found = (usize, Result<Given, ConfigError>);

type Key<'k> = Spanned<std::borrow::Cow<'k, str>>;

fn top_level(
    lines: &Lines<'_>,
    key: &Key<'_>,
    value: &Spanned<DeValue<'_>>,
    found: &mut Vec<Found>,
) {
    let name = shown(key.get_ref());
    let place = || lines.at(key.span().start);
    let mistake = match (settings::is_table(&name), value.get_ref()) {
        (true, DeValue::Table(table)) => {
            let members = table
                .iter()
                .map(|(key, value)| member(lines, &name, key, value));
            return found.extend(members);
        }
        (true, other) => {
            let problem = format!(
                "'{name}' is {}, not a table: write [{name}]",
                article(other)
            );
            ConfigError::new(&place(), problem)
        }
        (false, DeValue::Table(_)) if settings::find(&name).is_none() => {
            ConfigError::unknown_table(&place(), &name)
        }
        (false, _) => return found.push((key.span().start, setting(lines, &name, key, value))),
    };
    found.push((key.span().start, Err(mistake)));
}

fn member(lines: &Lines<'_>, table: &str, key: &Key<'_>, value: &Spanned<DeValue<'_>>) -> Found {
    let name = format!("{table}.{}", shown(key.get_ref()));
    (key.span().start, setting(lines, &name, key, value))
}

fn setting(
    lines: &Lines<'_>,
    name: &str,
    key: &Key<'_>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Given, ConfigError> {
    let source = lines.at(key.span().start);
    let setting = settings::find(name).ok_or_else(|| ConfigError::unknown_key(&source, name))?;
    let text = text_of(setting, value.get_ref())
        .map_err(|problem| ConfigError::value(&source, setting, &problem))?;
    Ok(Given {
        setting,
        text,
        source,
    })
}

/// The value as text, if it has the type that the setting is written with.
fn text_of(setting: &Setting, value: &DeValue<'_>) -> Result<String, String> {
    match (&setting.kind, value) {
        (Kind::Switch(_), DeValue::Boolean(value)) => Ok(value.to_string()),
        (Kind::Count(..) | Kind::Code(_) | Kind::Size(..), DeValue::Integer(value)) => {
            let number = i128::from_str_radix(value.as_str(), value.radix());
            Ok(number.map_or_else(|_| value.to_string(), |number| number.to_string()))
        }
        (
            Kind::Size(..)
            | Kind::Time(..)
            | Kind::File(_)
            | Kind::OptionalPath(_)
            | Kind::Address(_)
            | Kind::OptionalAddress(_)
            | Kind::Word(_),
            DeValue::String(text),
        ) => Ok(text.clone().into_owned()),
        (kind, _) => Err(format!(
            "must be {}, not {}",
            expected(kind),
            article(value)
        )),
    }
}

/// How TOML writes a setting of this kind.
fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::Switch(_) => "true or false",
        Kind::Count(..) | Kind::Code(_) => "a whole number",
        Kind::Size(..) => "a size like \"20GiB\"",
        Kind::Time(..) => "a duration like \"30s\"",
        Kind::File(_)
        | Kind::OptionalPath(_)
        | Kind::Address(_)
        | Kind::OptionalAddress(_)
        | Kind::Word(_) => "a string in quotes",
    }
}

/// What a value is, with its article.
fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A key as it would be written: with quotes where it needs them, so that `"limits.head_timeout"`, one
/// key with a dot in it, is not taken for the setting.
fn shown(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        format!("\"{key}\"")
    }
}

/// Turns offsets into lines.
struct Lines<'t> {
    path: &'t Path,
    text: &'t [u8],
}

impl Lines<'_> {
    fn at(&self, offset: usize) -> Source {
        let before = self.text.iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Source::File {
            path: self.path.to_owned(),
            line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;
    use proptest::prelude::*;

    fn problem(text: &str) -> String {
        match parse(Path::new("c.toml"), text) {
            Err(error) => error.to_string(),
            Ok(settings) => panic!("no error but {settings:?}"),
        }
    }

    #[test]
    fn settings_are_found_however_toml_writes_them() {
        for text in [
            "[limits]\nidle_timeout = '95s'",
            "limits.idle_timeout = \"95s\"",
            "limits = { idle_timeout = \"95s\" }",
            "[ \"limits\" ] # comment\n'idle_timeout' = '''95s'''",
            "\u{feff}[limits]\r\nidle_timeout = \"95s\"\r\n",
        ] {
            let settings = parse(Path::new("c.toml"), text).unwrap();
            assert_eq!(settings.len(), 1, "{text}");
            assert_eq!(
                (settings[0].setting.key, settings[0].text.as_str()),
                ("limits.idle_timeout", "95s")
            );
        }
    }

    #[test]
    fn the_line_is_that_of_the_key() {
        let text = "# one\n\n[limits]\nhead_timeout = '1s'\n\n  idle_timeout   =   '95s'\n";
        let settings = parse(Path::new("c.toml"), text).unwrap();
        let sources: Vec<_> = settings
            .iter()
            .map(|given| given.source.to_string())
            .collect();
        assert_eq!(sources, ["c.toml:4", "c.toml:6"]);
    }

    #[test]
    fn unknown_names_are_errors_with_their_line() {
        for (text, message) in [
            (
                "listen = '1.2.3.4:5'\n[limits]\nartifact_size = '1B'",
                "c.toml:3: unknown key 'limits.artifact_size'; did you mean 'limits.artifact_max_size'?",
            ),
            (
                "idle_timeout = '95s'",
                "c.toml:1: unknown key 'idle_timeout'; did you mean 'limits.idle_timeout'?",
            ),
            (
                "[limit]\n",
                "c.toml:1: unknown table 'limit'; did you mean 'limits'?",
            ),
            (
                "\n[cleaning]\nmax_age = '1d'",
                "c.toml:2: unknown table 'cleaning'",
            ),
            (
                "[limits.quorum]\nx = 1",
                "c.toml:1: unknown key 'limits.quorum'",
            ),
            ("[[tokens]]\nx = 1", "c.toml:1: unknown key 'tokens'"),
            ("\"\" = 1", "c.toml:1: unknown key '\"\"'"),
            (
                "\"limits.head_timeout\" = '1s'",
                "c.toml:1: unknown key '\"limits.head_timeout\"'; did you mean 'limits.head_timeout'?",
            ),
            ("zzz = 1\naaa = 1", "c.toml:1: unknown key 'zzz'"),
        ] {
            assert_eq!(problem(text), message, "{text}");
        }
    }

    #[test]
    fn wrong_types_are_errors_with_their_line() {
        for (text, message) in [
            (
                "db = 5",
                "c.toml:1: db: must be a string in quotes, not an integer",
            ),
            (
                "[db]\nx = 1",
                "c.toml:1: db: must be a string in quotes, not a table",
            ),
            (
                "behind_proxy = 'true'",
                "c.toml:1: behind_proxy: must be true or false, not a string",
            ),
            (
                "limits = 5",
                "c.toml:1: 'limits' is an integer, not a table: write [limits]",
            ),
            (
                "[[limits]]",
                "c.toml:1: 'limits' is an array, not a table: write [limits]",
            ),
            (
                "nx.put_status = '202'",
                "c.toml:1: nx.put_status: must be a whole number, not a string",
            ),
            (
                "limits.connections_max = 1.0",
                "c.toml:1: limits.connections_max: must be a whole number, not a float",
            ),
            (
                "limits.head_timeout = 10",
                "c.toml:1: limits.head_timeout: must be a duration like \"30s\", not an integer",
            ),
            (
                "limits.upload_memory = [1]",
                "c.toml:1: limits.upload_memory: must be a size like \"20GiB\", not an array",
            ),
            (
                "listen = 2026-11-22",
                "c.toml:1: listen: must be a string in quotes, not a date",
            ),
        ] {
            assert_eq!(problem(text), message, "{text}");
        }
    }

    #[test]
    fn what_is_not_toml_is_an_error_with_its_line() {
        for (text, line) in [
            ("db", 1),
            ("\n\ndb = ", 3),
            ("db = 'a'\ndb = 'b'", 2),
            ("[limits]\n[limits]", 2),
            ("db = 'a", 1),
            ("listen = 127.0.0.1:8787", 1),
            ("limits.head_timeout = 10s", 1),
        ] {
            let message = problem(text);
            assert!(
                message.starts_with(&format!("c.toml:{line}: not TOML: ")),
                "{message}"
            );
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn integers_are_read_in_every_base() {
        for text in ["4_096", "0x1000", "0o10000", "0b1000000000000", "+4096"] {
            let text = format!("limits.connections_max = {text}");
            assert_eq!(parse(Path::new("c.toml"), &text).unwrap()[0].text, "4096");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(\\PC{0,20}[\n=\\[\\].\"']?){0,6}") {
            let _ = parse(Path::new("c.toml"), &text);
        }

        #[test]
        fn a_key_that_is_not_in_the_table_is_never_taken(key in "[a-z_.]{1,24}") {
            let known = SETTINGS.iter().any(|setting| setting.key == key);
            let taken = parse(Path::new("c.toml"), &format!("{key} = true")).is_ok();
            prop_assert!(known || !taken);
        }
    }
}
