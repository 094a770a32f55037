//! The access log: one line for each request, whatever becomes of it, with exactly the keys that belong to it, in their
//! order, as text and as JSON.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachesrv::api::{Api, Bounds, Metrics, Monitor, Settings};
use cachesrv::auth::Authenticator;
use cachesrv::http::{Cut, Exchange, Handler, Method, Request, ResponseHead, ServerEvent};
use cachesrv::store::{
    Budget, EvictionLimits, IsolatedLimits, Observer, Options, Store, Synchronous,
};
use cachesrv::telemetry::{Format, Log};
use support::{Client, Dir, Raw, Server, Token, eventually};

/// The keys of a log line in their order. The time, the level and the message of a text have none.
fn keys(line: &str) -> Vec<String> {
    if line.starts_with('{') {
        return json_keys(line);
    }
    let (mut keys, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if is_quoted => drop(chars.next()),
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            ' ' => word.clear(),
            '=' => keys.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    keys
}

/// Without the three that every line has.
fn json_keys(line: &str) -> Vec<String> {
    let object: serde_json::Value = serde_json::from_str(line).expect(line);
    let object = object.as_object().expect("an object");
    // The parser does not keep their order.
    let mut keys: Vec<(usize, &String)> = object
        .keys()
        .map(|key| {
            let place = line.find(&format!("\"{key}\":")).expect("the key");
            (place, key)
        })
        .collect();
    keys.sort();
    let names: Vec<String> = keys.into_iter().map(|(_, key)| key.clone()).collect();
    assert_eq!(names[..3], ["time", "level", "message"]);
    names[3..].to_vec()
}

/// The value of a key, as it stands there.
fn value<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let text = format!(" {key}=");
    let json = format!("\"{key}\":");
    let (_, rest) = line.split_once(&text).or_else(|| line.split_once(&json))?;
    let rest = rest.trim_start_matches('"');
    Some(rest.split([' ', '"', ',', '}']).next().unwrap_or_default())
}

fn request_lines(log: &str) -> Vec<String> {
    let is_request =
        |line: &&str| line.contains(" info request") || line.contains("\"message\":\"request\"");
    log.lines().filter(is_request).map(str::to_owned).collect()
}

/// Every key of a request, but the last five.
const PLAIN: &str = "method path status bytes_in bytes_out duration_us peer";
const NAMED: &str =
    "method path status bytes_in bytes_out duration_us peer token token_name workspace";
const NAMELESS: &str = "method path status bytes_in bytes_out duration_us peer token workspace";

/// What there is to send requests with.
struct Setting {
    cache: SocketAddr,
    monitor: SocketAddr,
    main: Token,
    nameless: Token,
    pull_request: Token,
    revoked: Token,
}

impl Setting {
    fn client(&self, token: &Token) -> Client {
        Client::new(self.cache, Some(&token.secret))
    }

    fn stranger(&self) -> Client {
        Client::new(self.cache, None)
    }
}

type Send = fn(&Setting);

