//! The files beside the configuration: who may read and write them, and room on their disk.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Findings};
use super::{Case, certificate, filesystem, quoted, set};
use crate::units::{print_size, print_size_roughly};

const CHECK: &str = "permissions";
const DISK: &str = "disk";

/// Read and write by others.
const READ_BY_OTHERS: u32 = 0o044;
const WRITTEN_BY_OTHERS: u32 = 0o022;

/// Looks at the files of the configuration.
pub(super) fn check(case: &Case<'_>, findings: &mut Findings) {
    let before = findings.count();
    let directory = case.directory();
    for path in [
        case.db().to_owned(),
        beside(case.db(), "-wal"),
        beside(case.db(), "-shm"),
    ] {
        database_file(&path, findings);
    }
    owner(case.db(), findings);
    directory_mode(&directory, findings);
    if let Some(file) = case.file() {
        configuration_file(file, findings);
    }
    if let Some(key) = &case.config.tls.key {
        private_key(key, findings);
    }
    if findings.are_fine_since(before) {
        findings.add(Finding::ok(CHECK, "the files are private"));
    }
    if let Some(path) = &case.config.tls.certificate {
        certificate::check_file(path, findings);
    }
    if directory.is_dir() {
        disk(case, &directory, findings);
        filesystem::check(&directory, findings);
    }
}

/// The path of a file that SQLite keeps beside the database.
pub(super) fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn database_file(path: &Path, findings: &mut Findings) {
    // What is no file is told of as what it is.
    let Some(metadata) = path.metadata().ok().filter(Metadata::is_file) else {
        return;
    };
    let mode = metadata.mode() & 0o7777;
    let (who, what) = if mode & WRITTEN_BY_OTHERS != 0 {
        (
            "written",
            "the server refuses it, for they could store anything",
        )
    } else if mode & READ_BY_OTHERS != 0 {
        ("read", "it holds every artifact")
    } else {
        return;
    };
    let message = format!(
        "'{}' may be {who} by others (mode {mode:04o}): {what}",
        path.display()
    );
    findings
        .add(Finding::problem(CHECK, message).with_command(format!("chmod 600 {}", quoted(path))));
}

/// The files beside the database belong to whom it belongs, or the server cannot open it.
fn owner(db: &Path, findings: &mut Findings) {
    let Ok(metadata) = db.metadata() else {
        return;
    };
    for path in [beside(db, "-wal"), beside(db, "-shm")] {
        let differs = |other: &Metadata| other.uid() != metadata.uid();
        if path.metadata().as_ref().is_ok_and(differs) {
            let message = format!(
                "'{}' belongs to another user than the database: the server cannot open it",
                path.display()
            );
            let command = format!("chown --reference={} {}", quoted(db), quoted(&path));
            findings.add(Finding::problem(CHECK, message).with_command(command));
        }
    }
}

fn directory_mode(directory: &Path, findings: &mut Findings) {
    let Ok(metadata) = directory.metadata() else {
        let message = format!("there is no directory '{}'", directory.display());
        let command = format!("mkdir -p -m 700 {}", quoted(directory));
        findings.add(Finding::problem(CHECK, message).with_command(command));
        return;
    };
    let mode = metadata.mode() & 0o7777;
    let is_sticky = mode & 0o1000 != 0;
    if mode & WRITTEN_BY_OTHERS != 0 && !is_sticky {
        let message = format!(
            "others may write in the directory '{}' (mode {mode:04o}) and put another database in the place of this one",
            directory.display()
        );
        let command = format!("chmod go-w {}", quoted(directory));
        findings.add(Finding::warning(CHECK, message).with_command(command));
    }
}

fn configuration_file(path: &Path, findings: &mut Findings) {
    let mode = path
        .metadata()
        .map_or(0, |metadata| metadata.mode() & 0o7777);
    if mode & WRITTEN_BY_OTHERS != 0 {
        let message = format!("others may write '{}' (mode {mode:04o})", path.display());
        let command = format!("chmod go-w {}", quoted(path));
        findings.add(Finding::problem(CHECK, message).with_command(command));
    }
}

/// A group may read it: that is how several services share one certificate.
fn private_key(path: &Path, findings: &mut Findings) {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            let message = format!("cannot read tls.key '{}': {error}", path.display());
            let command = format!("ls -l {}", quoted(path));
            findings.add(Finding::problem(CHECK, message).with_command(command));
            return;
        }
    };
    let mode = metadata.mode() & 0o7777;
    if mode & 0o027 != 0 {
        let message = format!(
            "tls.key '{}' is not private (mode {mode:04o})",
            path.display()
        );
        let command = format!("chmod o-rwx,g-w {}", quoted(path));
        findings.add(Finding::problem(CHECK, message).with_command(command));
    }
}

/// Room for what the configuration promises.
fn disk(case: &Case<'_>, directory: &Path, findings: &mut Findings) {
    let Ok(disk) = rustix::fs::statvfs(directory) else {
        return;
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let eviction = &case.config.eviction;
    let floor = eviction.min_free_disk_bytes;
    if free < floor {
        let message = format!(
            "{} are free, less than eviction.min_free_disk ({}): nothing new is stored, and old artifacts go",
            print_size_roughly(free),
            print_size(floor)
        );
        let command = format!("df -h {}", quoted(directory));
        findings.add(Finding::problem(DISK, message).with_command(command));
        return;
    }
    let used = case.db().metadata().map_or(0, |file| file.len());
    let room = (used + free).saturating_sub(floor);
    if room < eviction.max_size_bytes {
        let message = format!(
            "eviction.max_size is {}, but the disk has room for {} of artifacts above eviction.min_free_disk: artifacts \
             will go for want of disk",
            print_size(eviction.max_size_bytes),
            print_size_roughly(room)
        );
        let fix = set("eviction.max_size", &whole_units(room));
        findings.add(Finding::warning(DISK, message).with_advice(fix));
        return;
    }
    let message = format!("{} are free", print_size_roughly(free));
    findings.add(Finding::ok(DISK, message));
}

/// A size that is not more, in whole units.
fn whole_units(bytes: u64) -> String {
    let unit = if bytes >= 1 << 30 { 1 << 30 } else { 1 << 20 };
    print_size((bytes / unit).max(1) * unit)
}
