//! A deploy: a worker stops while it is busy, the next one goes on. Nothing is
//! lost, and no attempt is counted.
//!
//! `cargo run -p termitary --example shutdown`

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use termitary::prelude::*;
use tokio::sync::{Notify, Semaphore};

#[derive(Serialize, Deserialize)]
struct VideoUploaded {
    name: String,
    frames: u32,
}

impl Event for VideoUploaded {
    const NAME: &'static str = "videos.uploaded";
}

struct App {
    started: Notify,
    finished: Semaphore,
}

async fn encode(
    video: VideoUploaded,
    shutdown: Shutdown,
    State(app): State<Arc<App>>,
) -> HandlerResult {
    println!("{}: encoding", video.name);
    app.started.notify_one();
    for frame in 0..video.frames {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Most handlers just finish within the grace. This one is too long for
        // that: it hands its delivery back instead of waiting to be dropped.
        if shutdown.is_requested() && video.frames - frame > 20 {
            println!("{}: handed back at frame {frame}", video.name);
            return Err(HandlerError::snooze(Duration::ZERO));
        }
    }
    println!("{}: done", video.name);
    app.finished.add_permits(1);
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let db = Db::open(&format!("sqlite://{}/shutdown.db", folder.path().display())).await?;
    let broker = Broker::sql(db);
    let subscriptions = || Registry::new().on(subscribe("videos.encode", encode).concurrency(2));
    broker.register(&subscriptions()).await?;
    let events = [("short", 10), ("long", 40), ("next", 5)].map(|(name, frames)| {
        let name = name.to_owned();
        VideoUploaded { name, frames }
    });
    broker.bus().publish_all(events).await?;

    let app = Arc::new(App {
        started: Notify::new(),
        finished: Semaphore::new(0),
    });
    let worker = || Worker::new(broker.clone(), subscriptions()).state(Arc::clone(&app));

    // In a service: `tokio::signal` for SIGTERM, and `.kill(…)` for a second one.
    worker().run(app.started.notified()).await?;
    println!("the first worker has stopped");
    let all = async { drop(app.finished.acquire_many(3).await) };
    worker().run(all).await?;
    println!("the second worker has finished the rest");
    Ok(())
}
