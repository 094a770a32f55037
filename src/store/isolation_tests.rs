//! Scopes in the store: what is apart, what is counted, and what the schema itself refuses.

use super::tests::*;
use super::*;

const TRUSTED: Scope = Scope::Trusted(ScopeId(1));

pub(super) fn isolated(name: &str) -> Scope {
    Scope::Isolated(WorkspaceId(1), Name::parse(name).unwrap())
}

/// A store with an isolated token that is not bound to a scope.
pub(super) fn fixture() -> (Fixture, TokenId) {
    let fixture = Fixture::new();
    let token = add_token(&fixture.path(), "isolated", Access::Isolated);
    (fixture, token)
}

fn new_isolated(writer: TokenId, scope: &str, hash: &str, size_bytes: usize) -> NewArtifact {
    NewArtifact {
        scope: isolated(scope),
        unless_in: Some(TRUSTED),
        hash: hash.to_owned(),
        size_bytes: size_bytes as u64,
        writer,
        writer_address: "127.0.0.1".to_owned(),
    }
}

pub(super) fn put(
    fixture: &Fixture,
    writer: TokenId,
    scope: &str,
    hash: &str,
    bytes: &[u8],
) -> Stored {
    fixture.put_new(new_isolated(writer, scope, hash, bytes.len()), bytes)
}

/// What the counters say, and what the artifacts say.
pub(super) fn counters_are_facts(fixture: &Fixture) {
    let wrong = fixture.count(
        "SELECT count(*) FROM isolated_usage AS kept JOIN
         (SELECT scopes.id, count(artifacts.id) AS entries, ifnull(sum(artifacts.size_bytes), 0) AS size_bytes
          FROM scopes LEFT JOIN artifacts ON scope_id = scopes.id AND state = 'stored'
          WHERE kind = 'isolated' GROUP BY scopes.id) AS fact ON fact.id = kept.scope_id
         WHERE fact.entries <> kept.entries OR fact.size_bytes <> kept.size_bytes",
    );
    assert_eq!(wrong, 0);
    let wrong = fixture.count(
        "SELECT count(*) FROM isolated_totals AS kept
         WHERE size_bytes <> (SELECT ifnull(sum(size_bytes), 0) FROM isolated_usage AS of_scope
                              WHERE of_scope.workspace_id = kept.workspace_id)
            OR entries <> (SELECT ifnull(sum(entries), 0) FROM isolated_usage AS of_scope
                           WHERE of_scope.workspace_id = kept.workspace_id)
            OR scopes <> (SELECT count(*) FROM isolated_usage AS of_scope
                          WHERE of_scope.workspace_id = kept.workspace_id AND entries > 0)",
    );
    assert_eq!(wrong, 0);
    let wrong = fixture.count(
        "SELECT count(*) FROM trusted_usage AS kept WHERE (entries, size_bytes) IS NOT
         (SELECT count(*), ifnull(sum(size_bytes), 0) FROM artifacts
          WHERE scope_id = kept.scope_id AND state = 'stored')",
    );
    assert_eq!(wrong, 0);
}

#[test]
fn one_hash_is_apart_in_each_scope() {
    let (fixture, token) = fixture();
    assert_eq!(put(&fixture, token, "a", "1", b"of a"), Stored::New);
    assert_eq!(put(&fixture, token, "b", "1", b"of b"), Stored::New);
    assert_eq!(fixture.put("1", b"trusted"), Stored::New);
    let get = |scope: &Scope| fixture.get_from([scope], "1").unwrap();
    assert_eq!(get(&isolated("a")), b"of a");
    assert_eq!(get(&isolated("b")), b"of b");
    assert_eq!(get(&TRUSTED), b"trusted");
    let chain = [&TRUSTED, &isolated("a")];
    assert_eq!(fixture.get_from(chain, "1").unwrap(), b"trusted");
    assert_eq!(fixture.get_from([&isolated("c")], "1"), None);
    counters_are_facts(&fixture);
}

