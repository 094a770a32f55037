//! The application: which request gets which answer.
//!
//! `route` names what a path asks for, `admission` says who asks, `download` and `upload` move artifacts, `status` says
//! how the server is, `refusal` is the one table from what went wrong to a status, `record` remembers what the log line
//! says, and `account` and `metrics` count it.
//!
//! Invariant: a problem of the cache never fails a build. What Nx survives is 200 and 404 on GET, and 200,
//! 403 and 409 on PUT (protocol.md); only a bad token and a broken protocol get anything else.

pub mod route;

mod account;
mod admission;
mod download;
mod metrics;
mod reason;
mod record;
mod refusal;
mod status;
mod upload;

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use crate::auth::Authenticator;
use crate::http::{Cut, Exchange, Handler, Method, Request, ServerEvent, Status};
use crate::store::Store;
use crate::telemetry::{Log, RequestLine, Value};

pub use metrics::{Bounds, Metrics};
pub use status::Monitor;

use account::loggable;
use reason::Reason;
use record::Record;
use refusal::Refusal;
use route::{Door, Route};

/// No header but these goes with every answer on a cache path: one URL has different content for
/// different tokens, so nothing in between may keep it.
const CACHE_HEADERS: [(&str, &str); 2] = [("Cache-Control", "no-store"), ("Vary", "Authorization")];

/// The exact type that Nx wants to see before it shows a text to the user: no charset, lower case.
const TEXT: &str = "text/plain";

/// Bytes of a stranger's body that are read so that his connection can be used again.
const STRANGERS_BODY_BYTES_MAX: u64 = 64 * 1024;

/// What the configuration says about answers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest artifact that is accepted, in bytes.
    pub artifact_max_size_bytes: u64,
    /// Whether a PUT that stored is answered by 202, the letter of the older specification, rather than
    /// by 200, the only one that every Nx takes.
    pub put_is_accepted: bool,
    /// Whether `X-Forwarded-For` names the client.
    pub behind_proxy: bool,
    /// Free disk below which nothing is stored, in bytes.
    pub free_disk_min_bytes: u64,
}

/// Everything an answer needs. One for the process, shared by all connections.
pub struct Api {
    store: Store,
    authenticator: Authenticator,
    log: Arc<Log>,
    metrics: Metrics,
    settings: Settings,
    /// The number of open connections, once there is a server.
    connections: OnceLock<Connections>,
    is_stopping: AtomicBool,
}

/// Says how many connections are open.
type Connections = Box<dyn Fn() -> usize + Send + Sync>;

