//! The one table of settings: a row each, with everything that is known about it.
//!
//! A row holds a lens onto its field of [`Config`], so that a row without a field, or of another type,
//! does not compile. Every layer hands its value over as text; [`Setting::set`] is the one parser.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{Config, PutStatus, Synchronous};
use crate::telemetry::Format;
use crate::units;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name, with its table: `limits.idle_timeout`.
    pub key: &'static str,
    /// Its default, as it is printed.
    pub default: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    pub(super) kind: Kind,
}

/// How a value is written, what is possible, and where it goes.
#[derive(Debug)]
pub(super) enum Kind {
    /// A path of a file.
    File(fn(&mut Config) -> &mut PathBuf),
    /// A path of a file or directory, or none.
    OptionalPath(fn(&mut Config) -> &mut Option<PathBuf>),
    /// An IP address with a port.
    Address(fn(&mut Config) -> &mut SocketAddr),
    /// An IP address with a port, or none.
    OptionalAddress(fn(&mut Config) -> &mut Option<SocketAddr>),
    /// `true` or `false`.
    Switch(fn(&mut Config) -> &mut bool),
    /// A number of things.
    Count(RangeInclusive<u32>, fn(&mut Config) -> &mut u32),
    /// Bytes, with a unit.
    Size(RangeInclusive<u64>, fn(&mut Config) -> &mut u64),
    /// A time, with a unit.
    Time(RangeInclusive<Duration>, fn(&mut Config) -> &mut Duration),
    /// One of a few words.
    Word(&'static [Choice]),
    /// One of a few numbers.
    Code(&'static [Choice]),
}

/// A value that can be chosen, and what choosing it does.
type Choice = (&'static str, fn(&mut Config));

/// Milliseconds and up for what a test wants short, an hour for what nobody wants longer.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(1);

/// The most that is stored as one artifact, for chunk numbers and lengths keep their room.
const ARTIFACT_LIMIT_BYTES: u64 = 200 << 30;

/// More than any disk, and far from what 64 bits can count.
const QUOTA_MAX_BYTES: u64 = 1 << 50;

/// The word for an optional value that is not there. A file of that name is `./none`.
const NONE: &str = "none";

/// Seconds for what a test wants short; ten years are for ever.
const AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24 * 3650);

/// Every setting. Settings without a table come first: in TOML nothing without a table can follow one.
pub static SETTINGS: &[Setting] = &[
    Setting {
        key: "db",
        default: "cachesrv.db",
        doc: "The database: one SQLite file, created when it does not exist.",
        kind: Kind::File(|config| &mut config.db),
    },
    Setting {
        key: "listen",
        default: "127.0.0.1:8787",
        doc: "The address and port to listen on; port 0 takes any free port.",
        kind: Kind::Address(|config| &mut config.listen),
    },
    Setting {
        key: "behind_proxy",
        default: "false",
        doc: "Take the client's address from X-Forwarded-For; only behind a proxy that sets it.",
        kind: Kind::Switch(|config| &mut config.behind_proxy),
    },
    Setting {
        key: "tls.certificate",
        default: NONE,
        doc: "The certificate chain, in PEM: with it and its key the server speaks TLS only.",
        kind: Kind::OptionalPath(|config| &mut config.tls.certificate),
    },
    Setting {
        key: "tls.key",
        default: NONE,
        doc: "The private key of the certificate, in PEM.",
        kind: Kind::OptionalPath(|config| &mut config.tls.key),
    },
    Setting {
        key: "limits.artifact_max_size",
        default: "2GiB",
        doc: "The largest artifact that is stored.",
        kind: Kind::Size(1..=ARTIFACT_LIMIT_BYTES, |config| {
            &mut config.limits.artifact_max_size_bytes
        }),
    },
    Setting {
        key: "limits.connections_max",
        default: "4096",
        doc: "Connections open at once; further ones wait to be accepted.",
        kind: Kind::Count(1..=65536, |config| &mut config.limits.connections_max),
    },
    Setting {
        key: "limits.head_timeout",
        default: "10s",
        doc: "Time for a whole request head, from its first byte.",
        kind: Kind::Time(TIMEOUT, |config| &mut config.limits.head_timeout),
    },
    Setting {
        key: "limits.idle_timeout",
        default: "120s",
        doc: "Time a connection may rest between requests; Nx needs 95s or more.",
        kind: Kind::Time(
            Duration::from_secs(1)..=Duration::from_hours(24),
            |config| &mut config.limits.idle_timeout,
        ),
    },
    Setting {
        key: "limits.body_timeout",
        default: "30s",
        doc: "Time an upload may pause between two bytes.",
        kind: Kind::Time(TIMEOUT, |config| &mut config.limits.body_timeout),
    },
    Setting {
        key: "limits.body_min_rate",
        default: "1KiB",
        doc: "The slowest average speed of a client, per second, up or down; 0B allows any.",
        kind: Kind::Size(0..=1 << 30, |config| &mut config.limits.body_min_rate_bytes),
    },
    Setting {
        key: "limits.write_timeout",
        default: "30s",
        doc: "Time a download may make no progress.",
        kind: Kind::Time(TIMEOUT, |config| &mut config.limits.write_timeout),
    },
    Setting {
        key: "limits.shutdown_grace",
        default: "30s",
        doc: "Time a stopping server waits for requests in flight.",
        kind: Kind::Time(Duration::ZERO..=Duration::from_hours(1), |config| {
            &mut config.limits.shutdown_grace
        }),
    },
    Setting {
        key: "limits.upload_memory",
        default: "48MiB",
        doc: "Memory for the buffers of all uploads together.",
        kind: Kind::Size(4 << 20..=64 << 30, |config| {
            &mut config.limits.upload_memory_bytes
        }),
    },
    Setting {
        key: "limits.database_wait",
        default: "30s",
        doc: "Time a request waits for the database before it is a miss or not stored.",
        kind: Kind::Time(TIMEOUT, |config| &mut config.limits.database_wait),
    },
    Setting {
        key: "limits.isolated_scope_max_size",
        default: "2GiB",
        doc: "The most that one isolated scope may hold; 0B lets none store anything.",
        kind: Kind::Size(0..=QUOTA_MAX_BYTES, |config| {
            &mut config.limits.isolated_scope_max_size_bytes
        }),
    },
    Setting {
        key: "limits.isolated_max_size",
        default: "5GiB",
        doc: "The most that the isolated scopes of one workspace may hold together.",
        kind: Kind::Size(0..=QUOTA_MAX_BYTES, |config| {
            &mut config.limits.isolated_max_size_bytes
        }),
    },
    Setting {
        key: "eviction.max_size",
        default: "20GiB",
        doc: "The most that all artifacts may take; what was read least recently goes first.",
        kind: Kind::Size(1 << 20..=QUOTA_MAX_BYTES, |config| {
            &mut config.eviction.max_size_bytes
        }),
    },
    Setting {
        key: "eviction.max_age",
        default: "30d",
        doc: "Artifacts that nobody read for so long go.",
        kind: Kind::Time(AGE, |config| &mut config.eviction.max_age),
    },
    Setting {
        key: "eviction.min_free_disk",
        default: "1GiB",
        doc: "With less than this free on the disk nothing new is stored and old artifacts go.",
        kind: Kind::Size(0..=QUOTA_MAX_BYTES, |config| {
            &mut config.eviction.min_free_disk_bytes
        }),
    },
    Setting {
        key: "eviction.isolated_share",
        default: "25",
        doc: "Percent of max_size that isolated scopes have; trusted ones have the rest.",
        kind: Kind::Count(0..=90, |config| &mut config.eviction.isolated_share_percent),
    },
    Setting {
        key: "eviction.isolated_max_age",
        default: "7d",
        doc: "The same as max_age for artifacts in isolated scopes.",
        kind: Kind::Time(AGE, |config| &mut config.eviction.isolated_max_age),
    },
    Setting {
        key: "backup.dir",
        default: NONE,
        doc: "The directory that the server itself writes backups to, best on another disk.",
        kind: Kind::OptionalPath(|config| &mut config.backup.dir),
    },
    Setting {
        key: "backup.every",
        default: "1d",
        doc: "Time from one backup to the next.",
        kind: Kind::Time(AGE, |config| &mut config.backup.every),
    },
    Setting {
        key: "backup.keep",
        default: "7",
        doc: "How many of these backups are kept; the oldest go.",
        kind: Kind::Count(1..=1000, |config| &mut config.backup.keep),
    },
    Setting {
        key: "log.format",
        default: "text",
        doc: "The form of a log line.",
        kind: Kind::Word(&[
            ("text", |config| config.log.format = Format::Text),
            ("json", |config| config.log.format = Format::Json),
        ]),
    },
    Setting {
        key: "log.requests",
        default: "true",
        doc: "Write a line for each request.",
        kind: Kind::Switch(|config| &mut config.log.requests),
    },
    Setting {
        key: "metrics.listen",
        default: NONE,
        doc: "A second address, for metrics and health only, in plain HTTP and without a token.",
        kind: Kind::OptionalAddress(|config| &mut config.metrics.listen),
    },
    Setting {
        key: "nx.put_status",
        default: "200",
        doc: "The answer to a stored upload; 202 fails the runs of every published Nx.",
        kind: Kind::Code(&[
            ("200", |config| config.nx.put_status = PutStatus::Ok),
            ("202", |config| config.nx.put_status = PutStatus::Accepted),
        ]),
    },
    Setting {
        key: "durability.synchronous",
        default: "normal",
        doc: "With full every upload waits for the disk; with normal a power cut may lose the last ones.",
        kind: Kind::Word(&[
            ("normal", |config| {
                config.durability.synchronous = Synchronous::Normal;
            }),
            ("full", |config| {
                config.durability.synchronous = Synchronous::Full;
            }),
        ]),
    },
    Setting {
        key: "durability.mmap",
        default: "true",
        doc: "Read the database through a memory mapping; turn it off on network file systems.",
        kind: Kind::Switch(|config| &mut config.durability.mmap),
    },
];

/// The setting with this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Whether there is a table of this name.
pub(super) fn is_table(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.table() == Some(name))
}

impl Setting {
    /// The variable that sets it: `limits.idle_timeout` is `CACHESRV_LIMITS_IDLE_TIMEOUT`.
    pub fn variable(&self) -> String {
        format!(
            "CACHESRV_{}",
            self.key.replace('.', "_").to_ascii_uppercase()
        )
    }

