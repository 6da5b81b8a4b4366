-- Answers kept for `Idempotency-Key`, in place of the table `idempotency`: only those
-- that changed something, so many for each caller. Hashes are keyed and answers sealed
-- with the installation's secret, which is not in this file: see http/idempotency.
CREATE TABLE answers (
    scope      TEXT    NOT NULL,
    key_hash   BLOB    NOT NULL,
    nth        INTEGER NOT NULL, -- counts the keys of the scope: the oldest are deleted
    request    BLOB    NOT NULL, -- keyed hash of method, path and body
    created_us INTEGER NOT NULL,
    status     INTEGER NOT NULL,
    answer     BLOB,             -- sealed; NULL: too large to be kept
    PRIMARY KEY (scope, key_hash)
);
CREATE UNIQUE INDEX answers_in_order ON answers (scope, nth);
CREATE INDEX answers_by_age ON answers (created_us);

-- A process of an older version that still runs goes on writing there.
DELETE FROM idempotency;
