//! `cachesrv restore`: puts a backup in the place of the database, and says which tokens that brings back.

use serde::Serialize;

use super::interrupt::wish_to_stop;
use super::progress::Progress;
use super::shell::quoted;
use super::{Failure, amount, database, note, print, shell, verify};
use crate::cli::RestoreArgs;
use crate::config::{Config, Resolution};
use crate::store::{
    Before, OpenError, PlaceError, Restore, RestoreError, RestoreProgress, Restored, Revived, Was,
    is_older,
};
use crate::units::print_size_roughly;

/// Runs the command.
pub(super) fn run(resolution: &Resolution, args: &RestoreArgs) -> anyhow::Result<()> {
    let config = &resolution.config;
    let restore = Restore::prepare(&args.source, &config.db, args.force || args.dry_run)
        .map_err(|error| explained(error, config, args))?;
    let replaces = restore.replaces();
    let stop = wish_to_stop()?;
    let mut progress = Progress::new();
    let mut watch = |now| show(&mut progress, now);
    let restored = if args.dry_run {
        restore.check(&stop, &mut watch)
    } else {
        restore.run(&stop, &mut watch)
    };
    drop(progress);
    let restored = restored.map_err(|error| explained(error, config, args))?;
    if args.json {
        let report = Report::of(&restored, config, args);
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&told(&restored, config, args))?;
    }
    if !restored.verdict.is_ok() {
        return Err(refused(&restored, config, args).into());
    }
    if args.dry_run && replaces && !args.force {
        note(&format!(
            "'{}' exists: --force replaces it",
            config.db.display()
        ));
    }
    if is_older(restored.verdict.version) {
        note("the backup is of an older version; the next `cachesrv serve` brings it forward");
    }
    Ok(())
}

fn show(progress: &mut Progress, now: RestoreProgress) {
    match now {
        RestoreProgress::Check(now) => verify::show(progress, now),
        RestoreProgress::Copy {
            done_bytes,
            total_bytes,
        } => progress.show(done_bytes, total_bytes, || {
            format!("copying, {}", print_size_roughly(done_bytes))
        }),
    }
}

/// What was done, or would be, and the tokens.
fn told(restored: &Restored, config: &Config, args: &RestoreArgs) -> String {
    let verdict = &restored.verdict;
    if !verdict.is_ok() {
        return verify::listed(&verdict.findings, &args.source);
    }
    let verb = if args.dry_run {
        "would restore"
    } else {
        "restored"
    };
    let mut text = format!(
        "{verb} {} from '{}' to '{}'\n",
        amount::stored(verdict.stored),
        args.source.display(),
        config.db.display()
    );
    let revived = &restored.revived;
    if revived.is_empty() {
        return text;
    }
    let count = amount::of(revived.len() as u64, "token", "tokens");
    let what = match (restored.before, args.dry_run) {
        (Before::Known, false) => format!("{count} came back to life"),
        (Before::Known, true) => format!("{count} would come back to life"),
        (Before::Nothing, _) => format!("{count} of the backup can be used"),
        (Before::Unreadable, _) => format!(
            "{count} of the backup can be used; which of them were revoked since cannot be read any more"
        ),
    };
    text.extend([&what, "; to revoke those that should not:\n"]);
    for token in revived {
        let title = title(token);
        text.extend([
            "  ",
            &revoke(token, config),
            "   # ",
            &crate::telemetry::escaped(&title),
            "\n",
        ]);
    }
    text
}

/// `ci-main, write, revoked since`.
fn title(token: &Revived) -> String {
    let mut parts = Vec::new();
    parts.extend(token.name.clone());
    parts.push(token.access.clone());
    if token.workspace != super::workspace::DEFAULT {
        parts.push(format!("workspace {}", token.workspace));
    }
    parts.extend(match token.was {
        Was::Revoked => Some("revoked since".to_owned()),
        Was::Replaced => Some("rotated since".to_owned()),
        Was::Ended => Some("ended earlier since".to_owned()),
        Was::Unknown => None,
    });
    parts.join(", ")
}

fn revoke(token: &Revived, config: &Config) -> String {
    shell::with_db(
        &format!("cachesrv token revoke {}", token.public_id),
        &config.db,
    )
}

