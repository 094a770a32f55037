//! Who reads and writes what, against the real executable: both decision tables of the design (trust.md)
//! cell by cell, and its proofs one by one. A cache that a pull request cannot poison.
//!
//! That the trusted answers do not depend on isolated clients at all is in `interference.rs`.

mod support;

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use rusqlite::Connection;
use support::entries::{self, counters_are_facts, nothing_is_left_over};
use support::{Answer, Client, Dir, Entry, Key, Random, Server, TRUSTED, Token, eventually, noise};

const MIB: usize = 1024 * 1024;

/// Sizes that take each way into the file: one transaction with others, one alone, several.
const SIZES: [usize; 3] = [20, 300_000, MIB + MIB / 4];

const EXISTS: &str = "an artifact is stored under this hash already; it never changes\n";
const MISS: &str = "nothing is stored under this hash\n";
const NO_TOKEN: &str = "this cache needs a token: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to one made by \
                        `cachesrv token create`\n";
const MALFORMED: &str = "this is not a token of this cache: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to the \
                         whole line that `cachesrv token create` printed, which begins with csrv_\n";
const UNKNOWN: &str = "this cache does not know this token: check that it was made for this server, or set \
                       NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one made by `cachesrv token create`\n";
const REVOKED: &str = "this token was revoked: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one \
                       made by `cachesrv token create`\n";
const EXPIRED: &str = "this token has expired: set NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN to a new one \
                       made by `cachesrv token create`\n";
const NOT_FOR_SCOPES: &str = "this token is not for isolated scopes: take /s/... out of \
                              NX_SELF_HOSTED_REMOTE_CACHE_SERVER, or use a token made by \
                              `cachesrv token create --isolated`\n";
const NO_SCOPE: &str = "this token needs an isolated scope: put its name into the URL, as in \
                        NX_SELF_HOSTED_REMOTE_CACHE_SERVER=https://cache.example/s/pr-123\n";
const BAD_SCOPE: &str = "what stands behind /s/ in NX_SELF_HOSTED_REMOTE_CACHE_SERVER is not the name of a \
                         scope: use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', but not '.' or '..'\n";
const OTHER_SCOPE: &str = "this token is bound to another isolated scope: take /s/... out of \
                           NX_SELF_HOSTED_REMOTE_CACHE_SERVER, or use a token made by \
                           `cachesrv token create --isolated`\n";
const OTHER_WORKSPACE: &str = "this token does not belong to the workspace behind /w/ in \
                               NX_SELF_HOSTED_REMOTE_CACHE_SERVER: correct it, or use a token made by \
                               `cachesrv token create --workspace`\n";

/// A database with a token of each access, and a server on it.
struct Cache {
    server: Server,
    write: Token,
    read: Token,
    write_only: Token,
    /// Not bound to a scope.
    isolated: Token,
    dir: Dir,
    sqlite: Connection,
}

impl Cache {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with these settings.
    fn start_with(settings: &[&str]) -> Self {
        let dir = Dir::new();
        let [write, read, write_only, isolated] =
            ["write", "read", "write-only", "isolated"].map(|access| dir.token(access));
        let server = Self::serve(&dir, settings);
        Self {
            server,
            write,
            read,
            write_only,
            isolated,
            sqlite: dir.sqlite(),
            dir,
        }
    }

    fn serve(dir: &Dir, settings: &[&str]) -> Server {
        let args: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
        Server::start_with(dir, &args)
    }

    /// The same database with other settings, after a clean stop.
    fn restart_with(self, settings: &[&str]) -> Self {
        assert_eq!(self.server.stop().code(), Some(0));
        let server = Self::serve(&self.dir, settings);
        Self { server, ..self }
    }

    /// The same database after the server was killed.
    fn restart_killed(self, settings: &[&str]) -> Self {
        self.server.kill();
        let server = Self::serve(&self.dir, settings);
        Self { server, ..self }
    }

    fn client(&self, token: &Token) -> Client {
        self.server.client(token)
    }

    /// A pull request.
    fn in_scope(&self, scope: &str) -> Client {
        self.client(&self.isolated).at(&format!("/s/{scope}"))
    }

    /// Rows of any kind that a client could have caused.
    fn rows(&self) -> [i64; 3] {
        ["artifacts", "chunks", "scopes"].map(|table| {
            let sql = format!("SELECT count(*) FROM {table}");
            support::dir::number(&self.sqlite, &sql)
        })
    }
}

/// Asserts that a refusal is exactly this text, as Nx shows it.
#[track_caller]
fn refused(answer: &Answer, status: u16, text: &str) {
    assert_eq!((answer.status, answer.text()), (status, text));
    let kind = answer.header("content-type");
    assert_eq!(kind.as_deref(), Some("text/plain"), "{}", answer.head);
    unkept(answer);
}

/// Nothing in between may keep an answer: for another token it is another one.
#[track_caller]
fn unkept(answer: &Answer) {
    for line in ["Cache-Control: no-store", "Vary: Authorization"] {
        assert!(
            answer.head.lines().any(|had| had == line),
            "{}",
            answer.head
        );
    }
}

#[track_caller]
fn found(answer: &Answer, bytes: &[u8]) {
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(answer.body == bytes, "other bytes than were stored");
    unkept(answer);
}

#[track_caller]
fn stored(answer: &Answer) {
    assert_eq!((answer.status, answer.text()), (200, ""));
    unkept(answer);
}

fn read_only(token: &Token) -> String {
    let id = &token.id;
    format!("token '{id}' is read-only: create one with `cachesrv token create --write`\n")
}

// The two tables. A column says where there is an entry, a cell what becomes of the request: a scope's
// word is 200 with the bytes of that scope, or into that scope.

const GET: &str = "
                   | trusted | own | other | nowhere | trusted+own | trusted+other | own+other | trusted+own+other
write              | trusted | n/a | 404   | 404     | n/a         | trusted       | n/a       | n/a
read               | trusted | n/a | 404   | 404     | n/a         | trusted       | n/a       | n/a
write-only         | 404     | n/a | 404   | 404     | n/a         | 404           | n/a       | n/a
isolated           | trusted | own | 404   | 404     | trusted     | trusted       | own       | trusted
bound              | trusted | own | 404   | 404     | trusted     | trusted       | own       | trusted
bound and named    | trusted | own | 404   | 404     | trusted     | trusted       | own       | trusted
none               | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
malformed          | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
unknown            | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
revoked write      | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
revoked write-only | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
revoked isolated   | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
revoked bound      | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
expired read       | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
expired write      | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
expired isolated   | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
expired bound      | 401     | 401 | 401   | 401     | 401         | 401           | 401       | 401
";

