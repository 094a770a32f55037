//! Non-interference (trust.md, G3), against the real executable: every answer to a trusted or reading
//! token is the same, byte for byte, as if no isolated, unknown or refused request had ever been made.
//!
//! Random histories are played twice, whole on one server and without the others' requests on a second
//! one; then what takes room and memory from everybody: floods, and transfers that stall.

mod support;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use support::entries::{self, Entries, counters_are_facts, nothing_is_left_over};
use support::{Answer, Client, Dir, Entry, Key, Random, Server, TRUSTED, Token, noise};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const CHUNK: usize = 256 * KIB;

const BUSY: &str = "this cache is too busy at the moment; the artifact was not moved\n";

/// Starts a server with these settings.
fn serve(dir: &Dir, settings: &[&str]) -> Server {
    let args: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
    Server::start_with(dir, &args)
}

#[track_caller]
fn found(answer: &Answer, bytes: &[u8]) {
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(answer.body == bytes, "other bytes than were stored");
}

#[track_caller]
fn is(answer: &Answer, status: u16, text: &str) {
    assert_eq!((answer.status, answer.text()), (status, text));
}

/// Ends what runs beside it when it goes, also in a test that fails.
struct While<'f>(&'f AtomicBool);

impl Drop for While<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// Random histories.

/// Quotas that a history soon exceeds, an artifact limit that it now and then does, and few buffers, so
/// that one that were not given back would be missed.
const SETTINGS: [&str; 6] = [
    "limits.isolated_scope_max_size=1300KiB",
    "limits.isolated_max_size=1400KiB",
    "limits.artifact_max_size=2000KiB",
    "limits.upload_memory=4MiB",
    "limits.database_wait=10s",
    "log.requests=false",
];

/// Few hashes, so that everybody meets everybody, and enough of them that some are free to the end.
const HASHES: [&str; 16] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15",
];

/// Bases of URLs that mean the trusted scope of a workspace, to a token of that workspace.
const TRUSTED_BASES: [&str; 4] = ["", "/", "/w/{}", "/w/{}/"];

/// Bases that mean an isolated scope, to an isolated token.
const ISOLATED_BASES: [&str; 6] = [
    "/s/pr-1",
    "/s/pr-1/",
    "/s/pr-2",
    "/s/trusted",
    "/w/{}/s/pr-1",
    "/w/{}/s/pr-2/",
];

/// Bases that nobody should have been given.
const WRONG_BASES: [&str; 13] = [
    "/s/..",
    "/s/%2e%2e",
    "/s/",
    "/s/feature/x",
    "/s/pr-1/w/default",
    "/s/pr-1/v1/cache/0",
    "/w/default",
    "/w/shop",
    "/w/default/s/pr-1",
    "/w/shop/s/pr-1",
    "/w/nowhere",
    "/w/..",
    "/x",
];

/// What a token is good for, as far as this test goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// write, write-only, read: those whose answers are compared.
    Trusted,
    Isolated,
    /// Unknown, malformed, revoked, expired, none at all.
    Dead,
}

/// Who sends requests.
struct Actor {
    name: String,
    secret: Option<String>,
    workspace: &'static str,
    kind: Kind,
}

/// A database with actors of every kind in two workspaces, to be copied for each server.
struct World {
    dir: Dir,
    actors: Vec<Actor>,
}

/// One request of a history.
#[derive(Debug, Clone)]
struct Step {
    actor: usize,
    base: String,
    method: &'static str,
    hash: &'static str,
    body: Option<Body>,
}

#[derive(Debug, Clone, Copy)]
struct Body {
    seed: u64,
    announced: usize,
    /// Less than announced: the client hangs up in the middle.
    sent: usize,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// The head but for the date, and the body.
    Answer(String, Vec<u8>),
    /// It hung up.
    Nothing,
}

