//! `cachesrv doctor`: what is wrong, each finding with its remedy.
//!
//! The order is the one in which a server depends on things: its configuration, its files and their disk, the
//! database, the tokens in it; then the running server as clients see it, and a round trip through it.

mod certificate;
mod data;
mod files;
mod filesystem;
mod finding;
mod limits;
mod log;
mod round_trip;
mod server;
mod settings;
mod steps;
mod tokens;
mod typed_token;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::probe::{Target, Trust};
use super::secret::{ask_for_token, not_a_token, without_scheme};
use super::shell::{file_of, quoted, with_config};
use crate::auth::PresentedToken;
use crate::cli::DoctorArgs;
use crate::config::{Config, Resolution};

use finding::{Finding, Findings};

/// Runs the command.
pub(super) fn run(resolution: &Resolution, args: &DoctorArgs) -> anyhow::Result<()> {
    let case = Case::new(resolution, args)?;
    let mut findings = Findings::new(args.json);
    let mut database = None;
    if case.is_here {
        settings::check(resolution, &mut findings);
        files::check(&case, &mut findings);
        database = data::check(&case, &mut findings);
    } else {
        let what = format!(
            "'{}' is not here: only the server is looked at",
            case.db().display()
        );
        findings.add(Finding::ok("database", what));
    }
    let is_in_use = database.as_ref().is_some_and(|database| database.is_in_use);
    let admin = database.and_then(|database| database.admin);
    if let Some(admin) = &admin {
        tokens::check(admin, case.config, &mut findings);
    }
    if let Some(server) = server::check(&case, is_in_use, &mut findings) {
        match (&case.token, admin) {
            (Some(token), _) => typed_token::check(&server, token, &mut findings)?,
            (None, Some(admin)) if can_write(&case, is_in_use, &mut findings) => {
                round_trip::check(&case, &server, *admin, &mut findings)?;
            }
            (None, Some(_)) => {}
            (None, None) => findings.add(untried(&case)),
        }
    }
    findings.conclude()
}

/// What is looked at.
struct Case<'r> {
    resolution: &'r Resolution,
    config: &'r Config,
    /// Whether the database should be on this machine: without --url it should.
    is_here: bool,
    /// Whether the server is the one of this configuration, asked on its own machine.
    is_own: bool,
    /// The server; none where its port is not known.
    target: Option<Target>,
    trust: Trust,
    /// The token that was typed or piped.
    token: Option<Zeroizing<String>>,
}

impl<'r> Case<'r> {
    fn new(resolution: &'r Resolution, args: &DoctorArgs) -> anyhow::Result<Self> {
        let config = &resolution.config;
        let is_own = args.url.is_none();
        let target = match &args.url {
            Some(url) => Some(Target::parse(url, "doctor")?),
            None => Target::own(config),
        };
        let trust = match &args.ca {
            Some(path) => Trust::read(path)?,
            None if is_own => Trust::Any,
            None => Trust::Public,
        };
        let is_here = is_own || config.db.exists();
        let should_ask = !is_here && io::stdin().is_terminal();
        let token = if args.token_stdin || should_ask {
            typed_token(args.token_stdin)?
        } else {
            None
        };
        Ok(Self {
            resolution,
            config,
            is_here,
            is_own,
            target,
            trust,
            token,
        })
    }

    fn db(&self) -> &Path {
        &self.config.db
    }

    /// Where the database is.
    fn directory(&self) -> PathBuf {
        match self.db().parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// The configuration file, where one says anything.
    fn file(&self) -> Option<&Path> {
        file_of(self.resolution)
    }

    /// The command with what it takes to mean the same server.
    fn command(&self, command: &str) -> String {
        with_config(command, self.resolution)
    }
}

/// The token from stdin; none where a person was asked and typed nothing.
fn typed_token(is_needed: bool) -> anyhow::Result<Option<Zeroizing<String>>> {
    let input = ask_for_token()?;
    let token = without_scheme(&input);
    if token.is_empty() && !is_needed {
        return Ok(None);
    }
    PresentedToken::parse(token).map_err(not_a_token)?;
    let mut text = Zeroizing::new(String::with_capacity(token.len()));
    text.extend(token.iter().copied().map(char::from));
    Ok(Some(text))
}

/// Whether tokens may be made for a round trip: in a database that is sound, and that the server has.
fn can_write(case: &Case<'_>, is_in_use: bool, findings: &mut Findings) -> bool {
    let db = case.db().display();
    if !is_in_use {
        let what = format!("no server has '{db}' open: the one that answers has another database");
        let fix = "run doctor with the configuration of that server, whose log names its database";
        findings.add(Finding::problem(steps::CHECK, what).with_advice(fix));
        return false;
    }
    if findings.has_problem(data::CHECK) {
        let what = "left out: tokens are made in sound databases only";
        let verify = case.command("cachesrv verify");
        findings.add(Finding::warning(steps::CHECK, what).with_command(verify));
        return false;
    }
    true
}

/// Without a token and without a database nothing can be tried.
fn untried(case: &Case<'_>) -> Finding {
    let url = case.target.as_ref().map_or("", Target::url);
    if case.is_here {
        let what = "left out: without the database no tokens can be made";
        let fix = "see what is wrong with the database above";
        return Finding::warning(steps::CHECK, what).with_advice(fix);
    }
    let what = "left out: there is no database here to make tokens in, and no token was given";
    Finding::warning(steps::CHECK, what).with_command(format!(
        "printf %s \"$TOKEN\" | cachesrv doctor --url {url} --token-stdin"
    ))
}

/// A few of many, in a sentence.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

/// How to change a setting, which only a restart reads.
fn set(key: &str, value: &str) -> String {
    format!("set {key} = \"{value}\" in its configuration and restart the server")
}
