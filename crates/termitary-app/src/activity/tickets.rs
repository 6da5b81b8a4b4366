//! Tickets: a ticket opens one live stream for a client that cannot send a header.
//!
//! A session's token must not appear in an address, which is written into logs and
//! histories. A ticket may: it ends after one use or half a minute.

use std::time::Duration;

use jiff::Timestamp;
use termitary::Conn;

use super::store;
use crate::accounts::{Caller, session_ids};
use crate::app::App;
use crate::http::ApiError;
use crate::random;

const LIFETIME: Duration = Duration::from_secs(30);

/// Creates a ticket of this session; returns it with the time of its end.
pub(super) async fn issue(
    conn: &mut Conn,
    app: &App,
    Caller { user, session, .. }: Caller,
) -> Result<(String, Timestamp), ApiError> {
    let ticket = random::token::<32>("tty_").map_err(ApiError::Internal)?;
    let now = app.now();
    let expires = now + LIFETIME;
    let hash = random::token_hash(&ticket);
    store::insert_ticket(conn, &hash, session, now, expires).await?;
    let sessions = session_ids(conn, user).await?;
    store::keep_tickets(conn, &sessions, app.settings().tickets_per_user.max(1)).await?;
    Ok((ticket, expires))
}

/// Uses a ticket up. Fails if it was used, has expired or never existed, and if its
/// session has ended.
pub(super) async fn redeem(app: &App, ticket: &str) -> Result<Caller, ApiError> {
    let hash = random::token_hash(ticket);
    let now = app.now();
    // Read first: a client that guesses causes no write.
    let known = store::has_ticket(&mut *app.db().read().await?, &hash, now).await?;
    if !known {
        return Err(invalid());
    }
    let mut tx = app.db().begin().await?;
    let session = store::take_ticket(&mut tx, &hash, now).await?;
    tx.commit().await?;
    let session = session.ok_or_else(invalid)?;
    let live = app.sessions().of_ids(&[session]).await?;
    live.into_iter().next().ok_or_else(invalid)
}

fn invalid() -> ApiError {
    ApiError::Unauthorized(
        "The ticket was used, has expired or never existed: get another from /api/v1/stream/tickets.",
    )
}
