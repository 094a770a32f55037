//! What is shipped beside the binary: units, container, example configuration, release script.
//!
//! Guaranteed: every command line in them parses, every setting in them exists, and the numbers that have to
//! agree with the program do. systemd itself judges the units where it is installed; what they do on a
//! running one is told in the README.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use cachesrv::cli::Cli;
use cachesrv::config::Config;
use clap::Parser;
use serde_json::Value;
use support::dir::{BINARY, run};
use support::{Dir, Server};

/// Where the unit expects the program and its settings.
const INSTALLED: &str = "/usr/local/bin/cachesrv";
const INSTALLED_CONFIG: &str = "/etc/cachesrv/cachesrv.toml";

/// The most that `systemd-analyze security` may find exposed, in tenths; it goes to 100.
const EXPOSURE_MAX: u32 = 10;

/// A user who is nobody else.
const UNPRIVILEGED: u32 = 65532;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn packaging(name: &str) -> String {
    let path = root().join("scripts/packaging").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

/// The values of a key in a unit, in order.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    let assignments = unit.lines().filter_map(|line| line.split_once('='));
    let of_key = assignments.filter(|(name, _)| *name == key);
    of_key.map(|(_, value)| value).collect()
}

#[track_caller]
fn value<'u>(unit: &'u str, key: &str) -> &'u str {
    let values = values(unit, key);
    assert_eq!(values.len(), 1, "{key}: {values:?}");
    values[0]
}

/// Whether the program takes this command line.
#[track_caller]
fn parses(words: &[&str]) {
    let parsed = Cli::try_parse_from(words);
    assert!(parsed.is_ok(), "{words:?}: {:?}", parsed.err());
}

/// systemd-analyze, where this machine has it.
fn systemd_analyze() -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|dir| dir.join("systemd-analyze").is_file());
    if !is_there {
        eprintln!("systemd-analyze is not on the PATH: the units were not shown to it");
    }
    is_there.then(|| Command::new("systemd-analyze"))
}

/// The units in a directory, as they would be installed beside this binary.
fn installed_units(dir: &Dir) -> [PathBuf; 2] {
    ["cachesrv.service", "cachesrv.socket"].map(|name| {
        dir.evidence().exempt_mode(name);
        let path = dir.join(name);
        fs::write(&path, packaging(name).replace(INSTALLED, BINARY)).expect("a unit is written");
        path
    })
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    let Some(mut analyze) = systemd_analyze() else {
        return;
    };
    let dir = Dir::new();
    let verify = analyze.args(["verify", "--man=no"]);
    let outcome = run(verify.args(installed_units(&dir)));
    assert_eq!(
        (outcome.code, &outcome.stderr[..]),
        (Some(0), ""),
        "{outcome:?}"
    );
}

#[test]
fn the_service_exposes_next_to_nothing() {
    let Some(mut analyze) = systemd_analyze() else {
        return;
    };
    let dir = Dir::new();
    let [service, _] = installed_units(&dir);
    let threshold = EXPOSURE_MAX.to_string();
    let limit = ["--offline=true", "--threshold", &threshold, "--no-pager"];
    let outcome = run(analyze.arg("security").args(limit).arg(service));
    outcome.done();
}

#[test]
fn the_service_starts_the_program_as_it_can_be_started() {
    let service = packaging("cachesrv.service");
    let start: Vec<&str> = value(&service, "ExecStart").split(' ').collect();
    assert_eq!(start[0], INSTALLED);
    assert!(start.contains(&INSTALLED_CONFIG), "{start:?}");
    parses(&start);
}

#[test]
fn the_units_agree_with_the_program() {
    let (service, socket) = (packaging("cachesrv.service"), packaging("cachesrv.socket"));
    let defaults = Config::defaults().expect("defaults");
    let listen = defaults.listen.to_string();
    assert_eq!(value(&socket, "ListenStream"), listen);
    let seconds = |key| {
        let text = value(&service, key).strip_suffix('s').expect("seconds");
        text.parse::<u64>().expect("a number")
    };
    // After the grace: one second to cut what is left, and the log to be folded.
    let grace = defaults.limits.shutdown_grace.as_secs();
    assert!(seconds("TimeoutStopSec") >= 2 * grace);
    let table = cachesrv::config::markdown_table();
    let (_, row) = table.split_once("`limits.connections_max`").expect("a row");
    let (_, connections_max) = row.split_once("| 1 to ").expect("a range");
    let (connections_max, _) = connections_max.split_once(' ').expect("a cell");
    let connections_max: u64 = connections_max.parse().expect("a number");
    for key in ["LimitNOFILE", "TasksMax"] {
        let limit: u64 = value(&service, key).parse().expect("a number");
        assert!(limit >= connections_max + 256, "{key}");
    }
    for key in ["Requires", "After"] {
        assert_eq!(value(&service, key), "cachesrv.socket");
    }
}

#[test]
fn the_example_configuration_is_what_the_program_says_it_is() {
    let example = packaging("cachesrv.toml");
    let wanted = cachesrv::config::example_toml();
    assert!(
        example == wanted,
        "scripts/packaging/cachesrv.toml is not this:\n\n{wanted}"
    );
}

