//! The rules of the house, held by reading the sources: who may import whom, where SQL, statuses, the
//! environment and printing live, and what stands nowhere.
//!
//! A small lexer takes comments away and keeps strings apart from code, and `#[cfg(test)]` items are
//! cut out, so that a word in a comment, a message or a test is not mistaken for a breach. It knows
//! nothing of macros that build names; nobody here needs those. The checker is itself tested below
//! on snippets that break each rule.

use std::fmt;
use std::path::{Path, PathBuf};

/// Which modules of the crate each module may name. Arrows point down only; a module that is not listed
/// here is a breach, so that a new one gets its place on purpose.
const LAYERS: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("telemetry", &["units"]),
    ("http", &[]),
    ("config", &["units", "telemetry"]),
    ("cli", &["units", "config"]),
    ("store", &["units"]),
    ("auth", &["units", "store"]),
    ("server", &["units", "http", "telemetry"]),
    (
        "api",
        &["units", "http", "auth", "store", "telemetry", "config"],
    ),
    ("commands", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// Code, without strings and comments.
    Code,
    /// The insides of string literals.
    Strings,
}

/// Words that may stand in some modules only.
struct Rule {
    /// Why, for whoever breaks it.
    why: &'static str,
    /// The modules that may; everybody else may not.
    only_in: &'static [&'static str],
    look_at: Where,
    /// Each is a sequence of tokens; `#` stands for one of [`STATUSES`].
    forbidden: &'static [&'static str],
}

/// Numbers that mean nothing but a status. 200 or 500 may be anything.
const STATUSES: &[&str] = &[
    "401", "403", "404", "405", "406", "408", "409", "410", "411", "412", "413", "414", "415",
    "416", "417", "429", "431", "501", "502", "503", "504", "505",
];

const RULES: &[Rule] = &[
    Rule {
        why: "SQL lives in store/",
        only_in: &["store"],
        look_at: Where::Code,
        forbidden: &["rusqlite", "r2d2", "r2d2_sqlite", "libsqlite3_sys"],
    },
    Rule {
        why: "SQL lives in store/",
        only_in: &["store"],
        look_at: Where::Strings,
        forbidden: &[
            "SELECT",
            "INSERT INTO",
            "INSERT OR",
            "DELETE FROM",
            "CREATE TABLE",
            "CREATE INDEX",
            "ALTER TABLE",
            "DROP TABLE",
            "PRAGMA",
            "BEGIN IMMEDIATE",
            "VACUUM",
        ],
    },
    Rule {
        why: "statuses are for http/ and api/",
        only_in: &["http", "api"],
        look_at: Where::Code,
        forbidden: &["Status (", "Status ::", "StatusCode", "#"],
    },
    Rule {
        why: "scopes are chosen by read_chain and write_target in auth/grant.rs",
        only_in: &["auth", "store"],
        look_at: Where::Code,
        forbidden: &[
            "Scope :: Trusted",
            "Scope :: Isolated",
            "ScopeId (",
            "WorkspaceId (",
        ],
    },
    Rule {
        why: "the environment is read in config/",
        only_in: &["config"],
        look_at: Where::Code,
        forbidden: &[
            "std :: env",
            "env :: var",
            "env :: vars",
            "env :: var_os",
            "env :: vars_os",
        ],
    },
    Rule {
        why: "the environment is read at run time, and changed never",
        only_in: &[],
        look_at: Where::Code,
        forbidden: &["env :: set_var", "env :: remove_var", "option_env !"],
    },
    Rule {
        why: "printing is for commands/ and main.rs",
        only_in: &["commands", "main"],
        look_at: Where::Code,
        forbidden: &["println !", "print !", "eprintln !", "eprint !", "stdout ("],
    },
    Rule {
        why: "stderr is for the log, commands/ and main.rs",
        only_in: &["telemetry", "commands", "main"],
        look_at: Where::Code,
        forbidden: &["stderr ("],
    },
    Rule {
        why: "a process ends by returning from main",
        only_in: &[],
        look_at: Where::Code,
        forbidden: &["process :: exit", "process :: abort", "abort ("],
    },
    Rule {
        why: "not in this house",
        only_in: &[],
        look_at: Where::Code,
        forbidden: &[
            "unsafe",
            "dbg !",
            "todo !",
            "unimplemented !",
            ". unwrap (",
            "static mut",
        ],
    },
    Rule {
        why: "anyhow is for commands/ and main.rs; callers of the rest branch on errors",
        only_in: &["commands", "main"],
        look_at: Where::Code,
        forbidden: &["anyhow"],
    },
    Rule {
        why: "the command line is for cli.rs, commands/ and main.rs",
        only_in: &["cli", "commands", "main"],
        look_at: Where::Code,
        forbidden: &["clap"],
    },
];

