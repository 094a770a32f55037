//! The bounds of the server, with the reason for each default.

use std::time::Duration;

/// What clients may use up. Every wait of every thread ends by one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once, each with its thread. Above three quarters of it, answers say
    /// `Connection: close`, those to known clients only once these have half; at the limit, new clients wait in
    /// the kernel.
    pub connections_max: usize,
    /// From the start of a TLS connection to the end of its handshake, however the bytes trickle.
    pub handshake_timeout: Duration,
    /// From the first byte of a request head to its last, however the bytes trickle.
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request. Nx closes at 90 s, and a server that
    /// closes first fails builds.
    pub idle_timeout: Duration,
    /// At the limit of connections, those idle for longer than this are closed. Above the 90 s of Nx.
    pub idle_under_pressure: Duration,
    /// The same of a client that has shown no verified token: whoever builds shows one at once.
    pub idle_under_pressure_stranger: Duration,
    /// How long the body of a request may pause.
    pub body_timeout: Duration,
    /// The average rate, in bytes each second, below which a body is given up. Only time spent waiting
    /// for the client counts, and the first `timeout` of it is free. The same for responses.
    pub body_rate_min_bytes: u64,
    /// How long a client may take no byte of a response.
    pub write_timeout: Duration,
    /// How long the body of a refused request is discarded for a client with a verified token. Real
    /// clients send all of it before they read the answer.
    pub linger_timeout: Duration,
    /// The same for everybody else.
    pub linger_timeout_stranger: Duration,
    /// How long requests under way may take once the server shuts down.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(2),
            idle_under_pressure: Duration::from_secs(95),
            idle_under_pressure_stranger: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            body_rate_min_bytes: 1024,
            write_timeout: Duration::from_secs(30),
            linger_timeout: Duration::from_mins(10),
            linger_timeout_stranger: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}