/// A kind of request, its keys, and the values of some of them.
struct Kind {
    what: &'static str,
    send: Send,
    keys: [&'static str; 2],
    values: &'static [(&'static str, &'static str)],
}

const KINDS: &[Kind] = &[
    Kind {
        what: "a PUT that stores",
        send: |all| assert_eq!(all.client(&all.main).put("42", b"12345").status, 200),
        keys: [NAMED, "hash"],
        values: &[
            ("method", "PUT"),
            ("path", "/v1/cache/42"),
            ("status", "200"),
            ("bytes_in", "5"),
            ("bytes_out", "0"),
            ("token_name", "ci-main"),
            ("workspace", "default"),
            ("hash", "42"),
        ],
    },
    Kind {
        what: "a GET that hits, by a token without a name",
        send: |all| assert_eq!(all.client(&all.nameless).get("42").status, 200),
        keys: [NAMELESS, "hash"],
        values: &[("status", "200"), ("bytes_in", "0"), ("bytes_out", "5")],
    },
    Kind {
        what: "a GET that misses",
        send: |all| assert_eq!(all.client(&all.main).get("43").status, 404),
        keys: [NAMED, "hash reason"],
        values: &[("hash", "43"), ("reason", "miss")],
    },
    Kind {
        what: "a HEAD that misses",
        send: |all| assert_eq!(all.client(&all.main).look("43").status, 404),
        keys: [NAMED, "hash reason"],
        values: &[("method", "HEAD"), ("bytes_out", "0")],
    },
    Kind {
        what: "a PUT of a pull request",
        send: |all| {
            let mut client = all.client(&all.pull_request).at("/s/pr-1");
            assert_eq!(client.put("44", b"x").status, 200);
        },
        keys: [NAMED, "scope hash"],
        values: &[
            ("path", "/s/pr-1/v1/cache/44"),
            ("scope", "pr-1"),
            ("hash", "44"),
        ],
    },
    Kind {
        what: "a PUT of a hash that is taken",
        send: |all| assert_eq!(all.client(&all.main).put("42", b"x").status, 409),
        keys: [NAMED, "hash reason"],
        values: &[("status", "409"), ("reason", "exists"), ("bytes_in", "1")],
    },
    Kind {
        what: "a PUT of a token that only reads",
        send: |all| assert_eq!(all.client(&all.nameless).put("45", b"x").status, 403),
        keys: [NAMELESS, "hash reason"],
        values: &[("reason", "read_only")],
    },
    Kind {
        what: "a GET of a stranger",
        send: |all| assert_eq!(all.stranger().get("42").status, 401),
        keys: [PLAIN, "hash reason"],
        values: &[("reason", "token_missing")],
    },
    Kind {
        what: "a GET with a token that was revoked",
        send: |all| assert_eq!(all.client(&all.revoked).get("42").status, 401),
        keys: [NAMED, "hash reason"],
        values: &[("token_name", "old"), ("reason", "token_revoked")],
    },
    Kind {
        what: "a GET at a place that is not the token's",
        send: |all| {
            let mut client = all.client(&all.main).at("/s/pr-1");
            assert_eq!(client.get("42").status, 401);
        },
        keys: [NAMED, "hash reason"],
        values: &[("reason", "scope_not_for_token")],
    },
    Kind {
        what: "a GET of what is no hash",
        send: |all| assert_eq!(all.client(&all.main).get("a.b").status, 404),
        keys: [NAMED, "reason"],
        values: &[("path", "/v1/cache/a.b"), ("reason", "bad_hash")],
    },
    Kind {
        what: "a GET with a secret in its path",
        send: |all| {
            let secret = all.main.secret.clone();
            assert_eq!(all.client(&all.main).get(&secret).status, 404);
        },
        keys: [NAMED, "reason"],
        values: &[("reason", "bad_hash")],
    },
    Kind {
        what: "a PUT that does not say its length",
        send: |all| assert_eq!(all.client(&all.main).ask("PUT", "/v1/cache/46").status, 411),
        keys: [PLAIN, "hash reason"],
        values: &[("reason", "no_length")],
    },
    Kind {
        what: "a PUT that its client gives up",
        send: |all| {
            let mut client = all.client(&all.main);
            assert_eq!(client.ask_to_put("47", 10), 100);
            client.raw.send("123");
        },
        keys: [
            "method path bytes_in bytes_out duration_us peer token token_name workspace",
            "hash reason",
        ],
        values: &[
            ("bytes_in", "3"),
            ("hash", "47"),
            ("reason", "client_closed"),
        ],
    },
    Kind {
        what: "a method that there is not",
        send: |all| {
            let answer = all.stranger().ask("BREW", "/v1/cache/42");
            assert_eq!(answer.status, 405);
        },
        keys: [PLAIN, "hash reason"],
        values: &[("method", "other"), ("reason", "bad_method")],
    },
    Kind {
        what: "a path that there is not",
        send: |all| assert_eq!(all.stranger().ask("GET", "/nowhere?x=y").status, 404),
        keys: [PLAIN, "reason"],
        values: &[("path", "/nowhere"), ("reason", "no_such_path")],
    },
    Kind {
        what: "the root",
        send: |all| assert_eq!(all.stranger().ask("GET", "/").status, 200),
        keys: [PLAIN, ""],
        values: &[("path", "/")],
    },
    Kind {
        what: "a probe",
        send: |all| assert_eq!(all.stranger().ask("GET", "/healthz").status, 200),
        keys: [PLAIN, ""],
        values: &[("path", "/healthz"), ("bytes_out", "3")],
    },
    Kind {
        what: "another probe",
        send: |all| assert_eq!(all.stranger().ask("GET", "/readyz").status, 200),
        keys: [PLAIN, ""],
        values: &[("path", "/readyz")],
    },
    Kind {
        what: "a scrape",
        send: |all| assert_eq!(all.client(&all.nameless).ask("GET", "/metrics").status, 200),
        keys: [NAMELESS, ""],
        values: &[("path", "/metrics"), ("status", "200")],
    },
    Kind {
        what: "a scrape of a stranger",
        send: |all| assert_eq!(all.stranger().ask("GET", "/metrics").status, 401),
        keys: [PLAIN, "reason"],
        values: &[("reason", "token_missing")],
    },
    Kind {
        what: "a scrape with an isolated token",
        send: |all| {
            let answer = all.client(&all.pull_request).ask("GET", "/metrics");
            assert_eq!(answer.status, 403);
        },
        keys: [NAMED, "reason"],
        values: &[("reason", "no_metrics")],
    },
    Kind {
        what: "a scrape at the second address",
        send: |all| assert_eq!(Raw::connect(all.monitor).get("/metrics").status, 200),
        keys: [PLAIN, ""],
        values: &[("path", "/metrics")],
    },
    Kind {
        what: "an artifact at the second address",
        send: |all| assert_eq!(Raw::connect(all.monitor).get("/v1/cache/42").status, 404),
        keys: [PLAIN, "reason"],
        values: &[("reason", "no_such_path")],
    },
    Kind {
        what: "a head that breaks a rule",
        send: |all| {
            let mut raw = Raw::connect(all.cache);
            raw.send("GET /v1/cache/42 HTTP/2.0\r\nHost: t\r\n\r\n");
            assert_eq!(raw.answer().status, 505);
        },
        keys: ["status peer", "reason"],
        values: &[("status", "505")],
    },
    Kind {
        what: "the same at the second address",
        send: |all| {
            let mut raw = Raw::connect(all.monitor);
            raw.send("GET / HTTP/1.1\r\nHost : t\r\n\r\n");
            assert_eq!(raw.answer().status, 400);
        },
        keys: ["status peer", "reason"],
        values: &[("status", "400")],
    },
];

/// A server with everything that the kinds need.
fn setting(dir: &Dir, args: &[&str]) -> (Server, Setting) {
    let revoked = dir.token_with(&["--read", "--name", "old"]);
    dir.cli(&["token", "revoke", "old"]).done();
    let listen = ["--set", "metrics.listen=127.0.0.1:0"];
    let server = Server::start_with(dir, &[&listen, args].concat());
    let line = server.wait_for_line("serving metrics");
    let monitor = value(&line, "address").expect("an address");
    let setting = Setting {
        cache: server.address(),
        monitor: monitor.parse().expect("an address"),
        main: dir.token_with(&["--write", "--name", "ci-main"]),
        nameless: dir.token("read"),
        pull_request: dir.token_with(&["--isolated", "--name", "ci-prs"]),
        revoked,
    };
    (server, setting)
}

#[test]
fn each_request_leaves_one_line_with_exactly_its_keys() {
    for format in ["text", "json"] {
        let dir = Dir::new();
        let (server, setting) = setting(&dir, &["--set", &format!("log.format={format}")]);
        for (number, kind) in KINDS.iter().enumerate() {
            (kind.send)(&setting);
            let what = format!("the {format} of {}", kind.what);
            let lines = eventually(&what, || {
                let lines = request_lines(&server.log());
                (lines.len() > number).then_some(lines)
            });
            assert_eq!(lines.len(), number + 1, "{what}: {lines:#?}");
            let line = &lines[number];
            let expected: Vec<_> = kind.keys.iter().flat_map(|keys| keys.split(' ')).collect();
            let expected: Vec<_> = expected.into_iter().filter(|key| !key.is_empty()).collect();
            assert_eq!(keys(line), expected, "{what}: {line}");
            for (key, expected) in kind.values {
                assert_eq!(value(line, key), Some(*expected), "{what}: {line}");
            }
            let peer = value(line, "peer");
            assert_eq!(peer, Some("127.0.0.1"), "{what}: {line}");
        }
        let ended = server.stop();
        assert_eq!(request_lines(&ended.log).len(), KINDS.len());
    }
}

#[test]
fn the_token_of_a_line_is_the_one_that_was_sent() {
    let dir = Dir::new();
    let (server, setting) = setting(&dir, &[]);
    for token in [&setting.main, &setting.nameless, &setting.revoked] {
        setting.client(token).get("1");
        let line = server.wait_for_line(&format!(" token={} ", token.id));
        assert_eq!(value(&line, "path"), Some("/v1/cache/1"), "{line}");
    }
}

#[test]
fn without_log_requests_there_is_no_line_and_everything_is_counted_all_the_same() {
    let dir = Dir::new();
    let (server, setting) = setting(&dir, &["--set", "log.requests=false"]);
    for kind in KINDS {
        (kind.send)(&setting);
    }
    eventually("the last request is counted", || {
        let answer = Raw::connect(setting.monitor).get("/metrics");
        let counted =
            "\ncachesrv_http_requests_total{access=\"none\",route=\"rejected\",status=\"400\"} 1\n";
        answer.text().contains(counted).then_some(())
    });
    let ended = server.stop();
    assert_eq!(request_lines(&ended.log), Vec::<String>::new());
    assert!(ended.log.contains(" info stopped "), "{}", ended.log);
}

/// A log that the test reads.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const EVERYTHING: Budget = Budget {
    max_bytes: u64::MAX,
    max_age: Duration::MAX,
};

