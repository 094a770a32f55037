//! `/metrics`, `/healthz`, `/readyz` and `metrics.listen`, scraped as Prometheus does: every documented family from the
//! first scrape on, exact counts, and no series that a client could add.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use rusqlite::params;
use support::{Client, Dir, Raw, Server, eventually};

/// Every series of a text, with its value; of seconds the whole ones.
type Series = BTreeMap<String, u64>;

/// A server with a second address for metrics, and that address.
fn with_monitor(dir: &Dir, args: &[&str]) -> (Server, SocketAddr) {
    let listen = ["--set", "metrics.listen=127.0.0.1:0"];
    let server = Server::start_with(dir, &[&listen, args].concat());
    let line = server.wait_for_line(" serving metrics address=");
    let (_, address) = line.split_once("address=").expect("an address");
    (server, address.parse().expect("an address"))
}

/// The text of a scrape without a token.
fn scrape(monitor: SocketAddr) -> String {
    let answer = Raw::connect(monitor).get("/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    let content_type = answer.header("content-type");
    assert_eq!(content_type.as_deref(), Some("text/plain; version=0.0.4"));
    String::from_utf8(answer.body).expect("UTF-8")
}

fn series(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect("a number");
        (name.to_owned(), value as u64)
    });
    parsed.collect()
}

/// The families of a text, with their types.
fn families(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let parsed = types.map(|line| line.split_once(' ').expect("a type"));
    parsed
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// The labels that the series of a family have.
fn labels_of(text: &str, family: &str) -> BTreeSet<String> {
    let names = series(text).into_keys();
    let of_family = names.filter(|name| {
        let bare = name.split('{').next().unwrap_or_default();
        let ends = ["", "_bucket", "_sum", "_count"];
        ends.iter().any(|end| bare == format!("{family}{end}"))
    });
    let labels = of_family.flat_map(|name| {
        let inside = name.split(['{', '}']).nth(1).unwrap_or_default().to_owned();
        let labels = inside.split(',').filter_map(|pair| pair.split_once('='));
        labels
            .map(|(label, _)| label.to_owned())
            .collect::<Vec<_>>()
    });
    labels.filter(|label| label != "le").collect()
}

/// What the checker of Prometheus says to a text; nothing, if all is well.
fn promtool(text: &str) -> String {
    let mut child = check(&["metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which is in the Debian package `prometheus`");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(text.as_bytes())
        .expect("promtool reads it all");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("UTF-8");
    assert!(output.status.success(), "{said}");
    said
}

fn check(args: &[&str]) -> Command {
    let mut command = Command::new("promtool");
    command.arg("check").args(args);
    command
}

/// The section of the README that is about all this.
fn section() -> &'static str {
    let readme = include_str!("../README.md");
    let section = readme.split("\n## Metrics, logs and usage\n").nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next());
    section.expect("a section on metrics")
}

/// The block of the README that begins with this line; what it shows in this language.
fn block(language: &str, first_line: &str) -> &'static str {
    let begin = format!("```{language}\n{first_line}");
    let at = section().find(&begin).expect(first_line) + language.len() + 4;
    section()[at..].split("```").next().expect("its end")
}

#[test]
fn prometheus_takes_the_configuration_the_rules_and_the_queries_of_the_readme() {
    let directory = tempfile::tempdir().expect("a directory");
    let queries = block("promql", "").split("\n\n");
    let records = queries.map(|query| {
        let lines = query.lines().filter(|line| !line.starts_with('#'));
        let query = lines.collect::<Vec<_>>().join(" ");
        format!("      - record: some:query\n        expr: '{query}'\n")
    });
    let records: Vec<String> = records.collect();
    assert_eq!(records.len(), 3);
    let queries = "groups:\n  - name: queries\n    rules:\n".to_owned() + &records.concat();
    for (what, name, text) in [
        (
            &["config", "--syntax-only"][..],
            "prometheus.yml",
            block("yaml", "# prometheus.yml"),
        ),
        (&["rules"], "rules.yml", block("yaml", "# rules.yml")),
        (&["rules"], "queries.yml", &queries),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        let output = check(what).arg(&path).output().expect("promtool");
        assert!(output.status.success(), "{output:?}");
    }
    // What they ask for is there.
    let known = documented();
    for text in [block("promql", ""), block("yaml", "# rules.yml")] {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = text.split(|c| !is_name(c));
        for name in names.filter(|name| name.starts_with("cachesrv_")) {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(known.contains_key(family), "{name}");
        }
    }
}

