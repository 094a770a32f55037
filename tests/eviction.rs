//! Eviction, against the real executable: what goes when a budget is full, when nobody reads it, when the
//! disk is short; in which order; and what never goes.

mod support;

use std::thread;

use serde_json::{Value, json};
use support::disk::{DISK_FULL, SmallDisk};
use support::entries::{counters_are_facts, nothing_is_left_over};
use support::{Client, Dir, Outcome, Server, eventually, noise};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Starts a server with these settings.
fn serve(dir: &Dir, settings: &[&str]) -> Server {
    let args: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
    Server::start_with(dir, &args)
}

fn put(client: &mut Client, hash: &str, size: usize) {
    let answer = client.put(hash, &noise(1, size));
    assert_eq!(answer.status, 200, "{hash}: {}", answer.text());
}

fn reads(client: &mut Client, hash: &str, size: usize) {
    let answer = client.get(hash);
    assert!(
        answer.status == 200 && answer.body == noise(1, size),
        "{hash}"
    );
}

/// Waits until a kind has taken no more than 95 percent of what it may.
fn settled(dir: &Dir, kind: &str, max_bytes: usize) {
    let used = format!(
        "SELECT ifnull(sum(size_bytes + 512), 0) FROM artifacts
         WHERE state = 'stored' AND is_isolated = {}",
        kind == "isolated"
    );
    eventually("eviction has ended", || {
        (dir.number(&used) as usize <= max_bytes * 95 / 100).then_some(())
    });
}

/// What went on whatever day: kind, reason, entries.
fn evictions(dir: &Dir) -> Vec<(String, String, i64)> {
    let connection = dir.sqlite();
    let sql =
        "SELECT iif(is_isolated, 'isolated', 'trusted'), reason, sum(entries) FROM evictions_by_day
               GROUP BY 1, 2 ORDER BY 1, 2";
    let mut statement = connection.prepare(sql).expect("a query");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let rows = rows.expect("rows").map(|row| row.expect("a row"));
    rows.collect()
}

/// Lets the cleaner free what was hidden, as if its grace were over, and waits for it.
fn freed(dir: &Dir) {
    let age = "UPDATE artifacts SET condemned_at_ms = 0 WHERE state = 'condemned'";
    dir.sqlite().execute(age, []).expect("rows changed");
    nothing_is_left_over(&dir.sqlite());
}

/// The settings of a server whose trusted entries may take `MAX`, and isolated ones a third of that.
const SMALL: [&str; 2] = ["eviction.max_size=4MiB", "eviction.isolated_share=25"];
const TRUSTED_MAX: usize = 3 * MIB;
const ISOLATED_MAX: usize = MIB;

#[test]
fn what_was_read_least_recently_goes_and_what_was_read_stays() {
    let dir = Dir::new();
    let [write, read] = ["write", "read"].map(|access| dir.token(access));
    let server = serve(&dir, &SMALL);
    let mut main = server.client(&write);
    for number in 0..20 {
        put(&mut main, &format!("old-{number}"), 100_000);
    }
    // By a reading token and by a writing one.
    for number in (0..20).step_by(2) {
        reads(&mut server.client(&read), &format!("old-{number}"), 100_000);
    }
    reads(&mut main, "old-1", 100_000);
    // 3.7 MB in all, of which 2.8 stay: no more than the nine that nobody read.
    for number in 0..17 {
        put(&mut main, &format!("new-{number}"), 100_000);
    }
    settled(&dir, "trusted", TRUSTED_MAX);
    for number in (0..20).step_by(2) {
        reads(&mut main, &format!("old-{number}"), 100_000);
    }
    reads(&mut main, "old-1", 100_000);
    for number in 0..17 {
        reads(&mut main, &format!("new-{number}"), 100_000);
    }
    // The oldest first.
    let status = |number: usize| server.client(&write).get(&format!("old-{number}")).status;
    let unread: Vec<u16> = (3..20).step_by(2).map(status).collect();
    let gone = unread.iter().take_while(|&&status| status == 404).count();
    assert!(
        gone >= 7 && unread[gone..].iter().all(|&status| status == 200),
        "{unread:?}"
    );
    assert_eq!(
        evictions(&dir),
        [("trusted".to_owned(), "size".to_owned(), gone as i64)]
    );
    let line = server.wait_for_line(" evicted artifacts ");
    assert!(
        line.contains(" info ") && line.contains(" kind=trusted reason=size artifacts="),
        "{line}"
    );
    // What went can be stored anew.
    put(&mut main, "old-3", 100_000);
    counters_are_facts(&dir.sqlite());
}

