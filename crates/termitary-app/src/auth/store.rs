//! The auth module's SQL: credentials and sessions.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use termitary::Conn;
use utoipa::ToSchema;
use uuid::Uuid;

use super::token;
use crate::accounts::Role;
use crate::app::{App, instant};
use crate::http::{ApiError, Caller, Client};

/// A session's last use is written at most this often.
const TOUCH_US: i64 = 60_000_000;
/// How long a request waits until its session is noted as used.
const NOTE_WAIT: std::time::Duration = std::time::Duration::from_millis(500);
/// The most sessions of one user; a further login ends the oldest.
const SESSIONS: i64 = 100;

/// What a password is checked against.
pub(super) struct Credentials {
    pub(super) user: Uuid,
    pub(super) password_hash: String,
}

pub(super) async fn credentials(conn: &mut Conn, email: &str) -> sqlx::Result<Option<Credentials>> {
    let row: Option<(Uuid, String)> =
        sqlx::query_as("SELECT id, password_hash FROM users WHERE email = $1")
            .bind(email)
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|(user, password_hash)| Credentials {
        user,
        password_hash,
    }))
}

pub(super) async fn password_hash(conn: &mut Conn, user: Uuid) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1")
        .bind(user)
        .fetch_optional(conn)
        .await
}

/// Stores a new hash if the old one still stands.
pub(super) async fn set_password_hash(
    conn: &mut Conn,
    user: Uuid,
    old: &str,
    new: &str,
) -> sqlx::Result<bool> {
    let done =
        sqlx::query("UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3")
            .bind(new)
            .bind(user)
            .bind(old)
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Opens a session and answers its token.
pub(super) async fn open_session(
    conn: &mut Conn,
    app: &App,
    user: Uuid,
    client: &Client,
) -> Result<String, ApiError> {
    let token = token::new().map_err(ApiError::Internal)?;
    let now_us = app.now().as_microsecond();
    let lifetime_us = app.settings().session_lifetime.as_micros() as i64;
    sqlx::query(
        "INSERT INTO sessions (id, user_id, token_hash, created_us, last_used_us, expires_us, ip_address, user_agent)
         VALUES ($1, $2, $3, $4, $4, $5, $6, $7)",
    )
    .bind(app.db().clock().new_id())
    .bind(user)
    .bind(token::hash(&token).to_vec())
    .bind(now_us)
    .bind(now_us.saturating_add(lifetime_us))
    .bind(client.address.to_string())
    .bind(&client.agent)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM sessions WHERE id IN
         (SELECT id FROM sessions WHERE user_id = $1 ORDER BY created_us DESC, id DESC LIMIT -1 OFFSET $2)",
    )
    .bind(user)
    .bind(SESSIONS)
    .execute(conn)
    .await?;
    Ok(token)
}

/// The live session of a token; notes that it was used.
pub(super) async fn session_of_token(
    app: &App,
    hash: [u8; 32],
) -> Result<Option<Caller>, ApiError> {
    let Some(live) = app.lookups().find(app, hash).await? else {
        return Ok(None);
    };
    let now_us = app.now().as_microsecond();
    if now_us - live.last_used_us > TOUCH_US {
        note_use(app, live.session, now_us).await;
    }
    Ok(Some(Caller {
        user: live.user,
        role: role_of(&live.role),
        session: live.session,
    }))
}

/// Those of these sessions that are live.
pub(super) async fn sessions_of_ids(app: &App, sessions: &[Uuid]) -> Result<Vec<Caller>, ApiError> {
    let (now_us, idle_us) = hands(app);
    let mut reader = app.db().read().await?;
    let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
        "SELECT s.id, s.user_id, u.role FROM json_each($1) q
         CROSS JOIN sessions s ON s.id = unhex(q.value, '-') JOIN users u ON u.id = s.user_id
         WHERE s.expires_us > $2 AND s.last_used_us > $3",
    )
    .bind(serde_json::json!(sessions).to_string())
    .bind(now_us)
    .bind(now_us.saturating_sub(idle_us))
    .fetch_all(&mut *reader)
    .await?;
    let callers = rows.into_iter().map(|(session, user, role)| Caller {
        user,
        role: role_of(&role),
        session,
    });
    Ok(callers.collect())
}

