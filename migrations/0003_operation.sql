-- Eviction finds what was read longest ago without reading the table; what trusted scopes hold is counted;
-- usage, evictions and backups are remembered over restarts.

-- Trusted and isolated entries have budgets of their own, so the order of eviction is one for each kind. The
-- column repeats what the scope says, and the triggers below hold it to that.
ALTER TABLE artifacts ADD COLUMN is_isolated INTEGER NOT NULL DEFAULT 0;

UPDATE artifacts SET is_isolated = 1 WHERE scope_id IN (SELECT id FROM scopes WHERE kind = 'isolated');

CREATE INDEX artifacts_by_read ON artifacts (is_isolated, read_at_ms) WHERE state = 'stored';

-- What the trusted scope of each workspace holds, as `isolated_usage` says it for isolated ones.
CREATE TABLE trusted_usage (
    scope_id     INTEGER PRIMARY KEY REFERENCES scopes (id),
    workspace_id INTEGER NOT NULL REFERENCES workspaces (id),
    entries      INTEGER NOT NULL CHECK (entries >= 0),
    size_bytes   INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT;

INSERT INTO trusted_usage (scope_id, workspace_id, entries, size_bytes)
SELECT scopes.id, scopes.workspace_id, count(artifacts.id), ifnull(sum(artifacts.size_bytes), 0)
FROM scopes LEFT JOIN artifacts ON artifacts.scope_id = scopes.id AND artifacts.state = 'stored'
WHERE scopes.kind = 'trusted' GROUP BY scopes.id;

CREATE TRIGGER trusted_usage_begins AFTER INSERT ON scopes WHEN NEW.kind = 'trusted'
BEGIN
    INSERT INTO trusted_usage (scope_id, workspace_id, entries, size_bytes) VALUES (NEW.id, NEW.workspace_id, 0, 0);
END;

DROP TRIGGER isolated_usage_counts_an_insert;
DROP TRIGGER isolated_usage_counts_a_publication;
DROP TRIGGER isolated_usage_counts_a_removal;

CREATE TRIGGER isolated_usage_counts_an_insert AFTER INSERT ON artifacts WHEN NEW.state = 'stored' AND NEW.is_isolated
BEGIN
    UPDATE isolated_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;

CREATE TRIGGER isolated_usage_counts_a_publication AFTER UPDATE OF state ON artifacts
WHEN NEW.state = 'stored' AND OLD.state <> 'stored' AND NEW.is_isolated
BEGIN
    UPDATE isolated_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;

CREATE TRIGGER isolated_usage_counts_a_removal AFTER UPDATE OF state ON artifacts
WHEN OLD.state = 'stored' AND NEW.state <> 'stored' AND OLD.is_isolated
BEGIN
    UPDATE isolated_usage SET entries = entries - 1, size_bytes = size_bytes - OLD.size_bytes WHERE scope_id = OLD.scope_id;
END;

CREATE TRIGGER trusted_usage_counts_an_insert AFTER INSERT ON artifacts WHEN NEW.state = 'stored' AND NOT NEW.is_isolated
BEGIN
    UPDATE trusted_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;

CREATE TRIGGER trusted_usage_counts_a_publication AFTER UPDATE OF state ON artifacts
WHEN NEW.state = 'stored' AND OLD.state <> 'stored' AND NOT NEW.is_isolated
BEGIN
    UPDATE trusted_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;

CREATE TRIGGER trusted_usage_counts_a_removal AFTER UPDATE OF state ON artifacts
WHEN OLD.state = 'stored' AND NEW.state <> 'stored' AND NOT OLD.is_isolated
BEGIN
    UPDATE trusted_usage SET entries = entries - 1, size_bytes = size_bytes - OLD.size_bytes WHERE scope_id = OLD.scope_id;
END;

-- Who may write what, anew: the entry says which kind of scope it is in.
DROP TRIGGER stored_entries_come_from_tokens_that_may_write_there_insert;
DROP TRIGGER stored_entries_come_from_tokens_that_may_write_there_update;

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

DROP TRIGGER stored_entries_never_change;

CREATE TRIGGER stored_entries_never_change
BEFORE UPDATE OF id, scope_id, is_isolated, hash, size_bytes, digest, writer_token_id, writer_address, created_at_ms
ON artifacts WHEN OLD.state <> 'uploading'
BEGIN
    SELECT RAISE(ABORT, 'a stored entry never changes');
END;

-- What each day's requests came to, for `stats`. `day` counts days since 1970-01-01, UTC; all counts are of
-- requests, `_bytes` of artifact bytes sent and stored.
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

-- What eviction took on each day, and why.
CREATE TABLE evictions_by_day (
    day         INTEGER NOT NULL,
    is_isolated INTEGER NOT NULL CHECK (is_isolated IN (0, 1)),
    reason      TEXT NOT NULL,
    entries     INTEGER NOT NULL DEFAULT 0 CHECK (entries >= 0),
    size_bytes  INTEGER NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    PRIMARY KEY (day, is_isolated, reason)
) STRICT;

-- Backups that were finished, the newest last.
CREATE TABLE backups (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    finished_at_ms INTEGER NOT NULL,
    size_bytes     INTEGER NOT NULL CHECK (size_bytes >= 0),
    destination    TEXT NOT NULL
) STRICT;
