-- A browser's EventSource sends no headers: a ticket in the address opens one live
-- stream, once, within seconds. Only its hash is stored.
CREATE TABLE stream_tickets (
    hash       BLOB    NOT NULL PRIMARY KEY, -- SHA-256
    session_id BLOB    NOT NULL,
    expires_us INTEGER NOT NULL
);
CREATE INDEX stream_tickets_by_expiry ON stream_tickets (expires_us);
