//! Faults below the real binary: a library of C in `tests/preload/` that stands between it and libc
//! (`LD_PRELOAD`), and a page of numbers that the test and the library share.
//!
//! So the program under test is the one that users run, and SQLite the one inside it: nothing is mocked, nor is
//! there a switch for tests in what is shipped.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Only one thread of this process compiles at a time.
static COMPILER: Mutex<()> = Mutex::new(());

/// Numbers in the shared page, 64 bits each.
const WORDS: u64 = 512;

/// The library made of `tests/preload/{name}.c`, compiled once for each text of it.
pub fn library(name: &str) -> PathBuf {
    let source = format!("{}/tests/preload/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read(&source).expect("the source of the library");
    let id = blake3::hash(&text).to_hex();
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.so", &id[..16]));
    let _turn = COMPILER.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.exists() {
        // Other test processes may make it at the same time: each its own, and a rename at the end.
        let own = made.with_extension(format!("{}.tmp", std::process::id()));
        let done = Command::new("cc")
            .args([
                "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o",
            ])
            .args([own.as_path(), Path::new(&source)])
            .status();
        assert!(
            done.expect("cc starts").success(),
            "{source} does not compile"
        );
        fs::rename(&own, &made).expect("the library gets its name");
    }
    made
}

/// The page: the test writes and reads numbers by index, the library maps the file. Both see the page cache, so what
/// one has written the other reads next.
pub struct Control {
    file: File,
    path: PathBuf,
}

impl Control {
    /// A new page of zeros at `path`.
    pub fn new(path: PathBuf) -> Self {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let file = options.open(&path).expect("a new file");
        file.set_len(WORDS * 8).expect("a page");
        Self { file, path }
    }

    /// Makes `command` load the library, with the path of this page in `CACHESRV_PRELOAD_CONTROL`.
    pub fn load(&self, name: &str, command: &mut Command) {
        command
            .env("LD_PRELOAD", library(name))
            .env("CACHESRV_PRELOAD_CONTROL", &self.path);
    }

    /// The number at `index`.
    pub fn get(&self, index: u64) -> u64 {
        assert!(index < WORDS, "the page has {WORDS} numbers");
        let mut bytes = [0; 8];
        self.file
            .read_exact_at(&mut bytes, index * 8)
            .expect("the page");
        u64::from_le_bytes(bytes)
    }

    /// Sets the number at `index`.
    pub fn set(&self, index: u64, number: u64) {
        assert!(index < WORDS, "the page has {WORDS} numbers");
        self.file
            .write_all_at(&number.to_le_bytes(), index * 8)
            .expect("the page");
    }
}
