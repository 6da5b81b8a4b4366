-- Which ledger this is. Redis remembers by it whose deliveries it carries. Two files
-- are two ledgers even if their programs' clocks, and what is drawn from them, agree.
CREATE TABLE termitary_ledger (id BLOB NOT NULL) STRICT;
INSERT INTO termitary_ledger (id) VALUES (randomblob(16));

-- Subscriptions that an operator dropped, with the events that reached them: a worker
-- that still knows one may make its consumer groups on Redis again.
CREATE TABLE termitary_dropped (
    name TEXT NOT NULL,
    event TEXT NOT NULL,
    subscription INTEGER NOT NULL, -- its number, which no other one gets
    time_us INTEGER NOT NULL,
    PRIMARY KEY (name, event)
) STRICT, WITHOUT ROWID;