#[test]
fn a_cache_that_is_filled_for_ever_stays_as_large_as_it_may_be() {
    let dir = Dir::new();
    let write = dir.token("write");
    let server = serve(&dir, &SMALL);
    let mut main = server.client(&write);
    put(&mut main, "hot", 30_000);
    let mut lengths = Vec::new();
    for round in 0..4 {
        for number in 0..60 {
            put(&mut main, &format!("{round}-{number}"), 80_000);
            reads(&mut main, "hot", 30_000);
        }
        settled(&dir, "trusted", TRUSTED_MAX);
        freed(&dir);
        lengths.push(std::fs::metadata(dir.db()).expect("the database").len());
    }
    println!("{lengths:?}");
    assert!(
        lengths.iter().all(|&length| length < 12 * MIB as u64),
        "{lengths:?}"
    );
    reads(&mut main, "hot", 30_000);
    reads(&mut main, "3-59", 80_000);
    assert_eq!(main.get("0-0").status, 404);
}

#[test]
fn what_nobody_reads_goes_by_its_age_and_what_is_read_stays() {
    let dir = Dir::new();
    let [write, isolated] = ["write", "isolated"].map(|access| dir.token(access));
    let ages = ["eviction.max_age=4s", "eviction.isolated_max_age=1s"];
    let server = serve(&dir, &ages);
    let mut main = server.client(&write);
    let mut pull = server.client(&isolated).at("/s/pr-1");
    for hash in ["hot", "cold"] {
        put(&mut main, hash, 1000);
        put(&mut pull, &format!("pr-{hash}"), 1000);
    }
    let left = |hash: &str| {
        dir.number(&format!(
            "SELECT count(*) FROM artifacts WHERE state = 'stored' AND hash = '{hash}'"
        ))
    };
    for cold in ["pr-cold", "cold"] {
        eventually("what nobody reads goes", || {
            reads(&mut main, "hot", 1000);
            reads(&mut pull, "pr-hot", 1000);
            (left(cold) == 0).then_some(())
        });
    }
    reads(&mut main, "hot", 1000);
    reads(&mut pull, "pr-hot", 1000);
    let of = |kind: &str| (kind.to_owned(), "age".to_owned(), 1);
    assert_eq!(evictions(&dir), [of("isolated"), of("trusted")]);
}

#[test]
fn a_flood_of_isolated_entries_evicts_isolated_ones_only() {
    let dir = Dir::new();
    let [write, isolated] = ["write", "isolated"].map(|access| dir.token(access));
    let server = serve(&dir, &SMALL);
    let mut main = server.client(&write);
    // Nearly all that they may take, and older than everything else.
    for number in 0..28 {
        put(&mut main, &number.to_string(), 100_000);
    }
    thread::scope(|scope| {
        for attacker in 0..2 {
            let client = server.client(&isolated).at(&format!("/s/pr-{attacker}"));
            scope.spawn(move || {
                let mut client = client;
                for number in 0..60 {
                    put(&mut client, &format!("flood-{attacker}-{number}"), 70_000);
                }
            });
        }
    });
    settled(&dir, "isolated", ISOLATED_MAX);
    for number in 0..28 {
        reads(&mut main, &number.to_string(), 100_000);
    }
    let gone = evictions(&dir);
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!((&gone[0].0[..], &gone[0].1[..]), ("isolated", "size"));
    assert!(gone[0].2 >= 105, "{gone:?}");
    counters_are_facts(&dir.sqlite());
}

