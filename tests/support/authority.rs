//! A certificate authority for one test: it issues certificates for `localhost`, and clients trust it.

#![allow(dead_code)] // Each test binary uses its own part.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// One that signs, and is trusted.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its chain, and its key; both in PEM.
#[derive(Clone)]
pub struct Pair {
    pub chain: String,
    pub key: String,
}

impl Authority {
    /// Each has a name of its own.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("test CA {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        Self { issuer }
    }

    /// What clients are told to trust.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate like those of a real authority.
    pub fn issue(&self) -> Pair {
        self.issue_with(|_| {})
    }

    /// The same with some things changed.
    pub fn issue_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let params = leaf(change);
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair {
            chain: leaf.pem() + &self.issuer.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Clients that trust this authority and speak these versions.
    pub fn trusted_with(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        let provider = Arc::new(ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions that exist")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Clients that trust this authority.
    pub fn trusted(&self) -> Arc<ClientConfig> {
        Arc::new(self.trusted_with(&[&TLS13, &TLS12]))
    }
}

/// A certificate that has issued itself, as `openssl req -x509` makes them.
pub fn self_issued() -> Pair {
    let params = leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let key = KeyPair::generate().expect("a key");
    Pair {
        chain: params.self_signed(&key).expect("a certificate").pem(),
        key: key.serialize_pem(),
    }
}

fn leaf(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = days_from_now(-1);
    params.not_after = days_from_now(90);
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    change(&mut params);
    params
}

/// A moment in the past or the future.
pub fn days_from_now<T: From<SystemTime>>(days: i64) -> T {
    let span = Duration::from_hours(24 * days.unsigned_abs());
    let now = SystemTime::now();
    T::from(if days < 0 { now - span } else { now + span })
}

impl Pair {
    /// Puts `cert.pem` and `key.pem` into a directory, each whole at once.
    pub fn write_to(&self, directory: &Path) {
        put(directory, "cert.pem", &self.chain);
        put(directory, "key.pem", &self.key);
    }
}

/// Puts a private file in its place, as careful clients of ACME do.
pub fn put(directory: &Path, name: &str, text: &str) {
    let new = directory.join(format!("{name}.new"));
    fs::write(&new, text).expect("the file is written");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::rename(&new, directory.join(name)).expect("the file is replaced");
}
