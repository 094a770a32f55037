//! `cachesrv stats`: what a server counted, as tables and as JSON, over restarts and beside a server.

mod support;

use rusqlite::params;
use serde_json::{Value, json};
use support::{Dir, Server, eventually};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Today, counted from 1970-01-01, UTC. A test that runs over midnight would count two; none takes long.
fn today() -> i64 {
    cachesrv::store::now_ms() / DAY_MS
}

/// The date of a day that is so long ago.
fn date(days_ago: i64) -> String {
    let noon = jiff::Timestamp::from_millisecond((today() - days_ago) * DAY_MS).expect("a time");
    noon.strftime("%Y-%m-%d").to_string()
}

fn stats(dir: &Dir, args: &[&str]) -> Value {
    let args = [&["stats", "--json"], args].concat();
    serde_json::from_str(&dir.cli(&args).done()).expect("JSON")
}

/// Adds what a server would have counted.
fn counted(dir: &Dir, days_ago: i64, workspace: &str, access: &str, usage: [i64; 7]) {
    let [
        hits,
        hit_bytes,
        misses,
        stored,
        stored_bytes,
        conflicts,
        refused,
    ] = usage;
    let sql = "INSERT INTO usage_by_day
               SELECT ?1, id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM workspaces WHERE name = ?10";
    let row = params![
        today() - days_ago,
        access,
        hits,
        hit_bytes,
        misses,
        stored,
        stored_bytes,
        conflicts,
        refused,
        workspace
    ];
    assert_eq!(dir.sqlite().execute(sql, row), Ok(1));
}

/// A database with two workspaces and a few days.
fn with_days() -> Dir {
    let dir = Dir::new();
    dir.cli(&["workspace", "add", "shop"]).done();
    counted(
        &dir,
        0,
        "default",
        "write",
        [90, 943_718_400, 10, 10, 104_857_600, 1, 0],
    );
    counted(&dir, 0, "default", "read", [7, 7_340_032, 3, 0, 0, 0, 2]);
    counted(&dir, 0, "shop", "isolated", [1, 10, 3, 3, 30, 0, 4]);
    counted(&dir, 2, "default", "write", [1, 1024, 1, 1, 1024, 0, 0]);
    counted(&dir, 9, "default", "write-only", [0, 0, 0, 5, 500, 0, 0]);
    counted(&dir, 40, "default", "write", [1, 1, 0, 0, 0, 0, 0]);
    let sql = "INSERT INTO evictions_by_day VALUES (?1, ?2, ?3, ?4, ?5)";
    for row in [
        params![today(), 0, "size", 12, 1_048_576],
        params![today() - 5, 1, "age", 3, 300],
        params![today() - 50, 1, "age", 1000, 1000],
    ] {
        assert_eq!(dir.sqlite().execute(sql, row), Ok(1));
    }
    dir
}

#[test]
fn tables_in_a_pipe_are_exactly_these() {
    let dir = with_days();
    let outcome = dir.cli(&["stats"]);
    assert_eq!(outcome.stderr, "");
    let expected = format!(
        "\
Requests from {} to {} (UTC)

DAY         HIT RATE  HITS  MISSES     SERVED     STORED
{}         -     0       0        0 B      500 B
{}    50.0 %     1       1    1.0 KiB    1.0 KiB
{}    86.0 %    98      16  907.0 MiB  100.0 MiB
total         85.3 %    99      17  907.0 MiB  100.0 MiB

By access

ACCESS      HIT RATE  HITS  MISSES  UPLOADS  CONFLICTS  REFUSED
read          70.0 %     7       3        0          0        2
write         89.2 %    91      11       11          1        0
isolated      25.0 %     1       3        3          0        4
write-only         -     0       0        5          0        0

By workspace

WORKSPACE  HIT RATE  HITS  MISSES  UPLOADS  CONFLICTS  REFUSED
default      87.5 %    98      14       16          1        2
shop         25.0 %     1       3        3          0        4

Stored now

KIND      ENTRIES  SIZE    BUDGET   USED
trusted         0   0 B  15.0 GiB  0.0 %
isolated        0   0 B   5.0 GiB  0.0 %

Evicted in these days

KIND      REASON  ENTRIES     SIZE
trusted   size         12  1.0 MiB
isolated  age           3    300 B
",
        date(29),
        date(0),
        date(9),
        date(2),
        date(0)
    );
    assert_eq!(outcome.done(), expected);
}

