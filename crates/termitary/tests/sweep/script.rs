//! The script of a process in the sweep: it publishes one event of each kind, works until nothing
//! is left, and shuts down. The successor of a dead process continues from the tables.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use termitary::broker::RedisConfig;
use termitary::db::Options;
use termitary::inspect::LetterFilter;
use termitary::prelude::*;
use tokio_util::sync::CancellationToken;

/// Short, so that the dead are noticed soon.
const LEASE: Duration = Duration::from_millis(600);
/// Time limit before the process reports its remaining work, unless `SWEEP_PATIENCE` sets another,
/// in milliseconds.
const PATIENCE: Duration = secs(60);
/// Orders of the script; [`crate::stage`] has some more.
const ORDERS: std::ops::RangeInclusive<u32> = 1..=6;
const DELAYED: u32 = 2;
const RETRIED: u32 = 4;
const HOPELESS: u32 = 5;
const SLOW: u32 = 6;

#[derive(Serialize, Deserialize)]
pub(crate) struct Ordered {
    pub(crate) n: u32,
}

impl Event for Ordered {
    const NAME: &'static str = "shop.ordered";
}

/// Published by the handler of `Ordered`, in its own transaction.
#[derive(Serialize, Deserialize)]
pub(crate) struct Paid {
    n: u32,
}

