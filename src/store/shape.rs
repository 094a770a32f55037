//! Whether a file that was opened is shaped as the migrations make it: its tables, indexes and triggers to the
//! letter, no view and nothing of others, each with pages of its own, and what the header says for good.
//!
//! Everything in the schema is a promise (a trigger that guards who stores what) or could break one (a trigger
//! that promotes entries, a view in the place of a table). So whoever opens a database asks here before it reads
//! a row, and one that differs is not used. No entry is read, so it costs the same whatever is stored.

use std::path::Path;
use std::sync::OnceLock;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::connection::PAGE_SIZE_BYTES;
use super::error::{OpenError, StoreError};
use super::schema::{self, APPLICATION_ID};

/// Objects beyond ours that are looked at: of a schema with thousands of them one is enough to say no.
const FOREIGN_MAX: usize = 100;

/// Those that there are, and the empty one.
const VERSIONS: usize = schema::VERSION as usize + 1;

/// What an administrator's `ANALYZE` leaves: numbers for SQLite's planner, which decide how long a query takes
/// and never what it finds. And two tables that Litestream makes in what it replicates, which refer to nothing.
const HARMLESS: [(&str, &str); 4] = [
    ("sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"),
    (
        "sqlite_stat4",
        "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
    ),
    (
        "_litestream_seq",
        "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)",
    ),
    (
        "_litestream_lock",
        "CREATE TABLE _litestream_lock (id INTEGER)",
    ),
];

/// Something that the schema consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// `table`, `index`, `trigger` or `view`.
    pub kind: String,
    pub name: String,
    /// The table that it belongs to.
    pub table: String,
    /// What makes it; empty for what a table brings with it.
    pub sql: String,
    root_page: i64,
}

impl Object {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            kind: text(row.get_ref(0)?),
            name: text(row.get_ref(1)?),
            table: text(row.get_ref(2)?),
            sql: text(row.get_ref(3)?),
            root_page: row.get_ref(4)?.as_i64().unwrap_or(0),
        })
    }

    /// What it is called in front of people.
    fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }

    fn is_same_thing(&self, other: &Self) -> bool {
        (&self.kind, &self.name) == (&other.kind, &other.name)
    }

    fn is_made_alike(&self, other: &Self) -> bool {
        (&self.table, &self.sql) == (&other.table, &other.sql)
    }

    fn is_harmless(&self) -> bool {
        let made = (self.name.as_str(), self.sql.as_str());
        match self.kind.as_str() {
            "table" => HARMLESS.contains(&made),
            _ => false,
        }
    }

    /// Whether SQLite makes it by itself, for a table of ours.
    pub fn is_of_sqlite(&self) -> bool {
        self.sql.is_empty() || self.name.starts_with("sqlite_")
    }
}

/// Whatever a damaged file has there.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
    }
}

/// All that a schema consists of.
pub(super) fn objects(connection: &Connection) -> Result<Vec<Object>, StoreError> {
    some_objects(connection, i64::MAX)
}

fn some_objects(connection: &Connection, limit: i64) -> Result<Vec<Object>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT type, name, tbl_name, sql, rootpage FROM sqlite_schema ORDER BY rowid LIMIT ?1",
    )?;
    let rows = statement.query_map([limit], Object::from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The objects of a schema version as the migrations make them, in their order. Made once in a process: a backup
/// opens several files.
pub(super) fn expected(version: u32) -> Result<&'static [Object], StoreError> {
    static MADE: [OnceLock<Vec<Object>>; VERSIONS] = [const { OnceLock::new() }; VERSIONS];
    let made = &MADE[version as usize];
    if made.get().is_none() {
        let mut connection = Connection::open_in_memory()?;
        schema::migrate_in_memory(&mut connection, version)?;
        let objects = objects(&connection)?;
        // Another thread may have been faster, with the same.
        let _ = made.set(objects);
    }
    Ok(made.get().map_or(&[], Vec::as_slice))
}

/// Something that is not as the migrations make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Difference {
    /// This is not there.
    Missing(Object),
    /// This is made in another way.
    Changed(Object),
    /// This is not of ours.
    Foreign(Object),
    /// What holds for the whole file, in words; and whether what is stored can be read all the same.
    File(String, bool),
}

impl Difference {
    /// Whether what is stored can be read all the same. A trigger does nothing to who only reads; a table that is
    /// another, or a view in its place, may say anything.
    fn spares_tables(&self) -> bool {
        match self {
            Self::Missing(object) | Self::Changed(object) => {
                object.kind != "table" && !object.is_of_sqlite()
            }
            // A name is there once, whatever it is the name of: where a view has ours, the table is missing.
            Self::Foreign(_) => true,
            Self::File(_, is_readable) => *is_readable,
        }
    }

    /// After "the database ...".
    fn words(&self) -> String {
        match self {
            Self::Missing(object) => format!("has no {}", object.title()),
            Self::Changed(object) => format!("has another {}", object.title()),
            Self::Foreign(object) => format!("has a {}, which is none of ours", object.title()),
            Self::File(what, _) => what.clone(),
        }
    }
}

