//! The client of `doctor` and `healthcheck`: which server is asked, and what it answers, in bounded time.
//!
//! It goes nowhere but to that server: no proxy that the environment names, no redirect. An answer is read up
//! to a bound, and what it says is told by [`Meaning`].

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ureq::Agent;
use ureq::config::Config as AgentConfig;
use ureq::http::{HeaderValue, Request, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use zeroize::Zeroizing;

use super::Failure;
use crate::config::Config;
use crate::http::Meaning;

/// For the name and the connection, each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// No more of an answer is read, in bytes.
const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A server to be asked.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The URL as Nx has it, without a slash at its end.
    base: String,
    host: String,
    port: u16,
    is_tls: bool,
}

/// Which certificates count.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// Those of the authorities that browsers know.
    Public,
    /// Those of these authorities.
    These(RootCerts),
    /// Any: whoever asks itself over the loopback interface knows what it gets.
    Any,
}

/// A client of one server.
pub(super) struct Probe {
    agent: Agent,
    base: String,
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// What its status means.
    pub meaning: Meaning,
    /// Its status.
    pub status: u16,
    /// The text in it, for a person: its first line.
    pub said: String,
    /// All of it.
    pub body: Vec<u8>,
    /// The time that it bears.
    pub date: Option<SystemTime>,
    /// `Content-Type`
    pub content_type: Option<String>,
    /// `Content-Length`
    pub length_bytes: Option<u64>,
    /// Whether it was encoded on its way, which Nx does not undo.
    pub is_encoded: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Nobody listens there.
    #[error("the connection is refused")]
    Refused,
    /// Too slow, or lost on the way.
    #[error("no answer in time")]
    TimedOut,
    /// The name does not resolve.
    #[error("the host name is not known")]
    NoSuchHost,
    /// TLS, but nothing that counts.
    #[error("its certificate does not count: {0}")]
    Certificate(rustls::CertificateError),
    /// Hung up on, or answered in another protocol.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl Target {
    /// The server at the URL that was typed after `command`.
    pub(super) fn parse(url: &str, command: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("--url: '{url}' {why}"))
                .hint(format!("cachesrv {command} --url http://127.0.0.1:8787"))
        };
        let base = url.trim_end_matches('/');
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
    pub(super) fn own(config: &Config) -> Option<Self> {
        let address = reachable(config.listen);
        let is_tls = config.tls.certificate.is_some();
        let scheme = if is_tls { "https" } else { "http" };
        (address.port() != 0).then(|| Self {
            base: format!("{scheme}://{address}"),
            host: address.ip().to_string(),
            port: address.port(),
            is_tls,
        })
    }

    /// The URL, as Nx has it.
    pub(super) fn url(&self) -> &str {
        &self.base
    }

    /// The same server by the other protocol.
    pub(super) fn with_tls(&self, is_tls: bool) -> Self {
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
    pub(super) fn without_place(&self) -> Self {
        let (scope_gone, _) = without_last(&self.base, "/s/");
        let (base, _) = without_last(scope_gone, "/w/");
        Self {
            base: base.to_owned(),
            ..self.clone()
        }
    }

    /// The workspace that the URL asserts.
    pub(super) fn workspace(&self) -> Option<&str> {
        without_last(without_last(&self.base, "/s/").0, "/w/").1
    }

    /// Where it is.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether it is asked by TLS.
    pub(super) fn is_tls(&self) -> bool {
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

/// An address at which a server that listens on this one can be reached from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

impl Trust {
    /// The authorities in a PEM file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let pem = std::fs::read(path)
            .with_context(|| format!("--ca: cannot read '{}'", path.display()))?;
        let certificates: Vec<_> = parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            let what = format!(
                "--ca: there is no certificate in PEM in '{}'",
                path.display()
            );
            return Err(Failure::usage(what).into());
        }
        Ok(Self::These(RootCerts::new_with_certs(&certificates)))
    }

    fn config(&self) -> TlsConfig {
        let tls = TlsConfig::builder();
        match self {
            Self::Public => tls.root_certs(RootCerts::WebPki),
            Self::These(roots) => tls.root_certs(roots.clone()),
            Self::Any => tls.disable_verification(true),
        }
        .build()
    }
}