/// An application in this process, since the real one has no request that panics.
fn application(path: &Path, log: &Arc<Log>) -> Api {
    let store = Store::open(&Options {
        path: path.to_owned(),
        synchronous: Synchronous::Normal,
        mmap: true,
        upload_memory_bytes: 4 << 20,
        isolated: IsolatedLimits {
            scope_max_bytes: 0,
            workspace_max_bytes: 0,
        },
        eviction: EvictionLimits {
            trusted: EVERYTHING,
            isolated: EVERYTHING,
            min_free_disk_bytes: 0,
        },
        observer: Observer::default(),
        wait: Duration::from_secs(20),
    });
    let bounds = Bounds {
        started_at_seconds: 0,
        connections_max: 1,
        trusted_max_bytes: 1,
        isolated_max_bytes: 1,
        free_disk_min_bytes: 0,
    };
    let settings = Settings {
        artifact_max_size_bytes: 1,
        put_is_accepted: false,
        behind_proxy: false,
        free_disk_min_bytes: 0,
    };
    Api::new(
        store.expect("a store"),
        Authenticator::new().expect("an authenticator"),
        Arc::clone(log),
        Metrics::new(&bounds).expect("metrics"),
        settings,
    )
}

/// An exchange with a bug.
#[derive(Default)]
struct Broken {
    panics_at_begin: bool,
    panics_at_write: bool,
    written: Vec<u8>,
}

