//! The protocol of the cache on a real socket against the real executable: every row of the Rules table
//! of the design (protocol.md), for GET and for PUT.
//!
//! What a build survives is 200 and 404 on GET, 200, 403 and 409 on PUT. Everything else here is either
//! a bad token (401) or a request that no Nx sends.

mod support;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use support::dir::number;
use support::{Answer, Client, Dir, Server, Token, eventually, noise};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 256 * 1024;

const READ_ONLY: &str =
    "token 'laptops' is read-only: create one with `cachesrv token create --write`\n";
const EXISTS: &str = "an artifact is stored under this hash already; it never changes\n";
const MISS: &str = "nothing is stored under this hash\n";
const BAD_HASH: &str = "the URL ends in no hash: use 1 to 128 of A-Z, a-z, 0-9, '_' and '-'\n";
const BUSY: &str = "this cache is too busy at the moment; the artifact was not moved\n";
const INTERNAL: &str = "internal error of the cache; its log says more\n";
const DAMAGED: &str = "what was stored under this hash is damaged and was put aside\n";

/// A database, a server on it and a token that may write.
struct Cache {
    server: Server,
    token: Token,
    dir: Dir,
}

impl Cache {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        let dir = Dir::new();
        let token = dir.token_with(&["--write", "--name", "ci"]);
        let server = Server::start_with(&dir, args);
        Self { server, token, dir }
    }

    fn client(&self) -> Client {
        self.server.client(&self.token)
    }

    fn reader(&self) -> Client {
        let token = self.dir.token_with(&["--read", "--name", "laptops"]);
        self.server.client(&token)
    }
}

/// Asserts what every answer on a cache path has, and that a refusal is exactly this text.
#[track_caller]
fn refused(answer: &Answer, status: u16, text: &str) {
    assert_eq!((answer.status, answer.text()), (status, text));
    marked(answer);
    assert!(
        answer.head.contains("\r\nContent-Type: text/plain\r\n"),
        "{}",
        answer.head
    );
}

/// Asserts that nothing in between may keep an answer.
#[track_caller]
fn marked(answer: &Answer) {
    for line in ["Cache-Control: no-store", "Vary: Authorization"] {
        let lines = answer.head.lines().filter(|had| *had == line);
        assert_eq!(lines.count(), 1, "{line}: {}", answer.head);
    }
}

#[track_caller]
fn found(answer: &Answer, bytes: &[u8]) {
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(answer.body == bytes, "other bytes than were stored");
    marked(answer);
    assert_eq!(
        answer.header("content-type").as_deref(),
        Some("application/octet-stream")
    );
}

#[track_caller]
fn stored(answer: &Answer) {
    assert_eq!((answer.status, answer.text()), (200, ""));
    marked(answer);
}

// Bad tokens.

/// What a client may send in place of a good token, and what it is told.
fn bad_tokens(cache: &Cache) -> Vec<(&'static str, Option<String>, &'static str)> {
    let missing = "this cache needs a token: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to one made by \
                   `cachesrv token create`\n";
    let malformed = "this is not a token of this cache: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to the \
                     whole line that `cachesrv token create` printed, which begins with csrv_\n";
    let mistyped = "this token was mistyped or cut short, its check digits are wrong: copy the whole line \
                    that `cachesrv token create` printed into NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN\n";
    let unknown = "this cache does not know this token: check that it was made for this server, or set \
                   NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one made by `cachesrv token create`\n";
    let revoked = "this token was revoked: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one made \
                   by `cachesrv token create`\n";
    let expired = "this token has expired: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one made \
                   by `cachesrv token create`\n";
    let good = &cache.token.secret;
    let last = if good.ends_with('0') { "1" } else { "0" };
    let elsewhere = Dir::new().token("write").secret;
    let make = |sql: &str| {
        let token = cache.dir.token("write");
        let changed = cache.dir.sqlite().execute(sql, [&token.id]);
        assert_eq!(changed.expect("a token changed"), 1);
        Some(token.secret)
    };
    vec![
        ("missing", None, missing),
        ("malformed", Some("password".to_owned()), malformed),
        (
            "mistyped",
            Some(format!("{}{last}", &good[..good.len() - 1])),
            mistyped,
        ),
        ("unknown", Some(elsewhere), unknown),
        (
            "wrong secret",
            make("UPDATE tokens SET secret_tag = x'00000000' WHERE public_id = ?1"),
            unknown,
        ),
        (
            "revoked",
            make("UPDATE tokens SET revoked_at_ms = 1 WHERE public_id = ?1"),
            revoked,
        ),
        (
            "expired",
            make("UPDATE tokens SET expires_at_ms = 1 WHERE public_id = ?1"),
            expired,
        ),
    ]
}

