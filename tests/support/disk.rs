//! Small disks: a file system of its own for a test, which goes with the processes that see it.

use std::path::PathBuf;
use std::process::Command;

use rusqlite::Connection;

use super::dir::{BINARY, Dir, Token, number, sqlite};
use super::{Server, eventually};

/// What a PUT is told that finds no room.
pub const DISK_FULL: &str = "the disk of this cache is full: free some space on it, or lower \
                             eviction.min_free_disk\n";

/// A shell in a mount namespace of its own, where `line` may mount what it needs. With it, a mount never
/// outlives the test.
pub fn namespace(dir: &Dir, line: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Without privileges in a user namespace; some containers let root mount but make no such namespace.
    for flags in ["-rm", "-m"] {
        let mut probe = dir.command("unshare");
        probe
            .env("PATH", &path)
            .args([flags, "mount", "-t", "tmpfs", "none", "/mnt"]);
        if probe.output().is_ok_and(|output| output.status.success()) {
            let mut command = dir.command("unshare");
            command
                .env("PATH", &path)
                .env("cachesrv", BINARY)
                .args([flags, "sh", "-ec", line]);
            return command;
        }
    }
    panic!(
        "this test mounts a small disk: run it as root, or where `unshare -rm` works (util-linux)"
    );
}

/// A server whose database is on a disk of its own.
pub struct SmallDisk {
    pub server: Server,
    pub token: Token,
    disk: PathBuf,
    dir: Dir,
    sets: String,
}

impl SmallDisk {
    /// A disk of so many MiB, of which a filler takes some, and a server with these settings.
    pub fn start(size_mib: usize, filler_mib: usize, settings: &[&str]) -> Self {
        let dir = Dir::new();
        let token = dir.token("write");
        std::fs::create_dir(dir.join("disk")).expect("a directory");
        let filler_bytes = filler_mib << 20;
        let sets: String = settings.iter().flat_map(|set| [" --set ", set]).collect();
        let line = format!(
            "mount -t tmpfs -o size={size_mib}m none disk; cp -p cachesrv.db disk/; cd disk
             head -c {filler_bytes} /dev/zero >filler
             exec \"$cachesrv\" serve --listen 127.0.0.1:0{sets}"
        );
        let server = Server::start_command(&mut namespace(&dir, &line));
        // The mount is in the namespace of the server.
        let inside = dir.join("disk");
        let disk = format!("/proc/{}/root{}", server.pid(), inside.display());
        Self {
            server,
            token,
            disk: disk.into(),
            dir,
            sets,
        }
    }

    /// A shell on that disk.
    fn inside(&self, line: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let pid = self.server.pid().to_string();
        let mut command = self.dir.command("nsenter");
        command.env("PATH", path).env("cachesrv", BINARY);
        command.args(["-t", &pid, "-m"]);
        // Nobody can enter where he is.
        let users = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        if users("self") != users(&pid) {
            command.args(["-U", "--preserve-credentials"]);
        }
        let disk = self.dir.join("disk");
        command.args(["sh", "-ec", &format!("cd '{}'; {line}", disk.display())]);
        command
    }

    /// Runs a command of cachesrv beside the server.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> String {
        let line = format!("exec \"$cachesrv\" {}", args.join(" "));
        super::dir::run(&mut self.inside(&line)).done()
    }

    /// Stops the server, whatever is on the disk, and starts another one on it.
    pub fn restart(&mut self) {
        let line = format!(
            "kill -TERM {}; while [ -d /proc/{0}/fd ] && ls -l /proc/{0}/exe >/dev/null 2>&1; do sleep 0.02; done
             exec \"$cachesrv\" serve --listen 127.0.0.1:0{}",
            self.server.pid(), self.sets
        );
        let next = Server::start_command(&mut self.inside(&line));
        self.disk = format!(
            "/proc/{}/root{}",
            next.pid(),
            self.dir.join("disk").display()
        )
        .into();
        let ended = std::mem::replace(&mut self.server, next).wait();
        assert_eq!(ended.code(), Some(0), "{}", ended.log);
    }

    /// Takes all that is left of the disk.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.disk.join("rest")).expect("a file");
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    }

    /// Takes all but some of what is left of the disk.
    pub fn fill_but(&self, left_bytes: u64) {
        self.fill();
        let rest = self.disk.join("rest");
        let length = std::fs::metadata(&rest).expect("a file").len();
        let file = std::fs::File::options().write(true).open(rest);
        let file = file.expect("a file");
        file.set_len(length - left_bytes).expect("a shorter file");
    }

    pub fn free(&self, name: &str) {
        std::fs::remove_file(self.disk.join(name)).expect("a file removed");
    }

    /// A PUT while the disk may be full: whether it was stored.
    pub fn put(&self, hash: &str, bytes: &[u8]) -> bool {
        let answer = self.server.client(&self.token).put(hash, bytes);
        match answer.status {
            200 => true,
            403 => {
                assert_eq!(answer.text(), DISK_FULL);
                false
            }
            status => panic!("{status} for {hash}"),
        }
    }

    pub fn holds(&self, hash: &str, bytes: Option<&[u8]>) {
        let answer = self.server.client(&self.token).get(hash);
        match bytes {
            Some(bytes) => assert!(answer.status == 200 && answer.body == bytes, "{hash}"),
            None => assert_eq!(answer.status, 404, "{hash}"),
        }
    }

    /// Only what is stored has rows and chunks, once the cleaner has looked. SQLite takes the way into
    /// the namespace for a link, so it looks at copies, which are whole when the log is empty.
    pub fn nothing_is_left_over(&self) {
        eventually("what was not stored is freed", || {
            let connection = self.copy()?;
            let others = "SELECT count(*) FROM artifacts WHERE state <> 'stored'";
            let orphans =
                "SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts)";
            (number(&connection, others) + number(&connection, orphans) == 0).then_some(())
        });
    }

    /// A copy of the database, if its log is empty at the moment.
    pub fn copy(&self) -> Option<Connection> {
        let copy = self.dir.join("copy.db");
        let log = std::fs::metadata(self.disk.join("cachesrv.db-wal")).expect("a log");
        if log.len() > 0 {
            return None;
        }
        std::fs::copy(self.disk.join("cachesrv.db"), &copy).expect("a copy");
        Some(sqlite(&copy))
    }
}
