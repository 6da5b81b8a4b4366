//! Which subscriptions exist and which event names reach them.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use crate::db::{Conn, Db, Tx};
use crate::delivery::Route;
#[cfg(feature = "postgres")]
use crate::engine::EngineKind;
use crate::error::Error;
use crate::fault;

use super::rows::Text;
use super::sql::{Statement, statement};
use super::ticks::DeclaredSchedule;
use super::workers::WorkerRow;
use super::{backfill, event_changes, single_writer, state, ticks};

/// The subscription under which unreadable foreign input is parked. It has no
/// route: no event ever fans out to it.
pub(crate) const BRIDGE: &str = "bridge.in";

/// The declarations of a program.
pub(crate) struct Declaration {
    pub(crate) subscriptions: Vec<DeclaredSubscription>,
    pub(crate) schedules: Vec<DeclaredSchedule>,
}

/// A subscription as a program declares it.
pub(crate) struct DeclaredSubscription {
    pub(crate) name: String,
    /// The event names that its code handles: its event, then the aliases.
    pub(crate) names: Vec<String>,
    /// The highest version of the event that its code reads.
    pub(crate) version: u32,
    /// It asks for the retained past.
    pub(crate) from_retained: bool,
}

impl DeclaredSubscription {
    pub(super) fn event(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// Records the subscriptions and schedules of a program, and the worker that will run
/// them, if one will; returns the routes. A new subscription starts from now, unless it
/// asks for what is retained. Waits for another process's lock as at a start.
pub(crate) async fn declare(
    db: &Db,
    declaration: &Declaration,
    worker: Option<&WorkerRow>,
) -> Result<Vec<Route>, Error> {
    let now = db.clock().now_us();
    let mut tx = single_writer::declaring(db).await?;
    let subscriptions = &declaration.subscriptions;
    let changes = event_changes::find(&mut tx, subscriptions, now).await?;
    let rows = subscriptions
        .iter()
        .map(|s| (&*s.name, changes.event_of(s), s.version));
    let recorded = record(&mut tx, rows.chain([(BRIDGE, "", 1)]), now).await?;
    let mut routes = Vec::with_capacity(subscriptions.len());
    for DeclaredSubscription { name, names, .. } in subscriptions {
        let (id, known) = *recorded
            .get(name)
            .ok_or_else(|| Error::internal(format!("`{name}` was not recorded")))?;
        let fresh = |event: &&String| known && !changes.reached(name, event);
        routes.push(Route {
            id,
            name: name.clone(),
            events: names.clone(),
            fresh: names.iter().filter(fresh).cloned().collect(),
            known,
        });
    }
    leave_former(&mut tx, &changes.former).await?;
    reroute(&mut tx, &routes).await?;
    with_all_names(&mut tx, &mut routes).await?;
    for (route, subscription) in routes.iter().zip(subscriptions) {
        if !route.known && subscription.from_retained {
            backfill::start(&mut tx, route.id).await?;
        }
    }
    #[cfg(feature = "postgres")]
    if tx.engine() == EngineKind::Postgres {
        let joins = |route: &&Route| !route.known || !route.fresh.is_empty();
        let joining: Vec<_> = routes.iter().filter(joins).map(|route| route.id).collect();
        let from_now = from_now(&routes, subscriptions);
        backfill::gap::start(db, &mut tx, &joining, &from_now).await?;
    }
    release_parked(&mut tx, &readable(declaration, &routes), now).await?;
    for schedule in &declaration.schedules {
        ticks::declare(&mut tx, schedule, now).await?;
    }
    if let Some(worker) = worker {
        worker.insert(&mut tx, now).await?;
    }
    fault::point!("declare.before_commit");
    tx.commit().await?;
    Ok(routes)
}

/// The new routes by which nothing from before is owed.
#[cfg(feature = "postgres")]
fn from_now<'a>(
    routes: &'a [Route],
    subscriptions: &[DeclaredSubscription],
) -> Vec<(&'a str, i64)> {
    let mut from_now = Vec::new();
    for (route, subscription) in routes.iter().zip(subscriptions) {
        let names = if route.known {
            &route.fresh
        } else {
            &route.events
        };
        if route.known || !subscription.from_retained {
            from_now.extend(names.iter().map(|name| (&**name, route.id)));
        }
    }
    from_now
}

/// The events that a subscription's code reads: its row, the highest version, the names.
pub(crate) type Readable = (i64, u32, Vec<String>);

/// The events that the code of these subscriptions reads; `routes` are theirs.
pub(crate) fn readable(declaration: &Declaration, routes: &[Route]) -> Vec<Readable> {
    let subscriptions = declaration.subscriptions.iter().zip(routes);
    subscriptions
        .map(|(subscription, route)| (route.id, subscription.version, subscription.names.clone()))
        .collect()
}

/// The rows of all registered subscriptions.
pub(crate) async fn registered(db: &Db) -> Result<HashSet<i64>, Error> {
    let rows: Vec<i64> = sqlx::query_scalar("SELECT id FROM termitary_subscriptions")
        .fetch_all(&mut *db.read().await?)
        .await?;
    Ok(rows.into_iter().collect())
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
            routes.push(of_event(id, name, event));
        }
        if let (Some(last), Some(alias)) = (routes.last_mut(), alias) {
            last.events.push(alias.0);
        }
    }
    Ok(routes)
}

