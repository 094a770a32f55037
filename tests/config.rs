//! The four layers of the configuration, through the real binary: which one wins, what each value says
//! of its source, and what every mistake is answered with, to the letter.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cachesrv::config::{SETTINGS, Setting};
use tempfile::TempDir;

/// A directory of its own and a command with no environment but what is given to it.
struct Bench {
    directory: TempDir,
    variables: Vec<(OsString, OsString)>,
}

/// What a run left behind.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Bench {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            variables: Vec::new(),
        }
    }

    fn with_variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    fn with_file(self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.directory.path().join(name), content).expect("a file written");
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cachesrv"));
        command
            .args(args)
            .current_dir(self.directory.path())
            .env_clear();
        command
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let output = self.command(args).output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Outcome {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Asserts that `config show` fails with exactly this, and prints nothing on stdout.
    fn fails(&self, args: &[&str], stderr: &str) {
        let args = [&["config", "show"], args].concat();
        let expected = Outcome {
            code: Some(2),
            stdout: String::new(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(self.run(&args), expected, "{args:?}");
    }

    /// The value and source of a setting, as JSON tells them.
    fn shown(&self, args: &[&str], key: &str) -> (String, String) {
        let outcome = self.run(&[&["config", "show", "--json"], args].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let json: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        let value = match &json[key]["value"] {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        (
            value,
            json[key]["source"].as_str().expect("a source").to_owned(),
        )
    }
}

/// A possible value that is not the default, and how TOML writes it.
fn another(setting: &Setting) -> (&'static str, &'static str) {
    match setting.key {
        "db" => ("/srv/other.db", "'/srv/other.db'"),
        "listen" => ("[::1]:9000", "\"[::1]:9000\""),
        "limits.connections_max" => ("7", "7"),
        "tls.certificate" | "tls.key" | "backup.dir" => ("/srv/x", "'/srv/x'"),
        "metrics.listen" => ("[::1]:9001", "\"[::1]:9001\""),
        "eviction.isolated_share" | "backup.keep" => ("5", "5"),
        "eviction.max_age" | "eviction.isolated_max_age" | "backup.every" => ("90s", "\"90s\""),
        "limits.artifact_max_size"
        | "limits.upload_memory"
        | "eviction.min_free_disk"
        | "limits.isolated_scope_max_size"
        | "limits.isolated_max_size" => ("3GiB", "\"3GiB\""),
        // Room for such an artifact.
        "eviction.max_size" => ("30GiB", "\"30GiB\""),
        "limits.body_min_rate" => ("2KiB", "2048"),
        "limits.idle_timeout" => ("100s", "\"100s\""),
        "log.format" => ("json", "\"json\""),
        "nx.put_status" => ("202", "202"),
        "durability.synchronous" => ("full", "\"full\""),
        _ if setting.default == "true" => ("false", "false"),
        _ if setting.default == "false" => ("true", "true"),
        key if key.ends_with("_timeout") || key.ends_with("_grace") || key.ends_with("_wait") => {
            ("1500ms", "\"1500ms\"")
        }
        key => panic!("give '{key}' another value here"),
    }
}

fn pair(value: &str, source: &str) -> (String, String) {
    (value.to_owned(), source.to_owned())
}

#[test]
fn every_setting_can_be_given_in_every_layer_and_says_where_it_came_from() {
    for setting in SETTINGS {
        let (value, toml) = another(setting);
        let key = setting.key;
        assert_eq!(
            Bench::new().shown(&[], key),
            pair(setting.default, "default")
        );

        let in_file = Bench::new().with_file("c.toml", format!("# a comment\n\n{key} = {toml}\n"));
        assert_eq!(
            in_file.shown(&["--config", "c.toml"], key),
            pair(value, "c.toml:3")
        );

        let variable = setting.variable();
        let in_variable = Bench::new().with_variable(&variable, value);
        assert_eq!(in_variable.shown(&[], key), pair(value, &variable));

        let set = format!("{key}={value}");
        assert_eq!(
            Bench::new().shown(&["--set", &set], key),
            pair(value, "--set")
        );
    }
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    for (key, file, variable, flag) in [
        ("db", "file.db", "variable.db", "flag.db"),
        ("listen", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"),
        ("limits.idle_timeout", "101s", "102s", "103s"),
        ("limits.upload_memory", "11MiB", "12MiB", "13MiB"),
    ] {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.key == key)
            .expect(key);
        let name = setting.variable();
        let set = format!("{key}={flag}");
        let by_file = Bench::new().with_file("c.toml", format!("{key} = '{file}'"));
        assert_eq!(by_file.shown(&[], key), pair(setting.default, "default"));
        assert_eq!(
            by_file.shown(&["--config", "c.toml"], key),
            pair(file, "c.toml:1")
        );
        let by_variable = by_file.with_variable(&name, variable);
        assert_eq!(
            by_variable.shown(&["--config", "c.toml"], key),
            pair(variable, &name)
        );
        assert_eq!(
            by_variable.shown(&["--config", "c.toml", "--set", &set], key),
            pair(flag, "--set")
        );
    }
}

#[test]
fn a_layer_leaves_alone_what_it_does_not_mention() {
    let bench = Bench::new()
        .with_file(
            "c.toml",
            "[limits]\nhead_timeout = '1s'\nbody_timeout = '2s'",
        )
        .with_variable("CACHESRV_LIMITS_BODY_TIMEOUT", "3s");
    let args = ["--config", "c.toml", "--set", "limits.write_timeout=4s"];
    assert_eq!(
        bench.shown(&args, "limits.head_timeout"),
        pair("1s", "c.toml:2")
    );
    assert_eq!(
        bench.shown(&args, "limits.body_timeout"),
        pair("3s", "CACHESRV_LIMITS_BODY_TIMEOUT")
    );
    assert_eq!(
        bench.shown(&args, "limits.write_timeout"),
        pair("4s", "--set")
    );
    assert_eq!(
        bench.shown(&args, "limits.shutdown_grace"),
        pair("30s", "default")
    );
}

#[test]
fn the_file_is_named_by_the_flag_before_the_variable() {
    let bench = Bench::new()
        .with_file("flag.toml", "db = 'flag.db'")
        .with_file("variable.toml", "db = 'variable.db'")
        .with_variable("CACHESRV_CONFIG", "variable.toml");
    assert_eq!(
        bench.shown(&[], "db"),
        pair("variable.db", "variable.toml:1")
    );
    assert_eq!(
        bench.shown(&["--config", "flag.toml"], "db"),
        pair("flag.db", "flag.toml:1")
    );
}

#[test]
fn no_file_is_read_that_was_not_named() {
    let broken = "this is not TOML";
    let bench = Bench::new()
        .with_file("cachesrv.toml", broken)
        .with_file(".cachesrv.toml", broken);
    assert_eq!(bench.shown(&[], "db"), pair("cachesrv.db", "default"));
}

#[test]
fn options_before_and_after_the_command_count_together() {
    let bench = Bench::new();
    let before = ["--set", "log.format=json", "--db", "x.db"];
    let after = ["config", "show", "--set", "log.requests=false"];
    let outcome = bench.run(&[before, after].concat());
    assert!(outcome.stdout.contains("db = \"x.db\""), "{outcome:?}");
    assert!(
        outcome
            .stdout
            .contains("format = \"json\"\nrequests = false"),
        "{outcome:?}"
    );
}

#[test]
fn what_show_prints_is_a_file_that_shows_the_same() {
    let sets: Vec<String> = SETTINGS
        .iter()
        .map(|setting| format!("--set={}={}", setting.key, another(setting).0))
        .collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    for form in [&["config", "show"][..], &["config", "show", "--sources"]] {
        let first = Bench::new().run(&[form, &sets].concat());
        assert_eq!((first.code, first.stderr.as_str()), (Some(0), ""));
        let again = Bench::new().with_file("c.toml", &first.stdout);
        let plain = Bench::new().run(&[&["config", "show"][..], &sets].concat());
        assert_eq!(again.run(&["config", "show", "--config", "c.toml"]), plain);
    }
}

#[test]
fn sources_stand_in_columns() {
    let bench = Bench::new().with_variable("CACHESRV_LISTEN", "127.0.0.1:1");
    let outcome = bench.run(&["config", "show", "--sources", "--db", "x.db"]);
    let mut lines = outcome.stdout.lines();
    assert_eq!(
        lines.next(),
        Some("db                             = \"x.db\"         # --db")
    );
    assert_eq!(
        lines.next(),
        Some("listen                         = \"127.0.0.1:1\"  # CACHESRV_LISTEN")
    );
    assert_eq!(
        lines.next(),
        Some("behind_proxy                   = false          # default")
    );
    assert_eq!(outcome.stdout.lines().count(), SETTINGS.len());
    let columns: Vec<_> = outcome
        .stdout
        .lines()
        .map(|line| line.find("  # ").is_some())
        .collect();
    assert!(columns.iter().all(|found| *found));
}

#[test]
fn mistakes_in_the_file_name_the_file_and_the_line() {
    for (content, stderr) in [
        (
            "db = 'x'\n\n[limits]\n# four\n\n\nartifact_size = '1GiB'",
            "cachesrv.toml:7: unknown key 'limits.artifact_size'; did you mean 'limits.artifact_max_size'?",
        ),
        (
            "\n[limit]",
            "cachesrv.toml:2: unknown table 'limit'; did you mean 'limits'?",
        ),
        (
            "[limits]\nconnections_max = 0",
            "cachesrv.toml:2: limits.connections_max: '0' is too small, the least is 1",
        ),
        (
            "[limits]\nidle_timeout = '90'",
            "cachesrv.toml:2: limits.idle_timeout: '90' has no unit, \
             write a duration like '30d', '12h', '90s' or '500ms'",
        ),
        (
            "[limits]\nartifact_max_size = '300GiB'",
            "cachesrv.toml:2: limits.artifact_max_size: '300GiB' is too large, the most is 200GiB",
        ),
        (
            "listen = 'localhost:1'",
            "cachesrv.toml:1: listen: 'localhost:1' is not an IP address and port, \
             write it like '127.0.0.1:8787' or '[::]:8787'",
        ),
        (
            "behind_proxy = 1",
            "cachesrv.toml:1: behind_proxy: must be true or false, not an integer",
        ),
        (
            "nx.put_status = 201",
            "cachesrv.toml:1: nx.put_status: '201' is not '200' or '202'",
        ),
        (
            "log = 'json'",
            "cachesrv.toml:1: 'log' is a string, not a table: write [log]",
        ),
        (
            "db = 'a'\ndb = 'b'",
            "cachesrv.toml:2: not TOML: duplicate key",
        ),
        (
            "# one\nlisten = 127.0.0.1:8787",
            "cachesrv.toml:2: not TOML: invalid float; text, addresses, sizes and times stand in quotes",
        ),
    ] {
        let bench = Bench::new().with_file("cachesrv.toml", content);
        bench.fails(
            &["--config", "cachesrv.toml"],
            &format!("error: {stderr}\n"),
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let bench = Bench::new()
        .with_file("latin.toml", b"# one\ndb = 'caf\xe9'")
        .with_file("large.toml", vec![b'#'; (1 << 20) + 1]);
    for (path, stderr) in [
        (
            "none.toml",
            "none.toml: cannot be read: No such file or directory (os error 2)",
        ),
        (".", ".: cannot be read: Is a directory (os error 21)"),
        ("latin.toml", "latin.toml:2: is not UTF-8"),
        (
            "large.toml",
            "large.toml: is larger than 1MiB, so it is no configuration file",
        ),
        (
            "/dev/zero",
            "/dev/zero: is larger than 1MiB, so it is no configuration file",
        ),
        (
            "a\nb\u{1b}[2J",
            "a\\nb\\u{1b}[2J: cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        bench.fails(&["--config", path], &format!("error: {stderr}\n"));
    }
    let named_by_variable = Bench::new().with_variable("CACHESRV_CONFIG", "gone.toml");
    named_by_variable.fails(
        &[],
        "error: gone.toml: cannot be read: No such file or directory (os error 2)\n",
    );
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    for (name, value, stderr) in [
        (
            "CACHESRV_LISTN",
            "x",
            "CACHESRV_LISTN: unknown variable; did you mean 'CACHESRV_LISTEN'?\n",
        ),
        (
            "CACHESRV_LIMITS_ARTIFACT_SIZE",
            "x",
            "CACHESRV_LIMITS_ARTIFACT_SIZE: unknown variable; \
             did you mean 'CACHESRV_LIMITS_ARTIFACT_MAX_SIZE'?\n",
        ),
        (
            "CACHESRV_TOKEN",
            "csrv_a_secret",
            "CACHESRV_TOKEN: unknown variable\ntry: cachesrv config show --help\n",
        ),
        (
            "CACHESRV_PORT",
            "8787",
            "CACHESRV_PORT: unknown variable\ntry: cachesrv config show --help\n",
        ),
        (
            "CACHESRV_DB",
            "",
            "CACHESRV_DB: is empty, write the path of a file\n",
        ),
        (
            "CACHESRV_CONFIG",
            "",
            "CACHESRV_CONFIG: is empty, write the path of a file or unset it\n",
        ),
        (
            "CACHESRV_LOG_REQUESTS",
            "yes",
            "CACHESRV_LOG_REQUESTS: 'yes' is not 'true' or 'false'\n",
        ),
        (
            "CACHESRV_LIMITS_UPLOAD_MEMORY",
            "1MiB",
            "CACHESRV_LIMITS_UPLOAD_MEMORY: '1MiB' is too small, the least is 4MiB\n",
        ),
    ] {
        let bench = Bench::new().with_variable(name, value);
        bench.fails(&[], &format!("error: {stderr}"));
    }
}

#[test]
fn a_variable_that_is_not_utf8_is_an_error() {
    let bench = Bench::new().with_variable("CACHESRV_DB", OsStr::from_bytes(b"\xff.db"));
    bench.fails(&[], "error: CACHESRV_DB: its value is not UTF-8\n");
}

#[test]
fn what_kubernetes_sets_for_a_service_of_this_name_is_no_mistake() {
    let bench = Bench::new()
        .with_variable("CACHESRV_SERVICE_HOST", "10.0.0.7")
        .with_variable("CACHESRV_SERVICE_PORT", "8787")
        .with_variable("CACHESRV_PORT", "tcp://10.0.0.7:8787")
        .with_variable("CACHESRV_PORT_8787_TCP_ADDR", "10.0.0.7");
    assert_eq!(
        bench.shown(&[], "listen"),
        pair("127.0.0.1:8787", "default")
    );
}

#[test]
fn mistakes_in_flags_name_the_flag() {
    let bench = Bench::new();
    for (args, stderr) in [
        (
            &["--set", "listen"][..],
            "--set: 'listen' is not KEY=VALUE, write it like limits.idle_timeout=120s\n",
        ),
        (
            &["--set", "=x"],
            "--set: unknown key ''\ntry: cachesrv config show --help\n",
        ),
        (
            &["--set", "listn=x"],
            "--set: unknown key 'listn'; did you mean 'listen'?\n",
        ),
        (
            &["--set", "log.format=xml"],
            "--set log.format: 'xml' is not 'text' or 'json'\n",
        ),
        (
            &["--set", "listen=127.0.0.1:0=1"],
            "--set listen: '127.0.0.1:0=1' is not an IP address and port, \
            write it like '127.0.0.1:8787' or '[::]:8787'\n",
        ),
        (&["--db", ""], "--db: is empty, write the path of a file\n"),
        (
            &["--db", "a", "--set", "db=b"],
            "--set: 'db' is already given by --db\n",
        ),
        (
            &["--set", "db=a", "--set", "db=b"],
            "--set: 'db' is already given by --set\n",
        ),
    ] {
        bench.fails(args, &format!("error: {stderr}"));
    }
    let twice = bench.run(&["--config", "a", "config", "show", "--config", "b"]);
    assert_eq!(
        twice.stderr,
        "error: --config: given twice, before the command and after it\n"
    );
    let listen = bench.run(&["serve", "--listen", "8787"]);
    assert_eq!((listen.code, listen.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        listen.stderr,
        "error: --listen: '8787' is not an IP address and port, \
         write it like '127.0.0.1:8787' or '[::]:8787'\n"
    );
}

#[test]
fn a_mistake_that_a_higher_layer_hides_is_still_a_mistake() {
    let bench = Bench::new()
        .with_file("c.toml", "listen = 'x:y'")
        .with_variable("CACHESRV_LISTEN", "[::]:1");
    let outcome = bench.run(&[
        "config",
        "show",
        "--config",
        "c.toml",
        "--set",
        "listen=[::]:2",
    ]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome
            .stderr
            .starts_with("error: c.toml:1: listen: 'x:y' is not"),
        "{outcome:?}"
    );
}

#[test]
fn a_value_that_will_hurt_is_warned_about_on_stderr_only() {
    let bench = Bench::new();
    let outcome = bench.run(&["config", "show", "--set", "limits.idle_timeout=60s"]);
    assert_eq!(outcome.code, Some(0));
    assert!(!outcome.stdout.contains("warning"));
    assert_eq!(
        outcome.stderr,
        "warning: limits.idle_timeout is 60s, but Nx keeps idle connections for 90s: a server that closes \
         first fails builds now and then, so give it 95s or more\n"
    );
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    for args in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["--help"],
    ] {
        let writer = writer.try_clone().expect("a second end");
        let output = Bench::new()
            .command(args)
            .stdout(writer)
            .output()
            .expect("the binary runs");
        assert_eq!(
            (output.status.code(), output.stderr.as_slice()),
            (Some(0), &b""[..]),
            "{args:?}"
        );
    }
}

#[test]
fn a_full_disk_under_stdout_is_a_failure() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let output = Bench::new()
        .command(&["config", "show"])
        .stdout(full)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        stderr,
        "error: cannot write to stdout: No space left on device (os error 28)\n"
    );
}
