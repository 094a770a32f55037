//! A client of the cache, over a connection that sends exactly what it is told.

use std::io;
use std::net::SocketAddr;

use super::raw::{Answer, Raw};

/// A keep-alive connection that sends the same token with each request.
pub struct Client {
    pub raw: Raw,
    token: Option<String>,
    /// The path of the server's URL, as Nx is told it: `/s/pr-1`.
    base: String,
}

impl Client {
    pub fn new(address: SocketAddr, token: Option<&str>) -> Self {
        Self::over(Raw::connect(address), token)
    }

    /// A client on a connection that is there.
    pub fn over(raw: Raw, token: Option<&str>) -> Self {
        Self {
            raw,
            token: token.map(str::to_owned),
            base: String::new(),
        }
    }

    /// The same client with this path in the URL of its server.
    pub fn at(mut self, base: &str) -> Self {
        base.clone_into(&mut self.base);
        self
    }

    /// The path of an artifact under that URL.
    pub fn path(&self, hash: &str) -> String {
        self.base.clone() + &path(hash)
    }

    /// The head of a request; `fields` are whole lines.
    pub fn head(&self, method: &str, path: &str, fields: &[&str]) -> String {
        let token = self.token.as_ref();
        let authorization = token.map(|token| format!("Authorization: Bearer {token}"));
        let lines = authorization.iter().map(String::as_str);
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: cache\r\n");
        for line in lines.chain(fields.iter().copied()) {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head + "\r\n"
    }

    /// Sends a request head only.
    pub fn begin(&mut self, method: &str, path: &str, fields: &[&str]) {
        let head = self.head(method, path, fields);
        self.raw.send(head);
    }

    /// Sends the head of a PUT that announces `length` bytes.
    pub fn begin_put(&mut self, hash: &str, length: usize) {
        let length = format!("Content-Length: {length}");
        self.begin("PUT", &self.path(hash), &[&length]);
    }

    /// The same for a client that asks first: the final answer's status, or 100 once the server has
    /// admitted the token and has room and a buffer for the body.
    pub fn ask_to_put(&mut self, hash: &str, length: usize) -> u16 {
        let fields = [
            &format!("Content-Length: {length}")[..],
            "Expect: 100-continue",
        ];
        self.begin("PUT", &self.path(hash), &fields);
        self.raw.answer_to_head().status
    }

    pub fn get(&mut self, hash: &str) -> Answer {
        self.ask("GET", &self.path(hash))
    }

    /// A HEAD, with the answer that has no body.
    pub fn look(&mut self, hash: &str) -> Answer {
        self.ask("HEAD", &self.path(hash))
    }

    pub fn put(&mut self, hash: &str, bytes: &[u8]) -> Answer {
        self.try_put(hash, bytes).expect("an answer")
    }

    /// A PUT to a server that may be gone before it answers.
    pub fn try_put(&mut self, hash: &str, bytes: &[u8]) -> io::Result<Answer> {
        let length = format!("Content-Length: {}", bytes.len());
        let head = self.head("PUT", &self.path(hash), &[&length]);
        self.raw.try_send(head)?;
        self.raw.try_send(bytes)?;
        self.raw.try_answer(true)
    }

    /// A request without a body.
    pub fn ask(&mut self, method: &str, path: &str) -> Answer {
        self.begin(method, path, &[]);
        if method == "HEAD" {
            self.raw.answer_to_head()
        } else {
            self.raw.answer()
        }
    }
}

/// The path of an artifact.
pub fn path(hash: &str) -> String {
    format!("/v1/cache/{hash}")
}

impl Answer {
    /// The head without its date: what two answers have in common that are the same.
    pub fn dateless(&self) -> String {
        let lines = self.head.split_inclusive('\n');
        lines.filter(|line| !line.starts_with("Date: ")).collect()
    }

    /// The body of a refusal.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text is UTF-8")
    }
}
