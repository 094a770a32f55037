//! A whole connection without a socket and without time: for property tests and fuzzers, which want
//! the real loop, thousands of times each second, and every possible split of the bytes into reads.
//!
//! Nothing that serves uses it.

use std::net::{IpAddr, Ipv4Addr};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Connection;
use super::pace::Pace;
use super::registry::Registry;
use super::stream::Stream;
use super::throttle::Throttle;
use super::{Context, Limits};
use crate::http::{Cut, Handler};

/// What the bytes are said to have come through; there is no TLS in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As if from a socket. Pieces that are empty do not arrive.
    Plain,
    /// As if out of records of TLS: of an empty one nothing can be read, though something arrived.
    Tls,
}

/// Runs one connection on the thread of the caller: the client sends `pieces`, each of which is read by
/// calls of its own, and then no more. Returns what was written to it.
pub fn rehearse(
    transport: Transport,
    handler: Arc<dyn Handler>,
    limits: Limits,
    pieces: &[&[u8]],
) -> Vec<u8> {
    match transport {
        Transport::Plain => run::<true>(handler, limits, pieces),
        Transport::Tls => run::<false>(handler, limits, pieces),
    }
}

fn run<const IS_PLAIN: bool>(
    handler: Arc<dyn Handler>,
    limits: Limits,
    pieces: &[&[u8]],
) -> Vec<u8> {
    let registry = Arc::new(Registry::new(limits.connections_max));
    let slot = registry.admit(None);
    let context = Arc::new(Context {
        handler,
        limits,
        registry,
        tls: None,
        handshakes_failed: Throttle::default(),
    });
    let mut written = Vec::new();
    let memory = Memory::<IS_PLAIN> {
        piece: None,
        later: pieces.iter(),
        written: &mut written,
        is_finished: false,
    };
    Connection::new(memory, IpAddr::V4(Ipv4Addr::LOCALHOST), context, slot).run();
    written
}

/// What is still to be read, and what was written.
struct Memory<'m, const IS_PLAIN: bool> {
    /// The rest of the piece that is being read.
    piece: Option<&'m [u8]>,
    later: slice::Iter<'m, &'m [u8]>,
    written: &'m mut Vec<u8>,
    is_finished: bool,
}

impl<const IS_PLAIN: bool> Memory<'_, IS_PLAIN> {
    /// As much of the next piece as fits; `None` is the end.
    fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let piece = self.piece.take().or_else(|| self.later.next().copied())?;
        let count = piece.len().min(buffer.len());
        let (now, rest) = piece.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.piece = (!rest.is_empty()).then_some(rest);
        Some(count)
    }
}

impl<const IS_PLAIN: bool> Stream for Memory<'_, IS_PLAIN> {
    const IS_PLAIN: bool = IS_PLAIN;

    fn read_first(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>, Cut> {
        if IS_PLAIN {
            return self
                .read(buffer, timeout)
                .map(|count| (count > 0).then_some(count));
        }
        Ok(self.take(buffer))
    }

    fn read(&mut self, buffer: &mut [u8], _: Duration) -> Result<usize, Cut> {
        while let Some(count) = self.take(buffer) {
            if count > 0 {
                return Ok(count);
            }
        }
        Ok(0)
    }

    fn read_paced(&mut self, buffer: &mut [u8], pace: &mut Pace) -> Result<usize, Cut> {
        let count = self.read(buffer, Duration::ZERO)?;
        pace.moved(count, Duration::ZERO);
        Ok(count)
    }

    fn write_all(&mut self, head: &[u8], body: &[u8], _: &mut Pace) -> Result<(), Cut> {
        if self.is_finished {
            return Err(Cut::Closed);
        }
        self.written.extend_from_slice(head);
        self.written.extend_from_slice(body);
        Ok(())
    }

    fn finish_writing(&mut self) -> Result<(), Cut> {
        self.is_finished = true;
        Ok(())
    }

    fn say_goodbye(&mut self) {}
}
