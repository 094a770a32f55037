//! One keep-alive connection of the load generator: as little work as possible for each byte, every status
//! and length verified. Anything unexpected is an error that ends the run.

use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use std::hash::Hasher;
use twox_hash::XxHash3_64;

/// What is read at once, into one buffer that every response uses again.
const BUFFER_BYTES: usize = 256 * 1024;

/// A server that says nothing for this long has lost the request.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct Client {
    stream: TcpStream,
    address: SocketAddr,
    authorization: String,
    buffer: Vec<u8>,
}

/// The head of a response, and how much of its body came with it.
struct Head {
    status: u16,
    length: u64,
    end: usize,
    filled: usize,
    closes: bool,
}

impl Client {
    pub fn connect(address: SocketAddr, token: &str) -> Result<Self> {
        Ok(Self {
            stream: open(address)?,
            address,
            authorization: format!("Bearer {token}"),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Reads an artifact of a known size and throws it away.
    pub fn get(&mut self, hash: &str, size_bytes: u64) -> Result<()> {
        self.get_with(hash, 200, Some(size_bytes), |_| {})
    }

    /// Reads an artifact and returns the checksum of what arrived.
    pub fn get_checksum(&mut self, hash: &str, size_bytes: u64) -> Result<u64> {
        let mut checksum = XxHash3_64::new();
        self.get_with(hash, 200, Some(size_bytes), |part| checksum.write(part))?;
        Ok(checksum.finish())
    }

    /// Asks for an artifact that does not exist.
    pub fn miss(&mut self, hash: &str) -> Result<()> {
        self.get_with(hash, 404, None, |_| {})
    }

    /// Asks with another token, which the server refuses.
    pub fn guess(&mut self, token: &str, hash: &str) -> Result<()> {
        self.authorization = format!("Bearer {token}");
        self.get_with(hash, 401, None, |_| {})
    }

    /// Stores an artifact; `status` is what this server answers when it has.
    pub fn put(&mut self, hash: &str, body: &[u8], status: u16) -> Result<()> {
        self.put_paced(hash, body, status, None)
    }

    /// Stores an artifact at no more than so many bytes a second.
    pub fn put_paced(
        &mut self,
        hash: &str,
        body: &[u8],
        status: u16,
        pace: Option<f64>,
    ) -> Result<()> {
        let head = format!(
            "PUT /v1/cache/{hash} HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\ncontent-type: \
             application/octet-stream\r\ncontent-length: {}\r\n\r\n",
            self.address,
            self.authorization,
            body.len()
        );
        let sent = match pace {
            None => send(&mut self.stream, head.as_bytes(), body),
            Some(bytes_per_second) => {
                send_paced(&mut self.stream, head.as_bytes(), body, bytes_per_second)
            }
        };
        sent.with_context(|| format!("PUT {hash}: sending {} bytes", body.len()))?;
        self.finish(hash, status, None, |_| {})
            .with_context(|| format!("PUT {hash} of {} bytes", body.len()))
    }

    fn get_with(
        &mut self,
        hash: &str,
        status: u16,
        size: Option<u64>,
        each: impl FnMut(&[u8]),
    ) -> Result<()> {
        let request = format!(
            "GET /v1/cache/{hash} HTTP/1.1\r\nhost: {}\r\naccept: */*\r\nauthorization: {}\r\n\r\n",
            self.address, self.authorization
        );
        self.stream
            .write_all(request.as_bytes())
            .context("sending a GET")?;
        self.finish(hash, status, size, each)
            .with_context(|| format!("GET {hash}"))
    }

    /// Reads the answer to its last byte and compares it with what was expected.
    fn finish(
        &mut self,
        hash: &str,
        status: u16,
        size: Option<u64>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<()> {
        let head = self.read_head()?;
        let body = &self.buffer[head.end..head.filled];
        if head.status != status {
            bail!(
                "answered {} where {status} was expected, for {hash}: {}",
                head.status,
                String::from_utf8_lossy(&body[..body.len().min(200)])
            );
        }
        if let Some(size) = size {
            ensure!(
                head.length == size,
                "announced {} bytes, not {size}",
                head.length
            );
        }
        each(body);
        let mut left = head
            .length
            .checked_sub(body.len() as u64)
            .context("bytes after the body")?;
        while left > 0 {
            let room = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = self
                .stream
                .read(&mut self.buffer[..room])
                .context("reading a body")?;
            ensure!(
                count > 0,
                "the connection was cut with {left} bytes of the body to come"
            );
            each(&self.buffer[..count]);
            left -= count as u64;
        }
        if head.closes {
            self.stream = open(self.address)?;
        }
        Ok(())
    }

    fn read_head(&mut self) -> Result<Head> {
        let mut filled = 0;
        loop {
            let count = self
                .stream
                .read(&mut self.buffer[filled..])
                .context("waiting for an answer")?;
            ensure!(count > 0, "the connection was closed without an answer");
            filled += count;
            if let Some(head) = parse_head(&self.buffer[..filled])? {
                return Ok(head);
            }
        }
    }
}

fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Head and body leave together, as far as the socket takes them.
fn send(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    let sent = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
    if sent < head.len() {
        stream.write_all(&head[sent..])?;
        return stream.write_all(body);
    }
    stream.write_all(&body[sent - head.len()..])
}

fn send_paced(
    stream: &mut TcpStream,
    head: &[u8],
    body: &[u8],
    bytes_per_second: f64,
) -> std::io::Result<()> {
    const STEP_BYTES: usize = 64 * 1024;
    stream.write_all(head)?;
    let started = std::time::Instant::now();
    for (step, part) in body.chunks(STEP_BYTES).enumerate() {
        let due = Duration::from_secs_f64((step * STEP_BYTES) as f64 / bytes_per_second);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        stream.write_all(part)?;
    }
    Ok(())
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) =
        response.parse(bytes).context("the answer is not HTTP")?
    else {
        return Ok(None);
    };
    let mut head = Head {
        status: response.code.unwrap_or(0),
        length: 0,
        end,
        filled: bytes.len(),
        closes: false,
    };
    let mut length = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(header.value)?.parse().ok();
        } else if header.name.eq_ignore_ascii_case("connection") {
            head.closes = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    head.length = match length {
        Some(length) => length,
        None if head.status == 204 || head.status == 201 => 0,
        None => bail!("an answer {} without Content-Length", head.status),
    };
    Ok(Some(head))
}