#[test]
fn an_isolated_entry_is_refused_by_one_in_trusted_even_if_that_came_during_the_upload() {
    let (fixture, token) = fixture();
    let new = new_isolated(token, "a", "1", 10);
    let Admission::Upload(mut upload) = fixture.admission(new) else {
        panic!("refused")
    };
    receive(&mut upload, &bytes(10, 1));
    assert_eq!(fixture.put("1", b"trusted"), Stored::New);
    assert_eq!(upload.finish().unwrap(), Stored::Exists);
    assert_eq!(put(&fixture, token, "a", "1", b"again"), Stored::Exists);
    assert_eq!(fixture.get_from([&isolated("a")], "1"), None);
    counters_are_facts(&fixture);
}

#[test]
fn a_scope_holds_no_more_than_its_quota_and_what_is_in_flight_counts() {
    let (fixture, token) = fixture();
    let over = Stored::OverQuota(Quota::Scope(1000));
    assert_eq!(put(&fixture, token, "a", "1", &bytes(600, 1)), Stored::New);
    assert_eq!(put(&fixture, token, "a", "2", &bytes(401, 1)), over);
    let Admission::Upload(in_flight) = fixture.admission(new_isolated(token, "a", "2", 400)) else {
        panic!("refused")
    };
    assert_eq!(put(&fixture, token, "a", "3", b"x"), over);
    // Over the quota comes before the conflict, which would tell what is stored.
    assert_eq!(put(&fixture, token, "a", "1", b"x"), over);
    drop(in_flight);
    assert_eq!(put(&fixture, token, "a", "1", b"x"), Stored::Exists);
    assert_eq!(put(&fixture, token, "a", "3", &bytes(400, 1)), Stored::New);
    assert_eq!(put(&fixture, token, "a", "4", b""), over);
    assert_eq!(put(&fixture, token, "b", "4", b"x"), Stored::New);
    counters_are_facts(&fixture);
}

#[test]
fn the_isolated_scopes_of_a_workspace_share_a_quota_that_trusted_entries_do_not_touch() {
    let (fixture, token) = fixture();
    for scope in ["a", "b"] {
        assert_eq!(
            put(&fixture, token, scope, "1", &bytes(1000, 1)),
            Stored::New
        );
    }
    let over = Stored::OverQuota(Quota::Workspace(2500));
    assert_eq!(put(&fixture, token, "c", "1", &bytes(501, 1)), over);
    assert_eq!(put(&fixture, token, "c", "1", &bytes(500, 1)), Stored::New);
    assert_eq!(put(&fixture, token, "d", "1", b"x"), over);
    assert_eq!(fixture.put("1", &bytes(100_000, 1)), Stored::New);
    let shop = Name::parse("shop").unwrap();
    let mut admin = Admin::open(&fixture.path()).unwrap();
    assert!(admin.add_workspace(&shop).unwrap());
    let workspace = admin.workspace("shop").unwrap().unwrap();
    let token = NewToken {
        workspace,
        ..new_token("shopper", Access::Isolated)
    };
    assert_eq!(admin.create_token(&token).unwrap(), Created::Done);
    let writer = admin.tokens().unwrap().last().unwrap().id;
    let new = NewArtifact {
        scope: Scope::Isolated(workspace, Name::parse("a").unwrap()),
        ..new_isolated(writer, "a", "2", 1000)
    };
    assert_eq!(fixture.put_new(new, &bytes(1000, 1)), Stored::New);
    counters_are_facts(&fixture);
}

#[test]
fn uploads_that_raced_past_the_first_look_are_stopped_by_the_second() {
    let (fixture, token) = fixture();
    let limits = fixture.store.quotas.limits();
    assert_eq!(put(&fixture, token, "a", "1", &bytes(600, 1)), Stored::New);
    let connection = Connection::open(fixture.path()).unwrap();
    let exceeded = |size_bytes| {
        limits
            .exceeded(&connection, &isolated("a"), size_bytes)
            .unwrap()
    };
    assert_eq!(exceeded(400), None);
    assert_eq!(exceeded(401), Some(Quota::Scope(1000)));
    // In the transaction itself: the row changes under an upload that was promised its room.
    let Admission::Upload(mut upload) = fixture.admission(new_isolated(token, "a", "2", 400))
    else {
        panic!("refused")
    };
    receive(&mut upload, &bytes(400, 1));
    connection
        .execute("UPDATE isolated_usage SET size_bytes = size_bytes + 1", [])
        .unwrap();
    assert_eq!(
        upload.finish().unwrap(),
        Stored::OverQuota(Quota::Scope(1000))
    );
}