#[test]
fn without_a_good_token_every_request_is_answered_by_401_and_one_helpful_sentence() {
    let cache = Cache::start();
    stored(&cache.client().put("there", b"secret"));
    let connect = |token: &Option<String>| Client::new(cache.server.address(), token.as_deref());
    for (kind, token, sentence) in bad_tokens(&cache) {
        println!("{kind}");
        for hash in ["there", "nowhere", ".."] {
            refused(&connect(&token).get(hash), 401, sentence);
            refused(&connect(&token).put(hash, b"poison"), 401, sentence);
        }
        let head = connect(&token).ask("HEAD", "/v1/cache/there");
        assert_eq!((head.status, head.body.len()), (401, 0));
    }
    found(&cache.client().get("there"), b"secret");
    assert_eq!(cache.dir.number("SELECT count(*) FROM artifacts"), 1);
}

#[test]
fn a_large_body_with_a_bad_token_still_gets_its_sentence() {
    let cache = Cache::start();
    let body = noise(1, 30_000_000);
    for (kind, token, sentence) in bad_tokens(&cache) {
        println!("{kind}");
        let mut client = Client::new(cache.server.address(), token.as_deref());
        let answer = client.put("1", &body);
        refused(&answer, 401, sentence);
        assert!(answer.closes());
        assert!(client.raw.rest().is_ok_and(|rest| rest.is_empty()));
    }
    assert_eq!(cache.dir.number("SELECT count(*) FROM artifacts"), 0);
}

#[test]
fn a_refused_client_without_a_body_keeps_its_connection() {
    let cache = Cache::start();
    let mut stranger = cache.server.stranger();
    for _ in 0..3 {
        let answer = stranger.get("1");
        assert!(answer.status == 401 && !answer.closes());
        assert_eq!(answer.header("www-authenticate").as_deref(), Some("Bearer"));
    }
}

// What a good token gets.

#[test]
fn a_read_only_token_is_refused_by_name_after_its_whole_body() {
    let cache = Cache::start();
    let mut reader = cache.reader();
    for size in [0, 10, 30_000_000] {
        let answer = reader.put("1", &noise(1, size));
        refused(&answer, 403, READ_ONLY);
        assert!(!answer.closes(), "{size}");
    }
    refused(&reader.get("1"), 404, MISS);
    stored(&cache.client().put("1", b"bytes"));
    found(&reader.get("1"), b"bytes");
    refused(&reader.put("1", b"other"), 403, READ_ONLY);
    // A token without a name is called by its id.
    let nameless = cache.dir.token("read");
    let text = READ_ONLY.replace("laptops", &nameless.id);
    refused(&cache.server.client(&nameless).put("1", b"x"), 403, &text);
}

#[test]
fn an_entry_never_changes() {
    let cache = Cache::start();
    let mut client = cache.client();
    for (hash, size) in [("small", 100), ("large", 3 * MIB)] {
        let bytes = noise(1, size);
        stored(&client.put(hash, &bytes));
        for other in [
            noise(2, size),
            noise(2, 0),
            noise(2, 5 * MIB),
            bytes.clone(),
        ] {
            let answer = client.put(hash, &other);
            refused(&answer, 409, EXISTS);
            assert!(!answer.closes(), "the connection can be used again");
        }
        found(&client.get(hash), &bytes);
    }
    assert_eq!(cache.dir.number("SELECT count(*) FROM artifacts"), 2);
}