    /// The TOML table it stands in.
    pub fn table(&self) -> Option<&'static str> {
        self.key.split_once('.').map(|(table, _)| table)
    }

    /// Its name within its table.
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// Its possible values, for a person.
    pub fn values(&self) -> String {
        match &self.kind {
            Kind::File(_) => "a path".to_owned(),
            Kind::OptionalPath(_) => "a path, or none".to_owned(),
            Kind::Address(_) => "an IP address and port".to_owned(),
            Kind::OptionalAddress(_) => "an IP address and port, or none".to_owned(),
            Kind::Switch(_) => "true or false".to_owned(),
            Kind::Count(range, _) => format!("{} to {}", range.start(), range.end()),
            Kind::Size(range, _) => span(range, |bytes| units::print_size(*bytes)),
            Kind::Time(range, _) => span(range, |time| units::print_duration(*time)),
            Kind::Word(choices) | Kind::Code(choices) => names(choices).join(" or "),
        }
    }

    /// Puts a value, given as text, into `config`; yields the form in which it is printed, or what is
    /// wrong with it.
    pub(super) fn set(&self, config: &mut Config, text: &str) -> Result<String, String> {
        match &self.kind {
            Kind::File(field) => {
                *field(config) = file(text)?;
                Ok(text.to_owned())
            }
            Kind::OptionalPath(field) => {
                *field(config) = optional(text, file)?;
                Ok(text.to_owned())
            }
            Kind::Address(field) => {
                *field(config) = address(text)?;
                Ok(field(config).to_string())
            }
            Kind::OptionalAddress(field) => {
                let address = optional(text, address)?;
                *field(config) = address;
                Ok(address.map_or_else(|| NONE.to_owned(), |address| address.to_string()))
            }
            Kind::Switch(field) => {
                *field(config) = switch(text)?;
                Ok(text.to_owned())
            }
            Kind::Count(range, field) => {
                *field(config) = count(text, range)?;
                Ok(field(config).to_string())
            }
            Kind::Size(range, field) => {
                let size_bytes = units::parse_size(text).map_err(|error| error.to_string())?;
                *field(config) =
                    within(text, size_bytes, range, |bytes| units::print_size(*bytes))?;
                Ok(units::print_size(size_bytes))
            }
            Kind::Time(range, field) => {
                let time = units::parse_duration(text).map_err(|error| error.to_string())?;
                *field(config) = within(text, time, range, |time| units::print_duration(*time))?;
                Ok(units::print_duration(time))
            }
            Kind::Word(choices) | Kind::Code(choices) => {
                let choice = choices.iter().find(|(name, _)| *name == text);
                let (name, choose) = choice.ok_or_else(|| not_among(text, choices))?;
                choose(config);
                Ok((*name).to_owned())
            }
        }
    }
}

