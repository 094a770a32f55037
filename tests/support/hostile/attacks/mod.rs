//! The attacks. Each is everything that one hostile process does, and says what the server should not have done.

pub mod bytes;
pub mod crowds;
pub mod renegotiation;
pub mod resets;
pub mod tls;

/// An artifact that fits into no socket.
pub const LARGE: (&str, usize) = ("large", 24 << 20);