impl World {
    fn new() -> Self {
        let dir = Dir::new();
        dir.cli(&["workspace", "add", "shop"]).done();
        let mut actors = Vec::new();
        let mut add = |name: &str, secret: Option<String>, workspace, kind| {
            let name = format!("{name} of {workspace}");
            actors.push(Actor {
                name,
                secret,
                workspace,
                kind,
            });
        };
        for workspace in ["default", "shop"] {
            let create =
                |options: &[&str]| dir.token_with(&[options, &["--workspace", workspace]].concat());
            for (options, kind) in [
                (&["--write"][..], Kind::Trusted),
                (&["--read"], Kind::Trusted),
                (&["--write-only"], Kind::Trusted),
                (&["--isolated"], Kind::Isolated),
                (&["--isolated", "pr-1"], Kind::Isolated),
            ] {
                let token = create(options);
                add(&options.join(" "), Some(token.secret), workspace, kind);
            }
            for (access, column) in [
                ("--write", "revoked_at_ms"),
                ("--isolated", "expires_at_ms"),
            ] {
                let token = create(&[access]);
                let sql = format!("UPDATE tokens SET {column} = 1 WHERE public_id = ?1");
                let changed = dir.sqlite().execute(&sql, [&token.id]);
                assert_eq!(changed.expect("a token changed"), 1);
                let name = format!("{access} with {column}");
                add(&name, Some(token.secret), workspace, Kind::Dead);
            }
        }
        let unknown = Some(Dir::new().token("write").secret);
        for (name, secret) in [
            ("unknown", unknown),
            ("malformed", Some("password".to_owned())),
            ("nobody", None),
        ] {
            add(name, secret, "default", Kind::Dead);
        }
        Self { dir, actors }
    }

    /// A server on a copy of the database.
    fn serve(&self) -> (Dir, Server) {
        assert_eq!(self.dir.files(), ["cachesrv.db"]);
        let dir = Dir::new();
        std::fs::copy(self.dir.db(), dir.db()).expect("a copy");
        let server = serve(&dir, &SETTINGS);
        (dir, server)
    }

    /// Whether the request counts: by a trusted or reading token, at a place that is the token's.
    fn counts(&self, step: &Step) -> bool {
        let actor = &self.actors[step.actor];
        let is_legal = |base: &&str| base.replace("{}", actor.workspace) == step.base;
        actor.kind == Kind::Trusted && TRUSTED_BASES.iter().any(is_legal)
    }

    /// A random request by one of these actors.
    fn step(&self, random: &mut Random, actors: &[usize]) -> Step {
        let actor = *pick(random, actors);
        let Actor {
            kind, workspace, ..
        } = self.actors[actor];
        let base = match (kind, random.below(10)) {
            (_, 0..2) => pick(random, &WRONG_BASES),
            (_, 2) | (Kind::Isolated, _) => pick(random, &ISOLATED_BASES),
            _ => pick(random, &TRUSTED_BASES),
        };
        let method = *pick(random, &["GET", "GET", "GET", "HEAD", "PUT", "PUT", "PUT"]);
        let hash = match random.below(40) {
            0 => "..",
            _ => *pick(random, &HASHES),
        };
        Step {
            actor,
            base: base.replace("{}", workspace),
            method,
            hash,
            body: (method == "PUT").then(|| Body::random(random)),
        }
    }

    /// The actors of some kinds, each as often as its kind weighs.
    fn actors_of(&self, weights: &[(Kind, usize)]) -> Vec<usize> {
        let times = |kind| {
            let found = weights.iter().find(|(weighed, _)| *weighed == kind);
            found.map_or(0, |(_, weight)| *weight)
        };
        let all = self.actors.iter().enumerate();
        all.flat_map(|(number, actor)| std::iter::repeat_n(number, times(actor.kind)))
            .collect()
    }

    /// A line for each step, as far as this one.
    fn tell(&self, steps: &[Step], told: &HashMap<usize, Told>, end: usize) -> String {
        let line = |(number, step): (usize, &Step)| {
            let name = &self.actors[step.actor].name;
            let mark = if self.counts(step) { '*' } else { ' ' };
            let status = told.get(&number).map_or("", Told::status);
            format!("{number:4}{mark} {name}: {step} → {status}\n")
        };
        steps[..=end].iter().enumerate().map(line).collect()
    }
}

fn pick<'o, T>(random: &mut Random, of: &'o [T]) -> &'o T {
    &of[random.below(of.len() as u64) as usize]
}

impl Body {
    fn random(random: &mut Random) -> Self {
        // Alone in a page, alone in a chunk, in a transaction of its own, in several, over the limit.
        let sizes: [Range<usize>; 5] = [
            0..3000,
            3000..200 * KIB,
            CHUNK..500 * KIB,
            MIB + 1..MIB + CHUNK,
            2000 * KIB + 1..2100 * KIB,
        ];
        let sizes = match random.below(40) {
            0..22 => &sizes[0],
            22..27 => &sizes[1],
            27..33 => &sizes[2],
            33..39 => &sizes[3],
            _ => &sizes[4],
        };
        let announced = sizes.start + random.below(sizes.len() as u64) as usize;
        let is_cut = random.below(12) == 0;
        let sent = if is_cut {
            random.below(announced.max(1) as u64) as usize
        } else {
            announced
        };
        Self {
            seed: random.number(),
            announced,
            sent,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/v1/cache/{}", self.method, self.base, self.hash)?;
        match self.body {
            Some(Body {
                announced, sent, ..
            }) if sent < announced => write!(f, " {sent} of {announced} bytes"),
            Some(body) => write!(f, " {} bytes", body.sent),
            None => Ok(()),
        }
    }
}

impl Told {
    fn of(answer: Answer) -> Self {
        Self::Answer(answer.dateless(), answer.body)
    }

