//! The todos module's SQL. The statements themselves check who may see a todo.

pub(super) mod list;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::QueryBuilder;
use termitary::Conn;
use termitary::db::Sql;
use termitary::db::sql::SqlRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::due::Due;
use super::todo::{Priority, Status, Todo};
use crate::accounts::Caller;
use crate::schema::{Rows, instant};
use crate::sql::{Statement, statement};

/// The columns of a todo, with `rest` behind the table.
macro_rules! select_todos {
    ($rest:literal) => {
        concat!(
            "SELECT id, title, description, status, owner_id, assignee_id, priority, due_us, created_us, updated_us FROM todos ",
            $rest
        )
    };
}

impl sqlx::FromRow<'_, SqlRow> for Todo {
    fn from_row(row: &SqlRow) -> sqlx::Result<Self> {
        use sqlx::Row;
        let status: &str = row.try_get("status")?;
        let priority: Option<i64> = row.try_get("priority")?;
        Ok(Self {
            id: row.try_get("id")?,
            title: row.try_get("title")?,
            description: row.try_get("description")?,
            status: if status == Status::Done.as_str() {
                Status::Done
            } else {
                Status::Open
            },
            owner: row.try_get("owner_id")?,
            assignee: row.try_get("assignee_id")?,
            priority: priority.and_then(Priority::of_rank),
            due_date: row
                .try_get::<Option<i64>, _>("due_us")?
                .map(Due::from_microsecond),
            created_at: instant(row.try_get("created_us")?),
            updated_at: instant(row.try_get("updated_us")?),
        })
    }
}

/// The todo, if `caller` may see it; without a caller, any todo.
pub(super) async fn find(
    conn: &mut Conn,
    id: Uuid,
    caller: Option<Caller>,
) -> sqlx::Result<Option<Todo>> {
    find_with(FIND.sqlite, conn, id, caller).await
}

/// [`find`] in a transaction that changes the todo, or something because of what it read.
pub(super) async fn find_to_change(
    conn: &mut Conn,
    id: Uuid,
    caller: Option<Caller>,
) -> sqlx::Result<Option<Todo>> {
    find_with(FIND.on(conn), conn, id, caller).await
}

/// On PostgreSQL the todo stays as it is read until the transaction ends.
const FIND: Statement = statement!(
    (select_todos "WHERE id = $1 AND ($2 IS NULL OR owner_id = $2 OR assignee_id = $2)"),
    [to_change]
);

async fn find_with(
    find: &'static str,
    conn: &mut Conn,
    id: Uuid,
    caller: Option<Caller>,
) -> sqlx::Result<Option<Todo>> {
    let viewer = caller.filter(|caller| !caller.is_admin());
    sqlx::query_as(find)
        .bind(id)
        .bind(viewer.map(|viewer| viewer.user))
        .fetch_optional(conn)
        .await
}

/// The statement that creates a todo.
pub(super) fn insert(todo: &Todo) -> QueryBuilder<Sql> {
    let mut change = QueryBuilder::new(
        "INSERT INTO todos (id, title, description, status, owner_id, assignee_id, priority, due_us, created_us, updated_us) VALUES (",
    );
    change
        .separated(", ")
        .push_bind(todo.id)
        .push_bind(&todo.title)
        .push_bind(&todo.description)
        .push_bind(todo.status.as_str())
        .push_bind(todo.owner)
        .push_bind(todo.assignee)
        .push_bind(todo.priority.map(Priority::rank))
        .push_bind(todo.due_date.map(Due::as_microsecond))
        .push_bind(todo.created_at.as_microsecond())
        .push_bind(todo.updated_at.as_microsecond());
    change.push(")");
    change
}

/// The statement that gives a todo all values of this one.
pub(super) fn update(todo: &Todo) -> QueryBuilder<Sql> {
    let mut change = QueryBuilder::new("UPDATE todos SET title = ");
    change
        .push_bind(&todo.title)
        .push(", description = ")
        .push_bind(&todo.description)
        .push(", status = ")
        .push_bind(todo.status.as_str())
        .push(", owner_id = ")
        .push_bind(todo.owner)
        .push(", assignee_id = ")
        .push_bind(todo.assignee)
        .push(", priority = ")
        .push_bind(todo.priority.map(Priority::rank))
        .push(", due_us = ")
        .push_bind(todo.due_date.map(Due::as_microsecond))
        .push(", updated_us = ")
        .push_bind(todo.updated_at.as_microsecond())
        .push(" WHERE id = ")
        .push_bind(todo.id);
    change
}

/// The statement that deletes a todo.
pub(super) fn delete(id: Uuid) -> QueryBuilder<Sql> {
    let mut change = QueryBuilder::new("DELETE FROM todos WHERE id = ");
    change.push_bind(id);
    change
}

/// Todos that a user owns or is assigned to, at most `limit`.
pub(super) async fn of_user(conn: &mut Conn, user: Uuid, limit: i64) -> sqlx::Result<Rows<Todo>> {
    of_user_with(OF_USER.sqlite, conn, user, limit).await
}

