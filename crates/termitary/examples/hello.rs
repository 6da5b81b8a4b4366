//! The smallest whole: one event, one handler, one worker.
//!
//! `cargo run -p termitary --example hello`

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use termitary::prelude::*;
use tokio::sync::Notify;

/// An event is a fact in the past tense; its serde form is its wire form.
#[derive(Serialize, Deserialize)]
struct UserRegistered {
    name: String,
}

impl Event for UserRegistered {
    const NAME: &'static str = "users.registered";
}

/// State shared by handlers: here, the signal that the example is over.
type App = Arc<Notify>;

/// A handler takes the event first, then its extractors.
async fn greet(event: UserRegistered, State(app): State<App>) -> HandlerResult {
    println!("hello, {}", event.name);
    app.notify_one();
    Ok(())
}

/// The subscriptions, as data. The name is durable: keep it when code moves.
fn subscriptions() -> Registry<App> {
    Registry::new().on(subscribe("users.greet", greet))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // One SQLite file is all there is to install; this one goes with the folder.
    let folder = tempfile::tempdir()?;
    let db = Db::open(&format!("sqlite://{}/hello.db", folder.path().display())).await?;
    let broker = Broker::sql(db);

    // From here on, events wait for this subscription, also while no worker runs.
    broker.register(&subscriptions()).await?;
    let name = "Ada".to_owned();
    let published = broker.bus().publish(UserRegistered { name }).await?;
    println!("published event {}", published.id);

    // Usually another process. It runs until this future resolves: a service
    // waits for its stop signal here.
    let app = App::default();
    let worker = Worker::new(broker.clone(), subscriptions()).state(Arc::clone(&app));
    worker.run(app.notified()).await?;

    let status = broker.inspect().status().await?;
    for subscription in status.subscriptions {
        println!("{}: {} done", subscription.name, subscription.done);
    }
    Ok(())
}
