//! Ending attempts that simply succeeded.

use sqlx::PgConnection;

use super::super::sql::{Row, piece};
use crate::error::Error;
use crate::planted;

/// Ends the deliveries that are leased under their fence, and counts them.
const DONE: &str = concat!(
    "WITH d AS (UPDATE termitary_deliveries AS d SET ",
    piece!(postgres [done "$4"]),
    " FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS ended (event, subscription, fence)
      WHERE d.event = ended.event AND d.subscription = ended.subscription ",
    piece!(postgres [leased_under "ended.fence"]),
    " RETURNING d.event, d.subscription, d.fence),
     counted AS (UPDATE termitary_subscriptions s SET done = s.done + n.number
        FROM (SELECT subscription, COUNT(*) AS number FROM d GROUP BY subscription ORDER BY subscription) n
        WHERE s.id = n.subscription)
     SELECT event, subscription, fence FROM d"
);

/// Returns those that held.
pub(in crate::ledger) async fn settle_done(
    conn: &mut PgConnection,
    done: &[Row],
    now_us: i64,
) -> Result<Vec<Row>, Error> {
    if done.is_empty() {
        return Ok(Vec::new());
    }
    let column = |of: fn(&Row) -> i64| done.iter().map(of).collect::<Vec<_>>();
    Ok(sqlx::query_as(planted::owned(DONE))
        .bind(column(|row| row.0))
        .bind(column(|row| row.1))
        .bind(column(|row| row.2))
        .bind(now_us)
        .fetch_all(conn)
        .await?)
}
