//! How a command fails: the sentence, the way out, and the exit code.
//!
//! Commands work with `anyhow`; a [`Failure`] anywhere in the chain adds a hint or another exit code.
//! [`Report`] turns the whole chain into what `main` prints, without the secrets that somebody typed where
//! a name belongs.

use std::error::Error;
use std::fmt;

use super::{ReaderGone, Told};
use crate::auth::token::redacted;
use crate::telemetry::escaped;

/// The command could not do what was asked.
const FAILED: u8 = 1;

/// What was asked makes no sense; the code that clap uses, too.
const USAGE: u8 = 2;

/// An error that knows a way out, or that the mistake is in what was typed.
#[derive(Debug)]
pub struct Failure {
    what: What,
    hint: Option<String>,
    exit: u8,
}

#[derive(Debug)]
enum What {
    Message(String),
    Error(anyhow::Error),
}

impl Failure {
    /// A failure with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            what: What::Message(message.into()),
            hint: None,
            exit: FAILED,
        }
    }

    /// A mistake in the command line or the configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: USAGE,
            ..Self::new(message)
        }
    }

    /// Adds the line `try: …`: a command that works, not advice.
    #[must_use]
    pub fn hint(self, command: impl Into<String>) -> Self {
        Self {
            hint: Some(command.into()),
            ..self
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Message(message) => f.write_str(message),
            What::Error(error) => write!(f, "{error}"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.what {
            What::Message(_) => None,
            What::Error(error) => error.source(),
        }
    }
}

/// Attaches the line `try: …` to any error: `open(path).hint("cachesrv serve")?`.
pub trait Hint<T> {
    /// Adds a command that works; it replaces the hint of an error further down.
    fn hint(self, command: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint(self, command: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            let exit = Report::of(&error).exit_code();
            Failure {
                what: What::Error(error),
                hint: Some(command.into()),
                exit,
            }
            .into()
        })
    }
}

/// What is said about an error, and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    lines: Vec<String>,
    exit: u8,
}

impl Report {
    /// Reads the whole chain; the outermost hint wins.
    pub fn of(error: &anyhow::Error) -> Self {
        let silent = |exit| Self {
            lines: Vec::new(),
            exit,
        };
        if error.chain().any(<dyn Error>::is::<ReaderGone>) {
            return silent(0);
        }
        if error.chain().any(<dyn Error>::is::<Told>) {
            return silent(FAILED);
        }
        let failures: Vec<&Failure> = error
            .chain()
            .filter_map(|cause| cause.downcast_ref())
            .collect();
        let shown = |text: &str| escaped(&redacted(text));
        let mut lines = vec![format!("error: {}", shown(&joined(error)))];
        let hint = failures.iter().find_map(|failure| failure.hint.as_ref());
        lines.extend(hint.map(|hint| format!("try: {}", shown(hint))));
        Self {
            lines,
            exit: failures.first().map_or(FAILED, |failure| failure.exit),
        }
    }

    /// The lines for stderr: `error: …`, and `try: …` where there is a way out.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// 0 done, 1 failed, 2 usage.
    pub fn exit_code(&self) -> u8 {
        self.exit
    }
}

/// The chain in one sentence. A cause that the text before it already ends with is not said twice.
fn joined(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    fn lines(error: &anyhow::Error) -> Vec<String> {
        Report::of(error).lines
    }

    #[test]
    fn the_chain_is_joined_and_nothing_is_said_twice() {
        let plain = anyhow!("disk is full").context("cannot store artifact 42");
        assert_eq!(
            lines(&plain),
            ["error: cannot store artifact 42: disk is full"]
        );
        let twice = anyhow!("disk is full")
            .context("cannot store: disk is full")
            .context("failed");
        assert_eq!(lines(&twice), ["error: failed: cannot store: disk is full"]);
    }

    #[test]
    fn a_hint_is_a_second_line_wherever_it_was_attached() {
        let inner = Failure::new("no token is named 'ci'").hint("cachesrv token list");
        let outer = anyhow::Error::new(inner).context("cannot revoke");
        assert_eq!(
            lines(&outer),
            [
                "error: cannot revoke: no token is named 'ci'",
                "try: cachesrv token list"
            ]
        );
        assert_eq!(Report::of(&outer).exit_code(), 1);
    }

    #[test]
    fn a_hint_on_any_error_keeps_its_chain_and_its_exit_code() {
        let failed: anyhow::Result<()> =
            Err(std::io::Error::other("denied")).context("cannot open x.db");
        let error = failed.hint("cachesrv serve").unwrap_err();
        assert_eq!(
            lines(&error),
            ["error: cannot open x.db: denied", "try: cachesrv serve"]
        );
        let usage: Result<(), Failure> = Err(Failure::usage("--db: is empty").hint("old"));
        let error = usage.hint("new").unwrap_err();
        assert_eq!(lines(&error), ["error: --db: is empty", "try: new"]);
        assert_eq!(Report::of(&error).exit_code(), 2);
    }

    #[test]
    fn a_reader_that_went_away_is_not_reported() {
        let error = anyhow::Error::new(ReaderGone).context("cannot list tokens");
        assert_eq!(
            Report::of(&error),
            Report {
                lines: Vec::new(),
                exit: 0
            }
        );
    }

    #[test]
    fn what_was_told_on_stdout_is_not_said_again() {
        let report = Report::of(&anyhow::Error::new(Told));
        assert_eq!((report.lines().len(), report.exit_code()), (0, 1));
    }

    #[test]
    fn what_came_from_outside_stays_on_its_line() {
        let error = anyhow::Error::new(Failure::new("no file 'a\nerror: b\u{1b}[2J'"));
        assert_eq!(lines(&error), ["error: no file 'a\\nerror: b\\u{1b}[2J'"]);
    }
}