#[test]
fn tiny_entries_are_bounded_by_their_number() {
    let (fixture, token) = fixture();
    let connection = Connection::open(fixture.path()).unwrap();
    assert_eq!(put(&fixture, token, "a", "1", b"x"), Stored::New);
    let claim = |column: &str, number: u64| {
        let sql = format!("UPDATE {column} = {number}");
        connection.execute(&sql, []).unwrap();
    };
    claim("isolated_usage SET entries", 99_999);
    assert_eq!(put(&fixture, token, "a", "2", b"x"), Stored::New);
    let over = Stored::OverQuota(Quota::ScopeEntries(100_000));
    assert_eq!(put(&fixture, token, "a", "3", b"x"), over);
    assert_eq!(put(&fixture, token, "b", "3", b"x"), Stored::New);
    claim("isolated_totals SET entries", 1_000_000);
    let over = Stored::OverQuota(Quota::WorkspaceEntries(1_000_000));
    assert_eq!(put(&fixture, token, "b", "4", b"x"), over);
    claim("isolated_totals SET entries", 999_999);
    assert_eq!(put(&fixture, token, "b", "4", b"x"), Stored::New);
}

#[test]
fn an_isolated_upload_that_is_dropped_gives_its_room_back() {
    let (fixture, token) = fixture();
    for round in 0..3 {
        let Admission::Upload(mut upload) = fixture.admission(new_isolated(token, "a", "1", 1000))
        else {
            panic!("refused in round {round}")
        };
        receive(&mut upload, &bytes(999, 1));
        drop(upload);
    }
    counters_are_facts(&fixture);
}

#[test]
fn the_first_entry_of_a_token_is_remembered_even_when_it_is_gone() {
    let (fixture, token) = fixture();
    let first = || {
        let tokens = Admin::open(&fixture.path()).unwrap().tokens().unwrap();
        tokens
            .into_iter()
            .find(|t| t.id == token)
            .unwrap()
            .first_artifact_id
    };
    assert_eq!(first(), None);
    assert_eq!(put(&fixture, token, "a", "1", b"x"), Stored::New);
    let noted = first().expect("noted");
    assert_eq!(fixture.count("SELECT id FROM artifacts"), noted);
    assert_eq!(put(&fixture, token, "a", "1", b"x"), Stored::Exists);
    assert_eq!(put(&fixture, token, "a", "2", b"x"), Stored::New);
    let connection = Connection::open(fixture.path()).unwrap();
    let sql = "UPDATE artifacts SET state = 'condemned', condemned_at_ms = 0, condemned_reason = 'purged'";
    connection.execute(sql, []).unwrap();
    assert_eq!(first(), Some(noted));
    counters_are_facts(&fixture);
}

#[test]
fn the_schema_refuses_every_writer_that_may_not_store_in_a_scope() {
    let (mut fixture, isolated_token) = fixture();
    let path = fixture.path();
    let bound = {
        let name = Name::parse("bound").unwrap();
        let token = NewToken {
            isolated_scope: Some(&name),
            ..new_token("bound", Access::Isolated)
        };
        let mut admin = Admin::open(&path).unwrap();
        assert_eq!(admin.create_token(&token).unwrap(), Created::Done);
        admin.tokens().unwrap().last().unwrap().id
    };
    let stranger = {
        let mut admin = Admin::open(&path).unwrap();
        assert!(admin.add_workspace(&Name::parse("shop").unwrap()).unwrap());
        let workspace = admin.workspace("shop").unwrap().unwrap();
        let token = NewToken {
            workspace,
            ..new_token("stranger", Access::Write)
        };
        assert_eq!(admin.create_token(&token).unwrap(), Created::Done);
        admin.tokens().unwrap().last().unwrap().id
    };
    let reader = add_token(&path, "reader", Access::Read);
    let writer = fixture.writer;
    let write_only = add_token(&path, "release", Access::WriteOnly);
    for (token, scope, may) in [
        (writer, TRUSTED, true),
        (write_only, TRUSTED, true),
        (isolated_token, isolated("x"), true),
        (bound, isolated("bound"), true),
        (isolated_token, TRUSTED, false),
        (bound, TRUSTED, false),
        (bound, isolated("x"), false),
        (reader, TRUSTED, false),
        (reader, isolated("x"), false),
        (writer, isolated("x"), false),
        (write_only, isolated("x"), false),
        (stranger, TRUSTED, false),
    ] {
        fixture.scope = scope.clone();
        fixture.writer = token;
        let hash = format!("{}-{may}", token.0);
        let mut upload = fixture.upload(&hash, 10);
        receive(&mut upload, &bytes(10, 1));
        let outcome = upload.finish();
        assert_eq!(
            outcome == Ok(Stored::New),
            may,
            "{token:?} {scope:?} {outcome:?}"
        );
        assert_eq!(fixture.get_from([&scope], &hash).is_some(), may);
    }
    counters_are_facts(&fixture);
}

