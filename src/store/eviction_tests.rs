//! Eviction on a database alone: which entries go, in which order and why; and what the chores find them by.

use std::cell::Cell;

use rusqlite::params;

use super::cleaner::Progress;
use super::connection::PAGE_SIZE_BYTES;
use super::eviction::{self, Course, FilePages};
use super::isolation_tests::counters_are_facts;
use super::space::Disk;
use super::tests::*;
use super::*;

use Reason::{Age, Size};
use ScopeKind::{Isolated, Trusted};

const KIB: u64 = 1024;

/// A database without a server, with a token of each kind.
struct Db {
    connection: Connection,
    next: Cell<i64>,
    directory: tempfile::TempDir,
}

impl Db {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cachesrv.db");
        add_token(&path, "writer", Access::Write);
        add_token(&path, "isolated", Access::Isolated);
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "INSERT INTO workspaces (name, created_at_ms) VALUES ('shop', 0);
                 INSERT INTO scopes (workspace_id, kind, created_at_ms) VALUES (2, 'trusted', 0);
                 INSERT INTO scopes (workspace_id, kind, name, created_at_ms) VALUES (1, 'isolated', 'pr-1', 0);",
            )
            .unwrap();
        Self {
            connection,
            next: Cell::new(0),
            directory,
        }
    }

    /// An entry of this kind, read at this time; its hash.
    fn add(&self, kind: ScopeKind, size_bytes: u64, read_at_ms: i64) -> String {
        let number = self.next.get() + 1;
        self.next.set(number);
        let (scope, writer) = match kind {
            ScopeKind::Trusted => (1, 1),
            ScopeKind::Isolated => (3, 2),
        };
        let is_isolated = kind == ScopeKind::Isolated;
        self.connection
            .execute(
                "INSERT INTO artifacts (scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms,
                                        writer_token_id, writer_address, is_isolated)
                 VALUES (?1, ?2, 'stored', ?3, zeroblob(32), 0, ?4, ?5, '', ?6)",
                params![scope, number.to_string(), size_bytes as i64, read_at_ms, writer, is_isolated],
            )
            .unwrap();
        number.to_string()
    }

    fn plan(&self, limits: &EvictionLimits, disk: &Disk, now_ms: i64) -> Option<[Course; 2]> {
        self.plan_while(|_| false, limits, disk, now_ms)
    }

    fn plan_while(
        &self,
        held: impl Fn(i64) -> bool,
        limits: &EvictionLimits,
        disk: &Disk,
        now_ms: i64,
    ) -> Option<[Course; 2]> {
        eviction::plan(&self.connection, limits, disk, held, [false; 2], now_ms).unwrap()
    }

    /// Evicts all that has to go, as the housekeeper does, in batches of this many rows.
    fn evict(&self, limits: &EvictionLimits, disk: &Disk, now_ms: i64, rows: usize) -> Evicted {
        let mut evicted = Evicted::default();
        let Some([mut isolated, mut trusted]) = self.plan(limits, disk, now_ms) else {
            return evicted;
        };
        self.evict_kind(&mut isolated, &mut evicted, now_ms, rows);
        trusted.follow(&isolated);
        self.evict_kind(&mut trusted, &mut evicted, now_ms, rows);
        assert_eq!(self.plan(limits, disk, now_ms), None, "it was enough");
        evicted
    }

    fn evict_kind(&self, course: &mut Course, evicted: &mut Evicted, now_ms: i64, rows: usize) {
        loop {
            let some = eviction::evict_some(&self.connection, course, rows, now_ms).unwrap();
            assert!(some.total().artifacts <= rows as u64);
            if some == Evicted::default() {
                return;
            }
            evicted.add(&some);
        }
    }

    /// What a dry run would say.
    fn count(&self, limits: &EvictionLimits, disk: &Disk, now_ms: i64) -> Evicted {
        let mut evicted = Evicted::default();
        if let Some([mut isolated, mut trusted]) = self.plan(limits, disk, now_ms) {
            evicted.add(&eviction::count_all(&self.connection, &mut isolated).unwrap());
            trusted.follow(&isolated);
            evicted.add(&eviction::count_all(&self.connection, &mut trusted).unwrap());
        }
        evicted
    }

    /// The hashes of what is stored, in the order of the last read.
    fn stored(&self) -> Vec<String> {
        self.texts("SELECT hash FROM artifacts WHERE state = 'stored' ORDER BY read_at_ms, id")
    }

    fn texts(&self, sql: &str) -> Vec<String> {
        let mut statement = self.connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

fn limits(trusted_bytes: u64, isolated_bytes: u64) -> EvictionLimits {
    let mut limits = UNLIMITED;
    limits.trusted.max_bytes = trusted_bytes;
    limits.isolated.max_bytes = isolated_bytes;
    limits
}

/// A disk on which nothing is short.
fn wide(db: &Db) -> Disk {
    Disk::look(&db.directory.path().join("cachesrv.db"), 0)
}

fn told(evicted: &Evicted) -> Vec<(ScopeKind, Reason, u64)> {
    let sums = evicted.sums();
    sums.map(|(kind, reason, sum)| (kind, reason, sum.artifacts))
        .collect()
}

#[test]
fn the_least_recently_read_go_first_from_95_percent_down_to_90() {
    let db = Db::new();
    // 10 KiB each with its row; read in another order than stored.
    let size = 10 * KIB - 512;
    let times = [5, 3, 9, 1, 7, 2, 8, 4, 6];
    let hashes: Vec<String> = times
        .iter()
        .map(|&time| db.add(Trusted, size, time))
        .collect();
    let limits = limits(100 * KIB, 0);
    assert_eq!(db.plan(&limits, &wide(&db), 10), None, "90 % full");
    db.add(Trusted, 5 * KIB - 512, 100);
    assert_eq!(db.plan(&limits, &wide(&db), 10), None, "95 % full");
    let last = db.add(Trusted, 1, 0);
    let evicted = db.evict(&limits, &wide(&db), 10, 1);
    // The oldest is tiny, the next one makes it 86 %.
    assert_eq!(told(&evicted), [(Trusted, Size, 2)]);
    let stored = db.stored();
    assert!(
        !stored.contains(&last) && !stored.contains(&hashes[3]),
        "{stored:?}"
    );
    assert_eq!(stored.len(), 9);
    assert_eq!(stored[0], hashes[5]);
}

#[test]
fn entries_read_at_the_same_time_go_in_the_order_in_which_they_were_stored() {
    let db = Db::new();
    let hashes: Vec<String> = (0..20).map(|_| db.add(Trusted, KIB, 7)).collect();
    db.evict(&limits(10 * KIB, 0), &wide(&db), 10, 3);
    assert_eq!(db.stored(), hashes[14..]);
}

#[test]
fn each_kind_has_a_budget_of_its_own() {
    let db = Db::new();
    let trusted: Vec<String> = (0..10).map(|time| db.add(Trusted, KIB, time)).collect();
    for time in 100..200 {
        db.add(Isolated, KIB, time);
    }
    // Trusted entries are older than every isolated one, and have room.
    let evicted = db.evict(&limits(20 * KIB, 10 * KIB), &wide(&db), 1000, 8);
    assert_eq!(told(&evicted), [(Isolated, Size, 94)]);
    assert_eq!(db.stored()[..10], trusted[..]);
    // And the other way round.
    let evicted = db.evict(&limits(5 * KIB, 10 * KIB), &wide(&db), 1000, 8);
    assert_eq!(told(&evicted), [(Trusted, Size, 7)]);
}

#[test]
fn the_budget_of_trusted_entries_is_one_for_all_workspaces() {
    let db = Db::new();
    let first = db.add(Trusted, 10 * KIB, 1);
    db.connection
        .execute_batch(
            "INSERT INTO tokens (public_id, workspace_id, access, secret_phc, secret_tag, created_at_ms)
             VALUES ('shop', 2, 'write', '', zeroblob(4), 0);
             INSERT INTO artifacts (scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms,
                                    writer_token_id, writer_address)
             VALUES (2, 'of shop', 'stored', 10240, zeroblob(32), 0, 2, 3, '');",
        )
        .unwrap();
    db.evict(&limits(15 * KIB, 0), &wide(&db), 10, 8);
    assert_eq!(db.stored(), ["of shop"], "{first} was read before it");
}

#[test]
fn what_nobody_read_for_too_long_goes_whatever_room_there_is() {
    let db = Db::new();
    let mut limits = UNLIMITED;
    limits.trusted.max_age = Duration::from_secs(30);
    limits.isolated.max_age = Duration::from_secs(10);
    let now_ms = 100_000;
    for time in [69_999, 70_000, 89_999, 90_000] {
        db.add(Trusted, KIB, time);
        db.add(Isolated, KIB, time);
    }
    let evicted = db.evict(&limits, &wide(&db), now_ms, 1);
    assert_eq!(told(&evicted), [(Trusted, Age, 1), (Isolated, Age, 3)]);
    assert_eq!(db.stored(), ["3", "5", "7", "8"]);
    assert_eq!(
        db.texts("SELECT DISTINCT condemned_reason FROM artifacts WHERE state = 'condemned'"),
        ["age"]
    );
}

#[test]
fn a_disk_that_is_full_of_something_else_evicts_nothing() {
    let db = Db::new();
    for time in 0..10 {
        db.add(Trusted, KIB, time);
    }
    let disk = Disk {
        floor_bytes: 1 << 60,
        ..wide(&db)
    };
    assert!(disk.lack_bytes(FilePages::of(&db.connection).unwrap(), 0) > 0);
    assert_eq!(db.plan(&UNLIMITED, &disk, 10), None);
}

#[test]
fn for_the_disk_isolated_entries_go_first_and_what_is_condemned_counts_as_free() {
    let db = Db::new();
    for time in 0..10 {
        db.add(Trusted, 1000 * KIB, time);
        db.add(Isolated, 10 * KIB, 1000 + time);
    }
    let file = FilePages::of(&db.connection).unwrap();
    let disk = Disk {
        free_bytes: 7000 * KIB,
        floor_bytes: 8000 * KIB + file.free * PAGE_SIZE_BYTES,
        wanted_bytes: 0,
        file_bytes: 0,
        log_bytes: 0,
    };
    let lack_bytes = disk.lack_bytes(file, 0);
    assert_eq!(lack_bytes, 1000 * KIB + disk.floor_bytes / 8);
    let trusted = (lack_bytes - 100 * KIB).div_ceil(1000 * KIB);
    assert!(trusted < 10, "{lack_bytes}");
    let counted = db.count(&UNLIMITED, &disk, 10);
    assert_eq!(
        told(&counted),
        [
            (Trusted, Reason::Disk, trusted),
            (Isolated, Reason::Disk, 10)
        ]
    );
    // The disk stays as it was, but what went is on its way: nothing more goes (see `evict`).
    assert_eq!(db.evict(&UNLIMITED, &disk, 10, 4), counted);
    // A small lack takes nothing from trusted entries.
    let db = Db::new();
    for time in 0..10 {
        db.add(Trusted, 1000 * KIB, time);
        db.add(Isolated, 1000 * KIB, 1000 + time);
    }
    let evicted = db.evict(&UNLIMITED, &disk, 10, 4);
    let isolated = lack_bytes.div_ceil(1000 * KIB);
    assert_eq!(told(&evicted), [(Isolated, Reason::Disk, isolated)]);
}

#[test]
fn what_is_condemned_and_being_read_is_not_about_to_be_free() {
    let db = Db::new();
    for time in 0..1100 {
        db.add(Trusted, 1000 * KIB, time);
    }
    let condemn = |from: i64, to: i64| {
        let sql = "UPDATE artifacts SET state = 'condemned', condemned_at_ms = 0, condemned_reason = 'disk'
                   WHERE id BETWEEN ?1 AND ?2";
        db.connection.execute(sql, [from, to]).unwrap();
    };
    condemn(1, 5);
    let file = FilePages::of(&db.connection).unwrap();
    let disk = Disk {
        free_bytes: 7000 * KIB,
        floor_bytes: 8000 * KIB + file.free * PAGE_SIZE_BYTES,
        wanted_bytes: 0,
        file_bytes: file.all * PAGE_SIZE_BYTES,
        log_bytes: 0,
    };
    let plan = |held: &dyn Fn(i64) -> bool| db.plan_while(held, &UNLIMITED, &disk, 10);
    assert_eq!(plan(&|_| false), None);
    assert_eq!(plan(&|id| id > 1), None, "one is enough");
    assert!(plan(&|_| true).is_some());
    // However many are held, the others are added up.
    condemn(6, 1050);
    assert_eq!(plan(&|_| false), None, "the cleaner first");
    assert!(plan(&|_| true).is_some());
    assert_eq!(plan(&|id| id > 1), None, "one is enough");
}

#[test]
fn what_a_dry_run_counts_is_what_goes() {
    let db = Db::new();
    for number in 0..300_u64 {
        let kind = if number % 3 == 0 { Isolated } else { Trusted };
        db.add(kind, number * 37 % 4096, (number * 7919 % 1000) as i64);
    }
    let mut limits = limits(300 * KIB, 50 * KIB);
    limits.isolated.max_age = Duration::from_millis(800);
    let counted = db.count(&limits, &wide(&db), 1000);
    assert_eq!(db.stored().len(), 300);
    assert_eq!(db.evict(&limits, &wide(&db), 1000, 16), counted);
    assert_eq!(told(&counted).len(), 3, "{counted:?}");
    assert_eq!(db.stored().len() as u64, 300 - counted.total().artifacts);
}

#[test]
fn each_day_is_counted_with_the_entries_that_went() {
    let db = Db::new();
    let day_ms = 24 * 60 * 60 * 1000;
    for day in [10, 10, 11] {
        db.add(Trusted, 5 * KIB, 0);
        db.add(Trusted, 7 * KIB, 0);
        db.evict(&limits(KIB, 0), &wide(&db), day * day_ms + 5, 1);
    }
    let days = db.texts(
        "SELECT day || ' ' || is_isolated || ' ' || reason || ' ' || entries || ' ' || size_bytes
         FROM evictions_by_day ORDER BY day",
    );
    assert_eq!(days, ["10 0 size 4 24576", "11 0 size 2 12288"]);
    let counters = "SELECT entries || ' ' || size_bytes FROM trusted_usage WHERE scope_id = 1";
    assert_eq!(db.texts(counters), ["0 0"]);
}

/// What is asked every second, and at a start, must not read the table, however many entries there are.
#[test]
fn the_chores_find_what_they_look_for_by_an_index() {
    let db = Db::new();
    for (sql, parameters, index) in [
        (artifacts::FIND_CONDEMNED, 1, "artifacts_to_clean_up"),
        (artifacts::CONDEMNED_BYTES, 0, "artifacts_to_clean_up"),
        (artifacts::CONDEMN_INTERRUPTED, 1, "artifacts_to_clean_up"),
        (
            artifacts::MOVE_CONDEMNED,
            2,
            "artifacts_to_clean_up (state=? AND condemned_at_ms>",
        ),
        (gc::CONDEMNED, 0, "artifacts_to_clean_up"),
        (
            eviction::NEXT,
            4,
            "artifacts_by_read (is_isolated=? AND read_at_ms>",
        ),
    ] {
        let plan = artifacts::plan_of(&db.connection, sql, parameters);
        assert!(plan.contains(index), "{sql}: {plan}");
        assert!(!plan.contains("SCAN artifacts"), "{sql}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

#[test]
fn a_job_of_the_cleaner_frees_many_small_artifacts_and_a_bounded_part_of_a_large_one() {
    let fixture = Fixture::new();
    for number in 0..200 {
        fixture.put(&number.to_string(), &bytes(100, 1));
    }
    fixture.put("large", &bytes(300 * CHUNK_BYTES, 2));
    let connection = Connection::open(fixture.path()).unwrap();
    let condemn =
        "UPDATE artifacts SET state = 'condemned', condemned_at_ms = ?1, condemned_reason = 'size'";
    let future_ms = now_ms() + 1_000_000;
    connection.execute(condemn, [future_ms]).unwrap();
    let left = || {
        let count = |table| fixture.count(&format!("SELECT count(*) FROM {table}"));
        (count("artifacts"), count("chunks"))
    };
    let kept = cleaner::Kept::default();
    let clean = || cleaner::clean(&connection, i64::MAX, &kept).unwrap();
    assert!(clean() == Progress::More);
    assert_eq!(left(), (201 - 128, 500 - 128));
    // The rest of the small ones, and what is left of the bound for the large one.
    assert!(clean() == Progress::More);
    assert_eq!(left(), (1, 300 - (256 - 72)));
    assert!(clean() == Progress::More);
    assert_eq!(left(), (0, 0));
    assert!(clean() == Progress::Done);
}

#[test]
fn a_clock_that_was_set_back_keeps_nothing_that_is_hidden() {
    let fixture = Fixture::new();
    fixture.put("before", b"1");
    fixture.put("meanwhile", b"2");
    let connection = Connection::open(fixture.path()).unwrap();
    let year_ms = 365 * 24 * 60 * 60 * 1000;
    let condemn = |hash: &str| {
        let sql = "UPDATE artifacts SET state = 'condemned', condemned_at_ms = ?2, condemned_reason = 'size'
                   WHERE hash = ?1";
        let rows = connection.execute(sql, params![hash, now_ms() + year_ms]);
        assert_eq!(rows, Ok(1));
    };
    condemn("before");
    let path = fixture.path();
    let _directory = fixture.stop();
    let began = now_ms();
    let store = Store::open(&options(&path)).unwrap();
    condemn("meanwhile");
    let wait_for = |left: i64| {
        let deadline = Instant::now() + WAIT;
        let count = || -> i64 {
            let sql = "SELECT count(*) FROM artifacts";
            connection.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        while count() > left {
            assert!(Instant::now() < deadline, "{} stay", count());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for(1);
    wait_for(0);
    assert!(now_ms() - began >= 10_000, "there is a grace");
    drop(store);
}

/// Overwrites the page on which a chunk begins.
fn destroy_page_of(path: &Path, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let data = std::fs::read(path).unwrap();
    let at = data.windows(64).position(|window| window == &content[..64]);
    let page = at.expect("the chunk") as u64 / PAGE_SIZE_BYTES;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let noise = bytes(PAGE_SIZE_BYTES as usize, 77);
    file.write_all_at(&noise, page * PAGE_SIZE_BYTES).unwrap();
}

#[test]
fn what_lies_on_a_malformed_page_stays_and_the_others_are_freed() {
    let fixture = Fixture::new();
    let content = |number: u8| bytes(16 * CHUNK_BYTES, number);
    for number in 0..14 {
        fixture.put(&number.to_string(), &content(number));
    }
    let path = fixture.path();
    let _directory = fixture.stop();
    destroy_page_of(&path, &content(4));
    let connection = Connection::open(&path).unwrap();
    let condemn =
        "UPDATE artifacts SET state = 'condemned', condemned_at_ms = 0, condemned_reason = 'size'
                   WHERE state = 'stored' AND id <= ?1";
    connection.execute(condemn, [10]).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let mut options = options(&path);
    options.observer = Observer::new(move |event| {
        if let Event::CleaningFailed(error) = event {
            hear.lock().unwrap().push(error.to_string());
        }
    });
    let store = Store::open(&options).unwrap();
    let count = |sql: &str| -> i64 {
        let connection = Connection::open(&path).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let deadline = Instant::now() + WAIT;
    let wait_for = |left: i64| {
        while count("SELECT count(*) FROM artifacts") > left || store.space.reusable_bytes() == 0 {
            assert!(
                Instant::now() < deadline,
                "{} stay: {:?}",
                count("SELECT count(*) FROM artifacts"),
                told.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // Those beside it may share its page.
    wait_for(7);
    // At a later tick what is damaged is left alone.
    connection.execute(condemn, [14]).unwrap();
    wait_for(3);
    drop(store);
    let told = told.lock().unwrap();
    assert!((1..=3).contains(&told.len()), "each is told once: {told:?}");
    assert!(told[0].contains("malformed"), "{told:?}");
    // So it is for `gc`.
    let mut admin = Admin::open_alone(&path).unwrap();
    assert!(
        admin
            .free(&std::sync::atomic::AtomicBool::new(false), &mut |_| {})
            .unwrap()
    );
}

#[test]
fn what_is_being_read_keeps_its_chunks_until_the_last_reader_has_gone() {
    let fixture = Fixture::new();
    let content = bytes(3 * CHUNK_BYTES, 1);
    for hash in ["read", "other"] {
        fixture.put(hash, &content);
    }
    let reader = fixture.store.reader(Instant::now() + WAIT).unwrap();
    let artifact = reader.artifact([&fixture.scope], "read").unwrap().unwrap();
    let first = fixture
        .store
        .begin_reading(&artifact, Trusted)
        .expect("a reading");
    let second = fixture
        .store
        .begin_reading(&artifact, Trusted)
        .expect("another");
    drop(reader);
    fixture
        .store
        .writer
        .submit(Weight::Small(0), |connection| {
            // As if the grace were over.
            let sql = "UPDATE artifacts SET state = 'condemned', condemned_at_ms = 0, condemned_reason = 'size'";
            Ok(connection.execute(sql, [])?)
        })
        .wait(Instant::now() + WAIT)
        .unwrap();
    // The other one goes, though it comes later.
    fixture.wait_until("SELECT count(*) FROM artifacts", 1);
    drop(first);
    let mut buffer = vec![0; CHUNK_BYTES];
    for sequence in 0..3 {
        let reader = fixture.store.reader(Instant::now() + WAIT).unwrap();
        let chunk = reader.chunk(&artifact, sequence, &mut buffer).unwrap();
        assert!(chunk == &content[sequence as usize * CHUNK_BYTES..][..CHUNK_BYTES]);
    }
    assert_eq!(fixture.count("SELECT count(*) FROM chunks"), 3);
    drop(second);
    fixture.wait_until("SELECT count(*) FROM artifacts", 0);
    fixture.wait_until("SELECT count(*) FROM chunks", 0);
}

#[test]
fn an_artifact_that_is_read_at_once_needs_no_note() {
    let fixture = Fixture::new();
    fixture.put("1", b"small");
    let reader = fixture.store.reader(Instant::now() + WAIT).unwrap();
    let artifact = reader.artifact([&fixture.scope], "1").unwrap().unwrap();
    assert!(fixture.store.begin_reading(&artifact, Trusted).is_none());
}

#[test]
fn read_times_are_written_while_the_server_runs_and_when_it_stops() {
    let fixture = Fixture::new();
    let read = |store: &Store, hash: &str| {
        let reader = store.reader(Instant::now() + WAIT).unwrap();
        let artifact = reader.artifact([&fixture.scope], hash).unwrap().unwrap();
        drop(reader);
        while now_ms() <= artifact.read_at_ms {
            std::thread::yield_now();
        }
        store.note_read(&artifact);
    };
    fixture.put("1", b"");
    fixture.put("2", b"");
    let is_noted = |hash: &str| {
        format!("SELECT read_at_ms > created_at_ms FROM artifacts WHERE hash = '{hash}'")
    };
    read(&fixture.store, "1");
    fixture.wait_until(&is_noted("1"), 1);
    assert_eq!(fixture.count(&is_noted("2")), 0);
    read(&fixture.store, "2");
    let path = fixture.path();
    let directory = fixture.stop();
    let connection = Connection::open(&path).unwrap();
    let noted: bool = connection
        .query_row(&is_noted("2"), [], |row| row.get(0))
        .unwrap();
    assert!(noted);
    drop(directory);
}

#[test]
fn a_server_evicts_by_its_limits_and_tells_in_few_words() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let observer = Observer::new(move |event| {
        if let Event::Evicted(kind, reason, sum) = event {
            hear.lock().unwrap().push((*kind, *reason, *sum));
        }
    });
    let fixture = Fixture::with(|options| {
        options.eviction.trusted.max_bytes = 400 * KIB;
        options.observer = observer;
    });
    for number in 0..600 {
        assert_eq!(
            fixture.put(&number.to_string(), &bytes(512, 1)),
            Stored::New
        );
    }
    let used =
        "SELECT sum(size_bytes) + 512 * sum(entries) <= 400 * 1024 * 95 / 100 FROM trusted_usage";
    fixture.wait_until(used, 1);
    counters_are_facts(&fixture);
    // The first lot is told at once, the rest a minute later, or at a stop.
    let path = fixture.path();
    let _directory = fixture.stop();
    let connection = Connection::open(path).unwrap();
    let count = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    let gone = count("SELECT sum(entries) FROM evictions_by_day WHERE reason = 'size'");
    let stored = "FROM artifacts WHERE state = 'stored'";
    assert_eq!(gone + count(&format!("SELECT count(*) {stored}")), 600);
    let oldest = count(&format!("SELECT min(CAST(hash AS INTEGER)) {stored}"));
    assert_eq!(oldest, gone, "the oldest went");
    let told = told.lock().unwrap();
    assert!(told.len() <= 2, "{told:?}");
    assert!(
        told.iter()
            .all(|(kind, reason, _)| (*kind, *reason) == (Trusted, Size))
    );
    let sum: u64 = told.iter().map(|(_, _, sum)| sum.artifacts).sum();
    assert_eq!(sum as i64, gone);
}

#[test]
fn an_eviction_that_is_too_long_for_a_tick_goes_on_in_the_next_down_to_90_percent() {
    let (all, in_one_tick) = (20_000, 8192);
    // After one tick between where eviction begins and where it ends.
    let most = (all - in_one_tick) * 1000 / 925;
    let fixture = Fixture::with(|options| options.eviction.trusted.max_bytes = most * 512);
    let connection = Connection::open(fixture.path()).unwrap();
    connection.busy_timeout(WAIT).unwrap();
    let sql = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
               INSERT INTO artifacts (scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms,
                                      writer_token_id, writer_address, is_isolated)
               SELECT 1, n, 'stored', 0, zeroblob(32), 0, n, 1, '', 0 FROM number";
    connection.execute(sql, [all as i64]).unwrap();
    let end = most * 90 / 100;
    let stored = "SELECT count(*) FROM artifacts WHERE state = 'stored'";
    fixture.wait_until(stored, end as i64);
    counters_are_facts(&fixture);
}

#[test]
fn only_the_kind_whose_eviction_was_cut_goes_on_below_95_percent() {
    let db = Db::new();
    for time in 0..92 {
        db.add(Trusted, KIB - 512, time);
        db.add(Isolated, KIB - 512, time);
    }
    let limits = limits(100 * KIB, 100 * KIB);
    let rest = |unfinished| {
        let disk = wide(&db);
        let plan = eviction::plan(&db.connection, &limits, &disk, |_| false, unfinished, 100);
        let courses = plan.unwrap()?;
        let [isolated, trusted] = courses.map(|mut course| {
            eviction::count_all(&db.connection, &mut course)
                .unwrap()
                .total()
                .artifacts
        });
        Some((trusted, isolated))
    };
    assert_eq!(rest([false, false]), None);
    assert_eq!(rest([true, false]), Some((2, 0)));
    assert_eq!(rest([false, true]), Some((0, 2)));
}

#[test]
fn a_file_of_which_much_is_free_is_shrunk() {
    let fixture = Fixture::new();
    let large = 100 * 1024 * 1024 / CHUNK_BYTES;
    fixture.put("large", &bytes(large * CHUNK_BYTES, 1));
    fixture.put("last", &bytes(4 * CHUNK_BYTES, 2));
    let length = || std::fs::metadata(fixture.path()).unwrap().len();
    let deadline = Instant::now() + WAIT;
    while length() < 64 * 1024 * 1024 {
        assert!(Instant::now() < deadline, "the log is not folded");
        std::thread::sleep(Duration::from_millis(10));
    }
    let deadline = Instant::now() + WAIT;
    fixture
        .store
        .writer
        .submit(Weight::Small(0), |connection| {
            let sql = "UPDATE artifacts SET state = 'condemned', condemned_at_ms = 0, condemned_reason = 'size'
                       WHERE hash = 'large'";
            Ok(connection.execute(sql, [])?)
        })
        .wait(deadline)
        .unwrap();
    while length() > 10 * 1024 * 1024 {
        assert!(Instant::now() < deadline, "{} bytes", length());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(fixture.get_from([&fixture.scope], "last") == Some(bytes(4 * CHUNK_BYTES, 2)));
    assert_eq!(
        fixture.count("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"),
        0
    );
}
