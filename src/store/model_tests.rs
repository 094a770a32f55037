//! The store against a model: random sequences of all that servers and commands do to it, and after each step the
//! file holds what plain maps say (`model_tests_rules`).
//!
//! A sequence follows from its seed. One that fails is told with the fewest steps that still fail, and repeated by
//! `CACHESRV_TEST_SEED=… CACHESRV_TEST_ROUNDS=1`. The clock of a sequence is a number: it stands still but where a
//! step lets it go on, so the model knows every time to the millisecond.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use super::cleaner::{Kept, Progress};
use super::model_tests_random::{noise, rounds};
use super::model_tests_rules::{Entry as Known, Flight, Limits, May, Model, Place, Sums, Told, Token, Wanted};
use super::model_tests_steps::{Put, Step, What, draw, shrink};
use super::tests::{ISOLATED, WAIT, options};
use super::*;
use crate::auth::{self, Authenticator, Cost, Grant, PresentedToken, Wish, read_chain, write_target};

/// When every sequence begins.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// Sequences of a run in CI.
const ROUNDS: u64 = 1500;

/// Sequences at once: commands sleep between their transactions.
const THREADS: u64 = 8;

thread_local! {
    static CLOCK: RefCell<Option<Arc<AtomicI64>>> = const { RefCell::new(None) };
}

/// The time by the clock of the sequence that this thread belongs to.
pub(super) fn clock_ms() -> Option<i64> {
    CLOCK.with_borrow(|clock| clock.as_ref().map(|clock| clock.load(Ordering::SeqCst)))
}

/// Makes tokens at hardly any cost.
static AUTH: LazyLock<Authenticator> = LazyLock::new(|| {
    let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
    Authenticator::with_cost(cost).unwrap()
});

/// How often each kind of thing happened: a test in which it did not tests nothing.
static SEEN: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

type Outcome<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    ensure!(found == expected, "{what}: is {found:?}, should be {expected:?}");
    Ok(())
}

/// A failure that no model foresees.
trait Must<T> {
    fn must(self, what: &str) -> Outcome<T>;
}

impl<T, E: std::fmt::Display> Must<T> for Result<T, E> {
    fn must(self, what: &str) -> Outcome<T> {
        self.map_err(|error| format!("{what} failed: {error}"))
    }
}

/// Where sequences are played: a store that is used again after all was taken out of it.
struct Bench {
    directory: tempfile::TempDir,
    number: u32,
    store: Option<Store>,
    clock: Arc<AtomicI64>,
    quota: (u64, u64),
}

/// What a segment of a sequence, played on one open store, ends with.
enum Next {
    End,
    Reopen,
    /// Goes on with these files.
    Crash(PathBuf),
    Restore(usize),
}

/// What is known of a token that was made.
struct Credential {
    presented: PresentedToken,
    public_id: String,
}

/// What a sequence has come to.
struct World {
    model: Model,
    credentials: Vec<Credential>,
    /// The ids of artifacts by their numbers.
    ids: BTreeMap<u64, i64>,
    backups: Vec<(PathBuf, Model)>,
    bytes: BTreeMap<(u64, u64), Rc<(Vec<u8>, [u8; 32])>>,
}

struct Download {
    artifact: Artifact,
    number: u64,
    entry: Known,
    next: u32,
    _reading: Reading,
}

/// One open store and all that is going on there.
struct Play<'s> {
    store: &'s Store,
    path: &'s Path,
    clock: &'s AtomicI64,
    admin: Admin,
    uploads: BTreeMap<usize, Upload<'s>>,
    downloads: BTreeMap<usize, Download>,
    next: usize,
}

impl Bench {
    fn new(quota: (u64, u64)) -> Self {
        // Memory, where there is enough of it: isolated uploads leave 1 GiB.
        let memory = Path::new("/dev/shm");
        let is_roomy = memory.is_dir() && space::free_bytes(&memory.join("x")) > 4 << 30;
        let directory = if is_roomy { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let mut bench = Self {
            directory: directory.unwrap(),
            number: 0,
            store: None,
            clock: Arc::new(AtomicI64::new(BEGIN_MS)),
            quota,
        };
        bench.open();
        bench
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(format!("{}/cachesrv.db", self.number))
    }

    fn enter(&self) {
        CLOCK.set(Some(Arc::clone(&self.clock)));
    }

    fn open(&mut self) {
        let path = self.path();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.enter();
        let options = Options {
            upload_memory_bytes: 256 << 20,
            isolated: IsolatedLimits { scope_max_bytes: self.quota.0, workspace_max_bytes: self.quota.1 },
            ..options(&path)
        };
        let store = Store::open(&options).unwrap();
        let clock = Arc::clone(&self.clock);
        on_writer(&store, move |_| {
            CLOCK.set(Some(clock));
            Ok(())
        })
        .unwrap();
        self.store = Some(store);
    }

    /// Takes everything out: what is left is what a new file holds.
    fn wipe(&mut self) {
        let store = self.store.as_ref().unwrap();
        store.leftovers.condemn(&store.writer, WAIT);
        on_writer(store, |connection| {
            let sql = "UPDATE artifacts SET state = 'condemned', condemned_at_ms = 0, condemned_reason = 'purged'
                           WHERE state <> 'condemned';
                       DELETE FROM chunks; DELETE FROM artifacts; DELETE FROM tokens;
                       DELETE FROM isolated_usage; DELETE FROM trusted_usage WHERE scope_id > 1;
                       DELETE FROM isolated_totals WHERE workspace_id > 1;
                       DELETE FROM scopes WHERE id > 1; DELETE FROM workspaces WHERE id > 1;
                       DELETE FROM evictions_by_day; DELETE FROM backups;
                       UPDATE sqlite_sequence SET seq = name IN ('workspaces', 'scopes')";
            Ok(connection.execute_batch(sql)?)
        })
        .unwrap();
        self.clock.store(BEGIN_MS, Ordering::SeqCst);
    }

    /// Plays a sequence from an empty store.
    fn play(&mut self, steps: &[Step]) -> Outcome {
        self.enter();
        self.wipe();
        let mut world = World {
            model: Model { now: BEGIN_MS, workspaces: 1, next: 1, quota: self.quota, ..Model::default() },
            credentials: Vec::new(),
            ids: BTreeMap::new(),
            backups: Vec::new(),
            bytes: BTreeMap::new(),
        };
        let mut at = 0;
        loop {
            let path = self.path();
            let next = Play::new(self.store.as_ref().unwrap(), &path, &self.clock)?.segment(&mut world, steps, &mut at)?;
            match next {
                Next::End => break,
                Next::Reopen => {
                    self.store = None;
                    let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
                    same("files after a clean stop", left, 1)?;
                    self.open();
                }
                Next::Crash(files) => {
                    self.store = None;
                    self.number += 1;
                    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::rename(files, self.path().parent().unwrap()).unwrap();
                    self.open();
                }
                Next::Restore(number) => {
                    self.store = None;
                    let (backup, _) = &world.backups[number];
                    let restored = Restore::prepare(backup, &path, true).must("restore")?;
                    let restored = restored.run(&Arc::default(), &mut |_| {}).must("restore")?;
                    ensure!(restored.verdict.is_ok(), "a backup is not sound: {:?}", restored.verdict);
                    self.open();
                }
            }
        }
        for (backup, _) in world.backups {
            std::fs::remove_file(backup).must("removing a backup")?;
        }
        Ok(())
    }
}

/// Runs `work` behind everything that the writer was given before.
fn on_writer<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    store.writer.submit(Weight::Bulk, work).wait(Instant::now() + WAIT)
}

