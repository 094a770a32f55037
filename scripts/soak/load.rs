//! The clients: writers and readers of trusted and isolated artifacts, one that reads the same all the time, and
//! one that may do nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::book::{self, Entry};
use crate::random::Random;
use crate::wire::{Outcome, Wire};
use crate::world::World;

const TRUSTED_WRITERS: u64 = 3;
const TRUSTED_READERS: u64 = 3;
const ISOLATED_CLIENTS: u64 = 2;

/// Isolated scopes that are written to.
const SCOPES: u64 = 6;

/// Percent of the budget that is filled before the load begins, by artifacts of this size.
const FILLED: u64 = 92;
const FILLING_BYTES: usize = 2 << 20;

/// Bytes a second that trusted writers store, readers read, isolated clients store.
const WRITE_BYTES: u64 = 10 << 20;
const READ_BYTES: u64 = 30 << 20;
const ISOLATED_BYTES: u64 = 3 << 20;

/// How many artifacts are read every few seconds. Eviction takes them only where the server cannot know that, for it
/// writes down the reads of an old artifact more rarely; another takes the place of one that is gone.
const PINNED: usize = 24;
const PIN_SIZES: [usize; 3] = [300, 40_000, 700_000];
const PIN_READ: Duration = Duration::from_secs(2);

/// How far a pace may fall behind.
const LATE_MAX: Duration = Duration::from_secs(1);

/// So many bytes a second, all threads that share it together.
struct Pace {
    bytes_per_second: u64,
    spent_bytes: AtomicU64,
    began: OnceLock<Instant>,
}

impl Pace {
    const fn of(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            spent_bytes: AtomicU64::new(0),
            began: OnceLock::new(),
        }
    }

    /// Waits until these bytes are due.
    fn spend(&self, world: &World, bytes: u64) {
        let began = *self.began.get_or_init(Instant::now);
        let before = self.spent_bytes.fetch_add(bytes, Ordering::SeqCst);
        let due = Duration::from_secs_f64(before as f64 / self.bytes_per_second as f64);
        // What was missed in a pause is not made up for: it would push out what is read all the time.
        let late = began.elapsed().saturating_sub(due + LATE_MAX);
        let missed_bytes = late.as_secs_f64() * self.bytes_per_second as f64;
        self.spent_bytes
            .fetch_add(missed_bytes as u64, Ordering::SeqCst);
        world.rest(due.saturating_sub(began.elapsed()));
    }
}

static WRITES: Pace = Pace::of(WRITE_BYTES);
static READS: Pace = Pace::of(READ_BYTES);
static ISOLATED: Pace = Pace::of(ISOLATED_BYTES);

/// A size: mostly small, rarely many chunks.
fn size(random: &mut Random) -> usize {
    let within =
        |from: u64, to: u64, random: &mut Random| (from + random.below(to - from)) as usize;
    match random.below(100) {
        0..80 => within(100, 2_500, random),
        80..95 => within(20_000, 80_000, random),
        95..99 => within(300_000, 1_000_000, random),
        _ => within(4_000_000, 12_000_000, random),
    }
}

/// Stores what is read all the time.
pub fn pin(world: &World) -> Result<()> {
    let mut random = world.random(0);
    let mut wire = Wire::new(world);
    for number in 0..PINNED {
        let size = PIN_SIZES[number % PIN_SIZES.len()];
        world.book.pin(stored(world, &mut wire, &mut random, size)?);
    }
    Ok(())
}

/// Fills the budget of trusted artifacts, so that eviction has work from the first minute on.
pub fn fill(world: &World) -> Result<()> {
    let mut random = world.random(2);
    let mut wire = Wire::new(world);
    let budget_bytes = book::MAX_SIZE_BYTES / 100 * (100 - book::ISOLATED_SHARE);
    for _ in 0..budget_bytes / 100 * FILLED / FILLING_BYTES as u64 {
        let entry = stored(world, &mut wire, &mut random, FILLING_BYTES)?;
        world.book.promise(entry);
    }
    Ok(())
}

/// A new artifact of this size, which was acknowledged.
fn stored(world: &World, wire: &mut Wire<'_>, random: &mut Random, size: usize) -> Result<Entry> {
    let entry = Entry::new(None, random, size);
    match wire.put(&world.writer(), &entry.hash, &entry.bytes()) {
        Outcome::Answered(answer) if answer.status == 200 => Ok(entry),
        _ => bail!("cannot store {}", entry.hash),
    }
}

pub fn start<'scope>(world: &'scope World, scope: &'scope Scope<'scope, '_>) {
    for number in 0..TRUSTED_WRITERS {
        scope.spawn(move || write(world, world.random(100 + number)));
    }
    for number in 0..TRUSTED_READERS {
        scope.spawn(move || read(world, world.random(200 + number), number == 0));
    }
    for number in 0..ISOLATED_CLIENTS {
        scope.spawn(move || isolated(world, world.random(300 + number)));
    }
    scope.spawn(move || strangers(world, world.random(400)));
}

/// Stores an artifact; once the server that it died with is back, again.
fn store(world: &World, wire: &mut Wire<'_>, token: impl Fn() -> String, entry: Entry) {
    let bytes = entry.bytes();
    let mut may_be_there = false;
    loop {
        match wire.put(&token(), &entry.hash, &bytes) {
            Outcome::Answered(answer) => {
                match answer.status {
                    200 => world.book.promise(entry),
                    409 if may_be_there => {
                        world.count("PUT whose answer died, and had been stored");
                        world.book.promise(entry);
                    }
                    403 => {
                        let why = String::from_utf8_lossy(&answer.body).trim().to_owned();
                        world.count(&format!("PUT not stored: {why}"));
                    }
                    status => world.breaks(&format!("PUT {}: {status}", entry.hash)),
                }
                return;
            }
            Outcome::Killed if !world.is_stopping() => may_be_there = true,
            Outcome::Killed | Outcome::Failed => return,
        }
    }
}

