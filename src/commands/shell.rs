//! How a hint is typed: every `try: …` is a line for a shell, whatever the names in it are, and means the
//! database and the configuration that the command meant which gave it.

use std::path::Path;

use crate::config::{Config, Resolution, Source};

/// A path as a shell takes it: one word, and no option.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('-') {
        return text;
    }
    let dash = if text.starts_with('-') { "./" } else { "" };
    format!("'{dash}{}'", text.replace('\'', "'\\''"))
}

/// `command` with the option that names the database, where it is not the default one.
pub(super) fn with_db(command: &str, db: &Path) -> String {
    if Config::defaults().is_ok_and(|defaults| defaults.db == db) {
        return command.to_owned();
    }
    format!("{command} --db {}", quoted(db))
}

/// `command` with what it takes to mean the same database and the same file of settings.
pub(super) fn with_config(command: &str, resolution: &Resolution) -> String {
    let Some(file) = file_of(resolution) else {
        return with_db(command, &resolution.config.db);
    };
    let command = format!("{command} --config {}", quoted(file));
    let db = resolution
        .entries
        .iter()
        .find(|entry| entry.setting.key == "db");
    if db.is_some_and(|db| matches!(db.source, Source::Flag(_) | Source::Variable(_))) {
        return format!("{command} --db {}", quoted(&resolution.config.db));
    }
    command
}

/// The configuration file, where one says anything.
pub(super) fn file_of(resolution: &Resolution) -> Option<&Path> {
    let mut sources = resolution.entries.iter().map(|entry| &entry.source);
    sources.find_map(|source| match source {
        Source::File { path, .. } => Some(path.as_path()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_command_is_one_word() {
        for (path, word) in [
            ("cachesrv.db", "cachesrv.db"),
            ("/var/lib/cachesrv/a b.db", "'/var/lib/cachesrv/a b.db'"),
            ("it's", "'it'\\''s'"),
            ("$HOME/x", "'$HOME/x'"),
            ("-x", "'./-x'"),
        ] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }

    #[test]
    fn a_database_in_a_hint_is_one_word() {
        let hint = with_db("cachesrv verify", Path::new("a b.db"));
        assert_eq!(hint, "cachesrv verify --db 'a b.db'");
    }
}
