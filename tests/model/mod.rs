//! The store against a model: random sequences of all that servers and commands do to it, and after each step the
//! file holds what plain maps say (`rules`).
//!
//! Compiled into the crate (`store/mod.rs`), whose clock it sets and whose housekeeper it ticks.
//!
//! A sequence follows from its seed. One that fails is told with the fewest steps that still fail, and repeated by
//! `CACHESRV_TEST_SEED=… CACHESRV_TEST_ROUNDS=1`. The clock of a sequence is a number: it stands still but where a
//! step lets it go on, so the model knows every time to the millisecond.

mod agree;
mod entries;
mod play;
#[path = "../support/random.rs"]
#[allow(dead_code)]
mod random;
mod rules;
mod steps;
mod tools;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::tests::{WAIT, options};
use super::*;
use play::{Play, World};
use random::rounds;
use steps::{Step, draw, shrink};
use tools::*;

/// When every sequence begins.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// Sequences of a run in CI.
const ROUNDS: u64 = 2_000;

/// Sequences at once: commands sleep between their transactions.
const THREADS: u64 = 8;

thread_local! {
    static CLOCK: RefCell<Option<Arc<AtomicI64>>> = const { RefCell::new(None) };
}

/// The time by the clock of the sequence that this thread belongs to.
pub(super) fn clock_ms() -> Option<i64> {
    CLOCK.with_borrow(|clock| clock.as_ref().map(|clock| clock.load(Ordering::SeqCst)))
}

/// Where sequences are played: a store that is used again after all was taken out of it.
struct Bench {
    directory: tempfile::TempDir,
    number: u32,
    store: Option<Store>,
    admin: Option<Admin>,
    clock: Arc<AtomicI64>,
    quota: (u64, u64),
}

/// What a segment of a sequence, played on one open store, ends with.
enum Next {
    End,
    Reopen,
    /// Goes on with these files.
    Crash(PathBuf),
    Restore(usize),
}

impl Bench {
    fn new(quota: (u64, u64)) -> Self {
        // Memory, where there is enough of it: isolated uploads leave 1 GiB.
        let memory = Path::new("/dev/shm");
        let is_roomy = memory.is_dir() && space::free_bytes(&memory.join("x")) > 4 << 30;
        let directory = if is_roomy {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let mut bench = Self {
            directory: directory.unwrap(),
            number: 0,
            store: None,
            admin: None,
            clock: Arc::new(AtomicI64::new(BEGIN_MS)),
            quota,
        };
        bench.open();
        bench
    }

    fn path(&self) -> PathBuf {
        self.directory
            .path()
            .join(format!("{}/cachesrv.db", self.number))
    }

    fn enter(&self) {
        CLOCK.set(Some(Arc::clone(&self.clock)));
    }

    fn open(&mut self) {
        let path = self.path();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.enter();
        let options = Options {
            upload_memory_bytes: 256 << 20,
            isolated: IsolatedLimits {
                scope_max_bytes: self.quota.0,
                workspace_max_bytes: self.quota.1,
            },
            ..options(&path)
        };
        let store = Store::open(&options).unwrap();
        let clock = Arc::clone(&self.clock);
        on_writer(&store, move |_| {
            CLOCK.set(Some(clock));
            Ok(())
        })
        .unwrap();
        self.store = Some(store);
        self.admin = Some(Admin::open(&path).unwrap());
    }

    fn close(&mut self) {
        self.admin = None;
        self.store = None;
    }

    /// Takes everything out: what is left is what a new file holds.
    fn wipe(&mut self) {
        let store = self.store.as_ref().unwrap();
        store.leftovers.condemn(&store.writer, WAIT);
        on_writer(store, |connection| {
            let sql = "UPDATE artifacts SET state = 'condemned', condemned_at_ms = 0, condemned_reason = 'purged'
                           WHERE state <> 'condemned';
                       DELETE FROM chunks; DELETE FROM artifacts; DELETE FROM tokens;
                       DELETE FROM isolated_usage; DELETE FROM trusted_usage WHERE scope_id > 1;
                       DELETE FROM isolated_totals WHERE workspace_id > 1;
                       DELETE FROM scopes WHERE id > 1; DELETE FROM workspaces WHERE id > 1;
                       DELETE FROM evictions_by_day; DELETE FROM backups;
                       UPDATE sqlite_sequence SET seq = name IN ('workspaces', 'scopes')";
            Ok(connection.execute_batch(sql)?)
        })
        .unwrap();
        self.clock.store(BEGIN_MS, Ordering::SeqCst);
    }

    /// Plays a sequence from an empty store.
    fn play(&mut self, steps: &[Step]) -> Outcome {
        self.enter();
        self.wipe();
        let mut world = World::new(BEGIN_MS, self.quota);
        let mut at = 0;
        loop {
            let path = self.path();
            let (store, admin) = (self.store.as_ref().unwrap(), self.admin.as_mut().unwrap());
            let play = Play::new(store, admin, &path, &self.clock);
            let next = play.segment(&mut world, steps, &mut at)?;
            match next {
                Next::End => break,
                Next::Reopen => {
                    self.close();
                    let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
                    same("files after a clean stop", left, 1)?;
                    self.open();
                }
                Next::Crash(files) => {
                    self.close();
                    self.number += 1;
                    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::rename(files, self.path().parent().unwrap()).unwrap();
                    self.open();
                }
                Next::Restore(number) => {
                    self.close();
                    let (backup, ..) = &world.backups[number];
                    let restored = Restore::prepare(backup, &path, true).must("restore")?;
                    let restored = restored.run(&Arc::default(), &mut |_| {}).must("restore")?;
                    ensure!(
                        restored.verdict.is_ok(),
                        "a backup is not sound: {:?}",
                        restored.verdict
                    );
                    self.open();
                }
            }
        }
        for (backup, ..) in world.backups {
            std::fs::remove_file(backup).must("removing a backup")?;
        }
        Ok(())
    }
}

/// A sequence and where it is played: by its seed alone.
fn sequence(seed: u64) -> (bool, Vec<Step>) {
    let has_large = seed % 20 == 19;
    (has_large, draw(seed, has_large))
}

fn bench(has_large: bool) -> Bench {
    // So that a few uploads fill them.
    Bench::new(if has_large {
        (2_600_000, 3_900_000)
    } else {
        (1200, 2000)
    })
}

/// Plays it; a bench on which something failed is not used again.
fn play(place: &mut Option<Bench>, has_large: bool, steps: &[Step]) -> Outcome {
    let mut bench = place.take().unwrap_or_else(|| bench(has_large));
    let outcome = catch_unwind(AssertUnwindSafe(|| bench.play(steps)));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    });
    if outcome.is_ok() {
        *place = Some(bench);
    }
    outcome
}

