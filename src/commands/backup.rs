//! `cachesrv backup`: copies the database into one file, beside a running server or without one.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::interrupt::wish_to_stop;
use super::progress::Progress;
use super::shell::quoted;
use super::{Failure, amount, database, note, print, scope, shell, time};
use crate::cli::BackupArgs;
use crate::config::{Config, Resolution};
use crate::store::{BackupError, BackupMade, BackupRequest, Lost, PlaceError, now_ms};
use crate::units::print_size_roughly;

/// Damaged entries that are named at the most; a number says how many more there are.
const NAMED_MAX: usize = 20;

/// Runs the command.
pub(super) fn run(resolution: &Resolution, args: &BackupArgs) -> anyhow::Result<()> {
    let config = &resolution.config;
    let destination = file_in(&args.destination);
    let request = BackupRequest {
        destination: &destination,
        replace: args.force,
        floor_bytes: config.eviction.min_free_disk_bytes,
    };
    let mut admin = database::open_to_copy(config)?;
    let stop = wish_to_stop()?;
    let mut progress = Progress::new();
    let made = admin.backup(&config.db, request, &stop, &mut |now| {
        let done = now.done;
        progress.show(done.size_bytes, now.total_bytes, || amount::stored(done));
    });
    drop(progress);
    let made = made.map_err(|error| explained(error, config, args, &destination))?;
    if args.json {
        let report = Report::of(&made, &destination);
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&format!(
            "backed up {} to '{}', a file of {}\n",
            amount::stored(made.copied),
            destination.display(),
            print_size_roughly(made.size_bytes)
        ))?;
    }
    if made.left_out > 0 {
        note(&format!(
            "not in it: {} that were stored while it was made, faster than they could be copied",
            amount::entries(made.left_out)
        ));
    }
    if let Some(error) = &made.unrecorded {
        note(&format!(
            "the backup is good, but the database does not remember it: {error}"
        ));
    }
    complain_of_damage(config, &made.damaged, args.json)
}

/// The file that a destination means: in a directory, one that is named by the time.
fn file_in(destination: &Path) -> PathBuf {
    if destination.is_dir() {
        destination.join(file_name(now_ms()))
    } else {
        destination.to_owned()
    }
}

/// The name of a backup of this time: `cachesrv-20261122T231500Z.db`.
pub(super) fn file_name(at_ms: i64) -> String {
    format!("cachesrv-{}.db", time::compact(at_ms))
}

/// A backup without some entries is one, but nobody should have to read its output to know.
fn complain_of_damage(config: &Config, damaged: &[Lost], is_json: bool) -> anyhow::Result<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    if !is_json {
        for lost in damaged.iter().take(NAMED_MAX) {
            note(&format!(
                "damaged, and not in the backup: {} in {}",
                lost.hash,
                scope::title(&lost.scope)
            ));
        }
        if damaged.len() > NAMED_MAX {
            note(&format!("and {} more", damaged.len() - NAMED_MAX));
        }
    }
    let verb = if damaged.len() == 1 { "is" } else { "are" };
    let count = amount::of(damaged.len() as u64, "damaged entry", "damaged entries");
    let text = format!("the backup is made, but {count} {verb} not in it");
    let verify = shell::with_db("cachesrv verify", &config.db);
    Err(Failure::new(text).hint(verify).into())
}

/// Why there is no backup, with a way out.
fn explained(
    error: BackupError,
    config: &Config,
    args: &BackupArgs,
    destination: &Path,
) -> anyhow::Error {
    let again = |destination: &Path, flag: &str| {
        let backup = format!("cachesrv backup {}{flag}", quoted(destination));
        shell::with_db(&backup, &config.db)
    };
    let hint = match &error {
        BackupError::Place(PlaceError::Exists(_)) => again(destination, " --force"),
        BackupError::Place(PlaceError::NoDirectory(directory)) => {
            format!("mkdir -p -m 700 {}", quoted(directory))
        }
        BackupError::Place(
            PlaceError::Itself(_)
            | PlaceError::InUse(_)
            | PlaceError::HasLog { .. }
            | PlaceError::NotAFile(_),
        ) => again(Path::new("another.db"), ""),
        BackupError::Source(_) | BackupError::Unsound(_) => {
            shell::with_db("cachesrv verify", &config.db)
        }
        BackupError::Place(PlaceError::NotDurable { .. }) => return error.into(),
        BackupError::Place(PlaceError::NoRoom { .. } | PlaceError::Io { .. })
        | BackupError::Interrupted => {
            return anyhow::Error::new(error).context(nothing_made(&args.destination));
        }
    };
    Failure::new(error.to_string()).hint(hint).into()
}

fn nothing_made(destination: &Path) -> String {
    format!("there is no backup in '{}'", destination.display())
}

/// A backup as scripts see it. Keys are a contract.
#[derive(Serialize)]
struct Report<'m> {
    path: String,
    file_bytes: u64,
    entries: u64,
    bytes: u64,
    left_out: u64,
    damaged: Vec<Damaged<'m>>,
}

#[derive(Serialize)]
struct Damaged<'m> {
    hash: &'m str,
    workspace: &'m str,
    kind: &'static str,
    scope: Option<&'m str>,
}

impl<'m> Report<'m> {
    fn of(made: &'m BackupMade, destination: &Path) -> Self {
        let damaged = made.damaged.iter().map(|lost| Damaged {
            hash: &lost.hash,
            workspace: &lost.scope.workspace,
            kind: scope::kind(&lost.scope),
            scope: lost.scope.name.as_deref(),
        });
        Self {
            path: destination.display().to_string(),
            file_bytes: made.size_bytes,
            entries: made.copied.entries,
            bytes: made.copied.size_bytes,
            left_out: made.left_out,
            damaged: damaged.collect(),
        }
    }
}