/// The time for which a dropped subscription is still cleared from Redis.
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
    let routes = rows
        .into_iter()
        .map(|(id, name, event)| of_event(id, name, event));
    Ok(routes.collect())
}

/// Returns whether any subscription gets the events of this name.
pub(crate) async fn has_route(db: &Db, event: &str) -> Result<bool, Error> {
    Ok(
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM termitary_routes WHERE event = $1)")
            .bind(event)
            .fetch_one(&mut *db.read().await?)
            .await?,
    )
}

const RECORD: Statement = statement!(
    // A number is given once: a worker that does not know yet that its subscription
    // was dropped must not lease from the next one.
    "INSERT INTO termitary_subscriptions AS s (id, name, event, version, since_us, seen_us)
     SELECT COALESCE((SELECT max(id) FROM (SELECT id FROM termitary_subscriptions
                        UNION ALL SELECT subscription FROM termitary_dropped) n), 0)
            + row_number() OVER (), ", [text 0], ", ", [text 1], ", ", [int 2], ", $2, $2 FROM ", [rows], " WHERE true
     ON CONFLICT (name) DO UPDATE SET
        event = excluded.event,
        version = CASE WHEN s.version > excluded.version THEN s.version ELSE excluded.version END,
        seen_us = excluded.seen_us
     RETURNING name, id"
);

const KNOWN: Statement = statement!(
    "SELECT name FROM termitary_subscriptions WHERE name IN (SELECT ", [text 0], " FROM ", [rows], ")"
);

