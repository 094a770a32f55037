//! The database: whether it can be used, its times and its backups; its limits and its log have files of their
//! own.

use std::time::Duration;

use anyhow::Context;

use super::super::time::date;
use super::finding::{Finding, Findings};
use super::{Case, limits, log, quoted};
use crate::store::{Admin, AsItIs, OpenError, SCHEMA_VERSION, Soundness, look_at_file, now_ms};
use crate::units::{print_duration, print_size_roughly};

pub(super) const CHECK: &str = "database";
const CLOCK: &str = "clock";
const BACKUP: &str = "backup";

/// How long the pages are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A clock may be so much behind another.
const CLOCK_TOLERANCE_MS: i64 = 60 * 1000;

/// 2025-01-01: no clock that is right says less.
const EARLIEST_MS: i64 = 1_735_689_600_000;

/// How old a backup that nobody scheduled may be.
const BACKUP_AGE_MAX: Duration = Duration::from_hours(7 * 24);

/// The database of the case.
pub(super) struct Database {
    /// As commands see it; none where it cannot be used.
    pub admin: Option<Box<Admin>>,
    /// Whether a server holds it.
    pub is_in_use: bool,
}

/// Looks at the database.
pub(super) fn check(case: &Case<'_>, findings: &mut Findings) -> Option<Database> {
    if let Some(wrong) = clock(now_ms()) {
        findings.add(wrong);
    }
    let path = case.db();
    if !path.exists() {
        let message = format!("there is no database '{}'", path.display());
        let create = case.command("cachesrv token create --write");
        findings.add(Finding::problem(CHECK, message).with_command(create));
        return None;
    }
    // Before a connection is opened, for closing the file would drop its locks.
    let look = match look_at_file(path) {
        Ok(look) => look,
        Err(error) => {
            findings.add(refused(case, &error));
            return None;
        }
    };
    if look.missing_bytes > 0 {
        let missing = print_size_roughly(look.missing_bytes);
        let message = format!(
            "'{}' was cut: {missing} are missing at its end",
            path.display()
        );
        findings.add(damaged(case, message));
    }
    log::check(path, look.log_bytes, look.is_in_use, findings);
    let mut database = Database {
        admin: None,
        is_in_use: look.is_in_use,
    };
    match Admin::open_as_it_is(path) {
        Ok(AsItIs::Ready(admin)) => {
            if let Err(error) = contents(&admin, case, findings) {
                findings.add(damaged(case, format!("{error:#}")));
            }
            database.admin = Some(admin);
        }
        Ok(AsItIs::Older(found)) => findings.add(older(case, found)),
        // It was said of its permissions.
        Err(OpenError::WritableByOthers { .. }) => {}
        Err(error) => findings.add(refused(case, &error)),
    }
    Some(database)
}

fn refused(case: &Case<'_>, error: &OpenError) -> Finding {
    let finding = Finding::problem(CHECK, error.to_string());
    match error {
        OpenError::NotAFile(path) => finding
            .with_command(format!("ls -ld {}", quoted(path)))
            .with_advice("name a file by --db or in the configuration"),
        OpenError::Empty(_) => Finding::warning(CHECK, error.to_string())
            .with_command(case.command("cachesrv token create --write")),
        OpenError::NotOurs(path) => {
            let message = "restore a backup with `cachesrv restore`, or name another file by --db";
            let command = format!("head -c 16 {} | od -c", quoted(path));
            finding.with_command(command).with_advice(message)
        }
        OpenError::Corrupt { .. } => damaged(case, error.to_string()),
        OpenError::Altered { .. } => finding
            .with_command(case.command("cachesrv verify"))
            .with_advice("that names all that differs, and what to do about each"),
        OpenError::Newer { .. } => {
            finding.with_advice("use a cachesrv that is as new as the one that wrote it")
        }
        _ => finding.with_command(format!("ls -l {}", quoted(case.db()))),
    }
}

fn damaged(case: &Case<'_>, message: impl Into<String>) -> Finding {
    Finding::problem(CHECK, message)
        .with_command(case.command("cachesrv verify"))
        .with_advice(
            "if that finds damage, stop the server and restore a backup with `cachesrv restore`",
        )
}

