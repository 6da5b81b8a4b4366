//! The command steers any program on the library, with none of its code.

use serde::{Deserialize, Serialize};
use termitary::prelude::*;

use crate::sandbox::Sandbox;

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    order: i64,
}

impl Event for OrderPlaced {
    const NAME: &'static str = "orders.placed";
}

#[derive(Serialize, Deserialize)]
struct MonthEnded {}

impl Event for MonthEnded {
    const NAME: &'static str = "billing.month-ended";
}

async fn invoice(event: OrderPlaced) -> HandlerResult {
    Err(HandlerError::permanent(format!(
        "order {} is void",
        event.order
    )))
}

fn registry() -> Registry<()> {
    Registry::new()
        .on(subscribe("billing.invoice", invoice))
        .on(schedule("billing.monthly", "0 3 1 * *", |_: Tick| {
            MonthEnded {}
        }))
}

/// A user's own program: one event, whose handler fails permanently.
fn run_program(sandbox: &Sandbox, events: i64) {
    let url = format!("sqlite://{}", sandbox.path("shop.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let db = Db::open(&url).await.unwrap();
        let broker = Broker::sql(db.clone());
        broker.register(&registry()).await.unwrap();
        for order in 0..events {
            let mut tx = db.begin().await.unwrap();
            tx.publish(OrderPlaced { order }).await.unwrap();
            tx.commit().await.unwrap();
        }
        let inspect = broker.inspect();
        let handled = async {
            while inspect.status().await.unwrap().subscriptions[0].pending > 0
                || inspect.status().await.unwrap().subscriptions[0].leased > 0
            {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let worker = Worker::new(broker.clone(), registry());
        worker.run(handled).await.unwrap();
        db.close().await;
    });
}

#[test]
fn a_program_of_ones_own_is_seen_and_steered_with_the_command() {
    let sandbox = Sandbox::new().with("DATABASE_URL", "sqlite://shop.db");
    run_program(&sandbox, 2);
    let status = sandbox.json(&["status", "--json"]);
    let subscriptions = status["subscriptions"].as_array().unwrap();
    assert_eq!(subscriptions.len(), 1, "{status}");
    assert_eq!(subscriptions[0]["dead"], 2);
    assert_eq!(status["schedules"][0]["name"], "billing.monthly");
    let letters = sandbox.json(&["dead", "list", "--json"]);
    assert_eq!(letters.as_array().unwrap().len(), 2, "{letters}");
    sandbox.ok(&[
        "dead",
        "replay",
        "--subscription",
        "billing.invoice",
        "--yes",
    ]);
    assert_eq!(sandbox.count("billing.invoice", "pending"), 2);
    sandbox.ok(&["schedule", "pause", "billing.monthly"]);
    assert_eq!(
        sandbox.json(&["schedule", "list", "--json"])[0]["paused"],
        true
    );
    sandbox.ok(&["schedule", "resume", "billing.monthly"]);
    let payload = r#"{"order": 7}"#;
    sandbox.ok(&["publish", "orders.placed", payload, "--allow-unknown"]);
    assert_eq!(sandbox.count("billing.invoice", "pending"), 3);
    let text = sandbox.fails(2, &["schedule", "run", "billing.monthly"]);
    assert!(text.contains("billing.monthly"), "{text}");
    sandbox.ok(&["subscription", "drop", "billing.invoice", "--yes"]);
    let status = sandbox.json(&["status", "--json"]);
    assert_eq!(status["subscriptions"].as_array().unwrap().len(), 0);
    // Nothing of the application came into the program's database.
    let url = format!("sqlite://{}", sandbox.path("shop.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tables: Vec<String> = runtime.block_on(async {
        let db = Db::open(&url).await.unwrap();
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'termitary%' AND name NOT LIKE 'sqlite%'")
            .fetch_all(&mut *db.read().await.unwrap())
            .await
            .unwrap()
    });
    assert_eq!(tables, Vec::<String>::new());
}
