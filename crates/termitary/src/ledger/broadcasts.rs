//! Broadcasts on their way to other processes on this database.

use super::rows::Bytes;
use super::single_writer::{Table, complete, newest};
use super::sql::{Statement, statement};
use crate::db::{Conn, Db};
use crate::error::Error;

/// The most messages that one statement deletes.
pub(crate) const PAGE: u64 = 100;

/// A walk along the key from the oldest message: it meets no row that it keeps.
pub(super) const PRUNE: &str = "
    DELETE FROM termitary_broadcasts WHERE seq IN
        (SELECT seq FROM termitary_broadcasts WHERE seq <= $1 ORDER BY seq LIMIT $2 + 0)";

/// Records one message; returns its row.
pub(crate) async fn send(
    conn: &mut Conn,
    name: &str,
    data: &str,
    now_us: i64,
) -> Result<i64, Error> {
    const SEND: Statement = statement!(
        "INSERT INTO termitary_broadcasts (time_us, name, data) SELECT $1, $2, $3",
        [began],
        " RETURNING seq"
    );
    Ok(sqlx::query_scalar(SEND.on(conn))
        .bind(now_us)
        .bind(name)
        .bind(data)
        .fetch_one(conn)
        .await?)
}

/// Deletes up to `most` messages up to row `seq`; returns how many.
pub(crate) async fn prune(conn: &mut Conn, seq: i64, most: u64) -> Result<u64, Error> {
    let done = sqlx::query(PRUNE)
        .bind(seq)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

/// The row before the first message after row `seq` that was sent at `since_us` or
/// later.
pub(crate) async fn before(db: &Db, seq: i64, since_us: i64) -> Result<i64, Error> {
    let newest = newest(db, Table::Broadcasts).await?;
    let before: Option<i64> = sqlx::query_scalar(
        "SELECT MIN(seq) - 1 FROM termitary_broadcasts WHERE seq > $1 AND time_us >= $2",
    )
    .bind(seq)
    .bind(since_us)
    .fetch_one(&mut *db.read().await?)
    .await?;
    Ok(before.map_or(newest, |before| before.min(newest)))
}

/// Up to 500 messages after row `seq`: row, name and payload.
pub(crate) async fn after(
    db: &Db,
    conn: &mut Conn,
    seq: i64,
) -> Result<Vec<(i64, Bytes, Bytes)>, Error> {
    let complete = complete(db, Table::Broadcasts).await?;
    Ok(sqlx::query_as(
        "SELECT seq, name, data FROM termitary_broadcasts WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT 500",
    )
    .bind(seq)
    .bind(complete)
    .fetch_all(conn)
    .await?)
}
