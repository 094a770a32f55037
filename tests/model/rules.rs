//! What the store must do, said a second time in plain maps: the model of the model test. It knows nothing of
//! SQL, threads, chunks or files, and takes nothing from the code it is held against.

use std::collections::{BTreeMap, BTreeSet};

/// What an entry counts against a budget beside its bytes.
const ROW_BYTES: u64 = 512;

const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    Read,
    Write,
    Isolated,
    WriteOnly,
}

/// A scope of a workspace: the trusted one, or an isolated one by its number.
pub type Place = (usize, Option<u8>);

#[derive(Debug, Clone)]
pub struct Token {
    pub workspace: usize,
    pub may: May,
    pub bound: Option<u8>,
    pub name: Option<u8>,
    pub expires: Option<i64>,
    pub is_revoked: bool,
    pub replaced_by: Option<usize>,
    /// The first entry that it stored, there or gone.
    pub first: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub place: Place,
    pub hash: u8,
    pub size: u64,
    pub seed: u64,
    pub writer: usize,
    pub created: i64,
    pub read: i64,
}

/// An upload that was admitted.
#[derive(Debug, Clone)]
pub struct Flight {
    pub place: Place,
    pub hash: u8,
    pub size: u64,
    pub seed: u64,
    pub writer: usize,
    pub received: u64,
    /// Its number among entries, once a part of it is in the file.
    pub number: Option<u64>,
}

/// What a request is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    Unauthorized,
    Forbidden,
    OverScope,
    OverWorkspace,
    Exists,
    /// The token died during the upload.
    Died,
    Admitted,
    Stored,
}

/// Which scopes of a workspace are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    All,
    One(Option<u8>),
}

/// What a purge means.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub workspace: usize,
    pub scope: Within,
    pub writers: Option<BTreeSet<usize>>,
    pub since: Option<i64>,
    pub hash: Option<u8>,
    pub transitive: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of trusted entries, of isolated ones.
    pub bytes: [u64; 2],
    pub age_ms: [Option<i64>; 2],
}

pub type Sums<K> = BTreeMap<K, (u64, u64)>;

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub now: i64,
    /// Of one isolated scope, and of all of a workspace.
    pub quota: (u64, u64),
    pub workspaces: usize,
    pub tokens: BTreeMap<usize, Token>,
    /// By the order in which their first byte came into the file.
    pub entries: BTreeMap<u64, Entry>,
    /// Hidden, and not freed yet.
    pub hidden: BTreeMap<u64, Entry>,
    pub flights: BTreeMap<usize, Flight>,
    /// By day, kind and reason.
    pub evicted: Sums<(i64, bool, &'static str)>,
    pub next: u64,
}

impl Token {
    pub fn lives(&self, now: i64) -> bool {
        !self.is_revoked && self.expires.is_none_or(|expires| now < expires)
    }
}

impl Model {
    // Who may do what.

    /// The token, and its own scope if it is isolated, where it may be used at a URL that names `scope`.
    fn admitted(&self, token: usize, scope: Option<u8>) -> Option<(&Token, Option<u8>)> {
        let token = self
            .tokens
            .get(&token)
            .filter(|token| token.lives(self.now))?;
        match (token.may, token.bound, scope) {
            (May::Isolated, None, Some(named)) => Some((token, Some(named))),
            (May::Isolated, Some(bound), None) => Some((token, Some(bound))),
            (May::Isolated, Some(bound), Some(named)) if bound == named => {
                Some((token, Some(bound)))
            }
            (May::Isolated, ..) | (_, _, Some(_)) => None,
            (_, _, None) => Some((token, None)),
        }
    }

    fn at(&self, place: Place, hash: u8) -> Option<u64> {
        let found = |(_, entry): &(&u64, &Entry)| entry.place == place && entry.hash == hash;
        self.entries.iter().find(found).map(|(number, _)| *number)
    }

