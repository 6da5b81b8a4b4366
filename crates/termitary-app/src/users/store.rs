//! The users module's SQL.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::people::Person;
use crate::accounts::{USER_COLUMNS, User};

/// A page of users by id, which is by time of creation; one more than `limit`.
pub(super) async fn list(
    conn: &mut SqliteConnection,
    after: Option<Uuid>,
    limit: u32,
) -> sqlx::Result<Vec<User>> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
    query.push(USER_COLUMNS).push(" FROM users");
    if let Some(after) = after {
        query.push(" WHERE id > ").push_bind(after);
    }
    query
        .push(" ORDER BY id LIMIT 1 + ")
        .push_bind(i64::from(limit));
    query.build_query_as().fetch_all(conn).await
}

/// Writes what a user or an admin changes directly.
pub(super) async fn update(conn: &mut SqliteConnection, user: &User) -> sqlx::Result<()> {
    sqlx::query("UPDATE users SET name = $2, pending_email = $3, updated_us = $4 WHERE id = $1")
        .bind(user.id)
        .bind(&user.name)
        .bind(&user.pending_email)
        .bind(user.updated_at.as_microsecond())
        .execute(conn)
        .await
        .map(drop)
}

/// The person with this address.
pub(super) async fn person_at(
    conn: &mut SqliteConnection,
    email: &str,
) -> sqlx::Result<Option<Person>> {
    sqlx::query_as("SELECT id, name FROM users WHERE email = $1")
        .bind(email)
        .fetch_optional(conn)
        .await
}

/// A page of people in whose names `part` stands; one more than `limit`.
pub(super) async fn people_named(
    conn: &mut SqliteConnection,
    part: &str,
    after: Option<Uuid>,
    limit: u32,
) -> sqlx::Result<Vec<Person>> {
    let pattern = part
        .replace('\\', r"\\")
        .replace('%', r"\%")
        .replace('_', r"\_");
    sqlx::query_as(
        r"SELECT id, name FROM users WHERE id > $1 AND name LIKE $2 ESCAPE '\' ORDER BY id LIMIT 1 + $3",
    )
    .bind(after.unwrap_or(Uuid::nil()))
    .bind(format!("%{pattern}%"))
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
}

pub(super) async fn delete(conn: &mut SqliteConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM users WHERE id = $1")
        .bind(id)
        .execute(conn)
        .await
        .map(drop)
}
