//! `cachesrv serve`: puts the parts together, runs until a signal, and takes them apart in order.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::database::opened_to_serve;
use super::schedule::{self, Schedule};
use super::shell::with_config;
use super::{Hint, activation, gc, monitor, tls};
use crate::api::{Api, Settings};
use crate::auth::Authenticator;
use crate::config::{self, Config, Resolution};
use crate::server::{BindError, Drained, Limits, Server, bind};
use crate::store::{Event, IsolatedLimits, Observer, Options, SCHEMA_VERSION, Store, Synchronous};
use crate::telemetry::{Log, Value};

/// Descriptors for the database's connections, the log, the listener and standard streams.
const DESCRIPTORS_BESIDE_CONNECTIONS: u64 = 256;

/// The exit code when a second signal, of whichever kind, cuts the shutdown short.
const IMPATIENT_EXIT_CODE: i32 = 130;

/// Runs the server.
pub(super) fn run(resolution: &Resolution) -> anyhow::Result<()> {
    let config = &resolution.config;
    // Before the log has its thread.
    let activated = activation::socket()?;
    let log =
        Log::to_stderr(config.log.format, config.log.requests).context("cannot start the log")?;
    let _flush = log.flush_on_drop();
    for warning in resolution.warnings() {
        log.warn("configuration", &[("warning", Value::Text(&warning))]);
    }
    forbid_core_dump(&log);
    raise_descriptor_limit(config, &log);
    schedule::check(&config.backup)?;
    // Before anything is opened, so that no signal is missed.
    let mut signals = signals().context("cannot listen for signals")?;
    let secured = tls::prepare(config)?;
    let store = opened_to_serve(Store::open(&store_options(config, &log)))?;
    let is_activated = activated.is_some();
    let listener = activated.map_or_else(|| listen(resolution), Ok)?;
    let monitor_listener = monitor::listen(resolution)?;
    announce_store(resolution, &store, &log);
    let backups = store.backups();
    let authenticator = Authenticator::new().context("cannot prepare the check of tokens")?;
    let api = Arc::new(Api::new(
        store,
        authenticator,
        Arc::clone(&log),
        monitor::metrics(config)?,
        api_settings(config),
    ));
    let (limits, over) = (
        server_limits(config),
        secured.as_ref().map(tls::Secured::tls),
    );
    let server = Server::start_with(listener, Arc::clone(&api) as _, limits, over)
        .context("cannot start the server")?;
    api.watch_connections(server.connections());
    let monitor = monitor::start(monitor_listener, &api, &log)?;
    announce_address(&server, is_activated, secured.is_some(), &log);
    let watcher = secured.map(|secured| secured.watch(&log)).transpose();
    let watcher = watcher.context("cannot look after the certificate")?;
    let schedule = Schedule::start(config, backups, &log)?;
    tls::await_stop(&mut signals, watcher.as_ref(), &log);
    api.begin_to_stop();
    log.info("shutting down", &[]);
    if let Some(schedule) = &schedule {
        schedule.ask_to_stop();
    }
    let drained = server.shutdown();
    // Until now it said how far this has come.
    monitor.map(Server::shutdown);
    say_what_was_cut(&drained, &log);
    // It reads the database, which is closed next.
    drop(schedule);
    // The last owner closes the store, which folds the log into the one file.
    let argon2_runs = api.argon2_runs();
    drop(api);
    log.info("stopped", &[("argon2_runs", Value::Number(argon2_runs))]);
    Ok(())
}

/// Secrets of clients are in memory while they are checked, and a core dump would put them on a disk. The
/// kernel writes none with this limit at 0, systemd-coredump neither. Whoever needs one to find a fault can
/// raise the limit of the running process again (`prlimit --core`), for the hard one is as it was.
fn forbid_core_dump(log: &Log) {
    let mut limit = getrlimit(Resource::Core);
    limit.current = Some(0);
    if let Err(error) = setrlimit(Resource::Core, limit) {
        log.warn(
            "core dumps cannot be turned off",
            &[("error", Value::Shown(&error))],
        );
    }
}

/// Lets the process have a descriptor for each connection: the limit that it starts with is often 1024.
fn raise_descriptor_limit(config: &Config, log: &Log) {
    let wanted = u64::from(config.limits.connections_max) + DESCRIPTORS_BESIDE_CONNECTIONS;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let allowed = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    limit.current = Some(allowed);
    if setrlimit(Resource::Nofile, limit).is_err() || allowed < wanted {
        log.warn(
            "the system allows fewer open files than limits.connections_max needs; further clients will wait",
            &[("open_files", Value::Number(allowed)), ("needed", Value::Number(wanted))],
        );
    }
}

/// The first SIGTERM or SIGINT comes out of the iterator, the second ends the process at once. Each SIGHUP
/// comes out of it.
fn signals() -> std::io::Result<Signals> {
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            IMPATIENT_EXIT_CODE,
            Arc::clone(&impatient),
        )?;
        signal_hook::flag::register(signal, Arc::clone(&impatient))?;
    }
    Signals::new([SIGTERM, SIGINT, SIGHUP])
}