    /// The entry that a GET is answered with; `Err` for one that is refused.
    pub fn get(&self, token: usize, scope: Option<u8>, hash: u8) -> Result<Option<u64>, Told> {
        let (token, own) = self.admitted(token, scope).ok_or(Told::Unauthorized)?;
        let trusted = (token.workspace, None);
        Ok(match (token.may, own) {
            (May::WriteOnly, _) => None,
            (May::Isolated, own) => self
                .at(trusted, hash)
                .or_else(|| self.at((token.workspace, own), hash)),
            (May::Read | May::Write, _) => self.at(trusted, hash),
        })
    }

    /// Whether a GET by this token of this entry counts for the order of eviction.
    pub fn counts(&self, token: usize, number: u64) -> bool {
        self.tokens[&token].may != May::Isolated || self.entries[&number].place.1.is_some()
    }

    pub fn note_read(&mut self, number: u64) {
        let now = self.now;
        let entry = self.entries.get_mut(&number).expect("it is there");
        let precision = (now.abs_diff(entry.created) / 16).min(600_000);
        if now.abs_diff(entry.read) > precision {
            entry.read = now;
        }
    }

    // Uploads.

    pub fn begin(
        &self,
        token: usize,
        scope: Option<u8>,
        hash: u8,
        size: u64,
    ) -> Result<Place, Told> {
        let (token, own) = self.admitted(token, scope).ok_or(Told::Unauthorized)?;
        if token.may == May::Read {
            return Err(Told::Forbidden);
        }
        let place = (token.workspace, own);
        if place.1.is_some() {
            let promised = |is_meant: &dyn Fn(Place) -> bool| -> u64 {
                let flights = self
                    .flights
                    .values()
                    .filter(|flight| flight.place.1.is_some());
                flights
                    .filter(|flight| is_meant(flight.place))
                    .map(|flight| flight.size)
                    .sum()
            };
            self.within_quota(
                place,
                size,
                promised(&|other| other == place),
                promised(&|other| other.0 == place.0),
            )?;
        }
        self.is_free(place, hash)?;
        Ok(place)
    }

    fn within_quota(
        &self,
        place: Place,
        size: u64,
        in_scope: u64,
        in_workspace: u64,
    ) -> Result<(), Told> {
        let stored = |is_meant: &dyn Fn(Place) -> bool| -> u64 {
            let entries = self
                .entries
                .values()
                .filter(|entry| entry.place.1.is_some());
            entries
                .filter(|entry| is_meant(entry.place))
                .map(|entry| entry.size)
                .sum()
        };
        let size = size.max(1);
        if stored(&|other| other == place) + in_scope + size > self.quota.0 {
            Err(Told::OverScope)
        } else if stored(&|other| other.0 == place.0) + in_workspace + size > self.quota.1 {
            Err(Told::OverWorkspace)
        } else {
            Ok(())
        }
    }

    /// What the quotas leave to an isolated token, in bytes.
    pub fn left(&self, token: usize, scope: Option<u8>) -> Option<u64> {
        let (token, own) = self.admitted(token, scope)?;
        own?;
        let stored = self.entries.values().map(|entry| (entry.place, entry.size));
        let flights = self
            .flights
            .values()
            .map(|flight| (flight.place, flight.size));
        let isolated: Vec<(Place, u64)> = stored
            .chain(flights)
            .filter(|(place, _)| place.0 == token.workspace && place.1.is_some())
            .collect();
        let all: u64 = isolated.iter().map(|(_, size)| size).sum();
        let in_own = isolated.iter().filter(|(place, _)| place.1 == own);
        let in_own: u64 = in_own.map(|(_, size)| size).sum();
        Some((self.quota.0.saturating_sub(in_own)).min(self.quota.1.saturating_sub(all)))
    }

    fn is_free(&self, place: Place, hash: u8) -> Result<(), Told> {
        let is_taken = self.at(place, hash).is_some() || self.at((place.0, None), hash).is_some();
        if is_taken { Err(Told::Exists) } else { Ok(()) }
    }

    /// Takes a number where the upload has brought more than a batch.
    pub fn receive(&mut self, upload: usize, count: u64) {
        let flight = self.flights.get_mut(&upload).expect("it is there");
        flight.received += count;
        if flight.number.is_none() && flight.received >= 1 << 20 && flight.size > 1 << 20 {
            flight.number = Some(self.next);
            self.next += 1;
        }
    }

