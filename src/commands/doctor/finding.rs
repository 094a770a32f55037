//! What was found: one line each, with its remedy under it, printed as soon as it is known; or all of it as JSON.

use serde::Serialize;

use super::super::{Told, print};
use crate::auth::token::redacted;
use crate::telemetry::escaped;

/// How wide the first column is, in characters.
const LEVEL_WIDTH: usize = 9;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Works, and will hurt.
    Warning,
    /// Does not work, or is not safe.
    Problem,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at. Its keys in JSON are a contract.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    level: Level,
    check: &'static str,
    message: String,
    /// A command that can be typed as it is.
    #[serde(rename = "try")]
    command: Option<String>,
    /// What no single command does.
    #[serde(rename = "fix")]
    advice: Option<String>,
}

impl Finding {
    fn new(level: Level, check: &'static str, message: impl Into<String>) -> Self {
        Self {
            level,
            check,
            message: message.into(),
            command: None,
            advice: None,
        }
    }

    /// As it should be.
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, message)
    }

    /// It will hurt.
    pub(super) fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Warning, check, message)
    }

    /// It does.
    pub(super) fn problem(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Problem, check, message)
    }

    /// With a command that helps, as it is typed.
    pub(super) fn with_command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// With what to do where no command does it.
    pub(super) fn with_advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Texts come from files, servers and command lines: nothing of them may look like a line of ours, and
    /// no secret is repeated.
    fn made_safe(self) -> Self {
        let safe = |text: String| escaped(&redacted(&text));
        Self {
            message: safe(self.message),
            command: self.command.map(safe),
            advice: self.advice.map(safe),
            ..self
        }
    }

    fn lines(&self) -> String {
        let indent = " ".repeat(LEVEL_WIDTH);
        let mut lines = format!(
            "{:<LEVEL_WIDTH$}{}: {}\n",
            self.level.as_str(),
            self.check,
            self.message
        );
        let remedies = [("try", &self.command), ("fix", &self.advice)];
        for (word, remedy) in remedies {
            if let Some(remedy) = remedy {
                lines.extend([&indent, word, ": ", remedy, "\n"]);
            }
        }
        lines
    }
}

/// All of it, in order.
pub(super) struct Findings {
    is_json: bool,
    found: Vec<Finding>,
    /// The first error of printing; the looking goes on, for there may be something to be cleaned up.
    broken: Option<anyhow::Error>,
}

impl Findings {
    /// None yet.
    pub(super) fn new(is_json: bool) -> Self {
        Self {
            is_json,
            found: Vec::new(),
            broken: None,
        }
    }

    /// One more.
    pub(super) fn add(&mut self, finding: Finding) {
        let finding = finding.made_safe();
        if !self.is_json && self.broken.is_none() {
            self.broken = print(&finding.lines()).err();
        }
        self.found.push(finding);
    }

    /// Whether nothing but [`Level::Ok`] came since there were `count` of them.
    pub(super) fn are_fine_since(&self, count: usize) -> bool {
        self.found[count..]
            .iter()
            .all(|finding| finding.level == Level::Ok)
    }

    /// Whether there is a problem of this check.
    pub(super) fn has_problem(&self, check: &str) -> bool {
        let is_it = |finding: &Finding| finding.level == Level::Problem && finding.check == check;
        self.found.iter().any(is_it)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// Says what all of them come to; an error that says nothing more where there are problems.
    pub(super) fn conclude(self) -> anyhow::Result<()> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let of = |level| self.found.iter().filter(|f| f.level == level).count();
        let (problems, warnings) = (of(Level::Problem), of(Level::Warning));
        if self.is_json {
            let report = Report {
                problems,
                warnings,
                findings: &self.found,
            };
            print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
        } else {
            print(&format!("\n{}\n", verdict(problems, warnings)))?;
        }
        if problems > 0 {
            return Err(Told.into());
        }
        Ok(())
    }
}

fn verdict(problems: usize, warnings: usize) -> String {
    let problems = match problems {
        0 => "no problem".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    match warnings {
        0 => problems,
        1 => format!("{problems}, 1 warning"),
        count => format!("{problems}, {count} warnings"),
    }
}

/// Everything, as scripts see it.
#[derive(Serialize)]
struct Report<'f> {
    problems: usize,
    warnings: usize,
    findings: &'f [Finding],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_remedies_stand_under_it() {
        let finding = Finding::problem("disk", "it is full")
            .with_command("df -h")
            .with_advice("free some");
        assert_eq!(
            finding.lines(),
            "problem  disk: it is full\n         try: df -h\n         fix: free some\n"
        );
        assert_eq!(Finding::ok("disk", "fine").lines(), "ok       disk: fine\n");
    }

    #[test]
    fn what_a_server_says_stays_on_its_line() {
        let finding = Finding::warning("server", "it says 'a\nproblem  x: y'").made_safe();
        assert_eq!(finding.lines().lines().count(), 1);
    }

    #[test]
    fn the_verdict_counts() {
        assert_eq!(verdict(0, 0), "no problem");
        assert_eq!(verdict(0, 1), "no problem, 1 warning");
        assert_eq!(verdict(2, 3), "2 problems, 3 warnings");
    }
}