impl Api {
    /// An application over these parts.
    pub fn new(
        store: Store,
        authenticator: Authenticator,
        log: Arc<Log>,
        metrics: Metrics,
        settings: Settings,
    ) -> Self {
        let (reads, writes) = (
            metrics.database_read.clone(),
            metrics.database_write.clone(),
        );
        store.watch(
            Box::new(move |took| reads.observe(took.as_secs_f64())),
            Box::new(move |took| writes.observe(took.as_secs_f64())),
        );
        Self {
            store,
            authenticator,
            log,
            metrics,
            settings,
            connections: OnceLock::new(),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// How often Argon2 ran in this process so far.
    pub fn argon2_runs(&self) -> u64 {
        self.authenticator.argon2_runs()
    }

    /// Answers, and says what it came to: in the log, in the metrics, in the usage by day.
    fn serve(
        &self,
        request: &Request<'_>,
        exchange: &mut dyn Exchange,
        door: Door,
    ) -> Result<(), Cut> {
        let route = Route::of(request.path).at(door);
        let mut record = Record::new(exchange, request.method);
        let answered = catch_unwind(AssertUnwindSafe(|| {
            self.answer(request, &route, door, &mut record)
        }));
        match answered {
            Ok(outcome) => {
                self.finished(request, &route, &record, outcome);
                outcome
            }
            Err(panic) => {
                // Before the answer was begun there is another, and its line, by `panicked`.
                if record.status.is_some() {
                    record.reason = Some(Reason::Internal);
                    self.finished(request, &route, &record, Err(Cut::Aborted));
                }
                resume_unwind(panic)
            }
        }
    }

    fn answer(
        &self,
        request: &Request<'_>,
        route: &Route<'_>,
        door: Door,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        match (route, request.method) {
            (Route::Artifact(address), Method::Get | Method::Head) => {
                self.download(request, *address, record)
            }
            (Route::Artifact(address), Method::Put) => self.upload(request, *address, record),
            (Route::Unknown, _) => {
                refuse(request.method, &Refusal::NoSuchPath(door.content()), record)
            }
            (Route::Artifact(_), _) => {
                refuse(request.method, &Refusal::Method("GET, HEAD, PUT"), record)
            }
            (Route::Metrics, Method::Get | Method::Head) => self.say_metrics(request, door, record),
            (_, Method::Get | Method::Head) => self.say_status(route, record),
            (_, _) => refuse(request.method, &Refusal::Method("GET, HEAD"), record),
        }
    }

    /// The address that counts as the client's.
    fn client(&self, request: &Request<'_>) -> IpAddr {
        let forwarded = request.forwarded_for.filter(|_| self.settings.behind_proxy);
        // The nearest proxy appends what it saw; what stands before it came from the client.
        let last = forwarded.and_then(|list| list.rsplit(',').next());
        last.and_then(|address| address.trim().parse().ok())
            .unwrap_or(request.peer)
    }
}

impl Handler for Api {
    fn handle(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        self.serve(request, exchange, Door::Cache)
    }

    fn panicked(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        self.excuse(request, exchange, Door::Cache)
    }

    fn rejected(&self, peer: IpAddr, status: Status, reason: &str) {
        self.count_rejected(status);
        if self.log.logs_requests() {
            let (status, peer, reason) = (Some(status.0), Some(peer), Some(reason));
            self.log.request(&RequestLine {
                status,
                peer,
                reason,
                ..RequestLine::default()
            });
        }
    }

    fn event(&self, event: &ServerEvent<'_>) {
        match event {
            ServerEvent::AcceptFailed { error, suppressed } => self.log.error(
                "cannot accept connections; trying on",
                &[("error", Value::Shown(error)), ("more", Value::Number(*suppressed))],
            ),
            ServerEvent::SpawnFailed { error, suppressed } => self.log.error(
                "cannot start a thread for a connection; trying on",
                &[("error", Value::Shown(error)), ("more", Value::Number(*suppressed))],
            ),
            ServerEvent::Full { connections_max } => self.log.warn(
                "all connections are taken, new clients wait; raise limits.connections_max",
                &[("connections_max", Value::Number(*connections_max as u64))],
            ),
            ServerEvent::TlsOnPlainPort { peer } => self.log.warn(
                "a client speaks TLS to this plain port and was hung up on; its server URL must begin with http://",
                &[("peer", Value::Shown(peer))],
            ),
            ServerEvent::Panicked { peer, message } => {
                self.metrics.panics.inc();
                self.log.error(
                    "a request panicked; this is a bug in cachesrv",
                    &[("peer", Value::Shown(peer)), ("panic", Value::Text(message))],
                );
            }
            ServerEvent::PlainOnTlsPort { peer } => self.log.warn(
                "a client speaks plain HTTP to this TLS port and was refused; its server URL must begin with https://",
                &[("peer", Value::Shown(peer))],
            ),
            ServerEvent::HandshakeFailed { peer, reason, suppressed } => self.log.warn(
                "a TLS handshake failed",
                &[
                    ("peer", Value::Shown(peer)),
                    ("reason", Value::Text(reason)),
                    ("more", Value::Number(*suppressed)),
                ],
            ),
        }
    }
}

/// Answers with the refusal's status and sentence. The caller has read what it wants of the body.
fn refuse(method: Method, refusal: &Refusal, record: &mut Record<'_, '_>) -> Result<(), Cut> {
    record.reason = Some(refusal.reason());
    let mut text = refusal.message();
    text.push('\n');
    let [no_store, vary] = CACHE_HEADERS;
    match refusal.header() {
        Some(header) => record.send_text(refusal.status(method), &[no_store, vary, header], &text),
        None => record.send_text(refusal.status(method), &[no_store, vary], &text),
    }
}
