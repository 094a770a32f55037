//! What a connection needs of its transport, and plain TCP as such a transport: every call has a
//! deadline. TLS is another one, over the same [`Wire`] (`tls`).

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pace::Pace;
use crate::http::Cut;

/// A transport with blocking reads and writes that give up in time.
pub(super) trait Stream: Send {
    /// A TLS hello that comes out of this is somebody's mistake.
    const IS_PLAIN: bool;

    /// Waits, between requests, for the first bytes of the next one. `None` is the end; 0 means that
    /// something has arrived of which nothing can be read yet.
    fn read_first(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>, Cut>;
    /// Reads some bytes within `timeout`; 0 is the end.
    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<usize, Cut>;
    /// Reads some bytes as fast as `pace` demands; 0 is the end.
    fn read_paced(&mut self, buffer: &mut [u8], pace: &mut Pace) -> Result<usize, Cut>;
    /// Writes `head` and `body`, in one call where the socket takes them.
    fn write_all(&mut self, head: &[u8], body: &[u8], pace: &mut Pace) -> Result<(), Cut>;
    /// Says that nothing more will be written, and goes on reading.
    fn finish_writing(&mut self) -> Result<(), Cut>;
    /// Says that the connection ends in good order, where the transport has a word for it. Never waits.
    fn say_goodbye(&mut self);
}

/// The socket. Shared with the registry, which may shut it down from another thread. Its timeouts are set
/// only when they change: a keep-alive GET costs one read and one write.
pub(super) struct Wire {
    socket: Arc<TcpStream>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

impl Wire {
    pub(super) fn new(socket: Arc<TcpStream>) -> Self {
        Self {
            socket,
            read_timeout: None,
            write_timeout: None,
        }
    }

    /// The first byte that arrives within `timeout`, which stays there to be read; `None` is the end.
    pub(super) fn peek(&mut self, timeout: Duration) -> Result<Option<u8>, Cut> {
        self.limit_reads(timeout)?;
        let mut byte = [0];
        let count = retried(|| self.socket.peek(&mut byte))?;
        Ok((count > 0).then_some(byte[0]))
    }

    /// Writes some bytes of `parts`, in order, as fast as `pace` demands.
    pub(super) fn write_paced(
        &mut self,
        parts: &[IoSlice<'_>],
        pace: &mut Pace,
    ) -> Result<usize, Cut> {
        let allowance = pace.allowance().ok_or(Cut::TimedOut)?;
        let began = Instant::now();
        let count = self.write(parts, allowance)?;
        pace.moved(count, began.elapsed());
        Ok(count)
    }

    /// Writes some bytes of `parts`, in order, within `timeout`.
    pub(super) fn write(&mut self, parts: &[IoSlice<'_>], timeout: Duration) -> Result<usize, Cut> {
        let timeout = timeout.max(TIMEOUT_MIN);
        if self.write_timeout != Some(timeout) {
            self.socket
                .set_write_timeout(Some(timeout))
                .map_err(|error| cut(&error))?;
            self.write_timeout = Some(timeout);
        }
        match retried(|| self.socket.as_ref().write_vectored(parts))? {
            0 => Err(Cut::Closed),
            count => Ok(count),
        }
    }

    fn limit_reads(&mut self, timeout: Duration) -> Result<(), Cut> {
        let timeout = timeout.max(TIMEOUT_MIN);
        if self.read_timeout != Some(timeout) {
            self.socket
                .set_read_timeout(Some(timeout))
                .map_err(|error| cut(&error))?;
            self.read_timeout = Some(timeout);
        }
        Ok(())
    }
}

impl Stream for Wire {
    const IS_PLAIN: bool = true;

    fn read_first(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>, Cut> {
        let count = self.read(buffer, timeout)?;
        Ok((count > 0).then_some(count))
    }

    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<usize, Cut> {
        self.limit_reads(timeout)?;
        retried(|| self.socket.as_ref().read(buffer))
    }

    fn read_paced(&mut self, buffer: &mut [u8], pace: &mut Pace) -> Result<usize, Cut> {
        let allowance = pace.allowance().ok_or(Cut::TimedOut)?;
        let began = Instant::now();
        let count = self.read(buffer, allowance)?;
        pace.moved(count, began.elapsed());
        Ok(count)
    }

    fn write_all(&mut self, head: &[u8], body: &[u8], pace: &mut Pace) -> Result<(), Cut> {
        let mut parts = [IoSlice::new(head), IoSlice::new(body)];
        let mut parts = &mut parts[..];
        // Drops the parts that are empty.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let count = self.write_paced(parts, pace)?;
            IoSlice::advance_slices(&mut parts, count);
        }
        Ok(())
    }

    fn finish_writing(&mut self) -> Result<(), Cut> {
        self.socket
            .shutdown(Shutdown::Write)
            .map_err(|error| cut(&error))
    }

    fn say_goodbye(&mut self) {}
}

/// Calls again after a signal.
fn retried(mut call: impl FnMut() -> io::Result<usize>) -> Result<usize, Cut> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result.map_err(|error| cut(&error)),
        }
    }
}

/// A timeout of zero would mean none at all.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// A socket says `WouldBlock` when its timeout passed.
pub(super) fn cut(error: &io::Error) -> Cut {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Cut::TimedOut,
        _ => Cut::Closed,
    }
}
