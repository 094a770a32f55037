//! A disk that fills up while clients store and read, and has room again later. Builds never fail for it: an upload is
//! stored or it is not, a download is right or a miss. Once there is room, all goes on by itself.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use support::disk::{DISK_FULL, SmallDisk};
use support::entries::counters_are_facts;
use support::{Random, eventually, noise, rounds};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Sizes of what is stored under load: within a page, in one commit, in several.
const SIZES: [usize; 4] = [300, 20_000, 300_000, 2_500_000];

/// Clients that store and read while the disk is what it is; each status that no build survives ends the test.
struct Builds<'s> {
    small: &'s SmallDisk,
    stop: AtomicBool,
    stored: AtomicU64,
    refused: AtomicU64,
}

impl<'s> Builds<'s> {
    fn new(small: &'s SmallDisk) -> Self {
        Self {
            small,
            stop: AtomicBool::new(false),
            stored: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// One client; what it stored, which was there at least at once.
    fn run(&self, client: u64) -> Vec<(u64, usize)> {
        let mut stored = Vec::new();
        for turn in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let number = client << 32 | turn;
            let size = SIZES[turn as usize % SIZES.len()];
            // One that was stored is read; another may have been evicted meanwhile.
            if self.small.put(&number.to_string(), &noise(number, size)) {
                self.stored.fetch_add(1, Ordering::Relaxed);
                stored.push((number, size));
            } else {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(&(number, size)) = stored.get(turn as usize / 2) {
                self.reads(number, size);
            }
        }
        stored
    }

    /// A GET gets the right bytes, or a miss.
    fn reads(&self, number: u64, size: usize) {
        let answer = self.small.server.client(&self.small.token);
        let answer = { answer }.get(&number.to_string());
        match answer.status {
            200 => assert!(answer.body == noise(number, size), "{number}: wrong bytes"),
            404 => {}
            status => panic!("{status} for {number}: {}", answer.text()),
        }
    }

    /// Waits until so many more uploads had this outcome.
    fn wait(what: &str, counter: &AtomicU64, more: u64) {
        let from = counter.load(Ordering::Relaxed);
        eventually(what, || {
            (counter.load(Ordering::Relaxed) >= from + more).then_some(())
        });
    }
}

/// All that was acknowledged and did not go by itself is there, the file is sound, and so is its copy.
fn ends_well(small: &SmallDisk, stored: &[(u64, usize)], may_be_evicted: bool) {
    let mut client = small.server.client(&small.token);
    for &(number, size) in stored {
        let answer = client.get(&number.to_string());
        let is_there = answer.status == 200 && answer.body == noise(number, size);
        assert!(
            is_there || may_be_evicted && answer.status == 404,
            "{number}"
        );
    }
    small.nothing_is_left_over();
    let copy = eventually("the log is folded", || small.copy());
    counters_are_facts(&copy);
    small.cli(&["verify"]);
}

/// Three clients at work while others fill the disk to the last byte, again and again.
fn fills_up_and_is_freed(settings: &[&str]) {
    let small = SmallDisk::start(192, 0, settings);
    let builds = Builds::new(&small);
    let stored: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|client| {
                let builds = &builds;
                scope.spawn(move || builds.run(client))
            })
            .collect();
        for _ in 0..rounds(1) {
            Builds::wait("uploads are stored", &builds.stored, 20);
            small.fill();
            Builds::wait("uploads are refused", &builds.refused, 20);
            small.free("rest");
        }
        Builds::wait("uploads are stored again", &builds.stored, 3);
        builds.stop.store(true, Ordering::Relaxed);
        let ended = clients
            .into_iter()
            .map(|client| client.join().expect("a client"));
        ended.flatten().collect()
    });
    ends_well(&small, &stored, true);
}

#[test]
fn builds_go_on_while_others_fill_the_disk_and_free_it() {
    fills_up_and_is_freed(&["eviction.min_free_disk=16MiB", "eviction.max_size=64MiB"]);
}