    pub fn finish(&mut self, upload: usize) -> Told {
        let flight = self.flights.remove(&upload).expect("it is there");
        let Flight {
            place,
            hash,
            size,
            seed,
            writer,
            ..
        } = flight;
        let is_alive = self
            .tokens
            .get(&writer)
            .is_some_and(|token| token.lives(self.now));
        if !is_alive {
            return Told::Died;
        }
        if place.1.is_some()
            && let Err(told) = self.within_quota(place, size, 0, 0)
        {
            return told;
        }
        if let Err(told) = self.is_free(place, hash) {
            return told;
        }
        let number = flight.number.unwrap_or(self.next);
        self.next += u64::from(flight.number.is_none());
        let now = self.now;
        let entry = Entry {
            place,
            hash,
            size,
            seed,
            writer,
            created: now,
            read: now,
        };
        self.entries.insert(number, entry);
        let token = self.tokens.get_mut(&writer).expect("it lives");
        token.first = token.first.or(Some(number));
        Told::Stored
    }

    // Entries that go.

    fn hide(&mut self, number: u64) -> Entry {
        let entry = self.entries.remove(&number).expect("it is there");
        self.hidden.insert(number, entry.clone());
        entry
    }

    /// Frees what is hidden but for what is being read.
    pub fn free(&mut self, read: &BTreeSet<u64>) {
        self.hidden.retain(|number, _| read.contains(number));
    }

    pub fn purge(&mut self, wanted: &Wanted, is_dry: bool) -> Sums<Place> {
        let mut sums = Sums::new();
        for number in self.meant(wanted) {
            let entry = if is_dry {
                self.entries[&number].clone()
            } else {
                self.hide(number)
            };
            let sum: &mut (u64, u64) = sums.entry(entry.place).or_default();
            *sum = (sum.0 + 1, sum.1 + entry.size);
        }
        sums
    }

    fn meant(&self, wanted: &Wanted) -> Vec<u64> {
        let is_by = |entry: &Entry| {
            wanted
                .writers
                .as_ref()
                .is_none_or(|writers| writers.contains(&entry.writer))
        };
        let suspects = self.suspects(wanted);
        let is_meant = |(number, entry): &(&u64, &Entry)| {
            let is_there = entry.place.0 == wanted.workspace
                && [Within::All, Within::One(entry.place.1)].contains(&wanted.scope);
            if !wanted.transitive {
                return is_there
                    && is_by(entry)
                    && wanted.since.is_none_or(|since| entry.created >= since)
                    && wanted.hash.is_none_or(|hash| entry.hash == hash);
            }
            // Isolated builds read the trusted scope and their own, trusted builds the trusted one.
            let from = |is_isolated: bool| {
                let some = suspects
                    .iter()
                    .filter(|(_, of_isolated)| is_isolated || !of_isolated);
                some.map(|(number, _)| *number).min()
            };
            let is_suspect = from(entry.place.1.is_some()).is_some_and(|from| **number >= from);
            is_there && (is_suspect || (wanted.hash.is_none() && is_by(entry)))
        };
        self.entries
            .iter()
            .filter(is_meant)
            .map(|(number, _)| *number)
            .collect()
    }

    /// Where the evil may have begun: the numbers of entries, and whether they are isolated.
    fn suspects(&self, wanted: &Wanted) -> Vec<(u64, bool)> {
        let is_by = |writer: &usize| {
            wanted
                .writers
                .as_ref()
                .is_none_or(|writers| writers.contains(writer))
        };
        let Some(hash) = wanted.hash else {
            let tokens = self.tokens.iter().filter(|(number, _)| is_by(number));
            let first = |token: &Token| Some((token.first?, token.may == May::Isolated));
            return tokens.filter_map(|(_, token)| first(token)).collect();
        };
        let entries = self.entries.iter().chain(&self.hidden);
        let is_meant = |entry: &Entry| {
            entry.place.0 == wanted.workspace && entry.hash == hash && is_by(&entry.writer)
        };
        let meant = entries.filter(|(_, entry)| is_meant(entry));
        meant
            .map(|(number, entry)| (*number, entry.place.1.is_some()))
            .collect()
    }

