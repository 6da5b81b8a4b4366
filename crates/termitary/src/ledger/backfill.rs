//! The retained past of a new subscription that asks for it, copied in pages after it was
//! registered. The ledger says how far it is, so that any worker goes on where one
//! stopped. Events published from then on are no part of it: they reach the subscription
//! by its routes.

use super::rows::Text;
use super::single_writer::{self, Table, complete};
use super::sql::{Statement, statement};
use crate::db::{Conn, Db, Tx};
use crate::error::Error;

/// The number of events in one page.
pub(crate) const PAGE: i64 = 1_000;

/// Notes that the subscription is owed every event that is there now.
pub(super) async fn start(conn: &mut Conn, subscription: i64) -> Result<(), Error> {
    // On PostgreSQL events of transactions that run now belong to it, too: the last one
    // is determined after the commit.
    const START: Statement = statement!(
        "UPDATE termitary_subscriptions SET retained_seq = 0, retained_last = ",
        [newest_event],
        " WHERE id = $1"
    );
    sqlx::query(START.on(conn))
        .bind(subscription)
        .execute(conn)
        .await?;
    Ok(())
}

/// The progress of copying a subscription's past.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Progress {
    pub(crate) id: i64,
    name: Text,
    /// The last event that was looked at.
    pub(crate) at: i64,
    /// The last event of its past. `None`: an event of a transaction that runs may be one.
    retained_last: Option<i64>,
    /// The number of deliveries that the last page made.
    #[sqlx(default)]
    pub(crate) owed: i64,
}

impl Progress {
    pub(crate) fn name(&self) -> &str {
        &self.name.0
    }

    /// The last event of its past; `i64::MAX` if that is not known yet.
    pub(crate) fn last(&self) -> i64 {
        self.retained_last.unwrap_or(i64::MAX)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.at >= self.last()
    }
}

const FIRST: &str = "
    SELECT id, name, retained_seq AS at, retained_last
    FROM termitary_subscriptions WHERE retained_seq IS NOT NULL ORDER BY id LIMIT 1";

/// A subscription whose past is not copied yet.
pub(crate) async fn next(db: &Db) -> Result<Option<Progress>, Error> {
    Ok(sqlx::query_as(FIRST)
        .fetch_optional(&mut *db.read().await?)
        .await?)
}

/// Copies a page of what is left of a subscription's past; returns where that stands
/// now. `None`: nothing is left of any.
pub(crate) async fn step(db: &Db) -> Result<Option<Progress>, Error> {
    // Looks before it writes: mostly there is nothing.
    if next(db).await?.is_none() {
        return Ok(None);
    }
    let mut tx = single_writer::alone(db).await?;
    // Again, now that nobody else can be at it.
    let first: Option<Progress> = sqlx::query_as(FIRST).fetch_optional(&mut *tx).await?;
    let Some(mut progress) = first else {
        return Ok(None);
    };
    #[cfg(feature = "postgres")]
    if progress.retained_last.is_none() {
        progress.retained_last = gap::last(&mut tx, progress.id).await?;
    }
    let end = page_end(db, &mut tx, &progress).await?;
    progress.owed = owe(&mut tx, &progress, end, db.clock().now_us()).await?;
    progress.at = end;
    let rest = (!progress.is_over()).then_some(end);
    sqlx::query("UPDATE termitary_subscriptions SET retained_seq = $2 WHERE id = $1")
        .bind(progress.id)
        .bind(rest)
        .execute(&mut *tx)
        .await?;
    tx.commit_and_wake().await?;
    Ok(Some(progress))
}

/// The last event of the next page.
async fn page_end(db: &Db, tx: &mut Tx, progress: &Progress) -> Result<i64, Error> {
    // Events of transactions that still run come later.
    let complete = complete(db, Table::Events).await?;
    let end: Option<i64> = sqlx::query_scalar(
        "SELECT seq FROM termitary_events WHERE seq > $1 ORDER BY seq LIMIT 1 OFFSET $2 + 0",
    )
    .bind(progress.at)
    .bind(PAGE - 1)
    .fetch_optional(&mut *tx)
    .await?;
    let last = progress.last().min(complete);
    Ok(end.unwrap_or(last).min(last).max(progress.at))
}

