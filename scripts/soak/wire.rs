//! A client that knows which failures are fine: those of a connection that lived when a server was killed.

use std::io;
use std::net::SocketAddr;

use crate::raw::{Answer, Raw};
use crate::world::World;

/// A keep-alive connection; opened when needed.
pub struct Wire<'w> {
    world: &'w World,
    address: SocketAddr,
    open: Option<(Raw, u64)>,
    base: String,
}

/// What became of a request.
pub enum Outcome {
    Answered(Answer),
    /// It died with the server. It may have done its work.
    Killed,
    /// It failed, and nobody was killed: a broken promise, which is in the book.
    Failed,
}

impl<'w> Wire<'w> {
    pub fn new(world: &'w World) -> Self {
        Self::to(world, world.address)
    }

    /// To another server than the one that is soaked.
    pub fn to(world: &'w World, address: SocketAddr) -> Self {
        Self {
            world,
            address,
            open: None,
            base: String::new(),
        }
    }

    /// Requests go to this place from now on: `/s/pr-1`.
    pub fn at(&mut self, base: &str) {
        base.clone_into(&mut self.base);
    }

    pub fn get(&mut self, token: &str, hash: &str) -> Outcome {
        let path = format!("{}/v1/cache/{hash}", self.base);
        self.ask("GET", &path, token, &[])
    }

    pub fn put(&mut self, token: &str, hash: &str, body: &[u8]) -> Outcome {
        let path = format!("{}/v1/cache/{hash}", self.base);
        self.ask("PUT", &path, token, body)
    }

    pub fn ask(&mut self, method: &str, path: &str, token: &str, body: &[u8]) -> Outcome {
        let kills = self.world.kills();
        let since = self.open.as_ref().map_or(kills, |(_, since)| *since);
        match self.try_ask(method, path, token, body) {
            Ok(answer) => {
                self.world.answer();
                self.world.count(&format!("{method} {}", answer.status));
                Outcome::Answered(answer)
            }
            Err(error) => {
                self.open = None;
                if self.world.kills() != since {
                    self.world.count(&format!("{method} died with the server"));
                    return Outcome::Killed;
                }
                self.world
                    .count(&format!("{method} failed: {}", error.kind()));
                self.world.breaks(&format!(
                    "{method} {path}: {error}, and no server was killed"
                ));
                Outcome::Failed
            }
        }
    }

    fn try_ask(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let (mut raw, since) = self.connection()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        raw.try_send(head)?;
        raw.try_send(body)?;
        let answer = raw.try_answer(true)?;
        if !answer.closes() {
            self.open = Some((raw, since));
        }
        Ok(answer)
    }

    /// The connection that was left, where the server has not closed it since; or a new one.
    fn connection(&mut self) -> io::Result<(Raw, u64)> {
        if let Some((raw, since)) = self.open.take() {
            let socket = raw.socket();
            socket.set_nonblocking(true)?;
            let peeked = socket.peek(&mut [0]);
            socket.set_nonblocking(false)?;
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((raw, since)),
                Ok(0) => {}
                // Reset: by a kill, or it is an error.
                Err(_) if since != self.world.kills() => {}
                Err(error) => return Err(error),
                Ok(_) => return Err(io::Error::other("an answer to no request")),
            }
        }
        let since = self.world.kills();
        Ok((Raw::try_connect(self.address)?, since))
    }
}
