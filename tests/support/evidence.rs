//! What must hold no secret: each file of a test's directory, each server's log, each output of a command.
//!
//! A [`Dir`](super::Dir) gathers it and looks through it when the test is over, so that this holds in every
//! test without a word in it. What `token create` and `token rotate` print on stdout is a secret from then
//! on, for all tests of the process; the one line that printed it is the only place where it may be. Files
//! are private, too. A test that does otherwise on purpose says so ([`Evidence::exempt_secrets`],
//! [`Evidence::exempt_mode`]).
//!
//! The search reads hundreds of megabytes in a debug build, for hundreds of secrets: it looks up each
//! aligned block of [`BLOCK`] bytes in a table of all blocks of all secrets. Any piece of a secret of
//! `2 * BLOCK - 1` characters covers an aligned block wherever it stands, so half a secret is found, too.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, Weak};

/// A quarter of a secret, in bytes.
pub const BLOCK: usize = 11;

/// What is read of a file at once, in bytes; no block crosses its end.
pub const PIECE: usize = BLOCK << 16;

const ID: usize = 12;
const SECRET: usize = 43;
const CHECK: usize = 6;

/// The secrets that any command of this process has printed.
static ISSUED: LazyLock<Mutex<Secrets>> = LazyLock::new(Mutex::default);

/// The directories of the tests that run.
static OPEN: Mutex<Vec<Weak<Evidence>>> = Mutex::new(Vec::new());

/// Where a secret might be, of one directory.
pub struct Evidence {
    root: PathBuf,
    texts: Mutex<Vec<(String, Text)>>,
    exempt_secrets: Mutex<Vec<PathBuf>>,
    exempt_mode: Mutex<Vec<PathBuf>>,
}

/// A text, or how to get what there is of it by then.
type Text = Box<dyn Fn() -> String + Send>;

/// Secrets by their blocks: the id of the token to which each belongs.
#[derive(Clone, Default)]
struct Secrets(HashMap<[u8; BLOCK], String>);

impl Evidence {
    /// Evidence of what happens in `root` and of all commands that start there.
    pub fn of_dir(root: &Path) -> Arc<Self> {
        let evidence = Arc::new(Self {
            root: root.to_owned(),
            texts: Mutex::default(),
            exempt_secrets: Mutex::default(),
            exempt_mode: Mutex::default(),
        });
        let mut open = OPEN.lock().unwrap();
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&evidence));
        evidence
    }

    /// The evidence of the directory in which a command starts.
    pub fn of_command(command: &Command) -> Option<Arc<Self>> {
        let place = command.get_current_dir()?;
        let open = OPEN.lock().unwrap();
        let mut all = open.iter().filter_map(Weak::upgrade);
        all.find(|evidence| place.starts_with(&evidence.root))
    }

    /// Takes down what a command printed. A token that a command prints for the first time is a secret
    /// from then on; where tokens are made, that one place does not count.
    pub fn output(&self, command: &Command, stdout: &str, stderr: &str) {
        let mut stdout = stdout.to_owned();
        for token in tokens_in(&stdout) {
            let is_new = ISSUED.lock().unwrap().add(&token);
            if is_new && makes_tokens(command) {
                stdout = stdout.replacen(&token, "", 1);
            }
        }
        self.text(&format!("the stdout of {command:?}"), stdout);
        self.text(&format!("the stderr of {command:?}"), stderr.to_owned());
    }

    /// Takes down any other text.
    pub fn text(&self, what: &str, text: String) {
        self.text_by_then(what, move || text.clone());
    }

    /// Takes down a text that still grows.
    pub fn text_by_then(&self, what: &str, text: impl Fn() -> String + Send + 'static) {
        let mut texts = self.texts.lock().unwrap();
        texts.push((what.to_owned(), Box::new(text)));
    }

    /// The test wrote a secret into this file on purpose.
    pub fn exempt_secrets(&self, name: &str) {
        self.exempt_secrets
            .lock()
            .unwrap()
            .push(self.root.join(name));
    }

    /// The test made this file itself, or changed its mode on purpose.
    pub fn exempt_mode(&self, name: &str) {
        self.exempt_mode.lock().unwrap().push(self.root.join(name));
    }

    /// Everything that is wrong.
    pub fn findings(&self) -> Vec<String> {
        let secrets = ISSUED.lock().unwrap().clone();
        let mut findings = self.public_files();
        for (what, text) in self.texts.lock().unwrap().iter() {
            let found = secrets.find_in(text().as_bytes());
            findings.extend(found.map(|id| format!("the secret of {id} is in {what}")));
        }
        let exempt = self.exempt_secrets.lock().unwrap().clone();
        for path in files_below(&self.root) {
            if !exempt.contains(&path) {
                let found = secrets.find_in_file(&path);
                findings
                    .extend(found.map(|id| format!("the secret of {id} is in {}", path.display())));
            }
        }
        findings
    }

    /// The files that are not private.
    pub fn public_files(&self) -> Vec<String> {
        let exempt = self.exempt_mode.lock().unwrap().clone();
        let mut findings = Vec::new();
        for path in files_below(&self.root) {
            // A file may go at any moment as long as a server runs.
            let Ok(metadata) = path.metadata() else {
                continue;
            };
            let mode = metadata.permissions().mode() & 0o7777;
            if mode != 0o600 && !exempt.contains(&path) {
                findings.push(format!("{} has mode {mode:04o}", path.display()));
            }
        }
        findings
    }
}

impl Secrets {
    /// Adds the secret of a token; whether it is new.
    fn add(&mut self, token: &str) -> bool {
        let (rest, id) = (&token[5..], &token[5..5 + ID]);
        let secret = &rest.as_bytes()[ID + 1..ID + 1 + SECRET];
        let mut is_new = false;
        for block in secret.windows(BLOCK) {
            let block = block.try_into().expect("a block");
            is_new |= self.0.insert(block, id.to_owned()).is_none();
        }
        is_new
    }

    /// The id of a token whose secret is in `bytes`.
    fn find_in(&self, bytes: &[u8]) -> Option<&str> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric();
        // The first and the last byte tell nearly always, and this loop is slow in debug builds.
        let mut blocks = bytes.chunks_exact(BLOCK);
        let found = blocks.find_map(|block| {
            let may_be = is_part(block[0]) && is_part(block[BLOCK - 1]);
            may_be.then(|| self.0.get(block)).flatten()
        });
        found.map(String::as_str)
    }

    fn find_in_file(&self, path: &Path) -> Option<&str> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            opened => opened.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        };
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            piece.clear();
            let mut rest = file.by_ref().take(PIECE as u64);
            let count = rest.read_to_end(&mut piece).expect("the file is read");
            let found = self.find_in(&piece);
            if found.is_some() || count == 0 {
                return found;
            }
        }
    }
}

/// Whether `token create` or `token rotate` is among the arguments, or in the line of a shell.
fn makes_tokens(command: &Command) -> bool {
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    let line = words.join(" ");
    line.contains("token create") || line.contains("token rotate")
}

/// The texts in `text` that have the form of a token, in order.
fn tokens_in(text: &str) -> Vec<String> {
    let is_base62 = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let token = |(at, _)| {
        let token = text.get(at..at + 5 + ID + 1 + SECRET + CHECK)?;
        let (id, rest) = token[5..].split_once('_')?;
        (id.len() == ID && is_base62(id) && is_base62(rest)).then(|| token.to_owned())
    };
    text.match_indices("csrv_").filter_map(token).collect()
}

/// All files below a directory; no links, no sockets.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root).expect("the directory is readable") {
        let entry = entry.expect("an entry");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}