/// Owes the subscription the events of a page that its routes name.
async fn owe(tx: &mut Tx, page: &Progress, end: i64, now_us: i64) -> Result<i64, Error> {
    const OWE: Statement = statement!(
        "INSERT INTO termitary_deliveries (event, subscription, state, due_us, settled_us)
         SELECT e.seq, $1, 0, $2, $2 FROM termitary_events e
         WHERE e.seq > $3 AND e.seq <= $4 AND ",
        [reaches "$1"],
        " ON CONFLICT DO NOTHING"
    );
    let done = sqlx::query(OWE.on(tx))
        .bind(page.id)
        .bind(now_us)
        .bind(page.at)
        .bind(end)
        .execute(&mut *tx)
        .await?;
    Ok(done.rows_affected() as i64)
}

/// On PostgreSQL a publish that runs while routes are added may have read the old ones.
/// Its events are owed afterwards: those that a snapshot from before the end of that
/// transaction does not show.
#[cfg(feature = "postgres")]
pub(super) mod gap {
    use super::super::single_writer::{Table, newest};
    use super::super::sql::{json, piece};
    use crate::db::{Conn, Db};
    use crate::error::Error;

    const SINCE: &str = concat!(
        "UPDATE termitary_routes AS t SET snapshot = pg_current_snapshot() FROM ",
        piece!(postgres[rows]),
        " WHERE t.event = ",
        piece!(postgres [text 0]),
        " AND t.subscription = ",
        piece!(postgres [int 1])
    );

    /// Notes that these subscriptions, whose routes this transaction adds to, are owed the
    /// events of transactions that run now. A past that is being copied goes on. `routes`
    /// are the new ones by which nothing from before is owed.
    pub(in crate::ledger) async fn start(
        db: &Db,
        conn: &mut Conn,
        subscriptions: &[i64],
        routes: &[(&str, i64)],
    ) -> Result<(), Error> {
        sqlx::query(SINCE)
            .bind(json(&routes))
            .execute(&mut *conn)
            .await?;
        let decided = newest(db, Table::Events).await?;
        sqlx::query(
            "UPDATE termitary_subscriptions SET
                retained_seq = coalesce(retained_seq, $2), retained_last = NULL,
                retained_xid = pg_current_xact_id()
             WHERE id = ANY ($1::bigint[])",
        )
        .bind(super::super::sql::array(subscriptions))
        .bind(decided)
        .execute(conn)
        .await?;
        Ok(())
    }