#[test]
fn a_terminal_gets_bars_and_no_line_is_longer_than_80_columns() {
    let dir = with_days();
    let huge = [
        999_999_999,
        i64::MAX / 4,
        99_999_999,
        99_999_999,
        i64::MAX / 4,
        99_999_999,
        99_999_999,
    ];
    for (access, days_ago) in [("write", 1), ("read", 3)] {
        counted(&dir, days_ago, "default", access, huge);
    }
    let terminal = "script -qec 'stty cols 80; \"$cachesrv\" stats' /dev/null";
    let shown = dir.shell(terminal).done();
    let line = |day: &str| {
        let found = shown.lines().find(|line| line.starts_with(day));
        found.expect("a line for the day").to_owned()
    };
    let today = line(&date(0));
    assert!(today.contains("86.0 %  ████████▋ "), "{shown}");
    assert!(line(&date(2)).contains("50.0 %  █████ "), "{shown}");
    assert!(!line(&date(9)).contains('█'), "{shown}");
    for line in shown.lines() {
        assert!(line.trim_end().chars().count() <= 80, "{line}\n{shown}");
    }
}

/// Hits and their bytes, misses, what was stored and its bytes, conflicts and refusals, as JSON.
fn usage_json(hit_rate: Option<f64>, counts: [u64; 7]) -> Value {
    let keys = [
        "hits",
        "hit_bytes",
        "misses",
        "stored",
        "stored_bytes",
        "conflicts",
        "refused",
    ];
    let mut usage = json!({ "hit_rate": hit_rate });
    for (key, count) in keys.iter().zip(counts) {
        usage[*key] = json!(count);
    }
    usage
}

#[test]
fn json_is_the_whole_story() {
    let dir = with_days();
    let keyed = |key: &str, name: &str, mut usage: Value| {
        usage[key] = json!(name);
        usage
    };
    let shop = usage_json(Some(0.25), [1, 10, 3, 3, 30, 0, 4]);
    assert_eq!(
        stats(&dir, &["--workspace", "shop", "--days", "1"]),
        json!({
            "from": date(0), "to": date(0), "workspace": "shop",
            "total": shop,
            "days": [keyed("day", &date(0), shop.clone())],
            "accesses": [keyed("access", "isolated", shop.clone())],
            "workspaces": [keyed("workspace", "shop", shop.clone())],
            "held": [
                {"kind": "trusted", "entries": 0, "bytes": 0, "max_bytes": null},
                {"kind": "isolated", "entries": 0, "bytes": 0, "max_bytes": null},
            ],
            "evicted": null,
        })
    );
    let all = stats(&dir, &["--days", "400"]);
    assert_eq!(
        all["total"],
        usage_json(
            Some(100.0 / 117.0),
            [100, 951_059_467, 17, 19, 104_859_154, 1, 6]
        )
    );
    assert_eq!(all["days"].as_array().map(Vec::len), Some(4));
    assert_eq!(all["workspaces"][1], keyed("workspace", "shop", shop));
    assert_eq!(
        all["held"],
        json!([
            {"kind": "trusted", "entries": 0, "bytes": 0, "max_bytes": 15_u64 << 30},
            {"kind": "isolated", "entries": 0, "bytes": 0, "max_bytes": 5_u64 << 30},
        ])
    );
    assert_eq!(
        all["evicted"],
        json!([
            {"kind": "trusted", "reason": "size", "entries": 12, "bytes": 1_048_576},
            {"kind": "isolated", "reason": "age", "entries": 1003, "bytes": 1300},
        ])
    );
}

#[test]
fn an_empty_database_reads_well() {
    let dir = Dir::new();
    dir.token("write");
    let outcome = dir.cli(&["stats", "--days", "7"]);
    assert_eq!(
        outcome.stderr,
        format!(
            "no requests were counted from {} to {} (UTC)\n",
            date(6),
            date(0)
        )
    );
    assert_eq!(
        outcome.done(),
        "Stored now\n\n\
         KIND      ENTRIES  SIZE    BUDGET   USED\n\
         trusted         0   0 B  15.0 GiB  0.0 %\n\
         isolated        0   0 B   5.0 GiB  0.0 %\n"
    );
    let json = stats(&dir, &[]);
    assert_eq!(json["total"]["hit_rate"], Value::Null);
    assert_eq!((&json["days"], &json["evicted"]), (&json!([]), &json!([])));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = Dir::new();
    dir.cli(&["stats"]).failed(
        1,
        "error: there is no database 'cachesrv.db'\ntry: cachesrv config show --sources\n",
    );
    dir.token("write");
    dir.cli(&["stats", "--workspace", "shop"]).failed(
        1,
        "error: there is no workspace 'shop'\ntry: cachesrv workspace add shop\n",
    );
    for days in ["0", "401", "x"] {
        assert_eq!(dir.cli(&["stats", "--days", days]).code, Some(2), "{days}");
    }
}

