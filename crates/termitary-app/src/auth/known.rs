//! Networks that each user logged in from. A guess from elsewhere counts against a
//! limit that logins from these do not meet.

use termitary::Conn;
use uuid::Uuid;

use crate::app::App;

/// The most networks of one user; the one that was not seen for longest makes room.
const MOST: i64 = 32;

/// Whether the account of this address was logged in to from this network. An unknown
/// address takes as many look-ups.
pub(super) async fn is_known(
    conn: &mut Conn,
    app: &App,
    email: &str,
    network: &str,
) -> sqlx::Result<bool> {
    let user: Option<Uuid> = sqlx::query_scalar("SELECT id FROM users WHERE email = $1")
        .bind(email)
        .fetch_optional(&mut *conn)
        .await?;
    let user = user.unwrap_or_default();
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM known_sources WHERE user_id = $1 AND source = $2 AND seen_us > $3)",
    )
    .bind(user)
    .bind(hash(app, user, network))
    .bind(forgotten_us(app))
    .fetch_one(conn)
    .await
}

/// Remembers that the user logged in from this network.
pub(super) async fn remember(
    conn: &mut Conn,
    app: &App,
    user: Uuid,
    network: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO known_sources (user_id, source, seen_us) VALUES ($1, $2, $3)
         ON CONFLICT (user_id, source) DO UPDATE SET seen_us = $3",
    )
    .bind(user)
    .bind(hash(app, user, network))
    .bind(app.now().as_microsecond())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM known_sources WHERE user_id = $1 AND source NOT IN
         (SELECT source FROM known_sources WHERE user_id = $1 ORDER BY seen_us DESC LIMIT $2)",
    )
    .bind(user)
    .bind(MOST)
    .execute(conn)
    .await
    .map(drop)
}

/// Deletes networks that were not seen for as long as a session can last, and those of
/// deleted users.
pub(super) async fn forget(conn: &mut Conn, app: &App) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE FROM known_sources
         WHERE seen_us <= $1 OR user_id NOT IN (SELECT id FROM users)",
    )
    .bind(forgotten_us(app))
    .execute(conn)
    .await
    .map(drop)
}

fn forgotten_us(app: &App) -> i64 {
    let kept_us = app.settings().session_lifetime.as_micros() as i64;
    app.now().as_microsecond().saturating_sub(kept_us)
}

/// Keyed: addresses are few enough to be guessed from a plain hash.
fn hash(app: &App, user: Uuid, network: &str) -> Vec<u8> {
    let parts = [b"known source", &user.as_bytes()[..], network.as_bytes()];
    app.settings().secret.mac(parts)[..16].to_vec()
}