#[test]
fn nothing_is_ever_promoted() {
    let (fixture, token) = fixture();
    put(&fixture, token, "a", "1", b"x");
    let mut admin = Admin::open(&fixture.path()).unwrap();
    assert!(admin.add_workspace(&Name::parse("shop").unwrap()).unwrap());
    let connection = Connection::open(fixture.path()).unwrap();
    connection
        .execute(
            "UPDATE tokens SET revoked_at_ms = 1 WHERE id = ?1",
            [token.0],
        )
        .unwrap();
    for (change, refusal) in [
        ("artifacts SET scope_id = 1", "a stored entry never changes"),
        (
            "artifacts SET writer_token_id = 1",
            "a stored entry never changes",
        ),
        (
            "scopes SET kind = 'trusted', name = NULL WHERE kind = 'isolated'",
            "a scope never changes",
        ),
        (
            "scopes SET name = 'b' WHERE kind = 'isolated'",
            "a scope never changes",
        ),
        (
            "scopes SET workspace_id = 2 WHERE kind = 'isolated'",
            "a scope never changes",
        ),
        (
            "tokens SET access = 'write' WHERE access = 'isolated'",
            "a token never changes",
        ),
        (
            "tokens SET isolated_scope = 'b' WHERE access = 'isolated'",
            "a token never changes",
        ),
        (
            "tokens SET workspace_id = 2 WHERE access = 'isolated'",
            "a token never changes",
        ),
        (
            "tokens SET revoked_at_ms = NULL WHERE access = 'isolated'",
            "stays revoked",
        ),
    ] {
        let changed = connection.execute(&format!("UPDATE {change}"), []);
        let refused = changed.expect_err(change).to_string();
        assert!(refused.contains(refusal), "{change}: {refused}");
    }
    let deleted = connection.execute("DELETE FROM artifacts", []);
    let refused = deleted.expect_err("deleted").to_string();
    assert!(refused.contains("is condemned before"), "{refused}");
}

#[test]
fn a_database_of_the_first_version_is_brought_forward_with_all_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cachesrv.db");
    std::fs::File::create(&path).unwrap();
    let mut old = Connection::open(&path).unwrap();
    schema::migrate_to(&mut old, &path, 1).unwrap();
    old.execute_batch(
        "INSERT INTO tokens (public_id, workspace_id, access, name, secret_phc, secret_tag, created_at_ms)
         VALUES ('writer', 1, 'write', 'ci', '', x'00000000', 1);
         INSERT INTO artifacts (scope_id, hash, state, size_bytes, digest, created_at_ms, read_at_ms, writer_token_id,
                                writer_address)
         VALUES (1, 'old', 'stored', 0, zeroblob(32), 77, 77, 1, '127.0.0.1');",
    )
    .unwrap();
    drop(old);
    let store = open(&path);
    let reader = store.reader(Instant::now() + WAIT).unwrap();
    assert!(reader.artifact([&TRUSTED], "old").unwrap().is_some());
    drop(reader);
    let admin = Admin::open(&path).unwrap();
    let tokens = admin.tokens().unwrap();
    assert_eq!(tokens[0].first_artifact_id, Some(1));
    let count = |sql: &str| -> i64 {
        let connection = Connection::open(&path).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("SELECT count(*) FROM isolated_totals"), 1);
    assert_eq!(count("PRAGMA user_version"), i64::from(SCHEMA_VERSION));
}
