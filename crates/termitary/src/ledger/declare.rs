//! Which subscriptions exist and which event names reach them.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use crate::db::{Conn, Db, Tx};
use crate::delivery::Route;
use crate::error::Error;
use crate::fault;
use crate::registry::Registry;
use crate::worker::roll;

use super::stored::Text;
use super::{moved, retained, state};

/// The subscription under which unreadable foreign input is parked. It has no
/// route: no event ever fans out to it.
pub(crate) const BRIDGE: &str = "bridge.in";

/// Records a registry's subscriptions and schedules, and the worker that will run
/// them, if one will; returns their routes. A subscription seen for the first time
/// starts from now, unless it asks for what is retained. Another process's lock is
/// waited for as at a start.
pub(crate) async fn declare<S>(
    db: &Db,
    registry: &Registry<S>,
    worker: Option<&roll::Entry>,
) -> Result<Vec<Route>, Error> {
    let now = db.clock().now_us();
    let mut tx = db.begin_at_start().await?;
    let subscriptions = &registry.subscriptions;
    let changes = moved::changes(&mut tx, registry, now).await?;
    let rows = subscriptions
        .iter()
        .map(|s| (&*s.name, changes.event_of(s), s.version));
    let recorded = record(&mut tx, rows.chain([(BRIDGE, "", 1)]), now).await?;
    let mut routes = Vec::with_capacity(subscriptions.len());
    for subscription in subscriptions {
        let (id, known) = *recorded
            .get(&subscription.name)
            .ok_or_else(|| Error::internal(format!("`{}` was not recorded", subscription.name)))?;
        let name = &subscription.name;
        let new = |event: &&str| known && !changes.reached(name, event);
        routes.push(Route {
            id,
            name: name.clone(),
            events: subscription.names().map(str::to_owned).collect(),
            fresh: subscription
                .names()
                .filter(new)
                .map(str::to_owned)
                .collect(),
            known,
        });
    }
    leave_former(&mut tx, &changes.former).await?;
    reroute(&mut tx, &routes).await?;
    with_all_names(&mut tx, &mut routes).await?;
    for (route, subscription) in routes.iter().zip(subscriptions) {
        if !route.known && subscription.policy.from_retained {
            retained::ask(&mut tx, route.id).await?;
        }
    }
    release_parked(&mut tx, &read(registry, &routes), now).await?;
    for schedule in &registry.schedules {
        crate::schedule::record::declare(&mut tx, schedule, now).await?;
    }
    if let Some(worker) = worker {
        worker.begin(&mut tx, now).await?;
    }
    fault::point!("declare.before_commit");
    tx.commit().await?;
    Ok(routes)
}

/// What a subscription's code reads: its row, the highest version, the names.
pub(crate) type Names = (i64, u32, Vec<String>);

/// What the code of a registry reads, whose routes these are.
pub(crate) fn read<S>(registry: &Registry<S>, routes: &[Route]) -> Vec<Names> {
    let subscriptions = registry.subscriptions.iter().zip(routes);
    subscriptions
        .map(|(subscription, route)| {
            let names = subscription.names().map(str::to_owned);
            (route.id, subscription.version, names.collect())
        })
        .collect()
}

/// The routes of every subscription that was ever registered and not dropped.
pub(crate) async fn routes(db: &Db) -> Result<Vec<Route>, Error> {
    routes_of(&mut *db.read().await?).await
}

async fn routes_of(conn: &mut Conn) -> Result<Vec<Route>, Error> {
    let rows: Vec<(i64, Text, Text, Option<Text>)> = sqlx::query_as(
        "SELECT s.id, s.name, s.event, r.event FROM termitary_subscriptions s
         LEFT JOIN termitary_routes r ON r.subscription = s.id AND r.event <> s.event
         ORDER BY s.name, r.event",
    )
    .fetch_all(conn)
    .await?;
    let mut routes: Vec<Route> = Vec::new();
    for (id, Text(name), Text(event), alias) in rows {
        if routes.last().is_none_or(|last| last.id != id) {
            routes.push(Route {
                id,
                name,
                events: vec![event],
                fresh: Vec::new(),
                known: true,
            });
        }
        if let (Some(last), Some(alias)) = (routes.last_mut(), alias) {
            last.events.push(alias.0);
        }
    }
    Ok(routes)
}

