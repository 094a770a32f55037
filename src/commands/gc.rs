//! `cachesrv gc`: evicts what the limits let go, and says what that was, why, and how full the cache is.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use serde::Serialize;

use super::interrupt::wish_to_stop;
use super::progress::Progress;
use super::table::{Column, Table};
use super::{Failure, database, note, print};
use crate::cli::GcArgs;
use crate::config::Config;
use crate::store::{
    Admin, Budget, Evicted, EvictionLimits, Gc, GcProgress, GcStep, Reason, Room, ScopeKind, Sum,
    Used,
};
use crate::units::print_size_roughly;

/// What the store is to keep by this configuration.
pub(super) fn limits(config: &Config) -> EvictionLimits {
    let eviction = &config.eviction;
    EvictionLimits {
        trusted: Budget {
            max_bytes: eviction.trusted_max_bytes(),
            max_age: eviction.max_age,
        },
        isolated: Budget {
            max_bytes: eviction.isolated_max_bytes(),
            max_age: eviction.isolated_max_age,
        },
        min_free_disk_bytes: eviction.min_free_disk_bytes,
    }
}

/// Runs the command.
pub(super) fn run(config: &Config, args: &GcArgs) -> anyhow::Result<()> {
    let gc = Gc {
        limits: limits(config),
        dry_run: args.dry_run,
    };
    let mut admin = if args.dry_run {
        database::open(config)?
    } else {
        database::open_alone(config)?
    };
    let before = room(&admin)?;
    let stop = wish_to_stop()?;
    let (evicted, is_freed) = carry_out(&mut admin, &gc, &stop)?;
    let after = room(&admin)?;
    let told = Told {
        gc: &gc,
        evicted,
        before,
        after,
    };
    if args.json {
        print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&told.report(is_freed))?
        ))?;
    } else {
        told.print()?;
    }
    // What was evicted stays evicted; the rest goes when it is repeated, or by the server.
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::new("interrupted: repeat it for the rest").into());
    }
    let by_age = |(_, reason, _): (_, Reason, _)| reason == Reason::Age;
    if args.dry_run && evicted.sums().any(by_age) {
        note(
            "ages are by the clock of now, and gc trusts it at once; a server waits an hour after its start",
        );
    }
    if is_freed && after.condemned > 0 {
        note("not everything could be freed: run `cachesrv verify`, which says what is damaged");
    }
    if !args.dry_run && !is_freed && evicted != Evicted::default() {
        note("the server frees their room within seconds");
    }
    Ok(())
}

fn room(admin: &Admin) -> anyhow::Result<Room> {
    admin.room().context("cannot read how full the cache is")
}

/// Evicts, and frees where no server does it, with a progress bar where somebody watches.
fn carry_out(admin: &mut Admin, gc: &Gc, stop: &AtomicBool) -> anyhow::Result<(Evicted, bool)> {
    let mut progress = Progress::new();
    let mut watch = |now: GcProgress| {
        progress.show(now.done, now.total, || {
            match now.step {
                GcStep::Evicting => "evicting",
                GcStep::Freeing => "freeing",
                GcStep::Shrinking => "shrinking the file",
            }
            .to_owned()
        });
    };
    let evicted = admin.evict(gc, stop, &mut watch).context("cannot evict")?;
    let is_freed = !gc.dry_run
        && admin
            .free(stop, &mut watch)
            .context("cannot free what was evicted; repeat it")?;
    Ok((evicted, is_freed))
}

/// What was done.
struct Told<'g> {
    gc: &'g Gc,
    evicted: Evicted,
    before: Room,
    after: Room,
}

