//! The configuration: flags over `CACHESRV_*` variables over a TOML file over defaults.
//!
//! [`resolve`] looks at all four layers once and yields a typed [`Config`] that never changes again.
//! Everything that can be said about one setting (its key, default, range, documentation and field)
//! stands in one row of `settings::SETTINGS`; the layers, `config show`, the help and the README are
//! made from that table. To add a setting, add a field below and a row there.
//!
//! This is the only place that reads environment variables, and no file is read unless it was named.
//! A mistake in any layer is an error, also where a higher layer would have hidden it.

mod environment;
mod error;
mod file;
mod render;
mod settings;
mod suggest;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use environment::{Environment, arguments};
pub use error::ConfigError;
pub use render::{example_toml, help_table, markdown_table};
pub use settings::{SETTINGS, Setting};

use crate::telemetry::Format;

/// Every setting, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The database file; a relative path starts at the working directory.
    pub db: PathBuf,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// Whether the address of the client is taken from `X-Forwarded-For`.
    pub behind_proxy: bool,
    /// `[tls]`
    pub tls: Tls,
    /// `[limits]`
    pub limits: Limits,
    /// `[eviction]`
    pub eviction: Eviction,
    /// `[backup]`
    pub backup: Backup,
    /// `[log]`
    pub log: LogSettings,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[nx]`
    pub nx: Nx,
    /// `[durability]`
    pub durability: Durability,
}

/// What the server proves its name with. Both or none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The certificate chain.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// Bounds on clients, memory and time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// The largest artifact, in bytes.
    pub artifact_max_size_bytes: u64,
    /// Connections open at once.
    pub connections_max: u32,
    /// For a whole request head, from its first byte.
    pub head_timeout: Duration,
    /// How long a connection may rest between requests.
    pub idle_timeout: Duration,
    /// How long a body may pause.
    pub body_timeout: Duration,
    /// The slowest average of a body, in bytes per second; 0 allows any.
    pub body_min_rate_bytes: u64,
    /// How long a response may make no progress.
    pub write_timeout: Duration,
    /// How long a stop waits for requests in flight.
    pub shutdown_grace: Duration,
    /// The buffers of all uploads together, in bytes.
    pub upload_memory_bytes: u64,
    /// How long a request waits for the database before it counts as busy.
    pub database_wait: Duration,
    /// What one isolated scope may hold, in bytes.
    pub isolated_scope_max_size_bytes: u64,
    /// What the isolated scopes of one workspace may hold together, in bytes.
    pub isolated_max_size_bytes: u64,
}

/// What is kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Eviction {
    /// What all artifacts may take together, in bytes.
    pub max_size_bytes: u64,
    /// Since the last read.
    pub max_age: Duration,
    /// What stays free on the disk, in bytes.
    pub min_free_disk_bytes: u64,
    /// What isolated scopes have of `max_size_bytes`, in percent.
    pub isolated_share_percent: u32,
    /// Since the last read, in isolated scopes.
    pub isolated_max_age: Duration,
}

impl Eviction {
    /// What isolated scopes may take together, in bytes.
    pub fn isolated_max_bytes(&self) -> u64 {
        // The limit on the size leaves room for the product.
        self.max_size_bytes * u64::from(self.isolated_share_percent) / 100
    }

    /// What trusted scopes may take together, in bytes: never more nor less by what isolated ones do.
    pub fn trusted_max_bytes(&self) -> u64 {
        self.max_size_bytes - self.isolated_max_bytes()
    }
}

/// Backups that the server makes of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backup {
    /// Where they go; without it there are none.
    pub dir: Option<PathBuf>,
    /// From one to the next.
    pub every: Duration,
    /// How many stay.
    pub keep: u32,
}

/// Where metrics can be had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metrics {
    /// An address of their own, without a token.
    pub listen: Option<SocketAddr>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// The form of a line.
    pub format: Format,
    /// Whether each request gets a line.
    pub requests: bool,
}

/// What Nx is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nx {
    /// The answer to a stored upload.
    pub put_status: PutStatus,
}

/// The status of a stored upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutStatus {
    /// What every published Nx accepts.
    #[default]
    Ok,
    /// The letter of the older specification.
    Accepted,
}

/// How writes reach the disk, and reads leave it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durability {
    /// When SQLite waits for the disk.
    pub synchronous: Synchronous,
    /// Whether the database is read through a memory mapping.
    pub mmap: bool,
}

/// The values of SQLite's `synchronous` that are safe in WAL mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// The disk is waited for at checkpoints: a power cut may lose the last uploads, never the file.
    #[default]
    Normal,
    /// The disk is waited for at every commit.
    Full,
}

impl Config {
    /// A configuration for [`resolve`] to fill; no field means anything yet.
    fn blank() -> Self {
        Self {
            db: PathBuf::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            behind_proxy: false,
            tls: Tls::default(),
            limits: Limits::default(),
            eviction: Eviction::default(),
            backup: Backup::default(),
            log: LogSettings::default(),
            metrics: Metrics::default(),
            nx: Nx::default(),
            durability: Durability::default(),
        }
    }

    /// The largest artifact that is stored, in bytes: the limit, or what eviction always keeps of trusted
    /// artifacts where that is less, for a larger one would go as soon as it came.
    pub fn artifact_max_bytes(&self) -> u64 {
        let kept_bytes = self.eviction.trusted_max_bytes() / 10 * 9;
        let kept_bytes = kept_bytes.saturating_sub(ENTRY_BYTES);
        self.limits.artifact_max_size_bytes.min(kept_bytes)
    }

    /// The defaults alone: no file, no variables, no flags.
    pub fn defaults() -> Result<Self, ConfigError> {
        Ok(resolve(&Flags::default(), &Environment::default())?.config)
    }
}

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The file named by `--config`.
    pub file: Option<PathBuf>,
    /// Each setting given by a flag, in the order of the command line.
    pub given: Vec<Flag>,
}

/// One setting from the command line.
#[derive(Debug, Clone)]
pub enum Flag {
    /// A flag of its own, like `--db FILE`.
    Own {
        /// The flag as it is typed, with its dashes.
        flag: &'static str,
        /// The key of the setting.
        key: &'static str,
        /// The value as it was typed.
        value: String,
    },
    /// The text after `--set`.
    Set(String),
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
    },
    /// An environment variable, by its name.
    Variable(String),
    /// A flag, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value for a setting, as one layer gives it.
#[derive(Debug)]
struct Given {
    setting: &'static Setting,
    text: String,
    source: Source,
}

/// The configuration with the origin of each value.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// The values.
    pub config: Config,
    /// Each setting in the order of the table.
    pub entries: Vec<Entry>,
}

/// One resolved setting.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its row in the table.
    pub setting: &'static Setting,
    /// Its value, in the one form in which it is printed.
    pub text: String,
    /// Where the value came from.
    pub source: Source,
}

/// Resolves the four layers.
pub fn resolve(flags: &Flags, environment: &Environment) -> Result<Resolution, ConfigError> {
    let mut resolution = Resolution::of_defaults()?;
    let from_variable = environment.config_file()?;
    if let Some(path) = flags.file.as_ref().or(from_variable.as_ref()) {
        resolution.take_all(file::read(path)?)?;
    }
    resolution.take_all(environment.settings()?)?;
    resolution.take_all(flags.settings()?)?;
    Ok(resolution)
}

impl Resolution {
    fn of_defaults() -> Result<Self, ConfigError> {
        let mut resolution = Self {
            config: Config::blank(),
            entries: Vec::new(),
        };
        for setting in SETTINGS {
            let (text, source) = (setting.default.to_owned(), Source::Default);
            resolution.take(Given {
                setting,
                text,
                source,
            })?;
        }
        Ok(resolution)
    }

    fn take_all(&mut self, layer: Vec<Given>) -> Result<(), ConfigError> {
        layer.into_iter().try_for_each(|given| self.take(given))
    }

    /// Lets one value of a higher layer replace what was there.
    fn take(&mut self, given: Given) -> Result<(), ConfigError> {
        let Given {
            setting,
            text,
            source,
        } = given;
        let text = setting
            .set(&mut self.config, &text)
            .map_err(|problem| ConfigError::value(&source, setting, &problem))?;
        let entry = Entry {
            setting,
            text,
            source,
        };
        match self
            .entries
            .iter_mut()
            .find(|known| known.setting.key == setting.key)
        {
            Some(known) => *known = entry,
            None => self.entries.push(entry),
        }
        Ok(())
    }

    /// Values that are allowed but that will hurt; a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let idle = self.config.limits.idle_timeout;
        let mut warnings = Vec::new();
        if idle < NX_IDLE_CLOSE + NX_IDLE_MARGIN {
            warnings.push(format!(
                "limits.idle_timeout is {}, but Nx keeps idle connections for {}: a server that closes \
                 first fails builds now and then, so give it {} or more",
                crate::units::print_duration(idle),
                crate::units::print_duration(NX_IDLE_CLOSE),
                crate::units::print_duration(NX_IDLE_CLOSE + NX_IDLE_MARGIN),
            ));
        }
        let artifact_max_bytes = self.config.artifact_max_bytes();
        if artifact_max_bytes < self.config.limits.artifact_max_size_bytes {
            warnings.push(format!(
                "limits.artifact_max_size is {}, but eviction.max_size leaves room for {}: larger artifacts are \
                 refused",
                crate::units::print_size(self.config.limits.artifact_max_size_bytes),
                crate::units::print_size_roughly(artifact_max_bytes),
            ));
        }
        warnings
    }
}

/// What eviction counts for an entry beside its bytes (see `store`).
const ENTRY_BYTES: u64 = 512;

/// When Nx closes a connection that it does not use (protocol.md, fact 6).
const NX_IDLE_CLOSE: Duration = Duration::from_secs(90);

/// How much later the server has to close than Nx.
const NX_IDLE_MARGIN: Duration = Duration::from_secs(5);

impl Flags {
    /// Adds a flag that stands for one setting, if it was given.
    #[must_use]
    pub fn with(mut self, flag: &'static str, key: &'static str, value: Option<&String>) -> Self {
        let own = value.cloned().map(|value| Flag::Own { flag, key, value });
        self.given.extend(own);
        self
    }

    /// The settings of the command line; each may be given once.
    fn settings(&self) -> Result<Vec<Given>, ConfigError> {
        let mut settings: Vec<Given> = Vec::new();
        for flag in &self.given {
            let given = flag.setting()?;
            let twice = settings
                .iter()
                .find(|other| other.setting.key == given.setting.key);
            if let Some(other) = twice {
                return Err(ConfigError::given_twice(
                    &given.source,
                    &other.source,
                    given.setting,
                ));
            }
            settings.push(given);
        }
        Ok(settings)
    }
}

impl Flag {
    fn setting(&self) -> Result<Given, ConfigError> {
        let (key, text, flag) = match self {
            Self::Own { flag, key, value } => (*key, value.as_str(), *flag),
            Self::Set(pair) => {
                let (key, text) = pair
                    .split_once('=')
                    .ok_or_else(|| ConfigError::no_pair(pair))?;
                (key, text, "--set")
            }
        };
        let setting = settings::find(key).ok_or_else(|| ConfigError::unknown_key(flag, key))?;
        Ok(Given {
            setting,
            text: text.to_owned(),
            source: Source::Flag(flag),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_possible_value_and_is_printed_as_it_is_written() {
        let resolution = resolve(&Flags::default(), &Environment::default()).unwrap();
        assert_eq!(resolution.entries.len(), SETTINGS.len());
        for entry in &resolution.entries {
            assert_eq!(entry.text, entry.setting.default, "{}", entry.setting.key);
        }
        assert_eq!(resolution.warnings(), Vec::<String>::new());
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = Config::defaults().unwrap();
        assert_eq!(config.db, PathBuf::from("cachesrv.db"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:8787");
        assert!(!config.behind_proxy);
        let limits = Limits {
            artifact_max_size_bytes: 2 << 30,
            connections_max: 4096,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(2),
            body_timeout: Duration::from_secs(30),
            body_min_rate_bytes: 1024,
            write_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
            upload_memory_bytes: 48 << 20,
            database_wait: Duration::from_secs(30),
            isolated_scope_max_size_bytes: 2 << 30,
            isolated_max_size_bytes: 5 << 30,
        };
        assert_eq!(config.limits, limits);
        assert_eq!(config.tls, Tls::default());
        let eviction = Eviction {
            max_size_bytes: 20 << 30,
            max_age: Duration::from_hours(30 * 24),
            min_free_disk_bytes: 1 << 30,
            isolated_share_percent: 25,
            isolated_max_age: Duration::from_hours(7 * 24),
        };
        assert_eq!(eviction.isolated_max_bytes(), 5 << 30);
        assert_eq!(eviction.trusted_max_bytes(), 15 << 30);
        assert_eq!(config.eviction, eviction);
        let backup = Backup {
            dir: None,
            every: Duration::from_hours(24),
            keep: 7,
        };
        assert_eq!(config.backup, backup);
        assert_eq!(config.metrics, Metrics::default());
        assert_eq!(
            config.log,
            LogSettings {
                format: Format::Text,
                requests: true
            }
        );
        assert_eq!(config.nx.put_status, PutStatus::Ok);
        assert_eq!(
            config.durability,
            Durability {
                synchronous: Synchronous::Normal,
                mmap: true
            }
        );
    }

    #[test]
    fn every_setting_reaches_its_own_field() {
        let pairs = [
            "db=x.db",
            "listen=[::1]:1",
            "behind_proxy=true",
            "tls.certificate=c.pem",
            "tls.key=k.pem",
            "limits.artifact_max_size=1B",
            "limits.connections_max=2",
            "limits.head_timeout=3s",
            "limits.idle_timeout=4s",
            "limits.body_timeout=5s",
            "limits.body_min_rate=6B",
            "limits.write_timeout=7s",
            "limits.shutdown_grace=8s",
            "limits.upload_memory=9MiB",
            "limits.database_wait=10s",
            "limits.isolated_scope_max_size=11B",
            "limits.isolated_max_size=12B",
            "eviction.max_size=13MiB",
            "eviction.max_age=14s",
            "eviction.min_free_disk=15B",
            "eviction.isolated_share=16",
            "eviction.isolated_max_age=17s",
            "backup.dir=d",
            "backup.every=18s",
            "backup.keep=19",
            "log.format=json",
            "log.requests=false",
            "metrics.listen=[::1]:2",
            "nx.put_status=202",
            "durability.synchronous=full",
            "durability.mmap=false",
        ];
        assert_eq!(pairs.len(), SETTINGS.len(), "a setting is missing here");
        let given = pairs
            .iter()
            .map(|pair| Flag::Set((*pair).to_owned()))
            .collect();
        let resolution = resolve(&Flags { file: None, given }, &Environment::default()).unwrap();
        let expected = Config {
            db: PathBuf::from("x.db"),
            listen: "[::1]:1".parse().unwrap(),
            behind_proxy: true,
            tls: Tls {
                certificate: Some(PathBuf::from("c.pem")),
                key: Some(PathBuf::from("k.pem")),
            },
            eviction: Eviction {
                max_size_bytes: 13 << 20,
                max_age: Duration::from_secs(14),
                min_free_disk_bytes: 15,
                isolated_share_percent: 16,
                isolated_max_age: Duration::from_secs(17),
            },
            backup: Backup {
                dir: Some(PathBuf::from("d")),
                every: Duration::from_secs(18),
                keep: 19,
            },
            metrics: Metrics {
                listen: Some("[::1]:2".parse().unwrap()),
            },
            limits: Limits {
                artifact_max_size_bytes: 1,
                connections_max: 2,
                head_timeout: Duration::from_secs(3),
                idle_timeout: Duration::from_secs(4),
                body_timeout: Duration::from_secs(5),
                body_min_rate_bytes: 6,
                write_timeout: Duration::from_secs(7),
                shutdown_grace: Duration::from_secs(8),
                upload_memory_bytes: 9 << 20,
                database_wait: Duration::from_secs(10),
                isolated_scope_max_size_bytes: 11,
                isolated_max_size_bytes: 12,
            },
            log: LogSettings {
                format: Format::Json,
                requests: false,
            },
            nx: Nx {
                put_status: PutStatus::Accepted,
            },
            durability: Durability {
                synchronous: Synchronous::Full,
                mmap: false,
            },
        };
        assert_eq!(resolution.config, expected);
    }

    #[test]
    fn a_rejected_value_leaves_the_one_below_it() {
        let mut resolution = Resolution::of_defaults().unwrap();
        let setting = settings::find("limits.connections_max").unwrap();
        let source = Source::Flag("--set");
        assert!(
            resolution
                .take(Given {
                    setting,
                    text: "0".to_owned(),
                    source
                })
                .is_err()
        );
        assert_eq!(resolution.config, Config::defaults().unwrap());
    }

    #[test]
    fn an_idle_timeout_below_that_of_nx_is_warned_about() {
        let given = |value: &str| Flags {
            file: None,
            given: vec![Flag::Set(format!("limits.idle_timeout={value}"))],
        };
        let short = resolve(&given("94999ms"), &Environment::default()).unwrap();
        assert_eq!(short.warnings().len(), 1);
        assert!(short.warnings()[0].starts_with("limits.idle_timeout is 94999ms, but Nx keeps"));
        let enough = resolve(&given("95s"), &Environment::default()).unwrap();
        assert_eq!(enough.warnings(), Vec::<String>::new());
    }
}