/// How long what is left of a dropped subscription is looked for.
const LOOKED_FOR: std::time::Duration = crate::clock::days(7);

/// Subscriptions that were dropped lately and not registered again, once for each
/// event that reached them.
pub(crate) async fn dropped(db: &Db) -> Result<Vec<Route>, Error> {
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT subscription, name, event FROM termitary_dropped d
         WHERE time_us > $1 AND NOT EXISTS
            (SELECT 1 FROM termitary_subscriptions s JOIN termitary_routes r ON r.subscription = s.id
             WHERE s.name = d.name AND r.event = d.event)",
    )
    .bind(db.clock().now_us() - crate::clock::micros(LOOKED_FOR))
    .fetch_all(&mut *db.read().await?)
    .await?;
    let routes = rows.into_iter().map(|(id, name, event)| Route {
        fresh: Vec::new(),
        id,
        name,
        events: vec![event],
        known: true,
    });
    Ok(routes.collect())
}

/// Whether any subscription gets the events of this name.
pub(crate) async fn has_route(db: &Db, event: &str) -> Result<bool, Error> {
    Ok(
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM termitary_routes WHERE event = $1)")
            .bind(event)
            .fetch_one(&mut *db.read().await?)
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
    .fetch_all(&mut *tx)
    .await?;
    let known: HashSet<_> = known.into_iter().collect();
    let recorded: Vec<(String, i64)> = sqlx::query_as(
        // A number is given once: a worker that does not know yet that its subscription
        // was dropped must not lease from the next one.
        "INSERT INTO termitary_subscriptions (id, name, event, version, since_us, seen_us)
         SELECT (SELECT max(COALESCE((SELECT max(id) FROM termitary_subscriptions), 0),
                            COALESCE((SELECT max(subscription) FROM termitary_dropped), 0)))
                + row_number() OVER (), value->>0, value->>1, value->>2, $2, $2 FROM json_each($1) WHERE true
         ON CONFLICT (name) DO UPDATE SET
            event = excluded.event, version = max(version, excluded.version), seen_us = excluded.seen_us
         RETURNING name, id",
    )
    .bind(&rows)
    .bind(now)
    .fetch_all(&mut *tx)
    .await?;
    Ok(recorded
        .into_iter()
        .map(|(name, id)| {
            let known = known.contains(&name);
            (name, (id, known))
        })
        .collect())
}

/// Routes are added to: during a rolling deploy the older code's alias must go on
/// reaching the subscription. Only who moves to another event leaves some.
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
    .execute(&mut *tx)
    .await?;
    // One that moved back.
    sqlx::query(
        "DELETE FROM termitary_former WHERE (event, subscription) IN
            (SELECT value->>0, value->>1 FROM json_each($1))",
    )
    .bind(json!(rows).to_string())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Gives each route every name that reaches it, as all processes have it: the event on
/// record first.
async fn with_all_names(tx: &mut Tx, routes: &mut [Route]) -> Result<(), Error> {
    let all = routes_of(tx).await?.into_iter();
    let mut all: HashMap<_, _> = all.map(|route| (route.id, route.events)).collect();
    for route in routes {
        if let Some(events) = all.remove(&route.id) {
            route.events = events;
        }
    }
    Ok(())
}

