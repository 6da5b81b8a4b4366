-- The team's to-dos. Owner and assignee have no foreign key: when a user is
-- deleted the worker decides what becomes of their todos.

CREATE TABLE todos (
    id          BLOB    NOT NULL PRIMARY KEY,
    owner_id    BLOB    NOT NULL,
    assignee_id BLOB,
    title       TEXT    NOT NULL,
    description TEXT,
    status      TEXT    NOT NULL CHECK (status IN ('open', 'done')),
    priority    INTEGER CHECK (priority BETWEEN 0 AND 3), -- low, medium, high, urgent
    due_us      INTEGER,
    created_us  INTEGER NOT NULL,
    updated_us  INTEGER NOT NULL
);
CREATE INDEX todos_of_owner ON todos (owner_id, created_us, id);
CREATE INDEX todos_of_assignee ON todos (assignee_id, created_us, id);
CREATE INDEX todos_due ON todos (due_us) WHERE status = 'open' AND due_us IS NOT NULL;

CREATE TABLE comments (
    id         BLOB    NOT NULL PRIMARY KEY,
    todo_id    BLOB    NOT NULL REFERENCES todos (id) ON DELETE CASCADE,
    author_id  BLOB    NOT NULL,
    text       TEXT    NOT NULL,
    created_us INTEGER NOT NULL
);
CREATE INDEX comments_of_todo ON comments (todo_id, created_us, id);

-- One row per reminder: the key is what makes it one per todo and due date.
CREATE TABLE overdue_reminders (
    todo_id    BLOB    NOT NULL REFERENCES todos (id) ON DELETE CASCADE,
    due_us     INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (todo_id, due_us)
);
