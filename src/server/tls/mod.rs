//! TLS for the listener: what is shown to clients (`certificate`, `facts`), the handshake, and the stream
//! of records that a connection then reads and writes (`records`). rustls does the cryptography; here
//! are files, deadlines and the exchange of a certificate under a running server.
//!
//! Invariants: a handshake is over at its deadline, however the bytes trickle, and never runs on the thread
//! that accepts; open connections keep what they have agreed on when the certificate is replaced; a
//! connection holds a bounded amount of either direction.

mod certificate;
mod facts;
mod handshake;
mod records;

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

pub use certificate::{Certificate, CertificateError, PemKind};
pub use facts::Facts;
pub(super) use handshake::serve;

/// All that is spoken inside: HTTP/2 is not.
const ALPN: &[u8] = b"http/1.1";

/// TLS as a server speaks it. A clone is the same one: the certificate of all is replaced at once.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
}

/// The certificate that the next handshake shows.
#[derive(Debug)]
struct Shown(RwLock<Arc<Certificate>>);

impl Tls {
    /// TLS 1.3 and 1.2 with this certificate. Fails only where this build of rustls lacks them.
    pub fn new(certificate: Certificate) -> Result<Self, rustls::Error> {
        let shown = Arc::new(Shown(RwLock::new(Arc::new(certificate))));
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = Arc::new(config);
        Ok(Self { config, shown })
    }

    /// Shows another certificate from the next handshake on.
    pub fn replace(&self, certificate: Certificate) {
        let mut shown = self.shown.0.write().unwrap_or_else(PoisonError::into_inner);
        *shown = Arc::new(certificate);
    }

    /// What is shown now.
    pub fn certificate(&self) -> Arc<Certificate> {
        self.shown.get()
    }
}

impl Shown {
    fn get(&self) -> Arc<Certificate> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&shown)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().certified())
    }
}
