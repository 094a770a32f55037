//! TLS as an operator sets it up: the two files are loaded, or refused with a way out. What becomes of them
//! while the server runs is in `certificate`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use super::certificate::{Watch, Watcher};
use super::{Failure, Hint};
use crate::config::Config;
use crate::server::{Certificate, CertificateError, PemKind, Tls};
use crate::telemetry::Log;

/// A certificate that was loaded, and where it came from.
pub(super) struct Secured {
    tls: Tls,
    files: Files,
    loaded: Stamps,
}

/// The two settings.
#[derive(Debug)]
pub(super) struct Files {
    certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What changes when somebody writes, replaces or allows a file.
pub(super) type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Of the certificate and of its key.
pub(super) type Stamps = [Stamp; 2];

/// Loads what is configured; `None` where TLS is not.
pub(super) fn prepare(config: &Config) -> anyhow::Result<Option<Secured>> {
    let Some(files) = Files::of(config)? else {
        return Ok(None);
    };
    // Looked at first: what changes while it is read will be read again.
    let loaded = files.stamps();
    let tls = Tls::new(files.load()?)?;
    Ok(Some(Secured { tls, files, loaded }))
}

impl Files {
    fn of(config: &Config) -> Result<Option<Self>, Failure> {
        let lonely = |there: &str, missing: &str| {
            Failure::usage(format!(
                "{there} is set and {missing} is not: TLS needs both"
            ))
            .hint("cachesrv config show --sources")
        };
        match (&config.tls.certificate, &config.tls.key) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(lonely("tls.certificate", "tls.key")),
            (None, Some(_)) => Err(lonely("tls.key", "tls.certificate")),
            (Some(certificate), Some(key)) => Ok(Some(Self {
                certificate: certificate.clone(),
                key: key.clone(),
            })),
        }
    }

    /// Reads and checks them.
    pub(super) fn load(&self) -> anyhow::Result<Certificate> {
        let loaded = Certificate::load(&self.certificate, &self.key);
        match loaded.as_ref().map_err(way_out) {
            Ok(_) => Ok(loaded?),
            Err(command) => loaded.hint(command),
        }
    }

    /// What tells whether they have changed.
    pub(super) fn stamps(&self) -> Stamps {
        [stamp(&self.certificate), stamp(&self.key)]
    }
}

/// The time of the last change of the inode counts, because a program can set the one of the content.
fn stamp(path: &Path) -> Stamp {
    let file = fs::metadata(path).ok()?;
    let (seconds, nanoseconds) = (file.ctime(), file.ctime_nsec());
    Some((file.dev(), file.ino(), file.len(), seconds, nanoseconds))
}

/// A command that helps with an error.
fn way_out(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::Unreadable { path, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            format!("ls -lL {}", path.display())
        }
        E::Unreadable { .. } | E::NoCertificate { .. } | E::NoKey { .. } => {
            "cachesrv config show --sources".to_owned()
        }
        E::Damaged { kind, path } => match kind {
            PemKind::Certificate => format!("openssl x509 -noout -text -in {}", path.display()),
            PemKind::Key => format!("openssl pkey -noout -check -in {}", path.display()),
        },
        E::Swapped { certificate, key } => format!(
            "cachesrv serve --set tls.certificate={} --set tls.key={}",
            key.display(),
            certificate.display()
        ),
        E::EncryptedKey { path } => {
            let path = path.display();
            format!("umask 077; openssl pkey -in {path} -out {path}.plain")
        }
        E::UnknownKey { path } => {
            format!("openssl pkey -noout -text_pub -in {}", path.display())
        }
        E::Mismatch { certificate, key } => format!(
            "openssl x509 -noout -pubkey -in {}; openssl pkey -pubout -in {}",
            certificate.display(),
            key.display()
        ),
        E::WrongOrder { certificate } => format!(
            "openssl storeutl -noout -text -certs {}",
            certificate.display()
        ),
    }
}

impl Secured {
    /// For the server, and for whoever wants to know when the certificate expires.
    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// What looks after it from now on.
    pub(super) fn into_watch(self, log: &Arc<Log>) -> Watch {
        Watch::new(self.tls, self.files, self.loaded, log)
    }

    /// Says what is shown to clients, and looks after it from now on.
    pub(super) fn watch(self, log: &Arc<Log>) -> io::Result<Watcher> {
        Watcher::start(self.into_watch(log))
    }
}

/// Waits for the signal to stop. SIGHUP, with which daemons are asked to look at their files again, does
/// that for the certificate, and nothing else.
pub(super) fn await_stop(signals: &mut Signals, watcher: Option<&Watcher>, log: &Log) {
    for signal in signals.forever() {
        match watcher {
            _ if signal != SIGHUP => return,
            Some(watcher) => watcher.look_now(),
            None => log.info(
                "SIGHUP changes nothing: there is no certificate to load again",
                &[],
            ),
        }
    }
}
