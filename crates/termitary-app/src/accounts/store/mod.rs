//! The SQL of accounts: users, and in the submodules their links and sessions.

pub(crate) mod links;
pub(super) mod sessions;

use jiff::Timestamp;
use termitary::Conn;
use termitary::db::sql::SqlRow;
use uuid::Uuid;

use super::{Draft, Role, User, normal_email};
use crate::schema::{Rows, instant};
use crate::sql::{Statement, statement, storable};

/// A statement that reads whole users.
macro_rules! select_users {
    ($rest:literal) => {
        concat!(
            "SELECT id, email, confirmed_us, pending_email, name, role, created_us, updated_us FROM users ",
            $rest
        )
    };
}

impl sqlx::FromRow<'_, SqlRow> for User {
    fn from_row(row: &SqlRow) -> sqlx::Result<Self> {
        use sqlx::Row;
        Ok(Self {
            id: row.try_get("id")?,
            email: row.try_get("email")?,
            email_confirmed: row.try_get::<Option<i64>, _>("confirmed_us")?.is_some(),
            pending_email: row.try_get("pending_email")?,
            name: row.try_get("name")?,
            role: Role::parse(row.try_get("role")?),
            created_at: instant(row.try_get("created_us")?),
            updated_at: instant(row.try_get("updated_us")?),
        })
    }
}

