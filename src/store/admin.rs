//! What commands do to the database beside a running server (or without one): short transactions of
//! their own, which the server sees on its next request.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rusqlite::{Connection, TransactionBehavior};

use super::catalog::{self, Entry, ScopeUsage, Selection};
use super::connection::{self, Profile, Role, Synchronous};
use super::error::{OpenError, StoreError};
use super::file::{self, Content, FileLock};
use super::model::{NewToken, TokenRecord, Workspace, WorkspaceId};
use super::name::Name;
use super::purge::{self, Purge, PurgeProgress, Purged};
use super::{schema, shape, tokens, workspaces};

/// Commands read little and must not lose what they said they did.
const PROFILE: Profile = Profile {
    synchronous: Synchronous::Full,
    mmap: false,
};

/// The database as a command sees it.
pub struct Admin {
    pub(super) connection: Connection,
    /// Held from before the connection until after it, where this command created or migrated the file, or
    /// has it alone.
    lock: Option<FileLock>,
}

/// How creating a token ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    /// It can be used from now on.
    Done,
    /// A living token has this name already; nothing was changed.
    NameTaken,
}

impl Admin {
    /// Opens the database at `path`, which must be there.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        file::inspect(path)?;
        Self::open_or_create(path)
    }

    /// Opens the database at `path`; creates it, or brings it forward, when no server is using it.
    pub fn open_or_create(path: &Path) -> Result<Self, OpenError> {
        if path.exists()
            && let Content::Ours { .. } = file::inspect(path)?
            && let Some(admin) = Self::connect(path)?
        {
            return Ok(admin);
        }
        let lock = match FileLock::acquire(path, true) {
            Err(OpenError::InUse(path)) => return Self::beside_a_starting_server(path),
            lock => lock?,
        };
        lock.content(path)?;
        let mut connection = Self::connect_raw(path)?.connection;
        schema::migrate(&mut connection, path)?;
        Ok(Self {
            connection,
            lock: Some(lock),
        })
    }

    /// Opens the database at `path`, which must be there; alone, so that no server starts meanwhile, unless
    /// one is using it.
    pub fn open_alone(path: &Path) -> Result<Self, OpenError> {
        file::inspect(path)?;
        let Some(lock) = FileLock::try_acquire(path)? else {
            return Self::open(path);
        };
        lock.content(path)?;
        let mut admin = Self::connect_raw(path)?;
        schema::migrate(&mut admin.connection, path)?;
        admin.lock = Some(lock);
        Ok(admin)
    }

    /// Whether no server can be using the database.
    pub fn is_alone(&self) -> bool {
        self.lock.is_some()
    }

    /// A server that was creating or migrating the file when we looked has done so by now.
    fn beside_a_starting_server(path: PathBuf) -> Result<Self, OpenError> {
        if let Content::Ours { .. } = file::inspect(&path)?
            && let Some(admin) = Self::connect(&path)?
        {
            return Ok(admin);
        }
        Err(OpenError::OlderInUse(path))
    }

    /// `None` where the schema is an older one. The header alone does not tell: the log may hold a migration that
    /// was not folded yet, and a crash may have cut the transaction that wrote the header.
    fn connect(path: &Path) -> Result<Option<Self>, OpenError> {
        let admin = Self::connect_raw(path)?;
        let found = schema::version(&admin.connection).map_err(|e| schema::open_error(path, e))?;
        if found > schema::VERSION {
            return Err(OpenError::Newer {
                path: path.to_owned(),
                found,
                known: schema::VERSION,
            });
        }
        if found < schema::VERSION {
            return Ok(None);
        }
        shape::check(&admin.connection, path, found)?;
        Ok(Some(admin))
    }

    /// Opens the database at `path`, which must be there, for a backup: one whose tables are ours although other
    /// things are not, too. Such a one is only read, for it may hold triggers of others.
    pub fn open_to_copy(path: &Path) -> Result<Self, OpenError> {
        match Self::open(path) {
            Err(OpenError::Altered {
                is_readable: true, ..
            }) => {}
            opened => return opened,
        }
        let admin = Self::connect_raw(path)?;
        let read_only = admin.connection.pragma_update(None, "query_only", true);
        read_only.map_err(|error| schema::open_error(path, error))?;
        Ok(admin)
    }

    /// Opens it whatever its schema is.
    pub(super) fn connect_raw(path: &Path) -> Result<Self, OpenError> {
        let connection = connection::open(path, Role::Admin, PROFILE)
            .map_err(|error| schema::open_error(path, error))?;
        Ok(Self {
            connection,
            lock: None,
        })
    }

    /// The workspace of this name.
    pub fn workspace(&self, name: &str) -> Result<Option<WorkspaceId>, StoreError> {
        workspaces::find(&self.connection, name)
    }

    /// All workspaces, oldest first.
    pub fn workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        workspaces::list(&self.connection)
    }

    /// Adds a workspace with its trusted scope; whether there was none of this name.
    pub fn add_workspace(&mut self, name: &Name) -> Result<bool, StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        if workspaces::find(&transaction, name.as_str())?.is_some() {
            return Ok(false);
        }
        workspaces::add(&transaction, name)?;
        transaction.commit()?;
        Ok(true)
    }

    /// Adds a token, unless a living one has its name.
    pub fn create_token(&mut self, new: &NewToken<'_>) -> Result<Created, StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(name) = new.name
            && tokens::name_is_taken(&transaction, new.workspace, name)?
        {
            return Ok(Created::NameTaken);
        }
        tokens::insert(&transaction, new)?;
        transaction.commit()?;
        Ok(Created::Done)
    }

    /// Every token there ever was, oldest first.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        tokens::list(&self.connection)
    }

    /// Every token that ever had this name in the workspace, or the one with this public id; oldest first.
    pub fn tokens_called(
        &self,
        workspace: WorkspaceId,
        name_or_id: &str,
    ) -> Result<Vec<TokenRecord>, StoreError> {
        tokens::ever_called(&self.connection, workspace, name_or_id)
    }

    /// The trusted scope of each workspace, or of one, and their isolated scopes that hold entries.
    pub fn scopes(&self, workspace: Option<WorkspaceId>) -> Result<Vec<ScopeUsage>, StoreError> {
        catalog::scopes_in_use(&self.connection, workspace)
    }

    /// The newest entries of a selection, at most `limit`.
    pub fn entries(&self, selection: &Selection, limit: usize) -> Result<Vec<Entry>, StoreError> {
        catalog::entries(&self.connection, selection, limit)
    }

    /// Removes entries, or counts them; `watch` hears of every step. `stop` ends it after the step that is being
    /// made.
    pub fn purge(
        &mut self,
        purge: &Purge,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(PurgeProgress),
    ) -> Result<Purged, StoreError> {
        purge::run(&mut self.connection, purge, stop, watch)
    }
}
