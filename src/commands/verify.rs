//! `cachesrv verify`: checks the database, or a backup, and says what is wrong and what to do about it.

use std::path::Path;

use serde::Serialize;

use super::interrupt::wish_to_stop;
use super::progress::Progress;
use super::{Failure, amount, database, note, print, scope, shell};
use crate::cli::VerifyArgs;
use crate::config::{Config, Resolution};
use crate::store::{
    Finding, OpenError, ScopeKind, VERIFY_LOG_BYTES_MAX, Verdict, Verifier, VerifyError,
    VerifyProgress,
};
use crate::telemetry::escaped;
use crate::units::print_size;

/// Runs the command.
pub(super) fn run(resolution: &Resolution, args: &VerifyArgs) -> anyhow::Result<()> {
    let config = &resolution.config;
    let verifier = open(config)?;
    let stop = wish_to_stop()?;
    let mut progress = Progress::new();
    let verdict = verifier.run(args.quick, &stop, &mut |now| show(&mut progress, now));
    drop(progress);
    drop(verifier);
    let verdict = verdict.map_err(|error| match error {
        VerifyError::Interrupted => Failure::new("interrupted: not all of it was checked").into(),
        error => anyhow::Error::new(error),
    })?;
    if args.json {
        let report = Report::of(&verdict, args.quick, config);
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else if verdict.is_ok() {
        let part = if args.quick { " (quick)" } else { "" };
        print(&format!("ok{part}: {}\n", amount::stored(verdict.stored)))?;
    } else {
        print(&listed(&verdict.findings, &config.db))?;
        if verdict
            .findings
            .iter()
            .any(|finding| !is_of_artifact(finding))
        {
            note("a backup takes over what is sound; stop the server before a restore");
        }
    }
    complain(&verdict, config)
}

fn open(config: &Config) -> anyhow::Result<Verifier> {
    match Verifier::open(&config.db) {
        // What else would help to open a database does not help to check one.
        opened @ Err(OpenError::WritableByOthers { .. }) => database::opened(opened),
        opened => Ok(opened?),
    }
}

/// Moves the bar; SQLite does not say how far it is.
pub(super) fn show(progress: &mut Progress, now: VerifyProgress) {
    match now {
        VerifyProgress::File => progress.show(0, 1, || "the file".to_owned()),
        VerifyProgress::Entries { done, total_bytes } => {
            progress.show(done.size_bytes, total_bytes, || amount::stored(done));
        }
    }
}

/// Each finding, and after those that have one remedy that remedy.
pub(super) fn listed(findings: &[Finding], db: &Path) -> String {
    let is_altered = findings.iter().any(is_of_schema);
    let mut text = String::new();
    let mut findings = findings.iter().peekable();
    while let Some(finding) = findings.next() {
        text.extend([&escaped(&sentence(finding)), "\n"]);
        let remedy = remedy(finding, is_altered, db);
        let is_last = findings
            .peek()
            .is_none_or(|next| self::remedy(next, is_altered, db) != remedy);
        if is_last {
            text.extend(["  try: ", &escaped(&remedy), "\n"]);
        }
    }
    text
}

fn sentence(finding: &Finding) -> String {
    match finding {
        Finding::File(text) => format!("the file: {text}"),
        Finding::Reference(from, to) => {
            format!("a row of {from} refers to one of {to} that is not there")
        }
        Finding::Missing(object) => format!("the schema has no {object}"),
        Finding::Changed(object) => {
            format!("the schema has another {object} than this version makes")
        }
        Finding::Foreign(object) => format!("the schema has a {object}, which is none of ours"),
        Finding::Shape { what, .. } => format!("the file {what}"),
        Finding::Counter(text) => format!("a counter is wrong: {text}"),
        Finding::Damaged {
            scope: place,
            hash,
            what,
        } => format!(
            "artifact {hash} in {} of workspace '{}': {what}",
            scope::title(place),
            place.workspace
        ),
        Finding::Orphans(id) => {
            format!("there are chunks of artifact number {id}, which is not there")
        }
        Finding::More => "and more".to_owned(),
    }
}

fn is_of_artifact(finding: &Finding) -> bool {
    matches!(finding, Finding::Damaged { .. })
}

/// Whether the database is not as cachesrv makes it.
fn is_of_schema(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::Missing(_) | Finding::Changed(_) | Finding::Foreign(_) | Finding::Shape { .. }
    )
}

