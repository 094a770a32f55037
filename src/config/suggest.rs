//! "did you mean": the known name that an unknown one was probably meant to be.

use super::settings::{SETTINGS, Setting};

/// How alike two names have to be, from 0 to 1; below this a suggestion confuses more than it helps.
const ALIKE_MIN: f64 = 0.8;

/// The key that is most like `unknown`.
pub(super) fn key(unknown: &str) -> Option<String> {
    let name = unknown.rsplit_once('.').map_or(unknown, |(_, name)| name);
    setting(name).map(|setting| setting.key.to_owned())
}

/// The table that is most like `unknown`.
pub(super) fn table(unknown: &str) -> Option<String> {
    most_alike(unknown, SETTINGS.iter().filter_map(Setting::table)).map(str::to_owned)
}

/// The variable that is most like `unknown`.
pub(super) fn variable(unknown: &str) -> Option<String> {
    let unknown = unknown
        .strip_prefix("CACHESRV_")
        .unwrap_or(unknown)
        .to_ascii_lowercase();
    let tables = SETTINGS.iter().filter_map(Setting::table);
    let mut in_table = tables.filter_map(|table| unknown.strip_prefix(table)?.strip_prefix('_'));
    let name = in_table.next().unwrap_or(&unknown);
    let config = || most_alike(&unknown, ["config"].into_iter());
    match setting(name) {
        Some(setting) => Some(setting.variable()),
        None => config().map(|_| "CACHESRV_CONFIG".to_owned()),
    }
}

/// The setting with the name that is most like `unknown`, in whatever table.
///
/// Only names are compared: with their tables everything in one table would look alike.
fn setting(unknown: &str) -> Option<&'static Setting> {
    let name = most_alike(unknown, SETTINGS.iter().map(Setting::name))?;
    SETTINGS.iter().find(|setting| setting.name() == name)
}

fn most_alike(unknown: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let unknown = unknown.to_ascii_lowercase();
    let rated = known.map(|name| (strsim::jaro_winkler(&unknown, name), name));
    let alike = rated.filter(|(likeness, _)| *likeness >= ALIKE_MIN);
    alike
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_find_their_setting() {
        for (unknown, meant) in [
            ("limits.artifact_size", "limits.artifact_max_size"),
            ("limits.connection_max", "limits.connections_max"),
            ("idle_timeout", "limits.idle_timeout"),
            ("log.put_status", "nx.put_status"),
            ("Listen", "listen"),
            ("behind-proxy", "behind_proxy"),
        ] {
            assert_eq!(key(unknown).as_deref(), Some(meant), "{unknown}");
        }
    }

    #[test]
    fn misspelt_variables_find_their_setting() {
        for (unknown, meant) in [
            ("CACHESRV_LISTN", "CACHESRV_LISTEN"),
            ("CACHESRV_IDLE_TIMEOUT", "CACHESRV_LIMITS_IDLE_TIMEOUT"),
            ("CACHESRV_CONFIG_FILE", "CACHESRV_CONFIG"),
        ] {
            assert_eq!(variable(unknown).as_deref(), Some(meant), "{unknown}");
        }
    }

    #[test]
    fn what_is_like_nothing_gets_no_suggestion() {
        for unknown in ["", "x", "postgres_url", "postgres.pool", "limits.quorum"] {
            assert_eq!(key(unknown), None, "{unknown}");
        }
        assert_eq!(variable("CACHESRV_TOKEN"), None);
        assert_eq!(table("cleaning"), None);
    }
}
