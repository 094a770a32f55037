//! The client of `doctor` and `healthcheck`: which server is asked, and what it answers, in bounded time.
//!
//! It goes nowhere but to that server: no proxy that the environment names, no redirect. An answer is read up
//! to a bound, and what it says is told by [`Meaning`].

mod target;

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ureq::Agent;
use ureq::config::Config as AgentConfig;
use ureq::http::{HeaderValue, Request, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use zeroize::Zeroizing;

use super::Failure;
use crate::http::Meaning;

pub(super) use target::Target;

/// For the name and the connection, each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// No more of an answer is read, in bytes.
const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024;

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
            base: target.url().to_owned(),
        }
    }

    /// Asks for `path`.
    pub(super) fn get(&self, path: &str, token: Option<&str>) -> Result<Answer, NoAnswer> {
        let request = self.request("GET", path, token)?;
        answer(self.agent.run(with_body(request, ())?))
    }

    /// Asks for `path` without its body.
    pub(super) fn head(&self, path: &str, token: Option<&str>) -> Result<Answer, NoAnswer> {
        let request = self.request("HEAD", path, token)?;
        answer(self.agent.run(with_body(request, ())?))
    }

    /// Stores `bytes` at `path`.
    pub(super) fn put(
        &self,
        path: &str,
        token: Option<&str>,
        bytes: &[u8],
    ) -> Result<Answer, NoAnswer> {
        let request = self.request("PUT", path, token)?;
        answer(self.agent.run(with_body(request, bytes)?))
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
}

/// Reads an answer, up to a bound.
fn answer(outcome: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, NoAnswer> {
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
