//! Operations that fail: the kinds that `tests/preload/fail.c` knows, and series in which the first operation fails,
//! then the second, until all goes through.

use std::time::{Duration, Instant};

use super::preload::Control;
use super::random::{Random, rounds};

/// Numbers of the page, as in the library.
mod word {
    pub const ARMED: u64 = 0;
    pub const KINDS: u64 = 1;
    pub const NTH: u64 = 2;
    pub const MODE: u64 = 3;
    pub const ERROR: u64 = 4;
    pub const SHORT: u64 = 5;
    pub const THREADS: u64 = 6;
    pub const COUNT: u64 = 7;
    pub const HIT: u64 = 8;
    pub const READY: u64 = 9;
}

/// What takes so long is worth a line: some busy wait, most likely.
const SLOW: Duration = Duration::from_secs(2);

/// The library is loaded and has found SQLite's memory.
const READY: u64 = 2;

const EINTR: u64 = 4;
const EIO: u64 = 5;
const ENOMEM: u64 = 12;
const EMFILE: u64 = 24;
const ENOSPC: u64 = 28;

/// Which operation fails, and how.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// For the table.
    pub name: &'static str,
    kind: u64,
    error: u64,
    short: u64,
    /// It only delays: whoever asked must not notice.
    pub is_harmless: bool,
}

const fn fault(name: &'static str, kind: u64, error: u64) -> Fault {
    Fault {
        name,
        kind,
        error,
        short: 0,
        is_harmless: false,
    }
}

const fn short(name: &'static str, short: u64, is_harmless: bool) -> Fault {
    Fault {
        short,
        is_harmless,
        ..fault(name, 1, ENOSPC)
    }
}

const fn interrupted(name: &'static str, kind: u64) -> Fault {
    Fault {
        is_harmless: true,
        ..fault(name, kind, EINTR)
    }
}

pub const READ_EIO: Fault = fault("read EIO", 0, EIO);
pub const WRITE_EIO: Fault = fault("write EIO", 1, EIO);
pub const WRITE_ENOSPC: Fault = fault("write ENOSPC", 1, ENOSPC);
/// A write writes a half, and the rest goes on as if nothing were.
pub const WRITE_SHORT: Fault = short("short write", 1, true);
/// The rest finds no room.
pub const WRITE_SHORT_ENOSPC: Fault = short("short write, ENOSPC", 2, false);
pub const SYNC_EIO: Fault = fault("sync EIO", 2, EIO);
pub const TRUNCATE_EIO: Fault = fault("truncate EIO", 3, EIO);
pub const TRUNCATE_ENOSPC: Fault = fault("truncate ENOSPC", 3, ENOSPC);
pub const ALLOCATE_ENOSPC: Fault = fault("fallocate ENOSPC", 4, ENOSPC);
pub const OPEN_EIO: Fault = fault("open EIO", 5, EIO);
pub const OPEN_EMFILE: Fault = fault("open EMFILE", 5, EMFILE);
pub const MAP_ENOMEM: Fault = fault("mmap ENOMEM", 6, ENOMEM);
pub const UNLINK_EIO: Fault = fault("unlink EIO", 7, EIO);
pub const MEMORY: Fault = fault("malloc of SQLite", 8, ENOMEM);
pub const STAT_EIO: Fault = fault("fstat EIO", 9, EIO);
pub const READ_EINTR: Fault = interrupted("read EINTR", 0);
pub const WRITE_EINTR: Fault = interrupted("write EINTR", 1);
pub const TRUNCATE_EINTR: Fault = interrupted("truncate EINTR", 3);
pub const OPEN_EINTR: Fault = interrupted("open EINTR", 5);

/// One of each kind.
const USUAL: [Fault; 12] = [
    READ_EIO,
    WRITE_EIO,
    WRITE_ENOSPC,
    WRITE_SHORT_ENOSPC,
    SYNC_EIO,
    TRUNCATE_ENOSPC,
    OPEN_EIO,
    MAP_ENOMEM,
    UNLINK_EIO,
    MEMORY,
    READ_EINTR,
    WRITE_EINTR,
];

/// The others: variants, and what nothing asks for today.
const RARE: [Fault; 7] = [
    WRITE_SHORT,
    TRUNCATE_EIO,
    ALLOCATE_ENOSPC,
    OPEN_EMFILE,
    STAT_EIO,
    TRUNCATE_EINTR,
    OPEN_EINTR,
];

/// All faults.
pub fn all() -> Vec<Fault> {
    [&USUAL[..], &RARE].concat()
}

/// All of them in a long run, the usual ones in CI: for what takes a process for each.
pub fn usual() -> Vec<Fault> {
    if rounds(0) > 0 { all() } else { USUAL.to_vec() }
}

/// Whose operations count: masks of what the library calls threads.
pub mod threads {
    pub const ALL: u64 = u64::MAX;
    pub const REQUEST: u64 = 1 << 1 | 1 << 2;
    pub const CHECKPOINTER: u64 = 1 << 3;
    pub const UPKEEP: u64 = 1 << 2 | 1 << 4;
    pub const OTHER: u64 = 1 << 5;
}

