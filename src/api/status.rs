//! How the server is: `/`, `/healthz`, `/readyz` and `/metrics`, at the address of the cache and at `metrics.listen`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::auth::{self, Place};
use crate::http::{Cut, Exchange, Handler, Request, ServerEvent, Status};
use crate::store::{Access, Figures, Reader};
use crate::telemetry::{METRICS_TYPE, Value, threads};
use crate::units::{print_size, print_size_roughly};

use super::metrics::Readings;
use super::reason::Reason;
use super::record::Record;
use super::refusal::Refusal;
use super::route::{Door, Route};
use super::{Api, Connections, refuse};

/// How long a probe or a scrape waits for the database: probes give up after a second or a few, Prometheus after ten.
const DATABASE_WAIT: Duration = Duration::from_secs(2);

const NO_STORE: [(&str, &str); 1] = [("Cache-Control", "no-store")];

/// The application behind `metrics.listen`: how the server is, for whoever can reach that address, and no artifacts.
pub struct Monitor(pub Arc<Api>);

impl Handler for Monitor {
    fn handle(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        self.0.serve(request, exchange, Door::Monitor)
    }

    fn panicked(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        self.0.excuse(request, exchange, Door::Monitor)
    }

    fn rejected(&self, peer: IpAddr, status: Status, reason: &str) {
        self.0.rejected(peer, status, reason);
    }

    fn event(&self, event: &ServerEvent<'_>) {
        match event {
            ServerEvent::Full { .. } => {
                let what = "all connections to metrics.listen are taken, further ones wait";
                self.0.log.warn(what, &[]);
            }
            event => self.0.event(event),
        }
    }
}

/// The workspace that is always there, and whose tokens may see how the server is.
const DEFAULT_WORKSPACE: &str = "default";

impl Api {
    /// Says where the number of open connections can be had.
    pub fn watch_connections(&self, connections: impl Fn() -> usize + Send + Sync + 'static) {
        let connections: Connections = Box::new(connections);
        // There is one server with clients, so the first call is the only one.
        let _ = self.connections.set(connections);
    }

    /// From now on `/readyz` sends clients elsewhere.
    pub fn begin_to_stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn say_status(
        &self,
        route: &Route<'_>,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        let answer = match route {
            Route::Root => Ok(concat!(
                "cachesrv ",
                env!("CARGO_PKG_VERSION"),
                ": a remote cache for Nx\n"
            )),
            Route::Ready => self.readiness().map(|()| "ok\n"),
            _ => Ok("ok\n"),
        };
        match answer {
            Ok(text) => record.send_text(Status(200), &NO_STORE, text),
            Err(text) => {
                record.reason = Some(Reason::NotReady);
                record.send_text(Status(503), &NO_STORE, &text)
            }
        }
    }

    /// Why nothing should be sent here, if so: one sentence.
    fn readiness(&self) -> Result<(), String> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err("the server is shutting down\n".to_owned());
        }
        if let Err(error) = self.store.answers(Instant::now() + DATABASE_WAIT) {
            self.log.error(
                "the database does not answer",
                &[("error", Value::Shown(&error))],
            );
            return Err("the database does not answer\n".to_owned());
        }
        let (room, floor) = (self.store.room_bytes(), self.settings.free_disk_min_bytes);
        if room < floor {
            return Err(format!(
                "the disk of the cache has {} left, less than eviction.min_free_disk ({})\n",
                print_size_roughly(room),
                print_size(floor)
            ));
        }
        Ok(())
    }

    pub(super) fn say_metrics(
        &self,
        request: &Request<'_>,
        door: Door,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        let deadline = Instant::now() + DATABASE_WAIT;
        let reader = match door {
            Door::Monitor => self.store.reader(deadline),
            Door::Cache => match self.admit_scrape(request, deadline, record) {
                Ok(reader) => Ok(reader),
                Err(Refusal::Busy | Refusal::Internal) => {
                    record.reason = Some(Reason::Busy);
                    let text = "the database does not answer, so the token cannot be checked\n";
                    return record.send_text(Status(503), &NO_STORE, text);
                }
                Err(refusal) => return refuse(request.method, &refusal, record),
            },
        };
        let figures = reader.and_then(|reader| reader.figures());
        if let Err(error) = &figures {
            self.log.error(
                "the database does not answer a scrape",
                &[("error", Value::Shown(error))],
            );
        }
        self.send_metrics(figures.ok().as_ref(), record)
    }

    fn send_metrics(
        &self,
        figures: Option<&Figures>,
        record: &mut Record<'_, '_>,
    ) -> Result<(), Cut> {
        match self.metrics.text(&self.readings(), figures) {
            Ok(text) => record.send(Status(200), METRICS_TYPE, &NO_STORE, &text),
            Err(error) => {
                self.log.error(
                    "cannot write the metrics; this is a bug in cachesrv",
                    &[("error", Value::Shown(&error))],
                );
                record.reason = Some(Reason::Internal);
                record.send_text(Status(500), &NO_STORE, "internal error\n")
            }
        }
    }

    /// Metrics are for whoever runs the cache, and sum up all workspaces: neither a pull request nor another
    /// workspace need know what goes on.
    fn admit_scrape(
        &self,
        request: &Request<'_>,
        deadline: Instant,
        record: &mut Record<'_, '_>,
    ) -> Result<Reader, Refusal> {
        let (grant, reader) = self
            .admit(request, Place::default(), deadline, record)
            .map_err(|refusal| match refusal {
                Refusal::Credential(auth::Refusal::Missing) => Refusal::ScrapeWithoutToken,
                // An isolated token at a URL without a scope: no URL would help.
                Refusal::Credential(refusal) if refusal.is_about_place() => Refusal::NoMetrics,
                refusal => refusal,
            })?;
        let is_for_metrics =
            grant.access() != Access::Isolated && grant.workspace() == DEFAULT_WORKSPACE;
        record.admit(grant);
        if !is_for_metrics {
            return Err(Refusal::NoMetrics);
        }
        Ok(reader)
    }

    fn readings(&self) -> Readings {
        Readings {
            connections: self.connections.get().map_or(0, |count| count() as u64),
            threads: threads().unwrap_or_default(),
            argon2_runs: self.argon2_runs(),
            log_lines_dropped: self.log.lost_lines(),
            log_file_bytes: self.store.log_file_bytes(),
            log_blocked_for: self.store.log_blocked_for(),
            free_disk_bytes: self.store.free_disk_bytes(),
        }
    }

    /// The answer of a request that panicked before it had one.
    pub(super) fn excuse(
        &self,
        request: &Request<'_>,
        exchange: &mut dyn Exchange,
        door: Door,
    ) -> Result<(), Cut> {
        let mut record = Record::new(exchange, request.method);
        let route = Route::of(request.path).at(door);
        let outcome = if let Route::Artifact(_) = route {
            refuse(request.method, &Refusal::Internal, &mut record)
        } else {
            record.reason = Some(Reason::Internal);
            record.send_text(Status(500), &[], "internal error\n")
        };
        self.finished(request, &route, &record, outcome);
        outcome
    }
}
