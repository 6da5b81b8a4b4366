//! Tickets: what opens one live stream for a client that cannot send a header.
//!
//! An address is written into logs and histories, so no token stands in one. A
//! ticket may: it is over after one use or half a minute.

use std::time::Duration;

use jiff::Timestamp;
use termitary::Conn;
use uuid::Uuid;

use super::{store, token};
use crate::app::App;
use crate::http::{ApiError, Caller};

const LIFE: Duration = Duration::from_secs(30);

/// A new ticket of this session, and when it is over.
pub(crate) async fn issue(
    conn: &mut Conn,
    app: &App,
    session: Uuid,
) -> Result<(String, Timestamp), ApiError> {
    let ticket = token::new().map_err(ApiError::Internal)?;
    let now = app.now();
    let expires = now + LIFE;
    sqlx::query("DELETE FROM stream_tickets WHERE expires_us <= $1")
        .bind(now.as_microsecond())
        .execute(&mut *conn)
        .await?;
    sqlx::query("INSERT INTO stream_tickets (hash, session_id, expires_us) VALUES ($1, $2, $3)")
        .bind(&token::hash(&ticket)[..])
        .bind(session)
        .bind(expires.as_microsecond())
        .execute(conn)
        .await?;
    Ok((ticket, expires))
}

/// Uses a ticket up. An error where it was used, is over or never was, and where
/// its session is over.
pub(crate) async fn redeem(app: &App, ticket: &str) -> Result<Caller, ApiError> {
    let hash = token::hash(ticket);
    let now_us = app.now().as_microsecond();
    // A look first: who guesses writes nothing.
    let known: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM stream_tickets WHERE hash = $1 AND expires_us > $2)",
    )
    .bind(&hash[..])
    .bind(now_us)
    .fetch_one(&mut *app.db().read().await?)
    .await?;
    if !known {
        return Err(over());
    }
    let mut tx = app.db().begin().await?;
    let session: Option<Uuid> = sqlx::query_scalar(
        "DELETE FROM stream_tickets WHERE hash = $1 AND expires_us > $2 RETURNING session_id",
    )
    .bind(&hash[..])
    .bind(now_us)
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    let session = session.ok_or_else(over)?;
    let live = store::sessions_of_ids(app, &[session]).await?;
    live.into_iter().next().ok_or_else(over)
}

fn over() -> ApiError {
    ApiError::Unauthorized(
        "The ticket was used, is over or never was: get another from /api/v1/stream/tickets.",
    )
}
