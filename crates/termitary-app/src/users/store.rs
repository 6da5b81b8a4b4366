//! The users module's SQL.

use sqlx::{QueryBuilder, Sqlite};
use termitary::Conn;
use uuid::Uuid;

use super::people::Person;
use crate::accounts::{USER_COLUMNS, User};
use crate::fold::Needle;

/// The accounts that one request looks at, and those of one statement.
const LOOKED_AT: i64 = 20_000;
const SHARE: i64 = 500;

/// A page of users by id, which is by time of creation; one more than `limit`.
pub(super) async fn list(
    conn: &mut Conn,
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
pub(super) async fn update(conn: &mut Conn, user: &User) -> sqlx::Result<()> {
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
pub(super) async fn person_at(conn: &mut Conn, email: &str) -> sqlx::Result<Option<Person>> {
    sqlx::query_as("SELECT id, name FROM users WHERE email = $1")
        .bind(email)
        .fetch_optional(conn)
        .await
}

/// The person with this id.
pub(super) async fn person_with(conn: &mut Conn, id: Uuid) -> sqlx::Result<Option<Person>> {
    sqlx::query_as("SELECT id, name FROM users WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// People in whose names the needle is: up to `limit`, among the next
/// [`LOOKED_AT`] accounts; and after which account to go on, if there may be more.
pub(super) async fn people_named(
    conn: &mut Conn,
    needle: &Needle,
    mut after: Option<Uuid>,
    limit: u32,
) -> sqlx::Result<(Vec<Person>, Option<Uuid>)> {
    let mut found = Vec::new();
    for _ in 0..LOOKED_AT / SHARE {
        let share: Vec<Person> =
            sqlx::query_as("SELECT id, name FROM users WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(after.unwrap_or(Uuid::nil()))
                .bind(SHARE)
                .fetch_all(&mut *conn)
                .await?;
        let is_last = (share.len() as i64) < SHARE;
        for person in share {
            let id = person.id;
            if needle.is_in(&person.name) {
                if found.len() == limit as usize {
                    return Ok((found, after));
                }
                found.push(person);
            }
            after = Some(id);
        }
        if is_last {
            return Ok((found, None));
        }
    }
    Ok((found, after))
}

pub(super) async fn delete(conn: &mut Conn, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM users WHERE id = $1")
        .bind(id)
        .execute(conn)
        .await
        .map(drop)
}
