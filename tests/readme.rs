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
    let folders = ["tests", "tests/support", "src/store", "scripts"];
    folders.iter().find_map(|folder| {
        fs::read_to_string(format!("{}/{folder}/{name}", env!("CARGO_MANIFEST_DIR"))).ok()
    })
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let readme = readme();
    let security = readme.split("\n## Security\n").nth(1).expect("a section");
    let (table, _) = security
        .split_once("**Outside of it**")
        .expect("what is outside");
    let guarantees = table.lines().filter(|line| line.starts_with("| G"));
    assert_eq!(guarantees.clone().count(), 10);
    for line in guarantees.chain(table.lines().filter(|line| line.contains("guessing.rs"))) {
        let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let mut file = None;
        let mut tests = 0;
        for word in quoted {
            if let Some(text) = test_file(word) {
                file = Some(text);
            } else if let Some(file) = &file {
                let is_there = [format!("fn {word}("), format!("{word}() {{")];
                assert!(
                    is_there.iter().any(|line| file.contains(line)),
                    "{word}: {line}"
                );
                tests += 1;
            }
        }
        assert!(tests > 0, "no test: {line}");
    }
}