/// A backup that is not sound is not restored; one from which the damage is left out can be.
fn refused(restored: &Restored, config: &Config, args: &RestoreArgs) -> Failure {
    let count = amount::of(
        restored.verdict.findings.len() as u64,
        "problem",
        "problems",
    );
    let text = format!(
        "found {count} in '{}'; nothing was changed",
        args.source.display()
    );
    // The first says with its exit code that it left something out, so no `&&`.
    let force = if args.force { " --force" } else { "" };
    let (copy, source) = (database::new_copy(), quoted(&args.source));
    let mend = format!("cachesrv backup {copy} --db {source}; cachesrv restore {copy}{force}");
    Failure::new(text).hint(shell::with_db(&mend, &config.db))
}

/// Why nothing was restored, with a way out.
fn explained(error: RestoreError, config: &Config, args: &RestoreArgs) -> anyhow::Error {
    let source = quoted(&args.source);
    let again = |flag: &str| {
        let restore = format!("cachesrv restore {source}{flag}");
        shell::with_db(&restore, &config.db)
    };
    let hint = match &error {
        RestoreError::Open(open) => return of_open(error.to_string(), open, args).into(),
        RestoreError::Serving(_) if args.dry_run => {
            format!("stop the server, then {}", again(" --dry-run"))
        }
        RestoreError::Serving(_) => format!("stop the server, then {}", again(" --force")),
        RestoreError::Busy(_) if args.dry_run => again(" --dry-run"),
        RestoreError::Exists { .. } | RestoreError::Busy(_) => again(" --force"),
        RestoreError::Place(PlaceError::HasLog { .. } | PlaceError::InUse(_)) => {
            format!("cachesrv backup copy.db --db {source}")
        }
        RestoreError::Place(PlaceError::NoDirectory(directory)) => {
            format!("mkdir -p -m 700 {}", quoted(directory))
        }
        RestoreError::Place(PlaceError::NotDurable { .. }) => return error.into(),
        RestoreError::Place(_) | RestoreError::Check { .. } => {
            return anyhow::Error::new(error).context("nothing was changed");
        }
        RestoreError::Interrupted => {
            return Failure::new("interrupted: nothing was changed").into();
        }
    };
    Failure::new(error.to_string()).hint(hint).into()
}

/// Of the backup, or of what is in its way.
fn of_open(text: String, error: &OpenError, args: &RestoreArgs) -> Failure {
    let failure = Failure::new(text);
    match error {
        OpenError::NotOurs(path) if *path != args.source => {
            let path = quoted(path);
            failure.hint(format!("mv {path} {path}.old"))
        }
        OpenError::WritableByOthers { path, .. } => {
            failure.hint(format!("chmod 600 {}", quoted(path)))
        }
        _ => failure,
    }
}

/// A restore as scripts see it. Keys are a contract.
#[derive(Serialize)]
struct Report {
    source: String,
    database: String,
    dry_run: bool,
    restored: bool,
    schema: u32,
    entries: u64,
    bytes: u64,
    findings: Vec<verify::Found>,
    tokens: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    id: String,
    name: Option<String>,
    workspace: String,
    access: String,
    was: &'static str,
    revoke: String,
}

impl Report {
    fn of(restored: &Restored, config: &Config, args: &RestoreArgs) -> Self {
        let verdict = &restored.verdict;
        let token = |token: &Revived| Token {
            id: token.public_id.clone(),
            name: token.name.clone(),
            workspace: token.workspace.clone(),
            access: token.access.clone(),
            was: match token.was {
                Was::Revoked => "revoked",
                Was::Replaced => "replaced",
                Was::Ended => "ended",
                Was::Unknown => "unknown",
            },
            revoke: revoke(token, config),
        };
        Self {
            source: args.source.display().to_string(),
            database: config.db.display().to_string(),
            dry_run: args.dry_run,
            restored: verdict.is_ok() && !args.dry_run,
            schema: verdict.version,
            entries: verdict.stored.entries,
            bytes: verdict.stored.size_bytes,
            findings: verify::found(&verdict.findings, &args.source),
            tokens: restored.revived.iter().map(token).collect(),
        }
    }
}
