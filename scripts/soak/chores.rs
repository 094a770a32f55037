//! What people and timers do meanwhile: restarts and kills, backups, tokens that change, and questions.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::book;
use crate::random::Random;
use crate::server::{Log, Server};
use crate::wire::{Outcome, Wire};
use crate::world::World;

/// Between two restarts: from, to.
const RESTART_SECONDS: (u64, u64) = (8, 25);
const BACKUP_EVERY: Duration = Duration::from_secs(25);
const ROTATE_EVERY: Duration = Duration::from_secs(15);
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Questions that commands answer are asked every so many rounds of `ASK_EVERY`, and the database is looked through
/// more rarely still.
const COMMANDS_EVERY: u64 = 5;
const VERIFY_EVERY: u64 = 60;

/// Who starts, stops and kills the server.
pub struct Operator {
    server: Option<Server>,
    random: Random,
    acts: u64,
}

impl Operator {
    pub fn start(world: &World) -> Result<Self> {
        let mut operator = Self {
            server: None,
            random: world.random(1),
            acts: 0,
        };
        operator.start_server(world)?;
        Ok(operator)
    }

    /// Waits a while, then restarts or kills the server, in turns.
    pub fn act(&mut self, world: &World, left: Duration) {
        let (from, to) = RESTART_SECONDS;
        let pause = Duration::from_secs(from + self.random.below(to - from));
        world.rest(pause.min(left));
        if left < pause {
            return;
        }
        self.acts += 1;
        let done = if self.acts % 2 == 1 {
            self.restart(world)
        } else {
            self.kill(world)
        };
        if world.must("a restart", done).is_none() {
            world.stop();
        }
    }

    fn start_server(&mut self, world: &World) -> Result<()> {
        let server = Server::start(
            &world.binary,
            &world.db(),
            &world.listener,
            &settings(world),
        )?;
        world.pid.store(server.pid(), Ordering::SeqCst);
        self.server = Some(server);
        Ok(())
    }

    pub fn restart(&mut self, world: &World) -> Result<()> {
        self.stop(world)?;
        world.count("clean restarts");
        self.start_server(world)
    }

    /// Stops the server as an operator does: it ends well, cuts nobody, and leaves one file.
    pub fn stop(&mut self, world: &World) -> Result<()> {
        // A command that has the database open keeps its log there.
        let _alone = world
            .commands
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let server = self.server.take().context("a server")?;
        let (status, log) = server.stop()?;
        note(world, &log);
        ensure!(status.code() == Some(0), "a clean stop ended with {status}");
        let cut = log
            .warnings
            .iter()
            .find(|line| line.contains("requests were cut"));
        ensure!(cut.is_none(), "a clean stop: {cut:?}");
        let files = files(&world.dir.join("data"))?;
        ensure!(files == ["cachesrv.db"], "a clean stop left {files:?}");
        Ok(())
    }

    fn kill(&mut self, world: &World) -> Result<()> {
        world.a_kill_begins();
        let server = self.server.take().context("a server")?;
        let (_, log) = server.kill()?;
        note(world, &log);
        world.count("kills");
        self.start_server(world)
    }
}

fn settings(world: &World) -> Vec<String> {
    let set = |pair: String| ["--set".to_owned(), pair];
    [
        format!("eviction.max_size={}B", book::MAX_SIZE_BYTES),
        format!("eviction.isolated_share={}", book::ISOLATED_SHARE),
        format!("eviction.max_age={}s", book::MAX_AGE.as_secs()),
        format!(
            "eviction.isolated_max_age={}s",
            book::ISOLATED_MAX_AGE.as_secs()
        ),
        format!("backup.dir={}", world.dir.join("scheduled").display()),
        "limits.artifact_max_size=64MiB".to_owned(),
        "backup.every=60s".to_owned(),
        "backup.keep=2".to_owned(),
    ]
    .into_iter()
    .flat_map(set)
    .collect()
}

fn note(world: &World, log: &Log) {
    world.add("log lines", log.lines);
    world.add("log warnings", log.warnings.len() as u64);
    world.add("log errors", log.errors.len() as u64);
    for line in log.errors.iter().chain(&log.warnings).take(3) {
        world.say(&format!("the log: {line}"));
    }
    for line in &log.panics {
        world.breaks(line);
    }
}

/// The names of the files in a directory, in order.
pub fn files(directory: &std::path::Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

pub fn start<'scope>(world: &'scope World, scope: &'scope Scope<'scope, '_>) {
    scope.spawn(move || backups(world));
    scope.spawn(move || tokens(world));
    scope.spawn(move || questions(world));
}

