//! The second address of a server, `metrics.listen`: for Prometheus and probes, plain and without a token.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::Hint;
use super::shell::with_config;
use crate::api::{Api, Bounds, Metrics, Monitor};
use crate::config::{Config, Resolution};
use crate::server::{BindError, Limits, Server, bind};
use crate::store::now_ms;
use crate::telemetry::{Log, Value};

/// A Prometheus, a load balancer, a person; each with a few connections.
const CONNECTIONS_MAX: usize = 64;

/// It stops after the other server, and whoever scrapes at that moment gets his answer.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// All families of metrics, and what the configuration says of them.
pub(super) fn metrics(config: &Config) -> anyhow::Result<Metrics> {
    let bounds = Bounds {
        started_at_seconds: now_ms() / 1000,
        connections_max: config.limits.connections_max.into(),
        trusted_max_bytes: config.eviction.trusted_max_bytes(),
        isolated_max_bytes: config.eviction.isolated_max_bytes(),
        free_disk_min_bytes: config.eviction.min_free_disk_bytes,
    };
    Metrics::new(&bounds).context("cannot prepare the metrics")
}

/// Takes the address, if one is configured: before clients are served, so that a wrong one is told at once.
pub(super) fn listen(resolution: &Resolution) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = resolution.config.metrics.listen else {
        return Ok(None);
    };
    let bound = bind(address);
    let is_in_use = matches!(bound, Err(BindError::InUse { .. }));
    let mut bound = bound.context("cannot serve metrics");
    if is_in_use {
        let serve = "cachesrv serve --set metrics.listen=127.0.0.1:0";
        bound = bound.hint(with_config(serve, resolution));
    }
    bound.map(Some)
}

/// Serves it.
pub(super) fn start(
    listener: Option<TcpListener>,
    api: &Arc<Api>,
    log: &Log,
) -> anyhow::Result<Option<Server>> {
    let Some(listener) = listener else {
        return Ok(None);
    };
    let limits = Limits {
        connections_max: CONNECTIONS_MAX,
        shutdown_grace: SHUTDOWN_GRACE,
        ..Limits::default()
    };
    let server = Server::start(listener, Arc::new(Monitor(Arc::clone(api))), limits)
        .context("cannot start the server for metrics")?;
    let address = server.local_addr();
    log.info("serving metrics", &[("address", Value::Shown(&address))]);
    Ok(Some(server))
}
