-- An idempotency id is unique for each event name: the column holds the name, a space
-- and the id. The index stays as it was, so that older programs that still run can
-- publish.
UPDATE OR IGNORE termitary_events SET dedup = name || ' ' || dedup WHERE dedup IS NOT NULL;
