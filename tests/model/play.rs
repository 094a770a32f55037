//! The steps of the model test, played on an open store: each is answered as the model says.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};

use super::super::tests::WAIT;
use super::super::*;
use super::Next;
use super::random::noise;
use super::rules::{Entry as Known, Flight, May, Model, Token, Told};
use super::steps::{Put, Step, Url};
use super::tools::*;
use crate::auth::{self, Authenticator, Cost, Grant, PresentedToken, Wish, write_target};

/// Makes tokens at hardly any cost.
static AUTH: LazyLock<Authenticator> = LazyLock::new(|| {
    let cost = Cost {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };
    Authenticator::with_cost(cost).unwrap()
});

/// What is known of a token that was made.
pub(super) struct Credential {
    presented: PresentedToken,
    pub public_id: String,
}

/// What a sequence has come to.
pub(super) struct World {
    pub model: Model,
    pub credentials: Vec<Credential>,
    /// The ids of artifacts by their numbers.
    pub ids: BTreeMap<u64, i64>,
    /// What is in each, and the ids there.
    pub backups: Vec<(PathBuf, Model, BTreeMap<u64, i64>)>,
    bytes: BTreeMap<(u64, u64), Rc<Content>>,
}

/// The bytes of an entry, and their digest.
pub(super) struct Content {
    pub bytes: Vec<u8>,
    pub digest: [u8; 32],
}

pub(super) struct Download {
    pub artifact: Artifact,
    pub number: u64,
    pub entry: Known,
    pub next: u32,
    pub _reading: Reading,
}

/// One open store and all that is going on there.
pub(super) struct Play<'s> {
    pub store: &'s Store,
    pub path: &'s Path,
    clock: &'s AtomicI64,
    pub admin: &'s mut Admin,
    pub uploads: BTreeMap<usize, Upload<'s>>,
    pub downloads: BTreeMap<usize, Download>,
    /// The number of the next upload or download.
    pub next: usize,
}

impl World {
    /// Before the first step.
    pub(super) fn new(now: i64, quota: (u64, u64)) -> Self {
        Self {
            model: Model {
                now,
                quota,
                workspaces: 1,
                next: 1,
                ..Model::default()
            },
            credentials: Vec::new(),
            ids: BTreeMap::new(),
            backups: Vec::new(),
            bytes: BTreeMap::new(),
        }
    }

    pub(super) fn bytes(&mut self, seed: u64, size: u64) -> Rc<Content> {
        let make = || {
            let bytes = noise(seed, size as usize);
            let digest = *blake3::hash(&bytes).as_bytes();
            Rc::new(Content { bytes, digest })
        };
        Rc::clone(self.bytes.entry((seed, size)).or_insert_with(make))
    }

    /// The token that a step means, if any was made yet.
    pub(super) fn token(&self, number: u8) -> Option<usize> {
        pick(number, 0..self.credentials.len())
    }

    /// The scope that a URL names which this token uses.
    pub(super) fn scope(&self, token: usize, url: Url) -> Option<u8> {
        let needs_one = |token: &Token| token.may == May::Isolated && token.bound.is_none();
        match url {
            Url::Nothing => None,
            Url::Scope(scope) => Some(scope),
            Url::Fitting(scope) => self
                .model
                .tokens
                .get(&token)
                .is_some_and(needs_one)
                .then_some(scope),
        }
    }

    pub(super) fn workspace(&self, number: u8) -> usize {
        usize::from(number) % self.model.workspaces
    }
}

impl<'s> Play<'s> {
    pub(super) fn new(
        store: &'s Store,
        admin: &'s mut Admin,
        path: &'s Path,
        clock: &'s AtomicI64,
    ) -> Self {
        let (uploads, downloads) = (BTreeMap::new(), BTreeMap::new());
        Self {
            store,
            path,
            clock,
            admin,
            uploads,
            downloads,
            next: 0,
        }
    }

    /// Plays on until the store is to be closed.
    pub(super) fn segment(
        mut self,
        world: &mut World,
        steps: &[Step],
        at: &mut usize,
    ) -> Outcome<Next> {
        self.free(world)?;
        self.agrees(world)?;
        while let Some(step) = steps.get(*at) {
            *at += 1;
            let told = |error| format!("step {at} of {}: {step:?}\n  {error}", steps.len());
            let next = self.step(world, step).map_err(told)?;
            if let Some(next) = next {
                seen(
                    format!("{step:?}")
                        .split([' ', '('])
                        .next()
                        .unwrap_or_default(),
                );
                return Ok(next);
            }
            self.agrees(world).map_err(told)?;
        }
        self.uploads.clear();
        self.downloads.clear();
        world.model = world.model.at_rest();
        self.free(world)
            .map_err(|error| format!("at the end: {error}"))?;
        self.is_at_rest()?;
        // The counters were recounted and what is left over was looked for; this looks at the pages, too.
        if steps.len().is_multiple_of(8) {
            self.verify()?;
        }
        Ok(Next::End)
    }

