//! The database: whether it can be used, what it holds against what is allowed, its log, its times, its backups.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::super::time::date;
use super::files::beside;
use super::finding::{Finding, Findings};
use super::{Case, quoted, set};
use crate::config::Config;
use crate::store::{
    Admin, AsItIs, IsolatedUsage, OpenError, SCHEMA_VERSION, Soundness, look_at_file, now_ms,
};
use crate::units::{print_duration, print_size, print_size_roughly};

const CHECK: &str = "database";
const LOG: &str = "log";
const LIMITS: &str = "limits";
const CLOCK: &str = "clock";
const BACKUP: &str = "backup";

/// How long the pages are looked at, and how long the largest entry is looked for.
const LOOK: Duration = Duration::from_secs(2);

/// A log that is longer than this is looked at twice.
const LONG_LOG_BYTES: u64 = 4 * 1024 * 1024;

/// Between the two looks: the server folds a log that has been quiet for one second.
const BETWEEN_LOOKS: Duration = Duration::from_secs(4);

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
    long_log(path, look.log_bytes, look.is_in_use, findings);
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
        OpenError::NotOurs(path) | OpenError::NotAFile(path) => {
            let message = "restore a backup with `cachesrv restore`, or name another file by --db";
            let command = format!("head -c 16 {} | od -c", quoted(path));
            finding.with_command(command).with_advice(message)
        }
        OpenError::Corrupt { .. } => damaged(case, error.to_string()),
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
    let before = findings.count();
    budgets(admin, case, findings).context(cannot)?;
    largest(admin, case.config, findings).context(cannot)?;
    quotas(admin, case, findings).context(cannot)?;
    if findings.are_fine_since(before) {
        let sums = admin.stored_sums().context(cannot)?;
        let bytes = print_size_roughly(sums.trusted_bytes + sums.isolated_bytes);
        let message = format!("{} artifacts, {bytes}: within all limits", sums.entries);
        findings.add(Finding::ok(LIMITS, message));
    }
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

/// What is stored against the budgets of eviction.
fn budgets(admin: &Admin, case: &Case<'_>, findings: &mut Findings) -> anyhow::Result<()> {
    let (sums, eviction) = (admin.stored_sums()?, &case.config.eviction);
    for (scopes, held, budget) in [
        ("trusted", sums.trusted_bytes, eviction.trusted_max_bytes()),
        (
            "isolated",
            sums.isolated_bytes,
            eviction.isolated_max_bytes(),
        ),
    ] {
        if held > budget {
            let message = format!(
                "{scopes} scopes hold {}, and have {} of eviction.max_size: what was read least recently will go",
                print_size_roughly(held),
                print_size(budget)
            );
            let command = case.command("cachesrv gc --dry-run");
            findings.add(Finding::warning(LIMITS, message).with_command(command));
        }
    }
    Ok(())
}

/// An artifact that is there and could not be stored again.
fn largest(admin: &Admin, config: &Config, findings: &mut Findings) -> anyhow::Result<()> {
    let allowed = config.limits.artifact_max_size_bytes;
    let largest = admin.largest_entry_bytes(LOOK)?.unwrap_or(0);
    if largest > allowed {
        let message = format!(
            "the largest artifact has {}, and limits.artifact_max_size is {}: when it is evicted, it cannot be stored \
             again",
            print_size_roughly(largest),
            print_size(allowed)
        );
        let fix = set("limits.artifact_max_size", &whole_mib(largest));
        findings.add(Finding::warning(LIMITS, message).with_advice(fix));
    }
    Ok(())
}

/// Not less, in MiB.
fn whole_mib(bytes: u64) -> String {
    print_size(bytes.next_multiple_of(1 << 20))
}

/// Isolated scopes that may not store anything more.
fn quotas(admin: &Admin, case: &Case<'_>, findings: &mut Findings) -> anyhow::Result<()> {
    let limits = &case.config.limits;
    let (all, one) = (
        limits.isolated_max_size_bytes,
        limits.isolated_scope_max_size_bytes,
    );
    for above in admin.isolated_above(all, one)? {
        let IsolatedUsage {
            workspace,
            scope,
            size_bytes,
        } = above;
        let held = print_size_roughly(size_bytes);
        let (message, command) = match scope {
            Some(scope) => (
                format!(
                    "isolated scope '{scope}' of workspace '{workspace}' holds {held}, above \
                     limits.isolated_scope_max_size ({}): it stores nothing more",
                    print_size(one)
                ),
                format!("cachesrv purge --scope {scope} --workspace {workspace} --dry-run"),
            ),
            None => (
                format!(
                    "the isolated scopes of workspace '{workspace}' hold {held}, above limits.isolated_max_size ({}): \
                     they store nothing more",
                    print_size(all)
                ),
                format!("cachesrv scope list --workspace {workspace}"),
            ),
        };
        findings.add(Finding::warning(LIMITS, message).with_command(case.command(&command)));
    }
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

/// A log that stays long though nobody writes: somebody reads from it and does not end.
fn long_log(db: &Path, log_bytes: u64, is_in_use: bool, findings: &mut Findings) {
    let log = beside(db, "-wal");
    if log_bytes <= LONG_LOG_BYTES {
        findings.add(Finding::ok(
            LOG,
            format!(
                "{} to be folded into the file",
                print_size_roughly(log_bytes)
            ),
        ));
        return;
    }
    let length = print_size_roughly(log_bytes);
    if !is_in_use {
        let message = format!(
            "'{}' has {length}: a server was killed, and the next start folds it",
            log.display()
        );
        findings.add(Finding::ok(LOG, message));
        return;
    }
    let look = || {
        log.metadata()
            .ok()
            .map(|log| (log.len(), log.modified().ok()))
    };
    let first = look();
    thread::sleep(BETWEEN_LOOKS);
    let second = look();
    if first != second || second.is_none_or(|(bytes, _)| bytes <= LONG_LOG_BYTES) {
        findings.add(Finding::ok(
            LOG,
            format!("'{}' is being written and folded", log.display()),
        ));
        return;
    }
    let message = format!(
        "'{}' has {length} and does not shrink though nobody writes: some process reads the database and does not end",
        log.display()
    );
    let finding = Finding::problem(LOG, message).with_command(format!("fuser -v {}", quoted(db)));
    findings.add(finding.with_advice("end whatever that names beside cachesrv serve"));
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
