//! Which subscriptions exist and which event names reach them.

use crate::broker::Route;
use crate::db::{Db, Tx};
use crate::error::Error;
use crate::fault;
use crate::registry::Registry;

use super::state;

/// The subscription under which unreadable foreign input is parked. It has no
/// route: no event ever fans out to it.
pub(crate) const BRIDGE: &str = "bridge.in";

/// Records a registry's subscriptions and schedules; answers their routes. A
/// subscription seen for the first time starts from now, unless it asks for
/// what is retained. Another process's lock is waited for as at a start.
pub(crate) async fn declare<S>(db: &Db, registry: &Registry<S>) -> Result<Vec<Route>, Error> {
    let now = db.clock().now_us();
    let mut tx = db.begin_at_start().await?;
    upsert(&mut tx, BRIDGE, "", 1, now).await?;
    let mut routes = Vec::with_capacity(registry.subscriptions.len());
    for subscription in &registry.subscriptions {
        let (id, known) = upsert(
            &mut tx,
            &subscription.name,
            &subscription.event,
            subscription.version,
            now,
        )
        .await?;
        let mut events = vec![subscription.event.clone()];
        events.extend(subscription.aliases.iter().cloned());
        reroute(&mut tx, id, &events).await?;
        if !known && subscription.policy.from_retained {
            owe_retained(&mut tx, id, now).await?;
        }
        release_parked(&mut tx, id, subscription.version, now).await?;
        routes.push(Route {
            id,
            name: subscription.name.clone(),
            events,
            known,
        });
    }
    for schedule in &registry.schedules {
        crate::schedule::ticker::declare(&mut tx, schedule, now).await?;
    }
    fault::point!("declare.before_commit");
    tx.commit().await?;
    Ok(routes)
}

/// The routes of every subscription that was ever registered and not dropped.
pub(crate) async fn routes(db: &Db) -> Result<Vec<Route>, Error> {
    let rows: Vec<(i64, String, String, Option<String>)> = sqlx::query_as(
        "SELECT s.id, s.name, s.event, r.event FROM termitary_subscriptions s
         LEFT JOIN termitary_routes r ON r.subscription = s.id AND r.event <> s.event
         ORDER BY s.name, r.event",
    )
    .fetch_all(db.reader())
    .await?;
    let mut routes: Vec<Route> = Vec::new();
    for (id, name, event, alias) in rows {
        if routes.last().is_none_or(|last| last.id != id) {
            routes.push(Route {
                id,
                name,
                events: vec![event],
                known: true,
            });
        }
        if let (Some(last), Some(alias)) = (routes.last_mut(), alias) {
            last.events.push(alias);
        }
    }
    Ok(routes)
}

/// Whether any subscription gets the events of this name.
#[cfg(feature = "redis")]
pub(crate) async fn has_route(db: &Db, event: &str) -> Result<bool, Error> {
    Ok(
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM termitary_routes WHERE event = $1)")
            .bind(event)
            .fetch_one(db.reader())
            .await?,
    )
}

async fn upsert(
    tx: &mut Tx,
    name: &str,
    event: &str,
    version: u32,
    now: i64,
) -> Result<(i64, bool), Error> {
    let known: Option<i64> =
        sqlx::query_scalar("SELECT id FROM termitary_subscriptions WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut **tx)
            .await?;
    if let Some(id) = known {
        sqlx::query(
            "UPDATE termitary_subscriptions SET event = $2, version = max(version, $3), seen_us = $4 WHERE id = $1",
        )
        .bind(id)
        .bind(event)
        .bind(i64::from(version))
        .bind(now)
        .execute(&mut **tx)
        .await?;
        return Ok((id, true));
    }
    let id = sqlx::query_scalar(
        "INSERT INTO termitary_subscriptions (name, event, version, since_us, seen_us)
         VALUES ($1, $2, $3, $4, $4) RETURNING id",
    )
    .bind(name)
    .bind(event)
    .bind(i64::from(version))
    .bind(now)
    .fetch_one(&mut **tx)
    .await?;
    Ok((id, false))
}

async fn reroute(tx: &mut Tx, id: i64, events: &[String]) -> Result<(), Error> {
    // Routes are only added to: during a rolling deploy the older code's alias
    // must go on reaching the subscription.
    for event in events {
        sqlx::query("INSERT INTO termitary_routes (event, subscription) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(event)
            .bind(id)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

async fn owe_retained(tx: &mut Tx, id: i64, now: i64) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO termitary_deliveries (event, subscription, state, due_us)
         SELECT e.seq, $1, 0, $2 FROM termitary_routes r JOIN termitary_events e ON e.name = r.event
         WHERE r.subscription = $1 ON CONFLICT DO NOTHING",
    )
    .bind(id)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// `state >= 3` names the index: what is bound is not known when the plan is made.
const RELEASE: &str = "
    UPDATE termitary_deliveries SET state = $3, due_us = $4, crashes = 0, reason = NULL, error = NULL, settled_us = NULL
    WHERE state >= 3 AND state = $5 AND subscription = $1 AND reason = 'version'
      AND (SELECT e.version FROM termitary_events e WHERE e.seq = event) <= $2";

/// What was parked because its version was too new is due again once a worker
/// that reads that version registers. Answers how many.
async fn release_parked(tx: &mut Tx, id: i64, version: u32, now: i64) -> Result<u64, Error> {
    let done = sqlx::query(RELEASE)
        .bind(id)
        .bind(i64::from(version))
        .bind(state::PENDING)
        .bind(now)
        .bind(state::PARKED)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

/// The same for a worker that has been registered for long: an older one
/// beside it goes on parking what it is handed. `known` has the subscriptions
/// and the versions that are read. Answers how many were released.
pub(crate) async fn release(db: &Db, known: &[(i64, u32)]) -> Result<u64, Error> {
    // Looks before it writes: mostly there is nothing.
    let waiting: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM json_each($1) j
         JOIN termitary_deliveries d ON d.subscription = j.value->>0
         JOIN termitary_events e ON e.seq = d.event
         WHERE d.state >= 3 AND d.state = $2 AND d.reason = 'version' AND e.version <= j.value->>1)",
    )
    .bind(serde_json::json!(known).to_string())
    .bind(state::PARKED)
    .fetch_one(db.reader())
    .await?;
    if !waiting {
        return Ok(0);
    }
    let mut tx = db.begin().await?;
    let now = db.clock().now_us();
    let mut released = 0;
    for (id, version) in known {
        released += release_parked(&mut tx, *id, *version, now).await?;
    }
    tx.commit_and_wake().await?;
    Ok(released)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_starts_does_not_walk_through_the_backlog() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/a.db", folder.path().display());
        let db = Db::open(&url).await.unwrap();
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {RELEASE}"));
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain)
            .fetch_all(db.reader())
            .await
            .unwrap();
        let index = "termitary_deliveries_letters (state=? AND subscription=?)";
        assert!(plan[0].3.contains(index), "{plan:?}");
    }
}
