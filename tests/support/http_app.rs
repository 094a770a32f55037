//! The server under test: the real one, with a small handler whose paths name what they do.

#![allow(dead_code)] // Each test binary uses its own part.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};

use cachesrv::http::{Cut, Exchange, Handler, Method, Request, ResponseHead, ServerEvent, Status};
use cachesrv::server::{Limits, Server, Tls, bind};

use crate::raw::Raw;

/// What the handler discards of a refused body.
pub const DISCARD_BYTES_MAX: u64 = 1 << 20;

/// The body of `/bytes/<count>`.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

/// A running server, and what its handler was told.
pub struct TestServer {
    pub server: Option<Server>,
    pub app: Arc<App>,
    pub address: SocketAddr,
}

impl TestServer {
    pub fn start(limits: Limits) -> Self {
        Self::start_with(limits, None)
    }

    pub fn start_with(limits: Limits, tls: Option<Tls>) -> Self {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let app = Arc::new(App::default());
        let server = Server::start_with(listener, Arc::clone(&app) as _, limits, tls);
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
    pub excused: Mutex<Vec<String>>,
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
            (_, "/known") => {
                exchange.trust_client();
                text(exchange, 200, "known")
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
        self.excused.lock().unwrap().push(request.path.to_owned());
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
