//! Deliveries that were published on a stream only, as they come into the ledger.

use super::publish::insert_fanned;
use super::state;
use crate::db::Conn;
use crate::delivery::{Claim, Origin};
use crate::error::Error;
use crate::event::Envelope;

/// Takes a stream-only delivery into the ledger as leased under fence 1, so that it can be
/// settled like any other. Returns `None` if the ledger has it already.
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

/// Records a stream-only delivery as finished while its entry may still be given out. It
/// counts when `entry` ends, not here: that may have happened already. Returns `false` if
/// the ledger has the delivery already.
pub(crate) async fn adopt_done(
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

pub(super) async fn adopt_event(conn: &mut Conn, envelope: &Envelope) -> Result<i64, Error> {
    let known: Option<i64> = sqlx::query_scalar("SELECT seq FROM termitary_events WHERE id = $1")
        .bind(envelope.id)
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(seq) = known {
        return Ok(seq);
    }
    insert_fanned(conn, envelope).await
}

/// The state of a stream-only delivery when the ledger first hears of it.
pub(super) enum Adopted<'a> {
    Leased {
        until_us: i64,
    },
    /// `entry` if it still has to be counted.
    Done {
        at_us: i64,
        entry: Option<&'a str>,
    },
}

/// Inserts the delivery; returns `false` if the ledger has it already.
pub(super) async fn adopt_delivery(
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
