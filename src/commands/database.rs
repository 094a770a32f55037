//! What commands say when a database cannot be opened: each refusal with a way out.

use std::convert::Infallible;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::geteuid;

use super::shell::{quoted, with_db};
use super::{Failure, Hint};
use crate::config::Config;
use crate::store::{Admin, OpenError, StoreError, writer_of};

/// Opens the database of the configuration, which must be there.
pub(super) fn open(config: &Config) -> anyhow::Result<Admin> {
    opened(Admin::open(&config.db))
}

/// Opens the database of the configuration, which must be there, for a backup of what can be read.
pub(super) fn open_to_copy(config: &Config) -> anyhow::Result<Admin> {
    opened(Admin::open_to_copy(&config.db))
}

/// Opens the database of the configuration, or makes it.
pub(super) fn open_or_create(config: &Config) -> anyhow::Result<Admin> {
    opened(Admin::open_or_create(&config.db))
}

/// Opens the database of the configuration, which must be there; alone, where no server runs.
pub(super) fn open_alone(config: &Config) -> anyhow::Result<Admin> {
    opened(Admin::open_alone(&config.db))
}

/// Says who keeps the database at `db` locked, where that is why a command failed, and how to find out.
pub(super) fn explained(error: anyhow::Error, db: &Path) -> anyhow::Error {
    let is_busy = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<StoreError>() == Some(&StoreError::Busy)
    };
    let has_hint = error.chain().any(<dyn std::error::Error>::is::<Failure>);
    if has_hint || !error.chain().any(is_busy) {
        return error;
    }
    let by = writer_of(db).map_or_else(|| "another process".to_owned(), |it| it.to_string());
    let what = format!("'{}' is locked by {by}", db.display());
    let hint = format!("fuser -v {}", quoted(db));
    let Err(explained) = Err::<Infallible, _>(error.context(what)).hint(hint);
    explained
}

/// Adds the way out to an error of opening.
pub(super) fn opened<T>(opened: Result<T, OpenError>) -> anyhow::Result<T> {
    let Err(error) = &opened else {
        return Ok(opened?);
    };
    let hint = match error {
        OpenError::WritableByOthers { path, .. } => format!("chmod 600 {}", quoted(path)),
        // Another file is meant, or another directory: which one counts, and who says so?
        OpenError::Missing(_) | OpenError::NotOurs(_) | OpenError::NotAFile(_) => {
            "cachesrv config show --sources".to_owned()
        }
        OpenError::Empty(path) => with_db("cachesrv token create --write", path),
        OpenError::Corrupt { path, .. } => with_db("cachesrv verify", path),
        // A copy has the schema of the migrations and entries only.
        OpenError::Altered {
            path,
            is_readable: true,
            ..
        } => mend(path),
        OpenError::Altered { path, .. } => with_db("cachesrv restore BACKUP.db --force", path),
        // On the same file system, wherever that is.
        OpenError::SeveralNames(path) => {
            let name = quoted(path);
            format!("find \"$(stat -c %m {name})\" -xdev -samefile {name}")
        }
        OpenError::MountedAlone(_) => {
            "mount the directory of the database instead of the file".to_owned()
        }
        OpenError::OlderInUse(_) => {
            "stop the server, start this version of it, and repeat".to_owned()
        }
        OpenError::Io { path, source, .. } => {
            let (path, kind) = (path.clone(), source.kind());
            return of_system(&path, kind, opened);
        }
        OpenError::InUse(_) | OpenError::Newer { .. } | OpenError::Sqlite { .. } => {
            return Ok(opened?);
        }
    };
    opened.hint(hint)
}

/// The commands that leave out what is not ours, with the server stopped.
pub(super) fn mend(path: &Path) -> String {
    let copy = new_copy();
    let backup = with_db(&format!("cachesrv backup {copy}"), path);
    let restore = with_db(&format!("cachesrv restore {copy} --force"), path);
    // The first says with its exit code that it left something out, so no `&&`.
    format!("{backup}; {restore}")
}

/// A name for a copy that nobody has here: where the first of two commands finds its file taken, the second would
/// take the old one for it.
pub(super) fn new_copy() -> String {
    let names = (2..).map(|number| format!("mended-{number}.db"));
    let mut names = std::iter::once("mended.db".to_owned()).chain(names);
    names
        .find(|name| fs::symlink_metadata(name).is_err())
        .unwrap_or_default()
}

/// The same for a server, which can do with another database.
pub(super) fn opened_to_serve<T>(result: Result<T, OpenError>) -> anyhow::Result<T> {
    let hint = match &result {
        Err(OpenError::NotOurs(_) | OpenError::NotAFile(_) | OpenError::Corrupt { .. }) => {
            "cachesrv serve --db another.db"
        }
        Err(OpenError::InUse(_)) => "cachesrv serve --db another.db --listen 127.0.0.1:0",
        _ => return opened(result),
    };
    result.hint(hint)
}

/// What the system refuses is most often the fault of the directory, which its sentence does not name.
fn of_system<T>(path: &Path, kind: ErrorKind, opened: Result<T, OpenError>) -> anyhow::Result<T> {
    let directory = directory_of(path);
    let is_missing = kind == ErrorKind::NotFound && !directory.exists();
    let (what, hint) = match kind {
        ErrorKind::NotFound if is_missing => {
            let what = format!("there is no directory '{}'", directory.display());
            (
                Some(what),
                format!("mkdir -p -m 700 {}", quoted(&directory)),
            )
        }
        ErrorKind::PermissionDenied => of_permissions(path, &directory),
        _ => return Ok(opened?),
    };
    let opened = opened.map_err(|error| match what {
        Some(what) => anyhow::Error::new(error).context(what),
        None => error.into(),
    });
    opened.hint(hint)
}

/// Which directory is at fault, where the file itself is not; and what its owner can do, or who that is.
fn of_permissions(path: &Path, directory: &Path) -> (Option<String>, String) {
    let may_use_file = access(path, Access::READ_OK | Access::WRITE_OK).is_ok();
    let (at_fault, mode, what) = if let Some(closed) = closed(directory) {
        let what = format!("the directory '{}' does not let you in", closed.display());
        (closed, "u+rwx", Some(what))
    } else if path.exists() && !may_use_file {
        (path, "600", None)
    } else {
        let shown = directory.display();
        let what = format!("you may not make files in the directory '{shown}'");
        (directory, "u+rwx", Some(what))
    };
    let owner = fs::metadata(at_fault).ok().map(|file| file.uid());
    let hint = match owner {
        Some(uid) if uid == geteuid().as_raw() => format!("chmod {mode} {}", quoted(at_fault)),
        owner => {
            let user = owner.filter(|uid| *uid != 0).and_then(name_of_user);
            let sudo = user.map_or_else(|| "sudo".to_owned(), |name| format!("sudo -u {name}"));
            with_db(&format!("{sudo} cachesrv doctor"), path)
        }
    };
    (what, hint)
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The outermost of a directory and those around it that we may not enter.
fn closed(directory: &Path) -> Option<&Path> {
    let is_closed = |path: &&Path| path.is_dir() && access(*path, Access::EXEC_OK).is_err();
    directory.ancestors().filter(is_closed).last()
}

/// Users that exist while a service runs have none.
fn name_of_user(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let uid = uid.to_string();
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}
