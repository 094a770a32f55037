//! `cachesrv stats`: what the cache was good for, by day, access and workspace, what it holds and what it evicted;
//! beside a running server or without one.

mod json;

use std::collections::BTreeMap;
use std::io::IsTerminal;

use anyhow::Context;

use super::table::{Column, Table};
use super::time::day;
use super::{database, note, print, workspace};
use crate::cli::StatsArgs;
use crate::config::{Config, Resolution};
use crate::store::{Access, DayUsage, EvictionSum, Held, ScopeKind, Usage, day_of, now_ms};
use crate::units::print_size_roughly;

/// Runs the command.
pub(super) fn run(resolution: &Resolution, args: &StatsArgs) -> anyhow::Result<()> {
    let config = &resolution.config;
    let report = Report::read(config, args)?;
    if args.json {
        let listed = json::Listed::of(&report, config);
        return print(&format!("{}\n", serde_json::to_string_pretty(&listed)?));
    }
    report.show(config)
}

/// What is said, read at one time.
struct Report {
    first_day: i64,
    last_day: i64,
    workspace: Option<String>,
    rows: Vec<DayUsage>,
    held: Held,
    /// Not known of one workspace: they share the budgets.
    evicted: Option<Vec<EvictionSum>>,
}

impl Report {
    fn read(config: &Config, args: &StatsArgs) -> anyhow::Result<Self> {
        let admin = database::open(config)?;
        let workspace = args
            .workspace
            .as_deref()
            .map(|name| workspace::find(&admin, config, name))
            .transpose()?;
        let last_day = day_of(now_ms());
        let first_day = last_day - args.days + 1;
        let evicted = match workspace {
            None => Some(admin.evicted_since(first_day)),
            Some(_) => None,
        };
        Ok(Self {
            first_day,
            last_day,
            workspace: args.workspace.clone(),
            rows: admin
                .usage_since(first_day, workspace)
                .context("cannot read the usage")?,
            held: admin
                .held(workspace)
                .context("cannot read what is stored")?,
            evicted: evicted.transpose().context("cannot read the evictions")?,
        })
    }

    /// Sums by whatever a row belongs to, in the order of that.
    fn sums<'s, K: Ord>(&'s self, key: impl Fn(&'s DayUsage) -> K) -> BTreeMap<K, Usage> {
        let mut sums: BTreeMap<K, Usage> = BTreeMap::new();
        for row in &self.rows {
            *sums.entry(key(row)).or_default() += row.usage;
        }
        sums
    }

    fn total(&self) -> Usage {
        let mut total = Usage::default();
        for row in &self.rows {
            total += row.usage;
        }
        total
    }

    fn by_access(&self) -> Vec<(Access, Usage)> {
        let sums = self.sums(|row| row.access.as_str());
        let of = |access: Access| Some((access, *sums.get(access.as_str())?));
        Access::ALL.into_iter().filter_map(of).collect()
    }

    fn held_by_kind(&self, config: &Config) -> [Listing; 2] {
        let is_all = self.workspace.is_none();
        let listing = |kind, sum: crate::store::Sum, max_bytes| Listing {
            kind,
            entries: sum.artifacts,
            bytes: sum.size_bytes,
            max_bytes: is_all.then_some(max_bytes),
        };
        let (held, limits) = (&self.held, &config.eviction);
        [
            listing(ScopeKind::Trusted, held.trusted, limits.trusted_max_bytes()),
            listing(
                ScopeKind::Isolated,
                held.isolated,
                limits.isolated_max_bytes(),
            ),
        ]
    }

    fn show(&self, config: &Config) -> anyhow::Result<()> {
        let of_whom = self.workspace.as_deref();
        let of_whom = of_whom.map_or(String::new(), |name| format!(" of workspace '{name}'"));
        let days = format!("{} to {} (UTC)", day(self.first_day), day(self.last_day));
        if self.rows.is_empty() {
            note(&format!("no requests{of_whom} were counted from {days}"));
        } else {
            print(&format!("Requests{of_whom} from {days}\n\n"))?;
            self.show_days()?;
            print("\nBy access\n\n")?;
            let by_access = self.by_access();
            let rows = by_access.iter().map(|(key, usage)| (key.as_str(), usage));
            show_groups("ACCESS", rows)?;
            let by_workspace = self.sums(|row| row.workspace.as_str());
            if by_workspace.len() > 1 {
                print("\nBy workspace\n\n")?;
                show_groups(
                    "WORKSPACE",
                    by_workspace.iter().map(|(key, usage)| (*key, usage)),
                )?;
            }
            print("\n")?;
        }
        print(&format!("Stored now{of_whom}\n\n"))?;
        self.show_held(config)?;
        self.show_evicted()
    }

