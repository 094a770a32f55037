//! Certificates, on the disk and on the wire: how long they are valid, and which one a server shows.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

use super::super::probe::{NoAnswer, Target};
use super::super::time::date;
use super::finding::{Finding, Findings};
use super::quoted;
use crate::store::now_ms;

const CHECK: &str = "certificate";

/// Whoever has less time than this left should be at it.
const SOON_MS: i64 = 14 * 24 * 60 * 60 * 1000;

/// For the connection and for each step of the handshake.
const TIMEOUT: Duration = Duration::from_secs(5);

/// After all certificates.
const FAR_FUTURE: Duration = Duration::from_hours(24 * 365 * 500);

/// Looks at the certificate in the file of `tls.certificate`.
pub(super) fn check_file(path: &Path, findings: &mut Findings) {
    if let Some(leaf) = leaf_in(path) {
        return validity(&leaf, &format!("in '{}'", path.display()), findings);
    }
    let what = format!(
        "'{}' holds no certificate in PEM that can be read",
        path.display()
    );
    let command = format!("openssl x509 -in {} -noout -dates", quoted(path));
    findings.add(Finding::problem(CHECK, what).with_command(command));
}

/// The server's own certificate in a PEM file: the first one.
pub(super) fn leaf_in(path: &Path) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_file(path).ok()
}

/// Says how long a certificate is valid.
pub(super) fn validity(leaf: &CertificateDer<'_>, place: &str, findings: &mut Findings) {
    let Some(ends_ms) = ends_ms(leaf) else {
        return;
    };
    let (ends, left_ms) = (date(ends_ms), ends_ms - now_ms());
    let renew = "renew it: the server takes the new one without a restart";
    findings.add(if left_ms <= 0 {
        Finding::problem(CHECK, format!("the one {place} expired {ends}")).with_advice(renew)
    } else if left_ms < SOON_MS {
        Finding::warning(CHECK, format!("the one {place} expires {ends}")).with_advice(renew)
    } else {
        Finding::ok(CHECK, format!("the one {place} is valid until {ends}"))
    });
}

/// When a certificate ends: the verifier says so when it is asked about a time after that.
fn ends_ms(leaf: &CertificateDer<'_>) -> Option<i64> {
    let mut roots = RootCertStore::empty();
    roots.add(leaf.clone().into_owned()).ok()?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let name = ServerName::try_from("localhost").ok()?;
    let then = UnixTime::since_unix_epoch(FAR_FUTURE);
    match verifier
        .ok()?
        .verify_server_cert(leaf, &[], &name, &[], then)
    {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            i64::try_from(not_after.as_secs()).ok()?.checked_mul(1000)
        }
        _ => None,
    }
}

/// Speaks TLS with a server, whatever its certificate; what that is.
pub(super) fn shown_by(target: &Target) -> Result<CertificateDer<'static>, NoAnswer> {
    let (host, port) = target.host_and_port();
    let addresses = (host, port).to_socket_addrs();
    let mut addresses = addresses.map_err(|_| NoAnswer::NoSuchHost)?;
    let address = addresses.next().ok_or(NoAnswer::NoSuchHost)?;
    let handshake = || -> std::io::Result<Option<CertificateDer<'static>>> {
        let mut socket = TcpStream::connect_timeout(&address, TIMEOUT)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        let mut tls = client(host).map_err(std::io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        let chain = tls.peer_certificates().unwrap_or_default();
        Ok(chain.first().map(|leaf| leaf.clone().into_owned()))
    };
    let shown = handshake().map_err(|error| NoAnswer::of_io(&error))?;
    shown.ok_or_else(|| NoAnswer::Broken("the server shows no certificate".to_owned()))
}

fn client(host: &str) -> Result<ClientConnection, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = AnyCertificate(Arc::clone(&provider));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Error::General(format!("'{host}' is no name for TLS")))?;
    ClientConnection::new(Arc::new(config), name)
}

/// Takes any certificate, for it is only looked at; nothing is sent to whoever shows it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_found_whoever_signed_it() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut wish = rcgen::CertificateParams::new(["cache.example".to_owned()]).expect("a name");
        wish.not_before = rcgen::date_time_ymd(2020, 1, 1);
        wish.not_after = rcgen::date_time_ymd(2030, 2, 3);
        let leaf = wish.self_signed(&key).expect("a certificate");
        let ends_ms = ends_ms(leaf.der()).expect("its end");
        assert_eq!(date(ends_ms), "2030-02-03 00:00");
    }
}
