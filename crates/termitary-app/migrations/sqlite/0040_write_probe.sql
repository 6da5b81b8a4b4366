-- Written to find out whether commits work: see http/ready.
CREATE TABLE write_probe (
    id    INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    at_us INTEGER NOT NULL
);