    fn status(&self) -> &str {
        match self {
            Self::Answer(head, _) => &head[9..12],
            Self::Nothing => "nothing",
        }
    }
}

/// Plays requests one after the other on connections that each actor keeps, one for those that count and
/// one for the others: a refusal may end a connection.
struct Player<'w> {
    world: &'w World,
    server: &'w Server,
    connections: HashMap<(usize, bool), Client>,
}

impl<'w> Player<'w> {
    fn new(world: &'w World, server: &'w Server) -> Self {
        Self {
            world,
            server,
            connections: HashMap::new(),
        }
    }

    fn play(&mut self, step: &Step) -> Told {
        let key = (step.actor, self.world.counts(step));
        let secret = self.world.actors[step.actor].secret.as_deref();
        let connect = || Client::new(self.server.address(), secret);
        let client = self.connections.remove(&key);
        let mut client = client.unwrap_or_else(connect).at(&step.base);
        let Some(body) = step.body else {
            let answer = client.ask(step.method, &client.path(step.hash));
            return self.keep(key, client, answer);
        };
        let bytes = noise(body.seed, body.sent);
        client.begin_put(step.hash, body.announced);
        // A server that has answered may have hung up.
        let _ = client.raw.try_send(&bytes);
        if body.sent < body.announced {
            client.raw.finish_sending();
            // Until the server has seen it: what comes next finds the same state every time.
            let _ = client.raw.rest();
            return Told::Nothing;
        }
        let answer = client.raw.answer();
        self.keep(key, client, answer)
    }

    fn keep(&mut self, key: (usize, bool), client: Client, answer: Answer) -> Told {
        if !answer.closes() {
            self.connections.insert(key, client);
        }
        Told::of(answer)
    }
}

/// Plays those steps that `is_wanted`; what each was answered.
fn play(
    world: &World,
    server: &Server,
    steps: &[Step],
    is_wanted: impl Fn(&Step) -> bool,
) -> HashMap<usize, Told> {
    let mut player = Player::new(world, server);
    let wanted = steps.iter().enumerate().filter(|(_, step)| is_wanted(step));
    wanted
        .map(|(number, step)| (number, player.play(step)))
        .collect()
}

/// Asserts that everything that counts was told alike.
fn told_alike(
    world: &World,
    steps: &[Step],
    whole: &HashMap<usize, Told>,
    alone: &HashMap<usize, Told>,
) {
    for (number, step) in steps.iter().enumerate() {
        if !world.counts(step) || whole[&number] == alone[&number] {
            continue;
        }
        let history = world.tell(steps, whole, number);
        let short = |told: &Told| match told {
            Told::Answer(head, body) => {
                let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
                format!("{head}{shown}")
            }
            Told::Nothing => "nothing".to_owned(),
        };
        panic!(
            "{history}with all of these, the last one was told:\n{}\nwith those marked * alone:\n{}",
            short(&whole[&number]),
            short(&alone[&number]),
        );
    }
}

/// Asserts that the trusted scopes hold the same, row by row.
fn hold_alike(whole: &Dir, alone: &Dir) -> Entries {
    let (whole, alone) = (whole.sqlite(), alone.sqlite());
    for connection in [&whole, &alone] {
        nothing_is_left_over(connection);
        counters_are_facts(connection);
    }
    let trusted = entries::trusted(&whole);
    assert_eq!(trusted, entries::trusted(&alone));
    assert_eq!(entries::all(&alone), trusted, "nobody else was there");
    trusted
}

/// How often each kind of thing happened: a test in which it did not tests nothing.
#[derive(Debug, Default)]
struct Coverage(HashMap<String, usize>);

impl Coverage {
    fn count(&mut self, world: &World, steps: &[Step], told: &HashMap<usize, Told>) {
        for (number, step) in steps.iter().enumerate() {
            let kind = world.actors[step.actor].kind;
            let counts = if world.counts(step) {
                "counts"
            } else {
                "noise"
            };
            let status = told[&number].status();
            let over_quota = match &told[&number] {
                Told::Answer(_, body) if body.starts_with(b"this isolated scope may hold") => {
                    " over quota"
                }
                _ => "",
            };
            let what = format!("{kind:?} {counts} {} {status}{over_quota}", step.method);
            *self.0.entry(what).or_default() += 1;
        }
    }

