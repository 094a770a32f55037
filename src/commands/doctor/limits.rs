//! What is stored against what is allowed: a limit below it takes effect sooner or later, and then surprises.

use std::time::Duration;

use super::super::amount;
use super::finding::{Finding, Findings};
use super::{Case, set};
use crate::config::Config;
use crate::store::{Admin, IsolatedUsage, StoreError};
use crate::units::{print_size, print_size_roughly};

const CHECK: &str = "limits";

/// How long the largest entry is looked for.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at what is stored.
pub(super) fn check(
    admin: &Admin,
    case: &Case<'_>,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let before = findings.count();
    budgets(admin, case, findings)?;
    largest(admin, case.config, findings)?;
    quotas(admin, case, findings)?;
    if findings.are_fine_since(before) {
        let sums = admin.stored_sums()?;
        let bytes = print_size_roughly(sums.trusted_bytes.saturating_add(sums.isolated_bytes));
        let message = format!(
            "{}, {bytes}: within all limits",
            amount::of(sums.entries, "artifact", "artifacts")
        );
        findings.add(Finding::ok(CHECK, message));
    }
    Ok(())
}

/// What is stored against the budgets of eviction.
fn budgets(admin: &Admin, case: &Case<'_>, findings: &mut Findings) -> Result<(), StoreError> {
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
            findings.add(Finding::warning(CHECK, message).with_command(command));
        }
    }
    Ok(())
}

/// An artifact that is there and could not be stored again.
fn largest(admin: &Admin, config: &Config, findings: &mut Findings) -> Result<(), StoreError> {
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
        findings.add(Finding::warning(CHECK, message).with_advice(fix));
    }
    Ok(())
}

/// Not less, in MiB.
fn whole_mib(bytes: u64) -> String {
    print_size(bytes.next_multiple_of(1 << 20))
}

/// Isolated scopes that may not store anything more.
fn quotas(admin: &Admin, case: &Case<'_>, findings: &mut Findings) -> Result<(), StoreError> {
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
        findings.add(Finding::warning(CHECK, message).with_command(case.command(&command)));
    }
    Ok(())
}
