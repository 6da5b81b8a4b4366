//! Deliveries that a clock which was ahead has made due on a day that is still to
//! come: brought forward, or they would wait until then.
//!
//! A delivery that waits again (after an error, a snooze, a crash, a release, a replay)
//! holds in `settled_us` when that was decided, by the same clock as its due time: the
//! wait between the two is what was meant. One that was never leased and was due when it
//! was published holds the time of its event. An event that was published for a later
//! time is due then, whatever the clock said. The same goes for the length of a lease.

use std::time::Duration;

use serde_json::json;

use super::clocks;
use super::sql::{Statement, statement};
use crate::clock::{hours, micros};
use crate::db::{Conn, Db};
use crate::error::Error;

/// The number of rows that one statement reads.
pub(super) const PAGE: i64 = 500;
/// No lease lasts longer, nor does the ledger trust Redis for longer.
const LONGEST_HOLD: Duration = hours(1);

/// A walk through what is due later, one subscription after the other.
#[derive(Default)]
pub(crate) struct DueLater {
    /// The subscription, and the last row that was read.
    at: Place,
}

/// Subscription, due time, event.
type Place = (i64, i64, i64);

/// A delivery that waits for the wrong time: event, subscription, due time, and
/// when that was decided.
type Wrong = (i64, i64, i64, i64);

#[derive(sqlx::FromRow)]
struct Later {
    event: i64,
    subscription: i64,
    due_us: i64,
    decided_us: Option<i64>,
}

/// By the index of what is pending; a suspect is found by that of suspects.
const PENDING: &str = "
    SELECT d.event, d.subscription, d.due_us,
        COALESCE(d.settled_us, (SELECT e.time_us FROM termitary_events e WHERE e.seq = d.event AND e.time_us = d.due_us)) AS decided_us
    FROM termitary_deliveries d
    WHERE d.state = 0 AND d.subscription = $1 AND d.due_us > $2 AND (d.due_us, d.event) > ($3, $4)
    ORDER BY d.due_us, d.event LIMIT $5 + 0";

const SUSPECTS: &str = "
    SELECT event, subscription, due_us, settled_us AS decided_us FROM termitary_deliveries
    WHERE crashes >= 2 AND state <= 1 AND state = -1 AND due_us > $1 LIMIT $2 + 0";

impl DueLater {
    /// Looks at one page, and brings forward what waits for the wrong time. Returns
    /// how many, and whether there may be more to look at.
    pub(crate) async fn step(&mut self, db: &Db) -> Result<(u64, bool), Error> {
        let latest_us = clocks::latest(db).await?;
        let mut conn = db.read().await?;
        let (page, goes_on) = self.page(&mut conn, latest_us).await?;
        drop(conn);
        let wrong: Vec<Wrong> = page
            .into_iter()
            .filter_map(|row| {
                let decided_us = row.decided_us.filter(|&us| us > latest_us)?;
                Some((row.event, row.subscription, row.due_us, decided_us))
            })
            .collect();
        let mut brought = bring(db, &wrong).await?;
        if !goes_on {
            brought += release_holds(db, latest_us).await?;
        }
        Ok((brought, goes_on))
    }

    /// The next rows that are due later than any clock allows.
    async fn page(&mut self, conn: &mut Conn, latest_us: i64) -> Result<(Vec<Later>, bool), Error> {
        let (route, due_us, event) = self.at;
        let rows: Vec<Later> = sqlx::query_as(PENDING)
            .bind(route)
            .bind(latest_us)
            .bind(due_us)
            .bind(event)
            .bind(PAGE)
            .fetch_all(&mut *conn)
            .await?;
        if rows.len() as i64 == PAGE
            && let Some(last) = rows.last()
        {
            self.at = (route, last.due_us, last.event);
            return Ok((rows, true));
        }
        let next: Option<i64> =
            sqlx::query_scalar("SELECT MIN(id) FROM termitary_subscriptions WHERE id > $1")
                .bind(route)
                .fetch_one(&mut *conn)
                .await?;
        self.at = (next.unwrap_or_default(), i64::MIN, 0);
        if next.is_some() {
            return Ok((rows, true));
        }
        let suspects: Vec<Later> = sqlx::query_as(SUSPECTS)
            .bind(latest_us)
            .bind(PAGE)
            .fetch_all(conn)
            .await?;
        Ok((rows.into_iter().chain(suspects).collect(), false))
    }
}

const BRING: Statement = statement!(
    "UPDATE termitary_deliveries AS d SET
        due_us = $2 + CASE WHEN d.due_us > ", [int 3], " THEN d.due_us - (", [int 3], ") ELSE 0 END,
        settled_us = CASE WHEN d.settled_us IS NOT NULL THEN $2 END
     FROM ", [rows], "
     WHERE d.event = ", [int 0], " AND d.subscription = ", [int 1], " AND d.due_us = ", [int 2], "
       AND d.state IN (0, -1)"
);

/// Each waits from now on for as long as was meant.
async fn bring(db: &Db, wrong: &[Wrong]) -> Result<u64, Error> {
    if wrong.is_empty() {
        return Ok(0);
    }
    let mut tx = db.begin_own().await?;
    let done = sqlx::query(BRING.on(&tx))
        .bind(json!(wrong).to_string())
        .bind(db.clock().now_us())
        .execute(&mut *tx)
        .await?;
    tx.commit_and_wake().await?;
    Ok(done.rows_affected())
}

/// Ends the leases that last until a day still to come: a live worker renews its own, and
/// Redis is asked for the deliveries that it carries. Returns how many.
async fn release_holds(db: &Db, latest_us: i64) -> Result<u64, Error> {
    let far_us = latest_us.saturating_add(micros(LONGEST_HOLD));
    let found: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM termitary_deliveries WHERE state = 1 AND lease_us > $1)",
    )
    .bind(far_us)
    .fetch_one(&mut *db.read().await?)
    .await?;
    if !found {
        return Ok(0);
    }
    let mut tx = db.begin_own().await?;
    let done = sqlx::query(
        "UPDATE termitary_deliveries SET lease_us = $2 WHERE state = 1 AND lease_us > $1",
    )
    .bind(far_us)
    .bind(db.clock().now_us())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(done.rows_affected())
}
