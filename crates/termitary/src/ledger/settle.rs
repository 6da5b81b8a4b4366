//! Ending attempts. Each change compares state and fence: who lost the lease
//! changes nothing.

use serde_json::json;

use crate::db::Conn;
use crate::delivery::{Claim, Origin, Outcome, Settlement};
use crate::error::Error;
use crate::event::Envelope;
use crate::planted;

use super::state;

/// What is pending again and was a suspect (-1) stays one.
pub(super) const SETTLE: &str = "
    UPDATE termitary_deliveries AS d SET
        state = CASE WHEN j.value->>3 = 0 AND d.crashes >= 2 THEN -1 ELSE j.value->>3 END,
        due_us = COALESCE(j.value->>4, d.due_us), attempts = d.attempts + (j.value->>5),
        reason = j.value->>6, error = COALESCE(j.value->>7, d.error), settled_us = j.value->>8,
        worker = NULL, lease_us = NULL, entry = NULL
    FROM json_each($1) j
    WHERE d.event = j.value->>0 AND d.subscription = j.value->>1
        /* owner */ AND d.fence = j.value->>2 AND d.state = 1
    RETURNING event, subscription, fence";

/// What ended otherwise than well. `now_us` is noted beside a due time, too: see
/// [`super::forward`].
pub(super) fn settle_row(settlement: &Settlement, now_us: i64) -> Option<serde_json::Value> {
    use state::{DEAD, PARKED, PENDING};
    let (seq, route, fence) = settlement.claim.row()?;
    Some(match &settlement.outcome {
        Outcome::Done { .. } => return None,
        Outcome::Retry { due_us, error } => {
            json!([seq, route, fence, PENDING, due_us, 1, null, error, now_us])
        }
        Outcome::Snooze { due_us } => {
            json!([seq, route, fence, PENDING, due_us, 0, null, null, now_us])
        }
        Outcome::Dead {
            reason,
            error,
            counted,
        } => {
            let counted = i64::from(*counted);
            json!([
                seq, route, fence, DEAD, null, counted, reason, error, now_us
            ])
        }
        Outcome::Parked { reason, error } => {
            json!([seq, route, fence, PARKED, null, 0, reason, error, now_us])
        }
    })
}

pub(super) async fn add_done(conn: &mut Conn, route: i64, n: i64) -> Result<(), Error> {
    sqlx::query("UPDATE termitary_subscriptions SET done = done + $2 WHERE id = $1")
        .bind(route)
        .bind(n)
        .execute(conn)
        .await?;
    Ok(())
}

/// Marks a delivery done inside its handler's transaction. `false`: it was
/// settled or taken over elsewhere, and the transaction must roll back.
pub(crate) async fn finish(conn: &mut Conn, claim: &Claim, now_us: i64) -> Result<bool, Error> {
    match &claim.origin {
        Origin::Ledger { seq, .. } => finish_row(conn, *seq, claim, now_us).await,
        Origin::Stream { envelope, .. } => {
            // The inbox: the first to insert the row wins.
            let seq = adopt_event(conn, envelope).await?;
            let done = Adopted::Done {
                at_us: now_us,
                entry: None,
            };
            let finished = adopt_delivery(conn, seq, claim, done).await?;
            if finished {
                add_done(conn, claim.route, 1).await?;
            }
            Ok(finished)
        }
    }
}

/// In one way to the database's thread, as others wait for their turn.
async fn finish_row(conn: &mut Conn, seq: i64, claim: &Claim, now_us: i64) -> Result<bool, Error> {
    let done = sqlx::query(planted::owned(
        "UPDATE termitary_deliveries SET state = $4, worker = NULL, lease_us = NULL, entry = NULL, reason = NULL, settled_us = $6
         WHERE event = $1 AND subscription = $2 /* owner */ AND fence = $3 AND state = $5;
         UPDATE termitary_subscriptions SET done = done + 1 WHERE id = $2 AND changes() = 1",
    ))
    .bind(seq)
    .bind(claim.route)
    .bind(claim.fence)
    .bind(state::DONE)
    .bind(state::LEASED)
    .bind(now_us)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes a stream-only delivery into the ledger as leased under fence 1, so
/// that it can be settled like any other. `None`: the ledger has it already.
pub(crate) async fn adopt(
    conn: &mut Conn,
    claim: &Claim,
    envelope: &Envelope,
    until_us: i64,
) -> Result<Option<Claim>, Error> {
    let seq = adopt_event(conn, envelope).await?;
    if !adopt_delivery(conn, seq, claim, Adopted::Leased { until_us }).await? {
        return Ok(None);
    }
    let origin = Origin::Ledger { seq, entry: None };
    Ok(Some(Claim {
        fence: 1,
        origin,
        ..claim.clone()
    }))
}

/// Notes a stream-only delivery as finished while its entry may still be given
/// out. It counts when `entry` ends, not here: that may have happened already.
/// `false`: the ledger has the delivery already.
pub(crate) async fn note(
    conn: &mut Conn,
    claim: &Claim,
    envelope: &Envelope,
    entry: &str,
    now_us: i64,
) -> Result<bool, Error> {
    let seq = adopt_event(conn, envelope).await?;
    let done = Adopted::Done {
        at_us: now_us,
        entry: Some(entry),
    };
    adopt_delivery(conn, seq, claim, done).await
}

async fn adopt_event(conn: &mut Conn, envelope: &Envelope) -> Result<i64, Error> {
    let known: Option<i64> = sqlx::query_scalar("SELECT seq FROM termitary_events WHERE id = $1")
        .bind(envelope.id)
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(seq) = known {
        return Ok(seq);
    }
    super::publish::insert_fanned(conn, envelope).await
}

/// How a stream-only delivery stands when the ledger first hears of it.
enum Adopted<'a> {
    Leased {
        until_us: i64,
    },
    /// `entry` where it still has to be counted.
    Done {
        at_us: i64,
        entry: Option<&'a str>,
    },
}

/// Whether the ledger did not have it.
async fn adopt_delivery(
    conn: &mut Conn,
    seq: i64,
    claim: &Claim,
    adopted: Adopted<'_>,
) -> Result<bool, Error> {
    let (state, at_us, entry) = match adopted {
        Adopted::Leased { until_us } => (state::LEASED, until_us, None),
        Adopted::Done { at_us, entry } => (state::DONE, at_us, entry),
    };
    let row = sqlx::query(
        "INSERT INTO termitary_deliveries (event, subscription, state, due_us, fence, worker, lease_us, settled_us, entry)
         VALUES ($1, $2, $3, $4, 1, CASE WHEN $3 = 1 THEN $5 END, CASE WHEN $3 = 1 THEN $4 END, CASE WHEN $3 = 2 THEN $4 END, $6)
         ON CONFLICT DO NOTHING",
    )
    .bind(seq)
    .bind(claim.route)
    .bind(state)
    .bind(at_us)
    .bind(&*claim.worker)
    .bind(entry)
    .execute(conn)
    .await?;
    Ok(row.rows_affected() == 1)
}
