-- The feed, written by a worker: one entry per event, and who may see it.

CREATE TABLE activity (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      BLOB    NOT NULL UNIQUE, -- the event's id
    event   TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    actor   BLOB,
    title   TEXT,
    changes TEXT, -- a JSON object
    at_us   INTEGER NOT NULL
);

CREATE TABLE activity_viewers (
    user_id  BLOB    NOT NULL,
    seq      INTEGER NOT NULL REFERENCES activity (seq) ON DELETE CASCADE,
    PRIMARY KEY (user_id, seq)
);
CREATE INDEX activity_viewers_of_entry ON activity_viewers (seq);
