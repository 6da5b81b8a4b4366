//! Handlers that keep the turn to write for too long: nobody is taken for dead,
//! and everybody is told who it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use termitary::handler::HandlerError;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestWorker};
use termitary::{Broker, Clock};

use crate::processes::PATIENCE;
use crate::suspects::Fed;

const LEASE: Duration = Duration::from_millis(1200);
/// Every commit of a test's own handler writes here.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS effects (n INTEGER)";

#[derive(Clone)]
struct World {
    broker: Broker,
    runs: Arc<AtomicU32>,
    /// The handler blocks its thread now.
    blocks: Arc<AtomicBool>,
}

impl FromRef<World> for Broker {
    fn from_ref(world: &World) -> Self {
        world.broker.clone()
    }
}

impl World {
    fn is_first_run(&self) -> bool {
        self.runs.fetch_add(1, Ordering::SeqCst) == 0
    }
}

async fn effect(tx: &mut termitary::Tx, n: u32) -> Result<(), HandlerError> {
    sqlx::query("INSERT INTO effects VALUES ($1)")
        .bind(n)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Works in `tx` for longer than a lease lasts, without a pause.
async fn work_for_long(tx: &mut termitary::Tx) -> Result<(), HandlerError> {
    let began = Instant::now();
    while began.elapsed() < LEASE * 3 {
        effect(tx, 1).await?;
        tokio::time::sleep(LEASE / 20).await;
    }
    Ok(())
}

async fn any_transaction(_: Fed, State(world): State<World>) -> HandlerResult {
    let mut tx = world.broker.db().begin().await?;
    if world.is_first_run() {
        work_for_long(&mut tx).await?;
    }
    Ok(tx.commit().await?)
}

async fn its_own(_: Fed, ledger: Ledger, State(world): State<World>) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    if world.is_first_run() {
        work_for_long(&mut tx).await?;
    }
    tx.commit().await
}

async fn stands_still(_: Fed, ledger: Ledger, State(world): State<World>) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    effect(&mut tx, 1).await?;
    if world.is_first_run() {
        std::future::pending::<()>().await;
    }
    tx.commit().await
}

async fn blocks(_: Fed, ledger: Ledger, State(world): State<World>) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    effect(&mut tx, 1).await?;
    if world.is_first_run() {
        world.blocks.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(20));
        world.blocks.store(false, Ordering::SeqCst);
    }
    tx.commit().await
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The row of the only delivery.
struct Row {
    crashes: i64,
    attempts: i64,
    error: Option<String>,
    effects: i64,
    runs: u32,
}

/// One worker runs the only delivery to its end; another process looks after the
/// file meanwhile.
async fn run(registry: Registry<World>, lease: Duration) -> Row {
    run_beside(registry, lease, async |_, _, _| ()).await
}

/// [`run`], with something done meanwhile in the process of the worker and in the
/// other one.
async fn run_beside(
    registry: Registry<World>,
    lease: Duration,
    meanwhile: impl AsyncFnOnce(&World, &Db, &Db),
) -> Row {
    let db = TestDb::open_with(Clock::system()).await;
    let mut tx = db.db().begin().await.unwrap();
    sqlx::query(TABLE).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let url = format!("sqlite://{}", db.db().place());
    let neighbour = Db::open(&url).await.unwrap();
    let other = Broker::builder(neighbour.clone()).lease(lease).sql();
    let broker = Broker::builder(db.db().clone()).lease(lease).sql();
    let world = World {
        broker: broker.clone(),
        runs: Arc::default(),
        blocks: Arc::default(),
    };
    let mut looks = TestWorker::start(other, Registry::<()>::new(), ()).await;
    let mut works = TestWorker::start(broker.clone(), registry, world.clone()).await;
    broker.bus().publish(Fed { n: 1 }).await.unwrap();
    meanwhile(&world, db.db(), &neighbour).await;
    eventually("it is done", async || {
        works.status().await.subscriptions[0].done == 1
    })
    .await;
    let (crashes, attempts, error) =
        sqlx::query_as("SELECT crashes, attempts, error FROM termitary_deliveries")
            .fetch_one(&mut *db.db().read().await.unwrap())
            .await
            .unwrap();
    let effects = sqlx::query_scalar("SELECT COUNT(*) FROM effects")
        .fetch_one(&mut *db.db().read().await.unwrap())
        .await
        .unwrap();
    works.stop().await;
    looks.stop().await;
    Row {
        crashes,
        attempts,
        error,
        effects,
        runs: world.runs.load(Ordering::SeqCst),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_outlasts_every_lease_is_no_sign_of_a_dead_process() {
    let registry = Registry::new().on(subscribe("held.fed", any_transaction));
    let row = run(registry, LEASE).await;
    assert_eq!((row.crashes, row.attempts, row.runs), (0, 0, 1));
    assert!(row.effects > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_transaction_that_outlasts_the_lease_is_rolled_back_with_an_error_that_says_so() {
    let registry = Registry::new().on(subscribe("held.fed", its_own));
    let row = run(registry, LEASE).await;
    assert_eq!((row.crashes, row.attempts, row.runs), (0, 1, 2));
    let error = row.error.unwrap();
    assert!(error.contains("a lease lasts 1.2 s"), "{error}");
    assert_eq!(row.effects, 0, "rolled back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_transaction_stands_still_ends_and_makes_room() {
    let registry = Registry::new().on(subscribe("held.fed", stands_still));
    let row = run(registry, secs(30)).await;
    assert_eq!((row.crashes, row.attempts, row.runs), (0, 1, 2));
    let error = row.error.unwrap();
    for part in [
        "tests/crash/held.rs:",
        "by the handler of `held.fed`",
        "ran no statement for",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(row.effects, 1);
}

/// A transaction that waits for its turn for as long as it may, about five seconds.
async fn write(db: &Db) {
    let mut tx = db.begin().await.unwrap();
    effect(&mut tx, 100).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_attempt_that_blocks_its_thread_in_a_transaction_makes_room_at_once_and_is_told_so() {
    let registry = Registry::new().on(subscribe("held.fed", blocks));
    let row = run_beside(registry, secs(30), async |world, here, there| {
        eventually("it blocks", async || world.blocks.load(Ordering::SeqCst)).await;
        tokio::join!(write(here), write(there));
        assert!(world.blocks.load(Ordering::SeqCst), "it blocks still");
    })
    .await;
    assert_eq!((row.crashes, row.attempts, row.runs), (0, 1, 2));
    let error = row.error.unwrap();
    assert!(error.contains("never block the thread"), "{error}");
    assert_eq!(row.effects, 3, "its own once, and those of the others");
}