const PUT: &str = "
                   | trusted | own | other   | nowhere | trusted+own | trusted+other | own+other | trusted+own+other
write              | 409     | n/a | trusted | trusted | n/a         | 409           | n/a       | n/a
write-only         | 409     | n/a | trusted | trusted | n/a         | 409           | n/a       | n/a
read               | 403     | n/a | 403     | 403     | n/a         | 403           | n/a       | n/a
isolated           | 409     | 409 | own     | own     | 409         | 409           | 409       | 409
bound              | 409     | 409 | own     | own     | 409         | 409           | 409       | 409
bound and named    | 409     | 409 | own     | own     | 409         | 409           | 409       | 409
none               | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
malformed          | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
unknown            | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
revoked write      | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
revoked write-only | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
revoked isolated   | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
revoked bound      | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
expired read       | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
expired write      | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
expired isolated   | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
expired bound      | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
";

const PUT_OVER_QUOTA: &str = "
                   | trusted | own | other   | nowhere | trusted+own | trusted+other | own+other | trusted+own+other
write              | 409     | n/a | trusted | trusted | n/a         | 409           | n/a       | n/a
write-only         | 409     | n/a | trusted | trusted | n/a         | 409           | n/a       | n/a
read               | 403     | n/a | 403     | 403     | n/a         | 403           | n/a       | n/a
isolated           | 403     | 403 | 403     | 403     | 403         | 403           | 403       | 403
bound              | 403     | 403 | 403     | 403     | 403         | 403           | 403       | 403
bound and named    | 403     | 403 | 403     | 403     | 403         | 403           | 403       | 403
revoked isolated   | 401     | 401 | 401     | 401     | 401         | 401           | 401       | 401
";

/// One cell of a table.
struct Cell {
    row: &'static str,
    places: Vec<&'static str>,
    expected: &'static str,
}

/// The cells of a table that say something.
fn cells(table: &'static str) -> Vec<Cell> {
    let mut lines = table.trim_start_matches('\n').lines();
    let split = |line: &'static str| line.split('|').map(str::trim);
    let columns: Vec<&str> = split(lines.next().expect("a heading")).skip(1).collect();
    let mut cells = Vec::new();
    for line in lines {
        let mut fields = split(line);
        let row = fields.next().expect("a token");
        let fields: Vec<&str> = fields.collect();
        assert_eq!(fields.len(), columns.len(), "{line}");
        for (column, expected) in columns.iter().zip(fields) {
            let places = column.split('+').filter(|place| *place != "nowhere");
            cells.push(Cell {
                row,
                places: places.collect(),
                expected,
            });
        }
    }
    cells.retain(|cell| cell.expected != "n/a");
    cells
}

/// Who stands at the left of a row.
struct Actor {
    token: Option<Token>,
    /// What the URL says of the scope.
    scope: &'static str,
    /// The scope that is its own, or would be if it were alive.
    own: &'static str,
    /// What is said to it wherever it is refused for itself.
    sentence: String,
}

/// The actors of the tables, by the word of their row.
fn actors(cache: &Cache) -> BTreeMap<&'static str, Actor> {
    let dir = &cache.dir;
    let fresh = |kind: &str| match kind {
        "bound" => dir.token_with(&["--isolated", "pr-2"]),
        kind => dir.token(kind),
    };
    let with_secret = |secret: &str| Token {
        secret: secret.to_owned(),
        id: String::new(),
    };
    let dead = |kind: &str, column: &str| {
        let token = fresh(kind);
        let sql = format!("UPDATE tokens SET {column} = 1 WHERE public_id = ?1");
        let changed = dir.sqlite().execute(&sql, [&token.id]);
        assert_eq!(changed.expect("a token changed"), 1);
        Some(token)
    };
    let revoked = |kind| dead(kind, "revoked_at_ms");
    let expired = |kind| dead(kind, "expires_at_ms");
    let living = |token: &Token| Some(token.clone());
    let bound = fresh("bound");
    let malformed = Some(with_secret("password"));
    let unknown = Some(with_secret(&Dir::new().token("isolated").secret));
    let read_only = read_only(&cache.read);
    // The word of the row, the token, what the URL says, its own scope, its sentence.
    let rows = [
        ("write", living(&cache.write), "", "", ""),
        ("read", living(&cache.read), "", "", &read_only),
        ("write-only", living(&cache.write_only), "", "", ""),
        ("isolated", living(&cache.isolated), "/s/pr-1", "pr-1", ""),
        ("bound", living(&bound), "", "pr-2", ""),
        ("bound and named", living(&bound), "/s/pr-2", "pr-2", ""),
        ("none", None, "/s/pr-1", "pr-1", NO_TOKEN),
        ("malformed", malformed, "/s/pr-1", "pr-1", MALFORMED),
        ("unknown", unknown, "/s/pr-1", "pr-1", UNKNOWN),
        ("revoked write", revoked("write"), "", "pr-1", REVOKED),
        (
            "revoked write-only",
            revoked("write-only"),
            "",
            "pr-1",
            REVOKED,
        ),
        (
            "revoked isolated",
            revoked("isolated"),
            "/s/pr-1",
            "pr-1",
            REVOKED,
        ),
        ("revoked bound", revoked("bound"), "", "pr-2", REVOKED),
        ("expired read", expired("read"), "", "pr-1", EXPIRED),
        ("expired write", expired("write"), "", "pr-1", EXPIRED),
        (
            "expired isolated",
            expired("isolated"),
            "/s/pr-1",
            "pr-1",
            EXPIRED,
        ),
        ("expired bound", expired("bound"), "", "pr-2", EXPIRED),
    ];
    let actor = |(row, token, scope, own, sentence): (_, _, _, _, &str)| {
        let sentence = sentence.to_owned();
        let actor = Actor {
            token,
            scope,
            own,
            sentence,
        };
        (row, actor)
    };
    rows.into_iter().map(actor).collect()
}

/// What may stand before and behind `/s/…` in a URL without a change: nothing, the token's workspace, and
/// the slash at the end.
const AROUND: [(&str, &str); 4] = [("", ""), ("", "/"), ("/w/default", ""), ("/w/default", "/")];