#[test]
fn reads_by_isolated_tokens_keep_isolated_entries_and_no_trusted_one() {
    let dir = Dir::new();
    let [write, isolated] = ["write", "isolated"].map(|access| dir.token(access));
    let server = serve(&dir, &SMALL);
    let mut main = server.client(&write);
    let mut pull = server.client(&isolated).at("/s/pr-1");
    for number in 0..10 {
        put(&mut main, &number.to_string(), 100_000);
        put(&mut pull, &format!("own-{number}"), 60_000);
    }
    // The pull request reads what came first, main what came last.
    for number in 0..5 {
        reads(&mut pull, &number.to_string(), 100_000);
        reads(&mut pull, &format!("own-{number}"), 60_000);
        reads(&mut main, &(number + 5).to_string(), 100_000);
    }
    // A look is no read, whoever looks.
    for number in 0..5 {
        assert_eq!(main.look(&number.to_string()).status, 200);
    }
    let server = restarted(server, &dir);
    let mut main = server.client(&write);
    let mut pull = server.client(&isolated).at("/s/pr-1");
    let last_read = |hash: &str| {
        let shown = dir.cli(&["artifact", "show", hash, "--json"]).done();
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown[0]["last_read_at"].is_string()
    };
    for number in 0..10 {
        assert_eq!(last_read(&number.to_string()), number >= 5, "{number}");
        assert_eq!(last_read(&format!("own-{number}")), number < 5, "{number}");
    }
    // 3.2 MB in all, of which 2.8 stay: some of the five that main did not read go, and no other.
    for number in 10..32 {
        put(&mut main, &number.to_string(), 100_000);
    }
    for number in 10..14 {
        put(&mut pull, &format!("own-{number}"), 100_000);
    }
    settled(&dir, "trusted", TRUSTED_MAX);
    settled(&dir, "isolated", ISOLATED_MAX);
    let gone = |client: &mut Client, hash: String| client.look(&hash).status == 404;
    assert!(gone(&mut main, "0".to_owned()));
    assert!((5..32).all(|number| !gone(&mut main, number.to_string())));
    assert!(gone(&mut pull, "own-5".to_owned()));
    assert!((0..5).all(|number| !gone(&mut pull, format!("own-{number}"))));
}

/// Stops a server, which writes down what it knows, and starts another one.
fn restarted(server: Server, dir: &Dir) -> Server {
    assert_eq!(server.stop().code(), Some(0));
    serve(dir, &SMALL)
}

#[test]
fn an_entry_that_is_evicted_while_it_is_read_is_received_whole() {
    let dir = Dir::new();
    let [write, read] = ["write", "read"].map(|access| dir.token(access));
    let settings = ["eviction.max_size=24MiB", "eviction.isolated_share=0"];
    let server = serve(&dir, &settings);
    let mut main = server.client(&write);
    put(&mut main, "first", 1000);
    let large = noise(1, 12 * MIB);
    assert_eq!(main.put("slow", &large).status, 200);
    let mut slow = server.client(&read);
    slow.begin("GET", "/v1/cache/slow", &[]);
    // Nobody reads more than the sockets hold.
    assert_eq!(slow.raw.socket().peek(&mut [0]).expect("an answer"), 1);
    let mut number = 0;
    eventually("it is evicted", || {
        number += 1;
        put(&mut main, &number.to_string(), MIB);
        (main.look("slow").status == 404).then_some(())
    });
    // The cleaner has been at work, as if the grace were over for all that was hidden.
    let age = "UPDATE artifacts SET condemned_at_ms = 0 WHERE state = 'condemned'";
    let changed = dir.sqlite().execute(age, []).expect("rows changed");
    assert!(changed >= 2, "{changed}");
    eventually("the cleaner has been there", || {
        (dir.number("SELECT count(*) FROM artifacts WHERE hash = 'first'") == 0).then_some(())
    });
    let hidden = "SELECT count(*) FROM chunks WHERE id >> 20 =
                  (SELECT id FROM artifacts WHERE hash = 'slow' AND state = 'condemned')";
    assert_eq!(dir.number(hidden), 48);
    assert_eq!(main.put("slow", b"anew").status, 200);
    let answer = slow.raw.answer();
    assert!(
        answer.status == 200 && answer.body == large,
        "all of what it was"
    );
    // Then it goes.
    freed(&dir);
    assert_eq!(slow.get("slow").body, b"anew");
}

