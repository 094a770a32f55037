//! Steps of the model test on what is stored: downloads, what takes entries away, and the file as a whole.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::super::cleaner::{Kept, Progress};
use super::super::tests::WAIT;
use super::super::*;
use super::play::{Download, Play, World};
use super::rules::{Entry as Known, Limits, Place, Sums, Token, Wanted, Within};
use super::steps::{Url, What};
use super::tools::*;
use crate::auth::read_chain;

impl Play<'_> {
    // Downloads.

    pub(super) fn get(
        &mut self,
        world: &mut World,
        token: u8,
        url: Url,
        hash: u8,
        stays_open: bool,
    ) -> Outcome {
        let Some(token) = world.token(token) else {
            return Ok(());
        };
        let scope = world.scope(token, url);
        let expected = world.model.get(token, scope, hash);
        let reader = self.reader()?;
        let grant = match Self::grant(world, &reader, token, scope)? {
            Ok(grant) => grant,
            Err(told) => return same("get", Err(told), expected),
        };
        let chain = read_chain(&grant);
        let found = reader
            .artifact(chain.scopes(), &hash.to_string())
            .must("a look-up")?;
        let (Some(artifact), Ok(Some(number))) = (found, expected) else {
            seen("get nothing");
            return same("get", Ok(found.map(|_| 0)), expected);
        };
        let kind = if grant.access() == Access::Isolated {
            ScopeKind::Isolated
        } else {
            ScopeKind::Trusted
        };
        let reading = self.store.begin_reading(&artifact, kind);
        drop(reader);
        let entry = world.model.entries[&number].clone();
        same(
            "the artifact",
            (artifact.id, artifact.size_bytes),
            (world.ids[&number], entry.size),
        )?;
        same(
            "the kind",
            artifact.kind == ScopeKind::Isolated,
            entry.place.1.is_some(),
        )?;
        if world.model.counts(token, number) {
            self.store.note_read(&artifact);
            self.store
                .read_times
                .flush(&self.store.writer, WAIT)
                .must("a note")?;
            world.model.note_read(number);
        }
        let Some(reading) = reading else {
            seen("get small");
            return self.chunks(world, &artifact, &entry, 0, u32::MAX);
        };
        let download = Download {
            artifact,
            number,
            entry,
            next: 0,
            _reading: reading,
        };
        seen(if stays_open {
            "get left open"
        } else {
            "get large"
        });
        let at = self.next;
        self.next += 1;
        self.downloads.insert(at, download);
        if !stays_open {
            self.read_on(world, at, u32::MAX)?;
            self.downloads.remove(&at);
        }
        Ok(())
    }

    pub(super) fn read(&mut self, world: &mut World, number: u8, chunks: u32) -> Outcome {
        match pick(number, self.downloads.keys().copied()) {
            Some(number) => self.read_on(world, number, chunks),
            None => Ok(()),
        }
    }

    /// Reads the next chunks of a download: its own bytes, whatever became of the entry.
    pub(super) fn read_on(&mut self, world: &mut World, number: usize, chunks: u32) -> Outcome {
        let Download {
            artifact,
            entry,
            next,
            number: entry_number,
            ..
        } = &self.downloads[&number];
        if !world.model.entries.contains_key(entry_number) {
            seen("read what is hidden");
        }
        let (artifact, entry, next) = (*artifact, entry.clone(), *next);
        self.chunks(world, &artifact, &entry, next, chunks)?;
        let download = self.downloads.get_mut(&number).expect("it is there");
        download.next = next.saturating_add(chunks).min(artifact.chunk_count());
        Ok(())
    }

    pub(super) fn chunks(
        &self,
        world: &mut World,
        artifact: &Artifact,
        entry: &Known,
        from: u32,
        count: u32,
    ) -> Outcome {
        let bytes = world.bytes(entry.seed, entry.size);
        let buffer = self
            .store
            .download_buffer(ScopeKind::Trusted, Instant::now() + WAIT);
        let mut buffer = buffer.must("a buffer")?;
        for sequence in from..from.saturating_add(count).min(artifact.chunk_count()) {
            let reader = self.reader()?;
            let chunk = reader
                .chunk(artifact, sequence, &mut buffer)
                .must("a chunk")?;
            let start = sequence as usize * CHUNK_BYTES;
            ensure!(
                chunk == &bytes.bytes[start..start + chunk.len()],
                "chunk {sequence} of {entry:?} has other bytes"
            );
        }
        Ok(())
    }

    // What goes.

    pub(super) fn purge(&mut self, world: &mut World, what: &What, is_dry: bool) -> Outcome {
        // What is hidden and not freed decides what a hash has led to.
        self.free(world)?;
        let Some((wanted, selection)) = self.wanted(world, what)? else {
            return Ok(());
        };
        let transitive = wanted.transitive;
        let purge = Purge {
            selection,
            transitive,
            dry_run: is_dry,
        };
        let purged = self
            .admin
            .purge(&purge, &AtomicBool::new(false), &mut |_| {})
            .must("purge")?;
        let expected = world.model.purge(&wanted, is_dry);
        let mut found: Sums<Place> = Sums::new();
        for (scope, sum) in &purged.scopes {
            let workspace = (0..3).find(|number| workspace_name(*number) == scope.workspace);
            let name = scope
                .name
                .as_ref()
                .and_then(|name| name.strip_prefix("pr-"));
            let place = (
                workspace.unwrap_or(9),
                name.map(|name| name.parse().unwrap_or(99)),
            );
            found.insert(place, (sum.artifacts, sum.size_bytes));
        }
        let kind = format!("{what:?}");
        let kind = kind.split(' ').next().unwrap_or_default();
        seen(format!(
            "purge {kind} transitive={transitive} {}",
            if expected.is_empty() {
                "nothing"
            } else {
                "some"
            }
        ));
        same("purge", found, expected)
    }

    pub(super) fn wanted(
        &self,
        world: &World,
        what: &What,
    ) -> Outcome<Option<(Wanted, Selection)>> {
        let mut wanted = Wanted {
            workspace: 0,
            scope: Within::All,
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
            What::Scope {
                workspace,
                scope,
                since,
            } => {
                wanted.workspace = world.workspace(workspace);
                wanted.scope = Within::One(scope);
                wanted.since = since.map(|ms| now - ms);
            }
            What::Hash {
                workspace,
                hash,
                is_transitive,
            } => {
                wanted.workspace = world.workspace(workspace);
                wanted.hash = Some(hash);
                wanted.transitive = is_transitive;
            }
            What::Token {
                token,
                is_transitive,
                hash,
            } => {
                let Some(token) = world
                    .token(token)
                    .filter(|token| world.model.tokens.contains_key(token))
                else {
                    return Ok(None);
                };
                wanted.workspace = world.model.tokens[&token].workspace;
                wanted.writers = Some(BTreeSet::from([token]));
                wanted.hash = hash;
                wanted.transitive = is_transitive;
            }
            What::Name {
                workspace,
                name,
                is_transitive,
            } => {
                wanted.workspace = world.workspace(workspace);
                let called =
                    |token: &Token| token.workspace == wanted.workspace && token.name == Some(name);
                let called = world.model.tokens.iter().filter(|(_, token)| called(token));
                wanted.writers = Some(called.map(|(number, _)| *number).collect());
                wanted.transitive = is_transitive;
            }
        }
        let selection = self.selection(world, &wanted, what)?;
        Ok(Some((wanted, selection)))
    }

    /// The same in the words of the store.
    fn selection(&self, world: &World, wanted: &Wanted, what: &What) -> Outcome<Selection> {
        let workspace = self.workspace_id(wanted.workspace)?;
        let writers = match (what, &wanted.writers) {
            (What::Name { name, .. }, _) => {
                let called = self
                    .admin
                    .tokens_called(workspace, &token_name(*name))
                    .must("tokens")?;
                same(
                    "tokens of a name",
                    Some(called.len()),
                    wanted.writers.as_ref().map(BTreeSet::len),
                )?;
                Some(called)
            }
            (_, Some(writers)) => {
                let ids = writers
                    .iter()
                    .map(|writer| &world.credentials[*writer].public_id);
                let tokens = ids.map(|id| self.admin.token(id).must("a token"));
                Some(
                    tokens
                        .filter_map(Result::transpose)
                        .collect::<Outcome<_>>()?,
                )
            }
            (_, None) => None,
        };
        let scopes = match wanted.scope {
            Within::All => ScopeChoice::All,
            Within::One(None) => ScopeChoice::Trusted,
            Within::One(Some(scope)) => {
                ScopeChoice::Isolated(Name::parse(&scope_name(scope)).unwrap())
            }
        };
        Ok(Selection {
            workspace,
            scopes,
            writers,
            since_ms: wanted.since,
            hash: wanted.hash.map(|hash| hash.to_string()),
        })
    }

    pub(super) fn limits(
        world: &World,
        percent: [u64; 2],
        age_ms: [Option<i64>; 2],
    ) -> (Limits, EvictionLimits) {
        let used = [false, true].map(|is_isolated| world.model.used(is_isolated));
        let bytes = [0, 1].map(|kind| used[kind] * percent[kind] / 100);
        let age = |ms: Option<i64>| ms.map_or(Duration::MAX, |ms| Duration::from_millis(ms as u64));
        let budget = |kind: usize| Budget {
            max_bytes: bytes[kind],
            max_age: age(age_ms[kind]),
        };
        let limits = EvictionLimits {
            trusted: budget(0),
            isolated: budget(1),
            min_free_disk_bytes: 0,
        };
        (Limits { bytes, age_ms }, limits)
    }

    pub(super) fn evict(
        &mut self,
        world: &mut World,
        percent: [u64; 2],
        age_ms: [Option<i64>; 2],
        is_dry: bool,
    ) -> Outcome {
        let (rules, limits) = Self::limits(world, percent, age_ms);
        let gc = Gc {
            limits,
            dry_run: is_dry,
        };
        let evicted = self
            .admin
            .evict(&gc, &AtomicBool::new(false), &mut |_| {})
            .must("gc")?;
        let expected = world.model.evict(&rules, is_dry);
        same_evicted("gc", &evicted, &expected)
    }

    pub(super) fn tick(&mut self, world: &mut World, percent: [u64; 2]) -> Outcome {
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
    pub(super) fn free(&mut self, world: &mut World) -> Outcome {
        self.store.leftovers.condemn(&self.store.writer, WAIT);
        let kept = Arc::new(Kept::new(Arc::clone(&self.store.readings)));
        loop {
            let kept = Arc::clone(&kept);
            let cleaned = on_writer(self.store, move |connection| {
                cleaner::clean(connection, i64::MAX, &kept)
            });
            if cleaned.must("the cleaner")? == Progress::Done {
                break;
            }
        }
        let read: BTreeSet<u64> = self
            .downloads
            .values()
            .map(|download| download.number)
            .collect();
        world.model.free(&read);
        let hidden =
            self.numbers("SELECT id FROM artifacts WHERE state = 'condemned' ORDER BY id")?;
        let expected: Vec<i64> = world
            .model
            .hidden
            .keys()
            .map(|number| world.ids[number])
            .collect();
        same("hidden artifacts", hidden, expected)?;
        let kept = world
            .model
            .entries
            .values()
            .chain(world.model.hidden.values());
        let expected: u64 = kept
            .map(|entry| entry.size.div_ceil(CHUNK_BYTES as u64))
            .sum();
        let chunks = "SELECT count(*) FROM chunks WHERE id >> 20 NOT IN (SELECT id FROM artifacts WHERE state = 'uploading')";
        same(
            "chunks of entries",
            self.numbers(chunks)?,
            vec![expected as i64],
        )?;
        let begun = world
            .model
            .flights
            .values()
            .filter(|flight| flight.number.is_some())
            .count();
        let uploading = "SELECT count(*) FROM artifacts WHERE state = 'uploading'";
        same(
            "uploads in the file",
            self.numbers(uploading)?,
            vec![begun as i64],
        )
    }

    pub(super) fn quarantine(
        &mut self,
        world: &mut World,
        token: u8,
        url: Url,
        hash: u8,
    ) -> Outcome {
        let Some(token) = world.token(token) else {
            return Ok(());
        };
        let scope = world.scope(token, url);
        let Ok(Some(number)) = world.model.get(token, scope, hash) else {
            return Ok(());
        };
        let reader = self.reader()?;
        let Ok(grant) = Self::grant(world, &reader, token, scope)? else {
            return Err("it was granted".to_owned());
        };
        let found = reader
            .artifact(read_chain(&grant).scopes(), &hash.to_string())
            .must("a look-up")?;
        drop(reader);
        let artifact = found.ok_or("it is not there")?;
        for expected in [true, false] {
            same(
                "quarantine",
                self.store.quarantine(&artifact).must("quarantine")?,
                expected,
            )?;
        }
        let entry = world.model.entries.remove(&number).expect("it is there");
        world.model.hidden.insert(number, entry);
        Ok(())
    }

    // The file.

    pub(super) fn backup(&mut self, world: &mut World) -> Outcome {
        let name = format!("{}.backup", world.backups.len());
        let destination = self.path.parent().unwrap().parent().unwrap().join(name);
        let request = BackupRequest {
            destination: &destination,
            replace: true,
            floor_bytes: 0,
        };
        let made = self
            .store
            .backups()
            .make(request, &Arc::default())
            .must("backup")?;
        same("left out", (made.left_out, made.damaged.len()), (0, 0))?;
        same(
            "copied",
            made.copied.entries,
            world.model.entries.len() as u64,
        )?;
        ensure!(made.unrecorded.is_none(), "{:?}", made.unrecorded);
        let (model, ids) = (world.model.at_rest(), world.ids.clone());
        world.backups.push((destination, model, ids));
        seen("backup");
        Ok(())
    }

    /// The files as a process that dies at this moment leaves them: the log first, for what is folded meanwhile is
    /// in it, too.
    pub(super) fn crash(&mut self) -> Outcome<PathBuf> {
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

    pub(super) fn verify(&self) -> Outcome {
        let verifier = Verifier::open(self.path).must("verify")?;
        let verdict = verifier
            .run(false, &Arc::default(), &mut |_| {})
            .must("verify")?;
        ensure!(verdict.is_ok(), "verify finds {:?}", verdict.findings);
        seen("verify");
        Ok(())
    }

    /// Nothing is promised, held or read any more.
    pub(super) fn is_at_rest(&self) -> Outcome {
        let space = format!("{:?}", self.store.space);
        ensure!(
            space.contains(" trusted_bytes: 0, isolated_bytes: 0,"),
            "promised: {space}"
        );
        let quotas = format!("{:?}", self.store.quotas);
        ensure!(
            quotas.contains("scopes: {}, workspaces: {}"),
            "promised: {quotas}"
        );
        let readings = format!("{:?}", self.store.readings);
        ensure!(readings.contains("data: {},"), "read: {readings}");
        Ok(())
    }
}

pub(super) fn same_evicted(
    what: &str,
    evicted: &Evicted,
    expected: &Sums<(bool, &'static str)>,
) -> Outcome {
    let sums = evicted.sums();
    let found: Sums<(bool, &str)> = sums
        .map(|(kind, reason, sum)| {
            (
                (kind == ScopeKind::Isolated, reason.as_str()),
                (sum.artifacts, sum.size_bytes),
            )
        })
        .collect();
    for (is_isolated, reason) in found.keys() {
        seen(format!("{what} isolated={is_isolated} {reason}"));
    }
    same(what, &found, expected)
}