fn file(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("is empty, write the path of a file".to_owned()),
        text if text.contains('\0') => Err(format!("'{text}' contains a NUL character")),
        text => Ok(PathBuf::from(text)),
    }
}

fn optional<T>(text: &str, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    match text {
        NONE => Ok(None),
        "" => Err(format!("is empty, write '{NONE}' for no value")),
        text => parse(text).map(Some),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "'{text}' is not an IP address and port, write it like '127.0.0.1:8787' or '[::]:8787'"
        )
    })
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is not 'true' or 'false'"))
}

fn count(text: &str, range: &RangeInclusive<u32>) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        let (least, most) = (range.start(), range.end());
        return Err(format!(
            "'{text}' is not a whole number from {least} to {most}"
        ));
    }
    // Digits alone fail to parse only when they are too many.
    within(
        text,
        text.parse().unwrap_or(u32::MAX),
        range,
        u32::to_string,
    )
}

fn within<T: PartialOrd>(
    text: &str,
    value: T,
    range: &RangeInclusive<T>,
    print: impl Fn(&T) -> String,
) -> Result<T, String> {
    if value < *range.start() {
        return Err(format!(
            "'{text}' is too small, the least is {}",
            print(range.start())
        ));
    }
    if value > *range.end() {
        return Err(format!(
            "'{text}' is too large, the most is {}",
            print(range.end())
        ));
    }
    Ok(value)
}

