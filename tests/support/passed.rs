//! The test plays systemd: it holds the listening socket and passes it to one server after the other.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};

use super::dir::BINARY;
use super::raw::Raw;
use super::{Dir, Server};

/// Nobody can listen here, so a server that does not take the socket it was given does not start.
pub const UNUSABLE: &str = "203.0.113.1:80";

/// The variables as systemd sets them; only the process itself can know its number.
pub const FOR_US: &str = "LISTEN_PID=$$";

/// The server, started with `sockets` from descriptor 3 on and these variables.
pub fn command(dir: &Dir, sockets: Vec<OwnedFd>, variables: &str, listen: &str) -> Command {
    let line = format!("{variables} exec \"$0\" serve --listen {listen}");
    let mut command = dir.command("sh");
    command.args(["-c", &line, BINARY]);
    let mappings = sockets.into_iter().zip(3..);
    let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping {
        parent_fd,
        child_fd,
    });
    command
        .fd_mappings(mappings.collect())
        .expect("each has its own number");
    command
}

pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

pub fn shared(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().expect("a descriptor").into()
}

/// A server on the socket.
pub fn start(dir: &Dir, listener: &TcpListener) -> Server {
    let variables = format!("{FOR_US} LISTEN_FDS=1");
    let mut command = command(dir, vec![shared(listener)], &variables, UNUSABLE);
    let server = Server::start_command(&mut command);
    assert_eq!(server.address(), listener.local_addr().expect("bound"));
    server
}

/// Whether the server has left an idle connection open. A reset is an error.
pub fn is_open(raw: &Raw) -> io::Result<bool> {
    let socket = raw.socket();
    socket.set_nonblocking(true)?;
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false)?;
    match peeked {
        Ok(0) => Ok(false),
        Ok(_) => panic!("an answer to no request"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// How many connections wait in the queue of the socket.
pub fn queued(listener: &TcpListener) -> usize {
    let port = listener.local_addr().expect("bound").port();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of the kernel");
    let here = format!("0100007F:{port:04X}");
    let lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    // State 0A listens, and its receive queue counts connections.
    let mut own =
        lines.filter(|line| line.get(1) == Some(&&here[..]) && line.get(3) == Some(&"0A"));
    let queues = own.next().expect("the listening socket")[4];
    let (_, received) = queues.split_once(':').expect("two queues");
    usize::from_str_radix(received, 16).expect("a number")
}