impl Event for Paid {
    const NAME: &'static str = "shop.paid";
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Opened {}

impl Event for Opened {
    const NAME: &'static str = "shop.opened";
}

/// Rows that the checker reads.
pub(crate) const TABLES: &str = "
    CREATE TABLE orders (n BIGINT PRIMARY KEY);
    CREATE TABLE sent (n BIGINT PRIMARY KEY, known BIGINT NOT NULL);
    CREATE TABLE runs (subscription TEXT NOT NULL, event TEXT NOT NULL, n BIGINT NOT NULL);
    CREATE TABLE effects (subscription TEXT NOT NULL, event TEXT NOT NULL, n BIGINT NOT NULL);";

async fn pack(event: Ordered, meta: Meta, State(db): State<Db>) -> HandlerResult {
    note_run(&db, &meta, event.n).await?;
    Ok(())
}

/// Has its moods, by the last digit: fails once, gives up once, takes long.
async fn gift_wrap(event: Ordered, meta: Meta, State(db): State<Db>) -> HandlerResult {
    let first = note_run(&db, &meta, event.n).await? == 1;
    match event.n % 10 {
        RETRIED if first => Err(HandlerError::retry_after(
            Duration::from_millis(100),
            "no paper",
        )),
        HOPELESS if first => Err(HandlerError::permanent("no ribbon")),
        SLOW => {
            tokio::time::sleep(LEASE * 3 / 4).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn pay(event: Ordered, meta: Meta, ledger: Ledger) -> HandlerResult {
    if let Some(moment) = millis("SWEEP_LINGER") {
        tokio::time::sleep(moment).await;
    }
    let mut tx = ledger.begin().await?;
    note_effect(&mut tx, &meta, event.n).await?;
    tx.publish(Paid { n: event.n }).await?;
    tx.commit().await
}

async fn receipt(event: Paid, meta: Meta, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    note_effect(&mut tx, &meta, event.n).await?;
    tx.commit().await
}

async fn open(_: Opened, meta: Meta, ledger: Ledger) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    note_effect(&mut tx, &meta, 0).await?;
    tx.commit().await
}

fn millis(name: &str) -> Option<Duration> {
    let millis = std::env::var(name).ok()?;
    Some(Duration::from_millis(millis.parse().unwrap()))
}

/// Returns how often this delivery has begun.
async fn note_run(db: &Db, meta: &Meta, n: u32) -> Result<i64, termitary::Error> {
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO runs (subscription, event, n) VALUES ($1, $2, $3)")
        .bind(&meta.subscription)
        .bind(meta.event_id.to_string())
        .bind(n)
        .execute(&mut *tx)
        .await?;
    let runs = sqlx::query_scalar("SELECT COUNT(*) FROM runs WHERE subscription = $1 AND n = $2")
        .bind(&meta.subscription)
        .bind(n)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(runs)
}

async fn note_effect(tx: &mut Tx, meta: &Meta, n: u32) -> Result<(), termitary::Error> {
    sqlx::query("INSERT INTO effects (subscription, event, n) VALUES ($1, $2, $3)")
        .bind(&meta.subscription)
        .bind(meta.event_id.to_string())
        .bind(n)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

pub(crate) fn registry() -> Registry<Db> {
    Registry::new()
        .on(subscribe("pack", pack))
        .on(subscribe("gift-wrap", gift_wrap))
        .on(subscribe("pay", pay))
        .on(subscribe("receipt", receipt))
        .on(subscribe("open", open))
        .on(schedule("opening", "* * * * *", |_| Opened {}))
}

/// The URL of the database and the Redis of a process, and the number of its life.
pub(crate) struct Place {
    pub(crate) database: String,
    pub(crate) redis: Option<u16>,
    pub(crate) life: u32,
}

impl Place {
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("SWEEP_DATABASE", self.database.clone()),
            ("SWEEP_LIFE", self.life.to_string()),
        ];
        env.extend(self.redis.map(|port| ("SWEEP_REDIS", port.to_string())));
        env
    }

    pub(crate) fn of_this_process() -> Option<Self> {
        let number = |name| std::env::var(name).ok()?.parse().ok();
        Some(Self {
            database: std::env::var("SWEEP_DATABASE").ok()?,
            redis: number("SWEEP_REDIS"),
            life: number("SWEEP_LIFE")?.into(),
        })
    }

    pub(crate) async fn broker(&self) -> Broker {
        // Writes of a process survive its death without waiting for the disk.
        let options = Options::default().durable(false);
        let db = Db::open_with(&self.database, options).await.unwrap();
        let broker = Broker::builder(db).lease(LEASE);
        let Some(port) = self.redis else {
            return broker.sql();
        };
        let config = RedisConfig::host("127.0.0.1", port);
        broker.redis(config.reconcile_after(secs(2))).unwrap()
    }
}

/// The whole life of a process.
pub(crate) async fn play(place: Place) {
    let broker = place.broker().await;
    let stop = CancellationToken::new();
    let worker = Worker::new(broker.clone(), registry()).state(broker.db().clone());
    let work = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
    for mood in [1, RETRIED, HOPELESS] {
        send(&broker, place.life * 100 + mood).await;
    }
    for n in ORDERS {
        order(broker.db(), n).await;
    }
    finish(&broker).await;
    stop.cancel();
    work.await.unwrap().unwrap();
}

/// The business row and its event, together or not at all.
async fn order(db: &Db, n: u32) {
    let mut tx = db.begin().await.unwrap();
    let row = sqlx::query("INSERT INTO orders (n) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(n)
        .execute(&mut *tx)
        .await
        .unwrap();
    if row.rows_affected() == 0 {
        return;
    }
    match n {
        DELAYED => {
            tx.publish(Ordered { n }.after(Duration::from_millis(300)))
                .await
        }
        _ => tx.publish(Ordered { n }).await,
    }
    .unwrap();
    tx.commit().await.unwrap();
}

/// On the bus: it is known to be published only when the call returns.
pub(crate) async fn send(broker: &Broker, n: u32) {
    let note = async |sql: &'static str| {
        let mut tx = broker.db().begin().await.unwrap();
        sqlx::query(sql).bind(n).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    };
    note("INSERT INTO sent (n, known) VALUES ($1, 0)").await;
    match broker.bus().publish(Ordered { n }).await {
        // It was suspended while it waited for the reply: the outcome is unknown.
        Err(error) if error.is_unavailable() => return,
        published => published.unwrap(),
    };
    note("UPDATE sent SET known = 1 WHERE n = $1").await;
}

/// Until nothing waits or runs, now and a moment later; dead letters run again.
async fn finish(broker: &Broker) {
    let patience = Instant::now() + millis("SWEEP_PATIENCE").unwrap_or(PATIENCE);
    let mut quiet = 0;
    while quiet < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let status = broker.inspect().status().await.unwrap();
        if status.subscriptions.iter().any(|s| s.dead > 0) {
            let all = LetterFilter::default();
            broker.inspect().replay(&all, "sweep").await.unwrap();
        }
        let busy = |s: &termitary::inspect::SubscriptionStatus| s.pending + s.leased + s.dead > 0;
        let waits = status.subscriptions.iter().any(busy) || !housekeeping_done(broker).await;
        let waits = waits || about_to_tick();
        quiet = if waits { 0 } else { quiet + 1 };
        assert!(Instant::now() < patience, "left: {status:#?}");
    }
}

/// The schedule ticks every minute: an event that it publishes while the worker stops would be left
/// over.
fn about_to_tick() -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    !(2..57).contains(&(now.as_secs() % 60))
}

/// The tick was published, the old event deleted.
async fn housekeeping_done(broker: &Broker) -> bool {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM termitary_ticks)
            AND NOT EXISTS (SELECT 1 FROM termitary_events WHERE source = 'old')",
    )
    .fetch_one(&mut *broker.db().read().await.unwrap())
    .await
    .unwrap()
}
