//! Events on time: a rule that publishes, and a rule with its only handler.
//!
//! `cargo run -p termitary --example schedule`

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use termitary::prelude::*;
use tokio::sync::Semaphore;

/// Published by the schedule, for any number of subscriptions.
#[derive(Serialize, Deserialize)]
struct OverdueCheck {
    triggered_at: String,
}

impl Event for OverdueCheck {
    const NAME: &'static str = "todos.overdue.check";
}

/// Counts the runs.
type App = Arc<Semaphore>;

async fn remind(event: OverdueCheck, State(app): State<App>) -> HandlerResult {
    println!("reminding of what was overdue at {}", event.triggered_at);
    app.add_permits(1);
    Ok(())
}

async fn purge(tick: Tick, State(app): State<App>) -> HandlerResult {
    println!("purging, as due at {}", tick.at);
    app.add_permits(1);
    Ok(())
}

fn subscriptions() -> Registry<App> {
    // Five fields are minute, hour, day, month, day of week ("0 3 * * *": at
    // 03:00). With six the first is seconds, so that this example ends soon.
    Registry::new()
        .on(schedule("todos.overdue.check", "* * * * * *", |tick| {
            OverdueCheck {
                triggered_at: tick.at.to_string(),
            }
        }))
        .on(subscribe("todos.remind", remind))
        .on(cron("users.purge", "*/2 * * * * *", purge).timezone("Europe/Berlin"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let db = Db::open(&format!("sqlite://{}/schedule.db", folder.path().display())).await?;
    let broker = Broker::sql(db);

    // Start as many workers as you like: every tick is one event.
    let app: App = Arc::new(Semaphore::new(0));
    let enough = || async { drop(app.acquire_many(4).await) };
    let worker = || Worker::new(broker.clone(), subscriptions()).state(Arc::clone(&app));
    tokio::try_join!(worker().run(enough()), worker().run(enough()))?;

    for schedule in broker.inspect().status().await?.schedules {
        let next = schedule
            .next
            .map_or("never".to_owned(), |at| at.to_string());
        println!("{} ({}): next {next}", schedule.name, schedule.cron);
    }
    Ok(())
}
