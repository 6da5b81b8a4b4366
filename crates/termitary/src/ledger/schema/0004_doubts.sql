-- With Redis: the server that a subscription's entries were last read from, and
-- up to which entry (its milliseconds) they may have been given out before.
-- Redis has lost that by a restart, a failover or with the group.
ALTER TABLE termitary_subscriptions ADD COLUMN server TEXT;
ALTER TABLE termitary_subscriptions ADD COLUMN doubt_ms INTEGER NOT NULL DEFAULT 0;