impl Actor {
    fn client(&self, cache: &Cache, (before, behind): (&str, &str)) -> Client {
        let secret = self.token.as_ref().map(|token| token.secret.as_str());
        let base = format!("{before}{}{behind}", self.scope);
        Client::new(cache.server.address(), secret).at(&base)
    }

    /// The scope that a word of the table means, for this actor.
    fn scope_of<'s>(&'s self, place: &'s str) -> &'s str {
        match place {
            "trusted" => TRUSTED,
            "own" => self.own,
            place => place,
        }
    }
}

/// The bytes that stand in a scope under a hash.
fn content(scope: &str, hash: &str, size: usize) -> Vec<u8> {
    let seed = blake3::hash(format!("{scope} {hash}").as_bytes());
    noise(
        u64::from(seed.as_bytes()[0]) << 8 | u64::from(seed.as_bytes()[1]),
        size,
    )
}

/// Stores an entry where a cell wants one; one that is to be in the trusted scope, too, comes before it.
fn seed(cache: &Cache, scope: &str, hash: &str, size: usize) {
    let mut client = if scope == TRUSTED {
        cache.client(&cache.write)
    } else {
        cache.in_scope(scope)
    };
    stored(&client.put(hash, &content(scope, hash, size)));
}

#[test]
fn get_and_head_answer_as_the_table_says() {
    let cache = Cache::start();
    let actors = actors(&cache);
    let hash_of = |places: &[&str], size: usize| format!("{}-{size}", places.join("-"));
    let cells = cells(GET);
    for size in SIZES {
        let columns: std::collections::BTreeSet<_> =
            cells.iter().map(|cell| cell.places.clone()).collect();
        for places in columns {
            let hash = hash_of(&places, size);
            // Isolated scopes first: afterwards they would be refused.
            for place in places.iter().rev() {
                let scopes: &[&str] = match *place {
                    "trusted" => &[TRUSTED],
                    "own" => &["pr-1", "pr-2"],
                    place => &[place],
                };
                for scope in scopes {
                    seed(&cache, scope, &hash, size);
                }
            }
        }
    }
    let before = entries::all(&cache.sqlite);
    for (cell, size) in SIZES
        .iter()
        .flat_map(|size| cells.iter().map(move |cell| (cell, *size)))
    {
        let actor = &actors[cell.row];
        let hash = hash_of(&cell.places, size);
        for around in AROUND {
            println!("GET {hash}: '{}' {around:?} → {}", cell.row, cell.expected);
            let mut client = actor.client(&cache, around);
            let answer = client.get(&hash);
            match cell.expected {
                "404" => refused(&answer, 404, MISS),
                "401" => refused(&answer, 401, &actor.sentence),
                place => found(&answer, &content(actor.scope_of(place), &hash, size)),
            }
            let head = client.look(&hash);
            assert_eq!(head.dateless(), answer.dateless());
        }
    }
    assert_eq!(entries::all(&cache.sqlite), before);
}

/// Asserts what becomes of every PUT, in the answer and in every scope.
fn put_as_the_table_says(
    cache: Cache,
    table: &'static str,
    settings: &[&str],
    over_quota: Option<&str>,
) {
    let actors = actors(&cache);
    let ways: Vec<_> = SIZES
        .into_iter()
        .zip([&AROUND[..], &AROUND[..1], &AROUND[..1]])
        .flat_map(|(size, around)| around.iter().map(move |around| (size, *around)))
        .collect();
    let cells = cells(table);
    let all: Vec<_> = ways
        .iter()
        .flat_map(|way| cells.iter().map(move |cell| (cell, *way)))
        .zip(1_u32..)
        .map(|((cell, way), number)| (cell, way, number.to_string()))
        .collect();
    for (cell, _, hash) in &all {
        for place in cell.places.iter().rev() {
            seed(&cache, actors[cell.row].scope_of(place), hash, 10);
        }
    }
    let cache = cache.restart_with(settings);
    for (cell, (size, around), hash) in all {
        println!(
            "PUT {hash}: {:?} '{}' → {}",
            cell.places, cell.row, cell.expected
        );
        let actor = &actors[cell.row];
        let bytes = content("new", &hash, size);
        let mut expected = entries::under(&cache.sqlite, &hash);
        assert_eq!(expected.len(), cell.places.len());
        let answer = actor.client(&cache, around).put(&hash, &bytes);
        match cell.expected {
            "409" => refused(&answer, 409, EXISTS),
            "403" if actor.sentence.is_empty() => {
                refused(&answer, 403, over_quota.expect("a quota"));
            }
            status @ ("403" | "401") => {
                refused(&answer, status.parse().expect("a status"), &actor.sentence);
            }
            place => {
                stored(&answer);
                let writer = actor.token.as_ref().expect("a token");
                let key = Key::new(actor.scope_of(place), &hash);
                expected.insert(key, Entry::of(writer, &bytes));
            }
        }
        assert_eq!(entries::under(&cache.sqlite, &hash), expected);
    }
    counters_are_facts(&cache.sqlite);
}

#[test]
fn put_answers_and_stores_as_the_table_says() {
    put_as_the_table_says(Cache::start(), PUT, &[], None);
}

#[test]
fn put_over_the_quota_of_a_scope_is_refused_wherever_an_entry_is() {
    let text = "this isolated scope may hold 0B: empty it with `cachesrv purge --scope`, or raise \
                limits.isolated_scope_max_size\n";
    let settings = ["limits.isolated_scope_max_size=0B"];
    put_as_the_table_says(Cache::start(), PUT_OVER_QUOTA, &settings, Some(text));
}

#[test]
fn put_over_the_quota_of_the_workspace_is_refused_wherever_an_entry_is() {
    let text = "the isolated scopes of this workspace may hold 0B together: empty some with \
                `cachesrv purge --scope`, or raise limits.isolated_max_size\n";
    let settings = ["limits.isolated_max_size=0B"];
    put_as_the_table_says(Cache::start(), PUT_OVER_QUOTA, &settings, Some(text));
}

// Proof 1.