/// How many of the operations fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One.
    Once,
    /// That one and all after it, until the trap is taken away.
    On,
}

/// One fault at one place.
pub struct Trap<'c> {
    control: &'c Control,
    pub fault: Fault,
    pub nth: u64,
    extent: Extent,
    threads: u64,
}

impl Trap<'_> {
    /// Does something while the trap is there.
    pub fn during<T>(&self, operation: impl FnOnce() -> T) -> T {
        self.set();
        let outcome = operation();
        self.clear();
        outcome
    }

    pub fn set(&self) {
        let control = self.control;
        for (word, number) in [
            (word::KINDS, 1 << self.fault.kind),
            (word::NTH, self.nth),
            (word::MODE, u64::from(self.extent == Extent::On)),
            (word::ERROR, self.fault.error),
            (word::SHORT, self.fault.short),
            (word::THREADS, self.threads),
            (word::COUNT, 0),
            (word::HIT, 0),
            (word::ARMED, 1),
        ] {
            control.set(word, number);
        }
    }

    pub fn clear(&self) {
        self.control.set(word::ARMED, 0);
        let ready = self.control.get(word::READY);
        assert_eq!(ready, READY, "SQLite's memory was not found");
    }

    /// How many operations failed.
    pub fn hits(&self) -> u64 {
        self.control.get(word::HIT)
    }

    /// Whether the operation must succeed: nothing failed, or nothing that may be noticed.
    pub fn is_harmless(&self) -> bool {
        self.hits() == 0 || self.fault.is_harmless
    }

    /// Where it is, for a message.
    pub fn place(&self) -> String {
        format!(
            "{} {:?} from the {}. operation on, hit {} times",
            self.fault.name,
            self.extent,
            self.nth,
            self.hits()
        )
    }
}

/// Series of one operation.
pub struct Series<'c> {
    pub control: &'c Control,
    pub operation: &'static str,
    pub threads: u64,
    /// Places tried of each fault in CI; `CACHESRV_TEST_ROUNDS` says otherwise.
    pub usual: u64,
}

impl Series<'_> {
    /// Lets each of `faults` happen at one place after the other, once and for good.
    pub fn run(&self, random: &mut Random, faults: &[Fault], mut attempt: impl FnMut(&Trap)) {
        for &fault in faults {
            let mut attempt = |trap: &Trap| {
                let began = Instant::now();
                attempt(trap);
                let took = began.elapsed();
                if took > SLOW {
                    println!("{}: {took:?} with {}", self.operation, trap.place());
                }
            };
            // Nothing fails, and says how much could.
            attempt(&self.trap(fault, Extent::Once, u64::MAX));
            let operations = self.control.get(word::COUNT);
            self.run_one(random, fault, Extent::Once, operations, &mut attempt);
            // An interruption or a part of a write that comes again and again is no fault but a standstill.
            if !fault.is_harmless {
                self.run_one(random, fault, Extent::On, operations, &mut attempt);
            }
        }
    }

    fn trap(&self, fault: Fault, extent: Extent, nth: u64) -> Trap<'_> {
        Trap {
            control: self.control,
            fault,
            nth,
            extent,
            threads: self.threads,
        }
    }

    fn run_one(
        &self,
        random: &mut Random,
        fault: Fault,
        extent: Extent,
        operations: u64,
        attempt: &mut impl FnMut(&Trap),
    ) {
        let trap = |nth| self.trap(fault, extent, nth);
        let (mut cases, mut hit) = (0, 0);
        for nth in places(random, operations, rounds(self.usual)) {
            let trap = trap(nth);
            attempt(&trap);
            cases += 1;
            hit += u64::from(trap.hits() > 0);
        }
        // The end: behind the last operation nothing is hit. What was found in memory the first time may not be later.
        let mut beyond = operations + 1;
        // One that did not come fails neither once nor for good.
        let mut is_open = operations > 0 && extent == Extent::Once;
        while is_open {
            let trap = trap(beyond);
            attempt(&trap);
            cases += 1;
            is_open = trap.hits() > 0;
            hit += u64::from(is_open);
            beyond += beyond / 2 + 1;
            assert!(
                beyond < 1 << 30,
                "{}: {} has no end",
                self.operation,
                fault.name
            );
        }
        println!(
            "nth_failure: {} | {} {extent:?} | operations={operations} cases={cases} hit={hit}",
            self.operation, fault.name,
        );
    }
}

/// All places from 1 to `last`, or so many of them: the first and the last ones, and others by chance.
fn places(random: &mut Random, last: u64, wanted: u64) -> Vec<u64> {
    if last <= wanted {
        return (1..=last).collect();
    }
    let mut places: Vec<u64> = (0..wanted)
        .map(|part| {
            // One of each part.
            let (from, to) = (part * last / wanted, (part + 1) * last / wanted);
            1 + from + random.below(to - from)
        })
        .collect();
    places.dedup();
    places
}