    /// Bytes that the entries of a kind count.
    pub fn used(&self, is_isolated: bool) -> u64 {
        let of_kind = self
            .entries
            .values()
            .filter(|entry| entry.place.1.is_some() == is_isolated);
        of_kind.map(|entry| entry.size + ROW_BYTES).sum()
    }

    /// The least recently read go first: by age, and from above 95 % of a budget down to 90 %.
    pub fn evict(&mut self, limits: &Limits, is_dry: bool) -> Sums<(bool, &'static str)> {
        let mut sums = Sums::new();
        for is_isolated in [false, true] {
            let (bytes, age) = (
                limits.bytes[usize::from(is_isolated)],
                limits.age_ms[usize::from(is_isolated)],
            );
            let part = |percent: u128| (u128::from(bytes) * percent / 100) as u64;
            let mut used = self.used(is_isolated);
            let keep = if used > part(95) { part(90) } else { u64::MAX };
            let of_kind = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.place.1.is_some() == is_isolated);
            let mut order: Vec<(i64, u64)> = of_kind
                .map(|(number, entry)| (entry.read, *number))
                .collect();
            order.sort_unstable();
            for (read, number) in order {
                let is_old = age.is_some_and(|age| read < self.now - age);
                let reason = match (is_old, used > keep) {
                    (true, _) => "age",
                    (false, true) => "size",
                    (false, false) => break,
                };
                let size = self.entries[&number].size;
                used -= size + ROW_BYTES;
                let sum: &mut (u64, u64) = sums.entry((is_isolated, reason)).or_default();
                *sum = (sum.0 + 1, sum.1 + size);
                if !is_dry {
                    self.hide(number);
                    let day = self.now.div_euclid(DAY_MS);
                    let sum = self.evicted.entry((day, is_isolated, reason)).or_default();
                    *sum = (sum.0 + 1, sum.1 + size);
                }
            }
        }
        sums
    }

    // Tokens.

    pub fn name_is_taken(&self, workspace: usize, name: Option<u8>) -> bool {
        let is_in_the_way = |token: &Token| {
            token.workspace == workspace
                && token.name == name
                && token.replaced_by.is_none()
                && token.lives(self.now)
        };
        name.is_some() && self.tokens.values().any(is_in_the_way)
    }

    /// Revokes the token, or all of a name; how many.
    pub fn revoke(&mut self, is_meant: impl Fn(usize, &Token) -> bool) -> usize {
        let meant = self
            .tokens
            .iter_mut()
            .filter(|(number, token)| is_meant(**number, token));
        meant
            .map(|(_, token)| usize::from(!std::mem::replace(&mut token.is_revoked, true)))
            .sum()
    }

    /// Puts `new` in the place of `old`; whether that could be done. Until `overlap` the old one may go on, and all
    /// that it has replaced.
    pub fn rotate(
        &mut self,
        old: usize,
        new: usize,
        expires: Option<i64>,
        overlap: Option<i64>,
    ) -> bool {
        let Some(found) = self
            .tokens
            .get(&old)
            .filter(|token| token.lives(self.now) && token.replaced_by.is_none())
        else {
            return false;
        };
        let successor = Token {
            expires,
            first: None,
            ..found.clone()
        };
        self.tokens.insert(new, successor);
        self.tokens.get_mut(&old).expect("found").replaced_by = Some(new);
        let mut chain = BTreeSet::from([new]);
        let now = self.now;
        for (number, token) in self.tokens.iter_mut().rev() {
            if token.replaced_by.is_some_and(|by| chain.contains(&by)) {
                chain.insert(*number);
                match overlap {
                    _ if !token.lives(now) => {}
                    None => token.is_revoked = true,
                    Some(until) => {
                        let sooner = token.expires.map_or(until, |expires| expires.min(until));
                        token.expires = Some(sooner);
                    }
                }
            }
        }
        true
    }

    // The file.

    /// What is left after a crash, or in a backup.
    pub fn at_rest(&self) -> Self {
        Self {
            flights: BTreeMap::new(),
            hidden: BTreeMap::new(),
            ..self.clone()
        }
    }
}
