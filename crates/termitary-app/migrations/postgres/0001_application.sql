-- The application's tables, as those on SQLite are after its migration 0041. Times are
-- microseconds since 1970 in UTC. Texts compare by their bytes, as on SQLite.

-- Facts about the installation. The secret is here unless TERMITARY_SECRET is set.
CREATE TABLE installation (
    id     bigint NOT NULL PRIMARY KEY CHECK (id = 1),
    secret text   NOT NULL
);

CREATE TABLE users (
    id            uuid   NOT NULL PRIMARY KEY,
    email         text   COLLATE "C" NOT NULL UNIQUE, -- lower case
    name          text   COLLATE "C" NOT NULL,
    role          text   COLLATE "C" NOT NULL CHECK (role IN ('user', 'admin')),
    password_hash text   NOT NULL,
    created_us    bigint NOT NULL,
    updated_us    bigint NOT NULL,
    confirmed_us  bigint,
    pending_email text   COLLATE "C" -- asked for, not confirmed yet
);
CREATE INDEX users_admins ON users (id) WHERE role = 'admin';

-- No foreign key: a deleted user's sessions end at once because every look-up
-- joins users; the rows are removed by the worker.
CREATE TABLE sessions (
    id           uuid   NOT NULL PRIMARY KEY,
    user_id      uuid   NOT NULL,
    token_hash   bytea  NOT NULL UNIQUE, -- SHA-256; the token itself is never stored
    created_us   bigint NOT NULL,
    last_used_us bigint NOT NULL,
    expires_us   bigint NOT NULL,
    ip_address   text,
    user_agent   text
);
CREATE INDEX sessions_of_user ON sessions (user_id, created_us);
CREATE INDEX sessions_by_expiry ON sessions (expires_us);

-- Failed attempts by account and by source address, shared by every process.
CREATE TABLE attempt_limits (
    scope            text   COLLATE "C" NOT NULL PRIMARY KEY,
    failures         bigint NOT NULL,
    blocked_until_us bigint NOT NULL,
    last_us          bigint NOT NULL
);
CREATE INDEX attempt_limits_by_age ON attempt_limits (last_us);

-- Networks that each user logged in from, as keyed hashes.
CREATE TABLE known_sources (
    user_id uuid   NOT NULL,
    source  bytea  NOT NULL,
    seen_us bigint NOT NULL,
    PRIMARY KEY (user_id, source)
);

-- Links in mails. The token is stored as a hash only. No foreign key: every
-- look-up joins users.
CREATE TABLE links (
    token_hash bytea  NOT NULL PRIMARY KEY, -- SHA-256
    purpose    text   COLLATE "C" NOT NULL CHECK (purpose IN ('confirm', 'reset')),
    user_id    uuid   NOT NULL,
    email      text   COLLATE "C" NOT NULL, -- where the mail went
    created_us bigint NOT NULL,
    expires_us bigint NOT NULL
);
CREATE INDEX links_of_user ON links (user_id, purpose, created_us);
CREATE INDEX links_by_expiry ON links (expires_us);

-- Responses kept for `Idempotency-Key`. Hashes are keyed and responses sealed with the
-- installation's secret.
CREATE TABLE answers (
    scope      text   COLLATE "C" NOT NULL,
    key_hash   bytea  NOT NULL,
    nth        bigint NOT NULL, -- counts the keys of the scope: the oldest are deleted
    request    bytea  NOT NULL, -- keyed hash of method, path and body
    created_us bigint NOT NULL,
    status     bigint NOT NULL,
    answer     bytea,           -- sealed; NULL: too large to be kept
    PRIMARY KEY (scope, key_hash)
);
CREATE UNIQUE INDEX answers_in_order ON answers (scope, nth);
CREATE INDEX answers_by_age ON answers (created_us);

-- The actor and the viewers of an event, whose payload names neither.
CREATE TABLE provenance (
    event   uuid   NOT NULL PRIMARY KEY,
    actor   uuid,
    viewers text   NOT NULL, -- a JSON array of user ids
    at_us   bigint NOT NULL
);
CREATE INDEX provenance_by_age ON provenance (at_us);

