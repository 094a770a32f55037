//! Real Nx against the real executable: the promise of the README, kept or not.
//!
//! Everything that happens is in `scripts/e2e-nx.sh`, which people run by hand too, and which builds the
//! release binary; this test shows all it printed when it fails. It never skips: a machine without
//! Node.js cannot say that cachesrv works with Nx.

use std::path::Path;
use std::process::{Command, Stdio};

/// What the script needs and a machine with Rust may lack.
const TOOLS: [&str; 6] = ["bash", "node", "npm", "git", "openssl", "unshare"];

#[test]
fn real_nx_stores_and_restores_a_workspace() {
    for tool in TOOLS {
        assert!(
            is_on_path(tool),
            "this test runs real Nx and needs `{tool}` on the PATH: install it and run again"
        );
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/e2e-nx.sh");
    let output = Command::new("bash")
        .arg(&script)
        .stdin(Stdio::null())
        .output()
        .expect("bash starts");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{} ended with {}; what it printed is above",
        script.display(),
        output.status
    );
}

fn is_on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}
