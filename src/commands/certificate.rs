//! The certificate of a running server: what it holds is said in the log, and it is loaded again when its
//! files change or a SIGHUP asks for it.
//!
//! A certificate that cannot be loaded never takes the place of one that could. A renewed pair arrives as
//! two files, one after the other, so a change counts once it has settled.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::tls::{Files, Stamps};
use super::{Report, time};
use crate::server::{Facts, Tls};
use crate::store::now_ms;
use crate::telemetry::{Log, Value};

/// How often the files are looked at. A change is loaded at the second look.
const LOOK: Duration = Duration::from_secs(2);
/// How long before its end a certificate is warned of.
const WARN_BEFORE_MS: i64 = 14 * 24 * 60 * 60 * 1000;
/// How often it is warned of.
const WARN_EVERY: Duration = Duration::from_hours(24);

/// The thread that looks after the files; it ends when this is dropped.
pub(super) struct Watcher {
    ask: Sender<()>,
}

impl Watcher {
    /// Says what is shown to clients, and looks after it from now on.
    pub(super) fn start(watch: Watch) -> io::Result<Self> {
        let (ask, asked) = mpsc::channel();
        watch.announce("certificate");
        thread::Builder::new()
            .name("certificate".to_owned())
            .spawn(move || watch.run(&asked))?;
        Ok(Self { ask })
    }

    /// Loads the files again, changed or not.
    pub(super) fn look_now(&self) {
        // A thread that is gone has panicked; the server goes on with the certificate that it has.
        let _ = self.ask.send(());
    }
}

/// What that thread knows.
pub(super) struct Watch {
    tls: Tls,
    files: Files,
    log: Arc<Log>,
    /// The files at the last look.
    seen: Stamps,
    /// The files when they were last loaded, or refused.
    tried: Stamps,
    /// When the end of the certificate was last looked at.
    warned: Instant,
}

impl Watch {
    pub(super) fn new(tls: Tls, files: Files, loaded: Stamps, log: &Arc<Log>) -> Self {
        Self {
            tls,
            files,
            log: Arc::clone(log),
            seen: loaded,
            tried: loaded,
            warned: Instant::now(),
        }
    }

    fn run(mut self, asked: &Receiver<()>) {
        loop {
            match asked.recv_timeout(LOOK) {
                Ok(()) => self.reload(self.files.stamps()),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn look(&mut self) {
        let stamps = self.files.stamps();
        let has_settled = stamps == self.seen;
        self.seen = stamps;
        if has_settled && stamps != self.tried {
            self.reload(stamps);
        }
        if self.warned.elapsed() >= WARN_EVERY {
            self.warned = Instant::now();
            if let Some(facts) = self.tls.certificate().facts() {
                warn_of_dates(facts, now_ms(), &self.log);
            }
        }
    }

    fn reload(&mut self, stamps: Stamps) {
        self.tried = stamps;
        match self.files.load() {
            Ok(certificate) => {
                let is_same = certificate.is_same_as(&self.tls.certificate());
                self.tls.replace(certificate);
                self.announce(if is_same {
                    "certificate loaded again, it is the same"
                } else {
                    "certificate replaced"
                });
            }
            Err(error) => self.log.error(
                "the certificate cannot be loaded; the one before stays in use",
                &[("error", Value::Text(&said(&error)))],
            ),
        }
    }

    /// Says what is shown to clients now, and what is wrong with it.
    fn announce(&self, message: &'static str) {
        let certificate = self.tls.certificate();
        let Some(facts) = certificate.facts() else {
            return self.log.warn(
                "the certificate's names and dates cannot be read; it is used as it is",
                &[],
            );
        };
        let (names, expires) = (facts.names.join(","), time::rfc3339(facts.not_after_ms));
        self.log.info(
            message,
            &[
                ("subject", Value::Text(&facts.subject)),
                ("names", Value::Text(&names)),
                ("expires", Value::Text(&expires)),
            ],
        );
        warn_of_dates(facts, now_ms(), &self.log);
        warn_of_use(facts, &self.log);
        if certificate.key_is_public() {
            let chmod = format!("chmod o-r {}", self.files.key.display());
            self.log.warn(
                "every user of this machine may read the key of the certificate",
                &[("try", Value::Text(&chmod))],
            );
        }
    }
}

/// What an error says, without `error:` and on one line.
fn said(error: &anyhow::Error) -> String {
    let report = Report::of(error);
    let line = report.lines().first().map_or("", String::as_str);
    line.trim_start_matches("error: ").to_owned()
}

fn warn_of_dates(facts: &Facts, now_ms: i64, log: &Log) {
    let (field, message, ms) = if now_ms > facts.not_after_ms {
        let message = "the certificate has expired, and clients refuse it";
        ("expired", message, facts.not_after_ms)
    } else if now_ms < facts.not_before_ms {
        let message = "the certificate is not valid yet, and clients refuse it";
        ("valid_from", message, facts.not_before_ms)
    } else if facts.not_after_ms - now_ms < WARN_BEFORE_MS {
        let message = "the certificate expires soon";
        ("expires", message, facts.not_after_ms)
    } else {
        return;
    };
    log.warn(message, &[(field, Value::Text(&time::rfc3339(ms)))]);
}

/// What Nx refuses, and other clients may not.
fn warn_of_use(facts: &Facts, log: &Log) {
    if facts.is_issuer {
        log.warn(
            "the certificate is one of an issuer (CA:TRUE), and Nx refuses it: issue one for the server with it",
            &[],
        );
    }
    if facts.names.is_empty() {
        log.warn(
            "the certificate has no subjectAltName, and Nx refuses it: clients look for the server's name there",
            &[],
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::telemetry::Format;

    fn put(directory: &Path, name: &str, text: &str) {
        let new = directory.join("new");
        fs::write(&new, text).expect("written");
        fs::rename(new, directory.join(name)).expect("replaced");
    }

    /// A certificate and its key.
    fn pair() -> [String; 2] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate");
        [made.cert.pem(), made.signing_key.serialize_pem()]
    }

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let [certificate, key] = pair();
        put(path, "cert.pem", &certificate);
        put(path, "key.pem", &key);
        let mut config = Config::defaults().expect("defaults");
        config.tls.certificate = Some(path.join("cert.pem"));
        config.tls.key = Some(path.join("key.pem"));
        let log = Log::to(Box::new(io::sink()), Format::Text, true).expect("a log");
        let secured = super::super::tls::prepare(&config).expect("a certificate");
        let mut watch = secured.expect("TLS").into_watch(&log);
        let first = watch.tls.certificate();
        let is_first = |watch: &Watch| watch.tls.certificate().is_same_as(&first);
        let tried = watch.tried;

        let [certificate, key] = pair();
        put(path, "cert.pem", &certificate);
        watch.look();
        assert_eq!(watch.tried, tried, "half a change is not even tried");
        put(path, "key.pem", &key);
        watch.look();
        assert_eq!(watch.tried, tried, "it may not be all");
        watch.look();
        assert!(!is_first(&watch), "now it is");

        put(path, "key.pem", &pair()[1]);
        watch.look();
        watch.look();
        assert!(!is_first(&watch), "what does not fit is not taken");
        let tried = watch.tried;
        watch.look();
        assert_eq!(watch.tried, tried, "and not tried again and again");
    }
}
