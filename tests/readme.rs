//! The README cannot drift: what it shows of the program is what the program says.

use std::fs;
use std::process::Command;

fn readme() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md")
}

#[test]
fn the_readme_holds_the_table_of_all_settings() {
    let table = cachesrv::config::markdown_table();
    assert!(
        readme().contains(&table),
        "README.md lacks this table, as it stands:\n\n{table}"
    );
}

#[test]
fn the_readme_shows_the_help_of_the_program() {
    let help = Command::new(env!("CARGO_BIN_EXE_cachesrv"))
        .arg("--help")
        .output()
        .expect("cachesrv");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let commands = help
        .split("Commands:\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next());
    let commands = commands.expect("a list of commands in --help");
    assert!(
        readme().contains(commands),
        "README.md lacks these lines, as they stand:\n\n{commands}"
    );
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let ci = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run")).expect(".ci/run");
    assert!(
        readme().contains("<!-- test command -->"),
        "README.md does not mark its test command"
    );
    assert!(
        ci.contains("<!-- test command -->"),
        ".ci/run does not look for the mark in README.md"
    );
}

/// The files that the README names as holding tests.
fn test_file(name: &str) -> Option<String> {
    let folders = ["tests", "tests/support", "src/store", "src", "scripts"];
    folders.iter().find_map(|folder| {
        fs::read_to_string(format!("{}/{folder}/{name}", env!("CARGO_MANIFEST_DIR"))).ok()
    })
}

/// A line names a file and tests in it, `durability.rs`: `a_killed_server_…`, and all of them exist.
#[track_caller]
fn names_tests(line: &str) {
    let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
    let mut file = None;
    let mut tests = 0;
    for word in quoted {
        if let Some(text) = test_file(word) {
            file = Some(text);
        } else if let Some(file) = &file {
            // In Rust, in a script, and as a row of the table of `hostile.rs`.
            let is_there = [
                format!("fn {word}("),
                format!("{word}() {{"),
                format!("    {word}:\n"),
            ];
            assert!(
                is_there.iter().any(|line| file.contains(line)),
                "{word}: {line}"
            );
            tests += 1;
        }
    }
    assert!(tests > 0, "no test: {line}");
}

/// The text between two marks, the first of which is there once.
#[track_caller]
fn between<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    let parts: Vec<&str> = text.split(begin).collect();
    assert_eq!(parts.len(), 2, "{begin:?}");
    let (part, _) = parts[1].split_once(end).expect(end);
    part
}

/// The rows of the one table in a text, without its head.
fn rows(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| line.starts_with('|'));
    lines.skip(2).collect()
}

#[test]
fn every_guarantee_of_the_security_section_names_tests_that_exist() {
    let readme = readme();
    let table = between(&readme, "\n## Security\n", "**Outside of it**");
    let guarantees = rows(table);
    assert_eq!(guarantees.len(), 10);
    for line in guarantees {
        assert!(line.starts_with("| G"), "{line}");
        names_tests(line);
    }
    for line in table.lines().filter(|line| line.contains("guessing.rs")) {
        names_tests(line);
    }
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let readme = readme();
    let section = "\n## What is guaranteed, and what is not\n";
    let section = between(&readme, section, "\n## ");
    let guarantees = rows(section);
    assert!(guarantees.len() >= 9, "{guarantees:#?}");
    for (line, number) in guarantees.iter().zip(1..) {
        assert!(line.starts_with(&format!("| R{number} |")), "{line}");
        names_tests(line);
    }
    // Nothing is promised beside the table.
    let (_, beside) = section.split_once("**Not guaranteed**").expect("limits");
    assert!(!beside.contains("\n* ") && !beside.contains("\n|"));
}

#[test]
fn every_row_of_what_survives_what_names_tests_that_exist() {
    let readme = readme();
    let table = between(&readme, "\n### What survives what\n", "\n## ");
    let rows = rows(table);
    assert_eq!(rows.len(), 4);
    rows.into_iter().for_each(names_tests);
}

/// The names of the suites in the table of `scripts/survive.sh`, each with its files.
fn suites() -> Vec<(String, Vec<String>)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/survive.sh");
    let script = fs::read_to_string(script).expect("survive.sh");
    let table = between(&script, "\nreadonly suites='\n", "\n'\n");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let files = cells[2].split_whitespace().map(str::to_owned).collect();
        (cells[0].to_owned(), files)
    };
    table.lines().map(row).collect()
}

#[test]
fn the_readme_lists_the_suites_that_can_be_run_for_long() {
    let readme = readme();
    let table = between(&readme, "\nThese suites try to break it.", "\n`scripts/");
    let name = |line: &str| line.split('`').nth(1).expect("a name").to_owned();
    let mut listed: Vec<String> = rows(table).into_iter().map(name).collect();
    let mut there: Vec<String> = suites().into_iter().map(|(name, _)| name).collect();
    there.push("fuzz".to_owned());
    listed.sort();
    there.sort();
    assert_eq!(listed, there);
}

#[test]
fn every_test_that_can_be_run_for_long_is_in_a_suite() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let files: Vec<String> = suites().into_iter().flat_map(|(_, files)| files).collect();
    for entry in fs::read_dir(tests).expect("the tests") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let text = fs::read_to_string(&path).unwrap_or_default();
        // Not in one word, or this file would be one of them.
        if text.contains(concat!("rounds", "(")) {
            let is_listed = files.iter().any(|file| *file == name);
            assert!(is_listed, "{name} is in no suite of scripts/survive.sh");
        }
    }
}