fn role_of(text: &str) -> Role {
    if text == Role::Admin.as_str() {
        Role::Admin
    } else {
        Role::User
    }
}

/// What time it is, and how long a session may idle, in microseconds.
pub(super) fn hands(app: &App) -> (i64, i64) {
    (
        app.now().as_microsecond(),
        app.settings().session_idle.as_micros() as i64,
    )
}

/// Notes that a session was used. Reading must not fail because writing does, and a
/// request does not wait for long: where the database is locked, its own write
/// would wait once more.
async fn note_use(app: &App, session: Uuid, now_us: i64) {
    // With that many under way the next request notes it.
    let Some(place) = app.lookups().place_to_note() else {
        return;
    };
    let noting = {
        let app = app.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = touch(&app, session, now_us).await {
                tracing::warn!(error = ?error, "cannot note that a session was used");
            }
        })
    };
    let _ = tokio::time::timeout(NOTE_WAIT, noting).await;
}

async fn touch(app: &App, session: Uuid, now_us: i64) -> Result<(), termitary::Error> {
    let mut tx = app.db().begin().await?;
    sqlx::query("UPDATE sessions SET last_used_us = $1 WHERE id = $2 AND last_used_us < $1")
        .bind(now_us)
        .bind(session)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// A session, as its user sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    id: Uuid,
    /// When the login was.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last used, to the minute.
    #[schema(value_type = String, format = DateTime)]
    last_used_at: Timestamp,
    /// When it ends at the latest.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    ip_address: Option<String>,
    user_agent: Option<String>,
    /// The session of this request.
    current: bool,
}

/// A user's live sessions, the newest first.
pub(super) async fn sessions(app: &App, caller: Caller) -> Result<Vec<Session>, ApiError> {
    use sqlx::Row;
    let (now_us, idle_us) = hands(app);
    let sessions = sqlx::query(
        "SELECT id, created_us, last_used_us, expires_us, ip_address, user_agent FROM sessions
         WHERE user_id = $1 AND expires_us > $2 AND last_used_us > $3 ORDER BY created_us DESC, id DESC",
    )
    .bind(caller.user)
    .bind(now_us)
    .bind(now_us.saturating_sub(idle_us))
    .try_map(|row: SqliteRow| {
        let id = row.try_get("id")?;
        Ok(Session {
            id,
            created_at: instant(row.try_get("created_us")?),
            last_used_at: instant(row.try_get("last_used_us")?),
            expires_at: instant(row.try_get("expires_us")?),
            ip_address: row.try_get("ip_address")?,
            user_agent: row.try_get("user_agent")?,
            current: id == caller.session,
        })
    })
    .fetch_all(&mut *app.db().read().await?)
    .await?;
    Ok(sessions)
}

/// Ends one session of a user; whether there was one.
pub(super) async fn end_session(conn: &mut Conn, user: Uuid, session: Uuid) -> sqlx::Result<bool> {
    let done = sqlx::query("DELETE FROM sessions WHERE id = $1 AND user_id = $2")
        .bind(session)
        .bind(user)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes every session of a user who is gone; of one who is not, none.
pub(super) async fn end_sessions_of_deleted(conn: &mut Conn, user: Uuid) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM sessions WHERE user_id = $1 AND NOT EXISTS (SELECT 1 FROM users WHERE id = $1)",
    )
    .bind(user)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Removes sessions that are over, by age or by idling.
pub(super) async fn remove_expired(conn: &mut Conn, app: &App) -> sqlx::Result<u64> {
    let (now_us, idle_us) = hands(app);
    let done = sqlx::query("DELETE FROM sessions WHERE expires_us <= $1 OR last_used_us <= $2")
        .bind(now_us)
        .bind(now_us.saturating_sub(idle_us))
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

/// Forgets failures that do not count any more.
pub(super) async fn remove_old_attempts(conn: &mut Conn, app: &App) -> sqlx::Result<()> {
    let longest_us = app.settings().login_limits.longest_wait.as_micros() as i64;
    sqlx::query("DELETE FROM attempt_limits WHERE last_us <= $1 AND blocked_until_us <= $1")
        .bind(app.now().as_microsecond().saturating_sub(longest_us))
        .execute(conn)
        .await
        .map(drop)
}