/// Whether no backup can be made of the database for it.
fn is_of_table(finding: &Finding) -> bool {
    match finding {
        Finding::Missing(object) | Finding::Changed(object) => object.starts_with("table "),
        Finding::Shape { is_readable, .. } => !is_readable,
        _ => false,
    }
}

/// A command that works; where it restores, with the server stopped.
fn remedy(finding: &Finding, is_altered: bool, db: &Path) -> String {
    let damaged = match finding {
        // No command but `backup` opens a database that is not as cachesrv makes it.
        Finding::Damaged { scope, hash, .. } if !is_altered => Some((scope, hash)),
        _ => None,
    };
    let Some((place, hash)) = damaged else {
        // A copy has the schema of the migrations, counters by counting, and only what is sound.
        return if is_of_table(finding) {
            shell::with_db("cachesrv restore BACKUP.db --force", db)
        } else {
            database::mend(db)
        };
    };
    let at = match (place.kind, &place.name) {
        (ScopeKind::Isolated, Some(name)) => format!("--scope {name}"),
        _ => "--trusted".to_owned(),
    };
    let workspace = super::workspace::flag(&place.workspace);
    let delete = format!("cachesrv artifact delete {hash} {at}{workspace}");
    shell::with_db(&delete, db)
}

fn complain(verdict: &Verdict, config: &Config) -> anyhow::Result<()> {
    let db = config.db.display();
    if !verdict.findings.is_empty() {
        let count = amount::of(verdict.findings.len() as u64, "problem", "problems");
        return Err(Failure::new(format!("found {count} in '{db}'")).into());
    }
    if verdict.is_unfinished {
        let bound = print_size(VERIFY_LOG_BYTES_MAX);
        let text = format!(
            "SQLite's own check of '{db}' was given up: so much is written meanwhile that the log reached \
             {bound}, and uploads would have to wait. All else is right"
        );
        let backup = shell::with_db("cachesrv backup copy.db", &config.db);
        let hint = format!("{backup} && cachesrv verify --db copy.db");
        return Err(Failure::new(text).hint(hint).into());
    }
    Ok(())
}

/// How long a check took is nobody's contract, so it is not here.
#[derive(Serialize)]
pub(super) struct Report {
    ok: bool,
    quick: bool,
    finished: bool,
    schema: u32,
    entries: u64,
    bytes: u64,
    findings: Vec<Found>,
}

#[derive(Serialize)]
pub(super) struct Found {
    kind: &'static str,
    message: String,
    remedy: String,
}

impl Report {
    fn of(verdict: &Verdict, is_quick: bool, config: &Config) -> Self {
        Self {
            ok: verdict.is_ok(),
            quick: is_quick,
            finished: !verdict.is_unfinished,
            schema: verdict.version,
            entries: verdict.stored.entries,
            bytes: verdict.stored.size_bytes,
            findings: found(&verdict.findings, &config.db),
        }
    }
}

/// Findings as scripts see them.
pub(super) fn found(findings: &[Finding], db: &Path) -> Vec<Found> {
    let is_altered = findings.iter().any(is_of_schema);
    let of = |finding: &Finding| Found {
        kind: kind(finding),
        message: sentence(finding),
        remedy: remedy(finding, is_altered, db),
    };
    findings.iter().map(of).collect()
}

fn kind(finding: &Finding) -> &'static str {
    match finding {
        Finding::File(_) | Finding::Shape { .. } => "file",
        Finding::Reference(..) => "reference",
        Finding::Missing(_) | Finding::Changed(_) | Finding::Foreign(_) => "schema",
        Finding::Counter(_) => "counter",
        Finding::Damaged { .. } => "artifact",
        Finding::Orphans(_) => "orphan",
        Finding::More => "more",
    }
}
