//! What commands say when a database cannot be opened: each refusal with a way out.

use std::path::Path;

use super::Hint;
use crate::config::Config;
use crate::store::{Admin, OpenError};

/// Opens the database of the configuration, which must be there.
pub(super) fn open(config: &Config) -> anyhow::Result<Admin> {
    opened(Admin::open(&config.db))
}

/// Opens the database of the configuration, or makes it.
pub(super) fn open_or_create(config: &Config) -> anyhow::Result<Admin> {
    opened(Admin::open_or_create(&config.db))
}

/// Opens the database of the configuration, which must be there; alone, where no server runs.
pub(super) fn open_alone(config: &Config) -> anyhow::Result<Admin> {
    opened(Admin::open_alone(&config.db))
}

/// Adds the way out to an error of opening.
pub(super) fn opened<T>(opened: Result<T, OpenError>) -> anyhow::Result<T> {
    let Err(error) = &opened else {
        return Ok(opened?);
    };
    let hint = match error {
        OpenError::WritableByOthers { path, .. } => format!("chmod 600 {}", path.display()),
        OpenError::Missing(path) => with_db("cachesrv token create --write", path),
        OpenError::NotOurs(_) | OpenError::NotAFile(_) | OpenError::Corrupt { .. } => {
            "cachesrv serve --db another.db".to_owned()
        }
        OpenError::InUse(_) => "cachesrv serve --db another.db --listen 127.0.0.1:0".to_owned(),
        OpenError::OlderInUse(_) => {
            "stop the server, start this version of it, and repeat".to_owned()
        }
        OpenError::Newer { .. } | OpenError::Io { .. } | OpenError::Sqlite { .. } => {
            return Ok(opened?);
        }
    };
    opened.hint(hint)
}

/// `command` with the option that names the database, where it is not the default one.
pub(super) fn with_db(command: &str, db: &Path) -> String {
    if Config::defaults().is_ok_and(|defaults| defaults.db == db) {
        return command.to_owned();
    }
    format!("{command} --db {}", db.display())
}