#[test]
fn artifacts_of_every_size_come_back_as_they_were() {
    let cache = Cache::start();
    let mut client = cache.client();
    let borders = [128 * 1024, CHUNK, 2 * CHUNK, MIB, MIB + CHUNK, 2 * MIB];
    let around = borders
        .iter()
        .flat_map(|&border| [border - 1, border, border + 1]);
    let sizes: Vec<usize> = [0, 1, 295]
        .into_iter()
        .chain(around)
        .chain([30_000_000])
        .collect();
    for &size in &sizes {
        let bytes = noise(size as u64, size);
        stored(&client.put(&size.to_string(), &bytes));
        found(&client.get(&size.to_string()), &bytes);
    }
    // And once more from another connection, when all are there.
    let mut client = cache.client();
    for &size in &sizes {
        found(&client.get(&size.to_string()), &noise(size as u64, size));
    }
}

#[test]
fn a_hash_that_is_none_is_a_miss_on_get_and_not_stored_on_put() {
    let cache = Cache::start();
    let too_long = "9".repeat(129);
    let hashes = [
        "", "..", ".", "../..", "a/b", "a.b", "a/", "/a", "a~b", "a+b", "a:b", "'", &too_long,
    ];
    let mut client = cache.client();
    for hash in hashes {
        println!("'{hash}'");
        refused(&client.get(hash), 404, BAD_HASH);
        let answer = client.put(hash, &noise(1, MIB));
        refused(&answer, 403, BAD_HASH);
        assert!(!answer.closes());
    }
    // What is not even a path is no request.
    for hash in ["ä", "a%2e", "%2e%2e", "a\0b", "a\tb", "a#b"] {
        for method in ["GET", "PUT"] {
            let mut client = cache.client();
            client.begin(method, &format!("/v1/cache/{hash}"), &["Content-Length: 0"]);
            let answer = client.raw.answer();
            assert!(answer.status == 400 && answer.closes(), "{hash:?}");
        }
    }
    assert_eq!(cache.dir.number("SELECT count(*) FROM artifacts"), 0);
    let longest = "9".repeat(128);
    for hash in [&longest, "0", "-", "_", "AZaz09_-"] {
        stored(&client.put(hash, hash.as_bytes()));
        found(&client.get(hash), hash.as_bytes());
    }
}

#[test]
fn an_artifact_over_the_limit_is_refused_after_its_body_and_the_log_says_so() {
    let cache = Cache::start_with(&["--set", "limits.artifact_max_size=1MiB"]);
    let mut client = cache.client();
    stored(&client.put("fits", &noise(1, MIB)));
    let over = [
        (MIB + 1, "1048577B"),
        (10 * MIB, "10MiB"),
        (30 * MIB, "30MiB"),
    ];
    for (size, shown) in over {
        let mut client = cache.client();
        let answer = client.put("over", &noise(1, size));
        let text = format!(
            "the artifact has {shown}, this cache takes 1MiB: raise limits.artifact_max_size\n"
        );
        refused(&answer, 403, &text);
        let line = cache
            .server
            .wait_for_line(&format!("the artifact has {shown}"));
        assert!(
            line.contains(" warn an artifact was not stored path=/v1/cache/over reason="),
            "{line}"
        );
    }
    // Announced, and never sent.
    let mut client = cache.client();
    client.begin_put("over", 1_000_000_000_000);
    assert_eq!(client.raw.answer().status, 403);
    assert_eq!(cache.dir.number("SELECT count(*) FROM artifacts"), 1);
    refused(&cache.client().get("over"), 404, MISS);
}

#[test]
fn a_database_that_stays_busy_is_not_stored_on_put_and_does_not_concern_get() {
    let cache = Cache::start_with(&["--set", "limits.database_wait=1s"]);
    let mut client = cache.client();
    stored(&client.put("there", &noise(1, MIB)));
    let other = cache.dir.sqlite();
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let began = Instant::now();
    refused(&client.put("new", b"bytes"), 403, BUSY);
    // Ten times what was configured, so that a slow machine is no failure.
    assert!(began.elapsed() < Duration::from_secs(10), "{began:?}");
    for size in [10, 300_000, 5 * MIB] {
        refused(&client.put("new", &noise(2, size)), 403, BUSY);
        found(&client.get("there"), &noise(1, MIB));
        refused(&client.get("new"), 404, MISS);
    }
    let line = cache.server.wait_for_line("an artifact was not stored");
    assert!(
        line.contains(" warn ") && line.contains("too busy"),
        "{line}"
    );
    other
        .execute_batch("ROLLBACK")
        .expect("the lock given back");
    refused(&client.get("new"), 404, MISS);
    stored(&client.put("new", &noise(3, 5 * MIB)));
    found(&client.get("new"), &noise(3, 5 * MIB));
    nothing_is_left_over(&cache.dir);
}

