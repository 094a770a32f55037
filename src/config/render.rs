//! The table of settings and its values as text: TOML, columns, JSON, Markdown and help.
//!
//! Every form but the JSON is for people; the TOML is valid and can be fed back as a file.

use std::fmt::{self, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::settings::{Kind, SETTINGS, Setting};
use super::{Entry, Resolution};

impl Resolution {
    /// The values as a TOML file.
    pub fn to_toml(&self) -> String {
        by_table(
            &self.entries,
            |entry| entry.setting,
            |text, entry| {
                line(
                    text,
                    format_args!(
                        "{} = {}",
                        entry.setting.name(),
                        toml_value(entry.setting, &entry.text)
                    ),
                );
            },
        )
    }

    /// A line for each value, with where it came from in a column of its own. Valid TOML as well.
    pub fn to_columns(&self) -> String {
        let values = self
            .entries
            .iter()
            .map(|entry| toml_value(entry.setting, &entry.text));
        let values: Vec<String> = values.collect();
        let key_width = SETTINGS
            .iter()
            .map(|setting| setting.key.len())
            .max()
            .unwrap_or(0);
        let value_width = values
            .iter()
            .map(|value| value.chars().count())
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for (entry, value) in self.entries.iter().zip(&values) {
            let source: String = entry.source.to_string().escape_debug().collect();
            let key = entry.setting.key;
            line(
                &mut text,
                format_args!("{key:key_width$} = {value:value_width$}  # {source}"),
            );
        }
        text
    }

    /// The values as a JSON object by key, each with `value` and `source`.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(&ByKey(&self.entries))? + "\n")
    }
}

/// Serializes in the order of the table, which a map of `serde_json` would sort away.
struct ByKey<'e>(&'e [Entry]);

impl Serialize for ByKey<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for entry in self.0 {
            map.serialize_entry(entry.setting.key, entry)?;
        }
        map.end()
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("value", &self.json_value())?;
        map.serialize_entry("source", &self.source.to_string())?;
        map.end()
    }
}

impl Entry {
    /// Switches and numbers are themselves in JSON; all else is the text.
    fn json_value(&self) -> serde_json::Value {
        let text = || self.text.as_str().into();
        match self.setting.kind {
            Kind::Switch(_) => self
                .text
                .parse::<bool>()
                .map_or_else(|_| text(), Into::into),
            Kind::Count(..) | Kind::Code(_) => {
                self.text.parse::<u64>().map_or_else(|_| text(), Into::into)
            }
            _ => text(),
        }
    }
}

/// The table of the README.
pub fn markdown_table() -> String {
    let mut text =
        String::from("| setting | default | values | what it does |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let Setting {
            key, default, doc, ..
        } = setting;
        line(
            &mut text,
            format_args!("| `{key}` | `{default}` | {} | {doc} |", setting.values()),
        );
    }
    text
}

/// A configuration file with every setting explained and commented out.
pub fn example_toml() -> String {
    let head = "# cachesrv: every setting with its default. Start the server with --config and this file.\n\
                # Each can be given as a variable as well: limits.idle_timeout is CACHESRV_LIMITS_IDLE_TIMEOUT.\n\n";
    let body = by_table(
        SETTINGS,
        |setting| setting,
        |text, setting| {
            line(text, format_args!("# {}", setting.doc));
            line(text, format_args!("# {}.", capitalized(&setting.values())));
            line(
                text,
                format_args!(
                    "#{} = {}",
                    setting.name(),
                    toml_value(setting, setting.default)
                ),
            );
        },
    );
    head.to_owned() + &body
}

/// The list of settings for `--help`, wrapped for 100 columns.
pub fn help_table() -> String {
    let mut text = String::new();
    for setting in SETTINGS {
        line(
            &mut text,
            format_args!(
                "  {} = {}",
                setting.key,
                toml_value(setting, setting.default)
            ),
        );
        line(&mut text, format_args!("      {}", setting.doc));
    }
    text
}

