//! What the server does on its own: it evicts, frees, folds its log and backs up. What fails is tried again.

use std::fs;
use std::path::Path;

use crate::support::dir::sqlite;
use crate::support::fault::{
    Fault, MEMORY, OPEN_EIO, READ_EIO, SYNC_EIO, Series, TRUNCATE_EIO, TRUNCATE_ENOSPC, Trap,
    WRITE_EIO, WRITE_ENOSPC, WRITE_SHORT_ENOSPC, threads,
};
use crate::support::{Random, entries, eventually};
use crate::watched::Watched;

/// Places of each fault in CI: each takes the second after which a log is folded, or the housekeeper's.
const USUAL: u64 = 1;

const SETTINGS: [&str; 3] = [
    "durability.mmap=false",
    "limits.database_wait=2s",
    "log.requests=false",
];

/// Runs a series of its own server for each fault at the same time: they mostly wait.
fn at_once(
    operation: &'static str,
    threads: u64,
    settings: &[&str],
    faults: &[Fault],
    attempt: impl Fn(&mut Watched, &Trap) + Sync,
) {
    let mut random = Random::seeded();
    std::thread::scope(|scope| {
        for fault in faults {
            let (mut random, attempt) = (random.fork(), &attempt);
            scope.spawn(move || {
                let (mut watched, control) = Watched::start(settings);
                let series = Series {
                    control: &control,
                    operation,
                    threads,
                    usual: USUAL,
                };
                series.run(&mut random, &[*fault], |trap| attempt(&mut watched, trap));
                watched.ends_well(settings);
            });
        }
    });
}

fn log_bytes(watched: &Watched) -> u64 {
    let log = fs::metadata(watched.dir.join("cachesrv.db-wal"));
    log.map_or(0, |log| log.len())
}

#[test]
fn a_log_that_cannot_be_folded_is_folded_later() {
    let faults = [
        READ_EIO,
        WRITE_EIO,
        WRITE_ENOSPC,
        WRITE_SHORT_ENOSPC,
        SYNC_EIO,
        TRUNCATE_EIO,
        TRUNCATE_ENOSPC,
        MEMORY,
    ];
    let of = threads::CHECKPOINTER;
    at_once(
        "fold after a pause",
        of,
        &SETTINGS,
        &faults,
        |watched, trap| {
            trap.set();
            let number = watched.stores(40_000);
            // Under fire: until it was hit, or is folded.
            eventually("the log is folded, or that has failed", || {
                (trap.hits() > 0 || log_bytes(watched) == 0).then_some(())
            });
            let during = watched.stores(300);
            trap.clear();
            watched.serves(number, &trap.place());
            watched.serves(during, &trap.place());
            eventually("the log is folded", || {
                (log_bytes(watched) == 0).then_some(())
            });
            watched.serves(number, &trap.place());
        },
    );
}

/// A log of more than 64 MiB is folded while uploads go on.
#[test]
fn a_long_log_that_cannot_be_folded_is_folded_later() {
    let faults = [WRITE_ENOSPC, MEMORY];
    let of = threads::CHECKPOINTER;
    // Less than a client waits for its answer.
    let settings = [
        "limits.database_wait=15s",
        "log.requests=false",
        "eviction.max_size=40MiB",
    ];
    at_once(
        "fold under load",
        of,
        &settings,
        &faults,
        |watched, trap| {
            watched.forget();
            trap.set();
            let mut number = 0;
            for _ in 0..10 {
                number = watched.stores_and_forgets(8_000_000);
            }
            trap.clear();
            watched.stores_and_forgets(8_000_000);
            // Or it would be longer with each trap, until uploads have to wait for it.
            eventually("the log is folded", || {
                (log_bytes(watched) == 0).then_some(())
            });
            let answer = watched.get(number).expect("an answer");
            assert!([200, 404].contains(&answer.status), "{}", trap.place());
            let other = watched.stores(300);
            watched.serves(other, &trap.place());
        },
    );
}