/// The families that the README documents: name to type and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = section().lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        let is_family = name.starts_with("cachesrv_") || name.starts_with("process_");
        let labels = cells.get(3)?.split('`').skip(1).step_by(2);
        let labels = labels.map(str::to_owned).collect();
        is_family.then(|| (name.to_owned(), (cells[2].to_owned(), labels)))
    });
    rows.collect()
}

#[test]
fn the_first_scrape_shows_every_documented_family_and_nothing_else() {
    let dir = Dir::new();
    let (_server, monitor) = with_monitor(&dir, &[]);
    let text = scrape(monitor);
    assert_eq!(promtool(&text), "");
    let shown: BTreeMap<_, _> = families(&text)
        .into_iter()
        .map(|(name, kind)| {
            let labels = labels_of(&text, &name);
            (name, (kind, labels))
        })
        .collect();
    assert_eq!(shown, documented());
    // What counts requests has counted none; what it may count is there.
    let series = series(&text);
    for (name, value) in &series {
        let counts = name.contains("_total") || name.contains("request_duration");
        assert!(!counts || *value == 0, "{name} {value}");
    }
    for name in [
        r#"cachesrv_http_requests_total{access="isolated",route="put",status="409"}"#,
        r#"cachesrv_http_requests_total{access="none",route="get",status="401"}"#,
        r#"cachesrv_http_requests_total{access="none",route="rejected",status="431"}"#,
        r#"cachesrv_refusals_total{reason="over_quota"}"#,
        r#"cachesrv_refusals_total{reason="token_wrong_secret"}"#,
        r#"cachesrv_evictions_total{kind="isolated",reason="disk"}"#,
        r#"cachesrv_hits_total{access="read"}"#,
        "cachesrv_last_backup_timestamp_seconds",
        "cachesrv_panics_total",
    ] {
        assert_eq!(series.get(name), Some(&0), "{name}");
    }
    assert_eq!(series["cachesrv_up"], 1);
    assert!(series["cachesrv_threads"] >= 5);
    assert!(series["cachesrv_disk_free_bytes"] > 0);
    assert!(series["process_start_time_seconds"] > 1_700_000_000);
}

/// What is not 0 of what counts; not the scrapes themselves, nor how long things took.
fn counted(monitor: SocketAddr) -> Series {
    let mut found = series(&scrape(monitor));
    found.retain(|name, value| {
        let counts = name.contains("_total") || name.contains("_count");
        let is_own = name.contains("\"metrics\"") || name.contains("database");
        counts && !is_own && *value != 0
    });
    found
}

/// The counts, once all of `requests` were counted: the answer leaves before.
#[track_caller]
fn counted_after(monitor: SocketAddr, requests: u64) -> Series {
    let sum = |found: &Series| -> u64 {
        let of_requests = found
            .iter()
            .filter(|(name, _)| name.starts_with("cachesrv_http_requests_total"));
        of_requests.map(|(_, value)| value).sum()
    };
    eventually("every request is counted", || {
        let found = counted(monitor);
        assert!(sum(&found) <= requests, "{found:#?}");
        (sum(&found) == requests).then_some(found)
    })
}

/// One request of each kind, twenty together.
fn use_it(dir: &Dir, server: &Server) {
    let mut main = server.client(&dir.token("write"));
    let mut laptop = server.client(&dir.token("read"));
    let mut pull_request = server.client(&dir.token("isolated")).at("/s/pr-1");
    let mut release = server.client(&dir.token("write-only"));
    let mut stranger = server.stranger();
    for (status, expected) in [
        (main.put("1", b"12345").status, 200),
        (main.put("1", b"other").status, 409),
        (laptop.get("1").status, 200),
        (laptop.get("2").status, 404),
        (laptop.look("1").status, 200),
        (laptop.look("2").status, 404),
        (laptop.put("3", b"123").status, 403),
        (laptop.get("a.b").status, 404),
        (pull_request.get("1").status, 200),
        (pull_request.get("4").status, 404),
        (pull_request.put("4", b"123").status, 200),
        (pull_request.get("4").status, 200),
        (release.get("1").status, 404),
        (stranger.get("1").status, 401),
        (stranger.ask("DELETE", "/v1/cache/1").status, 405),
        (stranger.ask("GET", "/nowhere").status, 404),
        (stranger.ask("GET", "/").status, 200),
        (stranger.ask("GET", "/healthz").status, 200),
        (stranger.ask("GET", "/readyz").status, 200),
    ] {
        assert_eq!(status, expected);
    }
    let mut broken = server.connect();
    broken.send("GET /v1/cache/1 HTTP/2.0\r\nHost: t\r\n\r\n");
    assert_eq!(broken.answer().status, 505);
}

