//! What is wrong with a configuration: the place, the problem, and what was probably meant.

use super::{Setting, Source, suggest};

/// A mistake in the configuration. The message names the file and line, the variable or the flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    place: String,
    problem: String,
    /// Whether the list of all settings would help.
    list_helps: bool,
}

impl ConfigError {
    /// A command that shows the way out, where the message does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        self.list_helps.then_some("cachesrv config show --help")
    }

    pub(super) fn new(place: &(impl ToString + ?Sized), problem: impl Into<String>) -> Self {
        Self {
            place: place.to_string(),
            problem: problem.into(),
            list_helps: false,
        }
    }

    /// A value that is not possible. The key is named where the place does not say it.
    pub(super) fn value(source: &Source, setting: &Setting, problem: &str) -> Self {
        match source {
            Source::Flag("--set") => Self::new(&format!("--set {}", setting.key), problem),
            Source::Flag(_) | Source::Variable(_) => Self::new(source, problem),
            Source::Default | Source::File { .. } => {
                Self::new(source, format!("{}: {problem}", setting.key))
            }
        }
    }

    /// A key that no setting has.
    pub(super) fn unknown_key(place: &(impl ToString + ?Sized), key: &str) -> Self {
        Self::unknown(place, &format!("unknown key '{key}'"), suggest::key(key))
    }

    /// A table that no setting stands in.
    pub(super) fn unknown_table(place: &(impl ToString + ?Sized), table: &str) -> Self {
        Self::unknown(
            place,
            &format!("unknown table '{table}'"),
            suggest::table(table),
        )
    }

    /// A variable with our prefix that no setting has. Its value is not shown: it may be a secret.
    pub(super) fn unknown_variable(name: &str) -> Self {
        Self::unknown(&name, "unknown variable", suggest::variable(name))
    }

    /// `--set` without a pair.
    pub(super) fn no_pair(text: &str) -> Self {
        let problem = format!("'{text}' is not KEY=VALUE, write it like limits.idle_timeout=120s");
        Self::new(&"--set", problem)
    }

    /// One setting, two flags.
    pub(super) fn given_twice(second: &Source, first: &Source, setting: &Setting) -> Self {
        Self::new(
            second,
            format!("'{}' is already given by {first}", setting.key),
        )
    }

    fn unknown(place: &(impl ToString + ?Sized), what: &str, meant: Option<String>) -> Self {
        match meant {
            Some(meant) => Self::new(place, format!("{what}; did you mean '{meant}'?")),
            None => Self {
                list_helps: true,
                ..Self::new(place, what)
            },
        }
    }
}