/// A rule that a file breaks.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    place: String,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A source file as the rules see it.
struct Source<'t> {
    path: &'t str,
    text: &'t str,
    tokens: Vec<Token>,
}

/// A word, a number, a sign (`::` is one), or the inside of a string; with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    String,
}

/// Every breach in one file of `src/`; `path` is relative to it.
fn breaches(path: &str, text: &str) -> Vec<Breach> {
    let tokens = without_tests(&lex(text));
    let source = Source { path, text, tokens };
    let mut found = source.header();
    found.extend(source.words());
    found.extend(source.imports());
    found
}

impl Source<'_> {
    /// The top-level module: `store` for `store/model.rs`, `units` for `units.rs`.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many `super` lead from this file to the root of the crate.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        let is_root = matches!(self.path, "lib.rs" | "main.rs");
        if is_root {
            0
        } else {
            parts - usize::from(self.path.ends_with("/mod.rs"))
        }
    }

    fn breach(&self, line: usize, what: String) -> Breach {
        Breach {
            place: format!("src/{}:{line}", self.path),
            what,
        }
    }

    fn header(&self) -> Vec<Breach> {
        let documented = self.text.starts_with("//! ") || self.text.starts_with("#![doc");
        let what =
            || "a file opens with `//!`: what it owns and what it leaves to others".to_owned();
        if documented {
            Vec::new()
        } else {
            vec![self.breach(1, what())]
        }
    }

    fn words(&self) -> Vec<Breach> {
        let rules = RULES
            .iter()
            .filter(|rule| !rule.only_in.contains(&self.module()));
        rules.flat_map(|rule| self.broken(rule)).collect()
    }

    fn broken(&self, rule: &Rule) -> Vec<Breach> {
        let mut found = Vec::new();
        for forbidden in rule.forbidden {
            let lines = match rule.look_at {
                Where::Code => self.lines_with(forbidden),
                Where::Strings => self.lines_quoting(forbidden),
            };
            found.extend(
                lines
                    .iter()
                    .map(|line| self.breach(*line, format!("`{forbidden}`: {}", rule.why))),
            );
        }
        found
    }

    /// Lines where this sequence of tokens stands in code.
    fn lines_with(&self, sequence: &str) -> Vec<usize> {
        let sequence: Vec<&str> = sequence.split(' ').collect();
        let code: Vec<&Token> = self
            .tokens
            .iter()
            .filter(|token| token.kind == Kind::Code)
            .collect();
        let is_here = |window: &&[&Token]| {
            window
                .iter()
                .zip(&sequence)
                .all(|(token, word)| match *word {
                    "#" => STATUSES.contains(&token.text.as_str()),
                    word => token.text == word,
                })
        };
        code.windows(sequence.len())
            .filter(is_here)
            .map(|window| window[0].line)
            .collect()
    }

    /// Lines of the strings in which these words stand, as whole words.
    fn lines_quoting(&self, words: &str) -> Vec<usize> {
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let quotes = |text: &str| {
            let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
            squeezed.match_indices(words).any(|(at, _)| {
                let (before, after) = (&squeezed[..at], &squeezed[at + words.len()..]);
                !is_word(before.chars().next_back()) && !is_word(after.chars().next())
            })
        };
        let strings = self
            .tokens
            .iter()
            .filter(|token| token.kind == Kind::String);
        strings
            .filter(|token| quotes(&token.text))
            .map(|token| token.line)
            .collect()
    }

    fn imports(&self) -> Vec<Breach> {
        let module = self.module();
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            return vec![self.breach(
                1,
                format!("`{module}` has no place in LAYERS of tests/house.rs"),
            )];
        };
        let may = |name: &str| name == module || allowed.contains(&"*") || allowed.contains(&name);
        let named = self.modules_named();
        let wrong = named.iter().filter(|(name, _)| !may(name));
        wrong
            .map(|(name, line)| self.breach(*line, format!("`{module}` must not see `{name}`")))
            .collect()
    }

    /// The top-level names reached through `crate`, `cachesrv` or enough `super`.
    fn modules_named(&self) -> Vec<(String, usize)> {
        let code: Vec<&Token> = self
            .tokens
            .iter()
            .filter(|token| token.kind == Kind::Code)
            .collect();
        let word = |at: usize| code.get(at).map_or("", |token| token.text.as_str());
        let mut named = Vec::new();
        let mut at = 0;
        while at < code.len() {
            let supers = (0..code.len())
                .take_while(|n| word(at + 2 * n) == "super" && word(at + 2 * n + 1) == "::")
                .count();
            let from_root = (word(at) == "crate" || word(at) == "cachesrv") && word(at + 1) != "(";
            let root_supers = supers > 0 && supers >= self.depth();
            if word(at) == "crate" && word(at + 1) == ")" {
                // `pub(crate)` names nothing.
                at += 1;
            } else if from_root && word(at + 1) == "::" {
                named.extend(first_names(&code, at + 2));
                at += 2;
            } else if word(at) == "crate" {
                // `use crate as c`, which would hide what follows.
                named.push(("crate itself".to_owned(), code[at].line));
                at += 1;
            } else if root_supers {
                named.extend(first_names(&code, at + 2 * supers));
                at += 2 * supers;
            } else {
                at += 1.max(2 * supers);
            }
        }
        named
    }
}