    /// One step; what the segment ends with, if it does.
    pub(super) fn step(&mut self, world: &mut World, step: &Step) -> Outcome<Option<Next>> {
        match step {
            Step::Wait(ms) => {
                world.model.now += ms;
                self.clock.store(world.model.now, Ordering::SeqCst);
            }
            Step::Workspace => self.add_workspace(world)?,
            Step::Token { .. } => self.create(world, step)?,
            Step::Revoke { token } => self.revoke(world, *token)?,
            Step::RevokeName { workspace, name } => self.revoke_name(world, *workspace, *name)?,
            Step::Rotate {
                token,
                expires,
                overlap,
            } => self.rotate(world, *token, *expires, *overlap)?,
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
            Step::Get { token, url, hash } => self.get(world, *token, *url, *hash, false)?,
            Step::Open { token, url, hash } => self.get(world, *token, *url, *hash, true)?,
            Step::Read { download, chunks } => self.read(world, *download, *chunks)?,
            Step::Close { download } => {
                if let Some(download) = pick(*download, self.downloads.keys().copied()) {
                    self.read_on(world, download, u32::MAX)?;
                    self.downloads.remove(&download);
                }
            }
            Step::Purge { what, is_dry } => self.purge(world, what, *is_dry)?,
            Step::Evict {
                percent,
                age_ms,
                is_dry,
            } => self.evict(world, *percent, *age_ms, *is_dry)?,
            Step::Tick { percent } => self.tick(world, *percent)?,
            Step::Free => self.free(world)?,
            Step::Damage { token, url, hash } => self.quarantine(world, *token, *url, *hash)?,
            Step::Backup => self.backup(world)?,
            Step::Restore { backup } => {
                if let Some(number) = pick(*backup, 0..world.backups.len()) {
                    let now = world.model.now;
                    let (_, model, ids) = &world.backups[number];
                    let model = model.clone();
                    world.ids.clone_from(ids);
                    world.model = Model { now, ..model };
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

    pub(super) fn add_workspace(&mut self, world: &mut World) -> Outcome {
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

    pub(super) fn workspace_id(&self, workspace: usize) -> Outcome<WorkspaceId> {
        let found = self
            .admin
            .workspace(&workspace_name(workspace))
            .must("a workspace")?;
        found.ok_or_else(|| format!("workspace {workspace} is not there"))
    }

    /// Mints a token.
    pub(super) fn mint(&self, world: &mut World, token: &Token) -> Outcome<auth::Minted> {
        let wish = Wish {
            workspace: self.workspace_id(token.workspace)?,
            access: access(token.may),
            isolated_scope: token
                .bound
                .map(|bound| Name::parse(&scope_name(bound)).unwrap()),
            name: token.name.map(token_name),
            expires_at_ms: token.expires,
        };
        let (text, minted) = AUTH.mint(wish).must("mint")?;
        let presented = Authenticator::present(Some(&format!("Bearer {}", text.expose())));
        let presented = presented.map_err(|_| "a minted token is not well-formed")?;
        let public_id = minted.public_id().as_str().to_owned();
        world.credentials.push(Credential {
            presented,
            public_id,
        });
        Ok(minted)
    }

    pub(super) fn create(&mut self, world: &mut World, step: &Step) -> Outcome {
        let Step::Token {
            workspace,
            may,
            bound,
            name,
            expires,
        } = step
        else {
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
        let created = self
            .admin
            .create_token(&minted.to_store())
            .must("token create")?;
        let is_taken = world.model.name_is_taken(token.workspace, token.name);
        let expected = if is_taken {
            Created::NameTaken
        } else {
            Created::Done
        };
        seen(format!("token create {expected:?}"));
        if !is_taken {
            world
                .model
                .tokens
                .insert(world.credentials.len() - 1, token);
        }
        same("token create", created, expected)
    }

    pub(super) fn revoke(&mut self, world: &mut World, token: u8) -> Outcome {
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

    pub(super) fn revoke_name(&mut self, world: &mut World, workspace: u8, name: u8) -> Outcome {
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

    pub(super) fn rotate(
        &mut self,
        world: &mut World,
        token: u8,
        expires: Option<i64>,
        overlap: Option<i64>,
    ) -> Outcome {
        let Some(old) = world
            .token(token)
            .filter(|old| world.model.tokens.contains_key(old))
        else {
            return Ok(());
        };
        let record = self
            .admin
            .token(&world.credentials[old].public_id)
            .must("a token")?;
        let record = record.ok_or("a token is not there")?;
        let now = world.model.now;
        let expires = expires.map(|ms| now + ms);
        let successor = Token {
            expires,
            ..world.model.tokens[&old].clone()
        };
        let minted = self.mint(world, &successor)?;
        let until = overlap.map(|ms| now + ms);
        let overlap = until.map_or(Overlap::None, Overlap::Until);
        let rotated = self
            .admin
            .rotate_token(&record, &minted.to_store(), overlap)
            .must("token rotate")?;
        let is_done = world
            .model
            .rotate(old, world.credentials.len() - 1, expires, until);
        seen(format!("rotate {is_done}"));
        same(
            "token rotate",
            matches!(rotated, Rotated::Done { .. }),
            is_done,
        )
    }

    /// What the token may do, by the code that serves requests.
    pub(super) fn grant(
        world: &World,
        reader: &Reader,
        token: usize,
        scope: Option<u8>,
    ) -> Outcome<Result<Grant, Told>> {
        let Credential {
            presented,
            public_id,
        } = &world.credentials[token];
        let Some(record) = reader.token(public_id).must("a look-up")? else {
            return Ok(Err(Told::Unauthorized));
        };
        let name = scope.map(scope_name);
        let place = auth::Place {
            workspace: None,
            scope: name.as_deref(),
        };
        let recall = || AUTH.recall(presented, &record, place, now_ms());
        let grant = recall().and_then(|known| match known {
            None => AUTH
                .verify(presented, &record, now_ms())
                .and_then(|()| recall()),
            known => Ok(known),
        });
        Ok(match grant {
            Ok(grant) => Ok(grant.ok_or("it was verified just now")?),
            Err(_) => Err(Told::Unauthorized),
        })
    }

    pub(super) fn reader(&self) -> Outcome<Reader> {
        self.store.reader(Instant::now() + WAIT).must("a reader")
    }

    // Uploads.

    pub(super) fn upload(&self, number: u8) -> Option<usize> {
        let newest = || self.uploads.keys().last().copied();
        match number {
            u8::MAX => newest(),
            _ => pick(number, self.uploads.keys().copied()),
        }
    }

    /// The upload, if it is admitted.
    pub(super) fn begin(&mut self, world: &mut World, put: &Put) -> Outcome<Option<usize>> {
        let Some(token) = world.token(put.token) else {
            return Ok(None);
        };
        let scope = world.scope(token, put.url);
        let mut put = *put;
        if let (Some(more), Some(left)) = (put.beside_quota, world.model.left(token, scope)) {
            put.size = left.saturating_add_signed(more);
        }
        let put = &put;
        let expected = world.model.begin(token, scope, put.hash, put.size);
        let told = self.ask_to_put(world, token, scope, put)?;
        let (upload, told) = match told {
            Ok(upload) => (Some(upload), Told::Admitted),
            Err(told) => (None, told),
        };
        seen(format!("begin {told:?}"));
        same(
            "begin",
            told,
            expected.map_or_else(|told| told, |_| Told::Admitted),
        )?;
        let (Some(upload), Ok(place)) = (upload, expected) else {
            return Ok(None);
        };
        let number = self.next;
        self.next += 1;
        self.uploads.insert(number, upload);
        let Put {
            hash, size, seed, ..
        } = *put;
        let flight = Flight {
            place,
            hash,
            size,
            seed,
            writer: token,
            received: 0,
            number: None,
        };
        world.model.flights.insert(number, flight);
        Ok(Some(number))
    }

    pub(super) fn ask_to_put(
        &self,
        world: &World,
        token: usize,
        scope: Option<u8>,
        put: &Put,
    ) -> Outcome<Result<Upload<'s>, Told>> {
        let reader = self.reader()?;
        let grant = match Self::grant(world, &reader, token, scope)? {
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
    pub(super) fn append(&mut self, world: &mut World, number: usize, count: u64) -> Outcome {
        let Flight {
            seed,
            size,
            received,
            ..
        } = world.model.flights[&number];
        let bytes = world.bytes(seed, size);
        let mut bytes = &bytes.bytes[received as usize..];
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

    pub(super) fn finish(&mut self, world: &mut World, number: usize) -> Outcome {
        let upload = self.uploads.remove(&number).expect("it is there");
        let stored = told(upload.finish().must("finish")?);
        let expected = world.model.finish(number);
        seen(format!("finish {stored:?}"));
        same("finish", stored, expected)
    }

    pub(super) fn finish_short(&mut self, world: &mut World, number: u8) -> Outcome {
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
    pub(super) fn race(&mut self, world: &mut World, [first, second]: [u8; 2]) -> Outcome {
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
        let found = [
            told(stored_a.must("finish")?),
            told(stored_b.must("finish")?),
        ];
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
                seen("race");
                seen(format!("race {found:?}"));
                return Ok(());
            };
            wrong = error;
        }
        Err(wrong)
    }
}