/// No chunk without a stored artifact, once the cleaner has looked.
fn nothing_is_left_over(dir: &Dir) {
    let connection = dir.sqlite();
    eventually("only stored artifacts have rows and chunks", || {
        let others = number(
            &connection,
            "SELECT count(*) FROM artifacts WHERE state <> 'stored'",
        );
        let orphans = number(
            &connection,
            "SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts)",
        );
        (others + orphans == 0).then_some(())
    });
}

#[test]
fn a_database_that_fails_is_a_miss_on_get_and_not_stored_on_put() {
    let cache = Cache::start();
    let mut client = cache.client();
    stored(&client.put("there", b"bytes"));
    let other = cache.dir.sqlite();
    let rename = |from: &str, to: &str| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        other.execute_batch(&sql).expect("a table renamed");
    };
    rename("chunks", "gone");
    refused(&client.get("there"), 404, INTERNAL);
    refused(&client.put("small", b"bytes"), 403, INTERNAL);
    refused(&client.put("large", &noise(1, 5 * MIB)), 403, INTERNAL);
    let line = cache.server.wait_for_line("the database failed");
    assert!(
        line.contains(" error ") && line.contains("chunks"),
        "{line}"
    );
    rename("gone", "chunks");
    found(&client.get("there"), b"bytes");
    for hash in ["small", "large"] {
        refused(&client.get(hash), 404, MISS);
        stored(&client.put(hash, b"bytes"));
    }
}

// Damaged bytes.

/// Ways in which the disk may betray a chunk.
const DAMAGES: [&str; 4] = [
    "UPDATE chunks SET data = zeroblob(length(data)) WHERE id & 0xfffff = ?1",
    "UPDATE chunks SET data = substr(data, 1, length(data) - 1) WHERE id & 0xfffff = ?1",
    "UPDATE chunks SET checksum = checksum + 1 WHERE id & 0xfffff = ?1",
    "DELETE FROM chunks WHERE id & 0xfffff = ?1",
];

#[test]
fn damage_in_the_first_chunk_is_a_miss_and_the_hash_can_be_stored_anew() {
    for damage in DAMAGES {
        println!("{damage}");
        let cache = Cache::start();
        let mut client = cache.client();
        stored(&client.put("1", &noise(1, MIB)));
        let changed = cache.dir.sqlite().execute(damage, [0]);
        assert_eq!(changed.expect("a chunk damaged"), 1);
        let answer = client.get("1");
        refused(&answer, 404, DAMAGED);
        assert!(!answer.closes());
        stored_anew(&cache, &mut client);
    }
}

#[test]
fn damage_in_a_later_chunk_cuts_the_connection_before_the_body_looks_whole() {
    for (damage, sequence) in DAMAGES.into_iter().zip([1, 2, 3, 4]) {
        println!("{damage}");
        let cache = Cache::start();
        let mut client = cache.client();
        let bytes = noise(1, MIB + 5);
        stored(&client.put("1", &bytes));
        let changed = cache.dir.sqlite().execute(damage, [sequence]);
        assert_eq!(changed.expect("a chunk damaged"), 1);
        client.begin("GET", "/v1/cache/1", &[]);
        // A reset may overtake what was sent, so all that counts is that less comes than was announced.
        let received = client.raw.rest().unwrap_or_default();
        let whole = sequence as usize * CHUNK;
        assert!(received.len() <= whole + 1024, "{}", received.len());
        let head = String::from_utf8_lossy(&received[..received.len().min(1024)]).into_owned();
        assert!(
            received.is_empty() || head.contains("Content-Length: 1048581\r\n"),
            "{head}"
        );
        stored_anew(&cache, &mut cache.client());
    }
}

/// After the damage was found: a miss, a line in the log, and room for new bytes.
#[track_caller]
fn stored_anew(cache: &Cache, client: &mut Client) {
    refused(&client.get("1"), 404, MISS);
    let line = cache.server.wait_for_line("an artifact is damaged");
    assert!(
        line.contains(" error ") && line.contains("quarantined=true"),
        "{line}"
    );
    let reason = "condemned_reason IS NOT NULL AND state = 'condemned'";
    let count = format!("SELECT count(*) FROM artifacts WHERE {reason}");
    assert_eq!(cache.dir.number(&count), 1);
    stored(&client.put("1", b"anew"));
    found(&client.get("1"), b"anew");
}

