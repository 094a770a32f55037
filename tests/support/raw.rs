//! A raw client over TCP or TLS: writes exactly the bytes it is given and reads exactly what comes back.

#![allow(dead_code)] // Each test binary uses its own part.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One connection to a server.
pub struct Raw {
    socket: TcpStream,
    /// What is on top of the socket, if it is TLS.
    tls: Option<Box<ClientConnection>>,
    unread: Vec<u8>,
}

/// A response as it was on the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn closes(&self) -> bool {
        self.header("connection").as_deref() == Some("close")
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1);
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        let found = fields.find(|field| field.0.eq_ignore_ascii_case(name));
        found.map(|field| field.1.to_owned())
    }
}

impl Raw {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the server accepts")
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    /// A client on a socket that is connected.
    pub fn over(socket: TcpStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let unread = Vec::new();
        Ok(Self {
            socket,
            tls: None,
            unread,
        })
    }

    /// The same over TLS, for the server's name `localhost`; the handshake is over.
    pub fn try_connect_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        Self::try_connect(address)?.with_tls(config)
    }

    /// The same with TLS on top.
    pub fn with_tls(mut self, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("a configuration");
        let mut tls = Box::new(tls);
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket)?;
        }
        self.tls = Some(tls);
        Ok(self)
    }

    /// What was agreed on in the handshake.
    pub fn tls(&self) -> &ClientConnection {
        self.tls.as_ref().expect("a connection with TLS")
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server reads");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.write_all(bytes.as_ref()),
            Some(tls) => {
                let mut stream = rustls::Stream::new(tls.as_mut(), &mut self.socket);
                stream.write_all(bytes.as_ref())?;
                stream.flush()
            }
        }
    }

    /// Over TLS an end without a word is an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.socket).read(buffer),
        }
    }

    /// Changes the keys of TLS 1.3, and asks the server to change its own.
    pub fn change_keys(&mut self) -> io::Result<()> {
        let tls = self.tls.as_mut().expect("a connection with TLS");
        tls.refresh_traffic_keys().map_err(io::Error::other)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn finish_sending(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut self.socket).expect("the server reads");
            }
        }
        self.socket
            .shutdown(Shutdown::Write)
            .expect("the socket is open");
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send(get(path));
        self.answer()
    }

    /// Reads one response with its body.
    pub fn answer(&mut self) -> Answer {
        self.try_answer(true).expect("a whole response")
    }

    /// Reads one response that has no body whatever its head says.
    pub fn answer_to_head(&mut self) -> Answer {
        self.try_answer(false).expect("a whole response head")
    }

    /// Reads a body of which the head was read with [`Raw::answer_to_head`].
    pub fn body(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            self.read_more().expect("a whole body");
        }
        let next = self.unread.split_off(length);
        std::mem::replace(&mut self.unread, next)
    }

    pub fn try_answer(&mut self, with_body: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self
                .unread
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n")
            {
                break at + 4;
            }
            self.read_more()?;
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8(head).expect("a head is text");
        let status = head[9..12].parse().expect("a status");
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        let length = answer
            .header("content-length")
            .map_or(0, |text| text.parse().expect("a length"));
        if with_body {
            while self.unread.len() < length {
                self.read_more()?;
            }
            // Not by an iterator over bytes, which is slow in debug builds.
            let next = self.unread.split_off(length);
            answer.body = std::mem::replace(&mut self.unread, next);
        }
        Ok(answer)
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.unread.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                // A read with a time limit is not resumed by the system after a signal to the process.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads to the end of the stream; a reset is an error, and so is a server that stays.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.unread);
        match &mut self.tls {
            None => self.socket.read_to_end(&mut rest)?,
            Some(tls) => {
                rustls::Stream::new(tls.as_mut(), &mut self.socket).read_to_end(&mut rest)?
            }
        };
        Ok(rest)
    }

    /// The server closes, in whatever way, without sending another byte.
    pub fn is_closed_silently(&mut self) -> bool {
        match self.rest() {
            Ok(rest) => rest.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// The server neither sends nor closes for a while.
    pub fn stays_open_for(&mut self, time: Duration) -> bool {
        self.socket.set_read_timeout(Some(time)).expect("a timeout");
        let read = if self.tls.is_some() {
            self.read(&mut [0])
        } else {
            self.socket.peek(&mut [0])
        };
        self.socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The bytes of a GET.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")
}

/// The head of a PUT.
pub fn put(path: &str, length: u64) -> String {
    format!("PUT {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n")
}

/// Waits until `done`; for states that no byte announces.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
