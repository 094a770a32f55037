//! Every kind of page of the database, damaged in every way, and read by everybody: each answer is the stored bytes
//! or nothing, never a wrong byte and never another scope's entry; nothing panics; and `verify` names the damage.
//!
//! In-process, by the store that the server uses, because that is ten times as many; a sample by the real binary.
//! Logs and files of others are in `damage_log.rs`, schemas in `hostile_schema.rs`.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, Once};

use cachesrv::store::{Admin, AsItIs, BackupRequest, SCHEMA_VERSION, Store, Stored, Verifier};
use support::pages::{Kind, PAGE, Pages, What};
use support::rich::{Rich, ask_everybody, get, never, options, put};
use support::{Dir, Random, noise, rounds};

static RICH: LazyLock<Rich> = LazyLock::new(Rich::new);
static PAGES: LazyLock<Pages> = LazyLock::new(|| Pages::of(&RICH.bytes));

/// What was said by threads that panicked, whoever caught it.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A way to damage a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// One bit, of any part that means something.
    Flip,
    /// One bit of what the tree is made of.
    FlipStructure,
    /// A few bytes in a row.
    Burst,
    Zeros,
    Ones,
    Noise,
    /// The file ends before the page, or in its middle.
    Cut,
    CutInside,
    /// The page and another have changed places.
    Swap,
    /// Another page is there, too.
    Copy,
    /// One of the same kind is there, too.
    CopySame,
    /// What was there at an earlier time.
    Stale,
}

const FAULTS: [Fault; 12] = [
    Fault::Flip,
    Fault::FlipStructure,
    Fault::Burst,
    Fault::Zeros,
    Fault::Ones,
    Fault::Noise,
    Fault::Cut,
    Fault::CutInside,
    Fault::Swap,
    Fault::Copy,
    Fault::CopySame,
    Fault::Stale,
];

/// One database that is damaged.
struct Case {
    file: Vec<u8>,
    kind: Kind,
    page: usize,
    fault: Fault,
    /// What a flipped bit was part of.
    part: Option<What>,
    text: String,
}

impl Case {
    /// `None` where the fault leaves the file as it was.
    fn new(kind: &str, fault: Fault, random: &mut Random) -> Option<Self> {
        let mut file = RICH.bytes.clone();
        let by_kind = PAGES.by_kind();
        let among =
            |pages: &[usize], random: &mut Random| pages[random.below(pages.len() as u64) as usize];
        let page = among(&by_kind[kind], random);
        let any = 1 + random.below((file.len() / PAGE) as u64) as usize;
        let begin = (page - 1) * PAGE;
        let (mut part, mut at) = (None, begin);
        let place = |page: usize| (page - 1) * PAGE..page * PAGE;
        match fault {
            Fault::Flip | Fault::FlipStructure | Fault::Burst => {
                let parts = PAGES.used[&page].iter();
                let parts: Vec<_> = parts
                    .filter(|part| fault != Fault::FlipStructure || part.what == What::Structure)
                    .filter(|part| !part.bytes.is_empty())
                    .collect();
                if parts.is_empty() {
                    return None;
                }
                let chosen = parts[random.below(parts.len() as u64) as usize];
                at += chosen.bytes.start + random.below(chosen.bytes.len() as u64) as usize;
                part = Some(chosen.what);
                if fault == Fault::Burst {
                    let end = (at + 1 + random.below(64) as usize).min(begin + PAGE);
                    let length = end - at;
                    file[at..end].copy_from_slice(&noise(random.number(), length));
                    part = None;
                } else {
                    file[at] ^= 1 << random.below(8);
                }
            }
            Fault::Zeros => file[place(page)].fill(0),
            Fault::Ones => file[place(page)].fill(0xff),
            Fault::Noise => file[place(page)].copy_from_slice(&noise(random.number(), PAGE)),
            Fault::Cut => file.truncate(begin),
            Fault::CutInside => file.truncate(begin + 1 + random.below(PAGE as u64 - 1) as usize),
            Fault::Swap => {
                let other = file[place(any)].to_vec();
                file.copy_within(place(page), (any - 1) * PAGE);
                file[place(page)].copy_from_slice(&other);
            }
            Fault::Copy => file.copy_within(place(any), begin),
            Fault::CopySame => {
                let other = among(&by_kind[kind], random);
                file.copy_within(place(other), begin);
            }
            Fault::Stale => {
                let older = RICH.older.get(place(page))?;
                file[place(page)].copy_from_slice(older);
            }
        }
        let text = format!(
            "{kind}: {fault:?} of page {page} at {} ({part:?}, other {any})",
            at - begin
        );
        (file != RICH.bytes).then(|| Self {
            file,
            kind: kind.to_owned(),
            page,
            fault,
            part,
            text,
        })
    }

