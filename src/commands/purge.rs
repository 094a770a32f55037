//! `cachesrv purge`: removes artifacts by who stored them, where, since when and under which hash, beside a
//! running server or without one; and how every removal is done and reported.

use anyhow::Context;
use serde::Serialize;

use super::interrupt::wish_to_stop;
use super::progress::Progress;
use super::selection::{Wanted, can_write};
use super::{Failure, database, note, print, scope, shell, token, workspace};
use crate::cli::PurgeArgs;
use crate::config::Config;
use crate::store::{Admin, Purge, PurgeProgress, Purged, Sum};
use crate::units::print_size_roughly;

/// Runs `purge`.
pub(super) fn run(config: &Config, args: &PurgeArgs) -> anyhow::Result<()> {
    let what = &args.what;
    let wanted = Wanted::all(&args.place)
        .in_isolated(what.scope.as_deref())?
        .by(what.token.as_deref())
        .since(what.since.as_deref())?
        .under(what.hash.as_deref())?;
    let mut admin = database::open(config)?;
    let purge = Purge {
        selection: wanted.find(&admin, config)?,
        transitive: args.transitive,
        dry_run: args.dry_run,
    };
    let purged = carry_out(&mut admin, &purge)?;
    if args.json {
        let report = Report::of(&purged, args.dry_run);
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        let verb = if args.dry_run {
            "would purge"
        } else {
            "purged"
        };
        print(&told(&purged, verb, args.place.name()))?;
    }
    if purged.is_without_beginning {
        note(&no_beginning(args));
    }
    warn_of_the_living(config, args, &purge);
    complete(&purged)
}

/// Who pressed Ctrl-C knows what was done, and scripts that it is not all.
pub(super) fn complete(purged: &Purged) -> anyhow::Result<()> {
    if purged.is_interrupted {
        return Err(Failure::new("interrupted: repeat it for the rest").into());
    }
    Ok(())
}

/// Removes what is meant, with a progress bar where somebody watches.
pub(super) fn carry_out(admin: &mut Admin, purge: &Purge) -> anyhow::Result<Purged> {
    let stop = wish_to_stop()?;
    let mut progress = Progress::new();
    let mut latest = PurgeProgress::default();
    let outcome = admin.purge(purge, &stop, &mut |now| {
        latest = now;
        progress.show(now.done, now.total, || count(now.artifacts));
    });
    drop(progress);
    outcome.with_context(|| match latest.artifacts {
        0 => "cannot remove anything".to_owned(),
        _ if purge.dry_run => "cannot read all artifacts".to_owned(),
        artifacts => format!("stopped after {}; repeat it for the rest", count(artifacts)),
    })
}

/// What a removal says: a line for all, and one for each scope.
pub(super) fn told(purged: &Purged, verb: &str, workspace: &str) -> String {
    let mut text = format!(
        "{verb} {}, from workspace '{workspace}'\n",
        sum(purged.total())
    );
    for (place, of_scope) in &purged.scopes {
        text.extend(["  ", &scope::title(place), ": ", &sum(*of_scope), "\n"]);
    }
    text
}

fn sum(sum: Sum) -> String {
    let size = print_size_roughly(sum.size_bytes);
    format!("{}, {size}", count(sum.artifacts))
}

fn count(artifacts: u64) -> String {
    let plural = if artifacts == 1 { "" } else { "s" };
    format!("{artifacts} artifact{plural}")
}

/// A transitive purge that could not know since when.
fn no_beginning(args: &PurgeArgs) -> String {
    let what = match (&args.what.token, &args.what.hash) {
        (Some(token), None) => return format!("token '{token}' never stored an artifact"),
        (Some(token), Some(hash)) => format!("hash '{hash}' by token '{token}'"),
        (None, hash) => format!("hash '{}'", hash.as_deref().unwrap_or_default()),
    };
    format!("nothing of {what} is left, so since when is not known: give --since instead")
}

/// Whoever holds a token that lives can store the same again.
fn warn_of_the_living(config: &Config, args: &PurgeArgs, purge: &Purge) {
    let writers = purge.selection.writers.as_deref().unwrap_or_default();
    let mut living = can_write(writers).peekable();
    let (Some(handle), true) = (&args.what.token, living.peek().is_some()) else {
        return;
    };
    for alive in living {
        let title = token::title(alive);
        note(&format!("{title} is alive and can store artifacts again"));
    }
    let revoke = format!(
        "cachesrv token revoke {handle}{}",
        workspace::flag(args.place.name())
    );
    note(&format!("try: {}", shell::with_db(&revoke, &config.db)));
}

/// A removal as scripts see it. Keys are a contract.
#[derive(Serialize)]
struct Report<'p> {
    dry_run: bool,
    artifacts: u64,
    bytes: u64,
    scopes: Vec<OfScope<'p>>,
}

#[derive(Serialize)]
struct OfScope<'p> {
    workspace: &'p str,
    kind: &'static str,
    name: Option<&'p str>,
    artifacts: u64,
    bytes: u64,
}

impl<'p> Report<'p> {
    fn of(purged: &'p Purged, dry_run: bool) -> Self {
        let total = purged.total();
        let of_scope = purged.scopes.iter().map(|(place, sum)| OfScope {
            workspace: &place.workspace,
            kind: scope::kind(place),
            name: place.name.as_deref(),
            artifacts: sum.artifacts,
            bytes: sum.size_bytes,
        });
        Self {
            dry_run,
            artifacts: total.artifacts,
            bytes: total.size_bytes,
            scopes: of_scope.collect(),
        }
    }
}