fn scope_name(scope: u8) -> String {
    format!("pr-{scope}")
}

fn workspace_name(workspace: usize) -> String {
    match workspace {
        0 => "default".to_owned(),
        other => format!("shop-{other}"),
    }
}

fn token_name(name: u8) -> String {
    format!("ci-{name}")
}

fn access(may: May) -> Access {
    match may {
        May::Read => Access::Read,
        May::Write => Access::Write,
        May::Isolated => Access::Isolated,
        May::WriteOnly => Access::WriteOnly,
    }
}

/// The one that `number` means among those that are there.
fn pick<T: Copy>(number: u8, of: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let length = of.len();
    (length > 0).then(|| of.skip(usize::from(number) % length).take(1).last()).flatten()
}

fn seen(what: impl Into<String>) {
    *SEEN.lock().unwrap().entry(what.into()).or_default() += 1;
}

impl World {
    fn bytes(&mut self, seed: u64, size: u64) -> Rc<(Vec<u8>, [u8; 32])> {
        let make = || {
            let bytes = noise(seed, size as usize);
            let digest = *blake3::hash(&bytes).as_bytes();
            Rc::new((bytes, digest))
        };
        Rc::clone(self.bytes.entry((seed, size)).or_insert_with(make))
    }

    /// The token that a step means, if any was made yet.
    fn token(&self, number: u8) -> Option<usize> {
        pick(number, 0..self.credentials.len())
    }

    fn workspace(&self, number: u8) -> usize {
        usize::from(number) % self.model.workspaces
    }
}