fn older(case: &Case<'_>, found: u32) -> Finding {
    let message = format!(
        "'{}' has schema version {found}, this cachesrv has {SCHEMA_VERSION}: its server brings it forward when it \
         starts, and no older cachesrv can use it then",
        case.db().display()
    );
    Finding::warning(CHECK, message)
        .with_advice("copy the file while no server runs, then start this version")
}

/// Everything for which the database must be open.
fn contents(admin: &Admin, case: &Case<'_>, findings: &mut Findings) -> anyhow::Result<()> {
    let cannot = "cannot read the database";
    pages(admin, case, findings).context(cannot)?;
    limits::check(admin, case, findings).context(cannot)?;
    future(admin, findings).context(cannot)?;
    backup(admin, case, findings).context(cannot)
}

fn pages(admin: &Admin, case: &Case<'_>, findings: &mut Findings) -> anyhow::Result<()> {
    findings.add(match admin.quick_look(LOOK)? {
        Soundness::Damaged(what) => damaged(case, format!("damaged: {what}")),
        Soundness::Sound { is_complete: true } => {
            Finding::ok(CHECK, format!("schema {SCHEMA_VERSION}, its pages are sound"))
        }
        Soundness::Sound { is_complete: false } => {
            let seconds = print_duration(LOOK);
            let message = format!("schema {SCHEMA_VERSION}, no damage found in {seconds}; `cachesrv verify` reads all of it");
            Finding::ok(CHECK, message)
        }
    });
    Ok(())
}

/// The clock by itself.
fn clock(now_ms: i64) -> Option<Finding> {
    (now_ms < EARLIEST_MS).then(|| {
        let message = format!("it is {} here, by a clock that is wrong", date(now_ms));
        Finding::problem(CLOCK, message).with_command("timedatectl set-ntp true")
    })
}

/// The clock against what the database remembers.
fn future(admin: &Admin, findings: &mut Findings) -> anyhow::Result<()> {
    let Some(newest) = admin.newest_time()? else {
        return Ok(());
    };
    let now_ms = now_ms();
    if newest.at_ms > now_ms + CLOCK_TOLERANCE_MS {
        let message = format!(
            "it is {} here, and {} was at {}: the clock is behind, or was ahead then",
            date(now_ms),
            newest.what,
            date(newest.at_ms)
        );
        findings.add(Finding::problem(CLOCK, message).with_command("timedatectl set-ntp true"));
    } else {
        findings.add(Finding::ok(
            CLOCK,
            "nothing in the database is newer than now",
        ));
    }
    Ok(())
}

fn backup(admin: &Admin, case: &Case<'_>, findings: &mut Findings) -> anyhow::Result<()> {
    let config = case.config;
    let age_max = match &config.backup.dir {
        Some(_) => 2 * config.backup.every,
        None => BACKUP_AGE_MAX,
    };
    let command = case.command("cachesrv backup cachesrv-backup.db");
    let Some(last) = admin.last_backup()? else {
        let finding = Finding::warning(BACKUP, "there was never one").with_command(command);
        findings.add(finding.with_advice("for one each day set backup.dir"));
        return Ok(());
    };
    let age_ms = u128::try_from(now_ms() - last.finished_at_ms).unwrap_or(0);
    let what = format!(
        "the last one is of {}, '{}'",
        date(last.finished_at_ms),
        last.destination
    );
    findings.add(if age_ms > age_max.as_millis() {
        let finding = Finding::warning(BACKUP, what).with_command(command);
        match &config.backup.dir {
            Some(_) => finding.with_advice("the log of the server says why it makes none"),
            None => finding,
        }
    } else {
        Finding::ok(BACKUP, what)
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_says_a_year_before_this_program_is_wrong() {
        assert!(clock(0).is_some() && clock(EARLIEST_MS - 1).is_some());
        assert!(clock(EARLIEST_MS).is_none() && clock(now_ms()).is_none());
    }
}
