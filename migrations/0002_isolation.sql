-- Isolated scopes get quotas, tokens a successor and a first write; what decides who may write where can
-- no longer be changed.

-- What the isolated scopes hold, kept by the triggers below, so that a quota costs one look-up. Trusted
-- scopes have no quota and no row: their uploads pay for a look-up that finds nothing.
CREATE TABLE isolated_usage (
    scope_id     INTEGER PRIMARY KEY REFERENCES scopes (id),
    workspace_id INTEGER NOT NULL REFERENCES workspaces (id),
    entries      INTEGER NOT NULL CHECK (entries >= 0),
    size_bytes   INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT;

-- The same for all isolated scopes of a workspace together; `scopes` counts those that hold entries.
CREATE TABLE isolated_totals (
    workspace_id INTEGER PRIMARY KEY REFERENCES workspaces (id),
    scopes       INTEGER NOT NULL CHECK (scopes >= 0),
    entries      INTEGER NOT NULL CHECK (entries >= 0),
    size_bytes   INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT;

INSERT INTO isolated_totals (workspace_id, scopes, entries, size_bytes) SELECT id, 0, 0, 0 FROM workspaces;

CREATE TRIGGER isolated_totals_begin AFTER INSERT ON workspaces
BEGIN
    INSERT INTO isolated_totals (workspace_id, scopes, entries, size_bytes) VALUES (NEW.id, 0, 0, 0);
END;

CREATE TRIGGER isolated_totals_follow AFTER UPDATE OF entries, size_bytes ON isolated_usage
BEGIN
    UPDATE isolated_totals
    SET scopes = scopes + (NEW.entries > 0) - (OLD.entries > 0),
        entries = entries + NEW.entries - OLD.entries,
        size_bytes = size_bytes + NEW.size_bytes - OLD.size_bytes
    WHERE workspace_id = NEW.workspace_id;
END;

CREATE TRIGGER isolated_usage_begins AFTER INSERT ON scopes WHEN NEW.kind = 'isolated'
BEGIN
    INSERT INTO isolated_usage (scope_id, workspace_id, entries, size_bytes) VALUES (NEW.id, NEW.workspace_id, 0, 0);
END;

CREATE TRIGGER isolated_usage_counts_an_insert AFTER INSERT ON artifacts WHEN NEW.state = 'stored'
BEGIN
    UPDATE isolated_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;

CREATE TRIGGER isolated_usage_counts_a_publication AFTER UPDATE OF state ON artifacts
WHEN NEW.state = 'stored' AND OLD.state <> 'stored'
BEGIN
    UPDATE isolated_usage SET entries = entries + 1, size_bytes = size_bytes + NEW.size_bytes WHERE scope_id = NEW.scope_id;
END;

CREATE TRIGGER isolated_usage_counts_a_removal AFTER UPDATE OF state ON artifacts
WHEN OLD.state = 'stored' AND NEW.state <> 'stored'
BEGIN
    UPDATE isolated_usage SET entries = entries - 1, size_bytes = size_bytes - OLD.size_bytes WHERE scope_id = OLD.scope_id;
END;

-- An entry is hidden before it goes: whoever reads it keeps the ground, and the usage is right.
CREATE TRIGGER stored_entries_are_condemned_before_they_go BEFORE DELETE ON artifacts WHEN OLD.state = 'stored'
BEGIN
    SELECT RAISE(ABORT, 'a stored entry is condemned before it is deleted');
END;

-- The token that took this one's place when it was rotated; names are unique among the living without one.
ALTER TABLE tokens ADD COLUMN replaced_by INTEGER REFERENCES tokens (id);

-- The artifact that the token stored first, for `purge --transitive`: it outlives the artifact. Ids grow
-- whatever the clock does, and whoever used an artifact begins to store later: what has a smaller id is clean.
ALTER TABLE tokens ADD COLUMN first_artifact_id INTEGER;

UPDATE tokens SET first_artifact_id = first.id
FROM (SELECT writer_token_id, min(id) AS id FROM artifacts GROUP BY writer_token_id) AS first
WHERE first.writer_token_id = tokens.id;

-- Who may write what, anew: a token that is bound to one isolated scope stores in that one only.
DROP TRIGGER stored_entries_come_from_tokens_that_may_write_there_insert;
DROP TRIGGER stored_entries_come_from_tokens_that_may_write_there_update;

CREATE TRIGGER stored_entries_come_from_tokens_that_may_write_there_insert
BEFORE INSERT ON artifacts
WHEN NEW.state = 'stored' AND NOT EXISTS (
    SELECT 1 FROM scopes JOIN tokens ON tokens.workspace_id = scopes.workspace_id
    WHERE scopes.id = NEW.scope_id AND tokens.id = NEW.writer_token_id
      AND CASE scopes.kind WHEN 'trusted' THEN tokens.access IN ('write', 'write-only')
                           ELSE tokens.access = 'isolated' AND ifnull(tokens.isolated_scope, scopes.name) = scopes.name END)
BEGIN
    SELECT RAISE(ABORT, 'the writer may not store in this scope');
END;

CREATE TRIGGER stored_entries_come_from_tokens_that_may_write_there_update
BEFORE UPDATE OF state ON artifacts
WHEN NEW.state = 'stored' AND NOT EXISTS (
    SELECT 1 FROM scopes JOIN tokens ON tokens.workspace_id = scopes.workspace_id
    WHERE scopes.id = NEW.scope_id AND tokens.id = NEW.writer_token_id
      AND CASE scopes.kind WHEN 'trusted' THEN tokens.access IN ('write', 'write-only')
                           ELSE tokens.access = 'isolated' AND ifnull(tokens.isolated_scope, scopes.name) = scopes.name END)
BEGIN
    SELECT RAISE(ABORT, 'the writer may not store in this scope');
END;

-- Nothing is ever promoted: neither a scope nor a token becomes another one.
CREATE TRIGGER scopes_never_change BEFORE UPDATE OF id, workspace_id, kind, name ON scopes
BEGIN
    SELECT RAISE(ABORT, 'a scope never changes');
END;

CREATE TRIGGER tokens_never_change_what_they_may BEFORE UPDATE OF id, public_id, workspace_id, access, isolated_scope ON tokens
BEGIN
    SELECT RAISE(ABORT, 'a token never changes what it may do');
END;

CREATE TRIGGER tokens_stay_revoked BEFORE UPDATE OF revoked_at_ms ON tokens WHEN OLD.revoked_at_ms IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a revoked token stays revoked');
END;

CREATE TRIGGER tokens_stay_replaced BEFORE UPDATE OF replaced_by ON tokens WHEN OLD.replaced_by IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a token is replaced once');
END;
