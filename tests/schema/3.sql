-- table workspaces of workspaces
CREATE TABLE workspaces (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    created_at_ms INTEGER NOT NULL
) STRICT;
-- index sqlite_autoindex_workspaces_1 of workspaces
;
-- table sqlite_sequence of sqlite_sequence
CREATE TABLE sqlite_sequence(name,seq);
-- table scopes of scopes
CREATE TABLE scopes (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id  INTEGER NOT NULL REFERENCES workspaces (id),
    kind          TEXT NOT NULL CHECK (kind IN ('trusted', 'isolated')),
    name          TEXT CHECK (length(name) BETWEEN 1 AND 64),
    created_at_ms INTEGER NOT NULL,
    CHECK ((kind = 'trusted') = (name IS NULL)),
    UNIQUE (workspace_id, name)
) STRICT;
-- index sqlite_autoindex_scopes_1 of scopes
;
-- index one_trusted_scope_in_each_workspace of scopes
CREATE UNIQUE INDEX one_trusted_scope_in_each_workspace ON scopes (workspace_id) WHERE kind = 'trusted';
-- table tokens of tokens
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
, replaced_by INTEGER REFERENCES tokens (id), first_artifact_id INTEGER) STRICT;
-- index sqlite_autoindex_tokens_1 of tokens
;
-- index tokens_by_name of tokens
CREATE INDEX tokens_by_name ON tokens (workspace_id, name) WHERE name IS NOT NULL;
-- table artifacts of artifacts
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
    condemned_reason TEXT, is_isolated INTEGER NOT NULL DEFAULT 0,
    CHECK (state <> 'stored' OR digest IS NOT NULL),
    CHECK ((state = 'condemned') = (condemned_at_ms IS NOT NULL)),
    CHECK ((state = 'condemned') = (condemned_reason IS NOT NULL))
) STRICT;
-- index artifacts_by_key of artifacts
CREATE UNIQUE INDEX artifacts_by_key ON artifacts (scope_id, hash) WHERE state = 'stored';
-- index artifacts_to_clean_up of artifacts
CREATE INDEX artifacts_to_clean_up ON artifacts (state, condemned_at_ms) WHERE state <> 'stored';
-- table chunks of chunks
CREATE TABLE chunks (
    id       INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    data     BLOB NOT NULL
) STRICT;
-- trigger artifacts_never_go_back of artifacts
CREATE TRIGGER artifacts_never_go_back
BEFORE UPDATE OF state ON artifacts
WHEN (OLD.state = 'condemned') OR (OLD.state = 'stored' AND NEW.state = 'uploading')
BEGIN
    SELECT RAISE(ABORT, 'an artifact never goes back to an earlier state');
