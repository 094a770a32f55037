//! What becomes of tokens once they are made: which one a name or an id means, what revoking takes along,
//! what the list and `token inspect` say, and that a secret typed where it does not belong comes back nowhere.

mod support;

use std::io::Write;

use serde_json::Value;
use support::dir::{BINARY, run};
use support::{Dir, Outcome, Server, Token, eventually};

fn list(dir: &Dir) -> Vec<Value> {
    let stdout = dir.cli(&["token", "list", "--json"]).done();
    serde_json::from_str(&stdout).expect("a JSON array")
}

fn listed(dir: &Dir, id: &str) -> Value {
    let found = list(dir).into_iter().find(|token| token["id"] == id);
    found.expect("a token with this id")
}

fn state(dir: &Dir, token: &Token) -> String {
    listed(dir, &token.id)["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// A time of the list as people read it: to the minute.
fn minute(time: &Value) -> String {
    let time = time.as_str().expect("a time");
    format!("{} {}", &time[..10], &time[11..16])
}

fn rotate(dir: &Dir, handle: &str) -> Token {
    let stdout = dir.cli(&["token", "rotate", handle]).done();
    let secret = stdout.trim_end().to_owned();
    let id = secret[5..17].to_owned();
    Token { secret, id }
}

fn set(dir: &Dir, assignment: &str, id: &str) {
    let sql = format!("UPDATE tokens SET {assignment} WHERE public_id = ?1");
    dir.sqlite().execute(&sql, [id]).expect("a token changed");
}

/// Runs `token inspect` with this on stdin.
fn inspect(dir: &Dir, options: &[&str], input: &[u8]) -> Outcome {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let input = input.to_owned();
    let typing = std::thread::spawn(move || {
        // Who has read enough goes away.
        let _ = writer.write_all(&input);
    });
    let mut command = dir.command(BINARY);
    command
        .args(["token", "inspect"])
        .args(options)
        .stdin(reader);
    let outcome = run(&mut command);
    drop(command);
    typing.join().expect("the input was written");
    outcome
}

/// Everything that can be told of tokens and workspaces, to see that nothing changed.
fn everything(dir: &Dir) -> String {
    let columns = "t.id || public_id || workspace_id || access || ifnull(isolated_scope, '-') || ifnull(t.name, '-') ||
                   secret_phc || t.created_at_ms || ifnull(expires_at_ms, '-') || ifnull(revoked_at_ms, '-') ||
                   ifnull(replaced_by, '-')";
    let sql = format!(
        "SELECT (SELECT group_concat({columns}) FROM tokens t) || (SELECT group_concat(name) FROM workspaces)"
    );
    dir.sqlite()
        .query_row(&sql, [], |row| row.get(0))
        .expect("tokens")
}

fn revoked(name: &str, token: &Token) -> String {
    format!(
        "revoked token '{name}' ({}): it is refused from the next request on\n",
        token.id
    )
}

/// What is said of a token that was not revoked and stands in one chain with one that was.
fn lives(name: &str, token: &Token, which: &str) -> String {
    format!(
        "token '{name}' ({0}) that {which} still lives: cachesrv token revoke {0}\n",
        token.id
    )
}

fn done(stderr: String) -> Outcome {
    Outcome {
        code: Some(0),
        stdout: String::new(),
        stderr,
    }
}

// Which token is meant.

#[test]
fn an_id_goes_before_a_name() {
    let dir = Dir::new();
    let meant = dir.token("read");
    let disguised = dir.token_with(&["--name", &meant.id]);
    let new = rotate(&dir, &meant.id);
    assert_eq!(listed(&dir, &meant.id)["replaced_by"], new.id);
    let outcome = dir.cli(&["token", "revoke", &meant.id]);
    let text = format!(
        "revoked token {}: it is refused from the next request on\n\
         token {1} that replaced it still lives: cachesrv token revoke {1}\n",
        meant.id, new.id
    );
    assert_eq!(outcome, done(text));
    assert_eq!(state(&dir, &disguised), "live");
    assert_eq!(state(&dir, &new), "live");
}

#[test]
fn a_name_is_looked_for_in_one_workspace_and_an_id_in_all_unless_one_is_typed() {
    let dir = Dir::new();
    let ours = dir.token_with(&["--name", "ci"]);
    dir.cli(&["workspace", "add", "shop"]).done();
    dir.cli(&["workspace", "add", "site"]).done();
    let theirs = dir.token_with(&["--name", "ci", "--workspace", "shop"]);
    let nameless = dir.token_with(&["--workspace", "shop"]);
    let only_there = dir.token_with(&["--name", "docs", "--workspace", "shop"]);
    let before = everything(&dir);
    for verb in ["revoke", "rotate"] {
        let fails = |args: &[&str], error: &str, hint: &str| {
            let text = format!("error: {error}\ntry: cachesrv token {hint}\n");
            dir.cli(&[&["token", verb], args].concat()).failed(1, &text);
        };
        for typed in ["default", "site"] {
            fails(
                &[&theirs.id, "--workspace", typed],
                &format!(
                    "token 'ci' ({}) belongs to workspace 'shop', not to '{typed}'",
                    theirs.id
                ),
                &format!("{verb} {} --workspace shop", theirs.id),
            );
        }
        fails(
            &[&nameless.id, "--workspace", "default"],
            &format!(
                "token {} belongs to workspace 'shop', not to 'default'",
                nameless.id
            ),
            &format!("{verb} {} --workspace shop", nameless.id),
        );
        fails(
            &["docs"],
            "there is no token 'docs' in workspace 'default', but one in 'shop'",
            &format!("{verb} docs --workspace shop"),
        );
        fails(
            &["docs", "--workspace", "site"],
            "there is no token 'docs' in workspace 'site', but one in 'shop'",
            &format!("{verb} docs --workspace shop"),
        );
        fails(&["nope"], "there is no token 'nope'", "list");
        fails(
            &["nope", "--workspace", "default"],
            "there is no token 'nope' in workspace 'default'",
            "list",
        );
        fails(
            &["nope", "--workspace", "shop"],
            "there is no token 'nope' in workspace 'shop'",
            "list --workspace shop",
        );
        let unknown =
            "error: there is no workspace 'nowhere'\ntry: cachesrv workspace add nowhere\n";
        let outcome = dir.cli(&["token", verb, &ours.id, "--workspace", "nowhere"]);
        outcome.failed(1, unknown);
    }
    assert_eq!(everything(&dir), before);
    let outcome = dir.cli(&["token", "revoke", "docs", "--workspace", "shop"]);
    assert_eq!(outcome, done(revoked("docs", &only_there)));
    // Nobody is sent to a workspace whose tokens are dead.
    let text = "error: there is no token 'docs'\ntry: cachesrv token list\n";
    dir.cli(&["token", "revoke", "docs"]).failed(1, text);
    assert_eq!(
        dir.cli(&["token", "revoke", "ci"]),
        done(revoked("ci", &ours))
    );
    assert_eq!(
        dir.cli(&["token", "revoke", &theirs.id]),
        done(revoked("ci", &theirs))
    );
    dir.cli(&["token", "revoke", &nameless.id, "--workspace", "shop"])
        .done();
}

#[test]
fn the_hints_name_the_database_that_was_asked() {
    let dir = Dir::new();
    let token = dir.token_with(&["--name", "ci", "--db", "other.db"]);
    dir.cli(&["token", "revoke", "ci", "--db", "other.db"])
        .done();
    let text = "error: there is no token 'nope'\ntry: cachesrv token list --db other.db\n";
    dir.cli(&["token", "revoke", "nope", "--db", "other.db"])
        .failed(1, text);
    let outcome = dir.cli(&["token", "rotate", "ci", "--db", "other.db"]);
    let hint = "try: cachesrv token create --read --name ci --db other.db\n";
    assert!(outcome.stderr.ends_with(hint), "{outcome:?}");
    let outcome = dir.cli(&["--db", "other.db", "token", "revoke", &token.secret]);
    let hint = format!("try: cachesrv --db other.db token revoke {}\n", token.id);
    assert!(outcome.stderr.ends_with(&hint), "{outcome:?}");
}

// Revoking.

#[test]
fn a_name_revokes_all_tokens_of_it_and_an_id_that_one() {
    let dir = Dir::new();
    let first = dir.token_with(&["--write", "--name", "ci"]);
    dir.cli(&["workspace", "add", "shop"]).done();
    let elsewhere = dir.token_with(&["--name", "ci", "--workspace", "shop"]);
    let other = dir.token_with(&["--name", "ci-2"]);
    let server = Server::start(&dir);
    let second = rotate(&dir, "ci");
    let third = rotate(&dir, "ci");
    let mut clients = [&first, &second, &third].map(|token| server.client(token));
    for client in &mut clients {
        assert_eq!(client.get("1").status, 404);
    }
    let others = lives("ci", &third, "replaced it") + &lives("ci", &first, "it replaced");
    assert_eq!(
        dir.cli(&["token", "revoke", &second.id]),
        done(revoked("ci", &second) + &others)
    );
    let when = minute(&listed(&dir, &second.id)["revoked_at"]);
    let again = format!("token 'ci' ({}) was revoked already on {when}\n", second.id);
    assert_eq!(
        dir.cli(&["token", "revoke", &second.id]),
        done(again + &others)
    );
    assert_eq!(
        clients.each_mut().map(|client| client.get("1").status),
        [404, 401, 404]
    );
    let text = revoked("ci", &third) + &revoked("ci", &first);
    assert_eq!(dir.cli(&["token", "revoke", "ci"]), done(text));
    assert_eq!(
        clients.each_mut().map(|client| client.get("1").status),
        [401, 401, 401]
    );
    for token in [&elsewhere, &other] {
        assert_eq!(server.client(token).get("1").status, 404);
    }
    let before = everything(&dir);
    let when = minute(&listed(&dir, &third.id)["revoked_at"]);
    let text = format!("token 'ci' ({}) was revoked already on {when}\n", third.id);
    assert_eq!(dir.cli(&["token", "revoke", "ci"]), done(text));
    assert_eq!(everything(&dir), before);
}

#[test]
fn an_id_names_the_living_before_and_after_however_far_away() {
    let dir = Dir::new();
    let first = dir.token_with(&["--name", "ci", "--db", "other.db"]);
    let cli = |args: &[&str]| dir.cli(&[args, &["--db", "other.db"]].concat());
    let next = || {
        let secret = cli(&["token", "rotate", "ci"]).done().trim_end().to_owned();
        let id = secret[5..17].to_owned();
        Token { secret, id }
    };
    let (second, third, fourth, fifth) = (next(), next(), next(), next());
    let lives = |token, which| lives("ci", token, which).replace('\n', " --db other.db\n");
    let revoke = |token: &Token, others: &[String]| {
        let text = revoked("ci", token) + &others.concat();
        assert_eq!(cli(&["token", "revoke", &token.id]), done(text));
    };
    let (after, before) = ("replaced it", "it replaced");
    revoke(
        &third,
        &[
            lives(&fourth, after),
            lives(&fifth, after),
            lives(&second, before),
            lives(&first, before),
        ],
    );
    // What is dead hides nothing and is not spoken of.
    revoke(
        &fourth,
        &[
            lives(&fifth, after),
            lives(&second, before),
            lives(&first, before),
        ],
    );
    revoke(&first, &[lives(&second, after), lives(&fifth, after)]);
    revoke(&fifth, &[lives(&second, before)]);
    revoke(&second, &[]);
}

#[test]
fn a_name_revokes_expired_tokens_too_for_a_clock_that_was_wrong_would_revive_them() {
    let dir = Dir::new();
    let old = dir.token_with(&["--name", "ci"]);
    let server = Server::start(&dir);
    let mut client = server.client(&old);
    assert_eq!(client.get("1").status, 404);
    set(&dir, "expires_at_ms = 1", &old.id);
    let replaced = dir.token_with(&["--name", "ci"]);
    let new = rotate(&dir, "ci");
    dir.cli(&["workspace", "add", "shop"]).done();
    let elsewhere = dir.token_with(&["--name", "ci", "--workspace", "shop"]);
    set(&dir, "expires_at_ms = 1", &elsewhere.id);
    let text = [&new, &replaced, &old].map(|token| revoked("ci", token));
    assert_eq!(dir.cli(&["token", "revoke", "ci"]), done(text.concat()));
    assert_eq!(state(&dir, &elsewhere), "expired");
    // The clock goes right again.
    set(&dir, "expires_at_ms = NULL", &old.id);
    assert_eq!(state(&dir, &old), "revoked");
    assert_eq!(client.get("1").status, 401);
    let before = everything(&dir);
    let when = minute(&listed(&dir, &new.id)["revoked_at"]);
    let text = format!("token 'ci' ({}) was revoked already on {when}\n", new.id);
    assert_eq!(dir.cli(&["token", "revoke", "ci"]), done(text));
    assert_eq!(everything(&dir), before);
    // Where none lives it is the same.
    let two = [(); 2].map(|()| {
        let token = dir.token_with(&["--name", "trial"]);
        set(&dir, "expires_at_ms = 1", &token.id);
        token
    });
    let text = revoked("trial", &two[1]) + &revoked("trial", &two[0]);
    assert_eq!(dir.cli(&["token", "revoke", "trial"]), done(text));
}

// Inspecting.

#[test]
fn inspect_says_what_each_kind_of_token_may_do() {
    let dir = Dir::new();
    dir.token("read");
    dir.cli(&["workspace", "add", "shop"]).done();
    let trusted = "the trusted scope of its workspace";
    let all = "the trusted scope of its workspace, which other builds restore from";
    let named = "the URL names it: https://cache.example/s/pr-123";
    for (options, access, scope, reads, writes) in [
        (&["--read"][..], "read", "-", trusted, "nothing"),
        (&["--write"], "write", "-", trusted, all),
        (&["--write-only"], "write-only", "-", "nothing", all),
        (
            &["--isolated", "pr-1"],
            "isolated",
            "pr-1",
            "the trusted scope of its workspace, then its own isolated scope",
            "its own isolated scope, which no other scope sees",
        ),
        (
            &["--isolated"],
            "isolated",
            named,
            "the trusted scope of its workspace, then the isolated scope that the URL names",
            "the isolated scope that the URL names, which no other scope sees",
        ),
    ] {
        let place = ["--workspace", "shop", "--expires", "30d"];
        let token = dir.token_with(&[options, &place, &["--name", "ci"]].concat());
        let json = listed(&dir, &token.id);
        let (created, expires) = (minute(&json["created_at"]), minute(&json["expires_at"]));
        let text = format!(
            "id         {}\nname       ci\nworkspace  shop\naccess     {access}\nscope      {scope}\nstate      live\n\
             created    {created}\nexpires    {expires}\nlast used  never\nmay read   {reads}\nmay write  {writes}\n",
            token.id
        );
        let outcome = inspect(&dir, &[], token.secret.as_bytes());
        assert_eq!(
            (outcome.code, &*outcome.stdout, &*outcome.stderr),
            (Some(0), &*text, "")
        );
        assert!(text.lines().all(|line| line.chars().count() <= 100));
        dir.cli(&["token", "revoke", &token.id]).done();
    }
}

#[test]
fn inspect_for_scripts_has_the_keys_of_the_list_and_two_more() {
    let dir = Dir::new();
    let token = dir.token_with(&["--isolated", "pr-1", "--name", "prs"]);
    let new = rotate(&dir, "prs");
    let outcome = inspect(&dir, &["--json"], token.secret.as_bytes());
    let mut json: Value = serde_json::from_str(&outcome.done()).expect("a JSON object");
    let object = json.as_object_mut().expect("an object");
    let reads = "the trusted scope of its workspace, then its own isolated scope";
    assert_eq!(object.remove("may_read"), Some(reads.into()));
    let writes = "its own isolated scope, which no other scope sees";
    assert_eq!(object.remove("may_write"), Some(writes.into()));
    assert_eq!(json, listed(&dir, &token.id));
    assert_eq!(
        (&json["state"], &json["scope"]),
        (&"replaced".into(), &"pr-1".into())
    );
    assert_eq!(json["replaced_by"], new.id);
    let json: Value =
        serde_json::from_str(&inspect(&dir, &["--json"], new.secret.as_bytes()).done())
            .expect("JSON");
    assert_eq!(
        (&json["state"], &json["replaced_by"]),
        (&"live".into(), &Value::Null)
    );
}

#[test]
fn a_dead_token_is_inspected_and_its_state_says_so() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--name", "ci"]);
    let line = |key: &str| {
        let stdout = inspect(&dir, &[], token.secret.as_bytes()).done();
        let found = stdout.lines().find_map(|line| line.strip_prefix(key));
        found.unwrap_or_default().trim_start().to_owned()
    };
    let new = rotate(&dir, "ci");
    assert_eq!(line("state"), format!("replaced by token {}", new.id));
    assert_eq!(line("may read"), "the trusted scope of its workspace");
    set(&dir, "expires_at_ms = 1000", &token.id);
    assert_eq!(
        line("state"),
        format!("expired, replaced by token {}", new.id)
    );
    assert_eq!(line("may read"), "nothing: it expired on 1970-01-01 00:00");
    assert_eq!(line("may write"), line("may read"));
    dir.cli(&["token", "revoke", &token.id]).done();
    let when = minute(&listed(&dir, &token.id)["revoked_at"]);
    assert_eq!(
        line("state"),
        format!("revoked, replaced by token {}", new.id)
    );
    assert_eq!(
        line("may write"),
        format!("nothing: it was revoked on {when}")
    );
    set(&dir, "last_used_at_ms = 1000", &token.id);
    assert_eq!(line("last used"), "1970-01-01 00:00");
}

#[test]
fn white_space_and_the_scheme_around_a_token_do_not_matter() {
    let dir = Dir::new();
    let token = dir.token_with(&["--name", "ci"]);
    let secret = &token.secret;
    for input in [
        format!("{secret}\n"),
        format!("\r\n\t {secret} \r\n"),
        format!("Bearer {secret}\n"),
        format!("  bearer   {secret}"),
        format!("{secret}{}", " ".repeat(1024 - 67)),
    ] {
        let outcome = inspect(&dir, &[], input.as_bytes());
        assert!(
            outcome
                .stdout
                .starts_with(&format!("id         {}\n", token.id)),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_token_that_arrives_in_pieces_is_read_to_its_end() {
    let dir = Dir::new();
    let token = dir.token_with(&["--name", "ci"]);
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let mut command = dir.command(BINARY);
    command.args(["token", "inspect"]).stdin(reader);
    let running = std::thread::spawn(move || run(&mut command));
    for piece in token.secret.as_bytes().chunks(30) {
        writer.write_all(piece).expect("somebody reads");
        eventually("the piece was read", || {
            let left = rustix::io::ioctl_fionread(&writer).expect("a pipe");
            (left == 0).then_some(())
        });
    }
    drop(writer);
    let outcome = running.join().expect("the command ends");
    assert!(outcome.stdout.contains(&token.id), "{outcome:?}");
}

#[test]
fn what_is_no_token_of_this_database_is_refused_with_a_sentence() {
    let dir = Dir::new();
    let (token, other) = (dir.token_with(&["--name", "ci"]), dir.token("write"));
    let secret = &token.secret;
    let elsewhere = Dir::new().token("write");
    let nothing =
        "error: there is no token to look at\ntry: printf %s \"$TOKEN\" | cachesrv token inspect\n";
    let no_token = "error: this is not a token: one is the whole line that `cachesrv token create` printed, and begins \
                    with csrv_\n";
    let mistyped = "error: this token was mistyped or cut short, its check digits are wrong: copy the whole line that \
                    `cachesrv token create` printed\n";
    let unknown = format!(
        "error: there is no token {} here: it was made for another database, or forged\ntry: cachesrv token list\n",
        elsewhere.id
    );
    let last = if secret.ends_with('0') { "1" } else { "0" };
    let endless = " ".repeat(10 << 20);
    for (input, text) in [
        ("", nothing),
        (" \r\n\t", nothing),
        (&endless, nothing),
        ("Bearer ", no_token),
        ("hello", no_token),
        (&token.id, no_token),
        ("ci", no_token),
        (&secret[..66], no_token),
        (&format!("{secret}x"), no_token),
        (&format!("{secret} {secret}"), no_token),
        (&format!("{secret}\n{}", other.secret), no_token),
        (&format!("Bearer{secret}"), no_token),
        (&format!("Basic {secret}"), no_token),
        (&format!("{}\0", &secret[..66]), no_token),
        (&secret.to_lowercase().replacen("csrv", "CSRV", 1), no_token),
        (&format!("{}{last}", &secret[..66]), mistyped),
        (&elsewhere.secret, &unknown),
        (&format!("{}{secret}", " ".repeat(1025)), nothing),
        (&format!("{}{endless}", &"x".repeat(1024)), no_token),
    ] {
        for options in [&[][..], &["--json"]] {
            inspect(&dir, options, input.as_bytes()).failed(1, text);
        }
    }
    inspect(&dir, &[], b"\xff\xfe").failed(1, no_token);
    let missing = "error: there is no database 'none.db'\ntry: cachesrv config show --sources\n";
    inspect(&dir, &["--db", "none.db"], secret.as_bytes()).failed(1, missing);
}

#[test]
fn inspect_believes_argon2_and_nothing_cheaper() {
    let dir = Dir::new();
    let (token, other) = (dir.token_with(&["--name", "ci"]), dir.token("write"));
    let text = format!(
        "error: this is not the secret of token 'ci' ({}): it has that id, and was forged\n",
        token.id
    );
    // Its pre-tag is right and its hash another's, then the other way round.
    let others = format!(
        "(SELECT secret_phc FROM tokens WHERE public_id = '{}')",
        other.id
    );
    let own: String = dir
        .sqlite()
        .query_row(
            "SELECT secret_phc FROM tokens WHERE name = 'ci'",
            [],
            |row| row.get(0),
        )
        .expect("a hash");
    set(&dir, &format!("secret_phc = {others}"), &token.id);
    inspect(&dir, &[], token.secret.as_bytes()).failed(1, &text);
    set(&dir, &format!("secret_phc = '{own}'"), &token.id);
    inspect(&dir, &[], token.secret.as_bytes()).done();
    set(&dir, "secret_tag = x'00000000'", &token.id);
    inspect(&dir, &[], token.secret.as_bytes()).failed(1, &text);
}

// The list.

#[test]
fn the_list_shows_workspace_and_scope_only_where_they_are_not_the_ordinary_ones() {
    let dir = Dir::new();
    let headings = |args: &[&str]| {
        let text = dir.cli(&[&["token", "list"], args].concat()).done();
        let heading = text.lines().next().unwrap_or_default().to_owned();
        heading
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join(" ")
    };
    dir.token_with(&["--isolated"]);
    dir.cli(&["workspace", "add", "shop"]).done();
    let ordinary = "ID NAME ACCESS STATE CREATED LAST USED EXPIRES";
    assert_eq!(headings(&[]), ordinary);
    let none = dir.cli(&["token", "list", "--workspace", "shop"]);
    let text = "no tokens in workspace 'shop' yet; make one with `cachesrv token create --write --workspace shop`\n";
    assert_eq!(none, done(text.to_owned()));
    let shop = dir.token_with(&["--write", "--workspace", "shop"]);
    assert_eq!(
        headings(&[]),
        "ID NAME WORKSPACE ACCESS STATE CREATED LAST USED EXPIRES"
    );
    let bound = dir.token_with(&["--isolated", "pr-1"]);
    assert_eq!(
        headings(&[]),
        "ID NAME WORKSPACE ACCESS SCOPE STATE CREATED LAST USED EXPIRES"
    );
    assert_eq!(headings(&["--workspace", "shop"]), ordinary);
    let of_default = dir.cli(&["token", "list", "--workspace", "default"]).done();
    let cells = of_default.lines().map(|line| {
        line.split_whitespace()
            .take(5)
            .collect::<Vec<_>>()
            .join(" ")
    });
    assert_eq!(
        cells.skip(2).collect::<Vec<_>>(),
        [format!("{} - isolated pr-1 live", bound.id)]
    );
    assert!(
        of_default.contains(" any ") && !of_default.contains(&shop.id),
        "{of_default}"
    );
    let json = dir
        .cli(&["token", "list", "--workspace", "shop", "--json"])
        .done();
    let json: Vec<Value> = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json.len(), 1);
    assert_eq!(
        (&json[0]["id"], &json[0]["scope"]),
        (&shop.id.into(), &Value::Null)
    );
    let unknown = "error: there is no workspace 'nope'\ntry: cachesrv workspace add nope\n";
    for options in [&[][..], &["--json"]] {
        let args = [&["token", "list", "--workspace", "nope"], options].concat();
        dir.cli(&args).failed(1, unknown);
    }
}

#[test]
fn the_longest_names_are_whole_in_a_pipe_and_no_date_is_torn() {
    let dir = Dir::new();
    dir.token("read");
    let [name, workspace, scope] = ["n", "w", "s"].map(|letter| letter.repeat(64));
    dir.cli(&["workspace", "add", &workspace]).done();
    let place = ["--workspace", &workspace, "--name", &name];
    let bound = dir.token_with(&[&["--isolated", &scope, "--expires", "30d"], &place[..]].concat());
    let replaced = rotate(&dir, &bound.id);
    dir.token_with(&[
        "--write-only",
        "--name",
        "release",
        "--workspace",
        &workspace,
    ]);
    let text = dir.cli(&["token", "list"]).done();
    for line in text.lines() {
        assert_eq!(line, line.trim_end(), "{text}");
    }
    for id in [&bound.id, &replaced.id] {
        assert!(text.contains(id.as_str()), "{text}");
    }
    // In a pipe each row is one line and each name in one piece, however long.
    let rows = |name: &str| text.lines().filter(|line| line.contains(name)).count();
    assert_eq!(
        (rows(&name), rows(&workspace), rows(&scope)),
        (2, 3, 2),
        "{text}"
    );
    let today = minute(&listed(&dir, &bound.id)["created_at"])[..10].to_owned();
    // Four tokens, one date each of the creation, two of the end.
    assert!(text.matches(&today).count() >= 4, "{text}");
    for word in [
        "replaced",
        "isolated",
        "write-only",
        "release",
        "WORKSPACE",
        "LAST USED",
        "never",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

// Bad input.

#[test]
fn a_command_line_that_contradicts_itself_changes_nothing() {
    let dir = Dir::new();
    dir.token_with(&["--name", "ci"]);
    let before = everything(&dir);
    let accesses = ["--read", "--write", "--isolated", "--write-only"];
    for first in accesses {
        for second in accesses {
            let outcome = dir.cli(&["token", "create", first, second]);
            assert_eq!(
                (outcome.code, &*outcome.stdout),
                (Some(2), ""),
                "{outcome:?}"
            );
            assert!(
                outcome.stderr.starts_with("error: the argument '--"),
                "{outcome:?}"
            );
            let outcome = dir.cli(&["token", "create", "--isolated=pr-1", second]);
            assert_eq!(
                (outcome.code, &*outcome.stdout),
                (Some(2), ""),
                "{outcome:?}"
            );
        }
    }
    let long = "s".repeat(65);
    for scope in [
        "", ".", "..", "a/b", "%2e%2e", "a b", "ä", "a\n", "*", &long,
    ] {
        let shown = scope.replace('\n', "\\n");
        let rule = "use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', but not '.' or '..'";
        let text = format!("error: '{shown}' cannot name a scope: {rule}\n");
        dir.cli(&["token", "create", &format!("--isolated={scope}")])
            .failed(2, &text);
    }
    let unknown = "error: there is no workspace 'nope'\ntry: cachesrv workspace add nope\n";
    dir.cli(&["token", "create", "--workspace", "nope"])
        .failed(1, unknown);
    let taken = "error: a token named 'ci' exists already: choose another name, or replace its secret\ntry: cachesrv token rotate ci\n";
    dir.cli(&["token", "create", "--name", "ci"])
        .failed(1, taken);
    let exists = "error: there is a workspace 'default' already\ntry: cachesrv workspace list\n";
    dir.cli(&["workspace", "add", "default"]).failed(1, exists);
    assert_eq!(everything(&dir), before);
}

#[test]
fn a_secret_on_a_command_line_comes_back_nowhere() {
    let dir = Dir::new();
    let token = dir.token_with(&["--write", "--name", "ci"]);
    let before = everything(&dir);
    let secret = &token.secret;
    let sentence = format!(
        "error: this is a token's secret (its id is {}), which should not be on a command line: others can see it \
         there, and the shell remembers it\n",
        token.id
    );
    let id = &token.id;
    let (by_name, scheme) = (format!("--name={secret}"), format!("Bearer {secret}"));
    for (args, hint) in [
        (
            &["token", "revoke", secret][..],
            Some(format!("token revoke {id}")),
        ),
        (
            &["token", "rotate", secret, "--overlap", "0s"],
            Some(format!("token rotate {id} --overlap 0s")),
        ),
        (
            &["token", "revoke", &secret[..40]],
            Some(format!("token revoke {id}")),
        ),
        (
            &["token", "revoke", &scheme],
            Some(format!("token revoke {id}")),
        ),
        (
            &["token", "inspect", secret, "--json"],
            Some("token inspect --json".to_owned()),
        ),
        (&["token", "list", secret], None),
        (&["token", "create", "--name", secret], None),
        (&["token", "create", &by_name], None),
        (&["token", "create", "--isolated", secret], None),
        (&["token", "create", "--workspace", secret], None),
        (&["token", "create", "--expires", secret], None),
        (&["token", "revoke", "ci", "--workspace", secret], None),
        (&["workspace", "add", secret], None),
        (&["serve", "--listen", secret], None),
        (&["serve", "--set", &format!("listen={secret}")], None),
        (&["--db", secret, "token", "list"], None),
        (&[secret], None),
    ] {
        let hint = hint.map_or_else(String::new, |hint| format!("try: cachesrv {hint}\n"));
        dir.cli(args).failed(2, &format!("{sentence}{hint}"));
    }
    assert_eq!(everything(&dir), before);
    assert_eq!(dir.files(), ["cachesrv.db"]);
    // A file may have a name that begins like a token.
    dir.token_with(&["--db", "csrv_production12_x.db"]);
    assert_eq!(dir.files(), ["cachesrv.db", "csrv_production12_x.db"]);
}
