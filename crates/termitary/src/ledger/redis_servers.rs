//! The Redis server that a subscription's entries were last read from, and the entries
//! that an earlier one may have given out before: those are given out under a higher fence.

use super::rows::Text;
use crate::db::Conn;
use crate::error::Error;

/// The server that entries of `route` were last read from.
pub(crate) async fn last_read_from(conn: &mut Conn, route: i64) -> Result<Option<String>, Error> {
    let found: Option<Option<Text>> =
        sqlx::query_scalar("SELECT server FROM termitary_subscriptions WHERE id = $1")
            .bind(route)
            .fetch_optional(conn)
            .await?;
    Ok(found.flatten().map(|server| server.0))
}

/// Records the server that entries of `route` are read from now.
pub(crate) async fn read_from(conn: &mut Conn, route: i64, server: &str) -> Result<(), Error> {
    sqlx::query("UPDATE termitary_subscriptions SET server = $2 WHERE id = $1")
        .bind(route)
        .bind(server)
        .execute(conn)
        .await?;
    Ok(())
}

/// Records that entries of `route` up to these milliseconds may have been given out
/// before.
pub(crate) async fn given_out_until(
    conn: &mut Conn,
    route: i64,
    until_ms: i64,
) -> Result<(), Error> {
    sqlx::query("UPDATE termitary_subscriptions SET doubt_ms = $2 WHERE id = $1 AND doubt_ms < $2")
        .bind(route)
        .bind(until_ms)
        .execute(conn)
        .await?;
    Ok(())
}
