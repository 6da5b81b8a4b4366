//! Rows and events become real together, at both ends: an order and its event
//! in the publisher, an invoice and "done" in the handler.
//!
//! `cargo run -p termitary --example transaction`

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use termitary::prelude::*;
use tokio::sync::Notify;

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    order: String,
    cents: i64,
}

impl Event for OrderPlaced {
    const NAME: &'static str = "orders.placed";
}

type App = Arc<Notify>;

/// The row and the event commit together, or neither does.
async fn place(db: &Db, order: &str, cents: i64) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO orders (id, cents) VALUES ($1, $2)")
        .bind(order)
        .bind(cents)
        .execute(&mut *tx)
        .await?;
    let order = order.to_owned();
    tx.publish(OrderPlaced { order, cents }).await?;
    anyhow::ensure!(cents > 0, "nothing to pay"); // undoes row and event
    Ok(tx.commit().await?)
}

/// `Ledger` commits the invoice and "this delivery is done" together: run twice
/// after a crash, it still writes one invoice.
async fn invoice(event: OrderPlaced, ledger: Ledger, State(app): State<App>) -> HandlerResult {
    // Slow work (a call to a tax service) belongs here, before the transaction.
    let mut tx = ledger.begin().await?;
    sqlx::query("INSERT INTO invoices (id, cents) VALUES ($1, $2)")
        .bind(&event.order)
        .bind(event.cents)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    println!("invoiced order {}", event.order);
    app.notify_one();
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let db = Db::open(&format!("sqlite://{}/shop.db", folder.path().display())).await?;
    let mut tx = db.begin().await?;
    let tables =
        "CREATE TABLE orders (id TEXT, cents INT); CREATE TABLE invoices (id TEXT, cents INT)";
    sqlx::raw_sql(tables).execute(&mut *tx).await?;
    tx.commit().await?;
    let broker = Broker::sql(db.clone());
    let subscriptions = Registry::new().on(subscribe("orders.invoice", invoice));
    broker.register(&subscriptions).await?;

    if let Err(error) = place(&db, "free", 0).await {
        println!("order free: {error}: no row, no event");
    }
    place(&db, "book", 1_900).await?;

    let app = App::default();
    let worker = Worker::new(broker.clone(), subscriptions).state(Arc::clone(&app));
    worker.run(app.notified()).await?;
    let events = broker.inspect().status().await?.events;
    println!("events in all: {events}");
    Ok(())
}