impl<'s> Play<'s> {
    fn new(store: &'s Store, path: &'s Path, clock: &'s AtomicI64) -> Outcome<Self> {
        let admin = Admin::open(path).must("a command")?;
        let (uploads, downloads) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { store, path, clock, admin, uploads, downloads, next: 0 })
    }

    /// Plays on until the store is to be closed.
    fn segment(mut self, world: &mut World, steps: &[Step], at: &mut usize) -> Outcome<Next> {
        self.free(world)?;
        self.agrees(world)?;
        while let Some(step) = steps.get(*at) {
            *at += 1;
            let told = |error| format!("step {at} of {}: {step:?}\n  {error}", steps.len());
            let next = self.step(world, step).map_err(told)?;
            if let Some(next) = next {
                seen(format!("{step:?}").split([' ', '(']).next().unwrap_or_default());
                return Ok(next);
            }
            self.agrees(world).map_err(told)?;
        }
        self.uploads.clear();
        self.downloads.clear();
        world.model = world.model.at_rest();
        self.free(world).map_err(|error| format!("at the end: {error}"))?;
        self.is_at_rest()?;
        self.verify()?;
        Ok(Next::End)
    }

    /// One step; what the segment ends with, if it does.
    fn step(&mut self, world: &mut World, step: &Step) -> Outcome<Option<Next>> {
        match step {
            Step::Wait(ms) => {
                world.model.now += ms;
                self.clock.store(world.model.now, Ordering::SeqCst);
            }
            Step::Workspace => self.add_workspace(world)?,
            Step::Token { .. } => self.create(world, step)?,
            Step::Revoke { token } => self.revoke(world, *token)?,
            Step::RevokeName { workspace, name } => self.revoke_name(world, *workspace, *name)?,
            Step::Rotate { token, expires, overlap } => self.rotate(world, *token, *expires, *overlap)?,
            Step::Put(put) => {
                if let Some(upload) = self.begin(world, put)? {
                    self.append(world, upload, u64::MAX)?;
                    self.finish(world, upload)?;
                }
            }
            Step::Begin(put) => drop(self.begin(world, put)?),
            Step::Append { upload, count } => {
                if let Some(upload) = self.upload(*upload) {
                    self.append(world, upload, *count)?;
                }
            }
            Step::Finish { upload } => {
                if let Some(upload) = self.upload(*upload) {
                    self.append(world, upload, u64::MAX)?;
                    self.finish(world, upload)?;
                }
            }
            Step::FinishShort { upload } => self.finish_short(world, *upload)?,
            Step::Drop { upload } => {
                if let Some(upload) = self.upload(*upload) {
                    self.uploads.remove(&upload);
                    world.model.flights.remove(&upload);
                }
            }
            Step::Race { uploads } => self.race(world, *uploads)?,
            Step::Get { token, scope, hash } => self.get(world, *token, *scope, *hash, false)?,
            Step::Open { token, scope, hash } => self.get(world, *token, *scope, *hash, true)?,
            Step::Read { download, chunks } => self.read(world, *download, *chunks)?,
            Step::Close { download } => {
                if let Some(download) = pick(*download, self.downloads.keys().copied()) {
                    self.read_on(world, download, u32::MAX)?;
                    self.downloads.remove(&download);
                }
            }
            Step::Purge { what, is_dry } => self.purge(world, what, *is_dry)?,
            Step::Evict { percent, age_ms, is_dry } => self.evict(world, *percent, *age_ms, *is_dry)?,
            Step::Tick { percent } => self.tick(world, *percent)?,
            Step::Free => self.free(world)?,
            Step::Damage { token, scope, hash } => self.quarantine(world, *token, *scope, *hash)?,
            Step::Backup => self.backup(world)?,
            Step::Restore { backup } => {
                if let Some(number) = pick(*backup, 0..world.backups.len()) {
                    let now = world.model.now;
                    world.model = Model { now, ..world.backups[number].1.clone() };
                    let next = world.model.next;
                    world.ids.retain(|number, _| *number < next);
                    return Ok(Some(Next::Restore(number)));
                }
            }
            Step::Reopen => {
                world.model = world.model.at_rest();
                return Ok(Some(Next::Reopen));
            }
            Step::Crash => {
                let files = self.crash()?;
                world.model = world.model.at_rest();
                return Ok(Some(Next::Crash(files)));
            }
            Step::Verify => self.verify()?,
        }
        Ok(None)
    }

    // Tokens.

    fn add_workspace(&mut self, world: &mut World) -> Outcome {
        let model = &mut world.model;
        if model.workspaces < 3 {
            let name = Name::parse(&workspace_name(model.workspaces)).unwrap();
            let is_new = self.admin.add_workspace(&name).must("workspace add")?;
            same("the workspace is new", is_new, true)?;
            model.workspaces += 1;
        }
        let is_new = self.admin.add_workspace(&Name::parse("default").unwrap());
        same("the workspace is new", is_new.must("workspace add")?, false)
    }

    fn workspace_id(&self, workspace: usize) -> Outcome<WorkspaceId> {
        let found = self.admin.workspace(&workspace_name(workspace)).must("a workspace")?;
        found.ok_or_else(|| format!("workspace {workspace} is not there"))
    }

    /// Mints a token.
    fn mint(&self, world: &mut World, token: &Token) -> Outcome<auth::Minted> {
        let wish = Wish {
            workspace: self.workspace_id(token.workspace)?,
            access: access(token.may),
            isolated_scope: token.bound.map(|bound| Name::parse(&scope_name(bound)).unwrap()),
            name: token.name.map(token_name),
            expires_at_ms: token.expires,
        };
        let (text, minted) = AUTH.mint(wish).must("mint")?;
        let presented = Authenticator::present(Some(&format!("Bearer {}", text.expose())));
        let presented = presented.map_err(|_| "a minted token is not well-formed")?;
        let public_id = minted.public_id().as_str().to_owned();
        world.credentials.push(Credential { presented, public_id });
        Ok(minted)
    }

    fn create(&mut self, world: &mut World, step: &Step) -> Outcome {
        let Step::Token { workspace, may, bound, name, expires } = step else {
            return Ok(());
        };
        let token = Token {
            workspace: world.workspace(*workspace),
            may: *may,
            bound: *bound,
            name: *name,
            expires: expires.map(|ms| world.model.now + ms),
            is_revoked: false,
            replaced_by: None,
            first: None,
        };
        let minted = self.mint(world, &token)?;
        let created = self.admin.create_token(&minted.to_store()).must("token create")?;
        let is_taken = world.model.name_is_taken(token.workspace, token.name);
        let expected = if is_taken { Created::NameTaken } else { Created::Done };
        seen(format!("token create {expected:?}"));
        if !is_taken {
            world.model.tokens.insert(world.credentials.len() - 1, token);
        }
        same("token create", created, expected)
    }

    fn revoke(&mut self, world: &mut World, token: u8) -> Outcome {
        let Some(number) = world.token(token) else {
            return Ok(());
        };
        let handle = Handle {
            name_or_id: &world.credentials[number].public_id,
            workspace: WorkspaceId(1),
            only_there: false,
        };
        let revoked = self.admin.revoke_tokens(handle).must("token revoke")?;
        let is_there = world.model.tokens.contains_key(&number);
        let count = world.model.revoke(|other, _| other == number);
        same_revoked(&revoked, is_there, count)
    }

    fn revoke_name(&mut self, world: &mut World, workspace: u8, name: u8) -> Outcome {
        let workspace = world.workspace(workspace);
        let text = token_name(name);
        let handle = Handle {
            name_or_id: &text,
            workspace: self.workspace_id(workspace)?,
            only_there: true,
        };
        let revoked = self.admin.revoke_tokens(handle).must("token revoke")?;
        let is_meant = |token: &Token| token.workspace == workspace && token.name == Some(name);
        let is_there = world.model.tokens.values().any(is_meant);
        let count = world.model.revoke(|_, token| is_meant(token));
        same_revoked(&revoked, is_there, count)
    }

    fn rotate(&mut self, world: &mut World, token: u8, expires: Option<i64>, overlap: Option<i64>) -> Outcome {
        let Some(old) = world.token(token).filter(|old| world.model.tokens.contains_key(old)) else {
            return Ok(());
        };
        let record = self.admin.token(&world.credentials[old].public_id).must("a token")?;
        let record = record.ok_or("a token is not there")?;
        let now = world.model.now;
        let expires = expires.map(|ms| now + ms);
        let successor = Token { expires, ..world.model.tokens[&old].clone() };
        let minted = self.mint(world, &successor)?;
        let until = overlap.map(|ms| now + ms);
        let overlap = until.map_or(Overlap::None, Overlap::Until);
        let rotated = self.admin.rotate_token(&record, &minted.to_store(), overlap).must("token rotate")?;
        let is_done = world.model.rotate(old, world.credentials.len() - 1, expires, until);
        seen(format!("rotate {is_done}"));
        same("token rotate", matches!(rotated, Rotated::Done { .. }), is_done)
    }

    /// What the token may do, by the code that serves requests.
    fn grant(&self, world: &World, reader: &Reader, token: usize, scope: Option<u8>) -> Outcome<Result<Grant, Told>> {
        let Credential { presented, public_id } = &world.credentials[token];
        let Some(record) = reader.token(public_id).must("a look-up")? else {
            return Ok(Err(Told::Unauthorized));
        };
        let name = scope.map(scope_name);
        let place = auth::Place { workspace: None, scope: name.as_deref() };
        let verified = AUTH.verify(presented, &record, now_ms());
        let grant = verified.and_then(|()| AUTH.recall(presented, &record, place, now_ms()));
        Ok(match grant {
            Ok(grant) => Ok(grant.ok_or("it was verified just now")?),
            Err(_) => Err(Told::Unauthorized),
        })
    }

    fn reader(&self) -> Outcome<Reader> {
        self.store.reader(Instant::now() + WAIT).must("a reader")
    }

    // Uploads.

    fn upload(&self, number: u8) -> Option<usize> {
        pick(number, self.uploads.keys().copied())
    }

    /// The upload, if it is admitted.
    fn begin(&mut self, world: &mut World, put: &Put) -> Outcome<Option<usize>> {
        let Some(token) = world.token(put.token) else {
            return Ok(None);
        };
        let expected = world.model.begin(token, put.scope, put.hash, put.size);
        let told = self.ask_to_put(world, token, put)?;
        let (upload, told) = match told {
            Ok(upload) => (Some(upload), Told::Admitted),
            Err(told) => (None, told),
        };
        seen(format!("begin {told:?}"));
        same("begin", told, expected.map_or_else(|told| told, |_| Told::Admitted))?;
        let (Some(upload), Ok(place)) = (upload, expected) else {
            return Ok(None);
        };
        let number = self.next;
        self.next += 1;
        self.uploads.insert(number, upload);
        let Put { hash, size, seed, .. } = *put;
        let flight = Flight { place, hash, size, seed, writer: token, received: 0, number: None };
        world.model.flights.insert(number, flight);
        Ok(Some(number))
    }

    fn ask_to_put(&self, world: &World, token: usize, put: &Put) -> Outcome<Result<Upload<'s>, Told>> {
        let reader = self.reader()?;
        let grant = match self.grant(world, &reader, token, put.scope)? {
            Ok(grant) => grant,
            Err(told) => return Ok(Err(told)),
        };
        let Some(target) = write_target(&grant) else {
            return Ok(Err(Told::Forbidden));
        };
        let new = NewArtifact {
            scope: target.scope().clone(),
            unless_in: target.unless_in().cloned(),
            hash: put.hash.to_string(),
            size_bytes: put.size,
            writer: target.writer(),
            writer_address: "127.0.0.1".to_owned(),
        };
        Ok(match self.store.upload(reader, new).must("an upload")? {
            Admission::Upload(upload) => Ok(*upload),
            Admission::Refused(stored) => Err(told(stored)),
        })
    }

    /// Sends so many of the bytes that are missing.
    fn append(&mut self, world: &mut World, number: usize, count: u64) -> Outcome {
        let Flight { seed, size, received, .. } = world.model.flights[&number];
        let bytes = world.bytes(seed, size);
        let mut bytes = &bytes.0[received as usize..];
        bytes = &bytes[..bytes.len().min(count.min(size) as usize)];
        world.model.receive(number, bytes.len() as u64);
        let upload = self.uploads.get_mut(&number).expect("it is there");
        while !bytes.is_empty() {
            let space = upload.space().must("space")?;
            let some = space.len().min(bytes.len());
            space[..some].copy_from_slice(&bytes[..some]);
            upload.advance(some).must("advance")?;
            bytes = &bytes[some..];
        }
        // Rows get their ids in the order of the steps.
        if world.model.flights[&number].number.is_some() {
            on_writer(self.store, |_| Ok(())).must("a pause")?;
        }
        Ok(())
    }

    fn finish(&mut self, world: &mut World, number: usize) -> Outcome {
        let upload = self.uploads.remove(&number).expect("it is there");
        let stored = told(upload.finish().must("finish")?);
        let expected = world.model.finish(number);
        seen(format!("finish {stored:?}"));
        same("finish", stored, expected)
    }

    fn finish_short(&mut self, world: &mut World, number: u8) -> Outcome {
        let Some(number) = self.upload(number) else {
            return Ok(());
        };
        let flight = &world.model.flights[&number];
        if flight.received == flight.size {
            return self.finish(world, number);
        }
        world.model.flights.remove(&number);
        let upload = self.uploads.remove(&number).expect("it is there");
        seen("finish incomplete");
        same("finish", upload.finish(), Err(StoreError::Incomplete))
    }

    /// Finishes two uploads at the same time: one order or the other.
    fn race(&mut self, world: &mut World, [first, second]: [u8; 2]) -> Outcome {
        let (Some(a), Some(b)) = (self.upload(first), self.upload(second)) else {
            return Ok(());
        };
        if a == b {
            return Ok(());
        }
        for number in [a, b] {
            self.append(world, number, u64::MAX)?;
        }
        let uploads = [a, b].map(|number| self.uploads.remove(&number).expect("it is there"));
        let stored = std::thread::scope(|scope| {
            let threads = uploads.map(|upload| scope.spawn(move || upload.finish()));
            threads.map(|thread| thread.join().expect("an answer"))
        });
        let [stored_a, stored_b] = stored;
        let found = [told(stored_a.must("finish")?), told(stored_b.must("finish")?)];
        let before = world.model.clone();
        let mut wrong = String::new();
        for is_turned in [false, true] {
            let mut model = before.clone();
            let expected = if is_turned {
                let second = model.finish(b);
                [model.finish(a), second]
            } else {
                [model.finish(a), model.finish(b)]
            };
            world.model = model;
            let agrees = same("a race", found, expected).and_then(|()| self.agrees(world));
            let Err(error) = agrees else {
                seen(format!("race {found:?}"));
                return Ok(());
            };
            wrong = error;
        }
        Err(wrong)
    }

    // Downloads.

    fn get(&mut self, world: &mut World, token: u8, scope: Option<u8>, hash: u8, stays_open: bool) -> Outcome {
        let Some(token) = world.token(token) else {
            return Ok(());
        };
        let expected = world.model.get(token, scope, hash);
        let reader = self.reader()?;
        let grant = match self.grant(world, &reader, token, scope)? {
            Ok(grant) => grant,
            Err(told) => return same("get", Err(told), expected),
        };
        let chain = read_chain(&grant);
        let found = reader.artifact(chain.scopes(), &hash.to_string()).must("a look-up")?;
        let (Some(artifact), Ok(Some(number))) = (found, expected) else {
            seen("get nothing");
            return same("get", Ok(found.map(|_| 0)), expected);
        };
        let kind = if grant.access() == Access::Isolated { ScopeKind::Isolated } else { ScopeKind::Trusted };
        let reading = self.store.begin_reading(&artifact, kind);
        drop(reader);
        let entry = world.model.entries[&number].clone();
        same("the artifact", (artifact.id, artifact.size_bytes), (world.ids[&number], entry.size))?;
        same("the kind", artifact.kind == ScopeKind::Isolated, entry.place.1.is_some())?;
        if world.model.counts(token, number) {
            self.store.note_read(&artifact);
            self.store.read_times.flush(&self.store.writer, WAIT).must("a note")?;
            world.model.note_read(number);
        }
        let download = Download { artifact, number, entry, next: 0, _reading: match reading {
            Some(reading) => reading,
            None => {
                seen("get small");
                return self.chunks(world, &artifact, &world.model.entries[&number].clone(), 0, u32::MAX);
            }
        } };
        seen(if stays_open { "get left open" } else { "get large" });
        let at = self.next;
        self.next += 1;
        self.downloads.insert(at, download);
        if !stays_open {
            self.read_on(world, at, u32::MAX)?;
            self.downloads.remove(&at);
        }
        Ok(())
    }

    fn read(&mut self, world: &mut World, number: u8, chunks: u32) -> Outcome {
        match pick(number, self.downloads.keys().copied()) {
            Some(number) => self.read_on(world, number, chunks),
            None => Ok(()),
        }
    }

    /// Reads the next chunks of a download: its own bytes, whatever became of the entry.
    fn read_on(&mut self, world: &mut World, number: usize, chunks: u32) -> Outcome {
        let Download { artifact, entry, next, number: entry_number, .. } = &self.downloads[&number];
        if !world.model.entries.contains_key(entry_number) {
            seen("read what is hidden");
        }
        let (artifact, entry, next) = (*artifact, entry.clone(), *next);
        self.chunks(world, &artifact, &entry, next, chunks)?;
        let download = self.downloads.get_mut(&number).expect("it is there");
        download.next = next.saturating_add(chunks).min(artifact.chunk_count());
        Ok(())
    }

    fn chunks(&self, world: &mut World, artifact: &Artifact, entry: &Known, from: u32, count: u32) -> Outcome {
        let bytes = world.bytes(entry.seed, entry.size);
        let buffer = self.store.download_buffer(ScopeKind::Trusted, Instant::now() + WAIT);
        let mut buffer = buffer.must("a buffer")?;
        for sequence in from..from.saturating_add(count).min(artifact.chunk_count()) {
            let reader = self.reader()?;
            let chunk = reader.chunk(artifact, sequence, &mut buffer).must("a chunk")?;
            let start = sequence as usize * CHUNK_BYTES;
            ensure!(chunk == &bytes.0[start..start + chunk.len()], "chunk {sequence} of {entry:?} has other bytes");
        }
        Ok(())
    }

    // What goes.

    fn purge(&mut self, world: &mut World, what: &What, is_dry: bool) -> Outcome {
        // What is hidden and not freed decides what a hash has led to.
        self.free(world)?;
        let Some((wanted, selection)) = self.wanted(world, what)? else {
            return Ok(());
        };
        let transitive = wanted.transitive;
        let purge = Purge { selection, transitive, dry_run: is_dry };
        let purged = self.admin.purge(&purge, &AtomicBool::new(false), &mut |_| {}).must("purge")?;
        let expected = world.model.purge(&wanted, is_dry);
        let mut found: Sums<Place> = Sums::new();
        for (scope, sum) in &purged.scopes {
            let workspace = (0..3).find(|number| workspace_name(*number) == scope.workspace);
            let name = scope.name.as_ref().and_then(|name| name.strip_prefix("pr-"));
            let place = (workspace.unwrap_or(9), name.map(|name| name.parse().unwrap_or(99)));
            found.insert(place, (sum.artifacts, sum.size_bytes));
        }
        let kind = format!("{what:?}");
        let kind = kind.split(' ').next().unwrap_or_default();
        seen(format!("purge {kind} transitive={transitive} {}", if expected.is_empty() { "nothing" } else { "some" }));
        same("purge", found, expected)
    }

    fn wanted(&self, world: &World, what: &What) -> Outcome<Option<(Wanted, Selection)>> {
        let mut wanted = Wanted {
            workspace: 0,
            scope: None,
            writers: None,
            since: None,
            hash: None,
            transitive: false,
        };
        let now = world.model.now;
        match *what {
            What::Workspace { workspace, since } => {
                wanted.workspace = world.workspace(workspace);
                wanted.since = since.map(|ms| now - ms);
            }
            What::Scope { workspace, scope, since } => {
                wanted.workspace = world.workspace(workspace);
                wanted.scope = Some(scope);
                wanted.since = since.map(|ms| now - ms);
            }
            What::Hash { workspace, hash, is_transitive } => {
                wanted.workspace = world.workspace(workspace);
                wanted.hash = Some(hash);
                wanted.transitive = is_transitive;
            }
            What::Token { token, is_transitive, hash } => {
                let Some(token) = world.token(token).filter(|token| world.model.tokens.contains_key(token)) else {
                    return Ok(None);
                };
                wanted.workspace = world.model.tokens[&token].workspace;
                wanted.writers = Some(BTreeSet::from([token]));
                wanted.hash = hash;
                wanted.transitive = is_transitive;
            }
            What::Name { workspace, name, is_transitive } => {
                wanted.workspace = world.workspace(workspace);
                let called = |token: &Token| token.workspace == wanted.workspace && token.name == Some(name);
                let called = world.model.tokens.iter().filter(|(_, token)| called(token));
                wanted.writers = Some(called.map(|(number, _)| *number).collect());
                wanted.transitive = is_transitive;
            }
        }
        let workspace = self.workspace_id(wanted.workspace)?;
        let writers = match (what, &wanted.writers) {
            (What::Name { name, .. }, _) => {
                let called = self.admin.tokens_called(workspace, &token_name(*name)).must("tokens")?;
                same("tokens of a name", Some(called.len()), wanted.writers.as_ref().map(BTreeSet::len))?;
                Some(called)
            }
            (_, Some(writers)) => {
                let ids = writers.iter().map(|writer| &world.credentials[*writer].public_id);
                let tokens = ids.map(|id| self.admin.token(id).must("a token"));
                Some(tokens.filter_map(Result::transpose).collect::<Outcome<_>>()?)
            }
            (_, None) => None,
        };
        let scopes = match wanted.scope {
            None => ScopeChoice::All,
            Some(None) => ScopeChoice::Trusted,
            Some(Some(scope)) => ScopeChoice::Isolated(Name::parse(&scope_name(scope)).unwrap()),
        };
        let selection = Selection {
            workspace,
            scopes,
            writers,
            since_ms: wanted.since,
            hash: wanted.hash.map(|hash| hash.to_string()),
        };
        Ok(Some((wanted, selection)))
    }

    fn limits(world: &World, percent: [u64; 2], age_ms: [Option<i64>; 2]) -> (Limits, EvictionLimits) {
        let used = [false, true].map(|is_isolated| world.model.used(is_isolated));
        let bytes = [0, 1].map(|kind| used[kind] * percent[kind] / 100);
        let age = |ms: Option<i64>| ms.map_or(Duration::MAX, |ms| Duration::from_millis(ms as u64));
        let budget = |kind: usize| Budget { max_bytes: bytes[kind], max_age: age(age_ms[kind]) };
        let limits = EvictionLimits { trusted: budget(0), isolated: budget(1), min_free_disk_bytes: 0 };
        (Limits { bytes, age_ms }, limits)
    }

    fn evict(&mut self, world: &mut World, percent: [u64; 2], age_ms: [Option<i64>; 2], is_dry: bool) -> Outcome {
        let (rules, limits) = Self::limits(world, percent, age_ms);
        let gc = Gc { limits, dry_run: is_dry };
        let evicted = self.admin.evict(&gc, &AtomicBool::new(false), &mut |_| {}).must("gc")?;
        let expected = world.model.evict(&rules, is_dry);
        same_evicted("gc", &evicted, &expected)
    }

    fn tick(&mut self, world: &mut World, percent: [u64; 2]) -> Outcome {
        let (rules, limits) = Self::limits(world, percent, [None; 2]);
        let chores = housekeeper::Chores {
            writer: Arc::clone(&self.store.writer),
            space: Arc::clone(&self.store.space),
            leftovers: Arc::clone(&self.store.leftovers),
            kept: Arc::new(Kept::new(Arc::clone(&self.store.readings))),
            read_times: Arc::clone(&self.store.read_times),
            limits,
            observer: Observer::default(),
            usage: Arc::clone(&self.store.usage),
        };
        let evicted = chores.tick_once().must("a tick")?;
        let expected = world.model.evict(&rules, false);
        same_evicted("tick", &evicted, &expected)
    }

    /// Frees all that nobody reads; what is left are entries, uploads in flight and what is being read.
    fn free(&mut self, world: &mut World) -> Outcome {
        self.store.leftovers.condemn(&self.store.writer, WAIT);
        let kept = Arc::new(Kept::new(Arc::clone(&self.store.readings)));
        loop {
            let kept = Arc::clone(&kept);
            let cleaned = on_writer(self.store, move |connection| cleaner::clean(connection, i64::MAX, &kept));
            if cleaned.must("the cleaner")? == Progress::Done {
                break;
            }
        }
        let read: BTreeSet<u64> = self.downloads.values().map(|download| download.number).collect();
        world.model.free(&read);
        let hidden = self.numbers("SELECT id FROM artifacts WHERE state = 'condemned' ORDER BY id")?;
        let expected: Vec<i64> = world.model.hidden.keys().map(|number| world.ids[number]).collect();
        same("hidden artifacts", hidden, expected)?;
        let kept = world.model.entries.values().chain(world.model.hidden.values());
        let expected: u64 = kept.map(|entry| entry.size.div_ceil(CHUNK_BYTES as u64)).sum();
        let chunks = "SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts WHERE state = 'uploading')";
        same("chunks of entries", self.numbers(chunks)?, vec![expected as i64])?;
        let begun = world.model.flights.values().filter(|flight| flight.number.is_some()).count();
        let uploading = "SELECT count(*) FROM artifacts WHERE state = 'uploading'";
        same("uploads in the file", self.numbers(uploading)?, vec![begun as i64])
    }

    fn quarantine(&mut self, world: &mut World, token: u8, scope: Option<u8>, hash: u8) -> Outcome {
        let Some(token) = world.token(token) else {
            return Ok(());
        };
        let Ok(Some(number)) = world.model.get(token, scope, hash) else {
            return Ok(());
        };
        let reader = self.reader()?;
        let Ok(grant) = self.grant(world, &reader, token, scope)? else {
            return Err("it was granted".to_owned());
        };
        let found = reader.artifact(read_chain(&grant).scopes(), &hash.to_string()).must("a look-up")?;
        drop(reader);
        let artifact = found.ok_or("it is not there")?;
        for expected in [true, false] {
            same("quarantine", self.store.quarantine(&artifact).must("quarantine")?, expected)?;
        }
        let entry = world.model.entries.remove(&number).expect("it is there");
        world.model.hidden.insert(number, entry);
        Ok(())
    }

    // The file.

    fn backup(&mut self, world: &mut World) -> Outcome {
        let name = format!("{}.backup", world.backups.len());
        let destination = self.path.parent().unwrap().parent().unwrap().join(name);
        let request = BackupRequest { destination: &destination, replace: true, floor_bytes: 0 };
        let made = self.store.backups().make(request, &Arc::default()).must("backup")?;
        same("left out", (made.left_out, made.damaged.len()), (0, 0))?;
        same("copied", made.copied.entries, world.model.entries.len() as u64)?;
        ensure!(made.unrecorded.is_none(), "{:?}", made.unrecorded);
        world.backups.push((destination, world.model.at_rest()));
        seen("backup");
        Ok(())
    }

    /// The files as a process that dies at this moment leaves them: the log first, for what is folded meanwhile is
    /// in it, too.
    fn crash(&mut self) -> Outcome<PathBuf> {
        let database = self.path.to_owned();
        let target = database.parent().unwrap().with_extension("crashed");
        let made = target.clone();
        on_writer(self.store, move |_| {
            std::fs::create_dir(&made).unwrap();
            let log = file::log_path(&database);
            if log.exists() {
                std::fs::copy(&log, made.join("cachesrv.db-wal")).unwrap();
            }
            std::fs::copy(&database, made.join("cachesrv.db")).unwrap();
            Ok(())
        })
        .must("a crash")?;
        Ok(target)
    }

    fn verify(&self) -> Outcome {
        let verifier = Verifier::open(self.path).must("verify")?;
        let verdict = verifier.run(false, &Arc::default(), &mut |_| {}).must("verify")?;
        ensure!(verdict.is_ok(), "verify finds {:?}", verdict.findings);
        seen("verify");
        Ok(())
    }

    /// Nothing is promised, held or read any more.
    fn is_at_rest(&self) -> Outcome {
        let space = format!("{:?}", self.store.space);
        ensure!(space.contains(" trusted_bytes: 0, isolated_bytes: 0,"), "promised: {space}");
        let quotas = format!("{:?}", self.store.quotas);
        ensure!(quotas.contains("scopes: {}, workspaces: {}"), "promised: {quotas}");
        let readings = format!("{:?}", self.store.readings);
        ensure!(readings.contains("data: {},"), "read: {readings}");
        Ok(())
    }

    fn numbers(&self, sql: &str) -> Outcome<Vec<i64>> {
        self.rows(sql, |row| row.get(0))
    }

    fn rows<T>(&self, sql: &str, map: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>) -> Outcome<Vec<T>> {
        let mut statement = self.admin.connection.prepare_cached(sql).must(sql)?;
        let rows = statement.query_map([], |row| map(row)).must(sql)?;
        rows.collect::<rusqlite::Result<_>>().must(sql)
    }

    /// Every row that a request could be answered by is what the model says.
    fn agrees(&self, world: &mut World) -> Outcome {
        self.entries_agree(world)?;
        self.tokens_agree(world)?;
        self.counters_agree(world)
    }

    fn entries_agree(&self, world: &mut World) -> Outcome {
        let sql = "SELECT artifacts.id, workspaces.name, scopes.name, hash, size_bytes, artifacts.created_at_ms, read_at_ms,
                          public_id, digest
                   FROM artifacts JOIN scopes ON scopes.id = scope_id JOIN workspaces ON workspaces.id = scopes.workspace_id
                   JOIN tokens ON tokens.id = writer_token_id WHERE state = 'stored' ORDER BY artifacts.id";
        type Row = (String, Option<String>, String, i64, i64, i64, String, [u8; 32]);
        let found: Vec<(i64, Row)> = self.rows(sql, |row| {
            let rest = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?);
            Ok((row.get(0)?, rest))
        })?;
        let entries = world.model.entries.clone();
        same("entries", found.len(), entries.len())?;
        for ((number, entry), (id, found)) in entries.iter().zip(found) {
            let row = (
                workspace_name(entry.place.0),
                entry.place.1.map(scope_name),
                entry.hash.to_string(),
                entry.size as i64,
                entry.created,
                entry.read,
                world.credentials[entry.writer].public_id.clone(),
                world.bytes(entry.seed, entry.size).1,
            );
            same("an entry", found, row)?;
            let known = *world.ids.entry(*number).or_insert(id);
            same("the id of an entry", id, known)?;
        }
        Ok(())
    }

    fn tokens_agree(&self, world: &World) -> Outcome {
        let sql = "SELECT public_id, workspaces.name, access, isolated_scope, tokens.name, expires_at_ms,
                          revoked_at_ms IS NOT NULL, (SELECT public_id FROM tokens AS other WHERE other.id = tokens.replaced_by),
                          first_artifact_id
                   FROM tokens JOIN workspaces ON workspaces.id = workspace_id ORDER BY tokens.id";
        type Row = (
            String,
            String,
            String,
            Option<String>,
            Option<String>,
            Option<i64>,
            bool,
            Option<String>,
        );
        let found: Vec<(Row, Option<i64>)> = self.rows(sql, |row| {
            let first = row.get(8)?;
            let rest = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?);
            Ok((rest, first))
        })?;
        let tokens = &world.model.tokens;
        same("tokens", found.len(), tokens.len())?;
        let id = |number: usize| world.credentials[number].public_id.clone();
        for ((number, token), (found, first)) in tokens.iter().zip(found) {
            let row = (
                id(*number),
                workspace_name(token.workspace),
                access(token.may).as_str().to_owned(),
                token.bound.map(scope_name),
                token.name.map(token_name),
                token.expires,
                token.is_revoked,
                token.replaced_by.map(id),
            );
            same("a token", found, row)?;
            same("its first artifact", first, token.first.map(|number| world.ids[&number]))?;
        }
        Ok(())
    }

    fn counters_agree(&self, world: &World) -> Outcome {
        let sql = "SELECT workspaces.name, scopes.name, entries, size_bytes FROM
                     (SELECT scope_id, entries, size_bytes FROM trusted_usage
                      UNION ALL SELECT scope_id, entries, size_bytes FROM isolated_usage)
                   JOIN scopes ON scopes.id = scope_id JOIN workspaces ON workspaces.id = workspace_id WHERE entries + size_bytes > 0
                   UNION ALL
                   SELECT workspaces.name, ':' || scopes, entries, size_bytes FROM isolated_totals
                   JOIN workspaces ON workspaces.id = workspace_id WHERE scopes + entries + size_bytes > 0";
        type Counter = (String, Option<String>);
        let found = self.rows(sql, |row| {
            let count = |at| row.get::<_, i64>(at).map(|count| count as u64);
            Ok(((row.get(0)?, row.get(1)?), (count(2)?, count(3)?)))
        })?;
        let mut expected: Sums<Counter> = Sums::new();
        let mut scopes: BTreeMap<usize, BTreeSet<u8>> = BTreeMap::new();
        for entry in world.model.entries.values() {
            scopes.entry(entry.place.0).or_default().extend(entry.place.1);
        }
        for entry in world.model.entries.values() {
            let name = workspace_name(entry.place.0);
            let total = entry.place.1.map(|_| (name.clone(), Some(format!(":{}", scopes[&entry.place.0].len()))));
            let own = (name, entry.place.1.map(scope_name));
            for counter in [own].into_iter().chain(total) {
                let sum = expected.entry(counter).or_default();
                *sum = (sum.0 + 1, sum.1 + entry.size);
            }
        }
        same("counters", found.into_iter().collect(), expected)?;
        let sql = "SELECT day, is_isolated, reason, entries, size_bytes FROM evictions_by_day";
        let found = self.rows(sql, |row| {
            let reason: String = row.get(2)?;
            let reason = ["age", "size"].into_iter().find(|word| *word == reason).unwrap_or("?");
            let count = |at| row.get::<_, i64>(at).map(|count| count as u64);
            Ok(((row.get(0)?, row.get(1)?, reason), (count(3)?, count(4)?)))
        })?;
        same("evictions", found.into_iter().collect(), world.model.evicted.clone())
    }
}