END;
-- table isolated_usage of isolated_usage
CREATE TABLE isolated_usage (
    scope_id     INTEGER PRIMARY KEY REFERENCES scopes (id),
    workspace_id INTEGER NOT NULL REFERENCES workspaces (id),
    entries      INTEGER NOT NULL CHECK (entries >= 0),
    size_bytes   INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT;
-- table isolated_totals of isolated_totals
CREATE TABLE isolated_totals (
    workspace_id INTEGER PRIMARY KEY REFERENCES workspaces (id),
    scopes       INTEGER NOT NULL CHECK (scopes >= 0),
    entries      INTEGER NOT NULL CHECK (entries >= 0),
    size_bytes   INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT;
-- trigger isolated_totals_begin of workspaces
CREATE TRIGGER isolated_totals_begin AFTER INSERT ON workspaces
BEGIN
    INSERT INTO isolated_totals (workspace_id, scopes, entries, size_bytes) VALUES (NEW.id, 0, 0, 0);
END;
-- trigger isolated_totals_follow of isolated_usage
CREATE TRIGGER isolated_totals_follow AFTER UPDATE OF entries, size_bytes ON isolated_usage
BEGIN
    UPDATE isolated_totals
    SET scopes = scopes + (NEW.entries > 0) - (OLD.entries > 0),
        entries = entries + NEW.entries - OLD.entries,
        size_bytes = size_bytes + NEW.size_bytes - OLD.size_bytes
    WHERE workspace_id = NEW.workspace_id;
END;
-- trigger isolated_usage_begins of scopes
CREATE TRIGGER isolated_usage_begins AFTER INSERT ON scopes WHEN NEW.kind = 'isolated'
BEGIN
    INSERT INTO isolated_usage (scope_id, workspace_id, entries, size_bytes) VALUES (NEW.id, NEW.workspace_id, 0, 0);
END;
-- trigger stored_entries_are_condemned_before_they_go of artifacts
CREATE TRIGGER stored_entries_are_condemned_before_they_go BEFORE DELETE ON artifacts WHEN OLD.state = 'stored'
BEGIN
    SELECT RAISE(ABORT, 'a stored entry is condemned before it is deleted');
END;
-- trigger scopes_never_change of scopes
CREATE TRIGGER scopes_never_change BEFORE UPDATE OF id, workspace_id, kind, name ON scopes
BEGIN
    SELECT RAISE(ABORT, 'a scope never changes');
END;
-- trigger tokens_never_change_what_they_may of tokens
CREATE TRIGGER tokens_never_change_what_they_may BEFORE UPDATE OF id, public_id, workspace_id, access, isolated_scope ON tokens
BEGIN
    SELECT RAISE(ABORT, 'a token never changes what it may do');
END;
-- trigger tokens_stay_revoked of tokens
CREATE TRIGGER tokens_stay_revoked BEFORE UPDATE OF revoked_at_ms ON tokens WHEN OLD.revoked_at_ms IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a revoked token stays revoked');
END;
-- trigger tokens_stay_replaced of tokens
CREATE TRIGGER tokens_stay_replaced BEFORE UPDATE OF replaced_by ON tokens WHEN OLD.replaced_by IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a token is replaced once');
END;
-- index artifacts_by_read of artifacts
CREATE INDEX artifacts_by_read ON artifacts (is_isolated, read_at_ms) WHERE state = 'stored';
-- table trusted_usage of trusted_usage
CREATE TABLE trusted_usage (
    scope_id     INTEGER PRIMARY KEY REFERENCES scopes (id),
    workspace_id INTEGER NOT NULL REFERENCES workspaces (id),
    entries      INTEGER NOT NULL CHECK (entries >= 0),
    size_bytes   INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT;
-- trigger trusted_usage_begins of scopes
CREATE TRIGGER trusted_usage_begins AFTER INSERT ON scopes WHEN NEW.kind = 'trusted'
BEGIN
    INSERT INTO trusted_usage (scope_id, workspace_id, entries, size_bytes) VALUES (NEW.id, NEW.workspace_id, 0, 0);
END;
-- trigger isolated_usage_counts_an_insert of artifacts
CREATE TRIGGER isolated_usage_counts_an_insert AFTER INSERT ON artifacts WHEN NEW.state = 'stored' AND NEW.is_isolated
BEGIN
    UPDATE isolated_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;
-- trigger isolated_usage_counts_a_publication of artifacts
CREATE TRIGGER isolated_usage_counts_a_publication AFTER UPDATE OF state ON artifacts
WHEN NEW.state = 'stored' AND OLD.state <> 'stored' AND NEW.is_isolated
BEGIN
    UPDATE isolated_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;
-- trigger isolated_usage_counts_a_removal of artifacts
CREATE TRIGGER isolated_usage_counts_a_removal AFTER UPDATE OF state ON artifacts
WHEN OLD.state = 'stored' AND NEW.state <> 'stored' AND OLD.is_isolated
BEGIN
    UPDATE isolated_usage SET entries = entries - 1, size_bytes = size_bytes - OLD.size_bytes WHERE scope_id = OLD.scope_id;
END;
-- trigger trusted_usage_counts_an_insert of artifacts
CREATE TRIGGER trusted_usage_counts_an_insert AFTER INSERT ON artifacts WHEN NEW.state = 'stored' AND NOT NEW.is_isolated
BEGIN
    UPDATE trusted_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;
-- trigger trusted_usage_counts_a_publication of artifacts
CREATE TRIGGER trusted_usage_counts_a_publication AFTER UPDATE OF state ON artifacts
WHEN NEW.state = 'stored' AND OLD.state <> 'stored' AND NOT NEW.is_isolated
BEGIN
    UPDATE trusted_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;
-- trigger trusted_usage_counts_a_removal of artifacts
CREATE TRIGGER trusted_usage_counts_a_removal AFTER UPDATE OF state ON artifacts
WHEN OLD.state = 'stored' AND NEW.state <> 'stored' AND NOT OLD.is_isolated
BEGIN
    UPDATE trusted_usage SET entries = entries - 1, size_bytes = size_bytes - OLD.size_bytes WHERE scope_id = OLD.scope_id;
END;
-- trigger stored_entries_come_from_tokens_that_may_write_there_insert of artifacts
CREATE TRIGGER stored_entries_come_from_tokens_that_may_write_there_insert
BEFORE INSERT ON artifacts
WHEN NEW.state = 'stored' AND NOT EXISTS (
    SELECT 1 FROM scopes JOIN tokens ON tokens.workspace_id = scopes.workspace_id
    WHERE scopes.id = NEW.scope_id AND tokens.id = NEW.writer_token_id AND NEW.is_isolated = (scopes.kind = 'isolated')
      AND CASE scopes.kind WHEN 'trusted' THEN tokens.access IN ('write', 'write-only')
                           ELSE tokens.access = 'isolated' AND ifnull(tokens.isolated_scope, scopes.name) = scopes.name END)
BEGIN
    SELECT RAISE(ABORT, 'the writer may not store in this scope');
END;
-- trigger stored_entries_come_from_tokens_that_may_write_there_update of artifacts
CREATE TRIGGER stored_entries_come_from_tokens_that_may_write_there_update
BEFORE UPDATE OF state ON artifacts
WHEN NEW.state = 'stored' AND NOT EXISTS (
    SELECT 1 FROM scopes JOIN tokens ON tokens.workspace_id = scopes.workspace_id
    WHERE scopes.id = NEW.scope_id AND tokens.id = NEW.writer_token_id AND NEW.is_isolated = (scopes.kind = 'isolated')
      AND CASE scopes.kind WHEN 'trusted' THEN tokens.access IN ('write', 'write-only')
                           ELSE tokens.access = 'isolated' AND ifnull(tokens.isolated_scope, scopes.name) = scopes.name END)
BEGIN
    SELECT RAISE(ABORT, 'the writer may not store in this scope');
END;
-- trigger stored_entries_never_change of artifacts
CREATE TRIGGER stored_entries_never_change
BEFORE UPDATE OF id, scope_id, is_isolated, hash, size_bytes, digest, writer_token_id, writer_address, created_at_ms
ON artifacts WHEN OLD.state <> 'uploading'
BEGIN
    SELECT RAISE(ABORT, 'a stored entry never changes');
END;
-- table usage_by_day of usage_by_day
CREATE TABLE usage_by_day (
    day            INTEGER NOT NULL,
    workspace_id   INTEGER NOT NULL REFERENCES workspaces (id),
    access         TEXT NOT NULL CHECK (access IN ('read', 'write', 'isolated', 'write-only')),
    hits           INTEGER NOT NULL DEFAULT 0 CHECK (hits >= 0),
    hit_bytes      INTEGER NOT NULL DEFAULT 0 CHECK (hit_bytes >= 0),
    misses         INTEGER NOT NULL DEFAULT 0 CHECK (misses >= 0),
    stored         INTEGER NOT NULL DEFAULT 0 CHECK (stored >= 0),
    stored_bytes   INTEGER NOT NULL DEFAULT 0 CHECK (stored_bytes >= 0),
    conflicts      INTEGER NOT NULL DEFAULT 0 CHECK (conflicts >= 0),
    refused        INTEGER NOT NULL DEFAULT 0 CHECK (refused >= 0),
    PRIMARY KEY (day, workspace_id, access)
) STRICT;
-- index sqlite_autoindex_usage_by_day_1 of usage_by_day
;
-- table evictions_by_day of evictions_by_day
CREATE TABLE evictions_by_day (
    day         INTEGER NOT NULL,
    is_isolated INTEGER NOT NULL CHECK (is_isolated IN (0, 1)),
    reason      TEXT NOT NULL,
    entries     INTEGER NOT NULL DEFAULT 0 CHECK (entries >= 0),
    size_bytes  INTEGER NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    PRIMARY KEY (day, is_isolated, reason)
) STRICT;
-- index sqlite_autoindex_evictions_by_day_1 of evictions_by_day
;
-- table backups of backups
CREATE TABLE backups (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    finished_at_ms INTEGER NOT NULL,
    size_bytes     INTEGER NOT NULL CHECK (size_bytes >= 0),
    destination    TEXT NOT NULL
) STRICT;
