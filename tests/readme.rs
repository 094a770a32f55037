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
