//! `cachesrv artifact`: lists, shows and deletes artifacts, beside a running server or without one.

use std::fmt::Write;

use anyhow::Context;
use serde::Serialize;

use super::selection::Wanted;
use super::table::{Column, Table};
use super::time::{date, rfc3339};
use super::{Failure, database, note, print, purge, scope, shell, token, workspace};
use crate::cli::{
    ArtifactCommand, ArtifactDeleteArgs, ArtifactListArgs, ArtifactShowArgs, InWorkspace,
};
use crate::config::Config;
use crate::store::{Entry, Purge, ScopeKind, now_ms};
use crate::units::print_size_roughly;

/// Isolated scopes of a hash that `show` reads at the most: as many as may hold entries at a time, and the
/// trusted one.
const SCOPES_SHOWN_MAX: usize = 10_001;

/// Runs an `artifact` command.
pub(super) fn run(config: &Config, command: &ArtifactCommand) -> anyhow::Result<()> {
    match command {
        ArtifactCommand::List(args) => list(config, args),
        ArtifactCommand::Show(args) => show(config, args),
        ArtifactCommand::Delete(args) => delete(config, args),
    }
}

fn list(config: &Config, args: &ArtifactListArgs) -> anyhow::Result<()> {
    let wanted = Wanted::all(&args.place)
        .in_scope(&args.scope)?
        .by(args.token.as_deref())
        .since(args.since.as_deref())?;
    let admin = database::open(config)?;
    let selection = wanted.find(&admin, config)?;
    let limit = args.limit as usize;
    let mut entries = admin
        .entries(&selection, limit + 1)
        .context("cannot read the artifacts")?;
    let there_is_more = entries.len() > limit;
    entries.truncate(limit);
    if args.json {
        print_json(&entries)?;
    } else if entries.is_empty() {
        note("no artifacts");
    } else {
        table(&entries).print()?;
    }
    if there_is_more {
        note(&format!(
            "only the newest {limit} are listed; there are more: --limit, --since, --scope and --token choose others"
        ));
    }
    Ok(())
}

fn table(entries: &[Entry]) -> Table {
    let is_isolated = |entry: &Entry| entry.scope.kind == ScopeKind::Isolated;
    let any_isolated = entries.iter().any(is_isolated);
    let any_read = entries.iter().any(|entry| last_read_ms(entry).is_some());
    let mut table = Table::new([
        Column::word("HASH"),
        Column::number("SIZE"),
        Column::word("KIND").shown_if(any_isolated),
        Column::text("SCOPE").shown_if(any_isolated),
        Column::date("STORED"),
        Column::lesser_date("LAST READ").shown_if(any_read),
        // Of one without a name it is the id.
        if entries.iter().all(|entry| entry.writer.name.is_some()) {
            Column::text("TOKEN")
        } else {
            Column::word("TOKEN")
        },
        Column::word("FROM"),
    ]);
    for entry in entries {
        let writer = &entry.writer;
        table.row([
            entry.hash.clone(),
            print_size_roughly(entry.size_bytes),
            scope::kind(&entry.scope).to_owned(),
            entry.scope.name.clone().unwrap_or_else(|| "-".to_owned()),
            date(entry.created_at_ms),
            last_read_ms(entry).map_or_else(|| "never".to_owned(), date),
            writer.name.as_ref().unwrap_or(&writer.public_id).clone(),
            entry.writer_address.clone(),
        ]);
    }
    table
}

fn show(config: &Config, args: &ArtifactShowArgs) -> anyhow::Result<()> {
    let wanted = Wanted::all(&args.place).under(Some(&args.hash))?;
    let admin = database::open(config)?;
    let selection = wanted.find(&admin, config)?;
    let mut entries = admin
        .entries(&selection, SCOPES_SHOWN_MAX)
        .context("cannot read the artifact")?;
    if entries.is_empty() {
        return Err(no_such_artifact(&args.hash, "", &args.place, config).into());
    }
    // The trusted scope has no name and comes first.
    entries.sort_by(|a, b| a.scope.name.cmp(&b.scope.name));
    if args.json {
        return print_json(&entries);
    }
    let mut text = format!(
        "artifact {} in workspace '{}'\n",
        args.hash,
        args.place.name()
    );
    for entry in &entries {
        describe(&mut text, entry)?;
    }
    print(&text)
}