#[test]
fn an_artifact_that_eviction_would_not_keep_is_refused() {
    let dir = Dir::new();
    let write = dir.token("write");
    let settings = ["eviction.max_size=1MiB", "eviction.isolated_share=0"];
    let server = serve(&dir, &settings);
    let line = server.wait_for_line("limits.artifact_max_size is 2GiB, but eviction.max_size");
    assert!(line.contains(" warn configuration "), "{line}");
    let most = MIB / 10 * 9 - 512;
    let refused = server.client(&write).put("large", &noise(1, most + 1));
    assert_eq!(refused.status, 403);
    let mut main = server.client(&write);
    put(&mut main, "small", 300_000);
    put(&mut main, "most", most);
    settled(&dir, "trusted", MIB);
    assert_eq!(main.look("most").status, 200);
}

#[test]
fn read_times_survive_a_restart() {
    let dir = Dir::new();
    let write = dir.token("write");
    let server = serve(&dir, &SMALL);
    let mut main = server.client(&write);
    for hash in ["1", "2", "3"] {
        put(&mut main, hash, 500_000);
    }
    reads(&mut main, "1", 500_000);
    assert_eq!(server.stop().code(), Some(0));
    // One has to go.
    let max = [
        "--set",
        "eviction.max_size=1500KB",
        "--set",
        "eviction.isolated_share=0",
    ];
    let args = [&["gc", "--json"][..], &max].concat();
    let report: Value = serde_json::from_str(&dir.cli(&args).done()).expect("JSON");
    assert_eq!(report["artifacts"], json!(1));
    let server = serve(&dir, &SMALL);
    let mut main = server.client(&write);
    assert_eq!(
        ["1", "2", "3"].map(|hash| main.get(hash).status),
        [200, 404, 200]
    );
}

// The command.

/// Two trusted and three isolated artifacts.
fn filled() -> (Dir, Server) {
    let dir = Dir::new();
    let [write, isolated] = ["write", "isolated"].map(|access| dir.token(access));
    let server = Server::start(&dir);
    let mut main = server.client(&write);
    let mut pull = server.client(&isolated).at("/s/pr-1");
    for number in 0..2 {
        put(&mut main, &number.to_string(), 1_000_000);
    }
    for number in 0..3 {
        put(&mut pull, &format!("own-{number}"), 200_000);
    }
    (dir, server)
}

const LOWER: [&str; 4] = [
    "--set",
    "eviction.max_size=2MiB",
    "--set",
    "eviction.isolated_share=20",
];