fn span<T>(range: &RangeInclusive<T>, print: impl Fn(&T) -> String) -> String {
    format!("{} to {}", print(range.start()), print(range.end()))
}

fn names(choices: &[Choice]) -> Vec<&'static str> {
    choices.iter().map(|(name, _)| *name).collect()
}

fn not_among(text: &str, choices: &[Choice]) -> String {
    let quoted: Vec<String> = names(choices)
        .iter()
        .map(|name| format!("'{name}'"))
        .collect();
    format!("'{text}' is not {}", quoted.join(" or "))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_and_variables_are_unique() {
        let keys: HashSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        let variables: HashSet<_> = SETTINGS.iter().map(Setting::variable).collect();
        assert_eq!(
            (keys.len(), variables.len()),
            (SETTINGS.len(), SETTINGS.len())
        );
    }

    #[test]
    fn variables_are_derived_from_keys() {
        let setting = find("limits.artifact_max_size").unwrap();
        assert_eq!(setting.variable(), "CACHESRV_LIMITS_ARTIFACT_MAX_SIZE");
        assert_eq!(find("db").unwrap().variable(), "CACHESRV_DB");
    }

    #[test]
    fn no_variable_is_taken_for_one_that_others_set() {
        for setting in SETTINGS {
            let variable = setting.variable();
            assert_ne!(variable, "CACHESRV_CONFIG");
            assert!(!variable.starts_with("CACHESRV_PORT"), "{variable}");
            assert!(!variable.starts_with("CACHESRV_SERVICE"), "{variable}");
        }
    }

    #[test]
    fn settings_without_a_table_come_first_and_tables_are_not_torn_apart() {
        let mut tables: Vec<_> = SETTINGS.iter().map(Setting::table).collect();
        tables.dedup();
        assert_eq!(tables[0], None);
        let unique: HashSet<_> = tables.iter().collect();
        assert_eq!(unique.len(), tables.len());
    }

    #[test]
    fn every_doc_is_one_sentence() {
        for setting in SETTINGS {
            assert!(setting.doc.ends_with('.'), "{}", setting.key);
            assert!(!setting.doc.contains(". "), "{}", setting.key);
            assert!(!setting.doc.contains(['|', '\n']), "{}", setting.key);
        }
    }

    #[test]
    fn impossible_values_are_refused_for_every_setting() {
        let mut config = Config::defaults().unwrap();
        let before = config.clone();
        for setting in SETTINGS {
            let values = [
                "",
                "\0",
                "-1",
                " ",
                "99999999999999999999",
                "true ",
                "TEXT",
                "0x1",
            ];
            // Nearly every text is a path.
            let possible = match setting.kind {
                Kind::File(_) | Kind::OptionalPath(_) => &values[..2],
                _ => &values[..],
            };
            for text in possible {
                assert!(
                    setting.set(&mut config, text).is_err(),
                    "{} = {text:?}",
                    setting.key
                );
            }
        }
        assert_eq!(config, before);
    }

    #[test]
    fn the_message_names_the_value_and_what_is_possible() {
        for (key, text, message) in [
            ("db", "", "is empty, write the path of a file"),
            ("behind_proxy", "yes", "'yes' is not 'true' or 'false'"),
            ("log.format", "xml", "'xml' is not 'text' or 'json'"),
            ("nx.put_status", "201", "'201' is not '200' or '202'"),
            (
                "durability.synchronous",
                "off",
                "'off' is not 'normal' or 'full'",
            ),
            (
                "limits.connections_max",
                "0",
                "'0' is too small, the least is 1",
            ),
            (
                "limits.connections_max",
                "65537",
                "'65537' is too large, the most is 65536",
            ),
            (
                "limits.connections_max",
                "4294967297",
                "'4294967297' is too large, the most is 65536",
            ),
            (
                "limits.connections_max",
                "1k",
                "'1k' is not a whole number from 1 to 65536",
            ),
            (
                "limits.artifact_max_size",
                "201GiB",
                "'201GiB' is too large, the most is 200GiB",
            ),
            (
                "limits.upload_memory",
                "4MB",
                "'4MB' is too small, the least is 4MiB",
            ),
            (
                "limits.idle_timeout",
                "999ms",
                "'999ms' is too small, the least is 1s",
            ),
            (
                "limits.head_timeout",
                "2h",
                "'2h' is too large, the most is 1h",
            ),
        ] {
            let mut config = Config::defaults().unwrap();
            let setting = find(key).unwrap();
            assert_eq!(setting.set(&mut config, text), Err(message.to_owned()));
        }
    }

    #[test]
    fn addresses_need_a_number_and_a_port() {
        for text in [
            "localhost:8787",
            ":8787",
            "8787",
            "1.2.3.4",
            "::1:80x",
            "1.2.3.4:65536",
            "[::1]",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        for text in ["127.0.0.1:0", "[::]:8787", "0.0.0.0:65535"] {
            assert_eq!(address(text).unwrap().to_string(), text);
        }
    }
}