-- The team's to-dos. Owner and assignee have no foreign key: when a user is
-- deleted the worker decides what becomes of their todos.
CREATE TABLE todos (
    id          uuid   NOT NULL PRIMARY KEY,
    owner_id    uuid   NOT NULL,
    assignee_id uuid,
    title       text   COLLATE "C" NOT NULL,
    description text,
    status      text   COLLATE "C" NOT NULL CHECK (status IN ('open', 'done')),
    priority    bigint CHECK (priority BETWEEN 0 AND 3), -- low, medium, high, urgent
    due_us      bigint,
    created_us  bigint NOT NULL,
    updated_us  bigint NOT NULL
);
CREATE INDEX todos_of_owner ON todos (owner_id, created_us, id);
CREATE INDEX todos_of_assignee ON todos (assignee_id, created_us, id);
CREATE INDEX todos_by_age ON todos (created_us, id);
CREATE INDEX todos_due ON todos (due_us) WHERE status = 'open' AND due_us IS NOT NULL;

CREATE TABLE comments (
    id         uuid   NOT NULL PRIMARY KEY,
    todo_id    uuid   NOT NULL REFERENCES todos (id) ON DELETE CASCADE,
    author_id  uuid   NOT NULL,
    text       text   NOT NULL,
    created_us bigint NOT NULL
);
CREATE INDEX comments_of_todo ON comments (todo_id, created_us, id);

-- One row per reminder: the key is what makes it one per todo and due date.
CREATE TABLE overdue_reminders (
    todo_id    uuid   NOT NULL REFERENCES todos (id) ON DELETE CASCADE,
    due_us     bigint NOT NULL,
    created_us bigint NOT NULL,
    PRIMARY KEY (todo_id, due_us)
);

-- The feed, written by a worker: one entry per event, and who may see it. `seq` is the
-- cursor of readers. A transaction has its id, `xid`, before it takes a number.
CREATE TABLE activity (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id      uuid   NOT NULL UNIQUE, -- the event's id
    event   text   NOT NULL,
    subject text   NOT NULL,
    actor   uuid,
    title   text,
    changes text, -- a JSON object
    at_us   bigint NOT NULL,
    xid     xid8   NOT NULL
);

CREATE TABLE activity_viewers (
    user_id uuid   NOT NULL,
    seq     bigint NOT NULL REFERENCES activity (seq) ON DELETE CASCADE,
    PRIMARY KEY (user_id, seq)
);
CREATE INDEX activity_viewers_of_entry ON activity_viewers (seq);

-- A browser's EventSource sends no headers: a ticket in the address opens one live
-- stream, once, within seconds. Only its hash is stored.
CREATE TABLE stream_tickets (
    hash       bytea  NOT NULL PRIMARY KEY, -- SHA-256
    nth        bigint GENERATED ALWAYS AS IDENTITY,
    session_id uuid   NOT NULL,
    expires_us bigint NOT NULL
);
CREATE INDEX stream_tickets_by_expiry ON stream_tickets (expires_us);
CREATE INDEX stream_tickets_of_session ON stream_tickets (session_id, nth);

-- Addresses and agents that each user logged in with, as hashes. `event` is
-- the login that brought it; `first`: of the user's first login of all.
CREATE TABLE mail_devices (
    user_id uuid    NOT NULL,
    trait   bytea   NOT NULL,
    event   uuid    NOT NULL,
    first   boolean NOT NULL,
    seen_us bigint  NOT NULL,
    PRIMARY KEY (user_id, trait)
);

-- Mails of the last day, for the limits. Bounded by the limits themselves.
CREATE TABLE mails_counted (
    delivery  bytea  NOT NULL PRIMARY KEY, -- hash of event id and subscription
    recipient bytea  NOT NULL, -- hash of the address
    kind      text   COLLATE "C" NOT NULL,
    actor     uuid,
    at_us     bigint NOT NULL
);
CREATE INDEX mails_counted_of_recipient ON mails_counted (recipient, kind, at_us);
CREATE INDEX mails_counted_of_actor ON mails_counted (actor, at_us) WHERE actor IS NOT NULL;
CREATE INDEX mails_counted_by_age ON mails_counted (at_us);

-- Written to find out whether commits work: see http/ready.
CREATE TABLE write_probe (
    id    bigint NOT NULL PRIMARY KEY CHECK (id = 1),
    at_us bigint NOT NULL
);
