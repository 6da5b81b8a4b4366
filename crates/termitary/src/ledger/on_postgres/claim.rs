//! Leasing by row state.

use sqlx::PgConnection;

use super::super::lease::leased;
use super::super::rows::{StoredEvent, Unreadable, counters, event_columns};
use super::super::verbs::Lease;
use crate::delivery::Leased;
use crate::error::Error;

/// Leases by the place of each row: nothing else could use an index, so PostgreSQL
/// cannot choose a wrong one. The limit is a part of the text: a plan for any number
/// would count on a tenth of all that is due.
macro_rules! claim {
    ($limit:literal) => {
        concat!(
            "WITH due AS MATERIALIZED (SELECT ctid AS place FROM termitary_deliveries
                WHERE state = 0 AND subscription = $1 AND due_us <= $2
                ORDER BY due_us, event LIMIT ",
            $limit,
            " FOR UPDATE SKIP LOCKED),
             d AS (UPDATE termitary_deliveries SET state = 1, worker = $3, lease_us = $4,
                    fence = CASE WHEN fence < 9223372036854775807 THEN fence + 1 ELSE fence END
                WHERE ctid = ANY (ARRAY (SELECT place FROM due))
                RETURNING event, due_us, attempts, fence)
             SELECT d.event AS seq, ",
            event_columns!(),
            ", d.attempts, d.fence FROM d LEFT JOIN termitary_events e ON e.seq = d.event
             ORDER BY d.due_us, d.event"
        )
    };
}

/// The statement for at most so many rows.
const LIMITS: [(usize, &str); 5] = [
    (256, claim!("256")),
    (64, claim!("64")),
    (16, claim!("16")),
    (4, claim!("4")),
    (1, claim!("1")),
];

#[derive(sqlx::FromRow)]
struct Claimed {
    #[sqlx(flatten)]
    event: StoredEvent,
    attempts: i64,
    fence: i64,
}

/// Leases due deliveries of one subscription. Returns those
/// whose row cannot be read apart: they are leased, too.
pub(in crate::ledger) async fn claim(
    conn: &mut PgConnection,
    asked: &Lease,
) -> Result<(Vec<Leased>, Vec<Unreadable>), Error> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    let Lease { route, worker, .. } = asked;
    let route = *route;
    let mut room = asked.max;
    while room > 0 {
        let (limit, sql) = LIMITS
            .into_iter()
            .find(|(limit, _)| *limit <= room)
            .unwrap_or(LIMITS[LIMITS.len() - 1]);
        let rows: Vec<Claimed> = sqlx::query_as(sql)
            .bind(route)
            .bind(asked.now_us)
            .bind(&**worker)
            .bind(asked.until_us)
            .fetch_all(&mut *conn)
            .await?;
        let fewer = rows.len() < limit;
        for row in rows {
            let seq = row.event.seq;
            // The fence before this lease. The highest fence stays as it is.
            let before = row.fence - i64::from(row.fence < i64::MAX);
            match counters(seq, row.attempts, before)
                .and_then(|counters| Ok((counters, row.event.read()?)))
            {
                Ok(((attempts, fence), envelope)) => {
                    found.push(leased(route, worker, attempts, fence + 1, seq, envelope));
                }
                Err(why) => unreadable.push(why),
            }
        }
        room -= limit;
        if fewer {
            break;
        }
    }
    Ok((found, unreadable))
}
