//! Any path: what it names can be spelled back to it, and nothing else names an artifact.

use cachesrv::api::route::{Address, Door, Route};

const ARTIFACTS: &str = "/v1/cache/";

/// Whatever the bytes are.
pub fn check(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else {
        return;
    };
    let route = Route::of(path);
    assert_eq!(route.at(Door::Cache), route);
    let one_slash = path.strip_prefix('/').filter(|rest| rest.starts_with('/'));
    let plain = one_slash.unwrap_or(path);
    match route {
        Route::Artifact(address) => {
            assert_eq!(route.at(Door::Monitor), Route::Unknown);
            let spelled = spellings(&address);
            assert!(
                spelled.iter().any(|spelling| spelling == plain),
                "{address:?}"
            );
            assert_eq!(route.hash().is_some(), is_hash(address.hash));
        }
        other => {
            assert_eq!(other.at(Door::Monitor), other);
            assert_eq!(other.hash(), None);
            let named = match other {
                Route::Root => "/",
                Route::Health => "/healthz",
                Route::Ready => "/readyz",
                Route::Metrics => "/metrics",
                _ => return assert!(!plain.starts_with(ARTIFACTS)),
            };
            assert_eq!(plain, named);
        }
    }
}

/// Every path that names this address, but for a slash before it.
fn spellings(address: &Address<'_>) -> Vec<String> {
    let part = |letter: char, name: Option<&str>| match name {
        None => vec![String::new()],
        // `/s/v1/cache/1`: the slash behind the letter is the one of the path.
        Some("") => ["", "/", "//"]
            .map(|end| format!("/{letter}{end}"))
            .to_vec(),
        Some(name) => ["", "/"]
            .map(|end| format!("/{letter}/{name}{end}"))
            .to_vec(),
    };
    let mut spellings = Vec::new();
    for workspace in part('w', address.place.workspace) {
        for scope in part('s', address.place.scope) {
            spellings.push(format!("{workspace}{scope}{ARTIFACTS}{}", address.hash));
        }
    }
    spellings
}

/// 1 to 128 of `[A-Za-z0-9_-]`, and not the beginning of a token.
fn is_hash(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=128).contains(&text.len()) && text.chars().all(is_allowed) && !text.contains("csrv_")
}
