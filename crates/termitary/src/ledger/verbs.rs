//! The verbs that brokers ask for every event, each as the engine does it best.

use super::batch;
use crate::db::Db;
use crate::delivery::{Leased, Settlement, WorkerId};
#[cfg(feature = "postgres")]
use crate::draft::{Draft, Published};
use crate::engine::Engine;
use crate::error::Error;
#[cfg(feature = "postgres")]
use crate::fault;

/// Records drafts and their deliveries in a transaction of their own; returns the
/// receipts in order. On SQLite brokers gather publishes on the thread that writes.
#[cfg(feature = "postgres")]
pub(crate) async fn publish(db: &Db, drafts: &[Draft]) -> Result<Vec<Published>, Error> {
    if super::on_postgres::is_one_statement(drafts) {
        let mut conn = db.renewer().await?;
        return super::publish(&mut conn, db.source(), drafts).await;
    }
    let mut tx = db.begin_own().await?;
    let published = super::publish(&mut tx, db.source(), drafts).await?;
    tx.commit().await?;
    Ok(published)
}

/// A request for due deliveries of one subscription.
#[derive(Clone)]
pub(crate) struct Lease {
    pub(crate) route: i64,
    pub(crate) worker: WorkerId,
    pub(crate) max: usize,
    pub(crate) now_us: i64,
    pub(crate) until_us: i64,
}

/// Leases due deliveries, then runs `then` on them, even if the caller stops waiting. A
/// delivery whose row cannot be read is parked.
pub(crate) async fn lease_then<U: Send + 'static>(
    db: &Db,
    asked: Lease,
    then: impl FnOnce(Vec<Leased>) -> U + Send + 'static,
) -> Result<U, Error> {
    match db.engine() {
        Engine::Sqlite(_) => {
            let lease = move |conn: &rusqlite::Connection| batch::lease(conn, &asked);
            db.write_then(lease, then).await
        }
        #[cfg(feature = "postgres")]
        Engine::Postgres(_) => {
            let db = db.clone();
            let leased = tokio::spawn(async move { claim(&db, &asked).await.map(then) });
            leased
                .await
                .map_err(|error| Error::internal("leasing ended early").caused_by(error))?
        }
    }
}

#[cfg(feature = "postgres")]
async fn claim(db: &Db, asked: &Lease) -> Result<Vec<Leased>, Error> {
    let mut conn = db.renewer().await?;
    let (leased, unreadable) = super::on_postgres::claim(conn.postgres()?, asked).await?;
    fault::point!("claim.committed");
    let unreadable: Vec<_> = unreadable.into_iter().map(|it| (it, asked.route)).collect();
    super::rows::park(&mut conn, &unreadable, asked.now_us).await?;
    Ok(leased)
}

/// Settles what belongs to the ledger; returns, in order, whether each claim was still
/// valid. A delivery that its handler's own transaction finished counts as valid.
pub(crate) async fn settle(
    db: &Db,
    settlements: Vec<Settlement>,
    now_us: i64,
) -> Result<Vec<bool>, Error> {
    match db.engine() {
        Engine::Sqlite(_) => {
            db.write(move |conn| batch::settle(conn, &settlements, now_us))
                .await
        }
        #[cfg(feature = "postgres")]
        Engine::Postgres(_) => {
            let mut conn = db.renewer().await?;
            super::settle(&mut conn, &settlements, now_us).await
        }
    }
}