/// Values of a label, each with its count.
type Counts = &'static [(&'static str, u64)];

/// What those requests are counted as: labels and count, by family.
const REQUESTS: &[(&str, &str, &str, u64)] = &[
    ("put", "write", "200", 1),
    ("put", "write", "409", 1),
    ("get", "read", "200", 1),
    ("get", "read", "404", 2),
    ("head", "read", "200", 1),
    ("head", "read", "404", 1),
    ("put", "read", "403", 1),
    ("get", "isolated", "200", 2),
    ("get", "isolated", "404", 1),
    ("put", "isolated", "200", 1),
    ("get", "write-only", "404", 1),
    ("get", "none", "401", 1),
    ("other", "none", "405", 1),
    ("other", "none", "404", 1),
    ("root", "none", "200", 1),
    ("healthz", "none", "200", 1),
    ("readyz", "none", "200", 1),
    ("rejected", "none", "505", 1),
];
const OTHERS: &[(&str, &str, Counts)] = &[
    (
        "http_request_duration_seconds_count",
        "route",
        &[("get", 8), ("head", 2), ("put", 4)],
    ),
    ("hits_total", "access", &[("read", 1), ("isolated", 2)]),
    ("misses_total", "access", &[("read", 1), ("isolated", 1)]),
    (
        "received_bytes_total",
        "access",
        &[("write", 10), ("read", 3), ("isolated", 3)],
    ),
    (
        "refusals_total",
        "reason",
        &[
            ("exists", 1),
            ("miss", 4),
            ("read_only", 1),
            ("bad_hash", 1),
            ("token_missing", 1),
            ("bad_method", 1),
            ("no_such_path", 1),
        ],
    ),
];

fn expected() -> Series {
    let requests = REQUESTS.iter().map(|(route, access, status, count)| {
        let labels = format!("{{access=\"{access}\",route=\"{route}\",status=\"{status}\"}}");
        (format!("cachesrv_http_requests_total{labels}"), *count)
    });
    let others = OTHERS.iter().flat_map(|(family, label, counts)| {
        let one = move |(value, count): &(&str, u64)| {
            (format!("cachesrv_{family}{{{label}=\"{value}\"}}"), *count)
        };
        counts.iter().map(one)
    });
    let argon2_runs = ("cachesrv_argon2_runs_total".to_owned(), 4);
    requests.chain(others).chain([argon2_runs]).collect()
}

