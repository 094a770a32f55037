//! HTTP/1.1 on bytes: request heads, framing rules, response heads. No sockets, no application.
//!
//! `server` drives these types over a stream; `api` implements [`Handler`]. The two meet only here.
//!
//! The way of a request: [`HeadScanner`] finds the end of the head and refuses bytes that no head may
//! hold, [`Head::parse`] takes the head apart (httparse) and decides the framing (RFC 9112), and what
//! breaks a rule is a [`Reject`] with its status. The way back: [`encode`].
//!
//! Invariant: what a head means depends on its bytes only, never on how they were split into reads.

mod body;
mod date;
pub mod encode;
mod fields;
mod handler;
mod head;
mod meaning;
mod message;
mod reject;
mod scan;

pub use body::{Incoming, Outgoing};
pub use date::DateCache;
pub use handler::{Cut, Exchange, Handler, ServerEvent};
pub use head::Head;
pub use meaning::Meaning;
pub use message::{Authorization, Method, Request, ResponseHead, Status};
pub use reject::Reject;
pub use scan::{HEAD_BYTES_MAX, HeadScanner, HeadSpan};

/// The first byte of a TLS connection (a handshake record): `https://` on a plain port.
pub const TLS_HANDSHAKE_BYTE: u8 = 0x16;
