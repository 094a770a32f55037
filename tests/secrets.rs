//! No secret is anywhere but on the one line that printed it, however it is used and misused: not in the
//! database, its log, or whatever a kill leaves, not in the server's log, an answer, or the output of a command.
//!
//! Every other test that makes a token proves the same about itself, see `support::evidence`; here is what
//! other tests do not do, and that the search finds what it looks for.

mod support;

use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use support::evidence::PIECE;
use support::{Answer, Dir, Server, Token, eventually, noise};

/// The options that make each kind of token.
const KINDS: &[&[&str]] = &[
    &["--read"],
    &["--write"],
    &["--isolated"],
    &["--isolated", "pr-1"],
    &["--write-only"],
];

/// A directory with a token of each kind.
fn with_tokens() -> (Dir, Vec<Token>) {
    let dir = Dir::new();
    let tokens = KINDS.iter().map(|options| dir.token_with(options));
    let tokens = tokens.collect();
    (dir, tokens)
}

/// Sends whatever it is, and keeps the answer, if there is one, as evidence.
fn ask(dir: &Dir, server: &Server, request: &str) -> Option<Answer> {
    let mut raw = server.connect();
    raw.send(request);
    let answer = raw.try_answer(!request.starts_with("HEAD")).ok()?;
    let text = format!("{}{}", answer.head, String::from_utf8_lossy(&answer.body));
    dir.evidence()
        .text(&format!("the answer to {request}"), text);
    Some(answer)
}

/// A secret as it should not be sent: spoilt in any way.
fn spoilt(secret: &str) -> Vec<String> {
    let mistyped = |at: usize, digit| format!("{}{digit}{}", &secret[..at], &secret[at + 1..]);
    vec![
        secret[..66].to_owned(),
        secret[1..].to_owned(),
        secret[..61].to_owned(),
        secret[18..].to_owned(),
        mistyped(17, '-'),
        mistyped(30, '.'),
        mistyped(66, '~'),
        format!("{secret}{secret}"),
        format!("'{secret}'"),
        format!("\"{secret}\""),
        format!("{secret},"),
        format!("{secret} {secret}"),
    ]
}

/// The whole life of these tokens at a running server, the right uses and the wrong ones.
fn use_and_misuse(dir: &Dir, server: &Server, tokens: &[Token]) {
    for token in tokens {
        let mut client = server.client(token);
        let hash = &token.id;
        // With the scope in the URL or without it: one of the two is right for any kind.
        assert!(matches!(client.put(hash, b"bytes").status, 200 | 401 | 403));
        assert!(matches!(client.get(hash).status, 200 | 401 | 404));
        let scoped = format!("/s/pr-1/v1/cache/{hash}");
        assert!(matches!(client.ask("GET", &scoped).status, 200 | 401 | 404));
        misplaced(dir, server, &token.secret);
        for wrong in spoilt(&token.secret) {
            let fields = format!("Host: cache\r\nAuthorization: Bearer {wrong}\r\n");
            let request = format!("GET /v1/cache/1 HTTP/1.1\r\n{fields}\r\n");
            let answer = ask(dir, server, &request).expect("an answer");
            assert_eq!(answer.status, 401, "{request}");
        }
    }
}

