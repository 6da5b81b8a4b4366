-- Addresses count once their owner has followed a link. Accounts from before
-- are taken at their word: mail to them goes on.
ALTER TABLE users ADD COLUMN confirmed_us INTEGER;
ALTER TABLE users ADD COLUMN pending_email TEXT; -- asked for, not confirmed yet
UPDATE users SET confirmed_us = created_us;

-- Links in mails. The token is stored as a hash only. No foreign key: every
-- look-up joins users.
CREATE TABLE links (
    token_hash BLOB    NOT NULL PRIMARY KEY, -- SHA-256
    purpose    TEXT    NOT NULL CHECK (purpose IN ('confirm', 'reset')),
    user_id    BLOB    NOT NULL,
    email      TEXT    NOT NULL, -- where the mail went
    created_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX links_of_user ON links (user_id, purpose, created_us);
CREATE INDEX links_by_expiry ON links (expires_us);

-- Mails of the last day, for the limits. Bounded by the limits themselves.
CREATE TABLE mails_counted (
    delivery  BLOB    NOT NULL PRIMARY KEY, -- hash of event id and subscription
    recipient BLOB    NOT NULL, -- hash of the address
    kind      TEXT    NOT NULL,
    actor     BLOB,
    at_us     INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX mails_counted_of_recipient ON mails_counted (recipient, kind, at_us);
CREATE INDEX mails_counted_of_actor ON mails_counted (actor, at_us) WHERE actor IS NOT NULL;
CREATE INDEX mails_counted_by_age ON mails_counted (at_us);
