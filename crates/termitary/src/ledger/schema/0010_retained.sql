-- A new subscription that asks for the retained past gets it in pages: events up to
-- retained_seq were looked at, and retained_last is the last one that is its past. Null:
-- nothing is left.
ALTER TABLE termitary_subscriptions ADD COLUMN retained_seq INTEGER;
ALTER TABLE termitary_subscriptions ADD COLUMN retained_last INTEGER;
