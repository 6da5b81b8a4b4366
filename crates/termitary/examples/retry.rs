//! After an error: a retry, a dead letter, and a replay by hand.
//!
//! `cargo run -p termitary --example retry`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use termitary::inspect::LetterFilter;
use termitary::prelude::*;
use tokio::sync::Notify;

#[derive(Serialize, Deserialize)]
struct InvoiceDue {
    address: String,
}

impl Event for InvoiceDue {
    const NAME: &'static str = "invoices.due";
}

#[derive(Default)]
struct App {
    fixed: AtomicBool,
    sent: Notify,
}

async fn send(
    event: InvoiceDue,
    Attempt(attempt): Attempt,
    State(app): State<Arc<App>>,
) -> HandlerResult {
    if !event.address.contains('@') && !app.fixed.load(Ordering::Relaxed) {
        println!("{}: no address, given up", event.address);
        // Trying again cannot help: a dead letter at once, kept until somebody decides.
        return Err(HandlerError::permanent("not an address"));
    }
    if attempt < 3 {
        println!("{}: attempt {attempt} fails", event.address);
        // Any other error is tried again as the subscription's policy says.
        return Err("the mail server is busy".into());
    }
    println!("{}: attempt {attempt} succeeds", event.address);
    app.sent.notify_one();
    Ok(())
}

fn subscriptions() -> Registry<Arc<App>> {
    // The default is 25 attempts over about four days. This one has no time.
    let retry = Retry::exponential(Duration::from_millis(200), secs(1)).attempts(4);
    Registry::new().on(subscribe("invoices.send", send).retry(retry))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let db = Db::open(&format!("sqlite://{}/retry.db", folder.path().display())).await?;
    let broker = Broker::sql(db);
    broker.register(&subscriptions()).await?;
    let due = ["ada@example.com", "nobody"].map(|address| InvoiceDue {
        address: address.to_owned(),
    });
    broker.bus().publish_all(due).await?;

    let app = Arc::new(App::default());
    let work = || Worker::new(broker.clone(), subscriptions()).state(Arc::clone(&app));
    work().run(app.sent.notified()).await?;

    let inspect = broker.inspect();
    for letter in inspect.letters(&LetterFilter::default(), 10).await? {
        println!("dead letter: {} ({})", letter.error, letter.reason);
    }
    app.fixed.store(true, Ordering::Relaxed); // a new release, say; then an operator:
    let replayed = inspect
        .replay(&LetterFilter::default(), "an operator")
        .await?;
    println!("replayed: {replayed}");
    Ok(work().run(app.sent.notified()).await?)
}
