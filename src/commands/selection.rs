//! Which artifacts are meant: from what was typed to a [`Selection`]. Everything that can be wrong with the
//! text is said before the database is opened.

use anyhow::Context;

use super::{Failure, shell, time, workspace};
use crate::cli::{InScope, InWorkspace};
use crate::config::Config;
use crate::store::{Admin, Hash, Name, ScopeChoice, Selection, TokenRecord, now_ms};

/// What was typed, checked as far as that goes without the database.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    place: &'a InWorkspace,
    scopes: ScopeChoice,
    token: Option<&'a str>,
    since_ms: Option<i64>,
    hash: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Everything in the workspace.
    pub(super) fn all(place: &'a InWorkspace) -> Self {
        Self {
            place,
            scopes: ScopeChoice::All,
            token: None,
            since_ms: None,
            hash: None,
        }
    }

    /// In these scopes only.
    pub(super) fn in_scope(self, scope: &InScope) -> anyhow::Result<Self> {
        if scope.trusted {
            let scopes = ScopeChoice::Trusted;
            return Ok(Self { scopes, ..self });
        }
        self.in_isolated(scope.scope.as_deref())
    }

    /// In this isolated scope only, if one was typed.
    pub(super) fn in_isolated(self, name: Option<&str>) -> anyhow::Result<Self> {
        let Some(name) = name else {
            return Ok(self);
        };
        let name = Name::parse(name)
            .map_err(|why| Failure::usage(format!("'{name}' cannot name a scope: {why}")))?;
        let scopes = ScopeChoice::Isolated(name);
        Ok(Self { scopes, ..self })
    }

    /// Stored by this token, or by those of this name.
    pub(super) fn by(self, token: Option<&'a str>) -> Self {
        Self { token, ..self }
    }

    /// Stored since then.
    pub(super) fn since(self, time: Option<&str>) -> anyhow::Result<Self> {
        let since_ms = time.map(|time| time::since(time, now_ms())).transpose()?;
        Ok(Self { since_ms, ..self })
    }

    /// Stored under this hash.
    pub(super) fn under(self, hash: Option<&'a str>) -> anyhow::Result<Self> {
        let Some(hash) = hash else {
            return Ok(self);
        };
        let hash = Hash::parse(hash)
            .map_err(|why| Failure::usage(format!("'{hash}' is no hash: {why}")))?;
        let hash = Some(hash.as_str());
        Ok(Self { hash, ..self })
    }

    /// Looks up what was named.
    pub(super) fn find(self, admin: &Admin, config: &Config) -> anyhow::Result<Selection> {
        let workspace = workspace::find(admin, config, self.place.name())?;
        let writers = match self.token {
            None => None,
            Some(handle) => {
                let tokens = admin
                    .tokens_called(workspace, handle)
                    .context("cannot read the tokens")?;
                if tokens.is_empty() {
                    return Err(self.no_such_token(handle, config).into());
                }
                Some(tokens)
            }
        };
        Ok(Selection {
            workspace,
            scopes: self.scopes,
            writers,
            since_ms: self.since_ms,
            hash: self.hash.map(str::to_owned),
        })
    }

    fn no_such_token(&self, handle: &str, config: &Config) -> Failure {
        let workspace = self.place.name();
        Failure::new(format!(
            "there never was a token '{handle}' in workspace '{workspace}'"
        ))
        .hint(shell::with_db("cachesrv token list", &config.db))
    }
}

/// The tokens among these that can store something now.
pub(super) fn can_write(tokens: &[TokenRecord]) -> impl Iterator<Item = &TokenRecord> {
    use crate::store::Access;
    tokens
        .iter()
        .filter(|token| token.access != Access::Read && token.state(now_ms()).is_living())
}
