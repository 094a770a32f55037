//! A server with TLS in a directory with a certificate, and clients that trust it.

use std::sync::Arc;

use rustls::ClientConfig;

use super::authority::Authority;
use super::{Client, Dir, Raw, Server, Token};

pub const SETTINGS: [&str; 4] = [
    "--set",
    "tls.certificate=cert.pem",
    "--set",
    "tls.key=key.pem",
];

/// A directory with a certificate in it, and what belongs to that.
pub struct Place {
    pub dir: Dir,
    pub authority: Authority,
    pub token: Token,
}

impl Place {
    pub fn new() -> Self {
        let (dir, authority) = (Dir::new(), Authority::new());
        authority.issue().write_to(dir.path());
        let token = dir.token("write");
        Self {
            dir,
            authority,
            token,
        }
    }

    pub fn serve(&self) -> Server {
        Server::start_with(&self.dir, &SETTINGS)
    }

    pub fn connect(&self, server: &Server) -> Raw {
        connect(server, &self.authority.trusted())
    }

    pub fn client(&self, server: &Server) -> Client {
        Client::over(self.connect(server), Some(&self.token.secret))
    }

    /// The chain that a new connection is shown.
    pub fn shown(&self, server: &Server) -> Vec<Vec<u8>> {
        shown(&self.connect(server))
    }
}

pub fn connect(server: &Server, config: &Arc<ClientConfig>) -> Raw {
    Raw::try_connect_tls(server.address(), config).expect("a handshake")
}

pub fn shown(raw: &Raw) -> Vec<Vec<u8>> {
    let chain = raw.tls().peer_certificates().expect("a chain");
    chain.iter().map(|link| link.to_vec()).collect()
}