    /// Whether rows of artifacts are on the page that nobody can look up any more, and no index has.
    fn is_of_condemned(&self) -> bool {
        let page = &RICH.bytes[(self.page - 1) * PAGE..self.page * PAGE];
        let mark = b"condemned-";
        self.kind == "artifacts leaf" && page.windows(mark.len()).any(|text| text == mark)
    }

    /// Whether nothing in the file tells what was there: content of free pages, or a value that is kept once.
    fn may_be_silent(&self) -> bool {
        if self.kind == "free leaf" {
            return true;
        }
        match self.fault {
            Fault::Flip => self.part.is_some_and(|part| {
                is_kept_once(&self.kind, part) || part == What::Divider || self.is_of_condemned()
            }),
            // A few bytes may do no more than one.
            Fault::Burst => true,
            Fault::Stale => matches!(
                self.kind.split(' ').next(),
                // An older page of a table whose rows say nothing of each other, nor others of them.
                Some(
                    "free"
                        | "map"
                        | "sqlite_sequence"
                        | "usage_by_day"
                        | "evictions_by_day"
                        | "backups"
                )
            ),
            Fault::CopySame | Fault::Copy | Fault::Swap => {
                matches!(self.kind.split(' ').next(), Some("free" | "map"))
            }
            _ => false,
        }
    }
}

/// Values that nothing else in the file repeats: whatever they say may have been stored. None of them decides
/// which bytes are served under which key.
fn is_kept_once(kind: &str, part: What) -> bool {
    let What::Column(column) = part else {
        // A type may become another of the same length: 0 and 1 are types of their own.
        return part == What::Types;
    };
    match kind {
        "workspaces leaf" => column == 2,
        "scopes leaf" => column == 4,
        "tokens leaf" => !matches!(column, 0 | 1),
        "artifacts leaf" => matches!(column, 6 | 8 | 9 | 10 | 11),
        "usage_by_day leaf" | "evictions_by_day leaf" => column > 2,
        "backups leaf" | "sqlite_sequence leaf" => true,
        "isolated_usage leaf" | "trusted_usage leaf" => column == 1,
        _ => false,
    }
}

/// Asks everybody for everything of a damaged database. What is wrong with the answers.
fn serve(path: &Path, random: &mut Random, text: &str) -> Vec<String> {
    let rich = &*RICH;
    let store = match Store::open(&options(path)) {
        Ok(store) => store,
        Err(error) => {
            let said = error.to_string();
            let is_clear = said.contains(&path.display().to_string()) && !said.contains('\n');
            return if is_clear {
                Vec::new()
            } else {
                vec![format!("{text}: refused by {said:?}")]
            };
        }
    };
    let mut wrong = Vec::new();
    let hashes = rich.hashes();
    for asker in &rich.askers {
        // A token's row may be gone: then it is refused.
        let Ok(grant) = rich.grant(&store, asker) else {
            continue;
        };
        for hash in &hashes {
            let expected = rich.expected(asker, hash);
            // All that there is, and some of what there is not.
            if expected.is_none() && random.below(8) > 0 {
                continue;
            }
            let Ok(reader) = store.reader(store.deadline()) else {
                continue;
            };
            if let Ok(Some(bytes)) = get(&reader, &grant, hash)
                && Some(&bytes[..]) != expected
            {
                let length = bytes.len();
                wrong.push(format!(
                    "{text}: {} was given {length} wrong bytes under {hash}",
                    asker.name
                ));
            }
        }
        for size in [100, 300_000] {
            let (hash, bytes) = (
                format!("new-{}-{size}", asker.name),
                noise(size as u64, size),
            );
            if put(&store, &grant, &hash, &bytes) == Ok(Stored::New)
                && let Ok(reader) = store.reader(store.deadline())
                && let Ok(Some(found)) = get(&reader, &grant, &hash)
                && found != bytes
            {
                wrong.push(format!("{text}: what {} stored is other bytes", asker.name));
            }
        }
    }
    let _ = store.has_live_tokens();
    let _ = store
        .reader(store.deadline())
        .map(|reader| reader.figures());
    wrong
}

