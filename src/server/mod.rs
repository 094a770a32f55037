//! Sockets and threads under the application: accept, the state machine of a connection, deadlines,
//! shutdown. It sees [`crate::http`] and a [`Handler`](crate::http::Handler), and prints nothing.
//!
//! Reading order: [`bind`] and `accept` bring connections in; `registry` counts them, knows which are
//! idle, and bounds them; `connection` runs one, on its own thread: read a head, handle, finish, keep
//! or close; `exchange` is what the handler holds meanwhile; `linger` sees a refusal off; `shutdown`
//! ends it all. `stream` and `pace` are the deadlines under every read and write; `tls` is the other stream,
//! and `rehearsal` one without a socket, for tests.
//!
//! Invariants: a thread never waits without a deadline; a connection with a request under way is never
//! closed by another thread before `shutdown_grace` is over; the next head is read only after the last
//! response was written, so what a client can make the server hold is one buffer.

mod accept;
mod buffer;
mod connection;
mod exchange;
mod limits;
mod linger;
mod listener;
mod pace;
mod registry;
mod rehearsal;
mod shutdown;
mod stream;
mod throttle;
mod tls;

pub use limits::Limits;
pub use listener::{BindError, bind};
pub use rehearsal::{Transport, rehearse};
pub use shutdown::{Drained, Server};
pub use tls::{Certificate, CertificateError, Facts, PemKind, Tls};

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::http::{Handler, ServerEvent};

/// What all connections share.
struct Context {
    handler: Arc<dyn Handler>,
    limits: Limits,
    registry: Arc<registry::Registry>,
    /// What is spoken here, if it is TLS.
    tls: Option<Tls>,
    handshakes_failed: throttle::Throttle,
}

impl Context {
    /// Tells the application. Its panic must not end the thread that accepts.
    fn report(&self, event: &ServerEvent<'_>) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.handler.event(event)));
    }
}