/// [`of_user`] in a transaction that changes the todos.
pub(super) async fn of_user_to_change(
    conn: &mut Conn,
    user: Uuid,
    limit: i64,
) -> sqlx::Result<Rows<Todo>> {
    of_user_with(OF_USER.on(conn), conn, user, limit).await
}

/// On PostgreSQL the todos stay as they are read until the transaction ends.
const OF_USER: Statement = statement!(
    (select_todos "WHERE owner_id = $1 OR assignee_id = $1 ORDER BY id LIMIT $2"),
    [to_change]
);

async fn of_user_with(
    select: &'static str,
    conn: &mut Conn,
    user: Uuid,
    limit: i64,
) -> sqlx::Result<Rows<Todo>> {
    let rows = sqlx::query(select)
        .bind(user)
        .bind(limit)
        .fetch_all(conn)
        .await?;
    Ok(Rows::of("todos", &rows))
}

/// Open todos whose due date has passed and has no reminder yet.
pub(super) async fn overdue(
    conn: &mut Conn,
    now: Timestamp,
    limit: i64,
) -> sqlx::Result<Rows<Todo>> {
    let rows = sqlx::query(select_todos!(
        "WHERE status = 'open' AND due_us < $1
           AND NOT EXISTS (SELECT 1 FROM overdue_reminders r WHERE r.todo_id = todos.id AND r.due_us = todos.due_us)
         ORDER BY due_us LIMIT $2"
    ))
    .bind(now.as_microsecond())
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(Rows::of("todos", &rows))
}

/// Writes the reminder; returns true if it is the first of this todo and due date.
pub(super) async fn insert_reminder(
    conn: &mut Conn,
    todo: Uuid,
    due: Due,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "INSERT INTO overdue_reminders (todo_id, due_us, created_us) VALUES ($1, $2, $3)
         ON CONFLICT (todo_id, due_us) DO NOTHING",
    )
    .bind(todo)
    .bind(due.as_microsecond())
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A comment on a todo.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Comment {
    pub(super) id: Uuid,
    /// The todo's id.
    pub(super) todo: Uuid,
    /// The author's id.
    pub(super) author: Uuid,
    pub(super) text: String,
    #[schema(value_type = String, format = DateTime)]
    pub(super) created_at: Timestamp,
}

impl sqlx::FromRow<'_, SqlRow> for Comment {
    fn from_row(row: &SqlRow) -> sqlx::Result<Self> {
        use sqlx::Row;
        Ok(Self {
            id: row.try_get("id")?,
            todo: row.try_get("todo_id")?,
            author: row.try_get("author_id")?,
            text: row.try_get("text")?,
            created_at: instant(row.try_get("created_us")?),
        })
    }
}

pub(super) async fn insert_comment(conn: &mut Conn, comment: &Comment) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO comments (id, todo_id, author_id, text, created_us) VALUES ($1, $2, $3, $4, $5)")
        .bind(comment.id)
        .bind(comment.todo)
        .bind(comment.author)
        .bind(&comment.text)
        .bind(comment.created_at.as_microsecond())
        .execute(conn)
        .await
        .map(drop)
}

/// A page of comments, the oldest first; one more than `limit`.
pub(super) async fn comments(
    conn: &mut Conn,
    todo: Uuid,
    after: Option<(i64, Uuid)>,
    limit: u32,
) -> sqlx::Result<Rows<Comment>> {
    let (after_us, after_id) = after.unwrap_or((i64::MIN, Uuid::nil()));
    let rows = sqlx::query(
        "SELECT id, todo_id, author_id, text, created_us FROM comments
         WHERE todo_id = $1 AND (created_us, id) > ($2, $3) ORDER BY created_us, id LIMIT 1 + $4",
    )
    .bind(todo)
    .bind(after_us)
    .bind(after_id)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    Ok(Rows::of("comments", &rows))
}

/// Returns true if the todo is still open and due at this time, and until the transaction
/// ends.
pub(super) async fn is_still_due(conn: &mut Conn, todo: Uuid, due: Due) -> sqlx::Result<bool> {
    const FIND: Statement = statement!(
        "SELECT id FROM todos WHERE id = $1 AND status = 'open' AND due_us = $2",
        [to_change]
    );
    let found = sqlx::query(FIND.on(conn))
        .bind(todo)
        .bind(due.as_microsecond())
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

/// Counts the open todos that a user owns, up to `most`.
pub(super) async fn count_open(conn: &mut Conn, owner: Uuid, most: u64) -> sqlx::Result<u64> {
    let count: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM
         (SELECT 1 FROM todos WHERE owner_id = $1 AND status = 'open' LIMIT $2) AS counted",
    )
    .bind(owner)
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .fetch_one(conn)
    .await?;
    Ok(count.unsigned_abs())
}
