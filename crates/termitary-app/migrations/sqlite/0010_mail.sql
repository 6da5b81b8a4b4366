-- Addresses and agents that each user logged in with, as hashes. `event` is
-- the login that brought it; `first`: of the user's first login of all.
CREATE TABLE mail_devices (
    user_id BLOB    NOT NULL,
    trait   BLOB    NOT NULL,
    event   BLOB    NOT NULL,
    first   BOOLEAN NOT NULL,
    seen_us INTEGER NOT NULL,
    PRIMARY KEY (user_id, trait)
) WITHOUT ROWID;