/// The first names after `crate::`: one, or those directly inside `{…}`.
fn first_names(code: &[&Token], at: usize) -> Vec<(String, usize)> {
    let Some(first) = code.get(at) else {
        return Vec::new();
    };
    if first.text != "{" {
        return vec![(first.text.clone(), first.line)];
    }
    let (mut names, mut depth, mut expected) = (Vec::new(), 0_usize, false);
    for token in &code[at..] {
        match token.text.as_str() {
            "{" => {
                depth += 1;
                expected = depth == 1;
            }
            "}" => depth -= 1,
            "," => expected = depth == 1,
            name if expected => {
                names.push((name.to_owned(), token.line));
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Cuts out every item under `#[cfg(test)]` (or `#[cfg(all(test, …))]`).
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let ahead: Vec<&str> = tokens[at..]
            .iter()
            .take(7)
            .map(|token| token.text.as_str())
            .collect();
        let is_test = ahead.starts_with(&["#", "[", "cfg", "(", "test", ")", "]"])
            || ahead.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"]);
        if is_test {
            at = end_of_item(tokens, at + 5);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// The token after the item: after its `;`, or after the brace that closes it.
fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            _ if token.kind == Kind::String => {}
            "{" => depth += 1,
            "}" if depth <= 1 => return at + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Takes a file apart; comments are gone.
fn lex(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        rest: text,
        line: 1,
        tokens: Vec::new(),
    };
    while !lexer.rest.is_empty() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer<'t> {
    rest: &'t str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        let raw = rest.trim_start_matches(['b', 'c']).strip_prefix('r');
        let hashes = raw.map(|raw| raw.len() - raw.trim_start_matches('#').len());
        let is_raw = raw
            .zip(hashes)
            .is_some_and(|(raw, hashes)| raw[hashes..].starts_with('"'));
        if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(block_comment(rest));
        } else if let (true, Some(hashes)) = (is_raw, hashes) {
            self.raw_string(hashes);
        } else if rest.starts_with('"') || rest.starts_with("b\"") || rest.starts_with("c\"") {
            self.string();
        } else if let Some(length) = char_literal(rest) {
            self.skip(length);
        } else if rest.starts_with("::") {
            self.take(2, Kind::Code);
        } else {
            self.word_or_sign();
        }
    }

    fn word_or_sign(&mut self) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let Some(first) = self.rest.chars().next() else {
            return;
        };
        if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else if is_word(first) {
            let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
            self.take(end, Kind::Code);
        } else {
            self.take(first.len_utf8(), Kind::Code);
        }
    }

    fn string(&mut self) {
        let open = self.rest.find('"').unwrap_or(0) + 1;
        self.skip(open);
        let mut escaped = false;
        let end = self.rest.find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        self.take(end.unwrap_or(self.rest.len()), Kind::String);
        self.skip(1.min(self.rest.len()));
    }

    fn raw_string(&mut self, hashes: usize) {
        let open = self.rest.find('"').unwrap_or(0) + 1;
        self.skip(open);
        let close = format!("\"{}", "#".repeat(hashes));
        self.take(
            self.rest.find(&close).unwrap_or(self.rest.len()),
            Kind::String,
        );
        self.skip(close.len().min(self.rest.len()));
    }

    fn take(&mut self, length: usize, kind: Kind) {
        let text = self.rest[..length].to_owned();
        self.tokens.push(Token {
            text,
            line: self.line,
            kind,
        });
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        let (gone, rest) = self.rest.split_at(length);
        self.line += gone.matches('\n').count();
        self.rest = rest;
    }
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let here = &text[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a character literal; `None` for a lifetime or anything else.
fn char_literal(text: &str) -> Option<usize> {
    let inside = text
        .strip_prefix("b'")
        .or_else(|| text.strip_prefix('\''))?;
    let prefix = text.len() - inside.len();
    if let Some(escape) = inside.strip_prefix('\\') {
        // The character after the backslash may itself be a quote.
        let first = escape.chars().next()?.len_utf8();
        return Some(prefix + 1 + first + escape[first..].find('\'')? + 1);
    }
    let length = inside.chars().next()?.len_utf8();
    inside[length..]
        .starts_with('\'')
        .then_some(prefix + length + 1)
}

/// Every `.rs` file under a directory, with its path relative to it, sorted.
fn files(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory of sources") {
            let path = entry.expect("a directory entry").path();
            // What the fuzzer builds is in its own crate, and not ours.
            if path.ends_with("fuzz/target") {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("a path under the root");
                let text = std::fs::read_to_string(&path).expect("a source file");
                found.push((name.to_string_lossy().replace('\\', "/"), text));
            }
        }
    }
    found.sort();
    found
}

fn project(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    if root.is_dir() {
        files(&root)
    } else {
        Vec::new()
    }
}

/// Breaches of a whole tree. A file that its parent declares by `#[cfg(test)] mod name;` is a test, and
/// owes no more than its header.
fn breaches_in(sources: &[(String, String)]) -> Vec<Breach> {
    let of = |(path, text): &(String, String)| {
        let header = text.lines().next().unwrap_or_default();
        let text = if is_test_module(path, sources) {
            header
        } else {
            text
        };
        breaches(path, text)
    };
    sources.iter().flat_map(of).collect()
}

/// Whether the file above declares this one for tests only.
fn is_test_module(path: &str, sources: &[(String, String)]) -> bool {
    let bare = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let (directory, name) = bare.rsplit_once('/').unwrap_or(("", bare));
    let parents = if directory.is_empty() {
        ["lib.rs".to_owned(), "main.rs".to_owned()]
    } else {
        [format!("{directory}/mod.rs"), format!("{directory}.rs")]
    };
    let declaration = ["#", "[", "cfg", "(", "test", ")", "]", "mod", name, ";"];
    let declares = |text: &str| {
        let tokens = lex(text);
        let is_here = |window: &[Token]| {
            window
                .iter()
                .zip(declaration)
                .all(|(token, word)| token.text == word)
        };
        tokens.windows(declaration.len()).any(is_here)
    };
    sources
        .iter()
        .any(|(path, text)| parents.contains(path) && declares(text))
}

#[test]
fn the_sources_keep_the_rules_of_the_house() {
    let sources = project("src");
    assert!(sources.len() > 10, "only {} files were read", sources.len());
    let found: Vec<String> = breaches_in(&sources)
        .iter()
        .map(Breach::to_string)
        .collect();
    assert!(
        found.is_empty(),
        "{} breaches:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn a_file_is_a_test_only_when_its_parent_says_so() {
    let tree = |declaration: &str, file: &str, test: &str| {
        let parent = (
            "store/mod.rs".to_owned(),
            format!("//! A parent.\n{declaration}\n"),
        );
        breaches_in(&[parent, (file.to_owned(), test.to_owned())]).len()
    };
    let test = "//! Tests.\nfn f() { x.unwrap() }";
    assert_eq!(tree("#[cfg(test)]\nmod tests;", "store/tests.rs", test), 0);
    assert_eq!(
        tree("#[cfg(test)]\nmod tests;", "store/tests/mod.rs", test),
        0
    );
    assert_eq!(tree("mod tests;", "store/tests.rs", test), 1);
    assert_eq!(
        tree(
            "#[cfg(test)]\nmod others;\nmod tests;",
            "store/tests.rs",
            test
        ),
        1
    );
    assert_eq!(
        tree("// #[cfg(test)] mod tests;", "store/tests.rs", test),
        1
    );
    assert_eq!(tree("#[cfg(test)]\nmod tests;", "api/tests.rs", test), 1);
    assert_eq!(
        tree("#[cfg(test)]\nmod tests;", "store/tests.rs", "fn f() {}"),
        1
    );
}

#[test]
fn tests_and_benchmarks_say_what_they_are_for() {
    for folder in ["tests", "benches", "examples"] {
        for (path, text) in project(folder) {
            assert!(
                text.starts_with("//! "),
                "{folder}/{path} does not open with `//!`"
            );
            let tokens = lex(&text);
            let is_unsafe = |token: &Token| token.kind == Kind::Code && token.text == "unsafe";
            assert!(
                !tokens.iter().any(is_unsafe),
                "{folder}/{path} has `unsafe`"
            );
        }
    }
}

#[test]
fn every_module_of_the_crate_has_its_place() {
    let sources = project("src");
    let (_, lib) = sources
        .iter()
        .find(|(path, _)| path == "lib.rs")
        .expect("src/lib.rs");
    let tokens = lex(lib);
    let modules = tokens
        .windows(2)
        .filter(|pair| pair[0].text == "mod")
        .map(|pair| pair[1].text.as_str());
    for module in modules {
        assert!(
            LAYERS.iter().any(|(name, _)| *name == module),
            "{module} is not in LAYERS"
        );
    }
}

#[test]
fn layers_have_no_cycles() {
    let below = |name: &str| {
        LAYERS
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(&[][..], |(_, seen)| *seen)
    };
    for (name, seen) in LAYERS {
        let mut reached: Vec<&str> = seen.to_vec();
        for _ in LAYERS {
            let next: Vec<&str> = reached
                .iter()
                .flat_map(|name| below(name))
                .copied()
                .collect();
            reached.extend(
                next.into_iter()
                    .filter(|name| !reached.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        assert!(!reached.contains(name), "{name} sees itself");
    }
}

/// What is wrong with a file that is this line, below a proper header.
fn verdict(path: &str, code: &str) -> Vec<String> {
    let text = format!("//! A file.\n{code}\n");
    breaches(path, &text)
        .into_iter()
        .map(|breach| breach.what)
        .collect()
}

/// A file, a line in it, and what the checker must say.
const BROKEN: &[(&str, &str, &str)] = &[
    (
        "api/mod.rs",
        "use rusqlite::Connection;",
        "`rusqlite`: SQL lives in store/",
    ),
    (
        "auth/mod.rs",
        "let q = \"SELECT  id\";",
        "`SELECT`: SQL lives in store/",
    ),
    (
        "auth/mod.rs",
        "let q = r#\"\n  insert\n  DELETE\n FROM x\"#;",
        "`DELETE FROM`: SQL lives in store/",
    ),
    (
        "auth/mod.rs",
        "return Status(200);",
        "`Status (`: statuses are for http/ and api/",
    ),
    (
        "store/mod.rs",
        "if x == 404 {}",
        "`#`: statuses are for http/ and api/",
    ),
    (
        "api/upload.rs",
        "let scope = store::Scope::Trusted(id);",
        "`Scope :: Trusted`: scopes are chosen by read_chain and write_target in auth/grant.rs",
    ),
    (
        "store/mod.rs",
        "use std::env;",
        "`std :: env`: the environment is read in config/",
    ),
    (
        "server/mod.rs",
        "env::var(\"HOME\")",
        "`env :: var`: the environment is read in config/",
    ),
    (
        "main.rs",
        "std::env::args()",
        "`std :: env`: the environment is read in config/",
    ),
    (
        "store/mod.rs",
        "println!(\"x\")",
        "`println !`: printing is for commands/ and main.rs",
    ),
    (
        "store/mod.rs",
        "eprintln ! (\"x\")",
        "`eprintln !`: printing is for commands/ and main.rs",
    ),
    (
        "telemetry/log.rs",
        "io::stdout()",
        "`stdout (`: printing is for commands/ and main.rs",
    ),
    (
        "api/mod.rs",
        "io::stderr()",
        "`stderr (`: stderr is for the log, commands/ and main.rs",
    ),
    (
        "commands/mod.rs",
        "std::process::exit(1)",
        "`process :: exit`: a process ends by returning from main",
    ),
    (
        "store/mod.rs",
        "unsafe { x() }",
        "`unsafe`: not in this house",
    ),
    (
        "store/mod.rs",
        "unsafe fn f() {}",
        "`unsafe`: not in this house",
    ),
    (
        "store/mod.rs",
        "x\n    .unwrap()",
        "`. unwrap (`: not in this house",
    ),
    ("store/mod.rs", "todo!()", "`todo !`: not in this house"),
    (
        "store/mod.rs",
        "fn f() -> anyhow::Result<()> {}",
        "`anyhow`: anyhow is for commands/ and main.rs; callers of the rest branch on errors",
    ),
    (
        "api/mod.rs",
        "use clap::Parser;",
        "`clap`: the command line is for cli.rs, commands/ and main.rs",
    ),
    (
        "store/a.rs",
        "use crate::api::X;",
        "`store` must not see `api`",
    ),
    (
        "store/a.rs",
        "use crate::{units, http::{Status, store}};",
        "`store` must not see `http`",
    ),
    (
        "store/a.rs",
        "use crate :: {\n    units::{a, b}, auth,\n};",
        "`store` must not see `auth`",
    ),
    (
        "store/a.rs",
        "fn f(x: &crate::server::X) {}",
        "`store` must not see `server`",
    ),
    (
        "store/a.rs",
        "use super::super::api;",
        "`store` must not see `api`",
    ),
    (
        "store/mod.rs",
        "use super::{config};",
        "`store` must not see `config`",
    ),
    (
        "units.rs",
        "use super::store;",
        "`units` must not see `store`",
    ),
    ("store/a.rs", "use crate::*;", "`store` must not see `*`"),
    (
        "store/a.rs",
        "use crate as c;",
        "`store` must not see `crate itself`",
    ),
    (
        "http/mod.rs",
        "use crate::config::Limits;",
        "`http` must not see `config`",
    ),
    (
        "server/mod.rs",
        "use crate::store;",
        "`server` must not see `store`",
    ),
    (
        "auth/mod.rs",
        "pub use crate::cli::Cli;",
        "`auth` must not see `cli`",
    ),
    (
        "store/mod.rs",
        "#[cfg(not(test))]\nfn f() { dbg!(1) }",
        "`dbg !`: not in this house",
    ),
    (
        "store/mod.rs",
        "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { dbg!(1) }",
        "`dbg !`: not in this house",
    ),
    (
        "store/mod.rs",
        "#[cfg(test)]\nuse x;\nfn g() { dbg!(1) }",
        "`dbg !`: not in this house",
    ),
    (
        "store/mod.rs",
        "let c = '\"'; dbg!(1); let d = '\"';",
        "`dbg !`: not in this house",
    ),
    (
        "store/mod.rs",
        "let c = '\\''; dbg!(1); let d = b'\\\\';",
        "`dbg !`: not in this house",
    ),
    (
        "store/mod.rs",
        "/* a /* b */ c */ dbg!(1)",
        "`dbg !`: not in this house",
    ),
    (
        "store/mod.rs",
        "let s = \"a\\\"b\\\\\"; dbg!(1)",
        "`dbg !`: not in this house",
    ),
    (
        "store/mod.rs",
        "let s: &'static str = r\"\\\"; dbg!(1)",
        "`dbg !`: not in this house",
    ),
    (
        "novel.rs",
        "",
        "`novel` has no place in LAYERS of tests/house.rs",
    ),
];

#[test]
fn each_rule_can_be_broken() {
    for (path, code, what) in BROKEN {
        let found = verdict(path, code);
        assert!(found.iter().any(|found| found == what), "{code}: {found:?}");
    }
}

#[test]
fn each_forbidden_word_is_found() {
    for rule in RULES {
        for word in rule.forbidden {
            let code = match rule.look_at {
                Where::Code => format!("let x = {};", word.replace('#', "404")),
                Where::Strings => format!("let x = \"{word} y\";"),
            };
            let expected = format!("`{word}`: {}", rule.why);
            let outsider = ["auth", "http"]
                .into_iter()
                .find(|module| !rule.only_in.contains(module))
                .expect("no rule allows both");
            let found = verdict(&format!("{outsider}/x.rs"), &code);
            assert!(found.contains(&expected), "{code}");
            for module in rule.only_in {
                let allowed = verdict(&format!("{module}/x.rs"), &code);
                assert!(!allowed.contains(&expected), "{module}: {code}");
            }
        }
    }
}

#[test]
fn what_is_allowed_is_not_a_breach() {
    for (path, code) in [
        (
            "store/mod.rs",
            "use rusqlite::Connection; let q = \"SELECT 1\";",
        ),
        (
            "api/mod.rs",
            "Status(404); use crate::{auth, http, store::{api}};",
        ),
        ("config/mod.rs", "std::env::vars_os()"),
        (
            "commands/mod.rs",
            "println!(\"x\"); use crate::{store, server};",
        ),
        ("telemetry/log.rs", "io::stderr()"),
        (
            "auth/mod.rs",
            "// SELECT, unsafe, println!(), 404, use crate::api\nfn f() {}",
        ),
        (
            "auth/mod.rs",
            "/// Not a `Status(404)`; see crate::api.\nfn f() {}",
        ),
        (
            "auth/mod.rs",
            "let s = \"unsafe { println!() } 404 crate::api\";",
        ),
        (
            "auth/mod.rs",
            "#[cfg(test)]\nmod tests { use crate::api; fn f() { x.unwrap(); if a { } dbg!(\"}\") } }",
        ),
        (
            "auth/mod.rs",
            "#[cfg(all(test, unix))]\nmod tests { fn f() { x.unwrap() } }",
        ),
        (
            "auth/mod.rs",
            "pub(crate) fn f<'a>(x: &'a str) -> u16 { 4040 + x.unwrap_or(404_000) }",
        ),
        (
            "auth/mod.rs",
            "let v = env!(\"CARGO_PKG_VERSION\"); // SELECT",
        ),
        ("auth/mod.rs", "let word = \"SELECTED, PRAGMATIC\";"),
        ("store/a/b.rs", "use super::super::model; use super::api;"),
        ("lib.rs", "pub mod api;"),
    ] {
        assert_eq!(verdict(path, code), Vec::<String>::new(), "{code}");
    }
}

#[test]
fn a_file_without_its_header_is_a_breach() {
    for text in [
        "",
        "use std::fmt;",
        "// A comment.",
        "\n//! Too late.",
        "/// Not ours.",
    ] {
        assert_eq!(breaches("units.rs", text).len(), 1, "{text:?}");
    }
    assert_eq!(
        breaches("lib.rs", "#![doc = include_str!(\"ARCHITECTURE.md\")]"),
        Vec::new()
    );
}

#[test]
fn a_breach_names_its_file_and_line() {
    let found = breaches("store/a.rs", "//! A file.\n\nfn f() {\n    dbg!(1);\n}\n");
    assert_eq!(
        found[0].to_string(),
        "src/store/a.rs:4: `dbg !`: not in this house"
    );
}
