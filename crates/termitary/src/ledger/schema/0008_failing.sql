-- A schedule that cannot make its event: since when, and why. Null: it can.
ALTER TABLE termitary_schedules ADD COLUMN failing_us INTEGER;
ALTER TABLE termitary_schedules ADD COLUMN failure TEXT;
