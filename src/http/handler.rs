//! The seam between the connection below and the application above.

use std::io;
use std::net::IpAddr;

use super::{Request, ResponseHead, Status};

/// What the application does with requests. One call for each request; many run at once, each on the
/// thread of its connection.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request through `exchange`.
    ///
    /// A handler that returns `Ok` has written one whole response. An error means that the connection
    /// is past saving (the client is gone, or the response was cut short on purpose): it is closed at
    /// once, so that a body that failed midway never looks whole.
    fn handle(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut>;

    /// Called when `handle` panicked before a response was begun, to say the least harmful thing. The
    /// connection closes after it.
    fn panicked(&self, request: &Request<'_>, exchange: &mut dyn Exchange) -> Result<(), Cut>;

    /// Told of a request that never reached `handle` because it broke the protocol or a limit and was
    /// answered with `status` by the layer below; for the access log.
    fn rejected(&self, peer: IpAddr, status: Status, reason: &str);

    /// Told of what happens to the server itself, for the log and the metrics.
    fn event(&self, event: &ServerEvent<'_>);
}

/// What happens to the server outside of any one request.
#[derive(Debug)]
pub enum ServerEvent<'e> {
    /// No connection could be accepted; said at most once a second.
    AcceptFailed {
        /// The reason, e.g. too many open files.
        error: &'e io::Error,
        /// How many failures were not reported since the last report.
        suppressed: u64,
    },
    /// No thread could be started for an accepted connection, which waits; at most once a second.
    SpawnFailed {
        /// The reason.
        error: &'e io::Error,
        /// How many failures were not reported since the last report.
        suppressed: u64,
    },
    /// All connections are taken: new clients wait in the kernel. Said at most once a second.
    Full {
        /// The limit that is reached.
        connections_max: usize,
    },
    /// A TLS hello arrived on a plain port and was hung up on: somebody configured `https://`.
    TlsOnPlainPort {
        /// Who called.
        peer: IpAddr,
    },
    /// A plain request arrived on a TLS port and was refused: somebody configured `http://`.
    PlainOnTlsPort {
        /// Who called.
        peer: IpAddr,
    },
    /// A TLS handshake was not completed; said at most once a second.
    HandshakeFailed {
        /// Who called.
        peer: IpAddr,
        /// What went wrong, as a sentence.
        reason: &'e str,
        /// How many failures were not reported since the last report.
        suppressed: u64,
    },
    /// A thread of a connection panicked; the process goes on.
    Panicked {
        /// The client that was being served.
        peer: IpAddr,
        /// The message of the panic.
        message: &'e str,
    },
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
    /// not wait for `100 Continue`: then there is nothing to discard, and the refusal closes). A longer
    /// body stays unread; the refusal that follows closes, and is given time to arrive.
    fn discard_body(&mut self, limit_bytes: u64) -> Result<(), Cut>;

    /// Says that the client is known: its token was verified. A body that its refusal leaves unread is
    /// then discarded for long enough to take all of it, while a stranger gets half a minute.
    fn trust_client(&mut self);

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
    /// The handler gave up after it had begun the response, or wrote another length than it announced.
    #[error("the response was cut short")]
    Aborted,
}
