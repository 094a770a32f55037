//! Which server is asked: the one of a URL, or the one of a configuration, on its own machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use ureq::http::Uri;

use super::Failure;
use crate::config::Config;

/// A server to be asked.
#[derive(Debug, Clone)]
pub(in super::super) struct Target {
    /// The URL as Nx has it, without a slash at its end.
    base: String,
    host: String,
    port: u16,
    is_tls: bool,
}

impl Target {
    /// The server at the URL that was typed after `command`.
    pub(in super::super) fn parse(url: &str, command: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("--url: '{url}' {why}"))
                .hint(format!("cachesrv {command} --url http://127.0.0.1:8787"))
        };
        let base = url.trim_end_matches('/');
        if matches!(base, "http:" | "https:") {
            return Err(wrong("names no host"));
        }
        let uri: Uri = base.parse().map_err(|_| wrong("is not a URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            // `localhost:8787` has the form of a scheme.
            _ => return Err(wrong("does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong("has more than a host, a port and a path"));
        }
        Ok(Self {
            base: base.to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            is_tls,
        })
    }

    /// The server of this configuration, on this machine; none where its port is a free one.
    pub(in super::super) fn own(config: &Config) -> Option<Self> {
        let address = reachable(config.listen);
        let is_tls = config.tls.certificate.is_some();
        let scheme = scheme(config);
        (address.port() != 0).then(|| Self {
            base: format!("{scheme}://{address}"),
            host: address.ip().to_string(),
            port: address.port(),
            is_tls,
        })
    }

    /// What a URL of this configuration looks like, where its port is not known.
    pub(in super::super) fn example(config: &Config) -> String {
        format!("{}://127.0.0.1:8787", scheme(config))
    }

    /// The URL, as Nx has it.
    pub(in super::super) fn url(&self) -> &str {
        &self.base
    }

    /// The same server by the other protocol.
    pub(in super::super) fn with_tls(&self, is_tls: bool) -> Self {
        let rest = self.base.split_once("://").map_or("", |(_, rest)| rest);
        let scheme = if is_tls { "https" } else { "http" };
        // A port that was not typed would become another one.
        let has_port = rest
            .split('/')
            .next()
            .unwrap_or("")
            .ends_with(&format!(":{}", self.port));
        let rest = match rest.split_once('/') {
            _ if has_port => rest.to_owned(),
            Some((host, path)) => format!("{host}:{}/{path}", self.port),
            None => format!("{rest}:{}", self.port),
        };
        Self {
            base: format!("{scheme}://{rest}"),
            is_tls,
            ..self.clone()
        }
    }

    /// The same server without the place that Nx is told: the scope and the workspace at the end of the path.
    pub(in super::super) fn without_place(&self) -> Self {
        let (scope_gone, _) = without_last(&self.base, "/s/");
        let (base, _) = without_last(scope_gone, "/w/");
        Self {
            base: base.to_owned(),
            ..self.clone()
        }
    }

    /// The workspace that the URL asserts.
    pub(in super::super) fn workspace(&self) -> Option<&str> {
        without_last(without_last(&self.base, "/s/").0, "/w/").1
    }

    /// Where it is.
    pub(in super::super) fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether its name has an address. Waits for as long as the system is configured to.
    pub(in super::super) fn has_address(&self) -> bool {
        (self.host.as_str(), self.port).to_socket_addrs().is_ok()
    }

    /// Whether it is asked by TLS.
    pub(in super::super) fn is_tls(&self) -> bool {
        self.is_tls
    }
}

/// A URL without `/s/NAME` at its end, and the name.
fn without_last<'u>(url: &'u str, mark: &str) -> (&'u str, Option<&'u str>) {
    match url.rsplit_once(mark) {
        Some((before, name)) if !name.contains('/') && !before.ends_with([':', '/']) => {
            (before, Some(name))
        }
        _ => (url, None),
    }
}

fn scheme(config: &Config) -> &'static str {
    if config.tls.certificate.is_some() {
        "https"
    } else {
        "http"
    }
}

/// An address at which a server that listens on this one can be reached from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_as_nx_has_it() {
        for (url, base, host, port, is_tls) in [
            (
                "http://127.0.0.1:8787",
                "http://127.0.0.1:8787",
                "127.0.0.1",
                8787,
                false,
            ),
            (
                "https://cache.example/",
                "https://cache.example",
                "cache.example",
                443,
                true,
            ),
            (
                "http://cache.example/nx/s/pr-1",
                "http://cache.example/nx/s/pr-1",
                "cache.example",
                80,
                false,
            ),
            ("http://[::1]:1/", "http://[::1]:1", "::1", 1, false),
        ] {
            let target = Target::parse(url, "doctor").expect(url);
            assert_eq!(target.url(), base);
            assert_eq!(target.host_and_port(), (host, port), "{url}");
            assert_eq!(target.is_tls(), is_tls, "{url}");
        }
        for url in [
            "",
            "cache.example",
            "cache.example:8787",
            "ftp://cache.example",
            "http://",
            "http://user@cache.example",
            "http://cache.example/?x=1",
            "http://cache example",
        ] {
            assert!(Target::parse(url, "doctor").is_err(), "{url}");
        }
    }

    #[test]
    fn the_other_protocol_is_asked_for_at_the_same_port() {
        for (url, is_tls, other) in [
            ("http://c:8787", true, "https://c:8787"),
            ("https://c", false, "http://c:443"),
            ("https://c/s/x", false, "http://c:443/s/x"),
            ("http://[::1]:80/s/x", true, "https://[::1]:80/s/x"),
        ] {
            let target = Target::parse(url, "doctor").expect(url);
            assert_eq!(target.with_tls(is_tls).url(), other);
        }
    }

    #[test]
    fn the_place_is_at_the_end_of_the_path() {
        for (url, root, workspace) in [
            ("http://c", "http://c", None),
            ("http://s", "http://s", None),
            ("http://c/s/pr-1", "http://c", None),
            ("http://c/nx/s/pr-1", "http://c/nx", None),
            ("http://c/w/shop/s/pr-1", "http://c", Some("shop")),
            ("http://c/w/shop", "http://c", Some("shop")),
        ] {
            let target = Target::parse(url, "doctor").expect(url);
            assert_eq!(target.without_place().url(), root);
            assert_eq!(target.workspace(), workspace, "{url}");
        }
    }

    #[test]
    fn a_server_is_asked_over_the_loopback_interface_where_it_listens_everywhere() {
        for (listen, address) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            let listen = listen.parse().expect(listen);
            assert_eq!(reachable(listen).to_string(), address);
        }
    }
}