/// Names that reach a subscription no longer: each with the subscription's name first.
async fn leave_former(tx: &mut Tx, former: &[(String, String)]) -> Result<(), Error> {
    if former.is_empty() {
        return Ok(());
    }
    let rows = json!(former).to_string();
    for sql in [
        "INSERT INTO termitary_former (event, subscription)
         SELECT j.value->>1, s.id FROM json_each($1) j
         JOIN termitary_subscriptions s ON s.name = j.value->>0 WHERE true ON CONFLICT DO NOTHING",
        "DELETE FROM termitary_routes WHERE (event, subscription) IN
            (SELECT j.value->>1, s.id FROM json_each($1) j
             JOIN termitary_subscriptions s ON s.name = j.value->>0)",
    ] {
        sqlx::query(sql).bind(&rows).execute(&mut *tx).await?;
    }
    Ok(())
}

/// A name that reached a subscription before it moved, as a route.
pub(crate) struct Former {
    pub(crate) route: Route,
}

/// The names of before that may have something left on Redis.
pub(crate) async fn former(db: &Db) -> Result<Vec<Former>, Error> {
    let rows: Vec<(i64, Text, Text)> = sqlx::query_as(
        "SELECT s.id, s.name, f.event FROM termitary_former f
         JOIN termitary_subscriptions s ON s.id = f.subscription",
    )
    .fetch_all(&mut *db.read().await?)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|(id, Text(name), Text(event))| Former {
            route: Route {
                id,
                name,
                events: vec![event],
                fresh: Vec::new(),
                known: true,
            },
        })
        .collect())
}

/// Nothing is left there.
pub(crate) async fn forget_former(db: &Db, former: &Former) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    sqlx::query("DELETE FROM termitary_former WHERE subscription = $1 AND event = $2")
        .bind(former.route.id)
        .bind(former.route.events.first())
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// `state >= 3` names the index, as what is bound is not known when the plan is made;
/// `CROSS JOIN` and the inner query keep the order, whatever statistics say.
/// A scalar, as an `EXISTS` may become a join that walks through the events.
macro_rules! readable {
    () => {
        "AND d.reason IN ('version', 'unknown-name')
         AND (SELECT e.version <= j.value->>1 AND e.name IN (SELECT n.value FROM json_each(j.value->>2) n)
              FROM termitary_events e WHERE e.seq = d.event)"
    };
}
pub(super) const RELEASE: &str = concat!("
    UPDATE termitary_deliveries SET state = $2, due_us = $3, crashes = 0, reason = NULL, error = NULL, settled_us = $3
    WHERE (event, subscription) IN
        (SELECT d.event, d.subscription FROM json_each($1) j CROSS JOIN termitary_deliveries d
         WHERE d.state >= 3 AND d.state = $4 AND d.subscription = j.value->>0 ", readable!(), ")");

/// Whether there is anything of that.
pub(super) const RELEASES: &str = concat!(
    "
    SELECT EXISTS (SELECT 1 FROM json_each($1) j CROSS JOIN termitary_deliveries d
        WHERE d.state >= 3 AND d.state = $2 AND d.subscription = j.value->>0 ",
    readable!(),
    ")"
);

/// What was parked because its version was too new, or its name unknown, is due again
/// once a worker registers that reads it. Returns how many.
async fn release_parked(tx: &mut Tx, read: &[Names], now: i64) -> Result<u64, Error> {
    let done = sqlx::query(RELEASE)
        .bind(json!(read).to_string())
        .bind(state::PENDING)
        .bind(now)
        .bind(state::PARKED)
        .execute(&mut *tx)
        .await?;
    Ok(done.rows_affected())
}

/// The same for a worker that has been registered for long: an older one
/// beside it goes on parking what it is handed. Answers how many were released.
pub(crate) async fn release(db: &Db, read: &[Names]) -> Result<u64, Error> {
    // Looks before it writes: mostly there is nothing.
    let waiting: bool = sqlx::query_scalar(RELEASES)
        .bind(json!(read).to_string())
        .bind(state::PARKED)
        .fetch_one(&mut *db.read().await?)
        .await?;
    if !waiting {
        return Ok(0);
    }
    let mut tx = db.begin().await?;
    let released = release_parked(&mut tx, read, db.clock().now_us()).await?;
    tx.commit_and_wake().await?;
    Ok(released)
}