#[test]
fn each_request_is_counted_once_where_it_belongs() {
    let dir = Dir::new();
    let (server, monitor) = with_monitor(&dir, &[]);
    use_it(&dir, &server);
    let mut found = counted_after(monitor, 20);
    // Artifacts, and the sentences of refusals.
    for (access, artifacts) in [("write", 0), ("read", 5), ("isolated", 8), ("none", 0)] {
        let sent = found.remove(&format!("cachesrv_sent_bytes_total{{access=\"{access}\"}}"));
        let is_right = sent.is_some_and(|sent| sent > artifacts && sent < artifacts + 500);
        assert!(is_right, "{access}: {sent:?}");
    }
    let miss = "nothing is stored under this hash\n".len() as u64;
    let sent = found.remove(r#"cachesrv_sent_bytes_total{access="write-only"}"#);
    assert_eq!(sent, Some(miss));
    // With as many scrapes as it took.
    found.remove(r#"cachesrv_http_request_duration_seconds_count{route="other"}"#);
    assert_eq!(found, expected());
}

#[test]
fn what_is_stored_and_what_the_database_did_is_shown() {
    let dir = Dir::new();
    let (server, monitor) = with_monitor(&dir, &[]);
    use_it(&dir, &server);
    let text = scrape(monitor);
    assert_eq!(promtool(&text), "");
    let series = series(&text);
    for (name, value) in [
        (r#"entries{kind="trusted"}"#, 1),
        (r#"entries{kind="isolated"}"#, 1),
        (r#"entry_bytes{kind="trusted"}"#, 5),
        (r#"entry_bytes{kind="isolated"}"#, 3),
        (r#"entry_max_bytes{kind="trusted"}"#, 15 << 30),
        (r#"entry_max_bytes{kind="isolated"}"#, 5 << 30),
    ] {
        assert_eq!(series[&format!("cachesrv_{name}")], value, "{name}");
    }
    let count = |operation: &str| {
        let labels = format!("{{operation=\"{operation}\"}}");
        series[&format!("cachesrv_database_duration_seconds_count{labels}")]
    };
    assert!(count("write") >= 2, "two artifacts were stored");
    assert!(count("read") >= 14, "each request for an artifact looks");
}

#[test]
fn a_thousand_odd_requests_add_no_series() {
    let dir = Dir::new();
    let token = dir.token_with(&["--isolated"]);
    let (server, monitor) = with_monitor(&dir, &[]);
    let names = |text: &str| series(text).into_keys().collect::<BTreeSet<_>>();
    let before = names(&scrape(monitor));
    let mut client = server.client(&token);
    let mut stranger = server.stranger();
    for n in 0..1000 {
        let method = ["GET", "PUT", "HEAD", "BREW", "get", "OPTIONS"][n % 6];
        let path = match n % 7 {
            0 => format!("/s/pr-{n}/v1/cache/{n}"),
            1 => format!("/w/workspace-{n}/v1/cache/{n}"),
            2 => format!("/{n}"),
            3 => format!("/v1/cache/{n}.{n}"),
            4 => format!("/metrics/{n}"),
            5 => format!("/v1/cache/{n}?{n}"),
            _ => format!("/s/{n}/metrics"),
        };
        let client = if n % 2 == 0 {
            &mut client
        } else {
            &mut stranger
        };
        client.begin(method, &path, &["Content-Length: 0", "X-Odd: 1"]);
        if method == "HEAD" {
            client.raw.answer_to_head();
        } else {
            client.raw.answer();
        }
    }
    for odd in ["GET\r\n\r\n", "GET /% HTTP/1.1\r\n\r\n", "\0\0\0\0"] {
        let mut raw = server.connect();
        raw.send(odd);
        assert_eq!(raw.answer().status, 400);
    }
    let text = scrape(monitor);
    assert_eq!(names(&text), before);
    assert_eq!(promtool(&text), "");
    let unforeseen = r#"cachesrv_http_requests_total{access="none",route="other",status="other"}"#;
    assert_eq!(series(&text)[unforeseen], 0);
    for secret in ["pr-0", "workspace-1", "BREW", &token.id] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn metrics_are_for_tokens_that_are_not_isolated() {
    let dir = Dir::new();
    let server = Server::start(&dir);
    let ask = |client: &mut Client| {
        let answer = client.ask("GET", "/metrics");
        (answer.status, answer.text().trim_end().to_owned())
    };
    for access in ["read", "write", "write-only"] {
        let (status, text) = ask(&mut server.client(&dir.token(access)));
        assert_eq!(status, 200, "{access}");
        assert!(text.contains("\ncachesrv_up 1"), "{access}");
    }
    let (status, text) = ask(&mut server.stranger());
    assert_eq!(status, 401);
    assert_eq!(
        text,
        "metrics need a token: send one made by `cachesrv token create` as Authorization: Bearer, or set metrics.listen"
    );
    let revoked = dir.token_with(&["--read", "--name", "old"]);
    dir.cli(&["token", "revoke", "old"]).done();
    let (status, text) = ask(&mut server.client(&revoked));
    assert_eq!(status, 401);
    assert!(text.starts_with("this token was revoked"), "{text}");
    dir.cli(&["workspace", "add", "shop"]).done();
    for options in [
        &["--isolated"][..],
        &["--isolated", "pr-1"],
        &["--workspace", "shop"],
    ] {
        let (status, text) = ask(&mut server.client(&dir.token_with(options)));
        assert_eq!(status, 403);
        assert_eq!(
            text,
            "metrics are for tokens of the workspace 'default' that are not isolated: make one with `cachesrv token create`"
        );
    }
    let mut reader = server.client(&dir.token("read"));
    assert_eq!(reader.ask("HEAD", "/metrics").status, 200);
    assert_eq!(reader.ask("POST", "/metrics").status, 405);
}

#[test]
fn the_second_address_says_how_the_server_is_and_nothing_else() {
    let dir = Dir::new();
    let token = dir.token("write");
    let (server, monitor) = with_monitor(&dir, &[]);
    assert_eq!(server.client(&token).put("1", b"x").status, 200);
    let mut client = Client::new(monitor, Some(&token.secret));
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/healthz", 200),
        ("HEAD", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("GET", "/v1/cache/1", 404),
        ("PUT", "/v1/cache/2", 404),
        ("GET", "/s/pr-1/v1/cache/1", 404),
    ] {
        assert_eq!(client.ask(method, path).status, status, "{method} {path}");
    }
    let answer = client.get("1");
    assert_eq!(
        answer.text(),
        "there is nothing here: metrics are at /metrics\n"
    );
    // Whoever keeps his connection open holds up neither the stop nor the one file.
    let ended = server.stop();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
    assert_eq!(dir.files(), ["cachesrv.db"]);
}

#[test]
fn a_second_address_that_is_taken_is_an_error_at_the_start() {
    let dir = Dir::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let outcome = dir.cli(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--set",
        &format!("metrics.listen={address}"),
    ]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let error = format!(
        "error: cannot serve metrics: address {address} is already in use\n\
         try: cachesrv serve --set metrics.listen=127.0.0.1:0\n"
    );
    assert!(outcome.stderr.ends_with(&error), "{outcome:?}");
}

#[test]
fn open_connections_are_counted_until_they_close() {
    let dir = Dir::new();
    let (server, monitor) = with_monitor(&dir, &[]);
    let open = || series(&scrape(monitor))["cachesrv_connections"];
    assert_eq!(open(), 0);
    let clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    eventually("three are open", || (open() == 3).then_some(()));
    drop(clients);
    eventually("all are closed", || (open() == 0).then_some(()));
}

#[test]
fn what_the_database_remembers_is_shown() {
    let dir = Dir::new();
    let (_server, monitor) = with_monitor(&dir, &[]);
    let database = dir.sqlite();
    for (day, is_isolated, reason, entries, bytes) in [
        (1, 0, "size", 3, 30),
        (2, 0, "size", 4, 40),
        (2, 1, "age", 5, 50),
        (2, 1, "novel", 6, 60),
    ] {
        let sql = "INSERT INTO evictions_by_day VALUES (?1, ?2, ?3, ?4, ?5)";
        let row = params![day, is_isolated, reason, entries, bytes];
        database.execute(sql, row).expect("a row");
    }
    for finished_at_ms in [1_795_000_000_000_i64, 1_795_348_800_999] {
        let sql =
            "INSERT INTO backups (finished_at_ms, size_bytes, destination) VALUES (?1, 1, 'x')";
        database.execute(sql, [finished_at_ms]).expect("a row");
    }
    let found = series(&scrape(monitor));
    for (name, value) in [
        (r#"evictions_total{kind="trusted",reason="size"}"#, 7),
        (r#"evicted_bytes_total{kind="trusted",reason="size"}"#, 70),
        (r#"evictions_total{kind="isolated",reason="age"}"#, 5),
        (r#"evictions_total{kind="trusted",reason="age"}"#, 0),
        ("last_backup_timestamp_seconds", 1_795_348_800),
    ] {
        assert_eq!(found[&format!("cachesrv_{name}")], value, "{name}");
    }
    let pages = |pragma: &str| {
        let pages: i64 = database
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
            .expect("a number");
        (pages * 16384) as u64
    };
    assert_eq!(found["cachesrv_database_size_bytes"], pages("page_count"));
    assert_eq!(
        found["cachesrv_database_reusable_bytes"],
        pages("freelist_count")
    );
    let wal = || dir.join("cachesrv.db-wal").metadata();
    let shown = || series(&scrape(monitor))["cachesrv_wal_size_bytes"];
    assert!(found["cachesrv_wal_size_bytes"] > 0);
    eventually("the log is folded", || {
        let is_gone = wal().map_or(0, |wal| wal.len()) == 0;
        (is_gone && shown() == 0).then_some(())
    });
}

/// Writes zeros over the root page of a table, once nothing of it is in the log: the disk has failed.
fn damage(dir: &Dir, table: &str) {
    let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'");
    let page = dir.number(&sql) as u64;
    eventually("the log is folded", || {
        let wal = dir.join("cachesrv.db-wal").metadata();
        (wal.map_or(0, |wal| wal.len()) == 0).then_some(())
    });
    let mut file = std::fs::File::options()
        .write(true)
        .open(dir.db())
        .expect("the database");
    file.seek(SeekFrom::Start((page - 1) * 16384))
        .expect("a page");
    file.write_all(&[0; 16384]).expect("written");
}

/// The status and the sentence.
fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = Raw::connect(address).get(path);
    (answer.status, answer.text().to_owned())
}

fn said(status: u16, text: &str) -> (u16, String) {
    (status, text.to_owned())
}

#[test]
fn a_scrape_shows_the_rest_when_the_database_does_not_answer() {
    let dir = Dir::new();
    let (_server, monitor) = with_monitor(&dir, &[]);
    let before = families(&scrape(monitor));
    damage(&dir, "trusted_usage");
    let text = scrape(monitor);
    assert_eq!(promtool(&text), "");
    let missing: Vec<_> = before
        .into_keys()
        .filter(|name| !families(&text).contains_key(name))
        .collect();
    assert_eq!(
        missing,
        [
            "cachesrv_database_reusable_bytes",
            "cachesrv_database_size_bytes",
            "cachesrv_entries",
            "cachesrv_entry_bytes",
            "cachesrv_evicted_bytes_total",
            "cachesrv_evictions_total",
            "cachesrv_last_backup_timestamp_seconds",
        ]
    );
    assert_eq!(series(&text)["cachesrv_up"], 0);
}

#[test]
fn a_server_whose_database_does_not_answer_is_alive_and_not_ready() {
    let dir = Dir::new();
    let token = dir.token("read");
    let (server, monitor) = with_monitor(&dir, &[]);
    assert_eq!(ask(monitor, "/readyz"), said(200, "ok\n"));
    damage(&dir, "tokens");
    for address in [server.address(), monitor] {
        let sentence = "the database does not answer\n";
        assert_eq!(ask(address, "/readyz"), said(503, sentence));
        assert_eq!(ask(address, "/healthz"), said(200, "ok\n"));
    }
    let answer = server.client(&token).ask("GET", "/metrics");
    let sentence = "the database does not answer, so the token cannot be checked\n";
    assert_eq!((answer.status, answer.text()), (503, sentence));
    assert_eq!(ask(monitor, "/metrics").0, 200);
}

#[test]
fn a_server_whose_disk_is_below_its_floor_is_not_ready() {
    let dir = Dir::new();
    let floor = ["--set", "eviction.min_free_disk=1024TiB"];
    let (server, monitor) = with_monitor(&dir, &floor);
    for address in [server.address(), monitor] {
        let (status, sentence) = ask(address, "/readyz");
        assert_eq!(status, 503);
        assert!(
            sentence.starts_with("the disk of the cache has ")
                && sentence.ends_with(" left, less than eviction.min_free_disk (1024TiB)\n"),
            "{sentence}"
        );
        assert_eq!(ask(address, "/healthz"), said(200, "ok\n"));
    }
}

#[test]
fn a_server_that_shuts_down_says_so_until_its_last_request_is_done() {
    let dir = Dir::new();
    let token = dir.token("write");
    let (server, monitor) = with_monitor(&dir, &[]);
    let mut upload = server.client(&token);
    assert_eq!(upload.ask_to_put("1", 10), 100);
    let mut probe = server.connect();
    probe.send("GET /readyz HTTP/1.1\r\n");
    eventually("both are accepted", || {
        (series(&scrape(monitor))["cachesrv_connections"] == 2).then_some(())
    });
    server.terminate();
    server.wait_for_line(" info shutting down");
    let sentence = "the server is shutting down\n";
    probe.send("Host: t\r\n\r\n");
    let answer = probe.answer();
    assert_eq!((answer.status, answer.text()), (503, sentence));
    assert!(answer.closes());
    assert_eq!(ask(monitor, "/readyz"), said(503, sentence));
    assert_eq!(ask(monitor, "/healthz"), said(200, "ok\n"));
    assert_eq!(ask(monitor, "/metrics").0, 200);
    upload.raw.send("0123456789");
    assert_eq!(upload.raw.answer().status, 200);
    let ended = server.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
    assert_eq!(dir.files(), ["cachesrv.db"]);
}