/// Records subscriptions, each by its name, its event and the version that it reads;
/// returns the id of each, and whether it was known before.
async fn record(
    tx: &mut Tx,
    rows: impl Iterator<Item = (&str, &str, u32)>,
    now: i64,
) -> Result<HashMap<String, (i64, bool)>, Error> {
    let rows = json!(rows.collect::<Vec<_>>()).to_string();
    let known: Vec<String> = sqlx::query_scalar(KNOWN.on(tx))
        .bind(&rows)
        .fetch_all(&mut *tx)
        .await?;
    let known: HashSet<_> = known.into_iter().collect();
    let recorded: Vec<(String, i64)> = sqlx::query_as(RECORD.on(tx))
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

const BACK: Statement = statement!(
    "DELETE FROM termitary_former WHERE (event, subscription) IN
        (SELECT ", [text 0], ", ", [int 1], " FROM ", [rows], ")"
);

const ROUTE: Statement = statement!(
    "INSERT INTO termitary_routes (event, subscription)
     SELECT ", [text 0], ", ", [int 1], " FROM ", [rows], " WHERE true ON CONFLICT DO NOTHING"
);

/// Routes are added to: during a rolling deploy the older code's alias must go on
/// reaching the subscription. Only who moves to another event leaves some.
async fn reroute(tx: &mut Tx, routes: &[Route]) -> Result<(), Error> {
    let of = |route: &Route| {
        let id = route.id;
        let events = route.events.iter();
        events.map(|event| json!([event, id])).collect::<Vec<_>>()
    };
    let rows: Vec<_> = routes.iter().flat_map(of).collect();
    sqlx::query(ROUTE.on(tx))
        .bind(json!(rows).to_string())
        .execute(&mut *tx)
        .await?;
    // One that moved back.
    sqlx::query(BACK.on(tx))
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

const LEAVE: [Statement; 2] = [
    statement!(
        "INSERT INTO termitary_former (event, subscription)
         SELECT ", [text 1], ", s.id FROM ", [rows], "
         JOIN termitary_subscriptions s ON s.name = ", [text 0], " WHERE true ON CONFLICT DO NOTHING"
    ),
    statement!(
        "DELETE FROM termitary_routes WHERE (event, subscription) IN
            (SELECT ", [text 1], ", s.id FROM ", [rows], "
             JOIN termitary_subscriptions s ON s.name = ", [text 0], ")"
    ),
];

/// Names that reach a subscription no longer: each with the subscription's name first.
async fn leave_former(tx: &mut Tx, former: &[(String, String)]) -> Result<(), Error> {
    if former.is_empty() {
        return Ok(());
    }
    let rows = json!(former).to_string();
    for statement in LEAVE {
        sqlx::query(statement.on(tx))
            .bind(&rows)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// The routes by which events reached a subscription before it moved to another event, and
/// which may have something left on Redis: one for each name.
pub(crate) async fn former(db: &Db) -> Result<Vec<Route>, Error> {
    let rows: Vec<(i64, Text, Text)> = sqlx::query_as(
        "SELECT s.id, s.name, f.event FROM termitary_former f
         JOIN termitary_subscriptions s ON s.id = f.subscription",
    )
    .fetch_all(&mut *db.read().await?)
    .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|(id, Text(name), Text(event))| of_event(id, name, event))
        .collect())
}

/// The route of a subscription and one event.
fn of_event(id: i64, name: String, event: String) -> Route {
    Route {
        id,
        name,
        events: vec![event],
        fresh: Vec::new(),
        known: true,
    }
}

/// Forgets a route of [`former`]: nothing is left on it.
pub(crate) async fn forget_former(db: &Db, former: &Route) -> Result<(), Error> {
    let mut tx = db.begin_own().await?;
    sqlx::query("DELETE FROM termitary_former WHERE subscription = $1 AND event = $2")
        .bind(former.id)
        .bind(former.events.first())
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// `state >= 3` names the index, as what is bound is not known when the plan is made;
/// `CROSS JOIN` and the inner query keep the order, whatever statistics say.
/// A scalar, as an `EXISTS` may become a join that walks through the events.
macro_rules! releasable {
    ([$($before:tt),+], $parked:literal, $after:literal) => {
        statement!(
            $($before,)+
            " FROM ", [rows], " CROSS JOIN termitary_deliveries d
             WHERE d.state >= 3 AND d.state = ", $parked, " AND d.subscription = ", [int 0], "
               AND d.reason IN ('version', 'unknown-name')
               AND (SELECT e.version <= ", [int 1], " AND e.name IN ", [inner_texts 2], "
                    FROM termitary_events e WHERE e.seq = d.event)",
            $after
        )
    };
}
pub(super) const RELEASE: Statement = releasable!(
    ["
    UPDATE termitary_deliveries SET state = $2, due_us = $3, crashes = 0, reason = NULL, error = NULL, settled_us = $3
    WHERE (event, subscription) IN
        (SELECT d.event, d.subscription"],
    "$4",
    ")"
);

/// Finds out whether [`RELEASE`] would change anything.
pub(super) const RELEASES: Statement = releasable!(["SELECT EXISTS (SELECT 1"], "$2", ")");

/// Makes deliveries due again that were parked because the version was too new or the
/// name unknown, and that a worker now registers to read. Returns how many.
async fn release_parked(tx: &mut Tx, read: &[Readable], now: i64) -> Result<u64, Error> {
    let done = sqlx::query(RELEASE.on(tx))
        .bind(json!(read).to_string())
        .bind(state::PENDING)
        .bind(now)
        .bind(state::PARKED)
        .execute(&mut *tx)
        .await?;
    Ok(done.rows_affected())
}

/// Does the same for a worker that has been registered for long: an older worker beside
/// it goes on parking events. Returns how many were released.
pub(crate) async fn release(db: &Db, read: &[Readable]) -> Result<u64, Error> {
    // Looks before it writes: mostly there is nothing.
    let mut conn = db.read().await?;
    let waiting: bool = sqlx::query_scalar(RELEASES.on(&conn))
        .bind(json!(read).to_string())
        .bind(state::PARKED)
        .fetch_one(&mut *conn)
        .await?;
    drop(conn);
    if !waiting {
        return Ok(0);
    }
    let mut tx = single_writer::alone(db).await?;
    let released = release_parked(&mut tx, read, db.clock().now_us()).await?;
    tx.commit_and_wake().await?;
    Ok(released)
}