fn listen(resolution: &Resolution) -> anyhow::Result<TcpListener> {
    let bound = bind(resolution.config.listen);
    if let Err(BindError::InUse { .. }) = bound {
        return bound.hint(with_config(
            "cachesrv serve --listen 127.0.0.1:0",
            resolution,
        ));
    }
    Ok(bound?)
}

/// Says what clients lost by the stop, if anything.
fn say_what_was_cut(drained: &Drained, log: &Log) {
    if drained.cut > 0 {
        log.warn(
            "requests were cut",
            &[("requests", Value::Number(drained.cut as u64))],
        );
    }
    if !drained.is_complete {
        log.warn(
            "some connections did not end; the next start folds the log into the file",
            &[],
        );
    }
}

/// What an operator wants to see first: what runs, on which file, and what to do next.
fn announce_store(resolution: &Resolution, store: &Store, log: &Log) {
    let config = &resolution.config;
    log.info(
        concat!("cachesrv ", env!("CARGO_PKG_VERSION")),
        &[
            ("database", Value::Shown(&config.db.display())),
            ("schema", Value::Number(u64::from(SCHEMA_VERSION))),
            (
                "artifact_max_size_bytes",
                Value::Number(config.artifact_max_bytes()),
            ),
            (
                "connections_max",
                Value::Number(u64::from(config.limits.connections_max)),
            ),
        ],
    );
    if store.interrupted_uploads() > 0 {
        let uploads = store.interrupted_uploads() as u64;
        log.info(
            "swept away interrupted uploads",
            &[("uploads", Value::Number(uploads))],
        );
    }
    match store.has_live_tokens() {
        Ok(true) => {}
        Ok(false) => {
            let create = with_config("cachesrv token create --write", resolution);
            log.warn(
                "no token yet, so nobody can use this cache",
                &[("try", Value::Text(&create))],
            );
        }
        Err(error) => log.error(
            "cannot count the tokens",
            &[("error", Value::Shown(&error))],
        ),
    }
}

/// Where clients are served; and that `listen` does not count, where the socket was passed to us.
fn announce_address(server: &Server, is_activated: bool, is_secured: bool, log: &Log) {
    let address = server.local_addr();
    let mut fields = vec![("address", Value::Shown(&address))];
    fields.extend(is_activated.then_some(("socket", Value::Text("systemd"))));
    fields.extend(is_secured.then_some(("tls", Value::Flag(true))));
    log.info("listening", &fields);
}

/// Logs what the store does on its own.
fn observer(log: &Arc<Log>) -> Observer {
    let log = Arc::clone(log);
    Observer::new(move |event| match event {
        Event::Evicted(kind, reason, sum) => log.info(
            "evicted artifacts",
            &[
                ("kind", Value::Text(kind.as_str())),
                ("reason", Value::Text(reason.as_str())),
                ("artifacts", Value::Number(sum.artifacts)),
                ("bytes", Value::Number(sum.size_bytes)),
            ],
        ),
        Event::EvictionFailed(error) => log.error(
            "cannot evict artifacts; trying on",
            &[("error", Value::Shown(error))],
        ),
        Event::CleaningFailed(error) => log.error(
            // A full disk or a busy database is no damage, and passes.
            if error.is_fault_of_the_file() {
                "cannot free what removed artifacts occupy; `cachesrv verify` says what is damaged"
            } else {
                "cannot free what removed artifacts occupy; trying on"
            },
            &[("error", Value::Shown(error))],
        ),
    })
}

fn store_options(config: &Config, log: &Arc<Log>) -> Options {
    Options {
        path: config.db.clone(),
        synchronous: match config.durability.synchronous {
            config::Synchronous::Normal => Synchronous::Normal,
            config::Synchronous::Full => Synchronous::Full,
        },
        mmap: config.durability.mmap,
        upload_memory_bytes: config.limits.upload_memory_bytes,
        isolated: IsolatedLimits {
            scope_max_bytes: config.limits.isolated_scope_max_size_bytes,
            workspace_max_bytes: config.limits.isolated_max_size_bytes,
        },
        eviction: gc::limits(config),
        observer: observer(log),
        wait: config.limits.database_wait,
    }
}

fn server_limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        connections_max: limits.connections_max as usize,
        head_timeout: limits.head_timeout,
        idle_timeout: limits.idle_timeout,
        body_timeout: limits.body_timeout,
        body_rate_min_bytes: limits.body_min_rate_bytes,
        write_timeout: limits.write_timeout,
        shutdown_grace: limits.shutdown_grace,
        ..Limits::default()
    }
}

fn api_settings(config: &Config) -> Settings {
    Settings {
        artifact_max_size_bytes: config.artifact_max_bytes(),
        put_is_accepted: config.nx.put_status == config::PutStatus::Accepted,
        behind_proxy: config.behind_proxy,
        free_disk_min_bytes: config.eviction.min_free_disk_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_server_are_those_of_the_configuration() {
        let config = Config::defaults().expect("defaults");
        assert_eq!(server_limits(&config), Limits::default());
    }
}