#[test]
fn the_example_configuration_changes_nothing_and_names_every_setting() {
    let dir = Dir::new();
    let show = ["config", "show", "--json"];
    let defaults = json(&dir.cli(&show).done());
    for (name, signs) in [("example.toml", true), ("without-signs.toml", false)] {
        dir.evidence().exempt_mode(name);
        let text = packaging("cachesrv.toml");
        let text = if signs { text } else { uncommented(&text) };
        fs::write(dir.join(name), text).expect("a file is written");
        let shown = json(&dir.cli(&[&show[..], &["--config", name]].concat()).done());
        for (key, default) in defaults.as_object().expect("an object") {
            assert_eq!(shown[key]["value"], default["value"], "{key}");
            let source = shown[key]["source"].as_str().expect("a source");
            let is_default = source == "default";
            assert_eq!(is_default, signs, "{key} comes from {source}");
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// The example with every setting in force.
fn uncommented(example: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned() + "\n",
        _ => line.to_owned() + "\n",
    };
    example.lines().map(line).collect()
}

/// The line of the README that puts the database where the service may write.
fn line_that_names_the_database() -> String {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let lines = readme.lines().filter(|line| line.contains("sudo sed -i "));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].to_owned()
}

#[test]
fn the_installed_configuration_keeps_the_database_in_the_directory_of_the_service() {
    let dir = Dir::new();
    dir.evidence().exempt_mode("cachesrv.toml");
    fs::write(dir.join("cachesrv.toml"), packaging("cachesrv.toml")).expect("a file is written");
    let line = line_that_names_the_database().replace("sudo ", "");
    let line = line.replace(INSTALLED_CONFIG, "cachesrv.toml");
    dir.shell(&line).done();
    let shown = dir.cli(&["config", "show", "--json", "--config", "cachesrv.toml"]);
    let service = packaging("cachesrv.service");
    let db = format!("/var/lib/{}/cachesrv.db", value(&service, "StateDirectory"));
    assert_eq!(json(&shown.done())["db"]["value"], db);
}

/// The instructions of the container file, without comments.
fn instructions(word: &str) -> Vec<String> {
    let text = packaging("Containerfile");
    let found = text.lines().filter_map(|line| line.strip_prefix(word));
    found.map(|rest| rest.trim().to_owned()).collect()
}

#[track_caller]
fn instruction(word: &str) -> String {
    let mut found = instructions(word);
    assert_eq!(found.len(), 1, "{word}: {found:?}");
    found.remove(0)
}

#[test]
fn the_container_runs_commands_that_exist() {
    let list = |text: &str| -> Vec<String> { serde_json::from_str(text).expect("a list") };
    let (start, arguments) = (list(&instruction("ENTRYPOINT")), list(&instruction("CMD")));
    let serve: Vec<&str> = start.iter().chain(&arguments).map(String::as_str).collect();
    parses(&serve);
    let health = instruction("HEALTHCHECK");
    let (_, health) = health.split_once(" CMD ").expect("a command");
    let health = list(health);
    let health: Vec<&str> = health.iter().map(String::as_str).collect();
    assert_eq!(health[0], serve[0]);
    parses(&health);
}

#[test]
fn the_container_is_configured_by_variables_that_exist() {
    let dir = Dir::new();
    let mut show = dir.command(BINARY);
    show.args(["config", "show", "--json"]);
    for pair in instruction("ENV").split(' ') {
        let (name, value) = pair.split_once('=').expect("a pair");
        show.env(name, value);
    }
    let shown = json(&run(&mut show).done());
    let volume = instruction("VOLUME");
    assert_eq!(shown["db"]["value"], format!("{volume}/cachesrv.db"));
    let port = instruction("EXPOSE");
    assert_eq!(shown["listen"]["value"], format!("0.0.0.0:{port}"));
}

#[test]
fn the_container_does_not_run_as_root() {
    let user = instruction("USER");
    let (uid, gid) = user
        .split_once(':')
        .expect("numbers, for there are no names");
    for id in [uid, gid] {
        assert!(id.parse::<u32>().expect("a number") > 0);
    }
    let owner = format!("--chown={user}");
    let of_user: Vec<_> = instructions("COPY")
        .into_iter()
        .filter(|copy| copy.contains(&owner))
        .collect();
    assert_eq!(
        of_user.len(),
        1,
        "the database's directory alone: {of_user:?}"
    );
    assert!(of_user[0].ends_with(&instruction("VOLUME")), "{of_user:?}");
}

/// What they are is in tests/supply_chain.rs; a release takes too long to be made here.
#[test]
fn a_release_carries_its_bill_of_materials_and_the_licences_of_what_is_in_it() {
    let script = fs::read_to_string(root().join("scripts/release.sh")).expect("release.sh");
    let sums = script.lines().find(|line| line.contains(">SHA256SUMS"));
    let sums = sums.expect("checksums");
    assert!(
        sums.contains("$name.tar.gz") && sums.contains("$name.cdx.json"),
        "{sums}"
    );
    for paper in [
        "bom >\"$dist/$name/cachesrv.cdx.json\"",
        "notices >\"$dist/$name/THIRD-PARTY.txt\"",
    ] {
        assert!(
            script.contains(&format!("scripts/sbom.sh {paper}")),
            "{paper}"
        );
    }
    // The image has them, too, and all that is copied into it is there to be copied.
    let copied = instructions("COPY");
    let words = copied.iter().flat_map(|copy| copy.split(' '));
    let copied: Vec<&str> = words.filter(|word| !word.starts_with(['-', '/'])).collect();
    let (_, into) = script
        .split_once("cp \"$binary\" LICENSE \"")
        .expect("what is put beside the container");
    let (into, _) = into
        .split_once("\"$dist/container/\"")
        .expect("its directory");
    for name in ["cachesrv.cdx.json", "THIRD-PARTY.txt"] {
        assert!(
            copied.contains(&name) && into.contains(name),
            "{name}: {copied:?}"
        );
    }
    for name in copied {
        let is_there = ["cachesrv", "LICENSE", "data"].contains(&name) || into.contains(name);
        assert!(is_there, "{name}");
    }
}

/// A copy of the program that every user can run, in a directory that belongs to another one.
fn unprivileged() -> Dir {
    let dir = Dir::new();
    dir.evidence().exempt_mode("cachesrv");
    fs::copy(BINARY, dir.join("cachesrv")).expect("a copy");
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.join("cachesrv"), everybody).expect("a mode");
    chown(dir.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("root may give away");
    dir
}

/// A server that runs as that user.
fn start_unprivileged(dir: &Dir) -> Server {
    let user = UNPRIVILEGED.to_string();
    let mut serve = dir.command("setpriv");
    serve
        .args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"])
        .arg(dir.join("cachesrv"))
        .args(["serve", "--listen", "127.0.0.1:0"]);
    Server::start_command(&mut serve)
}

#[track_caller]
fn belongs_to_the_server(dir: &Dir) {
    for name in dir.files() {
        let owner = fs::metadata(dir.join(&name)).expect("a file").uid();
        assert!(
            owner == UNPRIVILEGED || name == "cachesrv",
            "{name} belongs to {owner}"
        );
    }
}

/// `sudo cachesrv token create`, with the server running, killed, stopped, or not started yet.
#[test]
fn what_root_does_beside_a_server_of_another_user_leaves_no_file_that_it_cannot_open() {
    if !is_root() {
        eprintln!("not run: only root can do something as root");
        return;
    }
    let dir = unprivileged();
    let first = dir.token("write");
    belongs_to_the_server(&dir);
    let server = start_unprivileged(&dir);
    assert_eq!(server.client(&first).put("1", b"bytes").status, 200);
    let beside = dir.token("read");
    belongs_to_the_server(&dir);
    assert_eq!(server.client(&beside).get("1").body, b"bytes");
    server.kill();
    let killed = dir.token("read");
    belongs_to_the_server(&dir);
    let server = start_unprivileged(&dir);
    assert_eq!(server.client(&killed).get("1").body, b"bytes");
    assert_eq!(server.stop().code(), Some(0));
    let stopped = dir.token("write");
    belongs_to_the_server(&dir);
    let server = start_unprivileged(&dir);
    assert_eq!(server.client(&stopped).put("2", b"bytes").status, 200);
    assert_eq!(server.stop().code(), Some(0));
    belongs_to_the_server(&dir);
}

#[test]
fn root_gives_away_no_file_behind_a_link() {
    if !is_root() {
        eprintln!("not run: only root can do something as root");
        return;
    }
    let (dir, elsewhere) = (unprivileged(), Dir::new());
    let target: &Path = &elsewhere.join("other.db");
    std::os::unix::fs::symlink(target, dir.db()).expect("a link");
    dir.token("write");
    assert_eq!(fs::metadata(target).expect("it was made").uid(), 0);
}

/// What `scripts/start.sh` prints before it starts the server, with the program of this test.
fn said_by_start(variables: &str) -> String {
    let script = fs::read_to_string(root().join("scripts/start.sh")).expect("start.sh");
    let lines = script.lines().filter(|line| {
        !["cargo ", "exec ", "cachesrv="]
            .iter()
            .any(|word| line.starts_with(word))
    });
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len() + 3, script.lines().count());
    let dir = Dir::new();
    let set = format!("{variables} cachesrv='{BINARY}'\nexport CACHESRV_TLS_CERTIFICATE\n");
    dir.shell(&(set + &lines.join("\n"))).done()
}

#[test]
fn the_start_script_prints_one_url_by_the_protocol_that_the_server_speaks() {
    for (variables, url) in [
        ("CACHESRV_TLS_CERTIFICATE=none", "http://127.0.0.1:8787"),
        (
            "CACHESRV_TLS_CERTIFICATE=cert.pem",
            "https://127.0.0.1:8787",
        ),
    ] {
        let said = said_by_start(variables);
        let server = format!("  export NX_SELF_HOSTED_REMOTE_CACHE_SERVER={url}");
        let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert_eq!(lines[1], server, "{said}");
    }
}
