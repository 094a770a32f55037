//! The stream of records after the handshake, as a connection reads and writes it.
//!
//! Deadlines are those of the wire: a byte that arrived counts, whether or not it completes a record, and
//! what has to be read within a time has to be decrypted within it.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};

use super::super::pace::Pace;
use super::super::stream::{Stream, Wire, cut};
use crate::http::Cut;

/// What is encrypted ahead of the socket, and with it what a connection that writes can hold.
const AHEAD_BYTES: usize = 64 * 1024;
/// How long a last word may take to leave that nobody waits for.
const LAST_WORD_TIMEOUT: Duration = Duration::from_millis(1);

/// A socket with TLS on it.
pub(super) struct Records {
    wire: Wire,
    session: ServerConnection,
    /// For answers of the protocol itself, e.g. to a change of keys, and for the last word.
    write_timeout: Duration,
}

/// Why the stream cannot go on.
#[derive(Debug)]
pub(super) enum Broken {
    /// The socket, or a deadline.
    Wire(Cut),
    /// What came is not what the protocol allows.
    Protocol(rustls::Error),
}

impl From<Cut> for Broken {
    fn from(cut: Cut) -> Self {
        Self::Wire(cut)
    }
}

impl From<Broken> for Cut {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Wire(cut) => cut,
            Broken::Protocol(_) => Self::Closed,
        }
    }
}

impl Records {
    /// Agrees with the client on keys, by `deadline`.
    pub(super) fn agree(
        wire: Wire,
        config: Arc<ServerConfig>,
        deadline: Instant,
        write_timeout: Duration,
    ) -> Result<Self, Broken> {
        let mut session = ServerConnection::new(config).map_err(Broken::Protocol)?;
        session.set_buffer_limit(Some(AHEAD_BYTES));
        let mut records = Self {
            wire,
            session,
            write_timeout,
        };
        while records.session.is_handshaking() {
            records.flush_by(deadline)?;
            if records.take_in(|wire, bytes| wire.read(bytes, left(deadline)?))? == 0 {
                return Err(Cut::Closed.into());
            }
        }
        records.flush_by(deadline)?;
        Ok(records)
    }

    /// Takes in what `read` finds on the wire. How many bytes; 0 is the end.
    fn take_in(
        &mut self,
        mut read: impl FnMut(&mut Wire, &mut [u8]) -> Result<usize, Cut>,
    ) -> Result<usize, Broken> {
        let mut source = Source(|bytes: &mut [u8]| read(&mut self.wire, bytes));
        let read = self.session.read_tls(&mut source);
        let count = read.map_err(|error| cut(&error))?;
        if let Err(error) = self.session.process_new_packets() {
            // The alert that tells the client why.
            let _ = self.flush_by(Instant::now() + LAST_WORD_TIMEOUT);
            return Err(Broken::Protocol(error));
        }
        Ok(count)
    }

    /// What is decrypted already; `None` if that is nothing. A client that goes without saying so has ended
    /// the stream like any other: every message has a length, so that a part never looks whole.
    fn decrypted(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.session.reader().read(buffer) {
            Ok(count) => Some(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(0),
        }
    }

    /// Reads until something is decrypted.
    fn read_by(
        &mut self,
        buffer: &mut [u8],
        mut read: impl FnMut(&mut Wire, &mut [u8]) -> Result<usize, Cut>,
    ) -> Result<usize, Cut> {
        loop {
            if let Some(count) = self.decrypted(buffer) {
                return Ok(count);
            }
            self.take_in(&mut read)?;
            self.answer()?;
        }
    }

    /// Sends what the protocol itself has to answer.
    fn answer(&mut self) -> Result<(), Cut> {
        if self.session.wants_write() {
            self.flush_by(Instant::now() + self.write_timeout)?;
        }
        Ok(())
    }

    /// Sends what is encrypted, by `deadline`.
    fn flush_by(&mut self, deadline: Instant) -> Result<(), Cut> {
        self.flush(|wire, parts| wire.write(parts, left(deadline)?))
    }

    fn flush(
        &mut self,
        mut write: impl FnMut(&mut Wire, &[IoSlice<'_>]) -> Result<usize, Cut>,
    ) -> Result<(), Cut> {
        while self.session.wants_write() {
            let mut sink = Sink(|parts: &[IoSlice<'_>]| write(&mut self.wire, parts));
            let written = self.session.write_tls(&mut sink);
            written.map_err(|error| cut(&error))?;
        }
        Ok(())
    }
}

impl Stream for Records {
    const IS_PLAIN: bool = false;

    /// Bytes that complete no record are a request that has begun: its connection is idle no longer.
    fn read_first(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>, Cut> {
        let mut count = self.decrypted(buffer);
        if count.is_none() {
            self.take_in(|wire, bytes| wire.read(bytes, timeout))?;
            self.answer()?;
            count = self.decrypted(buffer);
        }
        Ok(match count {
            None => Some(0),
            Some(0) => None,
            count => count,
        })
    }

    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<usize, Cut> {
        let deadline = Instant::now() + timeout;
        self.read_by(buffer, |wire, bytes| wire.read(bytes, left(deadline)?))
    }

    fn read_paced(&mut self, buffer: &mut [u8], pace: &mut Pace) -> Result<usize, Cut> {
        self.read_by(buffer, |wire, bytes| wire.read_paced(bytes, pace))
    }

    /// Head and body share records, and what fits into [`AHEAD_BYTES`] leaves in one write.
    fn write_all(&mut self, head: &[u8], body: &[u8], pace: &mut Pace) -> Result<(), Cut> {
        let mut parts = [IoSlice::new(head), IoSlice::new(body)];
        let mut parts = &mut parts[..];
        // Drops the parts that are empty.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let encrypted = self.session.writer().write_vectored(parts);
            match encrypted.map_err(|error| cut(&error))? {
                0 => return Err(Cut::Closed),
                count => IoSlice::advance_slices(&mut parts, count),
            }
            self.flush(|wire, parts| wire.write_paced(parts, pace))?;
        }
        Ok(())
    }

    fn finish_writing(&mut self) -> Result<(), Cut> {
        self.session.send_close_notify();
        self.flush_by(Instant::now() + self.write_timeout)?;
        self.wire.finish_writing()
    }

    fn say_goodbye(&mut self) {
        self.session.send_close_notify();
        let _ = self.flush_by(Instant::now() + LAST_WORD_TIMEOUT);
    }
}

/// The time until `deadline`, if there is any.
fn left(deadline: Instant) -> Result<Duration, Cut> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(Cut::TimedOut)
    } else {
        Ok(left)
    }
}

/// rustls reads from this; [`cut`] takes the error apart again.
struct Source<F>(F);

impl<F: FnMut(&mut [u8]) -> Result<usize, Cut>> Read for Source<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.0)(buffer).map_err(as_io)
    }
}

/// rustls writes to this.
struct Sink<F>(F);

impl<F: FnMut(&[IoSlice<'_>]) -> Result<usize, Cut>> Write for Sink<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (self.0)(parts).map_err(as_io)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn as_io(cut: Cut) -> io::Error {
    match cut {
        Cut::TimedOut => ErrorKind::TimedOut.into(),
        Cut::Closed | Cut::Aborted => ErrorKind::ConnectionAborted.into(),
    }
}
