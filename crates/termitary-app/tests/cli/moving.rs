//! `termitary move`: a program goes on with PostgreSQL where it stopped with SQLite.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use termitary::inspect::Status;
use termitary::prelude::*;
use termitary::testing::{PostgresDatabase, TestPostgres};

use crate::http::Client;
use crate::sandbox::{Sandbox, eventually};

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    order: i64,
    note: String,
}

impl Event for OrderPlaced {
    const NAME: &'static str = "orders.placed";
}

/// The orders whose invoices were sent.
type Sent = Arc<Mutex<Vec<i64>>>;

/// Order 3 fails for good, and order 4 waits for a day.
async fn invoice(event: OrderPlaced, State(sent): State<Sent>) -> HandlerResult {
    if event.order == 3 {
        return Err(HandlerError::permanent("order 3 is void"));
    }
    sent.lock().unwrap().push(event.order);
    Ok(())
}

fn registry() -> Registry<Sent> {
    Registry::new()
        .on(subscribe("billing.invoice", invoice))
        .on(schedule("billing.yearly", "0 3 1 1 *", |_: Tick| {
            OrderPlaced {
                order: 0,
                note: String::new(),
            }
        }))
}

async fn publish(db: &Db, orders: impl IntoIterator<Item = i64>) {
    let mut tx = db.begin().await.unwrap();
    for order in orders {
        let event = OrderPlaced {
            order,
            note: format!("näher\u{1F4A1}\n\"{order}\" \\u0041"),
        };
        if order == 4 {
            tx.publish(event.after(days(1)).id("four")).await.unwrap();
        } else {
            tx.publish(event).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
}

async fn status(broker: &Broker) -> Status {
    broker.inspect().status().await.unwrap()
}

/// Runs a worker until nothing is due; returns the orders that it handled.
async fn work(broker: &Broker) -> Vec<i64> {
    let sent = Sent::default();
    let handled = async {
        loop {
            let status = status(broker).await;
            let it = &status.subscriptions[0];
            if it.due + it.leased == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let worker = Worker::new(broker.clone(), registry()).state(Arc::clone(&sent));
    Box::pin(worker.run(handled)).await.unwrap();
    let sent = sent.lock().unwrap();
    sent.clone()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(work)
}

/// A file in which orders 1 to 4 are handled as far as they can be, and `more` wait.
fn program(more: std::ops::Range<i64>) -> Sandbox {
    let sandbox = Sandbox::new().with("DATABASE_URL", "sqlite://shop.db");
    block_on(async {
        let db = open(&sandbox).await;
        let broker = Broker::sql(db.clone());
        broker.register(&registry()).await.unwrap();
        publish(&db, 1..=4).await;
        assert_eq!(BTreeSet::from_iter(work(&broker).await), [1, 2].into());
        publish(&db, more).await;
        db.close().await;
    });
    sandbox
}

async fn open(sandbox: &Sandbox) -> Db {
    let url = format!("sqlite://{}", sandbox.path("shop.db").display());
    Db::open(&url).await.unwrap()
}

fn database() -> PostgresDatabase {
    TestPostgres::shared().create_database()
}

/// The program goes on there: nothing is lost, done twice, or numbered twice.
fn goes_on(url: &str, waiting: std::ops::Range<i64>) {
    block_on(async {
        let db = Db::open(url).await.unwrap();
        let broker = Broker::sql(db.clone());
        let moved = status(&broker).await;
        let it = &moved.subscriptions[0];
        assert_eq!((it.done, it.dead), (2, 1), "{moved:?}");
        assert_eq!(it.pending, waiting.clone().count() as u64 + 1);
        assert_eq!(moved.schedules[0].name, "billing.yearly");
        broker.register(&registry()).await.unwrap();
        publish(&db, [1_000_000]).await;
        let expected: BTreeSet<_> = waiting.chain([1_000_000]).collect();
        let sent = work(&broker).await;
        assert_eq!(sent.len(), expected.len());
        assert_eq!(BTreeSet::from_iter(sent), expected);
        // The idempotency id still holds.
        publish(&db, [4]).await;
        assert_eq!(status(&broker).await.subscriptions[0].pending, 1);
        let letters = broker.inspect().letters(&<_>::default(), 10).await.unwrap();
        assert!(letters[0].error.contains("order 3"), "{letters:?}");
        assert!(letters[0].event.data.get().contains("näher\u{1F4A1}"));
        db.close().await;
    });
}

#[test]
fn a_program_goes_on_with_postgresql_where_it_stopped() {
    let sandbox = program(10..20);
    let database = database();
    let args = ["move", "--to", database.url(), "--json"];
    let moved = sandbox.json(&args);
    assert_eq!(moved["tables"]["termitary_events"], 14);
    // Once more: nothing is copied, everything is compared.
    assert_eq!(sandbox.json(&args)["tables"], moved["tables"]);
    goes_on(database.url(), 10..20);
    let text = sandbox.fails(2, &args);
    assert!(text.contains("differs"), "{text}");
}

#[test]
fn a_move_that_is_killed_goes_on_where_it_stopped() {
    let sandbox = program(10..8_010);
    let database = database();
    let args = ["move", "--to", database.url()];
    for _ in 0..2 {
        let mut moving = sandbox.start(&args);
        moving.says("termitary_events: copied");
        moving.kill();
    }
    let output = sandbox.run(&args);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        crate::sandbox::stderr(&output)
    );
    assert!(said.contains("DATABASE_URL"), "{said}");
    goes_on(database.url(), 10..8_010);
}

#[test]
fn a_ledger_in_use_or_a_target_in_use_is_refused() {
    let sandbox = program(10..11);
    let (used, empty) = (database(), database());
    block_on(async {
        let db = Db::open(used.url()).await.unwrap();
        Broker::sql(db.clone()).register(&registry()).await.unwrap();
        db.close().await;
    });
    let text = sandbox.fails(2, &["move", "--to", used.url()]);
    assert!(text.contains("not empty"), "{text}");
    let text = sandbox.fails(2, &["move", "--to", "sqlite://other.db"]);
    assert!(text.contains("postgres://"), "{text}");
    let text = sandbox.fails(2, &["move", "--to", "postgres://ada:hunter2@h/d"]);
    assert!(
        text.contains("PGPASSWORD") && !text.contains("hunter2"),
        "{text}"
    );

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let file = sandbox.path("shop.db");
    let working = std::thread::spawn(move || {
        block_on(async {
            let db = Db::open(&format!("sqlite://{}", file.display()))
                .await
                .unwrap();
            let worker = Worker::new(Broker::sql(db), registry()).state(Sent::default());
            let stopped = async {
                let _ = stopped.await;
            };
            worker.run(stopped).await.unwrap();
        });
    });
    eventually("the worker is seen", || {
        let status = sandbox.json(&["status", "--json"]);
        !status["workers"].as_array().unwrap().is_empty()
    });
    let text = sandbox.fails(2, &["move", "--to", empty.url()]);
    assert!(text.contains("stop every process"), "{text}");
    stop.send(()).unwrap();
    working.join().unwrap();
    sandbox.ok(&["move", "--to", empty.url()]);
}

#[test]
fn the_application_goes_on_with_postgresql_with_its_users_sessions_and_todos() {
    let mut sandbox = Sandbox::new();
    let mut dev = sandbox.start(&["dev"]);
    let mut ada = Client::register(dev.port(), "ada@example.com");
    for n in 0..30 {
        let body = json!({ "title": format!("Todo {n}"), "priority": "high" });
        assert_eq!(ada.post("/api/v1/todos", &body).0, 201);
    }
    sandbox.settled();
    let before = [ada.get("/api/v1/todos"), ada.get("/api/v1/activity")];
    dev.stop();

    let database = database();
    let moved = sandbox.json(&["move", "--to", database.url(), "--json"]);
    assert_eq!(moved["tables"]["todos"], 30);
    assert_eq!(moved["tables"]["users"], 1);
    sandbox.set("DATABASE_URL", database.url());
    assert!(sandbox.ok(&["check"]).contains("handles all"));
    let mut dev = sandbox.start(&["dev"]);
    ada.port = dev.port();
    assert_eq!(
        before,
        [ada.get("/api/v1/todos"), ada.get("/api/v1/activity")]
    );
    assert_eq!(ada.post("/api/v1/todos", &json!({ "title": "New" })).0, 201);
    eventually("the feed goes on", || {
        ada.get("/api/v1/activity").1.to_string().contains("New")
    });
    dev.says("worker started");
    let output = sandbox.run(&["doctor", "--json"]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = findings.as_array().unwrap().iter().map(|it| &it["check"]);
    for check in [
        "database.autovacuum",
        "database.transactions",
        "application.schema",
    ] {
        assert!(
            checks.clone().any(|it| it == check),
            "{check}: {findings:#}"
        );
    }
    dev.stop();
}