#[test]
fn what_a_pull_request_stored_first_is_neither_read_by_main_nor_in_its_way() {
    let cache = Cache::start();
    for size in SIZES {
        let hash = size.to_string();
        let (poison, good) = (noise(666, size), noise(1, size));
        for scope in ["pr-666", "pr-1"] {
            let mut attacker = cache.in_scope(scope);
            refused(&attacker.get(&hash), 404, MISS);
            stored(&attacker.put(&hash, &poison));
            found(&attacker.get(&hash), &poison);
        }
        for token in [&cache.write, &cache.read] {
            refused(&cache.client(token).get(&hash), 404, MISS);
        }
        stored(&cache.client(&cache.write).put(&hash, &good));
        for token in [&cache.write, &cache.read] {
            found(&cache.client(token).get(&hash), &good);
        }
        // And it is the end of the poison: even its author reads the good bytes now.
        for scope in ["pr-666", "pr-1"] {
            found(&cache.in_scope(scope).get(&hash), &good);
            refused(&cache.in_scope(scope).put(&hash, &poison), 409, EXISTS);
        }
        found(&cache.client(&cache.write).get(&hash), &good);
    }
}

// Proof 2.

/// One hash stored by a pull request and by main at the same moment, while somebody reads it.
fn race(cache: &Cache, rounds: u64, size_of: impl Fn(u64) -> usize) {
    let trusted = |round: u64| noise(2 * round, size_of(round));
    let isolated = |round: u64| noise(2 * round + 1, size_of(round + 1));
    let (mut main, mut pull_request) = (cache.client(&cache.write), cache.in_scope("pr-1"));
    let mut reader = cache.client(&cache.read);
    let mut lost = 0;
    for round in 0..rounds {
        let hash = round.to_string();
        let (good, poison) = (trusted(round), isolated(round));
        let start = Barrier::new(3);
        let told = thread::scope(|scope| {
            let (hash, start) = (&hash, &start);
            scope.spawn(|| {
                start.wait();
                stored(&main.put(hash, &good));
                found(&main.get(hash), &good);
            });
            scope.spawn(|| {
                start.wait();
                let answer = reader.get(hash);
                if answer.status != 404 {
                    found(&answer, &good);
                }
            });
            start.wait();
            pull_request.put(hash, &poison)
        });
        if told.status == 200 {
            stored(&told);
        } else {
            refused(&told, 409, EXISTS);
            lost += 1;
        }
    }
    println!("of {rounds} races the pull request lost {lost}");
    let kept = entries::all(&cache.sqlite);
    let (mut main, mut pull_request) = (cache.client(&cache.write), cache.in_scope("pr-1"));
    let mut expected = entries::Entries::new();
    for round in 0..rounds {
        let hash = round.to_string();
        found(&main.get(&hash), &trusted(round));
        found(&pull_request.get(&hash), &trusted(round));
        let entry = Entry::of(&cache.write, &trusted(round));
        expected.insert(Key::new(TRUSTED, &hash), entry);
        let own = Key::new("pr-1", &hash);
        if kept.contains_key(&own) {
            let entry = Entry::of(&cache.isolated, &isolated(round));
            expected.insert(own, entry);
        }
    }
    assert_eq!(kept, expected);
    assert_eq!(kept.len() as u64, 2 * rounds - lost);
    counters_are_facts(&cache.sqlite);
}

#[test]
fn of_a_thousand_races_for_a_hash_main_wins_every_one() {
    race(&Cache::start(), 1000, |round| 100 + round as usize % 900);
}

#[test]
fn races_with_large_artifacts_are_won_by_main_as_well() {
    race(&Cache::start(), 40, |round| {
        [200_000, MIB + MIB / 2, 300_000, 2 * MIB + 5][round as usize % 4]
    });
}

#[test]
fn an_upload_in_flight_meets_what_was_stored_meanwhile_in_the_scopes_that_count_for_it() {
    let cache = Cache::start();
    for size in SIZES {
        let half = size / 2;
        let bytes = |seed: u64| noise(seed, size);
        let begin = |mut client: Client, hash: &str, seed: u64| {
            client.begin_put(hash, size);
            client.raw.send(&bytes(seed)[..half]);
            client
        };
        let finish = |mut client: Client, seed: u64| {
            client.raw.send(&bytes(seed)[half..]);
            client.raw.answer()
        };
        let main = || cache.client(&cache.write);
        // Main overtakes a pull request, which is told so; what it sent is gone.
        let hash = format!("overtaken-{size}");
        let slow = begin(cache.in_scope("pr-1"), &hash, 1);
        stored(&main().put(&hash, &bytes(2)));
        refused(&finish(slow, 1), 409, EXISTS);
        found(&cache.in_scope("pr-1").get(&hash), &bytes(2));
        let expected = [(Key::new(TRUSTED, &hash), Entry::of(&cache.write, &bytes(2)))];
        assert_eq!(
            entries::under(&cache.sqlite, &hash),
            entries::Entries::from(expected)
        );
        // Pull requests overtake main, which does not notice; of the same scope one is stored.
        let hash = format!("main-is-slow-{size}");
        let slow = begin(main(), &hash, 3);
        let second = begin(cache.in_scope("pr-1"), &hash, 4);
        stored(&cache.in_scope("pr-1").put(&hash, &bytes(5)));
        stored(&cache.in_scope("pr-2").put(&hash, &bytes(6)));
        refused(&finish(second, 4), 409, EXISTS);
        found(&cache.in_scope("pr-1").get(&hash), &bytes(5));
        refused(&main().get(&hash), 404, MISS);
        stored(&finish(slow, 3));
        found(&main().get(&hash), &bytes(3));
        found(&cache.in_scope("pr-1").get(&hash), &bytes(3));
        assert_eq!(entries::under(&cache.sqlite, &hash).len(), 3);
    }
    nothing_is_left_over(&cache.sqlite);
    counters_are_facts(&cache.sqlite);
}

// Proof 4.

#[test]
fn a_pull_request_replaces_neither_its_own_entry_nor_one_of_main() {
    let cache = Cache::start();
    let bound = cache.dir.token_with(&["--isolated", "pr-1"]);
    for size in SIZES {
        let (own, trusted) = (format!("own-{size}"), format!("trusted-{size}"));
        let (mine, theirs) = (noise(1, size), noise(2, size));
        stored(&cache.in_scope("pr-1").put(&own, &mine));
        stored(&cache.client(&cache.write).put(&trusted, &theirs));
        let before = entries::all(&cache.sqlite);
        let same_scope = [
            cache.in_scope("pr-1"),
            cache.client(&bound),
            cache.client(&bound).at("/w/default/s/pr-1/"),
        ];
        for mut client in same_scope {
            for body in [noise(3, size), noise(3, 0), noise(3, 2 * MIB), mine.clone()] {
                for hash in [&own, &trusted] {
                    let answer = client.put(hash, &body);
                    refused(&answer, 409, EXISTS);
                    assert!(!answer.closes(), "the connection can be used again");
                }
            }
            found(&client.get(&own), &mine);
            found(&client.get(&trusted), &theirs);
        }
        assert_eq!(entries::all(&cache.sqlite), before);
    }
    counters_are_facts(&cache.sqlite);
}

