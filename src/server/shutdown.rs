//! A running server, and its end: nobody is refused who was let in, and nobody can hold it up.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::accept::{Acceptor, Reports};
use super::registry::{Patience, Registry};
use super::throttle::Throttle;
use super::tls::Tls;
use super::{Context, Limits};
use crate::http::Handler;

/// How long an idle connection stays open while the server shuts down: its client may be about to send,
/// and a close that meets a request fails a build. What arrives is answered, with `Connection: close`.
const QUIET: Duration = Duration::from_secs(2);
/// How often connections that have become idle since are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long threads may take to notice that their connection was cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// A server that accepts connections. Dropping it stops accepting and leaves the rest to itself;
/// [`Server::shutdown`] waits.
pub struct Server {
    context: Arc<Context>,
    local_addr: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
    wake: Option<UnixStream>,
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were not done within the grace, and whose connections were closed.
    pub cut: usize,
    /// Every thread of a connection has ended. If not, one is stuck in the application.
    pub is_complete: bool,
}

impl Server {
    /// Serves the clients of `listener` with `handler`, from threads of its own.
    pub fn start(
        listener: TcpListener,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> io::Result<Self> {
        Self::start_with(listener, handler, limits, None)
    }

    /// The same, over TLS where it is given.
    pub fn start_with(
        listener: TcpListener,
        handler: Arc<dyn Handler>,
        limits: Limits,
        tls: Option<Tls>,
    ) -> io::Result<Self> {
        let local_addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (wake, wake_acceptor) = UnixStream::pair()?;
        let context = Arc::new(Context {
            handler,
            registry: Arc::new(Registry::new(limits.connections_max)),
            limits,
            tls,
            handshakes_failed: Throttle::default(),
        });
        let acceptor = Acceptor {
            listener,
            wake: wake_acceptor,
            context: Arc::clone(&context),
            reports: Reports::default(),
        };
        let acceptor = thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || acceptor.run())?;
        Ok(Self {
            context,
            local_addr,
            acceptor: Some(acceptor),
            wake: Some(wake),
        })
    }

    /// The address that clients connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Says how many connections are open, also when the server is gone.
    pub fn connections(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let registry = Arc::clone(&self.context.registry);
        move || registry.count()
    }

    /// Stops accepting, lets what is under way finish within `shutdown_grace`, and cuts the rest.
    /// Returns at the latest one second after the grace.
    pub fn shutdown(mut self) -> Drained {
        let deadline = Instant::now() + self.context.limits.shutdown_grace;
        self.stop_accepting();
        let registry = &self.context.registry;
        let mut is_complete = registry.await_empty(deadline.min(Instant::now() + QUIET));
        while !is_complete && Instant::now() < deadline {
            registry.close_idle(Patience {
                known: QUIET,
                stranger: QUIET,
            });
            is_complete = registry.await_empty(deadline.min(Instant::now() + LOOK_AGAIN));
        }
        if is_complete {
            return Drained {
                cut: 0,
                is_complete,
            };
        }
        let cut = registry.cut_all();
        let is_complete = registry.await_empty(Instant::now() + CUT_TIMEOUT);
        Drained { cut, is_complete }
    }

    fn stop_accepting(&mut self) {
        self.context.registry.drain();
        // The other end of the pair becomes readable.
        drop(self.wake.take());
        if let Some(acceptor) = self.acceptor.take() {
            // An error would be a panic of its own; it has ended all the same.
            let _ = acceptor.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}
