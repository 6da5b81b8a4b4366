//! The state of the database at the end of a run.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use termitary::Db;

use crate::events::Path;

/// The tables, as far as the checker needs them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// By row id.
    pub(crate) subscriptions: BTreeMap<i64, Subscription>,
    /// By `seq`.
    pub(crate) events: BTreeMap<i64, Event>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) orders: BTreeSet<u64>,
    pub(crate) effects: Vec<Effect>,
    /// Seconds of each recorded tick, and whether it published.
    pub(crate) ticks: Vec<(u64, bool)>,
    /// Violations recorded by the triggers of the harness.
    pub(crate) crimes: Vec<Crime>,
}

#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) name: String,
    pub(crate) event: String,
    pub(crate) done: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Hexadecimal, without hyphens.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) n: u64,
    pub(crate) path: Option<Path>,
}

#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Delivery {
    pub(crate) event: i64,
    pub(crate) subscription: i64,
    /// 0 pending, 1 leased, 2 done, 3 dead, 4 parked.
    pub(crate) state: i64,
    pub(crate) fence: i64,
    pub(crate) crashes: i64,
    pub(crate) reason: Option<String>,
    /// Finished, and counted on Redis when its entry ends there.
    pub(crate) noted: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) event: String,
    pub(crate) subscription: String,
    pub(crate) n: u64,
    pub(crate) fence: i64,
}

/// A violation.
#[derive(Clone, Debug)]
pub(crate) struct Crime {
    /// `terminal` or `fence`.
    pub(crate) what: String,
    pub(crate) detail: String,
}

/// Reads everything. All processes must have stopped.
pub(crate) async fn read(db: &Db) -> Result<Facts> {
    let orders: Vec<i64> = sqlx::query_scalar("SELECT n FROM chaos_orders")
        .fetch_all(&mut *db.read().await?)
        .await?;
    let ticks: Vec<(i64, bool)> = sqlx::query_as(
        "SELECT tick_us / 1000000, event IS NOT NULL FROM termitary_ticks ORDER BY 1",
    )
    .fetch_all(&mut *db.read().await?)
    .await?;
    Ok(Facts {
        subscriptions: subscriptions(db).await?,
        events: events(db).await?,
        deliveries: deliveries(db).await?,
        orders: orders.into_iter().map(|n| n as u64).collect(),
        effects: effects(db).await?,
        ticks: ticks
            .into_iter()
            .map(|(at, fired)| (at as u64, fired))
            .collect(),
        crimes: crimes(db).await?,
    })
}

async fn subscriptions(db: &Db) -> Result<BTreeMap<i64, Subscription>> {
    let rows: Vec<(i64, String, String, i64)> = sqlx::query_as(
        "SELECT id, name, event, done FROM termitary_subscriptions WHERE event <> ''",
    )
    .fetch_all(&mut *db.read().await?)
    .await?;
    let read = |(id, name, event, done): (i64, String, String, i64)| {
        let done = done as u64;
        (id, Subscription { name, event, done })
    };
    Ok(rows.into_iter().map(read).collect())
}

async fn events(db: &Db) -> Result<BTreeMap<i64, Event>> {
    const ON_SQLITE: &str =
        "SELECT seq, lower(hex(id)), name, data->>'n', data->>'path' FROM termitary_events";
    const ON_POSTGRES: &str = "SELECT seq, replace(CAST(id AS text), '-', ''), name,
            CAST(CAST(data AS jsonb)->>'n' AS bigint), CAST(data AS jsonb)->>'path'
         FROM termitary_events";
    let sql = db.path().map_or(ON_POSTGRES, |_| ON_SQLITE);
    let rows: Vec<(i64, String, String, i64, Option<String>)> = sqlx::query_as(sql)
        .fetch_all(&mut *db.read().await?)
        .await?;
    rows.into_iter()
        .map(|(seq, id, name, n, path)| {
            let path = path
                .map(|path| serde_json::from_value(path.into()))
                .transpose()?;
            let n = n as u64;
            Ok((seq, Event { id, name, n, path }))
        })
        .collect()
}

async fn deliveries(db: &Db) -> Result<Vec<Delivery>> {
    let rows = sqlx::query_as(
        "SELECT event, subscription, state, fence, crashes, reason, state = 2 AND entry IS NOT NULL AS noted
         FROM termitary_deliveries",
    );
    Ok(rows.fetch_all(&mut *db.read().await?).await?)
}

async fn effects(db: &Db) -> Result<Vec<Effect>> {
    let rows: Vec<(String, String, i64, i64)> =
        sqlx::query_as("SELECT event, subscription, n, fence FROM chaos_effects")
            .fetch_all(&mut *db.read().await?)
            .await?;
    let read = |(event, subscription, n, fence): (String, String, i64, i64)| Effect {
        event,
        subscription,
        n: n as u64,
        fence,
    };
    Ok(rows.into_iter().map(read).collect())
}

async fn crimes(db: &Db) -> Result<Vec<Crime>> {
    let rows: Vec<(String, i64, i64, String)> =
        sqlx::query_as("SELECT what, event, subscription, detail FROM chaos_crimes")
            .fetch_all(&mut *db.read().await?)
            .await?;
    let read = |(what, event, subscription, detail)| Crime {
        what,
        detail: format!("event row {event}, subscription {subscription}: {detail}"),
    };
    Ok(rows.into_iter().map(read).collect())
}