// Proof 5.

#[test]
fn one_pull_request_learns_nothing_of_another_and_changes_nothing_there() {
    let cache = Cache::start();
    for size in SIZES {
        let hash = format!("there-{size}");
        let theirs = noise(2, size);
        stored(&cache.in_scope("b").put(&hash, &theirs));
        let mut a = cache.in_scope("a");
        let nowhere = a.get(&"x".repeat(hash.len()));
        refused(&nowhere, 404, MISS);
        let probed = a.get(&hash);
        assert_eq!(probed.dateless(), nowhere.dateless());
        assert_eq!(probed.body, nowhere.body);
        assert_eq!(a.look(&hash).dateless(), nowhere.dateless());
        let mine = noise(1, size + 1);
        stored(&a.put(&hash, &mine));
        found(&a.get(&hash), &mine);
        found(&cache.in_scope("b").get(&hash), &theirs);
        let expected = [("a", &mine), ("b", &theirs)]
            .map(|(scope, bytes)| (Key::new(scope, &hash), Entry::of(&cache.isolated, bytes)));
        let expected = entries::Entries::from(expected);
        assert_eq!(entries::under(&cache.sqlite, &hash), expected);
    }
    // What differs in a letter's case or in a dot is another scope, and so is one named like trusted.
    stored(&cache.in_scope("pr-1").put("1", b"of pr-1"));
    for other in [
        "PR-1",
        "pr-1.",
        "pr-1-",
        ".pr-1",
        "pr_1",
        "trusted",
        "(trusted)",
        "1",
    ] {
        let answer = cache.in_scope(other).get("1");
        assert!(answer.status != 200, "{other}");
    }
}

// Proof 6.

/// Whether a token that is alive came with a request.
#[derive(Debug, Clone, Copy)]
enum Who {
    Known,
    Stranger,
}

/// Sends a request to a URL in each method, with bodies of no, few and many bytes, and expects to be
/// refused with this sentence each time, whatever is stored there.
fn refused_everywhere(cache: &Cache, who: Who, token: &Token, base: &str, sentence: &str) {
    println!("{} at '{base}'", token.id);
    let before = cache.rows();
    let client = || cache.client(token).at(base);
    for hash in ["there", "nowhere", "own", ".."] {
        let answer = client().get(hash);
        refused(&answer, 401, sentence);
        assert!(!answer.closes());
        assert_eq!(client().look(hash).dateless(), answer.dateless());
        // A short body is read, and the connection stays.
        let mut polite = client();
        for size in [0, 10, 64 * 1024] {
            let answer = polite.put(hash, &noise(1, size));
            refused(&answer, 401, sentence);
            assert!(!answer.closes(), "{size}");
        }
        refused(&polite.get(hash), 401, sentence);
    }
    let mut client = client();
    let answer = client.put("nowhere", &noise(1, 6 * MIB));
    refused(&answer, 401, sentence);
    match who {
        // His token is alive, only the place is not his: a long body is read, too.
        Who::Known => refused(&client.get("nowhere"), 401, sentence),
        // It is not, and still the sentence arrives before the connection ends in peace.
        Who::Stranger => {
            assert!(answer.closes());
            assert!(client.raw.rest().is_ok_and(|rest| rest.is_empty()));
        }
    }
    assert_eq!(cache.rows(), before, "nothing is stored, nor begun");
}

/// A database in which something could be hit: entries in the trusted scope and in two isolated ones.
fn inhabited() -> Cache {
    let cache = Cache::start();
    cache.dir.cli(&["workspace", "add", "shop"]).done();
    stored(&cache.in_scope("pr-1").put("own", b"own"));
    stored(&cache.in_scope("pr-2").put("own", b"of pr-2"));
    stored(&cache.client(&cache.write).put("there", b"trusted"));
    cache
}

#[test]
fn a_token_of_the_trusted_scope_is_refused_where_the_url_names_another() {
    let cache = inhabited();
    let before = entries::all(&cache.sqlite);
    for token in [&cache.write, &cache.read, &cache.write_only] {
        for base in [
            "/s/x",
            "/s/pr-1",
            "/s/pr-1/",
            "/s/trusted",
            "/s/default",
            "/s/..",
            "/s/",
            "/s//",
            "/s/feature/x",
            "/w/default/s/pr-1",
        ] {
            refused_everywhere(&cache, Who::Known, token, base, NOT_FOR_SCOPES);
        }
        refused_everywhere(&cache, Who::Known, token, "/w/shop/s/pr-1", OTHER_WORKSPACE);
    }
    let line = cache
        .server
        .wait_for_line("path=/s/x/v1/cache/nowhere status=401");
    assert!(line.contains(" reason=scope_not_for_token"), "{line}");
    assert_eq!(entries::all(&cache.sqlite), before);
}