/// Writes rows, each under the header of its table.
fn by_table<T>(
    rows: &[T],
    setting: impl Fn(&T) -> &Setting,
    row: impl Fn(&mut String, &T),
) -> String {
    let (mut text, mut table) = (String::new(), None);
    for each in rows {
        let own = setting(each).table();
        if let (true, Some(name)) = (own != table, own) {
            line(&mut text, format_args!("\n[{name}]"));
        }
        table = own;
        row(&mut text, each);
    }
    text
}

fn line(text: &mut String, line: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_ascii_uppercase().to_string() + chars.as_str()
    })
}

/// A value as TOML writes it.
fn toml_value(setting: &Setting, text: &str) -> String {
    match setting.kind {
        Kind::Switch(_) | Kind::Count(..) | Kind::Code(_) => text.to_owned(),
        _ => quoted(text),
    }
}

/// A TOML string on one line, whatever is in it; `toml` would take three quotes and several lines.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Writing to a string cannot fail.
            c if c.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Flag, Flags, Source, resolve};

    fn resolution(given: &[&str]) -> Resolution {
        let given = given
            .iter()
            .map(|pair| Flag::Set((*pair).to_owned()))
            .collect();
        resolve(&Flags { file: None, given }, &Environment::default()).unwrap()
    }

    /// Feeds TOML back as a file.
    fn read_back(text: &str) -> Resolution {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let flags = Flags {
            file: Some(path),
            given: Vec::new(),
        };
        resolve(&flags, &Environment::default()).unwrap()
    }

    #[test]
    fn every_form_of_toml_reads_back_as_the_same_configuration() {
        let resolution = resolution(&[
            r#"db=/srv/it's "here"\n [not] = # so.db"#,
            "listen=[::1]:0",
            "behind_proxy=true",
            "limits.body_min_rate=0",
            "limits.shutdown_grace=0s",
            "limits.idle_timeout=95500ms",
            "log.format=json",
            "nx.put_status=202",
        ]);
        for text in [resolution.to_toml(), resolution.to_columns()] {
            assert_eq!(read_back(&text).config, resolution.config, "{text}");
        }
    }

    #[test]
    fn control_characters_in_a_path_survive_the_round_trip() {
        let resolution = resolution(&["db=a\n\t\u{1b}[31m\u{7f}.db"]);
        let text = resolution.to_columns();
        assert_eq!(text.lines().count(), SETTINGS.len());
        assert_eq!(read_back(&text).config, resolution.config);
    }

    #[test]
    fn the_example_is_valid_with_and_without_its_comment_signs() {
        let example = example_toml();
        let defaults = resolution(&[]);
        assert_eq!(read_back(&example).config, defaults.config);
        let uncommented = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        let lines: Vec<String> = example.lines().map(uncommented).collect();
        let resolved = read_back(&lines.join("\n"));
        assert_eq!(resolved.config, defaults.config);
        for entry in resolved.entries {
            assert!(
                matches!(entry.source, Source::File { .. }),
                "{}",
                entry.setting.key
            );
        }
    }

    #[test]
    fn every_list_names_every_setting() {
        for list in [markdown_table(), example_toml(), help_table()] {
            for setting in SETTINGS {
                assert!(
                    list.contains(setting.name()) && list.contains(setting.doc),
                    "{}",
                    setting.key
                );
            }
        }
    }

    #[test]
    fn json_keeps_the_order_and_the_types() {
        let json = resolution(&["nx.put_status=202"]).to_json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            value["nx.put_status"],
            serde_json::json!({"value": 202, "source": "--set"})
        );
        assert_eq!(
            value["durability.mmap"],
            serde_json::json!({"value": true, "source": "default"})
        );
        assert!(json.find("\"db\"").unwrap() < json.find("\"behind_proxy\"").unwrap());
    }
}
