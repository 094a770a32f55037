//! A certificate chain and its key, read from two files in PEM and checked against each other. What is
//! wrong with them is said with the name of the file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};
use zeroize::Zeroizing;

use super::facts::Facts;

/// More than any chain or key; nobody means to read a device or a database.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The mode bits that let everybody read a file.
const READABLE_BY_ALL: u32 = 0o004;

/// A certificate that a server can show: its chain, with its key.
#[derive(Debug)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    facts: Option<Facts>,
    key_is_public: bool,
}

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PemKind {
    /// `tls.certificate`
    Certificate,
    /// `tls.key`
    Key,
}

impl PemKind {
    /// The setting that names the file.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Certificate => "tls.certificate",
            Self::Key => "tls.key",
        }
    }
}

/// Why two files are no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not there, or not for us.
    #[error("cannot read {path} ({})", kind.setting())]
    Unreadable {
        /// Which of the two.
        kind: PemKind,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that begins like PEM, and is not.
    #[error("{path} ({}) is damaged", kind.setting())]
    Damaged {
        /// Which of the two.
        kind: PemKind,
        /// The file.
        path: PathBuf,
    },
    /// No `BEGIN CERTIFICATE`.
    #[error("{path} (tls.certificate) holds no certificate in PEM")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The files are the wrong way round.
    #[error(
        "{certificate} (tls.certificate) holds a key, and {key} (tls.key) a certificate: they are swapped"
    )]
    Swapped {
        /// The file that was given as the certificate.
        certificate: PathBuf,
        /// The file that was given as the key.
        key: PathBuf,
    },
    /// No `BEGIN PRIVATE KEY`.
    #[error("{path} (tls.key) holds no private key in PEM")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A key with a passphrase, which nobody could type at a restart.
    #[error(
        "the key in {path} (tls.key) is encrypted, and the server cannot ask for its passphrase"
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// A kind of key that no browser knows either.
    #[error(
        "the key in {path} (tls.key) is of a kind that cannot be used: take ECDSA (P-256, P-384), RSA (2048 to 8192 bits) or Ed25519"
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
    },
    /// Two files that do not belong together.
    #[error(
        "the key in {key} (tls.key) does not belong to the certificate in {certificate} (tls.certificate)"
    )]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// The issuer's certificate came first.
    #[error(
        "the server's own certificate has to come first in {certificate} (tls.certificate), before those of its issuers"
    )]
    WrongOrder {
        /// The file with the certificates.
        certificate: PathBuf,
    },
}

impl Certificate {
    /// Reads and checks the two files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let (chain_pem, _) = read(PemKind::Certificate, certificate)?;
        let (key_pem, mode) = read(PemKind::Key, key)?;
        let chain = chain(certificate, &chain_pem)?;
        if chain.is_empty() {
            let (certificate, key) = (certificate.to_owned(), key.to_owned());
            return Err(
                if holds_key(&chain_pem) && !self::chain(&key, &key_pem)?.is_empty() {
                    CertificateError::Swapped { certificate, key }
                } else {
                    CertificateError::NoCertificate { path: certificate }
                },
            );
        }
        let signing_key = signing_key(key, &key_pem)?;
        let certified = matched(chain, signing_key, certificate, key)?;
        Ok(Self {
            facts: certified.cert.first().and_then(|leaf| Facts::of(leaf)),
            certified: Arc::new(certified),
            key_is_public: mode & READABLE_BY_ALL != 0,
        })
    }

    /// What the certificate says of itself, if that could be read.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// Whether every user of the machine may read the key.
    pub fn key_is_public(&self) -> bool {
        self.key_is_public
    }

    /// Whether this is the same certificate, whatever its key or the rest of its chain.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// A file, and its mode.
fn read(kind: PemKind, path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), CertificateError> {
    let read = || -> io::Result<_> {
        // Before it is opened, which a pipe would never end.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.len() > FILE_BYTES_MAX {
            return Err(io::Error::other("it is over 1 MiB"));
        }
        // All at once, so that no copy of a key stays behind where a buffer grew.
        let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok((bytes, metadata.permissions().mode()))
    };
    read().map_err(|source| CertificateError::Unreadable {
        kind,
        path: path.to_owned(),
        source,
    })
}

/// All certificates of a file, in order.
fn chain(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>();
    certificates.map_err(|_: pem::Error| damaged(PemKind::Certificate, path))
}

fn holds_key(text: &[u8]) -> bool {
    PrivateKeyDer::from_pem_slice(text).is_ok()
}

fn signing_key(path: &Path, text: &[u8]) -> Result<Arc<dyn SigningKey>, CertificateError> {
    let holds = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    // PKCS #8, and the older form of OpenSSL. The second would pass for a key.
    if holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateError::EncryptedKey {
            path: path.to_owned(),
        });
    }
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey {
            path: path.to_owned(),
        },
        _ => damaged(PemKind::Key, path),
    })?;
    any_supported_type(&key).map_err(|_| CertificateError::UnknownKey {
        path: path.to_owned(),
    })
}

/// The chain with its key, if they belong together.
fn matched(
    chain: Vec<CertificateDer<'static>>,
    signing_key: Arc<dyn SigningKey>,
    certificate: &Path,
    key: &Path,
) -> Result<CertifiedKey, CertificateError> {
    let certified = CertifiedKey::new(chain, signing_key);
    match certified.keys_match() {
        // A key that cannot say its public half has to be believed.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => return Ok(certified),
        Err(Error::InconsistentKeys(_)) => {}
        Err(_) => return Err(damaged(PemKind::Certificate, certificate)),
    }
    let is_of_another = certified.cert.iter().skip(1).any(|other| {
        let alone = CertifiedKey::new(vec![other.clone()], Arc::clone(&certified.key));
        alone.keys_match().is_ok()
    });
    let certificate = certificate.to_owned();
    Err(if is_of_another {
        CertificateError::WrongOrder { certificate }
    } else {
        let key = key.to_owned();
        CertificateError::Mismatch { certificate, key }
    })
}

/// Says nothing of what is there: it may be part of a key.
fn damaged(kind: PemKind, path: &Path) -> CertificateError {
    CertificateError::Damaged {
        kind,
        path: path.to_owned(),
    }
}