/// The user with this id.
pub(crate) async fn find(conn: &mut Conn, id: Uuid) -> sqlx::Result<Option<User>> {
    sqlx::query_as(select_users!("WHERE id = $1"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// [`find`] in a transaction that changes the user, or something because of what it read.
pub(crate) async fn find_to_change(conn: &mut Conn, id: Uuid) -> sqlx::Result<Option<User>> {
    const FIND: Statement = statement!((select_users "WHERE id = $1"), [to_change]);
    sqlx::query_as(FIND.on(conn))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The user whose account has this address.
pub(crate) async fn find_by_email(conn: &mut Conn, email: &str) -> sqlx::Result<Option<User>> {
    sqlx::query_as(select_users!("WHERE email = $1"))
        .bind(&*storable(&normal_email(email)))
        .fetch_optional(conn)
        .await
}

/// [`find_by_email`] in a transaction that changes the user.
pub(crate) async fn find_by_email_to_change(
    conn: &mut Conn,
    email: &str,
) -> sqlx::Result<Option<User>> {
    const FIND: Statement = statement!((select_users "WHERE email = $1"), [to_change]);
    sqlx::query_as(FIND.on(conn))
        .bind(&*storable(&normal_email(email)))
        .fetch_optional(conn)
        .await
}

/// Returns true if a user has this id.
pub(crate) async fn exists(conn: &mut Conn, id: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM users WHERE id = $1)")
        .bind(id)
        .fetch_one(conn)
        .await
}

/// Returns true if a user has this id; they are not deleted before the transaction ends.
pub(crate) async fn exists_to_refer_to(conn: &mut Conn, id: Uuid) -> sqlx::Result<bool> {
    const FIND: Statement = statement!("SELECT id FROM users WHERE id = $1", [to_refer_to]);
    let found: Option<Uuid> = sqlx::query_scalar(FIND.on(conn))
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

/// Users by id, which is by time of creation: at most `limit` after the user `after`.
pub(crate) async fn page(
    conn: &mut Conn,
    after: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Rows<User>> {
    let rows = sqlx::query(select_users!("WHERE id > $1 ORDER BY id LIMIT 0 + $2"))
        .bind(after.unwrap_or(Uuid::nil()))
        .bind(limit)
        .fetch_all(conn)
        .await?;
    Ok(Rows::of("users", &rows))
}

/// Writes a new user; returns false if the address has an account.
pub(super) async fn insert(
    conn: &mut Conn,
    id: Uuid,
    draft: &Draft,
    password_hash: &str,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "INSERT INTO users (id, email, name, role, password_hash, created_us, updated_us, confirmed_us)
         VALUES ($1, $2, $3, $4, $5, $6, $6, $7) ON CONFLICT (email) DO NOTHING",
    )
    .bind(id)
    .bind(&draft.email)
    .bind(&draft.name)
    .bind(draft.role.as_str())
    .bind(password_hash)
    .bind(now.as_microsecond())
    .bind(draft.email_confirmed.then(|| now.as_microsecond()))
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Writes the name and the pending address.
pub(crate) async fn update(conn: &mut Conn, user: &User) -> sqlx::Result<()> {
    sqlx::query("UPDATE users SET name = $2, pending_email = $3, updated_us = $4 WHERE id = $1")
        .bind(user.id)
        .bind(&user.name)
        .bind(&user.pending_email)
        .bind(user.updated_at.as_microsecond())
        .execute(conn)
        .await
        .map(drop)
}

pub(crate) async fn delete(conn: &mut Conn, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM users WHERE id = $1")
        .bind(id)
        .execute(conn)
        .await
        .map(drop)
}

/// The id and the password hash of the account with this address.
pub(crate) async fn credentials(
    conn: &mut Conn,
    email: &str,
) -> sqlx::Result<Option<(Uuid, String)>> {
    sqlx::query_as("SELECT id, password_hash FROM users WHERE email = $1")
        .bind(&*storable(email))
        .fetch_optional(conn)
        .await
}

pub(crate) async fn password_hash(conn: &mut Conn, user: Uuid) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1")
        .bind(user)
        .fetch_optional(conn)
        .await
}

/// [`password_hash`] in a transaction that relies on it.
pub(crate) async fn password_hash_to_change(
    conn: &mut Conn,
    user: Uuid,
) -> sqlx::Result<Option<String>> {
    const FIND: Statement =
        statement!("SELECT password_hash FROM users WHERE id = $1", [to_change]);
    sqlx::query_scalar(FIND.on(conn))
        .bind(user)
        .fetch_optional(conn)
        .await
}

/// Stores a stronger hash of the same password.
pub(crate) async fn renew_password_hash(
    conn: &mut Conn,
    user: Uuid,
    hash: &str,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE users SET password_hash = $1 WHERE id = $2")
        .bind(hash)
        .bind(user)
        .execute(conn)
        .await
        .map(drop)
}

/// Stores a new password and withdraws a pending change of address.
pub(super) async fn set_password(
    conn: &mut Conn,
    user: Uuid,
    hash: &str,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE users SET password_hash = $1, pending_email = NULL, updated_us = $2 WHERE id = $3",
    )
    .bind(hash)
    .bind(now.as_microsecond())
    .bind(user)
    .execute(conn)
    .await
    .map(drop)
}

pub(super) async fn set_role(
    conn: &mut Conn,
    user: Uuid,
    role: Role,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE users SET role = $1, updated_us = $2 WHERE id = $3")
        .bind(role.as_str())
        .bind(now.as_microsecond())
        .bind(user)
        .execute(conn)
        .await
        .map(drop)
}

/// Returns true if an admin other than this user exists.
pub(super) async fn has_other_admin(conn: &mut Conn, user: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM users WHERE role = 'admin' AND id <> $1)")
        .bind(user)
        .fetch_one(conn)
        .await
}

/// Gives the account a confirmed address; returns false if another account has it.
pub(super) async fn set_email(
    conn: &mut Conn,
    user: Uuid,
    email: &str,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let moved = sqlx::query(
        "UPDATE users SET email = $2, pending_email = NULL, confirmed_us = $3, updated_us = $3
         WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM users WHERE email = $2)",
    )
    .bind(user)
    .bind(email)
    .bind(now.as_microsecond())
    .execute(conn)
    .await;
    match moved {
        Ok(moved) => Ok(moved.rows_affected() > 0),
        // Another transaction gave it to another account at the same moment.
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Marks the address as confirmed; returns true the first time.
pub(super) async fn set_confirmed(
    conn: &mut Conn,
    user: Uuid,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let first = sqlx::query(
        "UPDATE users SET confirmed_us = $2, updated_us = $2 WHERE id = $1 AND confirmed_us IS NULL",
    )
    .bind(user)
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(first.rows_affected() > 0)
}
