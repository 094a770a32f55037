//! The command line through the real binary: help that a person can read, and usage errors.

use std::process::{Command, Output};

use cachesrv::cli::Cli;
use cachesrv::config::SETTINGS;
use clap::CommandFactory;

/// Wider than this, and help wraps in a terminal.
const COLUMNS_MAX: usize = 100;

fn run(args: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachesrv"));
    command.args(args).env_clear().current_dir(directory.path());
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

/// The path of every command, the root included: `[]`, `["token"]`, `["token", "create"]`.
fn every_command() -> Vec<Vec<String>> {
    fn visit(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        found.push(path.to_vec());
        for sub in command.get_subcommands() {
            visit(sub, &[path, &[sub.get_name().to_owned()]].concat(), found);
        }
    }
    let mut found = Vec::new();
    visit(&Cli::command(), &[], &mut found);
    found
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_commands_are_the_documented_ones() {
    let commands: Vec<String> = every_command().iter().map(|path| path.join(" ")).collect();
    assert_eq!(
        commands,
        [
            "",
            "serve",
            "token",
            "token create",
            "token list",
            "token inspect",
            "token rotate",
            "token revoke",
            "workspace",
            "workspace add",
            "workspace list",
            "scope",
            "scope list",
            "artifact",
            "artifact list",
            "artifact show",
            "artifact delete",
            "purge",
            "gc",
            "stats",
            "backup",
            "restore",
            "verify",
            "doctor",
            "healthcheck",
            "config",
            "config show",
            "completions",
            "man"
        ]
    );
}

#[test]
fn every_command_has_help_that_fits_a_terminal() {
    for path in every_command() {
        for flag in ["-h", "--help"] {
            let args: Vec<&str> = path.iter().map(String::as_str).chain([flag]).collect();
            let output = run(&args);
            let help = text(&output.stdout);
            assert_eq!(
                (output.status.code(), text(&output.stderr)),
                (Some(0), ""),
                "{args:?}"
            );
            assert!(
                help.contains("Usage: cachesrv") && help.contains("Options:"),
                "{args:?}: {help}"
            );
            for line in help.lines() {
                assert!(line.chars().count() <= COLUMNS_MAX, "{args:?}: {line}");
            }
        }
    }
}

#[test]
fn every_option_and_command_is_explained_in_one_line() {
    fn check(command: &clap::Command) {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(
            !about.is_empty() && !about.contains('\n'),
            "{}: {about:?}",
            command.get_name()
        );
        for option in command.get_arguments() {
            let help = option
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                !help.is_empty() && !help.ends_with('.'),
                "{} {}",
                command.get_name(),
                option.get_id()
            );
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn commands_that_do_something_show_examples() {
    for path in every_command().iter().filter(|path| {
        path.len() == 2 || {
            let alone = [
                "serve",
                "purge",
                "doctor",
                "healthcheck",
                "completions",
                "man",
            ];
            alone.contains(&path.join(" ").as_str())
        }
    }) {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let output = run(&args);
        assert!(
            text(&output.stdout).contains("\nExamples:\n  cachesrv "),
            "{args:?}"
        );
    }
}

#[test]
fn examples_in_the_help_are_commands_that_parse() {
    let mut examples = 0;
    for path in every_command() {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let output = run(&args);
        for line in text(&output.stdout).lines() {
            let Some(example) = line.strip_prefix("  cachesrv ") else {
                continue;
            };
            // A description stands after two spaces, a redirection after `>` or `<`.
            let command = example.split("  ").next().unwrap_or_default();
            let words = command.split_whitespace();
            let words = words.take_while(|word| !matches!(*word, ">" | "<"));
            let parsed = Cli::command().try_get_matches_from(["cachesrv"].into_iter().chain(words));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
            examples += 1;
        }
    }
    assert!(examples >= 22, "{examples}");
}

#[test]
fn defaults_in_the_help_are_those_of_the_settings() {
    let help = run(&["serve", "--help"]);
    for (flag, key) in [("--db", "db"), ("--listen", "listen")] {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.key == key)
            .expect(key);
        let default = format!("[default: {}]", setting.default);
        assert!(text(&help.stdout).contains(&default), "{flag} {default}");
    }
}

#[test]
fn config_show_help_lists_every_setting() {
    let output = run(&["config", "show", "--help"]);
    for setting in SETTINGS {
        assert!(
            text(&output.stdout).contains(&format!("\n  {} = ", setting.key)),
            "{}",
            setting.key
        );
        assert!(
            text(&output.stdout).contains(setting.doc),
            "{}",
            setting.key
        );
    }
}

#[test]
fn the_version_is_printed_alone() {
    let output = run(&["--version"]);
    assert_eq!(
        text(&output.stdout),
        format!("cachesrv {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    let unit = "write a duration like '30d', '12h', '90s' or '500ms'";
    let expires =
        format!("error: invalid value '90' for '--expires <TIME>': '90' has no unit, {unit}\n");
    for (args, beginning) in [
        (&["serv"][..], "error: unrecognized subcommand 'serv'\n"),
        (&["--bogus"], "error: unexpected argument '--bogus' found\n"),
        (
            &["serve", "extra"],
            "error: unexpected argument 'extra' found\n",
        ),
        (
            &["serve", "--listen"],
            "error: a value is required for '--listen <ADDR>' but none was supplied\n",
        ),
        (
            &["serve", "--db", "a", "--db", "b"],
            "error: the argument '--db <FILE>' cannot be used multiple times\n",
        ),
        (
            &["token", "create", "--read", "--write"],
            "error: the argument '--read' cannot be used with '--write'\n",
        ),
        (&["token", "create", "--expires", "90"], &expires),
        (
            &["token", "rotate"],
            "error: the following required arguments were not provided:\n  <NAME|ID>\n",
        ),
        (
            &[
                "token",
                "rotate",
                "ci",
                "--overlap",
                "1h",
                "--overlap",
                "2h",
            ],
            "error: the argument '--overlap <TIME>' cannot be used multiple times\n",
        ),
        (
            &["token", "inspect", "ci"],
            "error: unexpected argument 'ci' found\n",
        ),
        (
            &["token", "revoke"],
            "error: the following required arguments were not provided:\n  <NAME|ID>\n",
        ),
        (
            &["config", "show", "--sources", "--json"],
            "error: the argument '--sources' cannot be used with '--json'\n",
        ),
    ] {
        let output = run(args);
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with(beginning), "{args:?}: {stderr}");
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(2), ""),
            "{args:?}"
        );
    }
}

#[test]
fn without_a_command_the_help_is_on_stderr() {
    for args in [&[][..], &["token"], &["scope"], &["artifact"], &["config"]] {
        let output = run(args);
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(2), ""),
            "{args:?}"
        );
        assert!(text(&output.stderr).contains("Commands:"), "{args:?}");
    }
}
