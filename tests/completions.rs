//! `cachesrv completions` and `cachesrv man`: what packages install. Completions are tried in a real shell where
//! there is one, and pages by the program that shows them.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use cachesrv::cli::Cli;
use clap::CommandFactory;
use support::Dir;
use support::dir::{BINARY, run};

/// A directory of its own for pages, which are no secrets and are not private.
fn pages() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new(BINARY)
        .arg("man")
        .arg(dir.path())
        .output()
        .expect("cachesrv");
    assert!(output.status.success(), "{output:?}");
    dir
}

/// Every command that help shows, with the name of its page.
fn shown() -> Vec<(String, clap::Command)> {
    fn visit(command: &clap::Command, name: &str, found: &mut Vec<(String, clap::Command)>) {
        found.push((name.to_owned(), command.clone()));
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            visit(sub, &format!("{name}-{}", sub.get_name()), found);
        }
    }
    let mut found = Vec::new();
    visit(&Cli::command(), "cachesrv", &mut found);
    found
}

/// Whether a program can be started.
fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What bash offers after these words, of which the last one is being typed.
fn offered_by_bash(dir: &Dir, words: &[&str]) -> Vec<String> {
    let (typed, before) = words.split_last().expect("a word");
    let previous = before.last().expect("a command");
    let line = words.join(" ");
    let at = words.len() - 1;
    let script = format!(
        "source <(\"$cachesrv\" completions bash) || exit 1
         COMP_WORDS=({line} {empty}); COMP_CWORD={at}
         _cachesrv cachesrv '{typed}' '{previous}'
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        empty = if typed.is_empty() { "''" } else { "" },
    );
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = dir.command("bash");
    command
        .args(["--norc", "--noprofile", "-c", &script])
        .env("cachesrv", BINARY)
        .env("PATH", path);
    let stdout = run(&mut command).done();
    stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let dir = Dir::new();
    assert_eq!(offered_by_bash(&dir, &["cachesrv", "doc"]), ["doctor"]);
    assert_eq!(
        offered_by_bash(&dir, &["cachesrv", "token", "r"]),
        ["rotate", "revoke"]
    );
    assert_eq!(
        offered_by_bash(&dir, &["cachesrv", "doctor", "--u"]),
        ["--url"]
    );
    assert_eq!(
        offered_by_bash(&dir, &["cachesrv", "completions", "z"]),
        ["zsh"]
    );
}

#[test]
fn bash_offers_no_hidden_command() {
    let dir = Dir::new();
    let offered = offered_by_bash(&dir, &["cachesrv", ""]);
    assert!(offered.contains(&"serve".to_owned()), "{offered:?}");
    assert!(!offered.contains(&"man".to_owned()), "{offered:?}");
}

#[test]
fn every_shell_gets_every_command_that_help_shows() {
    let dir = Dir::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = dir.cli(&["completions", shell]).done();
        for (_, command) in shown() {
            let name = command.get_name();
            assert!(script.contains(name), "{shell} does not know {name}");
        }
        assert!(
            !script.contains("man page"),
            "{shell} offers a hidden command"
        );
    }
}

#[test]
fn other_shells_that_are_here_can_read_theirs() {
    let dir = Dir::new();
    for (shell, check) in [
        (
            "zsh",
            "autoload -U compinit; compinit -D -u; source <(\"$cachesrv\" completions zsh); whence _cachesrv",
        ),
        (
            "fish",
            "\"$cachesrv\" completions fish | source; complete -C 'cachesrv doc' | string match -q 'doctor*'",
        ),
    ] {
        if is_here(shell) {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut command = dir.command(shell);
            let command = command.args(["-c", check]).env("cachesrv", BINARY);
            run(command.env("PATH", path).env("HOME", dir.path())).done();
        } else {
            println!("{shell} is not installed here: its completions were not tried");
        }
    }
}

#[test]
fn neither_needs_a_configuration_that_is_right() {
    let dir = Dir::new();
    for args in [&["completions", "bash"][..], &["man"]] {
        let mut command = dir.command(BINARY);
        command
            .args(args)
            .env("CACHESRV_CONFIG", "there-is-none.toml")
            .env("CACHESRV_LISTEN", "nowhere");
        let stdout = run(&mut command).done();
        assert!(stdout.len() > 500, "{args:?}: {stdout}");
    }
}

#[test]
fn a_shell_that_nobody_knows_is_a_usage_error() {
    let dir = Dir::new();
    let outcome = dir.cli(&["completions", "tcsh"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome
            .stderr
            .contains("[possible values: bash, elvish, fish, powershell, zsh]"),
        "{outcome:?}"
    );
}

#[test]
fn each_command_has_a_page_and_there_are_no_others() {
    let dir = pages();
    let written: BTreeSet<String> = std::fs::read_dir(dir.path())
        .expect("pages")
        .map(|entry| {
            entry
                .expect("a page")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    let expected: BTreeSet<String> = shown()
        .iter()
        .map(|(name, _)| format!("{name}.1"))
        .collect();
    assert_eq!(written, expected);
}

#[test]
fn no_option_and_no_example_is_missing_from_a_page() {
    let dir = pages();
    for (name, command) in shown() {
        let page = text(&dir.path().join(format!("{name}.1")));
        // What groff writes for a dash is not a dash.
        let page = page.replace("\\-", "-");
        let (_, options) = page.split_once(".SH OPTIONS").expect("options");
        for option in command.get_arguments() {
            let (long, value) = (option.get_long(), option.get_value_names());
            let shown = long.map_or_else(
                || value.and_then(<[_]>::first).expect("a name").to_string(),
                |long| format!("--{long}"),
            );
            assert!(options.contains(&shown), "{name}: {shown}");
        }
        let help = command.get_after_long_help().map(ToString::to_string);
        for line in help.unwrap_or_default().lines() {
            let example = line.strip_prefix("  cachesrv ");
            let is_whole = example.is_none_or(|_| page.contains(line));
            assert!(is_whole, "{name}: {line}");
        }
    }
}

#[test]
fn without_a_directory_the_first_page_is_on_stdout() {
    let dir = Dir::new();
    let page = dir.cli(&["man"]).done();
    assert_eq!(page, text(&pages().path().join("cachesrv.1")));
    assert!(page.contains(".TH cachesrv 1"), "{page}");
}

#[test]
fn a_directory_for_pages_is_made_and_a_file_is_none() {
    let dir = Dir::new();
    let place = tempfile::tempdir().expect("a directory");
    let man = place.path().join("share/man1");
    let said = dir.cli(&["man", &man.display().to_string()]);
    assert_eq!((said.code, &*said.stdout), (Some(0), ""), "{said:?}");
    let page = man.join("cachesrv.1").display().to_string();
    assert!(text(page.as_ref()).contains(".TH cachesrv 1"));
    let text = format!("error: cannot write man pages into '{page}': File exists (os error 17)\n");
    dir.cli(&["man", &page]).failed(1, &text);
}

#[test]
fn groff_finds_nothing_wrong_with_any_page() {
    if !is_here("groff") {
        println!("groff is not installed here: the pages were not tried");
        return;
    }
    let dir = pages();
    for (name, _) in shown() {
        let mut groff = Command::new("groff");
        // Plain letters, without what makes them bold on a terminal.
        groff.args(["-man", "-ww", "-Tutf8", "-P-cbou"]);
        let output = groff
            .arg(dir.path().join(format!("{name}.1")))
            .output()
            .expect("groff");
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && warnings.is_empty(),
            "{name}: {warnings}"
        );
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(shown.contains("SYNOPSIS"), "{name}: {shown}");
    }
}