fn told(stored: Stored) -> Told {
    match stored {
        Stored::New => Told::Stored,
        Stored::Exists => Told::Exists,
        Stored::TokenNotLive => Told::Died,
        Stored::OverQuota(Quota::Scope(_)) => Told::OverScope,
        Stored::OverQuota(Quota::Workspace(_)) => Told::OverWorkspace,
        Stored::OverQuota(other) => panic!("{other:?} is far away"),
    }
}

fn same_revoked(revoked: &Revoked, is_there: bool, count: usize) -> Outcome {
    let (word, found) = match revoked {
        Revoked::Done(tokens) => ("done", tokens.len()),
        Revoked::Already(_) => ("already", 0),
        Revoked::NotFound(_) => ("not found", 0),
    };
    let expected = match (is_there, count) {
        (false, _) => "not found",
        (true, 0) => "already",
        (true, _) => "done",
    };
    seen(format!("revoke {expected}"));
    same("token revoke", (word, found), (expected, count))
}

fn same_evicted(what: &str, evicted: &Evicted, expected: &Sums<(bool, &'static str)>) -> Outcome {
    let sums = evicted.sums();
    let found: Sums<(bool, &str)> = sums
        .map(|(kind, reason, sum)| ((kind == ScopeKind::Isolated, reason.as_str()), (sum.artifacts, sum.size_bytes)))
        .collect();
    for (is_isolated, reason) in found.keys() {
        seen(format!("{what} isolated={is_isolated} {reason}"));
    }
    same(what, &found, expected)
}

/// A sequence and where it is played: by its seed alone.
fn sequence(seed: u64) -> (bool, Vec<Step>) {
    let has_large = seed % 8 == 7;
    (has_large, draw(seed, has_large))
}

fn bench(has_large: bool) -> Bench {
    // So that a few uploads fill them.
    Bench::new(if has_large { (2_600_000, 3_900_000) } else { (2 * ISOLATED.scope_max_bytes, 2 * ISOLATED.workspace_max_bytes) })
}

/// Plays it; a bench on which something failed is not used again.
fn play(place: &mut Option<Bench>, has_large: bool, steps: &[Step]) -> Outcome {
    let mut bench = place.take().unwrap_or_else(|| bench(has_large));
    let outcome = catch_unwind(AssertUnwindSafe(|| bench.play(steps)));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    });
    if outcome.is_ok() {
        *place = Some(bench);
    }
    outcome
}