#[test]
fn gc_says_what_would_go_and_why_and_changes_nothing() {
    let (dir, server) = filled();
    assert_eq!(server.stop().code(), Some(0));
    let before = std::fs::read(dir.db()).expect("the database");
    let args = [&["gc", "--dry-run"][..], &LOWER].concat();
    let said = dir.cli(&args).done();
    let (said, disk) = said.split_once("\ndatabase  ").expect("the disk");
    let expected = "\
would evict 3 artifacts, 1.3 MiB

KIND      REASON  ARTIFACTS       SIZE
trusted   size            1  976.6 KiB
isolated  size            2  390.6 KiB

KIND      ARTIFACTS       USED     BUDGET   FULL
trusted           2    1.9 MiB    1.6 MiB  119 %
isolated          3  587.4 KiB  409.6 KiB  143 %
";
    assert_eq!(said, expected);
    assert!(
        disk.contains(" of it can be used again\ndisk      "),
        "{disk}"
    );
    assert!(
        disk.ends_with(" free; eviction.min_free_disk is 1.0 GiB\n"),
        "{disk}"
    );
    let after = std::fs::read(dir.db()).expect("the database");
    assert!(after == before);
    // With room for all of it.
    let nothing = dir.cli(&["gc", "--dry-run"]).done();
    assert!(
        nothing.starts_with("nothing to evict\n\nKIND "),
        "{nothing}"
    );
    // By age.
    let args = [
        "gc",
        "--dry-run",
        "--json",
        "--set",
        "eviction.isolated_max_age=1s",
    ];
    eventually("they are old", || {
        let report: Value = serde_json::from_str(&dir.cli(&args).done()).expect("JSON");
        let all = json!([{"kind": "isolated", "reason": "age", "artifacts": 3, "bytes": 600_000}]);
        (report["evicted"] == all).then_some(())
    });
}

#[test]
fn gc_without_a_server_evicts_frees_and_reports() {
    let (dir, server) = filled();
    assert_eq!(server.stop().code(), Some(0));
    let args = [&["gc", "--json"][..], &LOWER].concat();
    let outcome = dir.cli(&args);
    assert_eq!(outcome.stderr, "");
    let mut report: Value = serde_json::from_str(&outcome.done()).expect("JSON");
    for key in ["database_bytes", "reusable_bytes", "free_disk_bytes"] {
        let number = report.as_object_mut().and_then(|all| all.remove(key));
        assert!(
            number.is_some_and(|number| number.as_u64() > Some(0)),
            "{key}"
        );
    }
    let expected = json!({
        "dry_run": false,
        "artifacts": 3,
        "bytes": 1_400_000,
        "evicted": [
            {"kind": "trusted", "reason": "size", "artifacts": 1, "bytes": 1_000_000},
            {"kind": "isolated", "reason": "size", "artifacts": 2, "bytes": 400_000},
        ],
        "budgets": [
            {"kind": "trusted", "artifacts": 1, "bytes": 1_000_000, "used_bytes": 1_000_512, "max_bytes": 1_677_722},
            {"kind": "isolated", "artifacts": 1, "bytes": 200_000, "used_bytes": 200_512, "max_bytes": 419_430},
        ],
        "freed": true,
        "not_freed_yet": 0,
        "min_free_disk_bytes": 1 << 30,
    });
    assert_eq!(report, expected);
    assert_eq!(dir.files(), ["cachesrv.db"]);
    nothing_is_left_over(&dir.sqlite());
    counters_are_facts(&dir.sqlite());
    let count = |kind: &str, entries| (kind.to_owned(), "size".to_owned(), entries);
    assert_eq!(evictions(&dir), [count("isolated", 2), count("trusted", 1)]);
    let again = dir.cli(&[&["gc"][..], &LOWER].concat());
    assert!(again.done().starts_with("nothing to evict\n"));
}

#[test]
fn gc_beside_a_server_hides_and_the_server_frees() {
    let (dir, server) = filled();
    let Outcome {
        code,
        stdout,
        stderr,
    } = dir.cli(&[&["gc"][..], &LOWER].concat());
    assert_eq!(
        (code, &stderr[..]),
        (Some(0), "the server frees their room within seconds\n")
    );
    assert!(
        stdout.starts_with("evicted 3 artifacts, 1.3 MiB\n\nKIND "),
        "{stdout}"
    );
    nothing_is_left_over(&dir.sqlite());
    let token = dir.token("read");
    let mut reader = server.client(&token);
    assert_eq!(["0", "1"].map(|hash| reader.get(hash).status), [404, 200]);
}

#[test]
fn gc_wants_a_database_that_is_there() {
    let dir = Dir::new();
    let error = "error: there is no database 'cachesrv.db'\ntry: cachesrv config show --sources\n";
    for args in [&["gc"][..], &["gc", "--dry-run"]] {
        dir.cli(args).failed(1, error);
    }
    assert_eq!(dir.files(), Vec::<String>::new());
}