/// Looks at a damaged database as the commands do; whether `verify` found anything, and what is wrong.
fn look(path: &Path, backup: Option<&Path>) -> (bool, Vec<String>) {
    let verdict = |is_quick| {
        let verifier = Verifier::open(path).ok()?;
        let verdict = verifier.run(is_quick, &never(), &mut |_| {});
        verdict.ok().map(|verdict| verdict.is_ok())
    };
    let _ = verdict(true);
    let is_sound = verdict(false) == Some(true);
    if let Ok(AsItIs::Ready(admin)) = Admin::open_as_it_is(path) {
        let second = std::time::Duration::from_secs(1);
        let _ = (
            admin.quick_look(second),
            admin.stored_sums(),
            admin.largest_entry_bytes(second),
        );
        let _ = (
            admin.newest_time(),
            admin.last_backup(),
            admin.isolated_above(0, 0),
        );
        let _ = (
            admin.tokens(),
            admin.workspaces(),
            admin.scopes(None),
            admin.held(None),
        );
        let _ = admin.usage_since(0, None);
    }
    let mut wrong = Vec::new();
    if let Some(backup) = backup
        && let Ok(mut admin) = Admin::open_to_copy(path)
    {
        let request = BackupRequest {
            destination: backup,
            replace: true,
            floor_bytes: 0,
        };
        let made = admin.backup(path, request, &never(), &mut |_| {});
        drop(admin);
        if made.is_ok() {
            let copy = Verifier::open(backup).expect("a backup");
            let verdict = copy.run(false, &never(), &mut |_| {}).expect("a verdict");
            if !verdict.is_ok() {
                wrong.push(format!("the backup is not sound: {:?}", verdict.findings));
            }
            drop(copy);
            let mut random = Random::of(1);
            wrong.extend(serve(backup, &mut random, "the backup"));
            let _ = fs::remove_file(backup);
        }
    }
    (!is_sound, wrong)
}

/// Remembers what panics, and says nothing.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let text = format!("{}: {panic}", thread.name().unwrap_or("?"));
            // A test that fails does so by a panic of its own.
            if text.contains("/src/") || text.contains("src/store") || text.contains("src/auth") {
                PANICS.lock().expect("a list").push(text);
            }
            before(panic);
        }));
    });
}

/// Every kind of page for which `is_chosen` times every fault, `rounds` times over; a failure names the case.
fn damage(is_chosen: impl Fn(&str) -> bool, usual: u64) {
    watch_panics();
    let mut random = Random::sample(1);
    let dir = tempfile::tempdir().expect("a directory");
    let (path, backup) = (dir.path().join("x.db"), dir.path().join("copy.db"));
    let kinds: Vec<&str> = PAGES
        .by_kind()
        .into_keys()
        .filter(|kind| is_chosen(kind))
        .collect();
    let all: Vec<(&str, Fault)> = kinds
        .iter()
        .flat_map(|kind| FAULTS.map(|fault| (*kind, fault)))
        .collect();
    let (mut wrong, mut silent) = (Vec::new(), BTreeMap::<String, u64>::new());
    let count = rounds(usual);
    let mut done = 0;
    // From a random one on, so that a short run is a sample of all.
    let begin = random.below(all.len() as u64);
    for round in 0..count {
        let step = round * (all.len() as u64 / count).max(1);
        let (kind, fault) = all[((begin + step) % all.len() as u64) as usize];
        let Some(case) = Case::new(kind, fault, &mut random) else {
            continue;
        };
        done += 1;
        wrong.extend(run(&case, &path, &backup, &mut random, &mut silent));
        assert!(wrong.len() < 20, "{wrong:#?}");
    }
    println!(
        "{done} cases of {} kinds of pages; not found by verify: {silent:#?}",
        kinds.len()
    );
    assert_eq!(wrong, Vec::<String>::new());
}

