//! A raw TCP client: writes exactly the bytes it is given and reads exactly what comes back. And the
//! server under test: the real one, with a small handler whose paths name what they do.

#![allow(dead_code)] // Each test binary uses its own part.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use cachesrv::http::{Cut, Exchange, Handler, Method, Request, ResponseHead, ServerEvent, Status};
use cachesrv::server::{Limits, Server, bind};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// What the handler discards of a refused body.
pub const DISCARD_BYTES_MAX: u64 = 1 << 20;

/// One connection to a server.
pub struct Raw {
    socket: TcpStream,
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
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let unread = Vec::new();
        Ok(Self { socket, unread })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server reads");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn finish_sending(&self) {
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
            answer.body = self.unread.drain(..length).collect();
        }
        Ok(answer)
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.unread.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }

    /// Reads to the end of the stream; a reset is an error, and so is a server that stays.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.unread);
        self.socket.read_to_end(&mut rest)?;
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
        let read = self.socket.peek(&mut [0]);
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

/// The body of `/bytes/<count>`.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

/// Waits until `done`; for states that no byte announces.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running server, and what its handler was told.
pub struct TestServer {
    pub server: Option<Server>,
    pub app: Arc<App>,
    pub address: SocketAddr,
}

impl TestServer {
    pub fn start(limits: Limits) -> Self {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let app = Arc::new(App::default());
        let server = Server::start(listener, Arc::clone(&app) as Arc<dyn Handler>, limits);
        let server = server.expect("the server starts");
        let address = server.local_addr();
        Self {
            server: Some(server),
            app,
            address,
        }
    }

    pub fn connect(&self) -> Raw {
        Raw::connect(self.address)
    }

    /// What a client gets that sends `bytes` and nothing more: all answers, to the end.
    pub fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.connect();
        client.send(bytes);
        client.finish_sending();
        String::from_utf8_lossy(&client.rest().expect("a clean end")).into_owned()
    }
}

/// The handler under test.
#[derive(Default)]
pub struct App {
    pub handled: Mutex<Vec<String>>,
    pub cuts: Mutex<Vec<Cut>>,
    pub events: Mutex<Vec<String>>,
    pub rejections: Mutex<Vec<(IpAddr, u16)>>,
    gate: Mutex<bool>,
    gate_opened: Condvar,
    prints_events: bool,
}

impl App {
    /// For a server in another process than its test.
    pub fn that_prints_events() -> Self {
        Self {
            prints_events: true,
            ..Self::default()
        }
    }

    /// Lets the requests of `/wait` go on.
    pub fn open_gate(&self) {
        *self.gate.lock().unwrap() = true;
        self.gate_opened.notify_all();
    }

    pub fn handled_count(&self) -> usize {
        self.handled.lock().unwrap().len()
    }

    pub fn events_with(&self, text: &str) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| event.contains(text)).count()
    }

    fn respond(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        match (request.method, request.path) {
            (Method::Put, "/echo") => echo(exchange),
            (Method::Put, "/count") => count(exchange),
            (Method::Put, "/refuse") => text(exchange, 401, "who are you?"),
            (Method::Put, "/refuse-known") => {
                exchange.trust_client();
                exchange.discard_body(DISCARD_BYTES_MAX)?;
                text(exchange, 403, "not you")
            }
            (Method::Put, "/answer-then-read") => {
                text(exchange, 200, "early")?;
                exchange.read_body(&mut [0; 10]).map(drop)
            }
            (_, "/panic") => panic!("asked to"),
            (_, "/panic-late") => {
                begin(exchange, 200, 10)?;
                exchange.write(b"12345")?;
                panic!("asked to, late")
            }
            (_, "/wait") => {
                let gate = self.gate.lock().unwrap();
                drop(self.gate_opened.wait_while(gate, |open| !*open).unwrap());
                text(exchange, 200, "waited")
            }
            (_, "/silent") => Ok(()),
            (_, "/short") => begin(exchange, 200, 10).and_then(|()| exchange.write(b"12345")),
            (_, "/long") => begin(exchange, 200, 3).and_then(|()| exchange.write(b"12345")),
            (_, "/abort") => {
                begin(exchange, 200, 10)?;
                exchange.write(b"12345")?;
                Err(Cut::Aborted)
            }
            (_, "/twice") => text(exchange, 200, "1").and_then(|()| text(exchange, 200, "2")),
            (_, "/authorization") => {
                let value = request.authorization.map_or("none", |value| value.expose());
                text(exchange, 200, value)
            }
            (_, path) => match path.strip_prefix("/bytes/") {
                Some(count) => bytes(exchange, count.parse().unwrap()),
                None => text(exchange, 404, "nothing here"),
            },
        }
    }
}

impl Handler for App {
    fn handle(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        self.handled.lock().unwrap().push(request.path.to_owned());
        let outcome = self.respond(request, exchange);
        if let Err(cut) = outcome {
            self.cuts.lock().unwrap().push(cut);
        }
        outcome
    }

    fn panicked(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut> {
        assert!(
            request.path == "/panic",
            "only one path panics before it answers"
        );
        text(exchange, 404, "excuse me")
    }

    fn rejected(&self, peer: IpAddr, status: Status, _reason: &str) {
        self.rejections.lock().unwrap().push((peer, status.0));
    }

    fn event(&self, event: &ServerEvent<'_>) {
        if self.prints_events {
            println!("event {event:?}");
        }
        self.events.lock().unwrap().push(format!("{event:?}"));
    }
}

fn begin(exchange: &mut dyn Exchange, status: u16, content_length: u64) -> Result<(), Cut> {
    exchange.begin(&ResponseHead {
        status: Status(status),
        content_type: "text/plain",
        content_length,
        headers: &[("X-Test", "yes")],
    })
}

fn text(exchange: &mut dyn Exchange, status: u16, body: &str) -> Result<(), Cut> {
    begin(exchange, status, body.len() as u64)?;
    exchange.write(body.as_bytes())
}

fn bytes(exchange: &mut dyn Exchange, count: usize) -> Result<(), Cut> {
    const CHUNK_BYTES: usize = 251 * 1024;
    begin(exchange, 200, count as u64)?;
    let chunk = pattern(CHUNK_BYTES.min(count));
    let mut left = count;
    while left > 0 {
        let now = left.min(chunk.len());
        exchange.write(&chunk[..now])?;
        left -= now;
    }
    Ok(())
}

fn echo(exchange: &mut dyn Exchange) -> Result<(), Cut> {
    let mut body = Vec::new();
    let mut buffer = [0; 1000];
    loop {
        match exchange.read_body(&mut buffer)? {
            0 => break,
            count => body.extend_from_slice(&buffer[..count]),
        }
    }
    begin(exchange, 200, body.len() as u64)?;
    exchange.write(&body)
}

fn count(exchange: &mut dyn Exchange) -> Result<(), Cut> {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match exchange.read_body(&mut buffer)? {
            0 => return text(exchange, 200, &total.to_string()),
            count => total += count,
        }
    }
}
