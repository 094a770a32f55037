//! The listening socket that systemd passes (`LISTEN_FDS`). It stays open in systemd while the server
//! restarts, so clients wait in its queue and none is refused.
//!
//! The socket is shared: it may be closed here, and never shut down.

use std::net::TcpListener;

use listenfd::ListenFd;
use socket2::SockRef;

use super::Failure;

/// The socket that was passed to this process, if any. Changes the environment, so it has to be called
/// before there are other threads.
pub(super) fn socket() -> Result<Option<TcpListener>, Failure> {
    let mut passed = ListenFd::from_env();
    match passed.len() {
        0 => Ok(None),
        1 => listening(&mut passed).map(Some),
        count => Err(Failure::new(format!(
            "systemd passed {count} sockets (LISTEN_FDS), and the server takes one"
        ))),
    }
}

/// The only socket that was passed. `listenfd` checks that it is TCP, but not that it listens.
fn listening(passed: &mut ListenFd) -> Result<TcpListener, Failure> {
    let socket = passed.take_tcp_listener(0).ok().flatten();
    socket
        .filter(|socket| SockRef::from(socket).is_listener().unwrap_or(false))
        .ok_or_else(|| {
            Failure::new("what systemd passed (LISTEN_FDS) is not a listening TCP socket")
        })
}