fn run(
    case: &Case,
    path: &Path,
    backup: &Path,
    random: &mut Random,
    silent: &mut BTreeMap<String, u64>,
) -> Vec<String> {
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{end}", path.display()));
    }
    write(path, &case.file);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // Copying is most of the work.
        let backup = (random.below(3) == 0).then_some(backup);
        let (is_found, mut wrong) = look(path, backup);
        if !is_found && !case.may_be_silent() {
            wrong.push("verify found nothing".to_owned());
        }
        if !is_found {
            let what = format!("{}: {:?} {:?}", case.kind, case.fault, case.part);
            *silent.entry(what).or_default() += 1;
        }
        write(path, &case.file);
        wrong.extend(serve(path, random, "the server"));
        wrong
    }));
    let mut wrong = outcome.unwrap_or_else(|_| vec!["it panicked".to_owned()]);
    wrong.extend(std::mem::take(&mut *PANICS.lock().expect("a list")));
    if !wrong.is_empty()
        && let Ok(keep) = std::env::var("CACHESRV_KEEP_DAMAGED")
    {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        fs::write(format!("{keep}/{number}.db"), &case.file).expect("a file");
        println!("{keep}/{number}.db: {}", case.text);
    }
    wrong
        .into_iter()
        .map(|wrong| format!("{}: {wrong}", case.text))
        .collect()
}

fn write(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, bytes).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a mode");
}

/// Otherwise the rest proves nothing.
#[test]
fn the_database_that_is_damaged_has_every_kind_of_page_and_is_sound() {
    let by_kind = PAGES.by_kind();
    let names: Vec<&str> = by_kind.keys().copied().collect();
    for (count, role) in [
        (12, " leaf"),
        (12, " interior"),
        (1, " overflow"),
        (1, "free trunk"),
        (1, "map"),
    ] {
        let found = names.iter().filter(|name| name.ends_with(role)).count();
        assert!(found >= count, "{found} of {role}: {names:?}");
    }
    println!(
        "{} pages: {:#?}",
        PAGES.kinds.len(),
        by_kind
            .iter()
            .map(|(kind, pages)| (*kind, pages.len()))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        SCHEMA_VERSION, 3,
        "has the database everything that this version has?"
    );
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.db");
    write(&path, &RICH.bytes);
    let (is_found, wrong) = look(&path, Some(&dir.path().join("copy.db")));
    assert!(!is_found && wrong.is_empty(), "{wrong:?}");
    let rich = &*RICH;
    let store = Store::open(&options(&path)).expect("a store");
    for asker in &rich.askers {
        let grant = rich.grant(&store, asker).expect("a grant");
        for hash in rich.hashes() {
            let reader = store.reader(store.deadline()).expect("a reader");
            let found = get(&reader, &grant, &hash).expect("it reads");
            assert!(found.as_deref() == rich.expected(asker, &hash), "{hash}");
        }
    }
}

#[test]
fn damaged_pages_of_tables_yield_no_wrong_byte() {
    damage(
        |kind| !kind.starts_with("index ") && !kind.starts_with("chunks"),
        50,
    );
}

#[test]
fn damaged_pages_of_indexes_and_chunks_yield_no_wrong_byte() {
    damage(
        |kind| kind.starts_with("index ") || kind.starts_with("chunks"),
        50,
    );
}

