//! Any bytes as a configuration file: one sentence about what is wrong, or a configuration that is read
//! again from what `config show` prints of it.

use std::cell::RefCell;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use cachesrv::config::{ConfigError, Environment, Flags, Resolution, resolve};

/// Whatever the bytes are.
pub fn check(bytes: &[u8]) {
    FILE.with_borrow_mut(|file| check_with(file, bytes));
}

fn check_with(file: &mut File, bytes: &[u8]) {
    let resolution = match file.resolved(bytes) {
        Ok(resolution) => resolution,
        Err(error) => return check_sentence(file, &error.to_string()),
    };
    assert!(std::str::from_utf8(bytes).is_ok(), "only text is read");
    let _ = (
        resolution.warnings(),
        resolution.config.artifact_max_bytes(),
    );
    resolution.to_json().expect("JSON");
    for printed in [resolution.to_toml(), resolution.to_columns()] {
        let again = file.resolved(printed.as_bytes());
        let again = again.unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(again.config, resolution.config, "{printed}");
    }
}

/// It begins with the place, and is one line.
fn check_sentence(file: &File, text: &str) {
    assert!(
        text.starts_with(&format!("{}:", file.path.display())),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text:?}");
}

thread_local! {
    static FILE: RefCell<File> = RefCell::new(File::new());
}

/// A file without a name, in the temporary directory, that is written again and again.
struct File {
    file: std::fs::File,
    path: PathBuf,
}

impl File {
    fn new() -> Self {
        let name = format!(
            "cachesrv-checks-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let named = std::env::temp_dir().join(name);
        let file = std::fs::File::create_new(&named).expect("a temporary file");
        std::fs::remove_file(&named).expect("it is there");
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Self { file, path }
    }

    fn resolved(&mut self, bytes: &[u8]) -> Result<Resolution, ConfigError> {
        self.file.set_len(0).expect("the file");
        self.file.rewind().expect("the file");
        self.file.write_all(bytes).expect("the file");
        let flags = Flags {
            file: Some(self.path.clone()),
            given: Vec::new(),
        };
        resolve(&flags, &Environment::default())
    }
}