/// Sends a good secret in each place where none belongs.
fn misplaced(dir: &Dir, server: &Server, secret: &str) {
    let authorization = format!("Authorization: Bearer {secret}");
    for path in [
        &format!("/v1/cache/{secret}"),
        &format!("/v1/cache/1?token={secret}"),
        &format!("/v1/cache/1#{secret}"),
        &format!("/v1/cache/1/{secret}"),
        &format!("/{secret}/v1/cache/1"),
        &format!("/s/{secret}/v1/cache/1"),
        &format!("/s/{}/v1/cache/1", &secret[..61]),
        &format!("/w/{secret}/v1/cache/1"),
        &format!("/w/{}/v1/cache/1", &secret[..61]),
        &format!("/w/{secret}/s/{secret}/v1/cache/1"),
        &format!("/{secret}"),
        &format!("http://nx:{secret}@cache/v1/cache/1"),
        &format!("http://{secret}/v1/cache/1"),
        secret,
    ] {
        for method in ["GET", "HEAD", "POST", "PUT"] {
            for field in [&authorization, "Accept: */*"] {
                let fields = format!("Host: cache\r\nContent-Length: 0\r\n{field}\r\n");
                let request = format!("{method} {path} HTTP/1.1\r\n{fields}\r\n");
                ask(dir, server, &request);
            }
        }
    }
    for field in [
        format!("Authorization: {secret}"),
        format!("Authorization: Basic {secret}"),
        format!("Authorization: Bearer{secret}"),
        format!("{authorization}\r\n{authorization}"),
        format!("{authorization}\r\n {secret}"),
        format!("Authorization : Bearer {secret}"),
        format!("Proxy-Authorization: Bearer {secret}"),
        format!("X-Forwarded-For: {secret}"),
        format!("Cookie: token={secret}"),
        format!("User-Agent: {secret}"),
        format!("Host: {secret}"),
        format!("Content-Length: {secret}"),
        format!("Transfer-Encoding: {secret}"),
        format!("Expect: {secret}"),
        format!("Connection: {secret}"),
        format!("{secret}: 1"),
        secret.to_owned(),
    ] {
        let request = format!("GET /v1/cache/1 HTTP/1.1\r\nHost: cache\r\n{field}\r\n\r\n");
        ask(dir, server, &request);
    }
    for line in [
        format!("{secret} /v1/cache/1 HTTP/1.1"),
        format!("GET /v1/cache/1 {secret}"),
        format!("GET {secret} HTTP/1.1"),
        secret.to_owned(),
    ] {
        ask(dir, server, &format!("{line}\r\nHost: cache\r\n\r\n"));
    }
}

#[test]
fn no_secret_is_left_by_a_server_that_is_killed() {
    for format in ["text", "json"] {
        let (dir, tokens) = with_tokens();
        let set = format!("log.format={format}");
        let proxy = "behind_proxy=true";
        let server = Server::start_with(&dir, &["--set", &set, "--set", proxy]);
        use_and_misuse(&dir, &server, &tokens);
        let last = &tokens[tokens.len() - 1];
        dir.cli(&["token", "revoke", &last.id]).done();
        assert_eq!(server.client(last).get("1").status, 401);
        // Uses are noted after the answer.
        eventually("all uses are in the database", || {
            let unused = "SELECT count(*) FROM tokens WHERE last_used_at_ms IS NULL";
            (dir.number(unused) == 0).then_some(())
        });
        let ended = server.kill();
        assert_eq!(
            dir.files(),
            ["cachesrv.db", "cachesrv.db-shm", "cachesrv.db-wal"]
        );
        // What was looked through is where secrets would be: the ids are there.
        let log = std::fs::read(dir.join("cachesrv.db-wal")).expect("a log");
        for token in &tokens {
            let id = token.id.as_bytes();
            let held = log.windows(id.len()).any(|part| part == id);
            assert!(held && ended.log.contains(&token.id), "{}", token.id);
        }
        assert_eq!(dir.evidence().findings(), [""; 0]);
    }
}

