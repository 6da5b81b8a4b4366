-- People, their sessions, and what protects the doors. Times are microseconds
-- since 1970 in UTC, ids are UUIDs of 16 bytes.

CREATE TABLE users (
    id            BLOB    NOT NULL PRIMARY KEY,
    email         TEXT    NOT NULL UNIQUE, -- lower case
    name          TEXT    NOT NULL,
    role          TEXT    NOT NULL CHECK (role IN ('user', 'admin')),
    password_hash TEXT    NOT NULL,
    created_us    INTEGER NOT NULL,
    updated_us    INTEGER NOT NULL
);

-- No foreign key: a deleted user's sessions end at once because every look-up
-- joins users; the rows are removed by the worker.
CREATE TABLE sessions (
    id           BLOB    NOT NULL PRIMARY KEY,
    user_id      BLOB    NOT NULL,
    token_hash   BLOB    NOT NULL UNIQUE, -- SHA-256; the token itself is never stored
    created_us   INTEGER NOT NULL,
    last_used_us INTEGER NOT NULL,
    expires_us   INTEGER NOT NULL,
    ip_address   TEXT,
    user_agent   TEXT
);
CREATE INDEX sessions_of_user ON sessions (user_id, created_us);
CREATE INDEX sessions_by_expiry ON sessions (expires_us);

-- Failed attempts by account and by source address, shared by every process.
CREATE TABLE attempt_limits (
    scope            TEXT    NOT NULL PRIMARY KEY,
    failures         INTEGER NOT NULL,
    blocked_until_us INTEGER NOT NULL,
    last_us          INTEGER NOT NULL
);
CREATE INDEX attempt_limits_by_age ON attempt_limits (last_us);

-- Answers kept for `Idempotency-Key`. The key is stored as a hash and the
-- answer sealed with it: see http/idempotency.
CREATE TABLE idempotency (
    scope      TEXT    NOT NULL,
    key_hash   BLOB    NOT NULL,
    request    BLOB    NOT NULL, -- keyed hash of method, path and body
    created_us INTEGER NOT NULL,
    status     INTEGER,          -- NULL while the first request still runs
    answer     BLOB,
    PRIMARY KEY (scope, key_hash)
);
CREATE INDEX idempotency_by_age ON idempotency (created_us);

-- Who did what an event says, and who may see it: the events' own fields are
-- fixed by the services that read them, and name neither.
CREATE TABLE provenance (
    event   BLOB NOT NULL PRIMARY KEY,
    actor   BLOB,
    viewers TEXT NOT NULL, -- a JSON array of user ids
    at_us   INTEGER NOT NULL
);
CREATE INDEX provenance_by_age ON provenance (at_us);
