//! A client of the cache, over a connection that sends exactly what it is told.

use std::io;
use std::net::SocketAddr;

use super::raw::{Answer, Raw};

/// A keep-alive connection that sends the same token with each request.
pub struct Client {
    pub raw: Raw,
    token: Option<String>,
}

impl Client {
    pub fn new(address: SocketAddr, token: Option<&str>) -> Self {
        Self {
            raw: Raw::connect(address),
            token: token.map(str::to_owned),
        }
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
        self.begin("PUT", &path(hash), &[&length]);
    }

    pub fn get(&mut self, hash: &str) -> Answer {
        self.ask("GET", &path(hash))
    }

    pub fn put(&mut self, hash: &str, bytes: &[u8]) -> Answer {
        self.try_put(hash, bytes).expect("an answer")
    }

    /// A PUT to a server that may be gone before it answers.
    pub fn try_put(&mut self, hash: &str, bytes: &[u8]) -> io::Result<Answer> {
        let length = format!("Content-Length: {}", bytes.len());
        let head = self.head("PUT", &path(hash), &[&length]);
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
    /// The body of a refusal.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text is UTF-8")
    }
}
