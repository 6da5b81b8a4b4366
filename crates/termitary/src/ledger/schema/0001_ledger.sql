-- Times are microseconds since 1970 in UTC.

CREATE TABLE termitary_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, -- commit order; the cursor of readers
    id BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    source TEXT NOT NULL,
    time_us INTEGER NOT NULL,
    key TEXT,
    traceparent TEXT,
    cause BLOB,
    dedup TEXT,
    fanned INTEGER NOT NULL DEFAULT 0, -- the relay has put it on its stream for all
    data TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX termitary_events_dedup ON termitary_events (source, dedup) WHERE dedup IS NOT NULL;
CREATE INDEX termitary_events_time ON termitary_events (time_us);

CREATE TABLE termitary_subscriptions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    event TEXT NOT NULL,
    version INTEGER NOT NULL,
    since_us INTEGER NOT NULL,
    seen_us INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Which event names reach which subscription: its event and the aliases.
CREATE TABLE termitary_routes (
    event TEXT NOT NULL,
    subscription INTEGER NOT NULL REFERENCES termitary_subscriptions (id) ON DELETE CASCADE,
    PRIMARY KEY (event, subscription)
) STRICT, WITHOUT ROWID;

-- state: 0 pending, 1 leased, 2 done, 3 dead, 4 parked
CREATE TABLE termitary_deliveries (
    event INTEGER NOT NULL REFERENCES termitary_events (seq),
    subscription INTEGER NOT NULL REFERENCES termitary_subscriptions (id),
    state INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_us INTEGER, -- when the lease ends; with Redis, when the ledger looks after it
    entry TEXT,       -- with Redis: the stream entry that carries it
    reason TEXT,
    error TEXT,
    settled_us INTEGER,
    PRIMARY KEY (event, subscription)
) STRICT, WITHOUT ROWID;
-- Done deliveries leave these indexes, so their cost does not grow with history.
CREATE INDEX termitary_deliveries_due ON termitary_deliveries (subscription, due_us) WHERE state = 0;
CREATE INDEX termitary_deliveries_leased ON termitary_deliveries (lease_us) WHERE state = 1;
CREATE INDEX termitary_deliveries_letters ON termitary_deliveries (state, subscription, event) WHERE state >= 3;

CREATE TABLE termitary_schedules (
    name TEXT PRIMARY KEY,
    event TEXT NOT NULL,
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL,
    last_us INTEGER NOT NULL, -- every tick up to here is settled
    fired_us INTEGER,         -- the last tick that published
    paused INTEGER NOT NULL DEFAULT 0,
    seen_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per tick: the unique key is what makes it exactly one.
CREATE TABLE termitary_ticks (
    schedule TEXT NOT NULL,
    tick_us INTEGER NOT NULL,
    event BLOB, -- null: skipped
    PRIMARY KEY (schedule, tick_us)
) STRICT, WITHOUT ROWID;
CREATE INDEX termitary_ticks_time ON termitary_ticks (tick_us);

CREATE TABLE termitary_workers (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    started_us INTEGER NOT NULL,
    seen_us INTEGER NOT NULL,
    running INTEGER NOT NULL,
    concurrency INTEGER NOT NULL,
    subscriptions TEXT NOT NULL -- JSON array of names
) STRICT, WITHOUT ROWID;

-- Broadcasts on their way to other processes on this file; pruned after a minute.
CREATE TABLE termitary_broadcasts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time_us INTEGER NOT NULL,
    name TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;

-- What operators did.
CREATE TABLE termitary_audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time_us INTEGER NOT NULL,
    who TEXT NOT NULL,
    act TEXT NOT NULL,
    subject TEXT NOT NULL,
    count INTEGER NOT NULL
) STRICT;
