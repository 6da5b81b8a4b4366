-- The service of a worker, and the event names that the code of each of its
-- subscriptions handles, as a JSON object. Null: a worker of an older version.
ALTER TABLE termitary_workers ADD COLUMN source TEXT;
ALTER TABLE termitary_workers ADD COLUMN names TEXT;

-- Names that reached a subscription before it moved to another event. With Redis, what
-- still waits under them there is brought back to the ledger.
CREATE TABLE termitary_former (
    event TEXT NOT NULL,
    subscription INTEGER NOT NULL REFERENCES termitary_subscriptions (id) ON DELETE CASCADE,
    PRIMARY KEY (event, subscription)
) STRICT, WITHOUT ROWID;