impl Exchange for Broken {
    fn body_remaining(&self) -> u64 {
        0
    }

    fn read_body(&mut self, _: &mut [u8]) -> Result<usize, Cut> {
        Ok(0)
    }

    fn discard_body(&mut self, _: u64) -> Result<(), Cut> {
        assert!(!self.panics_at_begin, "a bug");
        Ok(())
    }

    fn trust_client(&mut self) {}

    fn begin(&mut self, _: &ResponseHead<'_>) -> Result<(), Cut> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        assert!(!self.panics_at_write, "a bug");
        self.written.extend_from_slice(bytes);
        Ok(())
    }
}

fn get(path: &str) -> Request<'_> {
    Request {
        method: Method::Get,
        path,
        authorization: None,
        content_length: None,
        forwarded_for: None,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

#[test]
fn panics_are_counted() {
    let dir = Dir::new();
    let log = Log::to(Box::new(Kept::default()), Format::Text, true).expect("a log");
    let monitor = Monitor(Arc::new(application(&dir.db(), &log)));
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let message = "a bug";
    monitor.event(&ServerEvent::Panicked { peer, message });
    let mut scrape = Broken::default();
    assert_eq!(monitor.handle(&get("/metrics"), &mut scrape), Ok(()));
    let text = String::from_utf8(scrape.written).expect("UTF-8");
    assert!(text.contains("\ncachesrv_panics_total 1\n"), "{text}");
}

#[test]
fn a_request_that_panics_leaves_one_line_whenever_that_is() {
    let dir = Dir::new();
    let kept = Kept::default();
    let log = Log::to(Box::new(kept.clone()), Format::Text, true).expect("a log");
    let api = application(&dir.db(), &log);
    let request = get("/v1/cache/1");
    let mut before = Broken {
        panics_at_begin: true,
        ..Broken::default()
    };
    let handled = catch_unwind(AssertUnwindSafe(|| api.handle(&request, &mut before)));
    assert!(handled.is_err());
    // Before the answer was begun, the server lets the application excuse itself.
    before.panics_at_begin = false;
    assert_eq!(api.panicked(&request, &mut before), Ok(()));
    let mut after = Broken {
        panics_at_write: true,
        ..Broken::default()
    };
    let handled = catch_unwind(AssertUnwindSafe(|| api.handle(&request, &mut after)));
    assert!(handled.is_err());
    log.flush();
    let text = String::from_utf8(kept.0.lock().expect("the log").clone()).expect("UTF-8");
    let lines = request_lines(&text);
    assert_eq!(lines.len(), 2, "{text}");
    for (line, status) in lines.iter().zip(["404", "401"]) {
        assert_eq!(value(line, "status"), Some(status), "{line}");
        assert_eq!(value(line, "reason"), Some("internal"), "{line}");
        assert_eq!(keys(line).join(" "), format!("{PLAIN} hash reason"));
    }
}