#[test]
fn the_store_does_what_the_model_says() {
    let given = std::env::var("CACHESRV_TEST_SEED").ok();
    let clock = || UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    let first = given.map_or_else(clock, |text| {
        text.parse().expect("CACHESRV_TEST_SEED is a number")
    });
    let rounds = rounds(ROUNDS);
    println!("to repeat this run: CACHESRV_TEST_SEED={first} CACHESRV_TEST_ROUNDS={rounds}");
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(rounds) {
            scope.spawn(|| {
                let mut benches = [None, None];
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= rounds || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let seed = first.wrapping_add(round);
                    let (has_large, steps) = sequence(seed);
                    let place = &mut benches[usize::from(has_large)];
                    if let Err(error) = play(place, has_large, &steps) {
                        failed.lock().unwrap().get_or_insert((seed, error));
                    }
                }
            });
        }
    });
    println!("{rounds} sequences in {:?}", began.elapsed());
    if let Some((seed, error)) = failed.into_inner().unwrap() {
        tell(seed, &error);
    }
    let seen = SEEN.lock().unwrap();
    println!("{seen:#?}");
    if rounds >= ROUNDS {
        for what in ALL_SEEN {
            assert!(seen.contains_key(*what), "never happened: {what}");
        }
    }
}

/// What must happen in a run of CI.
const ALL_SEEN: &[&str] = &[
    "Crash",
    "Reopen",
    "Restore",
    "backup",
    "verify",
    "begin Admitted",
    "begin Exists",
    "begin Forbidden",
    "begin OverScope",
    "begin OverWorkspace",
    "begin Unauthorized",
    "finish Died",
    "finish Exists",
    "finish Stored",
    "finish incomplete",
    "gc isolated=false age",
    "gc isolated=false size",
    "gc isolated=true age",
    "gc isolated=true size",
    "get large",
    "get left open",
    "get nothing",
    "get small",
    "purge Hash transitive=false some",
    "purge Hash transitive=true some",
    "purge Scope transitive=false some",
    "purge Token transitive=false some",
    "purge Token transitive=true some",
    "purge Workspace transitive=false some",
    "race",
    "read what is hidden",
    "revoke already",
    "revoke done",
    "revoke not found",
    "rotate false",
    "rotate true",
    "tick isolated=false size",
    "tick isolated=true size",
    "token create Done",
    "token create NameTaken",
];

/// Says how little it takes to fail.
fn tell(seed: u64, error: &str) -> ! {
    let (has_large, steps) = sequence(seed);
    let last = RefCell::new(error.to_owned());
    let fewest = shrink(steps, |fewer| match play(&mut None, has_large, fewer) {
        Ok(()) => false,
        Err(error) => {
            last.replace(error);
            true
        }
    });
    let told: Vec<String> = fewest.iter().map(|step| format!("  {step:?}")).collect();
    panic!(
        "the sequence of seed {seed} fails:\n{error}\n\n{} steps are enough:\n{}\n{}\n
to repeat it alone: CACHESRV_TEST_SEED={seed} CACHESRV_TEST_ROUNDS=1",
        fewest.len(),
        told.join("\n"),
        last.borrow(),
    );
}