/// One bit of a row id in an index, and SQLite takes another row for the one that was asked for: of another entry,
/// another scope, another token. Nothing but the row itself can tell.
#[test]
fn an_index_that_leads_to_another_row_is_not_believed() {
    watch_panics();
    let mut random = Random::sample(1);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.db");
    let mut wrong = Vec::new();
    for (index, column) in [
        ("artifacts_by_key", 2),
        ("artifacts_by_key", 2),
        ("one_trusted_scope_in_each_workspace", 1),
        ("sqlite_autoindex_scopes_1", 2),
        ("sqlite_autoindex_tokens_1", 1),
        ("sqlite_autoindex_workspaces_1", 1),
        ("artifacts_to_clean_up", 2),
        ("artifacts_by_read", 2),
    ] {
        let by_kind = PAGES.by_kind();
        let mut file = RICH.bytes.clone();
        // The last bit, of each row id on some pages: neighbours change places, or nobody is there.
        for page in &by_kind[format!("index {index} leaf").as_str()] {
            let ids = PAGES.used[page]
                .iter()
                .filter(|part| part.what == What::Column(column) && !part.bytes.is_empty());
            for part in ids {
                file[(page - 1) * PAGE + part.bytes.end - 1] ^= 1 << random.below(3);
            }
        }
        assert!(file != RICH.bytes, "{index}");
        write(&path, &file);
        let (is_found, _) = look(&path, None);
        assert!(is_found, "{index}");
        write(&path, &file);
        wrong.extend(serve(&path, &mut random, index));
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(*PANICS.lock().expect("a list"), Vec::<String>::new());
}

/// Leaves in another order: rows come again after they were passed, and whoever goes on behind the last one goes in
/// circles.
#[test]
fn leaves_in_another_order_keep_nobody_going_in_circles() {
    watch_panics();
    let dir = tempfile::tempdir().expect("a directory");
    let (path, copy) = (dir.path().join("x.db"), dir.path().join("copy.db"));
    for kind in [
        "artifacts leaf",
        "chunks leaf",
        "scopes leaf",
        "tokens leaf",
    ] {
        let mut file = RICH.bytes.clone();
        let by_kind = PAGES.by_kind();
        let (first, last) = (by_kind[kind][1], by_kind[kind][by_kind[kind].len() - 2]);
        let before = file[(first - 1) * PAGE..first * PAGE].to_vec();
        file.copy_within((last - 1) * PAGE..last * PAGE, (first - 1) * PAGE);
        file[(last - 1) * PAGE..last * PAGE].copy_from_slice(&before);
        write(&path, &file);
        let (is_found, wrong) = look(&path, Some(&copy));
        assert!(is_found && wrong.is_empty(), "{kind}: {wrong:?}");
        write(&path, &file);
        assert_eq!(serve(&path, &mut Random::of(1), kind), Vec::<String>::new());
    }
    assert_eq!(*PANICS.lock().expect("a list"), Vec::<String>::new());
}

/// The length of an entry, at the border of its chunks: neither the checksum nor the length of a chunk tells.
#[test]
fn an_entry_that_lost_its_last_chunks_by_its_length_is_not_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.db");
    let digits = |size: u32| size.to_be_bytes()[1..].to_vec();
    for (from, to) in [
        (524_288, 262_144),
        (262_144, 0),
        (262_145, 262_144),
        (524_288, 0),
        (1, 0),
    ] {
        let mut file = RICH.bytes.clone();
        let mut changed = 0;
        for page in &PAGES.by_kind()["artifacts leaf"] {
            for part in PAGES.used[page]
                .iter()
                .filter(|part| part.what == What::Column(4))
            {
                let at = (page - 1) * PAGE + part.bytes.start;
                let length = part.bytes.len();
                if length == 3 && file[at..at + 3] == digits(from) {
                    file[at..at + 3].copy_from_slice(&digits(to));
                    changed += 1;
                }
            }
        }
        assert!(changed > 0 || from == 1, "{from}");
        write(&path, &file);
        let wrong = serve(&path, &mut Random::of(1), &format!("{from} to {to}"));
        assert_eq!(wrong, Vec::<String>::new());
    }
}

/// The same by the real server and the real commands.
#[test]
fn a_server_on_a_damaged_file_starts_and_lives_or_refuses_with_a_sentence() {
    let mut random = Random::sample(1);
    let kinds: Vec<&str> = PAGES.by_kind().into_keys().collect();
    for _ in 0..rounds(80) / 8 {
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
        let Some(case) = Case::new(kind, fault, &mut random) else {
            continue;
        };
        println!("{}", case.text);
        let dir = Dir::new();
        write(&dir.db(), &case.file);
        commands(&dir, &case);
        write(&dir.db(), &case.file);
        ask_everybody(&dir, &RICH, &case.text);
    }
}

fn commands(dir: &Dir, case: &Case) {
    for command in [
        &["verify"][..],
        &["verify", "--quick"],
        &["doctor"],
        &["token", "list"],
        &["stats"],
        &["backup", "copy.db", "--force"],
    ] {
        let said = dir.cli(command);
        assert!(matches!(said.code, Some(0 | 1)), "{}: {said:?}", case.text);
        assert!(!said.stderr.contains("panicked"), "{}: {said:?}", case.text);
        if command == ["verify"] && !case.may_be_silent() {
            assert_eq!(said.code, Some(1), "{}: {said:?}", case.text);
        }
    }
}