#[test]
fn chunks_that_changed_places_are_damage() {
    let cache = Cache::start();
    let mut client = cache.client();
    stored(&client.put("1", &noise(1, 2 * CHUNK)));
    let swap = "UPDATE chunks SET id = -id; UPDATE chunks SET id = (-id) ^ 1;";
    let swap = swap.replace(
        "(-id) ^ 1",
        "CASE -id & 1 WHEN 0 THEN -id + 1 ELSE -id - 1 END",
    );
    cache.dir.sqlite().execute_batch(&swap).expect("a swap");
    refused(&client.get("1"), 404, DAMAGED);
    stored_anew(&cache, &mut client);
}

// Bodies that are not what was announced.

#[test]
fn a_body_shorter_than_announced_is_not_stored_and_its_hash_stays_free() {
    let cache = Cache::start();
    let sizes = [
        (10, 9),
        (10, 0),
        (MIB, MIB - 1),
        (5 * MIB, 4 * MIB),
        (30 * MIB, 20 * MIB),
    ];
    for (announced, sent) in sizes {
        let mut client = cache.client();
        client.begin_put("1", announced);
        client.raw.send(noise(1, sent));
        client.raw.finish_sending();
        let rest = client.raw.rest().unwrap_or_default();
        assert_eq!(
            String::from_utf8_lossy(&rest),
            "",
            "nobody is told that it is stored"
        );
        refused(&cache.client().get("1"), 404, MISS);
    }
    stored(&cache.client().put("1", b"whole"));
    found(&cache.client().get("1"), b"whole");
    nothing_is_left_over(&cache.dir);
}

#[test]
fn what_follows_the_announced_bytes_is_the_next_request() {
    let cache = Cache::start();
    for size in [0, 5, MIB, 3 * MIB + 1] {
        let hash = size.to_string();
        let bytes = noise(1, size);
        let mut client = cache.client();
        client.begin_put(&hash, size);
        client
            .raw
            .send([&bytes[..], b"and more than that\r\n\r\n"].concat());
        stored(&client.raw.answer());
        let second = client.raw.answer();
        assert!(second.status == 400 && second.closes(), "{}", second.head);
        assert!(client.raw.rest().is_ok_and(|rest| rest.is_empty()));
        found(&cache.client().get(&hash), &bytes);
    }
}

#[test]
fn requests_sent_at_once_are_answered_in_their_order() {
    let cache = Cache::start();
    let mut client = cache.client();
    let put = client.head("PUT", "/v1/cache/1", &["Content-Length: 5"]);
    let get = client.head("GET", "/v1/cache/1", &[]);
    let miss = client.head("GET", "/v1/cache/2", &[]);
    client
        .raw
        .send(format!("{get}{put}bytes{get}{put}other{miss}{get}"));
    refused(&client.raw.answer(), 404, MISS);
    stored(&client.raw.answer());
    found(&client.raw.answer(), b"bytes");
    refused(&client.raw.answer(), 409, EXISTS);
    refused(&client.raw.answer(), 404, MISS);
    found(&client.raw.answer(), b"bytes");
}

#[test]
fn a_client_that_asks_first_sends_its_body_only_when_it_is_wanted() {
    let cache = Cache::start();
    let fields = ["Content-Length: 5", "Expect: 100-continue"];
    let mut client = cache.client();
    client.begin("PUT", "/v1/cache/1", &fields);
    assert_eq!(client.raw.answer_to_head().status, 100);
    client.raw.send(b"bytes");
    stored(&client.raw.answer());
    let refusals = [
        (cache.client(), "1", 409),
        (cache.client(), "..", 403),
        (cache.reader(), "2", 403),
        (cache.server.stranger(), "2", 401),
    ];
    for (mut client, hash, status) in refusals {
        client.begin("PUT", &format!("/v1/cache/{hash}"), &fields);
        let answer = client.raw.answer();
        assert!(
            answer.status == status && answer.closes(),
            "{}",
            answer.head
        );
    }
    found(&cache.client().get("1"), b"bytes");
}