#[test]
fn the_store_does_what_the_model_says() {
    let given = std::env::var("CACHESRV_TEST_SEED").ok();
    let clock = || UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    let first = given.map_or_else(clock, |text| text.parse().expect("CACHESRV_TEST_SEED is a number"));
    let rounds = rounds(ROUNDS);
    println!("to repeat this run: CACHESRV_TEST_SEED={first} CACHESRV_TEST_ROUNDS={rounds}");
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(rounds) {
            scope.spawn(|| {
                let mut benches = [None, None];
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= rounds || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let seed = first.wrapping_add(round);
                    let (has_large, steps) = sequence(seed);
                    let place = &mut benches[usize::from(has_large)];
                    if let Err(error) = play(place, has_large, &steps) {
                        failed.lock().unwrap().get_or_insert((seed, error));
                    }
                }
            });
        }
    });
    println!("{rounds} sequences in {:?}", began.elapsed());
    if let Some((seed, error)) = failed.into_inner().unwrap() {
        tell(seed, &error);
    }
    let seen = SEEN.lock().unwrap();
    println!("{seen:#?}");
    if rounds >= ROUNDS {
        for what in ALL_SEEN {
            assert!(seen.contains_key(*what), "never happened: {what}");
        }
    }
}

/// What must happen in a run of CI.
const ALL_SEEN: &[&str] = &[];

/// Says how little it takes to fail.
fn tell(seed: u64, error: &str) -> ! {
    let (has_large, steps) = sequence(seed);
    let last = RefCell::new(error.to_owned());
    let fewest = shrink(steps, |fewer| match play(&mut None, has_large, fewer) {
        Ok(()) => false,
        Err(error) => {
            last.replace(error);
            true
        }
    });
    let list: String = fewest.iter().map(|step| format!("  {step:?}\n")).collect();
    panic!(
        "the sequence of seed {seed} fails:\n{error}\n\n{} steps are enough:\n{list}\n{}\n
to repeat it alone: CACHESRV_TEST_SEED={seed} CACHESRV_TEST_ROUNDS=1",
        fewest.len(),
        last.borrow(),
    );
}
