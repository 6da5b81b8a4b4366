//! The log while Redis cannot be used.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use termitary::Clock;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis, TestWorker};
use tokio::sync::oneshot;
use tracing_subscriber::fmt::MakeWriter;

use crate::world::{Made, Seen, World, eventually, pause, redis_command, registry};

#[tokio::test]
async fn every_error_says_that_the_password_is_wrong() {
    let world = World::new(&["first"]).await;
    world
        .redis(&["CONFIG", "SET", "requirepass", "right"])
        .await;
    let config = world.config().password("wrong");
    let broker = world.broker_with(config);
    for _ in 0..4 {
        let error = broker.ping().await.unwrap_err();
        assert!(error.is_invalid(), "{error:?}");
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let cause = cause.unwrap_or_default();
        assert!(cause.contains("WRONGPASS"), "{error:?}");
    }
}

#[tokio::test]
async fn an_outage_is_logged_once_however_often_somebody_asks() {
    let (log, _guard) = Log::catch();
    let (db, mut server) = (TestDb::open_with(Clock::system()).await, TestRedis::start());
    let broker = Broker::redis(db.db().clone(), server.config()).unwrap();
    broker.register(&registry(&["first"])).await.unwrap();
    let ask = async || broker.inspect().status().await.unwrap();
    for outage in 1..3 {
        ask().await;
        server.kill();
        for _ in 0..5 {
            ask().await;
        }
        assert_eq!(
            log.count("the counts are those of the database alone"),
            outage,
            "{}",
            log.text()
        );
        server.restart();
        eventually("Redis is back", async || broker.ping().await.is_ok()).await;
    }
}

#[tokio::test]
async fn a_worker_tells_an_outage_once_for_all_its_subscriptions() {
    let (log, _guard) = Log::catch();
    let (db, mut server) = (TestDb::open_with(Clock::system()).await, TestRedis::start());
    let broker = Broker::redis(db.db().clone(), server.config()).unwrap();
    let names = ["first", "second", "slow"];
    broker.register(&registry(&names)).await.unwrap();
    server.kill();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = Worker::new(broker.clone(), registry(&names)).state(Seen::default());
    let worker = tokio::spawn(worker.run(async { drop(stopped.await) }));
    let told = "cannot lease";
    eventually(told, async || log.count(told) > 0).await;
    drop(stop);
    worker.await.unwrap().unwrap();
    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains(told)).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(names.iter().all(|name| lines[0].contains(name)), "{text}");
    assert_eq!(log.count("Redis is unreachable"), 1, "{text}");
}

#[tokio::test]
async fn a_server_that_may_evict_is_warned_of_once() {
    let (log, _guard) = Log::catch();
    let world = World::new(&["first"]).await;
    let evict = ["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"];
    world.redis(&evict).await;
    let said = "set its maxmemory-policy to noeviction";
    assert_eq!(log.count(said), 0, "{}", log.text());
    let broker = world.broker_with(world.config());
    for _ in 0..3 {
        broker.ping().await.unwrap();
        let others = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
        world.redis(&others).await;
        eventually("it is back", async || broker.ping().await.is_ok()).await;
    }
    assert_eq!(log.count(said), 1, "{}", log.text());
    assert_eq!(log.count("allkeys-lru"), 1, "{}", log.text());
}

/// Twelve subscriptions to one event.
const MANY: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

fn many() -> Registry<Seen> {
    let handler = async |_: Made| -> HandlerResult { Ok(()) };
    let on = |registry: Registry<Seen>, name| registry.on(subscribe(name, handler));
    MANY.into_iter().fold(Registry::new(), on)
}

async fn done(broker: &Broker) -> Vec<u64> {
    let status = broker.inspect().status().await.unwrap();
    status.subscriptions.iter().map(|one| one.done).collect()
}

#[tokio::test]
async fn a_loss_is_logged_once_with_the_number_of_groups() {
    const LOST: &str = "Redis may have lost data";
    let (log, _guard) = Log::catch();
    let (db, mut server) = (TestDb::open_with(Clock::system()).await, TestRedis::start());
    let broker = Broker::builder(db.db().clone()).lease(Duration::from_millis(600));
    let broker = broker.redis(server.config()).unwrap();
    broker.register(&many()).await.unwrap();
    let mut worker = TestWorker::start(broker.clone(), many(), Seen::default()).await;
    worker.allow_leftovers();
    let handled = async |n| {
        let mut tx = db.db().begin().await.unwrap();
        tx.publish(Made { n }).await.unwrap();
        tx.commit().await.unwrap();
        let all = u64::from(n);
        eventually("it is handled", async || {
            done(&broker).await.iter().all(|done| *done == all)
        })
        .await;
    };
    handled(1).await;
    assert_eq!(log.count(LOST), 0, "{}", log.text());
    redis_command(&server, "FLUSHALL").await;
    handled(2).await;
    pause(1500).await;
    assert_eq!(log.count(LOST), 1, "{}", log.text());
    // One for the stream of the event, one for the subscription's own.
    assert_eq!(log.count("groups=24"), 1, "{}", log.text());
    server.kill();
    server.restart();
    handled(3).await;
    pause(1500).await;
    assert_eq!(log.count(LOST), 2, "{}", log.text());
    worker.stop().await;
}

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Catches the log of this thread, as long as the guard lives.
    pub(crate) fn catch() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false)
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.text().matches(what).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
