//! `durability.synchronous`: with `full` no upload is acknowledged before the disk has it, with `normal` uploads do
//! not wait for the disk.
//!
//! What a loss of power takes cannot be tried here; what the kernel was asked to do before the answer left can:
//! strace, where it is there and may trace, sees each sync and each answer in their order.

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::dir::{BINARY, run};
use support::{Dir, Server, eventually};

/// Uploads one after the other: each is a commit of its own.
const UPLOADS: usize = 20;

/// Whether this machine lets strace trace.
fn can_trace() -> bool {
    let traced = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .status();
    let can_trace = traced.is_ok_and(|status| status.success());
    if !can_trace {
        eprintln!("strace is not here, or may not trace: nothing was looked at");
    }
    can_trace
}

/// A server whose syncs and writes are written to a file.
fn traced(dir: &Dir, synchronous: &str) -> (Server, PathBuf) {
    dir.evidence().exempt_mode("trace");
    let trace = dir.join("trace");
    let mut strace = dir.command("strace");
    strace
        // -D: the server is our child, and strace its grandchild.
        .args(["-D", "-f", "-qq", "-s", "16"])
        .args([
            "-e",
            "trace=fsync,fdatasync,write,writev,sendto,sendmsg",
            "-o",
        ])
        .args([trace.as_os_str(), BINARY.as_ref()])
        .args(["serve", "--listen", "127.0.0.1:0", "--set"])
        .arg(format!("durability.synchronous={synchronous}"));
    (Server::start_command(&mut strace), trace)
}

/// How many syncs were finished before each answer and after the one before it.
fn syncs_before_answers(trace: &str) -> Vec<usize> {
    let (mut all, mut syncs) = (Vec::new(), 0);
    for line in trace.lines() {
        // One call is one line, or two where another thread came between; it is done where it has its result.
        let is_sync = line.contains("fsync") || line.contains("fdatasync");
        syncs += usize::from(is_sync && line.contains(" = 0"));
        if line.contains("HTTP/1.1 200") {
            all.push(std::mem::take(&mut syncs));
        }
    }
    all
}

fn syncs_of_uploads(synchronous: &str) -> Vec<usize> {
    let dir = Dir::new();
    let token = dir.token("write");
    let (server, trace) = traced(&dir, synchronous);
    let mut client = server.client(&token);
    for number in 0..UPLOADS {
        let answer = client.put(&number.to_string(), b"bytes");
        assert_eq!(answer.status, 200, "{}", answer.head);
    }
    drop(client);
    assert_eq!(server.stop().code(), Some(0));
    eventually("strace has written all of it", || {
        let text = std::fs::read_to_string(&trace).expect("the trace");
        let syncs = syncs_before_answers(&text);
        (syncs.len() == UPLOADS).then_some(syncs)
    })
}

#[test]
fn with_full_the_disk_has_an_upload_before_it_is_acknowledged() {
    if can_trace() {
        let syncs = syncs_of_uploads("full");
        assert!(syncs.iter().all(|syncs| *syncs >= 1), "{syncs:?}");
    }
}

#[test]
fn with_normal_uploads_do_not_wait_for_the_disk() {
    if can_trace() {
        let syncs = syncs_of_uploads("normal");
        // The log begins with a sync, and may be folded once or twice meanwhile.
        let waited = syncs.iter().filter(|syncs| **syncs > 0).count();
        assert!(waited < UPLOADS / 2, "{syncs:?}");
    }
}

/// A token that was revoked is revoked, whatever the setting: commands always wait for the disk.
#[test]
fn commands_wait_for_the_disk() {
    if !can_trace() {
        return;
    }
    let dir = Dir::new();
    let token = dir.token("write");
    // Two things sync anyway: the first commit of a log, and the end of the last one who uses the database.
    let server = Server::start(&dir);
    assert_eq!(server.client(&token).put("1", b"bytes").status, 200);
    dir.evidence().exempt_mode("trace");
    let mut strace = dir.command("strace");
    strace
        .args([
            "-f",
            "-qq",
            "-s",
            "16",
            "-e",
            "trace=fsync,fdatasync,write",
            "-o",
            "trace",
        ])
        .args([BINARY, "token", "revoke", &token.id]);
    run(&mut strace).done();
    let trace = std::fs::read_to_string(dir.join("trace")).expect("the trace");
    let told = trace.find("write(2,").or_else(|| trace.find("write(1,"));
    let before = &trace[..told.expect("it says what it did")];
    assert!(before.contains("sync("), "{trace}");
}
