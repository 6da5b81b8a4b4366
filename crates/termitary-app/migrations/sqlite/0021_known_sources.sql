-- Networks that each user logged in from, as keyed hashes: a stranger's guesses
-- elsewhere do not keep somebody out who comes from one of them.
CREATE TABLE known_sources (
    user_id BLOB    NOT NULL,
    source  BLOB    NOT NULL,
    seen_us INTEGER NOT NULL,
    PRIMARY KEY (user_id, source)
) WITHOUT ROWID;
