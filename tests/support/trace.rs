//! What programs did to the files of one directory, in order: the log of `tests/preload/trace.c`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::preload::Control;

/// Where programs under test write down what they do.
pub struct Tracer {
    place: TempDir,
    directory: PathBuf,
    control: Control,
}

/// What one call did. Numbers are places in the order of all events of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Bytes, which are at `at` in the log, were written to a file.
    Write { file: u64, offset: u64, bytes: Span },
    /// A file was made as long as this.
    Length { file: u64, length: u64 },
    /// The names in the directory.
    Names { list: Span },
    /// A sync of a file, or of the directory, began; what follows is not part of it.
    SyncBegins { file: u64 },
    /// The one that began with this event is done.
    SyncEnds { began: usize },
}

/// Bytes in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    at: u64,
    pub length: usize,
}

/// All that was written down.
pub struct Trace {
    log: File,
    pub events: Vec<Event>,
}

/// The four numbers of each record: what, the inode, an offset, how many bytes follow.
const HEAD_BYTES: usize = 32;

impl Tracer {
    /// For the files of this directory.
    pub fn new(directory: &Path) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        Self {
            control: Control::new(place.path().join("control")),
            directory: directory.to_owned(),
            place,
        }
    }

    /// Makes `command` write down what it does.
    pub fn follow<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        self.control.load("trace", command);
        command
            .env("CACHESRV_TRACE_DIR", &self.directory)
            .env("CACHESRV_TRACE_LOG", self.place.path().join("log"))
    }

    /// Makes the program that is followed kill itself after so many events.
    pub fn kill_at(&self, events: usize) {
        self.control.set(1, events as u64);
    }

    /// How many events there were until now.
    pub fn now(&self) -> usize {
        self.control.get(0) as usize
    }

    /// What was written down; the programs have ended.
    pub fn finish(&self) -> Trace {
        let path = self.place.path().join("log");
        let trace = Trace::read(&path);
        assert_eq!(trace.events.len(), self.now(), "a record was cut");
        trace
    }
}

impl Trace {
    fn read(path: &Path) -> Self {
        let log = File::open(path).expect("a log");
        let end = log.metadata().expect("a log").len();
        let (mut events, mut at) = (Vec::new(), 0);
        while at < end {
            let mut head = [0; HEAD_BYTES];
            log.read_exact_at(&mut head, at).expect("a record");
            at += HEAD_BYTES as u64;
            let number = |index: usize| {
                let bytes = head[index * 8..][..8].try_into().expect("eight bytes");
                u64::from_le_bytes(bytes)
            };
            let [kind, file, offset, length] = [0, 1, 2, 3].map(number);
            let span = Span {
                at,
                length: length as usize,
            };
            events.push(match kind {
                1 => Event::Write {
                    file,
                    offset,
                    bytes: span,
                },
                2 => Event::Length {
                    file,
                    length: offset,
                },
                3 => Event::Names { list: span },
                4 => Event::SyncBegins { file },
                5 => Event::SyncEnds {
                    began: offset as usize,
                },
                _ => panic!("record {} is of kind {kind}", events.len()),
            });
            at += length;
        }
        Self { log, events }
    }

    /// The bytes of an event.
    pub fn bytes(&self, span: Span) -> Vec<u8> {
        let mut bytes = vec![0; span.length];
        self.log
            .read_exact_at(&mut bytes, span.at)
            .expect("the log");
        bytes
    }

    /// The names of a listing with the inodes behind them.
    pub fn names(&self, list: Span) -> Vec<(String, u64)> {
        let text = String::from_utf8(self.bytes(list)).expect("names are UTF-8");
        let name = |line: &str| {
            let (inode, name) = line.split_once(' ').expect("an inode and a name");
            (name.to_owned(), inode.parse().expect("an inode"))
        };
        text.lines().map(name).collect()
    }
}