/// Makes one backup after the other, and looks at each.
fn backups(world: &World) {
    let mut last: Option<PathBuf> = None;
    for number in 0.. {
        world.rest(BACKUP_EVERY);
        if world.is_stopping() {
            return;
        }
        let path = world
            .dir
            .join(format!("explicit/{}-{number}.db", world.session()));
        let name = path.to_string_lossy();
        let made = world.command(&["backup", &name]);
        if world.must("a backup beside the server", made).is_none() {
            continue;
        }
        let verdict = world.command(&["verify", "--quick", "--db", &name]);
        world.must("a backup is looked at", verdict);
        world.count("backups by command");
        if let Some(last) = last.replace(path) {
            let _ = std::fs::remove_file(last);
        }
    }
}

/// Rotates the token of the writers, who go on; and revokes one, which works no longer.
fn tokens(world: &World) {
    let mut wire = Wire::new(world);
    for number in 0.. {
        world.rest(ROTATE_EVERY);
        if world.is_stopping() {
            return;
        }
        let rotated = world.token(&["rotate", "writer", "--overlap", "60s"]);
        if let Some(secret) = world.must("a rotation", rotated) {
            world.set_writer(secret);
            world.count("tokens rotated");
        }
        let name = format!("short-{}-{number}", world.session());
        let made = world.token(&["create", "--read", "--name", &name]);
        let Some(secret) = world.must("a token", made) else {
            continue;
        };
        expect(world, &mut wire, &secret, 404, "a new token");
        let revoked = world.command(&["token", "revoke", &name]);
        if world.must("a revocation", revoked).is_some() {
            expect(world, &mut wire, &secret, 401, "a revoked token");
            world.count("tokens revoked");
        }
    }
}

fn expect(world: &World, wire: &mut Wire<'_>, secret: &str, status: u16, what: &str) {
    match wire.get(secret, "none") {
        Outcome::Answered(answer) if answer.status != status => {
            world.breaks(&format!("{what} was answered {}", answer.status));
        }
        _ => {}
    }
}

/// Asks what monitoring and people ask.
fn questions(world: &World) {
    let mut wire = Wire::new(world);
    for round in 1_u64.. {
        world.rest(ASK_EVERY);
        if world.is_stopping() {
            return;
        }
        ask(world, &mut wire, "/healthz", &[200]);
        // 503 while it shuts down.
        ask(world, &mut wire, "/readyz", &[200, 503]);
        if let Some(text) = ask(world, &mut wire, "/metrics", &[200])
            && !text.lines().all(is_metric)
        {
            world.breaks("/metrics is not what Prometheus reads");
        }
        if round.is_multiple_of(COMMANDS_EVERY) {
            commands(world, round);
        }
    }
}

fn ask(world: &World, wire: &mut Wire<'_>, path: &str, statuses: &[u16]) -> Option<String> {
    let Outcome::Answered(answer) = wire.ask("GET", path, &world.reader, &[]) else {
        return None;
    };
    if !statuses.contains(&answer.status) {
        world.breaks(&format!("{path} was answered {}", answer.status));
    }
    (answer.status == 200).then(|| String::from_utf8_lossy(&answer.body).into_owned())
}

/// A comment, or a name with a number behind it.
fn is_metric(line: &str) -> bool {
    let number = line.rsplit(' ').next().unwrap_or_default();
    line.is_empty() || line.starts_with('#') || number.parse::<f64>().is_ok()
}

fn commands(world: &World, round: u64) {
    let mut all = vec![
        vec!["stats", "--json"],
        vec!["token", "list", "--json"],
        vec!["artifact", "list", "--limit", "5", "--json"],
        vec!["scope", "list", "--json"],
        vec!["gc", "--dry-run"],
    ];
    if round.is_multiple_of(VERIFY_EVERY) {
        all.push(vec!["verify", "--quick"]);
    }
    for arguments in all {
        let done = world.command(&arguments);
        // SQLite's check is one long snapshot, and is given up where it would keep the log from being folded.
        if done
            .as_ref()
            .is_err_and(|error| error.to_string().contains("was given up"))
        {
            world.count("cachesrv verify --quick, given up for the writers");
            continue;
        }
        if world.must("a command beside the server", done).is_some() {
            world.count(&format!("cachesrv {}", arguments.join(" ")));
        }
    }
}
