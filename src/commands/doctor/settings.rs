//! The configuration by itself: what is allowed and will hurt.

use rustix::process::{Resource, getrlimit};

use super::finding::{Finding, Findings};
use super::{quoted, set};
use crate::config::{Config, PutStatus, Resolution, Source};
use crate::units::print_size;

const CHECK: &str = "configuration";

/// What a server needs beside its connections, as `serve` counts it.
const DESCRIPTORS_BESIDE_CONNECTIONS: u64 = 256;

/// Looks at the settings.
pub(super) fn check(resolution: &Resolution, findings: &mut Findings) {
    let config = &resolution.config;
    let before = findings.count();
    for warning in resolution.warnings() {
        findings
            .add(Finding::warning(CHECK, warning).with_command("cachesrv config show --sources"));
    }
    let all = [
        plain_http(config),
        put_status(config),
        half_tls(config),
        same_address(config),
        quota_above_share(config),
        open_files(config),
    ];
    for finding in all.into_iter().flatten() {
        findings.add(finding);
    }
    backup_dir(config, findings);
    if findings.are_fine_since(before) {
        findings.add(Finding::ok(CHECK, sources(resolution)));
    }
}

/// Tokens would be read on the way.
fn plain_http(config: &Config) -> Option<Finding> {
    let is_open = !config.listen.ip().is_loopback()
        && config.tls.certificate.is_none()
        && !config.behind_proxy;
    is_open.then(|| {
        let what = format!(
            "listens on {} in plain HTTP: everybody on the way reads the tokens",
            config.listen
        );
        let fix = "set tls.certificate and tls.key, or put a proxy that speaks TLS in front and set behind_proxy = true";
        Finding::warning(CHECK, what).with_advice(fix)
    })
}

fn put_status(config: &Config) -> Option<Finding> {
    (config.nx.put_status == PutStatus::Accepted).then(|| {
        let what = "nx.put_status is 202, which fails the runs of every published Nx";
        Finding::warning(CHECK, what).with_advice(set("nx.put_status", "200").replace('"', ""))
    })
}

fn half_tls(config: &Config) -> Option<Finding> {
    let (is, is_not) = match (&config.tls.certificate, &config.tls.key) {
        (Some(_), None) => ("tls.certificate", "tls.key"),
        (None, Some(_)) => ("tls.key", "tls.certificate"),
        _ => return None,
    };
    let what = format!("{is} is set and {is_not} is not: TLS needs both");
    Some(Finding::problem(CHECK, what).with_advice(format!("set {is_not}, or unset {is}")))
}

fn same_address(config: &Config) -> Option<Finding> {
    let metrics = config.metrics.listen?;
    let is_same = metrics == config.listen && metrics.port() != 0;
    is_same.then(|| {
        let what = format!("metrics.listen and listen are both {metrics}");
        Finding::problem(CHECK, what).with_advice("give metrics.listen another port")
    })
}

/// A quota that eviction never lets anybody reach.
fn quota_above_share(config: &Config) -> Option<Finding> {
    let (quota, share) = (
        config.limits.isolated_max_size_bytes,
        config.eviction.isolated_max_bytes(),
    );
    (quota > share).then(|| {
        let what = format!(
            "limits.isolated_max_size is {}, but isolated scopes have {} of eviction.max_size: they are evicted first",
            print_size(quota),
            print_size(share)
        );
        let fix = set("limits.isolated_max_size", &print_size(share));
        Finding::warning(CHECK, what).with_advice(fix)
    })
}

/// By the limit of this shell; a service has its own.
fn open_files(config: &Config) -> Option<Finding> {
    let needed = u64::from(config.limits.connections_max) + DESCRIPTORS_BESIDE_CONNECTIONS;
    let allowed = getrlimit(Resource::Nofile).maximum?;
    (allowed < needed).then(|| {
        let what = format!(
            "limits.connections_max is {}, which needs {needed} open files, and a server started here may have \
             {allowed}",
            config.limits.connections_max
        );
        let fix = format!("LimitNOFILE={needed} in the systemd unit, or a smaller limits.connections_max");
        Finding::warning(CHECK, what).with_advice(fix)
    })
}

/// Where backups go must be there.
fn backup_dir(config: &Config, findings: &mut Findings) {
    let Some(dir) = &config.backup.dir else {
        return;
    };
    if !dir.is_dir() {
        let what = format!("backup.dir '{}' is not a directory", dir.display());
        let command = format!("mkdir -p -m 700 {}", quoted(dir));
        findings.add(Finding::problem(CHECK, what).with_command(command));
    }
}

fn sources(resolution: &Resolution) -> String {
    let sources = resolution.entries.iter().map(|entry| &entry.source);
    let file = sources.clone().find_map(|source| match source {
        Source::File { path, .. } => Some(format!("'{}'", path.display())),
        _ => None,
    });
    let changed = sources
        .filter(|source| matches!(source, Source::Variable(_) | Source::Flag(_)))
        .count();
    let elsewhere = match changed {
        0 => String::new(),
        1 => ", 1 setting by a variable or flag".to_owned(),
        count => format!(", {count} settings by variables or flags"),
    };
    format!(
        "{}{elsewhere}",
        file.unwrap_or_else(|| "no file".to_owned())
    )
}
