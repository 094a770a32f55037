//! HTTP/1.1 on bytes: request heads, framing rules, response heads. No sockets, no application.
//!
//! `server` drives these types over a stream; `api` implements [`Handler`]. The two meet only here.

use std::net::IpAddr;

/// What the application does with requests. One call for each request; many run at once, each on the
/// thread of its connection.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request through `exchange`.
    ///
    /// A handler that returns `Ok` has written one whole response. An error means that the connection
    /// is past saving (the client is gone, or the response was cut short on purpose): it is closed at
    /// once, so that a body that failed midway never looks whole.
    fn handle(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut>;

    /// Called when `handle` panicked before a response was begun, to say the least harmful thing.
    fn panicked(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut>;

    /// Told of a request that never reached `handle` because it broke the protocol or a limit and was
    /// answered with `status` by the layer below; for the access log.
    fn rejected(&self, peer: IpAddr, status: Status, reason: &str);
}

/// The body of one request, and the way to its response.
///
/// A response that is begun before the whole body was read closes the connection after it: the layer
/// below says `Connection: close`, stops writing, and discards what the client still sends, within
/// bounds, so that the response arrives. Call [`Exchange::discard_body`] first to keep the connection.
pub trait Exchange {
    /// Bytes of the body that were not read yet.
    fn body_remaining(&self) -> u64;

    /// Reads the next bytes of the body into `buffer`; 0 means that the body is complete. Sends
    /// `100 Continue` first where the client waits for it.
    fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize, Cut>;

    /// Reads and forgets the rest of the body if it is at most `limit_bytes` long (and the client does
    /// not wait for `100 Continue`: then there is nothing to discard, and the refusal closes).
    fn discard_body(&mut self, limit_bytes: u64) -> Result<(), Cut>;

    /// Begins the response. The head leaves together with the first bytes of the body. Must be called
    /// once, before `write`, and followed by exactly `content_length` bytes (none for HEAD, where
    /// `write` is ignored).
    fn begin(&mut self, response: &ResponseHead<'_>) -> Result<(), Cut>;

    /// Writes the next bytes of the response body.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Cut>;
}

/// The connection cannot go on; why, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// The client closed or reset the connection before the message was complete.
    #[error("the client closed the connection")]
    Closed,
    /// A deadline passed: no byte for too long, or too slow on average.
    #[error("the client was too slow")]
    TimedOut,
    /// The handler gave up after it had begun the response.
    #[error("the response was cut short")]
    Aborted,
}

/// The head of a request.
#[derive(Debug)]
pub struct Request<'b> {
    /// The method.
    pub method: Method,
    /// The path as sent, without the query; starts with `/`.
    pub path: &'b str,
    /// The value of `Authorization`, where the request has exactly one.
    pub authorization: Option<Authorization<'b>>,
    /// The length of the body; `None` where the request announced none.
    pub content_length: Option<u64>,
    /// The value of `X-Forwarded-For`, unparsed.
    pub forwarded_for: Option<&'b str>,
    /// The address of the peer of the socket.
    pub peer: IpAddr,
}

/// The value of `Authorization`: a credential, so it cannot be printed by accident.
#[derive(Clone, Copy)]
pub struct Authorization<'b>(&'b str);

impl<'b> Authorization<'b> {
    /// Wraps the value of the header.
    pub fn new(value: &'b str) -> Self {
        Self(value)
    }

    /// The value itself; for the one place that takes it apart.
    pub fn expose(self) -> &'b str {
        self.0
    }
}

impl std::fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(redacted)")
    }
}

/// The methods that this server tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `PUT`
    Put,
    /// Any other well-formed method.
    Other,
}

/// The head of a response. `Date`, `Content-Length` and `Connection` are added below.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'r> {
    /// The status.
    pub status: Status,
    /// `Content-Type`, sent exactly as given: Nx compares it to the letter.
    pub content_type: &'static str,
    /// The exact length of the body in bytes.
    pub content_length: u64,
    /// Further headers, names as they go on the wire.
    pub headers: &'r [(&'static str, &'r str)],
}

/// The statuses that this server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16);