/// Holds the answer to a GET against the book; whether it is there.
fn check(world: &World, entry: &Entry, outcome: &Outcome) -> bool {
    let Outcome::Answered(answer) = outcome else {
        return false;
    };
    match answer.status {
        200 if answer.body == entry.bytes() => {
            world.count("GET checked to the byte");
            return true;
        }
        200 => world.breaks(&format!("GET {}: other bytes than were stored", entry.hash)),
        404 => match world.must("a miss", world.book.why_due(world, entry)) {
            Some(Some(why)) => world.breaks(&format!("GET {}: gone; {why}", entry.hash)),
            Some(None) => world.count("GET miss that eviction explains"),
            None => {}
        },
        status => world.breaks(&format!("GET {}: {status}", entry.hash)),
    }
    false
}

fn write(world: &World, mut random: Random) {
    let mut wire = Wire::new(world);
    while !world.is_stopping() {
        let size = size(&mut random);
        WRITES.spend(world, size as u64);
        let entry = Entry::new(None, &mut random, size);
        store(world, &mut wire, || world.writer(), entry);
    }
}

fn read(world: &World, mut random: Random, as_writer: bool) {
    let mut wire = Wire::new(world);
    while !world.is_stopping() {
        let token = if as_writer {
            world.writer()
        } else {
            world.reader.clone()
        };
        // What isolated clients store does not exist for a trusted one.
        if random.below(20) == 0
            && let Some(entry) = world.book.pick(true, &mut random)
        {
            let outcome = wire.get(&token, &entry.hash);
            must_be_hidden(world, &entry, &outcome);
        }
        let Some(entry) = world.book.pick(false, &mut random) else {
            world.rest(Duration::from_millis(20));
            continue;
        };
        READS.spend(world, entry.size as u64);
        let outcome = wire.get(&token, &entry.hash);
        check(world, &entry, &outcome);
    }
}

fn must_be_hidden(world: &World, entry: &Entry, outcome: &Outcome) {
    match outcome {
        Outcome::Answered(answer) if answer.status == 404 => {
            world.count("GET of another scope, hidden");
        }
        Outcome::Answered(answer) => {
            world.breaks(&format!(
                "GET {} of another scope: {}",
                entry.hash, answer.status
            ));
        }
        Outcome::Killed | Outcome::Failed => {}
    }
}

fn isolated(world: &World, mut random: Random) {
    let mut wire = Wire::new(world);
    while !world.is_stopping() {
        let scope = random.below(SCOPES);
        let size = size(&mut random);
        ISOLATED.spend(world, size as u64);
        wire.at(&format!("/s/pr-{scope}"));
        let entry = Entry::new(Some(scope), &mut random, size);
        store(world, &mut wire, || world.isolated.clone(), entry);
        // Trusted artifacts are there for it, and its reads keep none of them.
        for is_isolated in [true, true, false] {
            let Some(entry) = world.book.pick(is_isolated, &mut random) else {
                continue;
            };
            let is_hidden = entry.scope.is_some_and(|of| of != scope);
            let outcome = wire.get(&world.isolated, &entry.hash);
            if is_hidden {
                must_be_hidden(world, &entry, &outcome);
            } else {
                check(world, &entry, &outcome);
            }
        }
    }
}

/// Reads the pinned artifacts, again and again.
pub fn read_pins(world: &World, has_ended: &AtomicBool) {
    let mut wire = Wire::new(world);
    let mut random = world.random(3);
    while !has_ended.load(Ordering::SeqCst) {
        let (began_ms, mut all_there) = (book::now_ms(), true);
        for entry in world.book.pins(began_ms) {
            let outcome = wire.get(&world.reader, &entry.hash);
            let is_there = check(world, &entry, &outcome);
            all_there &= is_there;
            if !is_there && let Outcome::Answered(_) = outcome {
                world.book.unpin(&entry);
                world.count("pinned artifacts that eviction took");
                // Where it dies with the server, there is one less.
                if let Ok(next) = stored(world, &mut wire, &mut random, entry.size) {
                    world.book.pin(next);
                }
            }
        }
        if all_there {
            world.book.pins_were_read(began_ms);
        }
        world.count("pinned artifacts read, rounds");
        let began = Instant::now();
        while began.elapsed() < PIN_READ && !has_ended.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whoever holds no token of ours is refused, whatever else happens.
fn strangers(world: &World, mut random: Random) {
    let mut wire = Wire::new(world);
    while !world.is_stopping() {
        let hash = format!("{:016x}", random.number());
        match wire.get("csrv_none", &hash) {
            Outcome::Answered(answer) if answer.status != 401 => {
                world.breaks(&format!("a stranger got {}", answer.status));
            }
            _ => {}
        }
        world.rest(Duration::from_millis(50));
    }
}

/// When the load is over: everything that is remembered, once more.
pub fn read_everything(world: &World) {
    let mut wire = Wire::new(world);
    let pins = world.book.pins(book::now_ms());
    for entry in pins.into_iter().chain(world.book.all()) {
        wire.at(&entry
            .scope
            .map_or_else(String::new, |scope| format!("/s/pr-{scope}")));
        let token = if entry.scope.is_some() {
            &world.isolated
        } else {
            &world.reader
        };
        let outcome = wire.get(token, &entry.hash);
        check(world, &entry, &outcome);
    }
}