// Two and many at once.

#[test]
fn of_two_uploads_of_one_hash_exactly_one_wins() {
    let cache = Cache::start();
    for round in 0..60_usize {
        // Whole in one transaction; alone in one; staged in several.
        let size = [10, 200_000, MIB + MIB / 2, 3 * MIB][round % 4];
        let hash = round.to_string();
        let start = Arc::new(Barrier::new(2));
        let writers: Vec<_> = [1, 2]
            .map(|writer| {
                let (start, hash) = (Arc::clone(&start), hash.clone());
                let mut client = cache.client();
                let bytes = noise(writer, size);
                thread::spawn(move || {
                    start.wait();
                    let answer = client.put(&hash, &bytes);
                    (answer, bytes)
                })
            })
            .into_iter()
            .collect();
        let mut won = Vec::new();
        for writer in writers {
            let (answer, bytes) = writer.join().expect("a writer");
            if answer.status == 200 {
                stored(&answer);
                won.push(bytes);
            } else {
                refused(&answer, 409, EXISTS);
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        found(&cache.client().get(&hash), &won[0]);
    }
    nothing_is_left_over(&cache.dir);
}

#[test]
fn many_clients_at_once_are_all_served() {
    const CLIENTS: usize = 150;
    let cache = Cache::start();
    let start = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let start = Arc::clone(&start);
            let (address, token) = (cache.server.address(), cache.token.clone());
            thread::spawn(move || {
                start.wait();
                let mut client = Client::new(address, Some(&token.secret));
                let bytes = noise(number as u64, number * 3000);
                refused(&client.get(&number.to_string()), 404, MISS);
                stored(&client.put(&number.to_string(), &bytes));
                found(&client.get(&number.to_string()), &bytes);
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client is served");
    }
    assert_eq!(
        cache
            .dir
            .number("SELECT count(*) FROM artifacts WHERE state = 'stored'"),
        CLIENTS as i64
    );
}

// Overload.

/// Large downloads that the server has memory for at once: 32 MiB of chunks.
const DOWNLOADS_MAX: usize = 96;

#[test]
fn downloads_that_stall_make_new_ones_a_miss_and_are_never_cut_themselves() {
    let cache = Cache::start_with(&["--set", "limits.database_wait=1s"]);
    // More than the socket buffers of a client that does not read can take.
    let large = noise(1, 12 * MIB);
    stored(&cache.client().put("large", &large));
    stored(&cache.client().put("small", b"small"));
    let stalled: Vec<Client> = (0..DOWNLOADS_MAX)
        .map(|_| {
            let mut client = cache.client();
            client.begin("GET", "/v1/cache/large", &[]);
            let begun = client.raw.socket().peek(&mut [0]);
            assert_eq!(begun.expect("an answer"), 1);
            client
        })
        .collect();
    refused(&cache.client().get("large"), 404, BUSY);
    found(&cache.client().get("small"), b"small");
    refused(&cache.client().get("nothing"), 404, MISS);
    for mut client in stalled {
        found(&client.raw.answer(), &large);
    }
    found(&cache.client().get("large"), &large);
}

#[test]
fn uploads_that_stall_make_new_ones_refused_and_finish_themselves() {
    let limits = ["limits.database_wait=1s", "limits.upload_memory=4MiB"];
    let cache = Cache::start_with(&["--set", limits[0], "--set", limits[1]]);
    let bytes = noise(1, CHUNK);
    let mut stalled: Vec<Client> = (0..4 * MIB / CHUNK)
        .map(|number| {
            let mut client = cache.client();
            let hash = number.to_string();
            let fields = [
                &format!("Content-Length: {CHUNK}")[..],
                "Expect: 100-continue",
            ];
            client.begin("PUT", &format!("/v1/cache/{hash}"), &fields);
            // The server asks for the body once it has a buffer for it.
            assert_eq!(client.raw.answer_to_head().status, 100);
            client.raw.send(&bytes[..1000]);
            client
        })
        .collect();
    refused(&cache.client().put("late", &bytes), 403, BUSY);
    refused(&cache.client().get("late"), 404, MISS);
    for client in &mut stalled {
        client.raw.send(&bytes[1000..]);
        stored(&client.raw.answer());
    }
    stored(&cache.client().put("late", &bytes));
}

// Shutting down.

#[test]
fn transfers_in_flight_finish_when_the_server_shuts_down() {
    let cache = Cache::start();
    let large = noise(1, 30_000_000);
    stored(&cache.client().put("large", &large));
    let mut upload = cache.client();
    upload.begin_put("new", 3 * MIB);
    upload.raw.send(&noise(2, 3 * MIB)[..MIB]);
    let mut download = cache.client();
    download.begin("GET", "/v1/cache/large", &[]);
    // Its first byte has come, so it is in flight.
    let peeked = download.raw.socket().peek(&mut [0]);
    assert_eq!(peeked.expect("an answer"), 1);
    cache.server.terminate();
    cache.server.wait_for_line("shutting down");
    upload.raw.send(&noise(2, 3 * MIB)[MIB..]);
    let answer = upload.raw.answer();
    stored(&answer);
    assert!(answer.closes());
    found(&download.raw.answer(), &large);
    drop((upload, download));
    let Cache { server, token, dir } = cache;
    let ended = server.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
    assert_eq!(ended.argon2_runs(), 1);
    let server = Server::start(&dir);
    found(&server.client(&token).get("new"), &noise(2, 3 * MIB));
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let cache = Cache::start();
    // An upload that never goes on: the first signal alone would wait for it.
    let mut upload = cache.client();
    upload.begin_put("1", 3 * MIB);
    upload.raw.send(&noise(2, 3 * MIB)[..MIB]);
    cache.server.terminate();
    cache.server.wait_for_line("shutting down");
    cache.server.terminate();
    let Cache { server, dir, .. } = cache;
    let ended = server.wait();
    assert_eq!(ended.code(), Some(130), "{}", ended.log);
    assert!(!ended.log.contains("stopped"), "{}", ended.log);
    let _server = Server::start(&dir);
    nothing_is_left_over(&dir);
}

// The rest of the surface.

#[test]
fn every_answer_on_a_cache_path_forbids_to_keep_it() {
    let cache = Cache::start();
    let mut client = cache.client();
    marked(&client.get("1"));
    marked(&client.put("1", b"bytes"));
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"] {
        for hash in ["1", "2", "..", ""] {
            for mut client in [cache.client(), cache.server.stranger()] {
                let answer = client.ask(method, &format!("/v1/cache/{hash}"));
                marked(&answer);
            }
        }
    }
}

#[test]
fn a_base_url_with_a_slash_at_its_end_changes_nothing() {
    let cache = Cache::start();
    let mut client = cache.client();
    client.begin("PUT", "//v1/cache/1", &["Content-Length: 5"]);
    client.raw.send(b"bytes");
    stored(&client.raw.answer());
    found(&client.ask("GET", "//v1/cache/1"), b"bytes");
    found(&client.ask("GET", "/v1/cache/1"), b"bytes");
    assert_eq!(client.ask("GET", "///v1/cache/1").status, 404);
}

#[test]
fn head_answers_like_get_without_a_body() {
    let cache = Cache::start();
    let mut client = cache.client();
    stored(&client.put("1", &noise(1, MIB)));
    for (hash, status, length) in [
        ("1", 200, "1048576"),
        ("2", 404, "34"),
        ("..", 404, &BAD_HASH.len().to_string()),
    ] {
        let path = format!("/v1/cache/{hash}");
        let head = client.ask("HEAD", &path);
        let get = client.ask("GET", &path);
        assert_eq!((head.status, get.status), (status, status));
        assert_eq!(head.header("content-length").as_deref(), Some(length));
        let without_date = |answer: &Answer| -> Vec<String> {
            let lines = answer
                .head
                .lines()
                .filter(|line| !line.starts_with("Date: "));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(without_date(&head), without_date(&get));
    }
    assert!(client.ask("HEAD", "/").status == 200 && client.ask("GET", "/").status == 200);
}

#[test]
fn methods_that_nobody_needs_are_answered_by_405_and_what_is_allowed() {
    let cache = Cache::start();
    let mut client = cache.client();
    for (method, path, allowed) in [
        ("POST", "/v1/cache/1", "GET, HEAD, PUT"),
        ("DELETE", "/v1/cache/1", "GET, HEAD, PUT"),
        ("OPTIONS", "/v1/cache/1", "GET, HEAD, PUT"),
        ("PATCH", "/v1/cache/..", "GET, HEAD, PUT"),
        ("POST", "/", "GET, HEAD"),
        ("PUT", "/healthz", "GET, HEAD"),
    ] {
        let answer = client.ask(method, path);
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("allow").as_deref(), Some(allowed));
    }
}

#[test]
fn broken_requests_get_their_ordinary_status() {
    let cache = Cache::start();
    let mut client = cache.client();
    let answer = client.ask("PUT", "/v1/cache/1");
    refused(
        &answer,
        411,
        "a PUT must announce its length in Content-Length\n",
    );
    let long = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        (
            "PUT /v1/cache/1 HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            "PUT /v1/cache/1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (&long, 431),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ] {
        let mut raw = cache.server.connect();
        raw.send(request);
        let answer = raw.answer();
        assert!(
            answer.status == status && answer.closes(),
            "{request}: {}",
            answer.head
        );
    }
    assert_eq!(cache.dir.number("SELECT count(*) FROM artifacts"), 0);
}

#[test]
fn paths_beside_the_cache_need_no_token() {
    let cache = Cache::start();
    let mut stranger = cache.server.stranger();
    let version = concat!(
        "cachesrv ",
        env!("CARGO_PKG_VERSION"),
        ": a remote cache for Nx\n"
    );
    for (path, text) in [("/", version), ("/healthz", "ok\n"), ("/readyz", "ok\n")] {
        let answer = stranger.ask("GET", path);
        assert_eq!((answer.status, answer.text()), (200, text));
    }
    let nothing = "there is nothing here: artifacts are at /v1/cache/{hash}\n";
    for path in ["/v1", "/v1/cache", "/v2/cache/1", "/favicon.ico", "/s/pr-1"] {
        let answer = stranger.ask("GET", path);
        assert_eq!((answer.status, answer.text()), (404, nothing));
    }
}

#[test]
fn a_client_of_the_older_specification_can_be_given_202() {
    let cache = Cache::start_with(&["--set", "nx.put_status=202"]);
    let mut client = cache.client();
    let answer = client.put("1", b"bytes");
    assert_eq!((answer.status, answer.text()), (202, ""));
    marked(&answer);
    refused(&client.put("1", b"other"), 409, EXISTS);
    found(&client.get("1"), b"bytes");
}

#[test]
fn the_address_of_a_writer_is_believed_from_a_proxy_only() {
    let address = |cache: &Cache, hash: &str| -> String {
        let sql = "SELECT writer_address FROM artifacts WHERE hash = ?1";
        let connection = cache.dir.sqlite();
        connection
            .query_row(sql, [hash], |row| row.get(0))
            .expect("an artifact")
    };
    let put = |cache: &Cache, hash: &str, forwarded: &str| {
        let mut client = cache.client();
        let forwarded = format!("X-Forwarded-For: {forwarded}");
        client.begin(
            "PUT",
            &format!("/v1/cache/{hash}"),
            &["Content-Length: 0", &forwarded],
        );
        stored(&client.raw.answer());
        let line = cache
            .server
            .wait_for_line(&format!("path=/v1/cache/{hash} status=200"));
        (address(cache, hash), line)
    };
    let plain = Cache::start();
    let (stored_as, line) = put(&plain, "1", "203.0.113.7");
    assert_eq!(stored_as, "127.0.0.1");
    assert!(
        line.contains(" peer=127.0.0.1 ") && !line.contains("203.0.113"),
        "{line}"
    );
    let proxied = Cache::start_with(&["--set", "behind_proxy=true"]);
    for (hash, forwarded, expected) in [
        ("1", "203.0.113.7", "203.0.113.7"),
        ("2", "10.9.8.7, 203.0.113.7", "203.0.113.7"),
        ("3", "2001:db8::1", "2001:db8::1"),
        ("4", "somebody", "127.0.0.1"),
        ("5", "", "127.0.0.1"),
    ] {
        let (stored_as, line) = put(&proxied, hash, forwarded);
        assert_eq!(stored_as, expected);
        assert!(line.contains(&format!(" peer={expected} ")), "{line}");
    }
}
