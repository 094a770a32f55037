//! What a connection needs of its transport, and deadlines on top of it. Plain TCP here; TLS will be
//! another [`Stream`].

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pace::Pace;
use crate::http::Cut;

/// A transport with blocking reads and writes that give up after a timeout.
pub(super) trait Stream: Send {
    /// Reads some bytes; 0 is the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes some bytes of `parts`, in order.
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// From now on a read fails after `timeout` without a byte.
    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()>;
    /// From now on a write fails after `timeout` without progress.
    fn set_write_timeout(&mut self, timeout: Duration) -> io::Result<()>;
    /// Says that nothing more will be written, and goes on reading.
    fn finish_writing(&mut self) -> io::Result<()>;
}

/// Shared with the registry, which may shut the socket down from another thread.
impl Stream for Arc<TcpStream> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.as_ref().read(buffer)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.as_ref().write_vectored(parts)
    }

    fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.as_ref().set_read_timeout(Some(timeout))
    }

    fn set_write_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.as_ref().set_write_timeout(Some(timeout))
    }

    fn finish_writing(&mut self) -> io::Result<()> {
        self.as_ref().shutdown(Shutdown::Write)
    }
}

/// A stream whose every call has a deadline. The timeouts of the socket are set only when they change:
/// a keep-alive GET costs one read and one write.
pub(super) struct Timed<S> {
    stream: S,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

impl<S: Stream> Timed<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            read_timeout: None,
            write_timeout: None,
        }
    }

    /// Reads some bytes within `timeout`; 0 is the end.
    pub(super) fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> Result<usize, Cut> {
        let timeout = timeout.max(TIMEOUT_MIN);
        if self.read_timeout != Some(timeout) {
            self.stream.set_read_timeout(timeout).map_err(cut)?;
            self.read_timeout = Some(timeout);
        }
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map_err(cut),
            }
        }
    }

    /// Reads some bytes as fast as `pace` demands; 0 is the end.
    pub(super) fn read_paced(&mut self, buffer: &mut [u8], pace: &mut Pace) -> Result<usize, Cut> {
        let allowance = pace.allowance().ok_or(Cut::TimedOut)?;
        let began = Instant::now();
        let count = self.read(buffer, allowance)?;
        pace.moved(count, began.elapsed());
        Ok(count)
    }

    /// Writes `head` and `body`, in one call where the socket takes them.
    pub(super) fn write_all(
        &mut self,
        head: &[u8],
        body: &[u8],
        pace: &mut Pace,
    ) -> Result<(), Cut> {
        let mut parts = [IoSlice::new(head), IoSlice::new(body)];
        let mut parts = &mut parts[..];
        // Drops the parts that are empty.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let allowance = pace.allowance().ok_or(Cut::TimedOut)?;
            let began = Instant::now();
            let count = self.write(parts, allowance)?;
            pace.moved(count, began.elapsed());
            IoSlice::advance_slices(&mut parts, count);
        }
        Ok(())
    }

    fn write(&mut self, parts: &[IoSlice<'_>], timeout: Duration) -> Result<usize, Cut> {
        let timeout = timeout.max(TIMEOUT_MIN);
        if self.write_timeout != Some(timeout) {
            self.stream.set_write_timeout(timeout).map_err(cut)?;
            self.write_timeout = Some(timeout);
        }
        loop {
            match self.stream.write_vectored(parts) {
                Ok(0) => return Err(Cut::Closed),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map_err(cut),
            }
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn finish_writing(&mut self) -> Result<(), Cut> {
        self.stream.finish_writing().map_err(cut)
    }
}

/// A timeout of zero would mean none at all.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// A socket says `WouldBlock` when its timeout passed.
#[allow(clippy::needless_pass_by_value)] // The shape of map_err.
fn cut(error: io::Error) -> Cut {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Cut::TimedOut,
        _ => Cut::Closed,
    }
}