    fn show_days(&self) -> anyhow::Result<()> {
        let is_terminal = std::io::stdout().is_terminal();
        let mut table = Table::new([
            Column::word("DAY"),
            Column::number("HIT RATE"),
            Column::word("").shown_if(is_terminal),
            Column::number("HITS"),
            Column::number("MISSES"),
            Column::number("SERVED"),
            Column::number("STORED"),
        ]);
        let days = self.sums(|row| row.day);
        let days = days.iter().map(|(number, usage)| (day(*number), *usage));
        let total = ("total".to_owned(), self.total());
        for (name, usage) in days.chain([total]) {
            table.row([
                name,
                percent(hit_rate(&usage)),
                bar(hit_rate(&usage)),
                usage.hits.to_string(),
                usage.misses.to_string(),
                print_size_roughly(usage.hit_bytes),
                print_size_roughly(usage.stored_bytes),
            ]);
        }
        table.print()
    }

    fn show_held(&self, config: &Config) -> anyhow::Result<()> {
        let is_all = self.workspace.is_none();
        let mut table = Table::new([
            Column::word("KIND"),
            Column::number("ENTRIES"),
            Column::number("SIZE"),
            Column::number("BUDGET").shown_if(is_all),
            Column::number("USED").shown_if(is_all),
        ]);
        for listing in self.held_by_kind(config) {
            let max_bytes = listing.max_bytes.unwrap_or_default();
            let used = (max_bytes > 0).then(|| listing.bytes as f64 / max_bytes as f64);
            table.row([
                listing.kind.as_str().to_owned(),
                listing.entries.to_string(),
                print_size_roughly(listing.bytes),
                print_size_roughly(max_bytes),
                percent(used),
            ]);
        }
        table.print()
    }

    fn show_evicted(&self) -> anyhow::Result<()> {
        let evicted = self.evicted.as_deref().unwrap_or_default();
        if evicted.is_empty() {
            return Ok(());
        }
        print("\nEvicted in these days\n\n")?;
        let mut table = Table::new([
            Column::word("KIND"),
            Column::word("REASON"),
            Column::number("ENTRIES"),
            Column::number("SIZE"),
        ]);
        for evicted in evicted {
            table.row([
                evicted.kind.as_str().to_owned(),
                evicted.reason.clone(),
                evicted.sum.artifacts.to_string(),
                print_size_roughly(evicted.sum.size_bytes),
            ]);
        }
        table.print()
    }
}

/// Everything that tokens of one access, or of one workspace, came to.
fn show_groups<'g>(
    heading: &'static str,
    rows: impl Iterator<Item = (&'g str, &'g Usage)>,
) -> anyhow::Result<()> {
    let mut table = Table::new([
        Column::text(heading),
        Column::number("HIT RATE"),
        Column::number("HITS"),
        Column::number("MISSES"),
        Column::number("UPLOADS"),
        Column::number("CONFLICTS"),
        Column::number("REFUSED"),
    ]);
    for (name, usage) in rows {
        table.row([
            name.to_owned(),
            percent(hit_rate(usage)),
            usage.hits.to_string(),
            usage.misses.to_string(),
            usage.stored.to_string(),
            usage.conflicts.to_string(),
            usage.refused.to_string(),
        ]);
    }
    table.print()
}

/// The part of the GETs that were hits, where there were any.
fn hit_rate(usage: &Usage) -> Option<f64> {
    let asked = usage.hits + usage.misses;
    (asked > 0).then(|| usage.hits as f64 / asked as f64)
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0))
}

/// A bar of at most ten characters, to an eighth of one.
fn bar(part: Option<f64>) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    const WIDTH: usize = 10;
    let eighths = (part.unwrap_or_default() * (WIDTH * 8) as f64).round() as usize;
    let eighths = eighths.min(WIDTH * 8);
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// What scopes of a kind hold.
struct Listing {
    kind: ScopeKind,
    entries: u64,
    bytes: u64,
    max_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_part() {
        for (part, expected) in [
            (None, ""),
            (Some(0.0), ""),
            (Some(0.0125), "▏"),
            (Some(0.5), "█████"),
            (Some(0.99), "█████████▉"),
            (Some(1.0), "██████████"),
        ] {
            assert_eq!(bar(part), expected, "{part:?}");
        }
    }

    #[test]
    fn a_rate_is_of_what_was_asked_for() {
        let usage = |hits, misses| Usage {
            hits,
            misses,
            ..Usage::default()
        };
        assert_eq!(percent(hit_rate(&usage(0, 0))), "-");
        assert_eq!(percent(hit_rate(&usage(0, 3))), "0.0 %");
        assert_eq!(percent(hit_rate(&usage(2, 1))), "66.7 %");
        assert_eq!(percent(hit_rate(&usage(5, 0))), "100.0 %");
    }
}