#[test]
fn an_isolated_token_is_refused_where_the_url_is_not_its_place() {
    let cache = inhabited();
    let bound = cache.dir.token_with(&["--isolated", "pr-1"]);
    let unbound = &cache.isolated;
    let before = entries::all(&cache.sqlite);
    let long = format!("/s/{}", "x".repeat(65));
    let cases = [
        (unbound, "", NO_SCOPE, "scope_missing"),
        (unbound, "/", NO_SCOPE, "scope_missing"),
        (unbound, "/w/default", NO_SCOPE, "scope_missing"),
        (unbound, "/s/", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s//", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/.", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/..", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/../", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/../s/pr-1", BAD_SCOPE, "scope_malformed"),
        (unbound, &long, BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/feature/x", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/pr-1//", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s//pr-1", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/pr-1/w/default", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/pr-1/v1/cache/x", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/(trusted)", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/a+b", BAD_SCOPE, "scope_malformed"),
        (unbound, "/s/a'b", BAD_SCOPE, "scope_malformed"),
        (unbound, "/w/default/s/..", BAD_SCOPE, "scope_malformed"),
        (
            unbound,
            "/w/shop/s/pr-1",
            OTHER_WORKSPACE,
            "workspace_of_another",
        ),
        (
            unbound,
            "/w/none/s/pr-1",
            OTHER_WORKSPACE,
            "workspace_of_another",
        ),
        (
            unbound,
            "/w/../s/pr-1",
            OTHER_WORKSPACE,
            "workspace_of_another",
        ),
        (
            unbound,
            "/w//s/pr-1",
            OTHER_WORKSPACE,
            "workspace_of_another",
        ),
        (
            unbound,
            "/w/Default/s/pr-1",
            OTHER_WORKSPACE,
            "workspace_of_another",
        ),
        (&bound, "/s/pr-2", OTHER_SCOPE, "scope_of_another"),
        (&bound, "/s/PR-1", OTHER_SCOPE, "scope_of_another"),
        (&bound, "/s/trusted", OTHER_SCOPE, "scope_of_another"),
        (
            &bound,
            "/w/default/s/pr-2/",
            OTHER_SCOPE,
            "scope_of_another",
        ),
        (&bound, "/s/..", BAD_SCOPE, "scope_malformed"),
        (&bound, "/s/", BAD_SCOPE, "scope_malformed"),
        (&bound, "/s/pr-1/x", BAD_SCOPE, "scope_malformed"),
        (&bound, "/w/shop", OTHER_WORKSPACE, "workspace_of_another"),
        (
            &bound,
            "/w/shop/s/pr-1",
            OTHER_WORKSPACE,
            "workspace_of_another",
        ),
    ];
    for (token, base, sentence, reason) in cases {
        refused_everywhere(&cache, Who::Known, token, base, sentence);
        let line = cache
            .server
            .wait_for_line(&format!("path={base}/v1/cache/nowhere status=401"));
        assert!(line.contains(&format!(" reason={reason}")), "{line}");
    }
    assert_eq!(entries::all(&cache.sqlite), before);
}

#[test]
fn a_url_with_a_percent_sign_is_no_url_of_this_cache() {
    let cache = inhabited();
    let bound = cache.dir.token_with(&["--isolated", "pr-1"]);
    let before = (cache.rows(), entries::all(&cache.sqlite));
    for token in [
        &cache.write,
        &cache.read,
        &cache.write_only,
        &cache.isolated,
        &bound,
    ] {
        for base in [
            "/s/%2e%2e",
            "/s/pr%2d1",
            "/s/..%2f",
            "/w/%64efault",
            "/%73/pr-1",
            "/s/%",
        ] {
            println!("{base}");
            for hash in ["there", "own", "nowhere"] {
                let answer = cache.client(token).at(base).get(hash);
                assert!(answer.status == 400 && answer.closes(), "{}", answer.head);
            }
            for size in [0, 10, 6 * MIB] {
                let mut client = cache.client(token).at(base);
                let answer = client.put("nowhere", &noise(1, size));
                assert!(answer.status == 400 && answer.closes(), "{}", answer.head);
                assert!(client.raw.rest().is_ok_and(|rest| rest.is_empty()));
            }
        }
    }
    assert_eq!((cache.rows(), entries::all(&cache.sqlite)), before);
}

#[test]
fn a_scope_is_a_plain_scope_whatever_its_name() {
    let cache = Cache::start();
    stored(&cache.client(&cache.write).put("there", b"trusted"));
    let longest = "x".repeat(64);
    let names = [
        "trusted", "default", "1", "...", "-", "v1", "s", "w", "null", &longest,
    ];
    for name in names {
        let mut client = cache.in_scope(name);
        refused(&client.get("1"), 404, MISS);
        stored(&client.put("1", name.as_bytes()));
        refused(&client.put("there", b"poison"), 409, EXISTS);
        found(&client.get("there"), b"trusted");
        let token = cache.dir.token_with(&[&format!("--isolated={name}")]);
        found(&cache.client(&token).get("1"), name.as_bytes());
        // The slash at the end of a base URL, in front of the path and nowhere else.
        found(
            &cache.in_scope(&format!("{name}/")).get("1"),
            name.as_bytes(),
        );
        refused(&cache.client(&cache.write).get("1"), 404, MISS);
    }
    let expected = names.map(|name| {
        let entry = Entry::of(&cache.isolated, name.as_bytes());
        (Key::new(name, "1"), entry)
    });
    assert_eq!(
        entries::under(&cache.sqlite, "1"),
        entries::Entries::from(expected)
    );
}

// Proof 7.

#[test]
fn two_workspaces_have_nothing_in_common() {
    let cache = Cache::start();
    cache.dir.cli(&["workspace", "add", "shop"]).done();
    let create = |workspace: &str, options: &[&str]| {
        let options = [options, &["--workspace", workspace]].concat();
        cache.dir.token_with(&options)
    };
    // Who, where the URL says it is, and in which scope that is.
    let kinds: [(&[&str], &str, Option<&str>); 5] = [
        (&["--write"], "", Some(TRUSTED)),
        (&["--write-only"], "", Some(TRUSTED)),
        (&["--isolated"], "/s/pr-1", Some("pr-1")),
        (&["--isolated", "pr-1"], "", Some("pr-1")),
        (&["--read"], "", None),
    ];
    let all = ["default", "shop"].map(|workspace| {
        kinds.map(|(options, place, scope)| (create(workspace, options), place, scope))
    });
    let bytes = |workspace: usize| noise(workspace as u64, MIB + 300 * workspace);
    for (writer, reader) in [(0, 1), (1, 0)] {
        for (number, (token, place, scope)) in all[writer].iter().enumerate() {
            let hash = format!("{writer}-{number}");
            let Some(scope) = scope else { continue };
            let name = ["default", "shop"][writer];
            let asserted = format!("/w/{name}{place}");
            stored(&cache.client(token).at(&asserted).put(&hash, &bytes(writer)));
            for (other, place, _) in &all[reader] {
                refused(&cache.client(other).at(place).get(&hash), 404, MISS);
            }
            // Where the hash is stored in the one workspace it is free in the other, for each access.
            for (other, (token, place, scope)) in all[reader].iter().enumerate() {
                let mut client = cache.client(token).at(place);
                let answer = client.put(&hash, &bytes(reader));
                match (other, scope) {
                    (_, None) => refused(&answer, 403, &read_only(token)),
                    (0, _) => stored(&answer),
                    // The trusted entry of the first one is in the way of all others.
                    _ => refused(&answer, 409, EXISTS),
                }
            }
            let key = |workspace: &str, scope: &str| Key {
                workspace: workspace.to_owned(),
                ..Key::new(scope, &hash)
            };
            let other_name = ["default", "shop"][reader];
            let expected = entries::Entries::from([
                (key(name, scope), Entry::of(token, &bytes(writer))),
                (
                    key(other_name, TRUSTED),
                    Entry::of(&all[reader][0].0, &bytes(reader)),
                ),
            ]);
            assert_eq!(entries::under(&cache.sqlite, &hash), expected);
            found(&cache.client(&all[reader][4].0).get(&hash), &bytes(reader));
        }
    }
    // Scopes of one name are two.
    let scopes = [0, 1].map(|workspace| cache.client(&all[workspace][2].0).at("/s/same"));
    for (workspace, mut client) in scopes.into_iter().enumerate() {
        stored(&client.put("same", &bytes(workspace)));
        found(&client.get("same"), &bytes(workspace));
    }
    assert_eq!(entries::under(&cache.sqlite, "same").len(), 2);
    counters_are_facts(&cache.sqlite);
}

#[test]
fn a_token_is_refused_in_every_workspace_but_its_own() {
    let cache = inhabited();
    let bound = cache.dir.token_with(&["--isolated", "pr-1"]);
    for (token, place) in [
        (&cache.write, ""),
        (&cache.read, ""),
        (&cache.write_only, ""),
        (&cache.isolated, "/s/pr-1"),
        (&bound, ""),
        (&bound, "/s/pr-1"),
    ] {
        for right in ["/w/default", ""] {
            let base = format!("{right}{place}");
            assert_eq!(cache.client(token).at(&base).get("nowhere").status, 404);
        }
        // Whether there is such a workspace is told to nobody.
        for wrong in [
            "/w/shop",
            "/w/nowhere",
            "/w/",
            "/w/..",
            "/w/DEFAULT",
            "/w/default/x",
        ] {
            let base = format!("{wrong}{place}");
            refused_everywhere(&cache, Who::Known, token, &base, OTHER_WORKSPACE);
        }
    }
}

#[test]
fn where_a_dead_or_unknown_token_is_sent_is_not_told() {
    let cache = inhabited();
    let elsewhere = Dir::new().token("isolated");
    let revoked = cache.dir.token("isolated");
    cache.dir.cli(&["token", "revoke", &revoked.id]).done();
    for (token, sentence) in [(&elsewhere, UNKNOWN), (&revoked, REVOKED)] {
        for base in [
            "",
            "/s/pr-1",
            "/s/..",
            "/w/shop/s/pr-1",
            "/w/nowhere",
            "/s/feature/x",
        ] {
            refused_everywhere(&cache, Who::Stranger, token, base, sentence);
        }
    }
}

// Proof 8.

#[test]
fn an_upload_in_flight_is_not_stored_when_its_token_dies_whatever_the_token_may() {
    let cache = Cache::start_with(&["limits.isolated_scope_max_size=6MiB"]);
    let kinds: [(&[&str], &str); 3] = [
        (&["--write-only"], ""),
        (&["--isolated"], "/s/pr-1"),
        (&["--isolated", "pr-1"], ""),
    ];
    for size in [1000, MIB, 5 * MIB] {
        for ((options, place), expires) in
            kinds.iter().flat_map(|kind| [(kind, false), (kind, true)])
        {
            println!("{size} {options:?} {expires}");
            let token = cache.dir.token_with(options);
            let bytes = noise(1, size);
            let (first, rest) = bytes.split_at(size - size / 4);
            let mut client = cache.client(&token).at(place);
            assert_eq!(client.get("slow").status, 404);
            // The token was good when the upload began.
            assert_eq!(client.ask_to_put("slow", size), 100);
            client.raw.send(first);
            if expires {
                let sql = "UPDATE tokens SET expires_at_ms = 1 WHERE public_id = ?1";
                let changed = cache.dir.sqlite().execute(sql, [&token.id]);
                assert_eq!(changed.expect("a token changed"), 1);
            } else {
                cache.dir.cli(&["token", "revoke", &token.id]).done();
            }
            client.raw.send(rest);
            let sentence = if expires { EXPIRED } else { REVOKED };
            refused(&client.raw.answer(), 401, sentence);
            refused(&client.get("slow"), 401, sentence);
            refused(&client.put("slow", b"bytes"), 401, sentence);
            for mut witness in [cache.client(&cache.read), cache.in_scope("pr-1")] {
                refused(&witness.get("slow"), 404, MISS);
            }
        }
    }
    nothing_is_left_over(&cache.sqlite);
    counters_are_facts(&cache.sqlite);
    assert_eq!(entries::all(&cache.sqlite), entries::Entries::new());
    // None of them left a promise behind: the scope takes all that it may hold.
    stored(&cache.in_scope("pr-1").put("slow", &noise(2, 6 * MIB)));
    stored(&cache.client(&cache.write_only).put("slow", b"bytes"));
}

// Proof 13.

/// What one scope may hold in the tests of broken uploads, which announce it whole.
const SMALL_QUOTA: [&str; 2] = [
    "limits.isolated_scope_max_size=4MiB",
    "limits.isolated_max_size=4MiB",
];

#[test]
fn a_body_shorter_than_announced_leaves_nothing_in_an_isolated_scope() {
    let cache = Cache::start_with(&SMALL_QUOTA);
    for (announced, sent) in [
        (10, 9),
        (10, 0),
        (MIB, MIB - 1),
        (4 * MIB, 3 * MIB),
        (4 * MIB, 0),
    ] {
        println!("{sent} of {announced}");
        let mut client = cache.in_scope("pr-1");
        client.begin_put("1", announced);
        client.raw.send(noise(1, sent));
        client.raw.finish_sending();
        let rest = client.raw.rest().unwrap_or_default();
        assert_eq!(
            String::from_utf8_lossy(&rest),
            "",
            "nobody is told that it is stored"
        );
        refused(&cache.in_scope("pr-1").get("1"), 404, MISS);
        refused(&cache.client(&cache.write).get("1"), 404, MISS);
        counters_are_facts(&cache.sqlite);
    }
    nothing_is_left_over(&cache.sqlite);
    assert_eq!(entries::all(&cache.sqlite), entries::Entries::new());
    // The room that was promised to them is there again, in whatever scope.
    let whole = noise(2, 4 * MIB);
    stored(&cache.in_scope("pr-1").put("1", &whole));
    found(&cache.in_scope("pr-1").get("1"), &whole);
    assert_eq!(cache.in_scope("pr-2").put("1", b"x").status, 403);
}

#[test]
fn what_follows_the_announced_bytes_is_not_stored_in_an_isolated_scope_either() {
    let cache = Cache::start();
    for size in [0, 5, MIB, 3 * MIB + 1] {
        let hash = size.to_string();
        let bytes = noise(1, size);
        let mut client = cache.in_scope("pr-1");
        client.begin_put(&hash, size);
        client
            .raw
            .send([&bytes[..], b"and more than that\r\n\r\n"].concat());
        stored(&client.raw.answer());
        let second = client.raw.answer();
        assert!(second.status == 400 && second.closes(), "{}", second.head);
        found(&cache.in_scope("pr-1").get(&hash), &bytes);
        let expected = [(Key::new("pr-1", &hash), Entry::of(&cache.isolated, &bytes))];
        assert_eq!(
            entries::under(&cache.sqlite, &hash),
            entries::Entries::from(expected)
        );
    }
    counters_are_facts(&cache.sqlite);
}

#[test]
fn a_killed_server_keeps_the_quotas_of_isolated_scopes_right() {
    let mut random = Random::seeded();
    let mut cache = Cache::start_with(&SMALL_QUOTA);
    let kept = noise(3, MIB / 2);
    stored(&cache.in_scope("pr-1").put("kept", &kept));
    for _ in 0..3 {
        let announced = 3 * MIB + random.below(MIB as u64 / 2) as usize;
        let sent = 2 * MIB + random.below(MIB as u64) as usize;
        let mut client = cache.in_scope("pr-1");
        client.begin_put("1", announced);
        client.raw.send(noise(1, sent));
        eventually("a part of it is in the file", || {
            let sql = "SELECT count(*) FROM chunks";
            (support::dir::number(&cache.sqlite, sql) > 4).then_some(())
        });
        // Room that is promised is not given twice.
        assert_eq!(cache.in_scope("pr-1").put("2", &kept).status, 403);
        cache = cache.restart_killed(&SMALL_QUOTA);
        let swept = "info swept away interrupted uploads uploads=1";
        cache.server.wait_for_line(swept);
        counters_are_facts(&cache.sqlite);
        refused(&cache.in_scope("pr-1").get("1"), 404, MISS);
        found(&cache.in_scope("pr-1").get("kept"), &kept);
        nothing_is_left_over(&cache.sqlite);
    }
    // What may be held is held: exactly the rest of the quota, and no byte more.
    let rest = 4 * MIB - MIB / 2;
    let over = cache.in_scope("pr-1").put("1", &noise(1, rest + 1));
    assert_eq!(over.status, 403, "{}", over.text());
    stored(&cache.in_scope("pr-1").put("1", &noise(1, rest)));
    cache = cache.restart_killed(&SMALL_QUOTA);
    assert_eq!(cache.in_scope("pr-1").put("2", b"x").status, 403);
    found(&cache.in_scope("pr-1").get("1"), &noise(1, rest));
    counters_are_facts(&cache.sqlite);
}

// Quotas that no flood of a test reaches.

#[test]
fn a_workspace_has_ten_thousand_isolated_scopes_at_the_most() {
    let cache = Cache::start();
    stored(&cache.in_scope("there").put("1", b"bytes"));
    // As if there were as many: the counter is what is looked at, as other tests show.
    let sql = "UPDATE isolated_totals SET scopes = ?1";
    let counted = |scopes: i64| {
        let changed = cache.sqlite.execute(sql, [scopes]);
        assert_eq!(changed.expect("a counter"), 1);
    };
    counted(9_999);
    stored(&cache.in_scope("last").put("1", b"bytes"));
    let text = "10000 isolated scopes of this workspace hold entries already: empty some with \
                `cachesrv purge --scope`\n";
    for bytes in [&b"x"[..], &noise(1, 2 * MIB)] {
        refused(&cache.in_scope("one-more").put("1", bytes), 403, text);
    }
    // Those that are there go on, and main does not know of it.
    stored(&cache.in_scope("there").put("2", b"bytes"));
    stored(&cache.client(&cache.write).put("3", b"bytes"));
    refused(&cache.in_scope("one-more").get("1"), 404, MISS);
    found(&cache.in_scope("one-more").get("3"), b"bytes");
    counted(9_999);
    stored(&cache.in_scope("one-more").put("1", b"bytes"));
}

#[test]
fn the_quota_is_looked_at_again_when_an_upload_ends() {
    let cache = Cache::start_with(&SMALL_QUOTA);
    for (round, size) in (1..).zip(SIZES) {
        let scope = format!("pr-{round}");
        stored(&cache.in_scope(&scope).put("there", b"bytes"));
        let bytes = noise(1, size);
        let mut client = cache.in_scope(&scope);
        assert_eq!(client.ask_to_put("new", size), 100);
        client.raw.send(&bytes[..size / 2]);
        // Another process may count something in that this server had not promised.
        let sql = "UPDATE isolated_usage SET size_bytes = size_bytes + ?1
                   WHERE scope_id = (SELECT id FROM scopes WHERE name = ?2)";
        let more = |bytes: i64| {
            let changed = cache.sqlite.execute(sql, rusqlite::params![bytes, scope]);
            assert_eq!(changed.expect("a counter"), 1);
        };
        let rest = (4 * MIB - size) as i64;
        more(rest);
        client.raw.send(&bytes[size / 2..]);
        let text = "this isolated scope may hold 4MiB: empty it with `cachesrv purge --scope`, or raise \
                    limits.isolated_scope_max_size\n";
        refused(&client.raw.answer(), 403, text);
        refused(&client.get("new"), 404, MISS);
        more(-rest);
        counters_are_facts(&cache.sqlite);
    }
    nothing_is_left_over(&cache.sqlite);
    let mut client = cache.in_scope("pr-1");
    stored(&client.put("new", &noise(1, MIB)));
}

#[test]
fn a_scope_that_may_hold_nothing_holds_nothing() {
    for settings in [
        ["limits.isolated_scope_max_size=0B"],
        ["limits.isolated_max_size=0B"],
    ] {
        let cache = Cache::start_with(&settings);
        for bytes in [&b"x"[..], b""] {
            let answer = cache.in_scope("pr-1").put("1", bytes);
            assert_eq!(answer.status, 403, "{} bytes", bytes.len());
        }
        assert_eq!(entries::all(&cache.sqlite), entries::Entries::new());
        stored(&cache.client(&cache.write).put("1", b""));
    }
}