fn describe(text: &mut String, entry: &Entry) -> anyhow::Result<()> {
    let writer = &entry.writer;
    let bytes = entry.size_bytes;
    let size = print_size_roughly(bytes);
    let read = last_read_ms(entry).map_or_else(|| "never".to_owned(), rfc3339);
    let (access, state) = (writer.access.as_str(), writer.state(now_ms()).as_str());
    writeln!(text, "\n{}", scope::title(&entry.scope))?;
    if bytes < 1024 {
        writeln!(text, "  size       {size}")?;
    } else {
        writeln!(text, "  size       {size} ({bytes} bytes)")?;
    }
    writeln!(text, "  blake3     {}", hex(entry.digest))?;
    writeln!(text, "  stored     {}", rfc3339(entry.created_at_ms))?;
    writeln!(text, "  last read  {read}")?;
    writeln!(
        text,
        "  by         {}, {access}, {state}",
        token::title(writer)
    )?;
    writeln!(text, "  from       {}", entry.writer_address)?;
    Ok(())
}

fn delete(config: &Config, args: &ArtifactDeleteArgs) -> anyhow::Result<()> {
    let wanted = Wanted::all(&args.place)
        .in_scope(&args.scope)?
        .under(Some(&args.hash))?;
    let mut admin = database::open(config)?;
    let purge = Purge {
        selection: wanted.find(&admin, config)?,
        transitive: false,
        dry_run: args.dry_run,
    };
    let purged = purge::carry_out(&mut admin, &purge)?;
    if purged.total().artifacts == 0 && !purged.is_interrupted {
        let place = match (&args.scope.scope, args.scope.trusted) {
            (Some(name), _) => format!("isolated scope '{name}' of "),
            (None, true) => "the trusted scope of ".to_owned(),
            (None, false) => String::new(),
        };
        return Err(no_such_artifact(&args.hash, &place, &args.place, config).into());
    }
    let verb = if args.dry_run {
        "would delete"
    } else {
        "deleted"
    };
    print(&purge::told(&purged, verb, args.place.name()))?;
    purge::complete(&purged)
}

fn no_such_artifact(hash: &str, of: &str, place: &InWorkspace, config: &Config) -> Failure {
    let list = format!("cachesrv artifact list{}", workspace::flag(place.name()));
    let workspace = place.name();
    Failure::new(format!(
        "there is no artifact '{hash}' in {of}workspace '{workspace}'"
    ))
    .hint(shell::with_db(&list, &config.db))
}

/// When an entry was last read, by what counts for eviction; the store begins with the time at which it was
/// stored.
fn last_read_ms(entry: &Entry) -> Option<i64> {
    (entry.read_at_ms > entry.created_at_ms).then_some(entry.read_at_ms)
}

fn hex(digest: [u8; 32]) -> String {
    blake3::Hash::from_bytes(digest).to_hex().to_string()
}

fn print_json(entries: &[Entry]) -> anyhow::Result<()> {
    let listed: Vec<_> = entries.iter().map(Listed::of).collect();
    print(&format!("{}\n", serde_json::to_string_pretty(&listed)?))
}

/// An entry as scripts see it. Keys are a contract; times are RFC 3339.
#[derive(Serialize)]
struct Listed<'e> {
    workspace: &'e str,
    kind: &'static str,
    scope: Option<&'e str>,
    hash: &'e str,
    bytes: u64,
    blake3: String,
    stored_at: String,
    last_read_at: Option<String>,
    token: Writer<'e>,
    address: &'e str,
}

#[derive(Serialize)]
struct Writer<'e> {
    id: &'e str,
    name: Option<&'e str>,
    access: &'static str,
    state: &'static str,
}

impl<'e> Listed<'e> {
    fn of(entry: &'e Entry) -> Self {
        let writer = &entry.writer;
        Self {
            workspace: &entry.scope.workspace,
            kind: scope::kind(&entry.scope),
            scope: entry.scope.name.as_deref(),
            hash: &entry.hash,
            bytes: entry.size_bytes,
            blake3: hex(entry.digest),
            stored_at: rfc3339(entry.created_at_ms),
            last_read_at: last_read_ms(entry).map(rfc3339),
            token: Writer {
                id: &writer.public_id,
                name: writer.name.as_deref(),
                access: writer.access.as_str(),
                state: writer.state(now_ms()).as_str(),
            },
            address: &entry.writer_address,
        }
    }
}