impl Probe {
    /// A client of `target` that waits for each answer for `timeout` at the most.
    pub(super) fn new(target: &Target, trust: &Trust, timeout: Duration) -> Self {
        let config = AgentConfig::builder()
            .timeout_global(Some(timeout))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .tls_config(trust.config())
            .user_agent(concat!("cachesrv/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.new_agent(),
            base: target.base.clone(),
        }
    }

    /// Asks for `path`.
    pub(super) fn get(&self, path: &str, token: Option<&str>) -> Result<Answer, NoAnswer> {
        let request = self.request("GET", path, token)?;
        self.answer(self.agent.run(with_body(request, ())?))
    }

    /// Asks for `path` without its body.
    pub(super) fn head(&self, path: &str, token: Option<&str>) -> Result<Answer, NoAnswer> {
        let request = self.request("HEAD", path, token)?;
        self.answer(self.agent.run(with_body(request, ())?))
    }

    /// Stores `bytes` at `path`.
    pub(super) fn put(
        &self,
        path: &str,
        token: Option<&str>,
        bytes: &[u8],
    ) -> Result<Answer, NoAnswer> {
        let request = self.request("PUT", path, token)?;
        self.answer(self.agent.run(with_body(request, bytes)?))
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
    ) -> Result<ureq::http::request::Builder, NoAnswer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            // What Nx sends, on every request.
            .header("content-type", "application/octet-stream");
        let Some(token) = token else {
            return Ok(request);
        };
        let authorization = Zeroizing::new(format!("Bearer {token}"));
        let mut value = HeaderValue::from_str(&authorization)
            .map_err(|_| NoAnswer::Broken("the token cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        Ok(request.header("authorization", value))
    }

    fn answer(
        &self,
        outcome: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, NoAnswer> {
        let mut response = outcome.map_err(|error| NoAnswer::of(&error))?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let content_type = header("content-type");
        let length_bytes = header("content-length").and_then(|text| text.parse().ok());
        let date = header("date").and_then(|text| httpdate::parse_http_date(&text).ok());
        let is_encoded = header("content-encoding").is_some();
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(BODY_BYTES_MAX);
        let body = body.read_to_vec().map_err(|error| NoAnswer::of(&error))?;
        Ok(Answer {
            meaning: Meaning::of(status),
            status,
            said: first_line(&body),
            body,
            date,
            content_type,
            length_bytes,
            is_encoded,
        })
    }
}

fn with_body<B>(request: ureq::http::request::Builder, body: B) -> Result<Request<B>, NoAnswer> {
    let built = request.body(body);
    built.map_err(|error| NoAnswer::Broken(error.to_string()))
}

/// The first line of a text, not too long to be repeated.
fn first_line(body: &[u8]) -> String {
    const CHARACTERS_MAX: usize = 300;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * CHARACTERS_MAX)]);
    let line = text.lines().next().unwrap_or_default().trim();
    line.chars().take(CHARACTERS_MAX).collect()
}

impl NoAnswer {
    fn of(error: &ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::TimedOut,
            ureq::Error::HostNotFound => Self::NoSuchHost,
            ureq::Error::Io(error) => Self::of_io(error),
            ureq::Error::Rustls(error) => Self::of_tls(error),
            error => Self::Broken(error.to_string()),
        }
    }

    /// Why a connection did not come about, or broke.
    pub(super) fn of_io(error: &io::Error) -> Self {
        let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        if let Some(error) = inner.and_then(|inner| inner.downcast_ref()) {
            return Self::of_tls(error);
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            _ => Self::Broken(error.to_string()),
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(why) => Self::Certificate(why.clone()),
            error => Self::Broken(error.to_string()),
        }
    }
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
