-- The mode of a worker's broker, `sqlite` or `redis`: a program that is
-- configured differently can say so.
ALTER TABLE termitary_workers ADD COLUMN mode TEXT NOT NULL DEFAULT '';
