//! The auth module's SQL: counts of attempts, and the networks that users logged in
//! from.

use termitary::Conn;
use uuid::Uuid;

use crate::accounts;
use crate::app::App;

/// The most networks of one user; the one that was not seen for longest is deleted.
const NETWORKS: i64 = 32;

/// The time until which attempts of this scope must wait.
pub(super) async fn blocked_until_us(conn: &mut Conn, scope: &str) -> sqlx::Result<i64> {
    let until: Option<i64> =
        sqlx::query_scalar("SELECT blocked_until_us FROM attempt_limits WHERE scope = $1")
            .bind(scope)
            .fetch_optional(conn)
            .await?;
    Ok(until.unwrap_or(0))
}

/// The count of a scope.
#[derive(sqlx::FromRow)]
pub(super) struct Counted {
    pub(super) failures: i64,
    /// The time until which attempts must wait.
    pub(super) blocked_until_us: i64,
}

/// Counts a failure. Older failures than `oldest_us` count no more. Other transactions that
/// count in this scope wait until this one ends.
pub(super) async fn count_failure(
    conn: &mut Conn,
    scope: &str,
    now_us: i64,
    oldest_us: i64,
) -> sqlx::Result<Counted> {
    sqlx::query_as(
        "INSERT INTO attempt_limits AS old (scope, failures, blocked_until_us, last_us) VALUES ($1, 1, 0, $2)
         ON CONFLICT (scope) DO UPDATE SET
             failures = CASE WHEN old.last_us <= $3 AND old.blocked_until_us <= $3 THEN 1 ELSE old.failures + 1 END,
             last_us = $2
         RETURNING failures, blocked_until_us",
    )
    .bind(scope)
    .bind(now_us)
    .bind(oldest_us)
    .fetch_one(conn)
    .await
}

pub(super) async fn block_until(conn: &mut Conn, scope: &str, until_us: i64) -> sqlx::Result<()> {
    sqlx::query("UPDATE attempt_limits SET blocked_until_us = $1 WHERE scope = $2")
        .bind(until_us)
        .bind(scope)
        .execute(conn)
        .await
        .map(drop)
}

/// Takes one failure back, and the wait with it.
pub(super) async fn uncount_failure(conn: &mut Conn, scope: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE attempt_limits SET failures = CASE WHEN failures > 0 THEN failures - 1 ELSE 0 END, blocked_until_us = 0 WHERE scope = $1",
    )
    .bind(scope)
    .execute(conn)
    .await
    .map(drop)
}

pub(super) async fn delete_failures(conn: &mut Conn, scope: &str) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM attempt_limits WHERE scope = $1")
        .bind(scope)
        .execute(conn)
        .await
        .map(drop)
}

/// Deletes failures that count no more.
pub(super) async fn delete_old_failures(conn: &mut Conn, app: &App) -> sqlx::Result<()> {
    let longest_us = app.settings().login_limits.longest_wait.as_micros() as i64;
    sqlx::query("DELETE FROM attempt_limits WHERE last_us <= $1 AND blocked_until_us <= $1")
        .bind(app.now().as_microsecond().saturating_sub(longest_us))
        .execute(conn)
        .await
        .map(drop)
}

/// Returns true if the account of this address was logged in to from this network. An
/// unknown address costs the same number of look-ups.
pub(super) async fn is_known_network(
    conn: &mut Conn,
    app: &App,
    email: &str,
    network: &str,
) -> sqlx::Result<bool> {
    let user = accounts::credentials(conn, email).await?;
    let user = user.map(|(user, _)| user).unwrap_or_default();
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM known_sources WHERE user_id = $1 AND source = $2 AND seen_us > $3)",
    )
    .bind(user)
    .bind(network_hash(app, user, network))
    .bind(oldest_network_us(app))
    .fetch_one(conn)
    .await
}

/// Records that the user logged in from this network.
pub(super) async fn record_network(
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
    .bind(network_hash(app, user, network))
    .bind(app.now().as_microsecond())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM known_sources WHERE user_id = $1 AND source NOT IN
         (SELECT source FROM known_sources WHERE user_id = $1 ORDER BY seen_us DESC LIMIT $2)",
    )
    .bind(user)
    .bind(NETWORKS)
    .execute(conn)
    .await
    .map(drop)
}

/// Deletes networks that were not seen for the lifetime of a session.
pub(super) async fn delete_old_networks(conn: &mut Conn, app: &App) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM known_sources WHERE seen_us <= $1")
        .bind(oldest_network_us(app))
        .execute(conn)
        .await
        .map(drop)
}

/// Deletes the networks of a deleted user.
pub(super) async fn delete_networks_of(conn: &mut Conn, user: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM known_sources WHERE user_id = $1")
        .bind(user)
        .execute(conn)
        .await
        .map(drop)
}

fn oldest_network_us(app: &App) -> i64 {
    let kept_us = app.settings().session_lifetime.as_micros() as i64;
    app.now().as_microsecond().saturating_sub(kept_us)
}

/// A keyed hash: addresses are few enough to be guessed from a plain one.
fn network_hash(app: &App, user: Uuid, network: &str) -> Vec<u8> {
    let parts = [b"known source", &user.as_bytes()[..], network.as_bytes()];
    app.settings().secret.mac(parts)[..16].to_vec()
}