#[test]
fn no_secret_is_repeated_by_a_command_that_was_given_one() {
    let (dir, tokens) = with_tokens();
    let id = &tokens[0].id;
    let secret = &tokens[0].secret;
    let text = format!(
        "error: this is a token's secret (its id is {id}), which should not be on a command line: others can see it \
         there, and the shell remembers it\n"
    );
    let revoke = format!("{text}try: cachesrv token revoke {id}\n");
    dir.cli(&["token", "revoke", secret]).failed(2, &revoke);
    let create = ["token", "create", "--name"];
    for name in [&secret[..61], secret] {
        dir.cli(&[&create[..], &[name]].concat()).failed(2, &text);
    }
    // What is mangled so that nobody can tell is shown up to where the id ends.
    let mangled = secret.replacen(id, &id[1..], 1);
    let shown = format!("csrv_{}__(secret)", &id[1..]);
    let unknown = format!("error: there is no token '{shown}'\ntry: cachesrv token list\n");
    dir.cli(&["token", "revoke", &mangled]).failed(1, &unknown);
    // Without its check digits it is short enough for a name, and they are no secret.
    let text = "error: a name with 'csrv_' in it might be a secret: choose another one\n";
    dir.cli(&[&create[..], &[&mangled[..60]]].concat())
        .failed(2, text);
    let set = format!("log.format={secret}");
    let unknown = format!("{secret}=1");
    let url = format!("http://{secret}@cache");
    for args in [
        &["token", "create", secret][..],
        &["token", "create", "--expires", secret],
        &["token", "create", &format!("--{secret}")],
        &["token", "list", secret],
        &["token", "list", "--db", secret],
        &["token", "list", "--db", &format!("no/such/{secret}.db")],
        &["token", "list", "--config", secret],
        &["token", "revoke", secret, secret],
        &["token", secret],
        &["serve", "--listen", secret],
        &["serve", "--listen", &url],
        &["serve", "--set", &set],
        &["serve", "--set", &unknown],
        &["config", "show", "--set", &set],
        &[secret],
    ] {
        let outcome = dir.cli(args);
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        for wrong in spoilt(secret)
            .iter()
            .filter(|wrong| wrong.starts_with("csrv_"))
        {
            let with_wrong = |arg: &&str| arg.replace(secret.as_str(), wrong);
            let args: Vec<String> = args.iter().map(with_wrong).collect();
            dir.cli(&args.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    assert_eq!(dir.evidence().findings(), [""; 0]);
}

/// The soft and the hard limit of a core dump of this process.
fn core_limits(process: &str) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).expect("limits");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"));
    let mut words = line.expect("the limit").split_whitespace();
    [(); 2].map(|()| words.next().expect("a limit").to_owned())
}

#[test]
fn a_server_that_crashes_leaves_no_core_dump() {
    let dir = Dir::new();
    let mut command = dir.command("sh");
    let line = "ulimit -S -c \"$(ulimit -H -c)\"; exec \"$0\" serve --listen 127.0.0.1:0";
    command.args(["-c", line, support::dir::BINARY]);
    let server = Server::start_command(&mut command);
    let [soft, hard] = core_limits(&server.pid().to_string());
    assert_eq!(soft, "0");
    assert_eq!(hard, core_limits("self")[1], "as it was");
    let ended = server.stop();
    assert!(!ended.log.contains("core dumps"), "{}", ended.log);
}

/// How often these bytes are in the memory that a process can write to, where all is that it was sent.
fn times_in_memory(pid: u32, bytes: &[u8]) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))
        .expect("a child's memory, which kernel.yama.ptrace_scope allows up to 1");
    let mut times = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').expect("a range");
        if !rest.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').expect("a range");
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("a number"));
        let mut region = vec![0; usize::try_from(end - start).expect("a length")];
        // What is gone or cannot be read meanwhile holds nothing.
        if memory.read_exact_at(&mut region, start).is_ok() {
            let found = region.windows(bytes.len()).filter(|part| *part == bytes);
            times += found.count();
        }
    }
    times
}

