//! What a certificate says of itself, for the log and for warnings. Whether to trust it is for clients.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};
use x509_cert::time::Time;

/// Of one certificate. Times are in milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whom it is for, by its subject; often empty today.
    pub subject: String,
    /// The names and addresses that it is for. Clients look at nothing else.
    pub names: Vec<String>,
    /// Its first moment.
    pub not_before_ms: i64,
    /// Its last moment.
    pub not_after_ms: i64,
    /// It may issue others. Nx refuses it as the certificate of a server.
    pub is_issuer: bool,
}

impl Facts {
    /// `None` if it cannot be taken apart.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let content = certificate.tbs_certificate();
        let (_, constraints) = content.get_extension::<BasicConstraints>().ok()?.unzip();
        let (_, names) = content.get_extension::<SubjectAltName>().ok()?.unzip();
        let names = names
            .map(|names: SubjectAltName| names.0)
            .unwrap_or_default();
        Some(Self {
            subject: content.subject().to_string(),
            names: names.iter().filter_map(name).collect(),
            not_before_ms: ms(content.validity().not_before),
            not_after_ms: ms(content.validity().not_after),
            is_issuer: constraints.is_some_and(|constraints: BasicConstraints| constraints.ca),
        })
    }
}

fn ms(time: Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_millis()).unwrap_or(i64::MAX)
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => address(octets.as_bytes()),
        _ => None,
    }
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(octets).map(IpAddr::from);
    Some(v4.or(v6).ok()?.to_string())
}
