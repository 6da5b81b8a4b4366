//! The users module's SQL.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::accounts::{Role, USER_COLUMNS, User};

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

/// Writes a changed user; whether the new address was free.
pub(super) async fn update(conn: &mut SqliteConnection, user: &User) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "UPDATE users SET email = $2, name = $3, role = $4, updated_us = $5
         WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM users WHERE email = $2 AND id <> $1)",
    )
    .bind(user.id)
    .bind(&user.email)
    .bind(&user.name)
    .bind(user.role.as_str())
    .bind(user.updated_at.as_microsecond())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn delete(conn: &mut SqliteConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM users WHERE id = $1")
        .bind(id)
        .execute(conn)
        .await
        .map(drop)
}

/// Whether this user is the only admin.
pub(super) async fn is_last_admin(conn: &mut SqliteConnection, user: &User) -> sqlx::Result<bool> {
    if user.role != Role::Admin {
        return Ok(false);
    }
    let others: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM users WHERE role = 'admin' AND id <> $1")
            .bind(user.id)
            .fetch_one(conn)
            .await?;
    Ok(others == 0)
}

/// A change of role ends what was begun under the old one.
pub(super) async fn end_sessions(
    conn: &mut SqliteConnection,
    user: Uuid,
    except: Uuid,
) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND id <> $2")
        .bind(user)
        .bind(except)
        .execute(conn)
        .await
        .map(drop)
}

/// Marks the instant of a change.
pub(super) fn touch(user: User, now: Timestamp) -> User {
    User {
        updated_at: now,
        ..user
    }
}
