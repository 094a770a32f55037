//! TLS 1.2 lets a client ask for another handshake on the connection that it has, which costs the server much more
//! than the client. rustls knows none; here is what it says to those who ask.

use std::error::Error;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::crypto::ring;
use rustls::crypto::ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 as SUITE;
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion,
    SupportedCipherSuite,
};

use super::tls::{hung_up_on, written};
use crate::hostile::scene::{Scene, Verdict};

/// Clients of TLS 1.2 that ask for another handshake on the connection they have: as OpenSSL does it, and again and
/// again, as no library does it.
pub fn renegotiation(scene: &Scene) -> Verdict {
    let said = renegotiation_of_openssl(scene)?;
    if !said.contains("no renegotiation") {
        return Err(format!("openssl was not told that there is no renegotiation: {said}").into());
    }
    let config = config(scene)?;
    scene.repeat(50, Duration::from_millis(5), |_| {
        let mut seal = Sealed::connect(scene, &config)?;
        let hello = hello(&config)?;
        for _ in 0..1000 {
            if seal.send(&hello).is_err() {
                break;
            }
        }
        hung_up_on(&seal.socket)
    })
}

/// Clients of TLS 1.2 and of one cipher that give their keys away.
fn config(scene: &Scene) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![SUITE];
    let mut config = scene.trusted_by(provider, &[&TLS12])?;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

fn renegotiation_of_openssl(scene: &Scene) -> Result<String, Box<dyn Error>> {
    let mut client = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-quiet", "-no_ign_eof", "-connect"])
        .arg(scene.address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = client.stdin.take().ok_or("a pipe")?;
    stdin.write_all(b"R\n")?;
    let output = client.wait_with_output()?;
    drop(stdin);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The first message of a client, without the header of its record.
fn hello(config: &Arc<ClientConfig>) -> Result<Vec<u8>, Box<dyn Error>> {
    let name = ServerName::try_from("localhost")?;
    let mut client = ClientConnection::new(Arc::clone(config), name)?;
    Ok(written(&mut client)?.split_off(5))
}

/// A connection after its handshake, with the keys in our hands: it sends what no library would.
struct Sealed {
    socket: TcpStream,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Sealed {
    fn connect(scene: &Scene, config: &Arc<ClientConfig>) -> Result<Self, Box<dyn Error>> {
        let mut socket = scene.connect()?;
        let name = ServerName::try_from("localhost")?;
        let mut client = ClientConnection::new(Arc::clone(config), name)?;
        while client.is_handshaking() {
            client.complete_io(&mut socket)?;
        }
        let (sequence, secrets) = client.dangerous_extract_secrets()?.tx;
        let (
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
            SupportedCipherSuite::Tls12(suite),
        ) = (secrets, SUITE)
        else {
            return Err("another cipher".into());
        };
        let encrypter = suite.aead_alg.encrypter(key, iv.as_ref(), &[]);
        Ok(Self {
            socket,
            encrypter,
            sequence,
        })
    }

    /// Sends a message of a handshake.
    fn send(&mut self, message: &[u8]) -> Verdict {
        let plain = OutboundPlainMessage {
            typ: ContentType::Handshake,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(message),
        };
        let sealed = self.encrypter.encrypt(plain, self.sequence)?;
        self.sequence += 1;
        Ok(self.socket.write_all(&sealed.encode())?)
    }
}
