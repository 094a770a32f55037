//! What comes from others: licences, sources, versions, `unsafe`, and the papers that leave the house with a release.
//!
//! The rules are in `.ci/deny.toml`, which cargo-deny reads, too, where it is installed. What it says about licences,
//! sources and bans is held here for everybody, because building cargo-deny would cost the gate four minutes.
//! Advisories need its database; `.ci/run` looks them up where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A package that takes part in the build of a release, or of the tests.
struct Package {
    name: String,
    version: String,
    licence: String,
    /// Nothing for what is in this repository.
    source: Option<String>,
    directory: PathBuf,
}

impl Package {
    fn full_name(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// What cargo knows of everything it would build for this machine.
struct Packages {
    /// By their full names.
    all: BTreeMap<String, Package>,
    /// Those whose code is in the binary: no macros, no build scripts, no tests.
    linked: BTreeSet<String>,
}

/// Asked for once, for all tests.
static PACKAGES: LazyLock<Packages> = LazyLock::new(Packages::of_this_machine);

impl Packages {
    fn of_this_machine() -> Self {
        let rustc = Command::new("rustc").arg("-vV").output().expect("rustc");
        let said = String::from_utf8(rustc.stdout).expect("UTF-8");
        let machine = said.lines().find_map(|line| line.strip_prefix("host: "));
        let machine = machine.expect("a machine");
        let metadata = cargo(&[
            "metadata",
            "--format-version=1",
            "--filter-platform",
            machine,
        ]);
        let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
        let all = list(&metadata["packages"])
            .map(read)
            .map(|package| (package.full_name(), package));
        Self {
            all: all.collect(),
            linked: linked(machine),
        }
    }

    /// All but our own, as long as they take part.
    fn of_others(&self) -> impl Iterator<Item = &Package> {
        self.all
            .values()
            .filter(|package| package.name != "cachesrv")
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("a list").iter()
}

fn read(package: &Value) -> Package {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    let manifest = PathBuf::from(text("manifest_path").expect("a path"));
    Package {
        name: text("name").expect("a name"),
        version: text("version").expect("a version"),
        licence: text("license").unwrap_or_default(),
        source: text("source"),
        directory: manifest.parent().expect("a directory").to_owned(),
    }
}

/// The full names of what our package needs at run time. `cargo metadata` would add what only the tests' features need.
fn linked(machine: &str) -> BTreeSet<String> {
    let tree = cargo(&[
        "tree",
        "--edges=normal,no-proc-macro",
        "--target",
        machine,
        "--prefix=none",
        "--format={p}",
    ]);
    let name = |line: &str| {
        let (name, rest) = line.split_once(" v").expect("a version");
        let version = rest.split(' ').next().unwrap_or_default();
        format!("{name} {version}")
    };
    tree.lines().skip(1).map(name).collect()
}

fn cargo(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(arguments)
        .args(["--locked", "--offline"])
        .output()
        .expect("cargo");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    String::from_utf8(done.stdout).expect("UTF-8")
}

/// The rules that cargo-deny reads.
fn rules() -> toml::Table {
    let text = fs::read_to_string(root().join(".ci/deny.toml")).expect("the rules");
    text.parse().expect("TOML")
}

fn strings(value: &toml::Value, key: Option<&str>) -> Vec<String> {
    let list = value.as_array().expect("a list").iter();
    let of = |entry: &toml::Value| {
        key.map_or(entry, |key| &entry[key])
            .as_str()
            .map(str::to_owned)
    };
    list.map(|entry| of(entry).expect("a string")).collect()
}

/// Whether a licence expression can be met with these licences alone: `(MIT OR Apache-2.0) AND Unicode-3.0`.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    // The old way to write `OR`.
    let spaced = spaced.replace('/', " OR ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let is_met = any(&mut words, allowed);
    is_met && words.is_empty() && !expression.is_empty()
}

fn any(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut met = every(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        met |= every(words, allowed);
    }
    met
}

fn every(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    let mut met = one(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Vec<&str>, allowed: &[String]) -> bool {
    match words.pop() {
        Some("(") => {
            let met = any(words, allowed);
            words.pop() == Some(")") && met
        }
        Some(licence) if words.last() == Some(&"WITH") => {
            words.pop();
            let exception = words.pop().unwrap_or_default();
            allowed.contains(&format!("{licence} WITH {exception}"))
        }
        Some(licence) => allowed.iter().any(|other| other == licence),
        None => false,
    }
}

#[test]
fn licences_are_judged_as_they_are_meant() {
    let allowed = ["MIT", "ISC"].map(str::to_owned);
    for met in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "MIT AND ISC",
        "(GPL-3.0 OR ISC) AND MIT",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in [
        "",
        "GPL-3.0",
        "GPL-3.0 AND MIT",
        "MIT AND (GPL-3.0 OR AGPL-3.0)",
        "MIT WITH something",
        "(MIT",
        "MIT ISC",
    ] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let allowed = strings(&rules()["licenses"]["allow"], None);
    let packages = &*PACKAGES;
    let wrong: Vec<String> = packages
        .of_others()
        .filter(|package| !is_met(&package.licence, &allowed))
        .map(|package| format!("{}: '{}'", package.full_name(), package.licence))
        .collect();
    assert!(wrong.is_empty(), "not allowed by .ci/deny.toml: {wrong:#?}");
}

#[test]
fn every_dependency_comes_from_crates_io() {
    let packages = &*PACKAGES;
    for package in packages.of_others() {
        let name = package.full_name();
        assert_eq!(package.source.as_deref(), Some(CRATES_IO), "{name}");
    }
    // Each with a checksum, so that no other bytes can come under its name.
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let lock: toml::Table = lock.parse().expect("TOML");
    for package in lock["package"].as_array().expect("packages") {
        let is_ours = package["name"].as_str() == Some("cachesrv");
        assert_eq!(package.get("checksum").is_some(), !is_ours, "{package}");
    }
}

#[test]
fn nothing_banned_is_a_dependency_and_nothing_is_there_twice_without_a_reason() {
    let rules = rules();
    let banned = rules["bans"]["deny"].as_array().expect("a list");
    // What is for tests is named with who may need it.
    let is_for_tests = |ban: &&toml::Value| ban.get("wrappers").is_some();
    let banned_in = |linked: bool, package: &Package| {
        let mut bans = banned.iter().filter(|ban| linked || !is_for_tests(ban));
        bans.any(|ban| ban["crate"].as_str() == Some(&package.name))
    };
    let excused = strings(&rules["bans"]["skip"], Some("crate"));
    let packages = &*PACKAGES;
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages.of_others() {
        let name = package.full_name();
        let is_linked = packages.linked.contains(&name);
        assert!(!banned_in(is_linked, package), "{name}");
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    let is_excused = |name: &str, version: &str| {
        let matches = |rule: &String| {
            let (of, since) = rule.split_once('@').expect("a version");
            of == name && (version == since || version.starts_with(&format!("{since}.")))
        };
        excused.iter().any(matches)
    };
    for (name, versions) in versions {
        let unexcused = versions.iter().filter(|version| !is_excused(name, version));
        assert!(
            unexcused.count() <= 1,
            "{name} is there as {versions:?}: make it one, or say why in .ci/deny.toml"
        );
    }
}

#[test]
fn our_own_crate_forbids_unsafe_code() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    let level = manifest["lints"]["rust"]["unsafe_code"].as_str();
    // Unlike `deny`, no attribute in the sources can undo it.
    assert_eq!(level, Some("forbid"));
}

/// How often `unsafe` stands in Rust code, comments and strings aside.
fn unsafes(code: &str) -> usize {
    // The standard library's searches are fast in a debug build, too.
    if !code.contains("unsafe") {
        return 0;
    }
    let bytes = code.as_bytes();
    let is_word = |at: usize| {
        let byte = bytes.get(at).copied().unwrap_or_default();
        byte.is_ascii_alphanumeric() || byte == b'_'
    };
    let is_inside = |at: usize| at > 0 && is_word(at - 1);
    let (mut at, mut found) = (0, 0);
    while at < bytes.len() {
        // Nothing else can begin what is looked for.
        if !matches!(bytes[at], b'/' | b'"' | b'r' | b'\'' | b'u') {
            at += 1;
            continue;
        }
        at += match &bytes[at..] {
            [b'/', b'/', ..] => code[at..].find('\n').unwrap_or(bytes.len() - at),
            rest @ [b'/', b'*', ..] => comment(rest),
            rest @ [b'"', ..] => string(rest),
            rest @ [b'r', b'"' | b'#', ..] if !is_inside(at) => raw_string(rest),
            // `'"'` and `'\''`; all others look like lifetimes and do no harm.
            [b'\'', b'"', b'\'', ..] => 3,
            [b'\'', b'\\', _, b'\'', ..] => 4,
            rest if rest.starts_with(b"unsafe") && !is_inside(at) && !is_word(at + 6) => {
                found += 1;
                6
            }
            _ => 1,
        };
    }
    found
}

/// Up to the end of this, or of all.
fn until(bytes: &[u8], end: &[u8]) -> usize {
    let place = bytes.windows(end.len()).position(|window| window == end);
    place.map_or(bytes.len(), |place| place + end.len())
}

fn comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// `r#"…"#`, or the identifier `r#type`.
fn raw_string(bytes: &[u8]) -> usize {
    let signs = bytes[1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(1 + signs) != Some(&b'"') {
        return 1 + signs;
    }
    let end = [&b"\""[..], &b"#".repeat(signs)].concat();
    2 + signs + until(&bytes[2 + signs..], &end)
}

#[test]
fn unsafe_is_counted_in_code_only() {
    let code = r##"
        // unsafe
        /* unsafe /* unsafe */ unsafe */
        fn f<'a>(x: &'a str) -> char { let _ = "unsafe \" unsafe"; let _ = r#"unsafe " unsafe"#; '"' }
        unsafe fn g() { unsafe { h() } }
        fn unsafely() { not_unsafe(); '\'' }
        unsafe impl Send for T {}
    "##;
    assert_eq!(unsafes(code), 3);
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// A line for each linked crate with `unsafe` in its sources, the most first. Code for other systems counts, too.
fn table_of_unsafe() -> String {
    let packages = &*PACKAGES;
    let mut counts = Vec::new();
    for name in &packages.linked {
        let package = &packages.all[name];
        let files = rust_files(&package.directory.join("src"));
        let code = files.iter().map(|file| fs::read(file).expect("a source"));
        let count: usize = code
            .map(|code| unsafes(&String::from_utf8_lossy(&code)))
            .sum();
        counts.push((count, package.full_name()));
    }
    counts.sort_by_key(|(count, name)| (std::cmp::Reverse(*count), name.clone()));
    let (with, without): (Vec<_>, Vec<_>) = counts.into_iter().partition(|(count, _)| *count > 0);
    let lines = with
        .iter()
        .map(|(count, name)| format!("{count:6} {name}\n"));
    let lines: String = lines.collect();
    let sum: usize = with.iter().map(|(count, _)| count).sum();
    format!(
        "{lines}{sum:6} in {} crates; {} have none\n",
        with.len(),
        without.len()
    )
}

/// So that an update that brings more of it is seen by who reads the change.
#[test]
fn how_much_unsafe_code_is_linked_is_written_down() {
    let table = table_of_unsafe();
    println!("{table}");
    let written = fs::read_to_string(root().join(".ci/unsafe.txt")).unwrap_or_default();
    let (_, written) = written.split_once("\n\n").unwrap_or_default();
    if cfg!(target_arch = "x86_64") {
        assert!(
            written == table,
            "below its head .ci/unsafe.txt is not this:\n\n{table}"
        );
    }
}

fn sbom(what: &str) -> String {
    let done = Command::new(root().join("scripts/sbom.sh"))
        .arg(what)
        .env("SOURCE_DATE_EPOCH", "1790000000")
        .output()
        .expect("scripts/sbom.sh");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    String::from_utf8(done.stdout).expect("UTF-8")
}

#[test]
fn the_bill_of_materials_names_all_that_is_linked_and_is_the_same_each_time() {
    let text = sbom("bom");
    assert!(text == sbom("bom"), "two runs differ");
    let bom: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(bom["bomFormat"], "CycloneDX");
    assert_eq!(bom["metadata"]["timestamp"], "2026-09-21T14:13:20Z");
    assert_eq!(
        bom["metadata"]["component"]["version"],
        env!("CARGO_PKG_VERSION")
    );
    let required: BTreeSet<&str> = list(&bom["components"])
        .filter(|component| component["scope"] == "required")
        .map(|component| component["purl"].as_str().expect("a purl"))
        .collect();
    let packages = &*PACKAGES;
    let linked = packages.linked.iter().map(|name| &packages.all[name]);
    let purl = |package: &Package| format!("pkg:cargo/{}@{}", package.name, package.version);
    let mut expected: BTreeSet<String> = linked.map(purl).collect();
    // And what is no crate.
    let sqlite = format!("pkg:generic/sqlite@{}", rusqlite::version());
    assert!(required.contains(&sqlite[..]), "{required:?}");
    expected.extend(
        required
            .iter()
            .filter(|purl| purl.starts_with("pkg:generic/"))
            .map(|purl| (*purl).to_owned()),
    );
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    assert_eq!(required, expected);
    let refs: BTreeSet<&str> = list(&bom["dependencies"])
        .map(|entry| entry["ref"].as_str().expect("a ref"))
        .collect();
    for component in list(&bom["components"]).filter(|of| {
        of["purl"]
            .as_str()
            .is_some_and(|purl| purl.starts_with("pkg:cargo/"))
    }) {
        assert!(
            refs.contains(component["bom-ref"].as_str().expect("a ref")),
            "{component}"
        );
        assert_eq!(
            component["hashes"][0]["content"].as_str().map(str::len),
            Some(64),
            "{component}"
        );
    }
}

#[test]
fn the_notices_hold_a_text_for_all_that_is_linked() {
    let notices = sbom("notices");
    let squeezed = notices.split_whitespace().collect::<Vec<_>>().join(" ");
    let packages = &*PACKAGES;
    for name in &packages.linked {
        assert!(squeezed.contains(name), "{name}");
    }
    assert!(
        !notices.contains("without a text"),
        "a crate without a text of its licence"
    );
    assert!(notices.contains("GNU Lesser General Public License"));
}
