//! A server that answers what a test wants: what stands where cachesrv should, a proxy that changes answers, or
//! one that speaks TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A listener whose connections are answered by threads; they end with the test.
pub struct Fake {
    address: SocketAddr,
}

/// What a request asks for.
pub struct Asked {
    pub method: String,
    pub path: String,
    /// All of its head.
    pub head: String,
}

/// A certificate with its key, signed by an authority or by itself.
pub struct Pair {
    /// The PEM of the certificate.
    pub certificate: String,
    /// The PEM of its key.
    pub key: String,
}

impl Fake {
    /// Answers every request by `answer`: a status line without its version, and a body.
    pub fn new(answer: impl Fn(&Asked) -> (String, String) + Send + Sync + 'static) -> Self {
        Self::start(None, answer)
    }

    /// The same by TLS.
    pub fn tls(
        pair: &Pair,
        answer: impl Fn(&Asked) -> (String, String) + Send + Sync + 'static,
    ) -> Self {
        use rustls::pki_types::pem::PemObject;
        let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate");
        Self::start(Some(Arc::new(config)), answer)
    }

    fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Asked) -> (String, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (tls, answer) = (tls.clone(), Arc::clone(&answer));
                thread::spawn(move || match tls {
                    None => serve(socket, &*answer),
                    Some(config) => serve_tls(socket, config, &*answer),
                });
            }
        });
        Self { address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A certificate for 127.0.0.1 that ends in so many days, signed by itself.
pub fn self_signed(days: i64) -> Pair {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let mut wish = rcgen::CertificateParams::new(names).expect("names");
    wish.not_after = std::time::SystemTime::UNIX_EPOCH.into();
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs() as i64;
    wish.not_before += std::time::Duration::from_secs(1);
    let ends = now + days * 24 * 60 * 60;
    wish.not_after += std::time::Duration::from_secs(ends.max(0) as u64);
    let certificate = wish.self_signed(&key).expect("a certificate");
    Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

fn serve_tls(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    answer: &dyn Fn(&Asked) -> (String, String),
) {
    let tls = ServerConnection::new(config).expect("a connection");
    serve(StreamOwned::new(tls, socket), answer);
}

/// One request after the other until the client goes, or what it sends is no HTTP.
fn serve(mut stream: impl Read + Write, answer: &dyn Fn(&Asked) -> (String, String)) {
    let mut unread = Vec::new();
    while let Some(asked) = asked(&mut stream, &mut unread) {
        let (status, body) = answer(&asked);
        let length = body.len();
        let body = if asked.method == "HEAD" { "" } else { &body };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The next request; its body is read and forgotten.
fn asked(stream: &mut impl Read, unread: &mut Vec<u8>) -> Option<Asked> {
    let mut more = |unread: &mut Vec<u8>| {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        unread.extend_from_slice(&piece[..count]);
        Some(())
    };
    let end = loop {
        if let Some(at) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        // The first byte of a TLS handshake: nobody will speak HTTP here.
        if unread.first() == Some(&0x16) {
            return None;
        }
        more(unread)?;
    };
    let head = String::from_utf8(unread.drain(..end).collect()).ok()?;
    let field = |line: &str| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    };
    let length: usize = head.lines().find_map(field).unwrap_or(0);
    while unread.len() < length {
        more(unread)?;
    }
    unread.drain(..length);
    let mut words = head.split(' ');
    Some(Asked {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        head: head.clone(),
    })
}