#[test]
fn the_file_is_given_back_to_the_disk_by_a_server_and_by_gc() {
    let dir = Dir::new();
    let write = dir.token("write");
    let length = || std::fs::metadata(dir.db()).expect("the database").len();
    let lower = [
        "--set",
        "eviction.max_size=24MiB",
        "--set",
        "eviction.isolated_share=0",
    ];
    let args = [&["gc"][..], &lower].concat();
    let server = Server::start(&dir);
    let fill = |server: &Server, round: usize| {
        let mut main = server.client(&write);
        for number in 0..5 {
            put(&mut main, &format!("{round}-{number}"), 20 * MIB);
        }
        eventually("the log is folded", || {
            (length() > 90 * MIB as u64).then_some(())
        });
    };
    fill(&server, 1);
    dir.cli(&args).done();
    // The last one stays, and a tenth.
    eventually("the file is shrunk", || {
        (length() < 30 * MIB as u64).then_some(())
    });
    reads(&mut server.client(&write), "1-4", 20 * MIB);
    fill(&server, 2);
    assert_eq!(server.stop().code(), Some(0));
    let said = dir.cli(&args).done();
    assert!(said.contains(", before 1"), "{said}");
    assert!(length() < 30 * MIB as u64, "{said}");
    let server = Server::start(&dir);
    reads(&mut server.client(&write), "2-4", 20 * MIB);
}

// The disk.

#[test]
fn below_the_floor_nothing_is_stored_and_the_oldest_go_until_there_is_room() {
    let mut small = SmallDisk::start(64, 0, &["eviction.min_free_disk=24MiB"]);
    let mut stored = Vec::new();
    let mut number = 0;
    let mut put = |small: &SmallDisk| {
        number += 1;
        let is_stored = small.put(&number.to_string(), &noise(number, MIB));
        stored.extend(is_stored.then_some(number));
        is_stored.then_some(number)
    };
    // Sooner or later it is refused, and then the oldest go.
    let line = eventually("eviction for the disk", || {
        put(&small);
        let log = small.server.log();
        log.lines()
            .find(|line| line.contains(" evicted artifacts "))
            .map(str::to_owned)
    });
    assert!(line.contains(" kind=trusted reason=disk "), "{line}");
    small.server.wait_for_line(" reason=disk_full");
    small.holds("1", None);
    // What went is freed, and there is room.
    for _ in 0..3 {
        let newest = eventually("there is room again", || put(&small));
        small.holds(&newest.to_string(), Some(&noise(newest, MIB)));
    }
    // More went than had to, but the cache was not emptied.
    let left = stored.iter().filter(|number| {
        let answer = small.server.client(&small.token).get(&number.to_string());
        answer.status == 200
    });
    let left: Vec<_> = left.collect();
    assert!(
        left.len() > 20 && left.len() < stored.len(),
        "{left:?} of {stored:?}"
    );
    assert!(small.server.is_alive());
}

#[test]
fn a_disk_that_others_fill_does_not_empty_the_cache() {
    let small = SmallDisk::start(64, 0, &["eviction.min_free_disk=16MiB"]);
    for number in 0..8 {
        assert!(small.put(&number.to_string(), &noise(number, MIB)));
    }
    // What could go would make room for an upload, but it would not be what has to stay free.
    small.fill_but(4 * MIB as u64);
    let mut client = small.server.client(&small.token);
    let mut refused = 0;
    eventually(
        "the housekeeper has looked at the disk several times",
        || {
            let answer = client.put("more", &noise(9, MIB));
            assert_eq!((answer.status, answer.text()), (403, DISK_FULL));
            refused += 1;
            (refused > 800).then_some(())
        },
    );
    for number in 0..8 {
        small.holds(&number.to_string(), Some(&noise(number, MIB)));
    }
    small.free("rest");
    eventually("there is room again", || {
        small.put("again", &noise(9, MIB)).then_some(())
    });
}
