//! Which subscriptions exist and which event names reach them.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use crate::broker::Route;
use crate::db::{Db, Tx};
use crate::error::Error;
use crate::fault;
use crate::registry::Registry;

use super::state;
use super::stored::Text;

/// The subscription under which unreadable foreign input is parked. It has no
/// route: no event ever fans out to it.
pub(crate) const BRIDGE: &str = "bridge.in";

/// Records a registry's subscriptions and schedules; answers their routes. A
/// subscription seen for the first time starts from now, unless it asks for
/// what is retained. Another process's lock is waited for as at a start.
pub(crate) async fn declare<S>(db: &Db, registry: &Registry<S>) -> Result<Vec<Route>, Error> {
    let now = db.clock().now_us();
    let mut tx = db.begin_at_start().await?;
    let subscriptions = &registry.subscriptions;
    let rows = subscriptions
        .iter()
        .map(|s| (&*s.name, &*s.event, s.version));
    let recorded = record(&mut tx, rows.chain([(BRIDGE, "", 1)]), now).await?;
    let mut routes = Vec::with_capacity(subscriptions.len());
    for subscription in subscriptions {
        let (id, known) = *recorded
            .get(&subscription.name)
            .ok_or_else(|| Error::internal(format!("`{}` was not recorded", subscription.name)))?;
        let mut events = vec![subscription.event.clone()];
        events.extend(subscription.aliases.iter().cloned());
        routes.push(Route {
            id,
            name: subscription.name.clone(),
            events,
            known,
        });
    }
    reroute(&mut tx, &routes).await?;
    for (route, subscription) in routes.iter().zip(subscriptions) {
        if !route.known && subscription.policy.from_retained {
            owe_retained(&mut tx, route.id, now).await?;
        }
    }
    let versions = subscriptions
        .iter()
        .map(|subscription| subscription.version);
    let read: Vec<_> = routes.iter().map(|route| route.id).zip(versions).collect();
    release_parked(&mut tx, &read, now).await?;
    for schedule in &registry.schedules {
        crate::schedule::record::declare(&mut tx, schedule, now).await?;
    }
    fault::point!("declare.before_commit");
    tx.commit().await?;
    Ok(routes)
}

/// The routes of every subscription that was ever registered and not dropped.
pub(crate) async fn routes(db: &Db) -> Result<Vec<Route>, Error> {
    let rows: Vec<(i64, Text, Text, Option<Text>)> = sqlx::query_as(
        "SELECT s.id, s.name, s.event, r.event FROM termitary_subscriptions s
         LEFT JOIN termitary_routes r ON r.subscription = s.id AND r.event <> s.event
         ORDER BY s.name, r.event",
    )
    .fetch_all(db.reader())
    .await?;
    let mut routes: Vec<Route> = Vec::new();
    for (id, Text(name), Text(event), alias) in rows {
        if routes.last().is_none_or(|last| last.id != id) {
            routes.push(Route {
                id,
                name,
                events: vec![event],
                known: true,
            });
        }
        if let (Some(last), Some(alias)) = (routes.last_mut(), alias) {
            last.events.push(alias.0);
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

/// Records subscriptions, each by its name, its event and the version that it
/// reads; answers the id of each, and whether it was known before.
async fn record(
    tx: &mut Tx,
    rows: impl Iterator<Item = (&str, &str, u32)>,
    now: i64,
) -> Result<HashMap<String, (i64, bool)>, Error> {
    let rows = json!(rows.collect::<Vec<_>>()).to_string();
    let known: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM termitary_subscriptions WHERE name IN (SELECT value->>0 FROM json_each($1))",
    )
    .bind(&rows)
    .fetch_all(&mut **tx)
    .await?;
    let known: HashSet<_> = known.into_iter().collect();
    let recorded: Vec<(String, i64)> = sqlx::query_as(
        "INSERT INTO termitary_subscriptions (name, event, version, since_us, seen_us)
         SELECT value->>0, value->>1, value->>2, $2, $2 FROM json_each($1) WHERE true
         ON CONFLICT (name) DO UPDATE SET
            event = excluded.event, version = max(version, excluded.version), seen_us = excluded.seen_us
         RETURNING name, id",
    )
    .bind(&rows)
    .bind(now)
    .fetch_all(&mut **tx)
    .await?;
    Ok(recorded
        .into_iter()
        .map(|(name, id)| {
            let known = known.contains(&name);
            (name, (id, known))
        })
        .collect())
}

/// Routes are only added to: during a rolling deploy the older code's alias must go
/// on reaching the subscription.
async fn reroute(tx: &mut Tx, routes: &[Route]) -> Result<(), Error> {
    let of = |route: &Route| {
        let id = route.id;
        let events = route.events.iter();
        events.map(|event| json!([event, id])).collect::<Vec<_>>()
    };
    let rows: Vec<_> = routes.iter().flat_map(of).collect();
    sqlx::query(
        "INSERT INTO termitary_routes (event, subscription)
         SELECT value->>0, value->>1 FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
    )
    .bind(json!(rows).to_string())
    .execute(&mut **tx)
    .await?;
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

/// `state >= 3` names the index, as what is bound is not known when the plan is made;
/// `CROSS JOIN` and the inner query keep the order, whatever statistics say.
pub(super) const RELEASE: &str = "
    UPDATE termitary_deliveries SET state = $2, due_us = $3, crashes = 0, reason = NULL, error = NULL, settled_us = $3
    WHERE (event, subscription) IN
        (SELECT d.event, d.subscription FROM json_each($1) j CROSS JOIN termitary_deliveries d
         WHERE d.state >= 3 AND d.state = $4 AND d.subscription = j.value->>0 AND d.reason = 'version'
           AND (SELECT e.version FROM termitary_events e WHERE e.seq = d.event) <= j.value->>1)";

/// Whether there is anything of that.
pub(super) const RELEASES: &str = "
    SELECT EXISTS (SELECT 1 FROM json_each($1) j CROSS JOIN termitary_deliveries d
        WHERE d.state >= 3 AND d.state = $2 AND d.subscription = j.value->>0 AND d.reason = 'version'
          AND (SELECT e.version FROM termitary_events e WHERE e.seq = d.event) <= j.value->>1)";

/// What was parked because its version was too new is due again once a worker
/// that reads that version registers. `read` has the subscriptions and the versions
/// that are read. Answers how many.
async fn release_parked(tx: &mut Tx, read: &[(i64, u32)], now: i64) -> Result<u64, Error> {
    let done = sqlx::query(RELEASE)
        .bind(json!(read).to_string())
        .bind(state::PENDING)
        .bind(now)
        .bind(state::PARKED)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

/// The same for a worker that has been registered for long: an older one
/// beside it goes on parking what it is handed. Answers how many were released.
pub(crate) async fn release(db: &Db, read: &[(i64, u32)]) -> Result<u64, Error> {
    // Looks before it writes: mostly there is nothing.
    let waiting: bool = sqlx::query_scalar(RELEASES)
        .bind(json!(read).to_string())
        .bind(state::PARKED)
        .fetch_one(db.reader())
        .await?;
    if !waiting {
        return Ok(0);
    }
    let mut tx = db.begin().await?;
    let released = release_parked(&mut tx, read, db.clock().now_us()).await?;
    tx.commit_and_wake().await?;
    Ok(released)
}