    fn holds(&self, all: &[&str]) {
        println!("{self:?}");
        for what in all {
            assert!(self.0.contains_key(*what), "never happened: {what}");
        }
    }
}

#[test]
fn trusted_answers_do_not_depend_on_isolated_unknown_or_refused_requests() {
    const HISTORIES: usize = 20;
    const STEPS: usize = 300;
    let mut random = Random::seeded();
    let world = World::new();
    let weights = [(Kind::Trusted, 3), (Kind::Isolated, 4), (Kind::Dead, 1)];
    let everybody = world.actors_of(&weights);
    let mut coverage = Coverage::default();
    for history in 0..HISTORIES {
        println!("history {history}");
        let steps: Vec<Step> = (0..STEPS)
            .map(|_| world.step(&mut random, &everybody))
            .collect();
        let (first, second) = (world.serve(), world.serve());
        let (whole, alone) = thread::scope(|scope| {
            let alone = scope.spawn(|| play(&world, &second.1, &steps, |step| world.counts(step)));
            let whole = play(&world, &first.1, &steps, |_| true);
            (whole, alone.join().expect("the second server answers"))
        });
        told_alike(&world, &steps, &whole, &alone);
        let trusted = hold_alike(&first.0, &second.0);
        assert!(!trusted.is_empty());
        coverage.count(&world, &steps, &whole);
    }
    coverage.holds(&[
        "Trusted counts GET 200",
        "Trusted counts GET 404",
        "Trusted counts HEAD 200",
        "Trusted counts PUT 200",
        "Trusted counts PUT 403",
        "Trusted counts PUT 409",
        "Trusted counts PUT nothing",
        "Trusted noise PUT 401",
        "Trusted noise GET 400",
        "Isolated noise GET 200",
        "Isolated noise GET 404",
        "Isolated noise PUT 200",
        "Isolated noise PUT 403 over quota",
        "Isolated noise PUT 409",
        "Isolated noise PUT nothing",
        "Dead noise PUT 401",
    ]);
}