#[test]
fn no_secret_stays_in_memory_after_its_connection() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    let whole = token.secret.as_bytes();
    let mut raws: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for raw in &mut raws {
        raw.send(format!(
            "GET /v1/cache/1 HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {}",
            token.secret
        ));
    }
    eventually("what was sent is found", || {
        (times_in_memory(server.pid(), whole) >= raws.len()).then_some(())
    });
    for raw in &mut raws {
        raw.send("\r\n\r\n");
        assert_eq!(raw.answer().status, 404);
    }
    eventually("nothing is left while they are idle", || {
        (times_in_memory(server.pid(), &whole[18..61]) == 0).then_some(())
    });
    for raw in &mut raws {
        raw.send(format!(
            "PUT /v1/cache/1 HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {}\r\n",
            token.secret
        ));
    }
    drop(raws);
    eventually("nothing is left of heads that were broken off", || {
        (times_in_memory(server.pid(), &whole[18..61]) == 0).then_some(())
    });
}

// The search itself.

/// What the end of a test says about its directory.
fn complaint(dir: Dir) -> String {
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(dir)));
    dropped.map_or_else(
        |panic| *panic.downcast::<String>().expect("findings"),
        |()| String::new(),
    )
}

#[test]
fn a_secret_in_a_file_fails_its_test_wherever_it_stands() {
    let (dir, tokens) = with_tokens();
    let file = dir.join("leak");
    for at in (0..50).chain(PIECE - 70..PIECE + 10) {
        let secret = tokens[at % tokens.len()].secret.as_bytes();
        let mut bytes = noise(at as u64, at);
        // Half of it is enough.
        bytes.extend_from_slice(&secret[18 + at % 22..][..21]);
        std::fs::write(&file, &bytes).expect("a file");
        let findings = dir.evidence().findings();
        assert_eq!(findings.len(), 2, "at {at}: {findings:?}");
        assert!(findings[0].ends_with("leak has mode 0644"), "{findings:?}");
        assert!(findings[1].ends_with("/leak"), "{findings:?}");
    }
    dir.evidence().exempt_mode("leak");
    dir.evidence().exempt_secrets("leak");
    assert_eq!(dir.evidence().findings(), [""; 0]);
    std::fs::create_dir(dir.join("deep")).expect("a directory");
    std::fs::rename(file, dir.join("deep/leak")).expect("a file");
    let complaint = complaint(dir);
    assert!(complaint.contains("/deep/leak"), "{complaint}");
}

#[test]
fn a_secret_in_an_output_a_log_or_an_answer_fails_its_test() {
    let (dir, _) = with_tokens();
    assert_eq!(complaint(dir), "");
    let (dir, tokens) = with_tokens();
    dir.shell(&format!("echo {} >&2", tokens[0].secret));
    let found = format!("the secret of {} is in the stderr", tokens[0].id);
    assert!(complaint(dir).contains(&found));
    let dir = Dir::new();
    dir.shell("exec 3>&1; \"$cachesrv\" token create | tee /dev/fd/3");
    assert!(complaint(dir).contains(" is in the stdout"));
    let (dir, tokens) = with_tokens();
    let line = format!(
        "echo {} >&2; exec \"$0\" serve --listen 127.0.0.1:0",
        &tokens[1].secret[30..]
    );
    let mut command = dir.command("sh");
    command.args(["-c", &line, support::dir::BINARY]);
    drop(Server::start_command(&mut command));
    let found = format!("the secret of {} is in the log", tokens[1].id);
    assert!(complaint(dir).contains(&found));
    let (dir, tokens) = with_tokens();
    dir.evidence().text("an answer", tokens[0].secret.clone());
    assert!(complaint(dir).contains(" is in an answer"));
}

#[test]
fn a_public_file_fails_its_test_before_the_server_removes_it() {
    let (dir, _) = with_tokens();
    let server = Server::start(&dir);
    let log = dir.join("cachesrv.db-wal");
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&log, mode(0o640)).expect("the mode is set");
    let stopped = catch_unwind(AssertUnwindSafe(|| server.stop()));
    let panic = stopped.expect_err("the log is public");
    let text = panic.downcast::<String>().expect("a text");
    assert!(text.contains("cachesrv.db-wal has mode 0640"), "{text}");
    std::fs::set_permissions(&log, mode(0o600)).expect("the mode is set");
}