#[test]
fn builds_go_on_where_each_commit_waits_for_a_disk_without_a_floor() {
    fills_up_and_is_freed(&[
        "eviction.min_free_disk=0",
        "eviction.max_size=64MiB",
        "durability.synchronous=full",
    ]);
}

/// The last kilobytes: what fails in the middle of a transaction, of a fold or of a mapping leaves nothing behind.
#[test]
fn whatever_little_is_free_an_upload_is_stored_or_refused() {
    let mut random = Random::seeded();
    for synchronous in ["normal", "full"] {
        let synchronous = format!("durability.synchronous={synchronous}");
        let settings = ["eviction.min_free_disk=0", &synchronous];
        let small = SmallDisk::start(64, 0, &settings);
        let mut stored = Vec::new();
        let mut number = 0;
        let mut put = |size| {
            number += 1;
            let is_stored = small.put(&number.to_string(), &noise(number, size));
            stored.extend(is_stored.then_some((number, size)));
            is_stored
        };
        assert!(put(1_000_000));
        let mut free = vec![0, 4 * KIB, 16 * KIB, 20 * KIB, 36 * KIB];
        free.extend([64 * KIB, 128 * KIB, 512 * KIB, 3 * MIB]);
        free.extend((0..rounds(3)).map(|_| random.below(3 * MIB) / 4096 * 4096));
        for left in free {
            small.fill_but(left);
            for size in SIZES {
                put(size);
            }
            // The clients of others see that, too.
            assert_eq!(small.server.stranger().get("1").status, 401);
            small.free("rest");
            // At once, without a restart, whatever is reserved or was begun before.
            assert!(put(300), "{left} bytes were free");
        }
        // A promise that is not given back would be missing here.
        small.fill_but(30 * MIB);
        for _ in 0..20 {
            eventually("there is room for one that is cut", || {
                let mut client = small.server.client(&small.token);
                (client.ask_to_put("cut", 10_000_000) == 100).then_some(())
            });
        }
        eventually("what is free can be used", || put(10_000_000).then_some(()));
        small.free("rest");
        ends_well(&small, &stored, false);
    }
}

/// What is free inside the file is no room for the log. So little of it is not given back for its own sake.
#[test]
fn free_pages_of_the_file_become_room_where_others_fill_the_disk() {
    free_pages_become_room("40MiB", 5 * MIB, 10 << 20);
    // An upload that is larger than the floor: it needs as much for the log, and as much again for the file.
    free_pages_become_room("16MiB", 30 * MIB, 40 << 20);
}

fn free_pages_become_room(floor: &str, left_bytes: u64, large_bytes: usize) {
    let floor = format!("eviction.min_free_disk={floor}");
    let small = SmallDisk::start(256, 0, &[&floor]);
    for number in 0..6 {
        assert!(small.put(&number.to_string(), &noise(number, 10 << 20)));
    }
    small.cli(&["purge", "--since", "1h"]);
    eventually("what was purged is freed", || {
        let copy = small.copy()?;
        (support::dir::number(&copy, "PRAGMA freelist_count") > 3000).then_some(())
    });
    small.fill_but(left_bytes);
    let large = noise(77, large_bytes);
    assert!(!small.put("large", &large), "{DISK_FULL}");
    eventually("there is room by itself", || {
        small.put("large", &large).then_some(())
    });
    small.holds("large", Some(&large));
    ends_well(&small, &[], false);
}

/// A server that starts on a full disk serves what is there, and stores once there is room.
#[test]
fn a_server_starts_on_a_full_disk() {
    for left in [0, 4 * KIB, 64 * KIB, 200 * KIB] {
        let mut small = SmallDisk::start(64, 0, &["eviction.min_free_disk=0"]);
        assert!(small.put("1", &noise(1, 1_000_000)));
        eventually("the log is folded", || small.copy());
        small.fill_but(left);
        small.restart();
        small.holds("1", Some(&noise(1, 1_000_000)));
        small.put("2", &noise(2, 300));
        small.free("rest");
        eventually("there is room", || {
            small.put("3", &noise(3, 300)).then_some(())
        });
        ends_well(&small, &[(1, 1_000_000), (3, 300)], false);
    }
}