/// One of everything that counts, and some that does not: hits, misses, stored, conflicts and refused by access.
fn use_it(dir: &Dir, server: &Server, round: u32) {
    let (main, laptop) = (dir.token("write"), dir.token("read"));
    let (pull_request, release) = (dir.token("isolated"), dir.token("write-only"));
    let hash = |name: &str| format!("{name}-{round}");
    let mut main = server.client(&main);
    assert_eq!(main.put(&hash("a"), b"12345").status, 200);
    assert_eq!(main.put(&hash("a"), b"x").status, 409);
    assert_eq!(main.get(&hash("a")).status, 200);
    assert_eq!(main.get(&hash("b")).status, 404);
    let mut laptop = server.client(&laptop);
    assert_eq!(laptop.get(&hash("a")).status, 200);
    assert_eq!(laptop.look(&hash("a")).status, 200);
    assert_eq!(laptop.look(&hash("b")).status, 404);
    assert_eq!(laptop.put(&hash("c"), b"x").status, 403);
    assert_eq!(laptop.get("a.b").status, 404);
    assert_eq!(laptop.ask("GET", "/metrics").status, 200);
    let mut pull_request = server.client(&pull_request).at("/s/pr-1");
    assert_eq!(pull_request.get(&hash("a")).status, 200);
    assert_eq!(pull_request.put(&hash("d"), b"123").status, 200);
    let mut release = server.client(&release);
    assert_eq!(release.get(&hash("a")).status, 404);
    assert_eq!(release.put(&hash("e"), b"1").status, 200);
    assert_eq!(server.stranger().get(&hash("a")).status, 401);
}

/// What `use_it` counts, so many times.
fn used(times: u64) -> Value {
    let usage = |access: &str, rate: Option<f64>, counts: [u64; 7]| {
        let mut usage = usage_json(rate, counts.map(|count| count * times));
        usage["access"] = json!(access);
        usage
    };
    json!([
        usage("read", Some(1.0), [1, 5, 0, 0, 0, 0, 2]),
        usage("write", Some(0.5), [1, 5, 1, 1, 5, 1, 0]),
        usage("isolated", Some(1.0), [1, 5, 0, 1, 3, 0, 0]),
        usage("write-only", None, [0, 0, 0, 1, 1, 0, 0]),
    ])
}

#[test]
fn usage_is_counted_by_access_beside_the_server_and_over_restarts() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    use_it(&dir, &server, 1);
    // Beside the server, which adds its counts every few seconds.
    eventually("the counts are in the database", || {
        (stats(&dir, &["--days", "2"])["accesses"] == used(1)).then_some(())
    });
    use_it(&dir, &server, 2);
    // A stop loses none, however late they were.
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(stats(&dir, &["--days", "2"])["accesses"], used(2));
    let server = Server::start(&dir);
    use_it(&dir, &server, 3);
    assert_eq!(server.stop().code(), Some(0));
    let json = stats(&dir, &["--days", "2"]);
    assert_eq!(json["accesses"], used(3));
    let held = |at: usize| (&json["held"][at]["entries"], &json["held"][at]["bytes"]);
    assert_eq!(held(0), (&json!(6), &json!(18)));
    assert_eq!(held(1), (&json!(3), &json!(9)));
}

#[test]
fn workspaces_are_counted_apart() {
    let dir = Dir::new();
    dir.cli(&["workspace", "add", "shop"]).done();
    let tokens = [
        dir.token("write"),
        dir.token_with(&["--write", "--workspace", "shop"]),
    ];
    let server = Server::start(&dir);
    for (token, bytes) in tokens.iter().zip([&b"1"[..], b"22"]) {
        assert_eq!(server.client(token).put("1", bytes).status, 200);
    }
    assert_eq!(server.stop().code(), Some(0));
    for (workspace, bytes) in [("default", 1), ("shop", 2)] {
        let json = stats(&dir, &["--workspace", workspace]);
        assert_eq!(json["total"]["stored_bytes"], json!(bytes), "{workspace}");
        assert_eq!(json["held"][0]["bytes"], json!(bytes), "{workspace}");
    }
}