/// All in which a database differs from what the migrations make of that version.
pub(super) fn differences(
    connection: &Connection,
    version: u32,
) -> Result<Vec<Difference>, StoreError> {
    let expected = expected(version)?;
    let limit = expected.len() + FOREIGN_MAX;
    let found = some_objects(connection, limit as i64)?;
    let mut differences = Vec::new();
    for object in expected {
        match found.iter().find(|other| other.is_same_thing(object)) {
            None => differences.push(Difference::Missing(object.clone())),
            Some(other) if !other.is_made_alike(object) => {
                differences.push(Difference::Changed(object.clone()));
            }
            Some(_) => {}
        }
    }
    for object in &found {
        let is_ours = expected.iter().any(|ours| ours.is_same_thing(object));
        if !is_ours && !object.is_harmless() {
            differences.push(Difference::Foreign(object.clone()));
        }
    }
    differences.extend(shared_pages(&found));
    differences.extend(of_file(connection)?);
    Ok(differences)
}

/// Two objects on the same pages: whoever writes one overwrites the other.
fn shared_pages(found: &[Object]) -> Option<Difference> {
    let with_pages = || found.iter().filter(|object| object.root_page != 0);
    let twice = with_pages().find_map(|object| {
        let is_other = |other: &&Object| *other != object && other.root_page == object.root_page;
        with_pages().find(is_other).map(|other| (object, other))
    });
    twice.map(|(object, other)| {
        let (one, other) = (object.title(), other.title());
        let what = format!("has {one} and {other} on the same pages");
        Difference::File(what, false)
    })
}

/// What was set before the first page was written, and what says whose the file is. The log may say something else
/// of it than the header that was looked at before: it may be the log of another file.
fn of_file(connection: &Connection) -> Result<Vec<Difference>, StoreError> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let encoding: String = connection.pragma_query_value(None, "encoding", |row| row.get(0))?;
    let mut differences = Vec::new();
    let mut differs =
        |what: String, is_readable| differences.push(Difference::File(what, is_readable));
    let application_id = number("application_id")?;
    if application_id != i64::from(APPLICATION_ID) {
        differs(
            format!("is marked as one of another program ({application_id})"),
            false,
        );
    }
    let page_bytes = number("page_size")?;
    if page_bytes != PAGE_SIZE_BYTES as i64 {
        differs(
            format!("has pages of {page_bytes} bytes, not of {PAGE_SIZE_BYTES}"),
            true,
        );
    }
    match number("auto_vacuum")? {
        INCREMENTAL => {}
        FULL => differs(
            "moves pages at every commit (auto_vacuum is FULL, not INCREMENTAL)".to_owned(),
            true,
        ),
        _ => differs(
            "cannot give free pages back (auto_vacuum is not INCREMENTAL)".to_owned(),
            true,
        ),
    }
    if encoding != "UTF-8" {
        differs(format!("has texts in {encoding}, not in UTF-8"), true);
    }
    Ok(differences)
}

/// What `PRAGMA auto_vacuum` says of a file that gives pages back when it is told to.
const INCREMENTAL: i64 = 2;

/// And of one that gives them back with each commit that frees some.
const FULL: i64 = 1;

/// Refuses a database that is not as the migrations make it.
pub(super) fn check(connection: &Connection, path: &Path, version: u32) -> Result<(), OpenError> {
    let differences =
        differences(connection, version).map_err(|error| OpenError::from_store(path, error))?;
    let Some(first) = differences.first() else {
        return Ok(());
    };
    let more = match differences.len() - 1 {
        0 => String::new(),
        1 => ", and 1 difference more".to_owned(),
        more => format!(", and {more} differences more"),
    };
    Err(OpenError::Altered {
        path: path.to_owned(),
        what: first.words() + &more,
        // A copy is made of the tables of this version only.
        is_readable: version == schema::VERSION && spare_tables(&differences),
    })
}

/// Whether what is stored can be read in spite of these.
pub(super) fn spare_tables(differences: &[Difference]) -> bool {
    differences.iter().all(Difference::spares_tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files in use were made by other releases, with other versions of SQLite, which has some of these texts rewritten
    /// by what it does for ALTER TABLE. They are compared to the letter, so they must stay what they were; should an
    /// upgrade of SQLite turn this red, every file in use would be refused by it. Digests, for the migrations have the
    /// texts.
    #[test]
    fn each_schema_version_is_to_the_letter_what_it_was_when_it_landed() {
        let landed = [
            "df43935c66a7027525394bf6da88b16af61d1430018976b95c8c1e530f6b7797",
            "201d4637baf9d9e34ce067c1195493790cd03a5e7cb169e22b1881ee76159436",
            "05a7e82fe1dd784f47982774e1e6664a445765bece2393bd94d11ae40c48b7f6",
        ];
        assert_eq!(landed.len(), schema::VERSION as usize, "one each");
        for (landed, version) in landed.into_iter().zip(1..) {
            let objects = expected(version).expect("the migrations");
            let text = |it: &Object| format!("-- {} of {}\n{};\n", it.title(), it.table, it.sql);
            let made: String = objects.iter().map(text).collect();
            let digest = blake3::hash(made.as_bytes()).to_hex();
            assert_eq!(digest.as_str(), landed, "version {version}:\n{made}");
        }
    }
}
