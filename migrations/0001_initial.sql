-- Workspaces, scopes, tokens, artifacts and their chunks.
--
-- Ids that other rows or readers remember are AUTOINCREMENT: SQLite never hands one out twice, so a
-- slow reader of a deleted artifact can never be given the chunks of a newer one. Tables are rowid
-- tables, never WITHOUT ROWID: large rows in an index b-tree read ten times slower (design/storage.md).
-- Times are milliseconds since 1970 UTC, sizes are bytes.

CREATE TABLE workspaces (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    created_at_ms INTEGER NOT NULL
) STRICT;

-- Where entries live. Each workspace has one trusted scope, which has no name, and any number of
-- isolated ones, which have.
CREATE TABLE scopes (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id  INTEGER NOT NULL REFERENCES workspaces (id),
    kind          TEXT NOT NULL CHECK (kind IN ('trusted', 'isolated')),
    name          TEXT CHECK (length(name) BETWEEN 1 AND 64),
    created_at_ms INTEGER NOT NULL,
    CHECK ((kind = 'trusted') = (name IS NULL)),
    UNIQUE (workspace_id, name)
) STRICT;

CREATE UNIQUE INDEX one_trusted_scope_in_each_workspace ON scopes (workspace_id) WHERE kind = 'trusted';

-- `public_id` is the part of a token that may be shown. The secret is an Argon2id PHC string;
-- `secret_tag` is four bytes of the secret's SHA-256, which let a wrong guess go without Argon2.
CREATE TABLE tokens (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id       TEXT NOT NULL UNIQUE,
    workspace_id    INTEGER NOT NULL REFERENCES workspaces (id),
    access          TEXT NOT NULL CHECK (access IN ('read', 'write', 'isolated', 'write-only')),
    isolated_scope  TEXT CHECK (isolated_scope IS NULL OR access = 'isolated'),
    name            TEXT,
    secret_phc      TEXT NOT NULL,
    secret_tag      BLOB NOT NULL CHECK (length(secret_tag) = 4),
    created_at_ms   INTEGER NOT NULL,
    expires_at_ms   INTEGER,
    revoked_at_ms   INTEGER,
    last_used_at_ms INTEGER
) STRICT;

CREATE INDEX tokens_by_name ON tokens (workspace_id, name) WHERE name IS NOT NULL;

-- An artifact is `uploading` (nobody can read it), then `stored`, then `condemned` (hidden; its chunks
-- go after a grace, so that a reader never loses the ground). It never goes back.
CREATE TABLE artifacts (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    scope_id         INTEGER NOT NULL REFERENCES scopes (id),
    hash             TEXT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('uploading', 'stored', 'condemned')),
    size_bytes       INTEGER NOT NULL CHECK (size_bytes >= 0),
    digest           BLOB CHECK (length(digest) = 32),
    created_at_ms    INTEGER NOT NULL,
    read_at_ms       INTEGER NOT NULL,
    writer_token_id  INTEGER NOT NULL REFERENCES tokens (id),
    writer_address   TEXT NOT NULL,
    condemned_at_ms  INTEGER,
    condemned_reason TEXT,
    CHECK (state <> 'stored' OR digest IS NOT NULL),
    CHECK ((state = 'condemned') = (condemned_at_ms IS NOT NULL)),
    CHECK ((state = 'condemned') = (condemned_reason IS NOT NULL))
) STRICT;

-- The key of an entry is scope and hash, never the hash alone: a pull request's entry must not be able
-- to give main a 409.
CREATE UNIQUE INDEX artifacts_by_key ON artifacts (scope_id, hash) WHERE state = 'stored';

CREATE INDEX artifacts_to_clean_up ON artifacts (state, condemned_at_ms) WHERE state <> 'stored';

-- The id packs the artifact and the place of the chunk in it: artifact id * 2^20 + sequence. The
-- checksum stands before the data, so that reading it does not walk the data's overflow pages.
CREATE TABLE chunks (
    id       INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    data     BLOB NOT NULL
) STRICT;

-- Who may write what is decided in auth/; this is the second lock on the same door.
CREATE TRIGGER stored_entries_come_from_tokens_that_may_write_there_insert
BEFORE INSERT ON artifacts
WHEN NEW.state = 'stored' AND NOT EXISTS (
    SELECT 1 FROM scopes JOIN tokens ON tokens.workspace_id = scopes.workspace_id
    WHERE scopes.id = NEW.scope_id AND tokens.id = NEW.writer_token_id
      AND CASE scopes.kind WHEN 'trusted' THEN tokens.access IN ('write', 'write-only')
                           ELSE tokens.access = 'isolated' END)
BEGIN
    SELECT RAISE(ABORT, 'the writer may not store in this scope');
END;

CREATE TRIGGER stored_entries_come_from_tokens_that_may_write_there_update
BEFORE UPDATE OF state ON artifacts
WHEN NEW.state = 'stored' AND NOT EXISTS (
    SELECT 1 FROM scopes JOIN tokens ON tokens.workspace_id = scopes.workspace_id
    WHERE scopes.id = NEW.scope_id AND tokens.id = NEW.writer_token_id
      AND CASE scopes.kind WHEN 'trusted' THEN tokens.access IN ('write', 'write-only')
                           ELSE tokens.access = 'isolated' END)
BEGIN
    SELECT RAISE(ABORT, 'the writer may not store in this scope');
END;

-- An entry never changes once stored.
CREATE TRIGGER stored_entries_never_change
BEFORE UPDATE OF id, scope_id, hash, size_bytes, digest, writer_token_id, writer_address, created_at_ms
ON artifacts WHEN OLD.state <> 'uploading'
BEGIN
    SELECT RAISE(ABORT, 'a stored entry never changes');
END;

CREATE TRIGGER artifacts_never_go_back
BEFORE UPDATE OF state ON artifacts
WHEN (OLD.state = 'condemned') OR (OLD.state = 'stored' AND NEW.state = 'uploading')
BEGIN
    SELECT RAISE(ABORT, 'an artifact never goes back to an earlier state');
END;

INSERT INTO workspaces (id, name, created_at_ms) VALUES (1, 'default', CAST(unixepoch('subsec') * 1000 AS INTEGER));
INSERT INTO scopes (workspace_id, kind, name, created_at_ms)
VALUES (1, 'trusted', NULL, CAST(unixepoch('subsec') * 1000 AS INTEGER));
