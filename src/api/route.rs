//! What a path asks for.

use crate::auth::Place;
use crate::store::Hash;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'p> {
    /// What this server is, in one line.
    Root,
    /// Is the process alive?
    Health,
    /// Can it serve?
    Ready,
    /// What Prometheus scrapes.
    Metrics,
    /// An artifact.
    Artifact(Address<'p>),
    /// Nothing.
    Unknown,
}

/// An artifact as the path names it, all parts as they were sent: the hash is checked by [`crate::store::Hash::parse`],
/// the place against the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'p> {
    /// What stands before it.
    pub place: Place<'p>,
    /// What stands behind the last slash.
    pub hash: &'p str,
}

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The address of the cache.
    Cache,
    /// `metrics.listen`.
    Monitor,
}

impl Door {
    /// What is behind it, for whoever asks for something else.
    pub fn content(self) -> &'static str {
        match self {
            Self::Cache => "artifacts are at /v1/cache/{hash}",
            Self::Monitor => "metrics are at /metrics",
        }
    }
}

const ARTIFACTS: &str = "/v1/cache/";

impl<'p> Route<'p> {
    /// What this path names.
    pub fn of(path: &'p str) -> Self {
        // A base URL with a slash at its end gives `//v1/cache/…`.
        let path = path
            .strip_prefix('/')
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(path);
        match path {
            "/" => Self::Root,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            _ => Self::artifact(path).unwrap_or(Self::Unknown),
        }
    }

    /// What there is of it behind this door.
    #[must_use]
    pub fn at(self, door: Door) -> Self {
        match (self, door) {
            (Self::Artifact(_), Door::Monitor) => Self::Unknown,
            (route, _) => route,
        }
    }

    /// The hash that it ends in, if that is one.
    pub fn hash(&self) -> Option<Hash<'p>> {
        match self {
            Self::Artifact(address) => Hash::parse(address.hash).ok(),
            _ => None,
        }
    }

    /// `/v1/cache/{hash}`, behind `/w/{workspace}`, `/s/{scope}` or both.
    fn artifact(path: &'p str) -> Option<Self> {
        let (before, hash) = match path.strip_prefix(ARTIFACTS) {
            Some(hash) => ("", hash),
            // The last one: what stands before it is the base URL, which somebody chose.
            None => path.rsplit_once(ARTIFACTS)?,
        };
        let place = place(before)?;
        Some(Self::Artifact(Address { place, hash }))
    }
}

/// The place that a base URL names. A name with a slash in it is taken as a whole, so that it is refused
/// as a name, with a sentence, rather than as a path.
fn place(before: &str) -> Option<Place<'_>> {
    // `/s/v1/cache/…`: the name was empty, and its slash is the one of the path.
    match before {
        "" => return Some(Place::default()),
        "/s" => return place("/s/"),
        "/w" => return place("/w/"),
        _ => {}
    }
    let (workspace, scope) = if let Some(rest) = before.strip_prefix("/w/") {
        match rest.split_once("/s/") {
            Some((workspace, scope)) => (Some(workspace), Some(scope)),
            None => (Some(rest), None),
        }
    } else {
        (None, Some(before.strip_prefix("/s/")?))
    };
    Some(Place {
        workspace: workspace.map(trimmed),
        scope: scope.map(trimmed),
    })
}

/// Without the slash at the end of a base URL.
fn trimmed(name: &str) -> &str {
    name.strip_suffix('/').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact<'p>(
        workspace: Option<&'p str>,
        scope: Option<&'p str>,
        hash: &'p str,
    ) -> Route<'p> {
        let place = Place { workspace, scope };
        Route::Artifact(Address { place, hash })
    }

    #[test]
    fn a_path_names_a_place_and_a_hash() {
        for (path, workspace, scope) in [
            ("/v1/cache/1", None, None),
            ("/s/pr-1/v1/cache/1", None, Some("pr-1")),
            ("/w/shop/v1/cache/1", Some("shop"), None),
            ("/w/shop/s/pr-1/v1/cache/1", Some("shop"), Some("pr-1")),
            ("/s/s/v1/cache/1", None, Some("s")),
            ("/w/w/v1/cache/1", Some("w"), None),
            ("/w/s/s/s/v1/cache/1", Some("s"), Some("s")),
            ("/s/v1/v1/cache/1", None, Some("v1")),
        ] {
            assert_eq!(Route::of(path), artifact(workspace, scope, "1"), "{path}");
        }
    }

    #[test]
    fn a_slash_at_the_end_of_the_base_url_changes_nothing() {
        assert_eq!(Route::of("//v1/cache/1"), artifact(None, None, "1"));
        for (with, without) in [
            ("/s/pr-1//v1/cache/1", "/s/pr-1/v1/cache/1"),
            ("/w/shop//v1/cache/1", "/w/shop/v1/cache/1"),
            ("/w/shop//s/pr-1/v1/cache/1", "/w/shop/s/pr-1/v1/cache/1"),
            ("/w/shop/s/pr-1//v1/cache/1", "/w/shop/s/pr-1/v1/cache/1"),
        ] {
            assert_eq!(Route::of(with), Route::of(without), "{with}");
        }
        assert_eq!(Route::of("//"), Route::Root);
        assert_eq!(Route::of("///v1/cache/1"), Route::Unknown);
    }

    #[test]
    fn a_name_that_is_none_is_named_as_it_was_sent() {
        for (path, workspace, scope) in [
            ("/s//v1/cache/1", None, Some("")),
            ("/s/v1/cache/1", None, Some("")),
            ("/w/v1/cache/1", Some(""), None),
            ("/s///v1/cache/1", None, Some("")),
            ("/s/../v1/cache/1", None, Some("..")),
            ("/s/%2e%2e/v1/cache/1", None, Some("%2e%2e")),
            ("/s/feature/x/v1/cache/1", None, Some("feature/x")),
            ("/s/x/w/shop/v1/cache/1", None, Some("x/w/shop")),
            ("/s/x/v1/cache/2/v1/cache/1", None, Some("x/v1/cache/2")),
            ("/w//v1/cache/1", Some(""), None),
            ("/w//s/x/v1/cache/1", Some(""), Some("x")),
            ("/w/a/b/v1/cache/1", Some("a/b"), None),
        ] {
            assert_eq!(Route::of(path), artifact(workspace, scope, "1"), "{path}");
        }
    }

    #[test]
    fn what_is_not_a_path_of_ours_is_unknown() {
        for path in [
            "/v1",
            "/v1/cache",
            "/V1/cache/1",
            "/v2/cache/1",
            "/healthz/",
            "/metrics/",
            "/s/x/metrics",
            "*",
            "/x/v1/cache/1",
            "/s/x",
            "/s/x/healthz",
            "/S/x/v1/cache/1",
            "/ws/x/v1/cache/1",
            "/v1/cache",
        ] {
            assert_eq!(Route::of(path), Route::Unknown, "{path}");
        }
    }
}