#[test]
fn trusted_answers_do_not_depend_on_what_others_do_at_the_same_time() {
    const HISTORIES: usize = 4;
    const STEPS: usize = 150;
    const OTHERS: usize = 4;
    let mut random = Random::seeded();
    let world = World::new();
    let trusted = world.actors_of(&[(Kind::Trusted, 1)]);
    let others = world.actors_of(&[(Kind::Isolated, 4), (Kind::Dead, 1)]);
    for history in 0..HISTORIES {
        println!("history {history}");
        let steps: Vec<Step> = std::iter::repeat_with(|| world.step(&mut random, &trusted))
            .filter(|step| world.counts(step))
            .take(STEPS)
            .collect();
        let (first, second) = (world.serve(), world.serve());
        let is_over = AtomicBool::new(false);
        let noises = AtomicUsize::new(0);
        let whole = thread::scope(|scope| {
            let _noise = While(&is_over);
            for _ in 0..OTHERS {
                let mut random = random.fork();
                let (world, server, others) = (&world, &first.1, &others);
                let (is_over, noises) = (&is_over, &noises);
                scope.spawn(move || {
                    let mut player = Player::new(world, server);
                    while !is_over.load(Ordering::Relaxed) {
                        player.play(&world.step(&mut random, others));
                        noises.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            play(&world, &first.1, &steps, |_| true)
        });
        let alone = play(&world, &second.1, &steps, |_| true);
        println!("{STEPS} requests among {noises:?} others");
        told_alike(&world, &steps, &whole, &alone);
        hold_alike(&first.0, &second.0);
    }
}

// Eviction.

/// What `gc` keeps: less than a round stores, of either kind.
const KEPT: [&str; 5] = [
    "gc",
    "--set",
    "eviction.max_size=3500KiB",
    "--set",
    "eviction.isolated_share=20",
];

/// Several rounds of one history on one database; what was told in each.
struct Rounds<'w> {
    world: &'w World,
    dir: Dir,
    began: Instant,
}

impl<'w> Rounds<'w> {
    fn new(world: &'w World) -> Self {
        let (dir, server) = world.serve();
        assert_eq!(server.stop().code(), Some(0));
        Self {
            world,
            dir,
            began: Instant::now(),
        }
    }

    /// Plays a round and then evicts, with no server between: eviction takes what was read least recently,
    /// and when a server would do it is not for a test to know.
    fn play(&self, steps: &[Step], is_wanted: impl Fn(&Step) -> bool) -> HashMap<usize, Told> {
        // A server notes a read if an entry was last read more than a sixteenth of its age ago. So what was
        // read in the round before is noted again, on a slow machine as on a fast one.
        thread::sleep(self.began.elapsed() / 12);
        let server = serve(&self.dir, &SETTINGS);
        let mut player = Player::new(self.world, &server);
        let mut told = HashMap::new();
        for (number, step) in steps.iter().enumerate().filter(|(_, step)| is_wanted(step)) {
            told.insert(number, player.play(step));
            // No two reads at the same time: their order is to be that of the requests.
            if self.world.counts(step) {
                let read = millis();
                while millis() <= read {
                    thread::yield_now();
                }
            }
        }
        assert_eq!(server.stop().code(), Some(0));
        self.dir.cli(&KEPT).done();
        told
    }

    fn evicted(&self, is_isolated: bool) -> (i64, i64) {
        let sql = "SELECT ifnull(sum(entries), 0), ifnull(sum(size_bytes), 0) FROM evictions_by_day
                   WHERE is_isolated = ?1";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let sums = self.dir.sqlite().query_row(sql, [is_isolated], row);
        sums.expect("sums")
    }
}

fn millis() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock").as_millis()
}

/// Steps of one round, in which nobody trusted reads an entry twice: the second read would be noted or not,
/// by how much time has passed. At its end pull requests read what they find.
fn round(world: &World, random: &mut Random, actors: &[usize], count: usize) -> Vec<Step> {
    let mut read = HashSet::new();
    let isolated = world.actors_of(&[(Kind::Isolated, 1)]);
    let mut fork = random.fork();
    let reads = std::iter::repeat_with(|| world.step(&mut fork, &isolated));
    let reads = reads.filter(|step| step.method == "GET").take(count / 2);
    let steps = std::iter::repeat_with(|| world.step(random, actors));
    let is_new = |step: &Step| {
        let key = (world.actors[step.actor].workspace, step.hash);
        step.method != "GET" || !world.counts(step) || read.insert(key)
    };
    steps.filter(is_new).take(count).chain(reads).collect()
}

#[test]
fn what_is_evicted_of_trusted_entries_does_not_depend_on_others() {
    const HISTORIES: usize = 3;
    const ROUNDS: usize = 3;
    const STEPS: usize = 100;
    let mut random = Random::seeded();
    let world = World::new();
    let everybody = world.actors_of(&[(Kind::Trusted, 3), (Kind::Isolated, 4), (Kind::Dead, 1)]);
    let mut coverage = Coverage::default();
    let (mut trusted_evicted, mut isolated_evicted) = (0, 0);
    for history in 0..HISTORIES {
        println!("history {history}");
        let (whole, alone) = (Rounds::new(&world), Rounds::new(&world));
        for number in 0..ROUNDS {
            println!("round {number}");
            let steps = round(&world, &mut random, &everybody, STEPS);
            let (told, told_alone) = thread::scope(|scope| {
                let alone = scope.spawn(|| alone.play(&steps, |step| world.counts(step)));
                let whole = whole.play(&steps, |_| true);
                (whole, alone.join().expect("the second server answers"))
            });
            told_alike(&world, &steps, &told, &told_alone);
            hold_alike(&whole.dir, &alone.dir);
            assert_eq!(whole.evicted(false), alone.evicted(false));
            coverage.count(&world, &steps, &told);
        }
        trusted_evicted += whole.evicted(false).0;
        isolated_evicted += whole.evicted(true).0;
    }
    println!("{trusted_evicted} trusted entries were evicted, {isolated_evicted} isolated ones");
    assert!(trusted_evicted > 5 && isolated_evicted > 5);
    coverage.holds(&[
        "Trusted counts GET 200",
        "Trusted counts GET 404",
        "Trusted counts PUT 200",
        "Trusted counts PUT 409",
        "Isolated noise GET 200",
        "Isolated noise PUT 200",
    ]);
}

// Room: proof 11.

/// What isolated scopes may hold while they are flooded: one of them, all together.
const FLOODED: [&str; 2] = [
    "limits.isolated_scope_max_size=300KiB",
    "limits.isolated_max_size=2MiB",
];
const SCOPE_MAX: usize = 300 * KIB;
const WORKSPACE_MAX: usize = 2 * MIB;
const FLOOD_SIZE_MAX: usize = 40_000;

/// Requests of one that floods, at the most: far more than it takes to be refused.
const FLOOD_MAX: u64 = 3000;

/// What a pull request was told that stores all that it can.
#[derive(Debug, Default)]
struct Flooded {
    stored: u32,
    over_scope: u32,
    over_workspace: u32,
}

impl Flooded {
    fn count(&mut self, answer: &Answer) {
        let of_scope = "this isolated scope may hold 300KiB: empty it with `cachesrv purge --scope`, or raise \
                        limits.isolated_scope_max_size\n";
        let of_workspace = "the isolated scopes of this workspace may hold 2MiB together: empty some with \
                            `cachesrv purge --scope`, or raise limits.isolated_max_size\n";
        match (answer.status, answer.text()) {
            (200, "") => self.stored += 1,
            (403, text) if text == of_scope => self.over_scope += 1,
            (403, text) if text == of_workspace => self.over_workspace += 1,
            (status, text) => panic!("{status} {text}"),
        }
    }
}

/// Stores in one scope after the other, until all is full and `is_over`.
fn flood(mut client: Client, attacker: u64, mut random: Random, is_over: &AtomicBool) -> Flooded {
    let mut told = Flooded::default();
    for number in 0..FLOOD_MAX {
        if told.over_workspace > 20 && is_over.load(Ordering::Relaxed) {
            break;
        }
        let scope = attacker * 1000 + number / 40;
        client = client.at(&format!("/s/pr-{scope}"));
        let size = 100 + random.below(FLOOD_SIZE_MAX as u64 - 100) as usize;
        let answer = client.put(&format!("flood-{number}"), &noise(number, size));
        told.count(&answer);
    }
    told
}

#[test]
fn a_flood_of_isolated_entries_ends_at_its_quota_and_takes_nothing_from_main() {
    let mut random = Random::seeded();
    let dir = Dir::new();
    let [write, read, isolated] = ["write", "read", "isolated"].map(|access| dir.token(access));
    let server = serve(&dir, &FLOODED);
    let size = |number: usize| match number % 20 {
        0 => MIB + MIB / 2,
        1 => CHUNK + number,
        _ => 100 + number * 37,
    };
    let bytes = |number: usize| noise(number as u64, size(number));
    let mut main = server.client(&write);
    for number in 0..100 {
        assert_eq!(main.put(&number.to_string(), &bytes(number)).status, 200);
    }
    let is_over = AtomicBool::new(false);
    let told = thread::scope(|scope| {
        let floods = [0, 1, 2, 3].map(|attacker| {
            let (client, random, is_over) = (server.client(&isolated), random.fork(), &is_over);
            scope.spawn(move || flood(client, attacker, random, is_over))
        });
        let over = While(&is_over);
        let mut reader = server.client(&read);
        for number in 100..250 {
            assert_eq!(main.put(&number.to_string(), &bytes(number)).status, 200);
            found(&reader.get(&number.to_string()), &bytes(number));
            let earlier = number % 100;
            found(&reader.get(&earlier.to_string()), &bytes(earlier));
        }
        drop(over);
        floods.map(|flood| flood.join().expect("a flood"))
    });
    println!("{told:?}");
    assert!(told.iter().any(|told| told.stored > 0));
    assert!(told.iter().any(|told| told.over_scope > 0));
    assert!(told.iter().all(|told| told.over_workspace > 0));
    let line = server.wait_for_line(" reason=over_quota");
    assert!(
        line.contains(" status=403 ") && line.contains(" scope=pr-"),
        "{line}"
    );
    // Every trusted entry is there, byte for byte, and nothing else is.
    let expected: Entries = (0..250)
        .map(|number| {
            let key = Key::new(TRUSTED, &number.to_string());
            (key, Entry::of(&write, &bytes(number)))
        })
        .collect();
    let connection = dir.sqlite();
    assert_eq!(entries::trusted(&connection), expected);
    counters_are_facts(&connection);
    let total = isolated_total(&entries::all(&connection));
    let client = server.client(&isolated);
    the_last_byte_can_be_used(client, WORKSPACE_MAX - total);
    // Another workspace has a quota of its own.
    dir.cli(&["workspace", "add", "shop"]).done();
    let other = dir.token_with(&["--isolated", "pr-1", "--workspace", "shop"]);
    let mut other = server.client(&other);
    assert_eq!(other.put("1", &noise(1, SCOPE_MAX)).status, 200);
    assert_eq!(other.put("2", b"x").status, 403);
}

/// What the isolated scopes hold: as much as they may, and no byte more.
fn isolated_total(entries: &Entries) -> usize {
    let mut scopes: HashMap<&str, usize> = HashMap::new();
    for (key, entry) in entries.iter().filter(|(key, _)| key.scope != TRUSTED) {
        *scopes.entry(&key.scope).or_default() += entry.size;
    }
    assert!(scopes.values().all(|&size| size <= SCOPE_MAX), "{scopes:?}");
    let total = scopes.values().sum();
    let full = WORKSPACE_MAX - FLOOD_SIZE_MAX..=WORKSPACE_MAX;
    assert!(full.contains(&total), "{total}");
    total
}

fn the_last_byte_can_be_used(client: Client, rest: usize) {
    let mut client = client.at("/s/last");
    assert_eq!(client.put("over", &noise(1, rest + 1)).status, 403);
    assert_eq!(client.put("rest", &noise(1, rest)).status, 200);
    assert_eq!(client.put("more", b"x").status, 403);
}

#[test]
fn isolated_uploads_that_are_only_announced_take_no_room_from_main() {
    let dir = Dir::new();
    let [write, isolated] = ["write", "isolated"].map(|access| dir.token(access));
    let settings = [
        "limits.isolated_scope_max_size=2MiB",
        "limits.isolated_max_size=3MiB",
    ];
    let server = serve(&dir, &settings);
    let announce = |scope: &str, hash: &str, size: usize| {
        let mut client = server.client(&isolated).at(&format!("/s/{scope}"));
        let status = client.ask_to_put(hash, size);
        (client, status)
    };
    let (first, status) = announce("a", "1", 2 * MIB);
    assert_eq!(status, 100);
    assert_eq!(
        announce("a", "2", 1).1,
        403,
        "the scope is promised to the first"
    );
    let (second, status) = announce("b", "1", MIB);
    assert_eq!(status, 100);
    assert_eq!(announce("c", "1", 1).1, 403, "the quota of all is promised");
    let mut main = server.client(&write);
    for (hash, size) in [("1", 10), ("2", 5 * MIB)] {
        assert_eq!(main.put(hash, &noise(1, size)).status, 200);
        found(&main.get(hash), &noise(1, size));
    }
    // What hangs up gives its room back.
    for mut client in [first, second] {
        client.raw.finish_sending();
        let _ = client.raw.rest();
    }
    let mut last = server.client(&isolated).at("/s/c");
    assert_eq!(last.put("3", &noise(1, 2 * MIB)).status, 200);
}

// Memory: transfers that stall.

/// Large downloads that the server has memory for at once, and how many of them may be isolated.
const DOWNLOADS_MAX: usize = 96;
const ISOLATED_DOWNLOADS_MAX: usize = 48;

#[test]
fn isolated_downloads_that_stall_leave_half_of_the_memory_to_main() {
    let dir = Dir::new();
    let [write, read, isolated] = ["write", "read", "isolated"].map(|access| dir.token(access));
    let server = serve(&dir, &["limits.database_wait=1s"]);
    // More than the socket buffers of a client that does not read can take.
    let large = noise(1, 12 * MIB);
    assert_eq!(server.client(&write).put("large", &large).status, 200);
    assert_eq!(server.client(&write).put("small", b"small").status, 200);
    let in_scope = |scope: usize| server.client(&isolated).at(&format!("/s/pr-{scope}"));
    assert_eq!(in_scope(0).put("own", &large).status, 200);
    let stall = |mut client: Client, hash: &str| {
        client.begin("GET", &client.path(hash), &[]);
        let begun = client.raw.socket().peek(&mut [0]);
        assert_eq!(begun.expect("an answer"), 1);
        client
    };
    // Entries of their own and trusted ones alike: it is the token that counts.
    let stalled: Vec<Client> = (0..ISOLATED_DOWNLOADS_MAX)
        .map(|number| match number % 2 {
            0 => stall(in_scope(0), "own"),
            _ => stall(in_scope(number), "large"),
        })
        .collect();
    let misses_and_hits = || {
        is(&in_scope(0).get("own"), 404, BUSY);
        is(&in_scope(99).get("large"), 404, BUSY);
        found(&in_scope(99).get("small"), b"small");
    };
    misses_and_hits();
    for token in [&write, &read] {
        found(&server.client(token).get("large"), &large);
    }
    // The other half is all for main.
    let main: Vec<Client> = (ISOLATED_DOWNLOADS_MAX..DOWNLOADS_MAX)
        .map(|_| stall(server.client(&read), "large"))
        .collect();
    is(&server.client(&read).get("large"), 404, BUSY);
    misses_and_hits();
    for mut client in stalled.into_iter().chain(main) {
        found(&client.raw.answer(), &large);
    }
    found(&in_scope(0).get("own"), &large);
    found(&server.client(&read).get("large"), &large);
}

#[test]
fn isolated_uploads_that_stall_leave_half_of_the_memory_to_main() {
    let dir = Dir::new();
    let [write, isolated] = ["write", "isolated"].map(|access| dir.token(access));
    let settings = ["limits.database_wait=1s", "limits.upload_memory=4MiB"];
    let server = serve(&dir, &settings);
    let buffers = 4 * MIB / CHUNK;
    let bytes = noise(1, CHUNK);
    let stall = |mut client: Client, hash: usize| {
        // The server asks for the body once it has a buffer for it.
        assert_eq!(client.ask_to_put(&hash.to_string(), CHUNK), 100);
        client.raw.send(&bytes[..1000]);
        client
    };
    let in_scope = |scope: usize| server.client(&isolated).at(&format!("/s/pr-{scope}"));
    let mut stalled: Vec<Client> = (0..buffers / 2)
        .map(|number| stall(in_scope(number), number))
        .collect();
    is(&in_scope(99).put("late", &bytes), 403, BUSY);
    is(&in_scope(0).put("late", b"small"), 403, BUSY);
    let large = noise(2, 6 * MIB);
    assert_eq!(server.client(&write).put("large", &large).status, 200);
    found(&server.client(&write).get("large"), &large);
    found(&in_scope(0).get("large"), &large);
    // The other half is all for main.
    stalled.extend((buffers / 2..buffers).map(|number| stall(server.client(&write), number)));
    is(&server.client(&write).put("late", &bytes), 403, BUSY);
    is(&in_scope(99).put("late", &bytes), 403, BUSY);
    for client in &mut stalled {
        client.raw.send(&bytes[1000..]);
        is(&client.raw.answer(), 200, "");
    }
    assert_eq!(in_scope(99).put("late", &bytes).status, 200);
    assert_eq!(server.client(&write).put("late", &bytes).status, 200);
    counters_are_facts(&dir.sqlite());
}

#[test]
fn requests_that_are_refused_or_cut_use_nothing_up() {
    let dir = Dir::new();
    let [write, read, isolated] = ["write", "read", "isolated"].map(|access| dir.token(access));
    let settings = [
        "limits.database_wait=5s",
        "limits.upload_memory=4MiB",
        "limits.isolated_scope_max_size=1MiB",
        "limits.isolated_max_size=1MiB",
    ];
    let server = serve(&dir, &settings);
    assert_eq!(
        server.client(&write).put("there", &noise(1, CHUNK)).status,
        200
    );
    let refusals: [(&Token, &str, &str, usize, u16); 8] = [
        (&write, "/s/pr-1", "1", 40 * KIB, 401),
        (&isolated, "", "1", 40 * KIB, 401),
        (&isolated, "/w/shop/s/pr-1", "1", 40 * KIB, 401),
        (&isolated, "/s/pr-1", "there", 300 * KIB, 409),
        (&isolated, "/s/pr-1", "..", 300 * KIB, 403),
        (&isolated, "/s/pr-1", "1", 2 * MIB, 403),
        (&read, "", "1", 300 * KIB, 403),
        (&write, "", "there", 300 * KIB, 409),
    ];
    for (token, base, hash, size, status) in refusals {
        let mut client = server.client(token).at(base);
        let bytes = noise(2, size);
        // More often than there are buffers, and more bytes than there is room.
        for _ in 0..20 {
            assert_eq!(client.put(hash, &bytes).status, status);
        }
    }
    // Nor do those that hang up in the middle, in a chunk and between two.
    for sent in [1000, CHUNK, CHUNK + 1000] {
        for _ in 0..20 {
            let mut client = server.client(&isolated).at("/s/pr-1");
            client.begin_put("1", 300 * KIB);
            client.raw.send(noise(2, sent));
            client.raw.finish_sending();
            let _ = client.raw.rest();
        }
    }
    let mut own = server.client(&isolated).at("/s/pr-1");
    let all = noise(3, MIB);
    assert_eq!(own.put("1", &all).status, 200);
    found(&own.get("1"), &all);
    let mut main = server.client(&write);
    assert_eq!(main.put("1", &noise(4, 6 * MIB)).status, 200);
    found(&main.get("1"), &noise(4, 6 * MIB));
}