#[test]
fn an_eviction_that_fails_is_made_later() {
    let faults = [
        READ_EIO,
        WRITE_EIO,
        WRITE_ENOSPC,
        WRITE_SHORT_ENOSPC,
        MEMORY,
    ];
    let settings = [
        &SETTINGS[..],
        &["eviction.max_size=2MiB", "eviction.isolated_share=0"],
    ]
    .concat();
    let of = threads::UPKEEP;
    at_once("eviction", of, &settings, &faults, |watched, trap| {
        watched.forget();
        for _ in 0..10 {
            watched.stores_and_forgets(200_000);
        }
        let used = "SELECT ifnull(sum(size_bytes + 512), 0) FROM artifacts WHERE state = 'stored'";
        let is_done = |watched: &Watched| watched.dir.number(used) <= 2 << 20;
        trap.set();
        let number = watched.number();
        let status = watched.put(number, 300_000).status;
        assert!(
            status == 200 || trap.hits() > 0,
            "{status}: {}",
            trap.place()
        );
        eventually("eviction has failed, or is done", || {
            (trap.hits() > 0 || is_done(watched)).then_some(())
        });
        trap.clear();
        watched.stores_and_forgets(300_000);
        eventually("eviction is done", || is_done(watched).then_some(()));
        let small = watched.stores_and_forgets(300);
        assert_eq!(watched.get(small).map(|answer| answer.status), Some(200));
    });
}

/// What passes is no damage, and is not called so.
#[test]
fn cleaning_that_finds_no_room_is_made_later() {
    const FAILED: &str = " cannot free what removed artifacts occupy";
    let of = threads::UPKEEP;
    at_once(
        "cleaning",
        of,
        &SETTINGS,
        &[WRITE_ENOSPC],
        |watched, trap| {
            let failures = |watched: &Watched| watched.server.lines_with(FAILED);
            let number = watched.stores_and_forgets(300_000);
            trap.set();
            let before = failures(watched);
            let purged = watched.dir.cli(&["purge", "--hash", &number.to_string()]);
            purged.done();
            let age = "UPDATE artifacts SET condemned_at_ms = 0 WHERE state = 'condemned'";
            let left = "SELECT count(*) FROM artifacts WHERE state = 'condemned'";
            let connection = watched.dir.sqlite();
            connection.execute(age, []).expect("rows changed");
            drop(connection);
            eventually("cleaning has failed, or is done", || {
                (failures(watched) > before || watched.dir.number(left) == 0).then_some(())
            });
            trap.clear();
            eventually("what was removed is freed", || {
                (watched.dir.number(left) == 0).then_some(())
            });
            assert_eq!(
                watched.server.lines_with("cachesrv verify"),
                0,
                "{}",
                watched.server.log()
            );
        },
    );
}

#[test]
fn a_scheduled_backup_that_fails_is_made_later() {
    let faults = [
        READ_EIO,
        WRITE_EIO,
        WRITE_ENOSPC,
        SYNC_EIO,
        OPEN_EIO,
        MEMORY,
    ];
    let settings = [
        &SETTINGS[..],
        // The directory of a test is there before its server. Each backup is written down, and the log is folded after a
        // second without a write and a look: with one a second it may never be.
        &["backup.dir=.", "backup.every=2500ms", "backup.keep=2"],
    ]
    .concat();
    at_once(
        "scheduled backup",
        threads::OTHER,
        &settings,
        &faults,
        |watched, trap| {
            let lines = |watched: &Watched, text: &str| watched.server.lines_with(text);
            let (made, failed) = (
                lines(watched, " backup made "),
                lines(watched, " backup failed "),
            );
            trap.set();
            let number = watched.stores(1000);
            eventually("a backup is made, or has failed", || {
                let is_over = lines(watched, " backup made ") > made
                    || lines(watched, " backup failed ") > failed;
                is_over.then_some(())
            });
            trap.clear();
            watched.serves(number, &trap.place());
            let made = lines(watched, " backup made ");
            eventually("a backup is made", || {
                (lines(watched, " backup made ") > made).then_some(())
            });
            let backups = watched.dir.files();
            let newest = backups
                .iter()
                .rfind(|name| name.starts_with("cachesrv-"))
                .cloned();
            let newest = newest.unwrap_or_else(|| panic!("{backups:?}"));
            if Path::new(&newest).extension() == Some("db".as_ref()) {
                entries::counters_are_facts(&sqlite(&watched.dir.join(newest)));
            }
        },
    );
}