impl Told<'_> {
    fn print(&self) -> anyhow::Result<()> {
        let verb = if self.gc.dry_run {
            "would evict"
        } else {
            "evicted"
        };
        if self.evicted == Evicted::default() {
            print("nothing to evict\n")?;
        } else {
            print(&format!("{verb} {}\n\n", sum(self.evicted.total())))?;
            self.reasons().print()?;
        }
        print("\n")?;
        self.budgets().print()?;
        print(&format!("\n{}", self.disk()))
    }

    fn reasons(&self) -> Table {
        let mut table = Table::new([
            Column::word("KIND"),
            Column::word("REASON"),
            Column::number("ARTIFACTS"),
            Column::number("SIZE"),
        ]);
        for (kind, reason, sum) in self.evicted.sums() {
            table.row([
                kind.as_str().to_owned(),
                reason.as_str().to_owned(),
                sum.artifacts.to_string(),
                print_size_roughly(sum.size_bytes),
            ]);
        }
        table
    }

    fn budgets(&self) -> Table {
        let mut table = Table::new([
            Column::word("KIND"),
            Column::number("ARTIFACTS"),
            Column::number("USED"),
            Column::number("BUDGET"),
            Column::number("FULL"),
        ]);
        for (kind, used) in self.used() {
            let max_bytes = self.gc.limits.of(kind).max_bytes;
            table.row([
                kind.as_str().to_owned(),
                used.sum.artifacts.to_string(),
                print_size_roughly(used.bytes()),
                print_size_roughly(max_bytes),
                full(used.bytes(), max_bytes),
            ]);
        }
        table
    }

    fn used(&self) -> [(ScopeKind, Used); 2] {
        [
            (ScopeKind::Trusted, self.after.trusted),
            (ScopeKind::Isolated, self.after.isolated),
        ]
    }

    fn disk(&self) -> String {
        let size = print_size_roughly;
        let (before, after) = (&self.before, &self.after);
        let file = if before.file_bytes == after.file_bytes {
            size(after.file_bytes)
        } else {
            format!(
                "{}, before {}",
                size(after.file_bytes),
                size(before.file_bytes)
            )
        };
        format!(
            "database  {file}; {} of it can be used again\ndisk      {} free; eviction.min_free_disk is {}\n",
            size(after.reusable_bytes),
            size(after.free_disk_bytes),
            size(self.gc.limits.min_free_disk_bytes),
        )
    }

    fn report(&self, is_freed: bool) -> Report {
        let evicted = self.evicted.sums().map(|(kind, reason, sum)| OfReason {
            kind: kind.as_str(),
            reason: reason.as_str(),
            artifacts: sum.artifacts,
            bytes: sum.size_bytes,
        });
        let budgets = self.used().map(|(kind, used)| OfKind {
            kind: kind.as_str(),
            artifacts: used.sum.artifacts,
            bytes: used.sum.size_bytes,
            used_bytes: used.bytes(),
            max_bytes: self.gc.limits.of(kind).max_bytes,
        });
        let total = self.evicted.total();
        Report {
            dry_run: self.gc.dry_run,
            artifacts: total.artifacts,
            bytes: total.size_bytes,
            evicted: evicted.collect(),
            budgets: budgets.to_vec(),
            database_bytes: self.after.file_bytes,
            reusable_bytes: self.after.reusable_bytes,
            freed: is_freed,
            not_freed_yet: self.after.condemned,
            free_disk_bytes: self.after.free_disk_bytes,
            min_free_disk_bytes: self.gc.limits.min_free_disk_bytes,
        }
    }
}

fn sum(sum: Sum) -> String {
    let plural = if sum.artifacts == 1 { "" } else { "s" };
    let size = print_size_roughly(sum.size_bytes);
    format!("{} artifact{plural}, {size}", sum.artifacts)
}

fn full(used_bytes: u64, max_bytes: u64) -> String {
    if max_bytes == 0 {
        return "-".to_owned();
    }
    format!("{} %", used_bytes.saturating_mul(100) / max_bytes)
}

/// What was done, as scripts see it. Keys are a contract.
#[derive(Serialize)]
struct Report {
    dry_run: bool,
    artifacts: u64,
    bytes: u64,
    evicted: Vec<OfReason>,
    budgets: Vec<OfKind>,
    database_bytes: u64,
    reusable_bytes: u64,
    freed: bool,
    not_freed_yet: u64,
    free_disk_bytes: u64,
    min_free_disk_bytes: u64,
}

#[derive(Serialize)]
struct OfReason {
    kind: &'static str,
    reason: &'static str,
    artifacts: u64,
    bytes: u64,
}

#[derive(Serialize, Clone)]
struct OfKind {
    kind: &'static str,
    artifacts: u64,
    bytes: u64,
    used_bytes: u64,
    max_bytes: u64,
}