    /// Determines the last event, after the routes were committed. `None` while a
    /// transaction still reads the old ones: one that is repeatable read does to its end.
    pub(super) async fn last(conn: &mut Conn, subscription: i64) -> Result<Option<i64>, Error> {
        let reads_old_ones: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity a, termitary_subscriptions s
                WHERE s.id = $1 AND a.datname = current_database() AND a.pid <> pg_backend_pid()
                  AND age(a.backend_xmin) >= age(s.retained_xid::xid))",
        )
        .bind(subscription)
        .fetch_one(&mut *conn)
        .await?;
        if reads_old_ones {
            return Ok(None);
        }
        Ok(sqlx::query_scalar(
            "UPDATE termitary_subscriptions SET retained_last =
                (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM termitary_events_seq_seq)
             WHERE id = $1 RETURNING retained_last",
        )
        .bind(subscription)
        .fetch_one(conn)
        .await?)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::broker::Broker;
    use crate::prelude::*;

    #[derive(Serialize, Deserialize)]
    struct Made {}

    impl Event for Made {
        const NAME: &'static str = "things.made";
    }

    async fn made(_: Made) -> HandlerResult {
        Ok(())
    }

    async fn open(folder: &tempfile::TempDir) -> Broker {
        let url = format!("sqlite://{}", folder.path().join("a.db").display());
        Broker::sql(Db::open(&url).await.unwrap())
    }

    async fn publish(broker: &Broker, events: usize) {
        let events = (0..events).map(|_| Made {});
        broker.bus().publish_all(events).await.unwrap();
        broker
            .bus()
            .publish_json("others.made", "{}")
            .await
            .unwrap();
    }

    async fn count(db: &Db, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&mut *db.read().await.unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_past_is_copied_in_pages_and_goes_on_where_a_process_died() {
        const PAST: usize = 4_500;
        let folder = tempfile::tempdir().unwrap();
        let broker = open(&folder).await;
        publish(&broker, PAST).await;
        let registry = Registry::<()>::new()
            .on(subscribe("late", made).from_retained())
            .on(subscribe("new", made));
        broker.register(&registry).await.unwrap();
        let copied = "SELECT COUNT(*) FROM termitary_deliveries";
        assert_eq!(
            count(broker.db(), copied).await,
            0,
            "registering copies nothing"
        );
        // Published meanwhile: by the routes, not by the copy.
        publish(&broker, 10).await;
        for page in 1..=2 {
            let progress = step(broker.db()).await.unwrap().unwrap();
            assert_eq!((progress.at, progress.owed), (page * PAGE, PAGE));
            assert!(!progress.is_over());
        }
        // The process dies; another one registers again, and goes on.
        broker.db().close().await;
        let broker = open(&folder).await;
        broker.register(&registry).await.unwrap();
        publish(&broker, 10).await;
        let mut pages = 0;
        while let Some(progress) = step(broker.db()).await.unwrap() {
            pages += 1;
            assert_eq!(progress.name(), "late");
        }
        assert_eq!(pages, 3);
        let of = "SELECT COUNT(*) FROM termitary_deliveries d JOIN termitary_subscriptions s
                  ON s.id = d.subscription JOIN termitary_events e ON e.seq = d.event
                  WHERE e.name = 'things.made' AND s.name = 'late'";
        assert_eq!(count(broker.db(), of).await, PAST as i64 + 20);
        assert_eq!(count(broker.db(), copied).await, PAST as i64 + 40);
        assert_eq!(next(broker.db()).await.unwrap(), None);
    }

    #[cfg(all(feature = "postgres", feature = "testing"))]
    #[tokio::test]
    async fn the_gap_of_a_new_subscription_holds_no_event_that_its_stream_brings() {
        use super::super::publish::insert_fanned;
        use crate::draft::Draft;

        let test = crate::testing::TestDb::postgres().await;
        let (db, broker) = (test.db(), Broker::sql(test.db().clone()));
        let registry = Registry::<()>::new().on(subscribe("new", made));
        broker.register(&registry).await.unwrap();
        let draft = Draft::untyped("things.made", "{}".to_owned(), db.as_source()).unwrap();
        let mut tx = db.begin().await.unwrap();
        insert_fanned(&mut tx, &draft.envelope).await.unwrap();
        tx.commit().await.unwrap();
        // Of a publish that read the routes before they were there.
        let mut tx = db.begin().await.unwrap();
        tx.publish(Made {}).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.begin().await.unwrap();
        sqlx::query("DELETE FROM termitary_deliveries")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        while step(db).await.unwrap().is_some() {}
        let owed = "SELECT COUNT(*) FROM termitary_deliveries";
        assert_eq!(count(db, owed).await, 1, "the publish only");
    }

    #[tokio::test]
    async fn without_a_past_nothing_is_left_after_one_look() {
        let folder = tempfile::tempdir().unwrap();
        let broker = open(&folder).await;
        let registry = Registry::<()>::new().on(subscribe("late", made).from_retained());
        broker.register(&registry).await.unwrap();
        assert!(step(broker.db()).await.unwrap().unwrap().is_over());
        assert_eq!(step(broker.db()).await.unwrap(), None);
    }
}
