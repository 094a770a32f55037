//! The thread that accepts connections and starts their threads. It never gives up: whatever fails is
//! reported, at most once a second, and tried again.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::Connection;
use super::listener::BACKLOG;
use super::registry::{Patience, Slot};
use super::stream::Wire;
use super::throttle::Throttle;
use super::{Context, tls};
use crate::http::ServerEvent;

/// The stack of the thread of a connection. Argon2, SQLite (migrations, windows, triggers) and a panic
/// with its backtrace need 64 to 96 KiB in an unoptimised build, measured by trying.
const STACK_BYTES: usize = 256 * 1024;
/// The pause after a failure, e.g. while there are no file descriptors left.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Accepts until the server drains.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    /// Becomes readable when the server drains. The listener itself may be shared with systemd.
    pub(super) wake: UnixStream,
    pub(super) context: Arc<Context>,
    pub(super) reports: Reports,
}

impl Acceptor {
    /// Runs until the server drains. Whoever is in the queue by then is still taken in: closing the
    /// listener would reset him.
    pub(super) fn run(mut self) {
        while !self.context.registry.is_draining() {
            if self.context.registry.is_full() {
                self.await_room();
                continue;
            }
            match self.listener.accept() {
                Ok((socket, peer)) => self.start(socket, peer.ip().to_canonical()),
                Err(error) => self.recover(&error),
            }
        }
        self.accept_the_queue();
    }

    /// Takes in who has been waiting, and not whoever comes meanwhile.
    fn accept_the_queue(&mut self) {
        for _ in 0..BACKLOG {
            if self.context.registry.is_full() {
                return;
            }
            let Ok((socket, peer)) = self.listener.accept() else {
                return;
            };
            self.start(socket, peer.ip().to_canonical());
        }
    }

    fn await_room(&mut self) {
        let connections_max = self.context.limits.connections_max;
        if self.reports.full.due().is_some() {
            self.context
                .handler
                .event(&ServerEvent::Full { connections_max });
        }
        self.context.registry.await_room(self.patience());
    }

    fn patience(&self) -> Patience {
        let limits = &self.context.limits;
        Patience {
            known: limits.idle_under_pressure,
            stranger: limits.idle_under_pressure_stranger,
        }
    }

    fn recover(&mut self, error: &io::Error) {
        match error.kind() {
            ErrorKind::WouldBlock => self.await_client(),
            ErrorKind::Interrupted => {}
            _ => {
                if let Some(suppressed) = self.reports.accept.due() {
                    let event = ServerEvent::AcceptFailed { error, suppressed };
                    self.context.report(&event);
                }
                // Without descriptors, whoever has been idle for long is the one to go.
                self.context.registry.close_idle(self.patience());
                self.pause();
            }
        }
    }

    /// Waits for a client, or for the end.
    fn await_client(&self) {
        let mut sources = [
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        // A failure here is found by the next accept.
        let _ = poll(&mut sources, None);
    }

    /// Waits a little, or for the end.
    fn pause(&self) {
        let timeout = Timespec::try_from(BACK_OFF).ok();
        let mut source = [PollFd::new(&self.wake, PollFlags::IN)];
        let _ = poll(&mut source, timeout.as_ref());
    }

    /// Starts the thread of a connection. Where none can be started, the client waits until one can.
    fn start(&mut self, socket: TcpStream, peer: IpAddr) {
        // Fails only where the client is gone already, which its thread will see.
        let _ = socket.set_nonblocking(false);
        let _ = socket.set_nodelay(true);
        let socket = Arc::new(socket);
        while let Err(error) = self.spawn(&socket, peer) {
            if let Some(suppressed) = self.reports.spawn.due() {
                let error = &error;
                let event = ServerEvent::SpawnFailed { error, suppressed };
                self.context.report(&event);
            }
            if self.context.registry.is_draining() {
                return;
            }
            self.pause();
        }
    }

    fn spawn(&self, socket: &Arc<TcpStream>, peer: IpAddr) -> io::Result<()> {
        let slot = self.context.registry.admit(Some(Arc::clone(socket)));
        let (socket, context) = (Arc::clone(socket), Arc::clone(&self.context));
        thread_of(slot.id())
            .spawn(move || serve(socket, peer, context, slot))
            .map(drop)
    }
}

/// A thread for the connection of this number.
pub(super) fn thread_of(id: u64) -> thread::Builder {
    let name = format!("conn-{id}");
    thread::Builder::new().name(name).stack_size(STACK_BYTES)
}

/// The whole life of a connection.
fn serve(socket: Arc<TcpStream>, peer: IpAddr, context: Arc<Context>, slot: Slot) {
    match &context.tls {
        None => Connection::new(Wire::new(socket), peer, context, slot).run(),
        Some(tls) => tls::serve(socket, peer, &context, slot, tls),
    }
}

/// When each kind of failure was last reported.
#[derive(Default)]
pub(super) struct Reports {
    accept: Throttle,
    spawn: Throttle,
    full: Throttle,
}
