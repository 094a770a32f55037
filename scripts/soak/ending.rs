//! The end: a clean stop, the database looked through, and the latest backups restored and served.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};

use crate::chores::{self, Operator};
use crate::server::Server;
use crate::wire::{Outcome, Wire};
use crate::world::World;

/// What the database says of the run.
#[derive(Default)]
pub struct Ended {
    /// Kind of scope, reason, entries, bytes.
    pub evictions: Vec<(String, String, i64, i64)>,
    pub backups: i64,
    pub file_bytes: u64,
}

pub fn run(world: &World, mut operator: Operator) -> Result<Ended> {
    let stopped = operator.stop(world);
    world.must("the last stop", stopped);
    world.say("it has stopped; looking through the database");
    let verdict = world.command(&["verify"]);
    world.must("the database is looked through", verdict);
    for (what, directory) in [
        ("made by command", "explicit"),
        ("made by the server", "scheduled"),
    ] {
        let restored =
            newest(&world.dir.join(directory)).and_then(|backup| restore(world, &backup));
        if world
            .must(&format!("the latest backup {what}"), restored)
            .is_some()
        {
            world.count("backups restored, verified and served");
        }
    }
    let mut ended = facts(world).context("what the database says of the run")?;
    if ended.evictions.is_empty() {
        world.breaks("nothing was evicted, so the book had nothing to forgive");
    }
    ended.file_bytes = std::fs::metadata(world.db())?.len();
    Ok(ended)
}

/// The newest backup in a directory.
fn newest(directory: &Path) -> Result<PathBuf> {
    let mut all = Vec::new();
    for name in chores::files(directory)? {
        let path = directory.join(&name);
        if path.extension().is_some_and(|extension| extension == "db") {
            all.push((std::fs::metadata(&path)?.modified()?, path));
        }
    }
    let (_, path) = all.into_iter().max().context("there is none")?;
    Ok(path)
}

/// Restores a backup beside, looks through it, and serves it: what is read all the time is in it, to the byte.
fn restore(world: &World, backup: &Path) -> Result<()> {
    let begun = std::fs::metadata(backup)?.created()?;
    let begun_ms = begun.duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let pins = world.book.pins(begun_ms);
    ensure!(!pins.is_empty(), "nothing of what must be in it is left");
    let place = world.dir.join("restored");
    std::fs::create_dir(&place)?;
    let db = place.join("cachesrv.db");
    let (backup, db_name) = (backup.to_string_lossy(), db.to_string_lossy().into_owned());
    world.command(&["verify", "--db", &backup])?;
    world.command(&["restore", &backup, "--db", &db_name])?;
    world.command(&["verify", "--db", &db_name])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = Server::start(&world.binary, &db, &listener, &[])?;
    let mut wire = Wire::to(world, listener.local_addr()?);
    // The token of the readers was there from the beginning.
    let wrong = pins.iter().find(|entry| {
        let outcome = wire.get(&world.reader, &entry.hash);
        !matches!(outcome, Outcome::Answered(answer) if answer.status == 200 && answer.body == entry.bytes())
    });
    let wrong = wrong.map(|entry| entry.hash.clone());
    let (status, _) = server.stop()?;
    ensure!(wrong.is_none(), "{wrong:?} is not in it");
    ensure!(status.code() == Some(0), "its server ended with {status}");
    std::fs::remove_dir_all(&place)?;
    Ok(())
}

fn facts(world: &World) -> Result<Ended> {
    let connection = Connection::open_with_flags(world.db(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut statement = connection.prepare(
        "SELECT CASE is_isolated WHEN 0 THEN 'trusted' ELSE 'isolated' END, reason, sum(entries), sum(size_bytes)
         FROM evictions_by_day GROUP BY 1, 2 ORDER BY 1 DESC, 2",
    )?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    Ok(Ended {
        evictions: rows.collect::<Result<_, _>>()?,
        backups: connection.query_row("SELECT count(*) FROM backups", [], |row| row.get(0))?,
        file_bytes: 0,
    })
}
