-- Times are microseconds since 1970 in UTC. The tables have the columns of those on
-- SQLite, after its migration 0011.

CREATE TABLE termitary_events (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the cursor of readers
    id uuid NOT NULL,
    name text NOT NULL,
    version bigint NOT NULL,
    source text NOT NULL,
    time_us bigint NOT NULL,
    key text,
    traceparent text,
    cause uuid,
    dedup text, -- the event's name, a space and the idempotency id
    fanned bigint NOT NULL DEFAULT 0, -- 1: the relay has put it on its stream; -1: no subscription got it
    data text NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id() -- the transaction that published it
);
CREATE UNIQUE INDEX termitary_events_id ON termitary_events (id);
CREATE UNIQUE INDEX termitary_events_dedup ON termitary_events (source, dedup) WHERE dedup IS NOT NULL;
CREATE INDEX termitary_events_unrouted ON termitary_events (time_us) WHERE fanned = -1;

CREATE TABLE termitary_subscriptions (
    id bigint PRIMARY KEY,
    name text NOT NULL UNIQUE,
    event text NOT NULL,
    version bigint NOT NULL,
    since_us bigint NOT NULL,
    seen_us bigint NOT NULL,
    done bigint NOT NULL DEFAULT 0,
    server text,
    doubt_ms bigint NOT NULL DEFAULT 0,
    -- Events that the subscription is owed beside those that its routes give it: up to
    -- retained_seq they were looked at, retained_last is the last one (null: not known
    -- yet). retained_xid added its routes last.
    retained_seq bigint,
    retained_last bigint,
    retained_xid xid8
) WITH (fillfactor = 50);

CREATE TABLE termitary_routes (
    event text NOT NULL,
    subscription bigint NOT NULL REFERENCES termitary_subscriptions (id) ON DELETE CASCADE,
    -- Added with this view of the transactions: the events of those that it does not show
    -- are owed, the others are from before. Null: the whole past is owed.
    snapshot pg_snapshot,
    PRIMARY KEY (event, subscription)
);
CREATE INDEX termitary_routes_subscription ON termitary_routes (subscription);

CREATE TABLE termitary_former (
    event text NOT NULL,
    subscription bigint NOT NULL REFERENCES termitary_subscriptions (id) ON DELETE CASCADE,
    PRIMARY KEY (event, subscription)
);

CREATE TABLE termitary_dropped (
    name text NOT NULL,
    event text NOT NULL,
    subscription bigint NOT NULL,
    time_us bigint NOT NULL,
    PRIMARY KEY (name, event)
);

-- state: -1 suspect, 0 pending, 1 leased, 2 done, 3 dead, 4 parked. No reference to the
-- events: the ledger writes both, and a check of each row costs as much as the row.
CREATE TABLE termitary_deliveries (
    event bigint NOT NULL,
    subscription bigint NOT NULL,
    state bigint NOT NULL,
    due_us bigint NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    crashes bigint NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0,
    worker text,
    lease_us bigint,
    entry text,
    reason text,
    error text,
    settled_us bigint,
    PRIMARY KEY (event, subscription)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 200000
);
CREATE INDEX termitary_deliveries_due ON termitary_deliveries (subscription, due_us, event) WHERE state = 0;
CREATE INDEX termitary_deliveries_leased ON termitary_deliveries (lease_us) WHERE state = 1;
CREATE INDEX termitary_deliveries_letters ON termitary_deliveries (state, subscription, event) WHERE state >= 3;
CREATE INDEX termitary_deliveries_suspects ON termitary_deliveries (state, due_us) WHERE crashes >= 2 AND state <= 1;

CREATE TABLE termitary_schedules (
    name text PRIMARY KEY,
    event text NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL,
    last_us bigint NOT NULL,
    fired_us bigint,
    paused boolean NOT NULL DEFAULT false,
    seen_us bigint NOT NULL,
    failing_us bigint,
    failure text
);

CREATE TABLE termitary_ticks (
    schedule text NOT NULL,
    tick_us bigint NOT NULL,
    event uuid,
    PRIMARY KEY (schedule, tick_us)
);
CREATE INDEX termitary_ticks_time ON termitary_ticks (tick_us);

CREATE TABLE termitary_workers (
    id text PRIMARY KEY,
    host text NOT NULL,
    started_us bigint NOT NULL,
    seen_us bigint NOT NULL,
    running bigint NOT NULL,
    concurrency bigint NOT NULL,
    subscriptions text NOT NULL,
    mode text NOT NULL DEFAULT '',
    source text,
    names text
) WITH (fillfactor = 50);

CREATE TABLE termitary_broadcasts (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time_us bigint NOT NULL,
    name text NOT NULL,
    data text NOT NULL
);

CREATE TABLE termitary_audit (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time_us bigint NOT NULL,
    who text NOT NULL,
    act text NOT NULL,
    subject text NOT NULL,
    count bigint NOT NULL
);

CREATE TABLE termitary_ledger (id uuid NOT NULL);
INSERT INTO termitary_ledger (id) VALUES (gen_random_uuid());
