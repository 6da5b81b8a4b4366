//! Operators' commands to Redis: they get the error, and a retry is enough.

use termitary::Clock;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis};

use crate::proxy::{Fault, Proxy};
use crate::table::{CUTS, ERRORS};
use crate::world::{MAIN, Made, broker, config};

async fn ignore(_: Made) -> HandlerResult {
    Ok(())
}

struct Office {
    server: TestRedis,
    proxy: Proxy,
    broker: Broker,
    _db: TestDb,
}

impl Office {
    async fn open() -> Self {
        let (server, db) = (TestRedis::start(), TestDb::open_with(Clock::system()).await);
        let proxy = Proxy::start(server.port());
        let broker = broker(db.db(), config(&proxy));
        Self {
            server,
            proxy,
            broker,
            _db: db,
        }
    }

    async fn redis(&self, command: &[&str]) -> String {
        let client = redis::Client::open(("127.0.0.1", self.server.port())).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = redis::Cmd::new();
        cmd.arg(command);
        let answer: redis::Value = cmd.query_async(&mut connection).await.unwrap();
        format!("{answer:?}")
    }

    async fn is_registered(&self, name: &str) -> bool {
        let status = self.broker.inspect().status().await.unwrap();
        status.subscriptions.iter().any(|s| s.name == name)
    }
}

fn faults() -> impl Iterator<Item = Fault> {
    ERRORS.map(Fault::Answer).into_iter().chain(CUTS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_redis_could_not_forget_is_dropped_at_the_next_try() {
    let office = Office::open().await;
    let both = || {
        Registry::<()>::new()
            .on(subscribe("stays", ignore))
            .on(subscribe("goes", ignore))
    };
    for command in ["DEL", "XGROUP"] {
        // Of a group that is not there nothing is left to end.
        let absent = Fault::Answer("NOGROUP No such key or consumer group");
        for fault in faults().filter(|fault| *fault != absent) {
            let what = format!("{command} {fault:?}");
            office.broker.register(&both()).await.unwrap();
            office.proxy.strike(command, fault);
            let dropped = office
                .broker
                .inspect()
                .drop_subscription("goes", "test")
                .await;
            office.proxy.heal();
            assert!(dropped.is_err(), "{what}");
            assert!(office.is_registered("goes").await, "{what}");
            let again = office
                .broker
                .inspect()
                .drop_subscription("goes", "test")
                .await;
            assert!(again.is_ok(), "{what}: {again:?}");
            assert!(!office.is_registered("goes").await, "{what}");
            let groups = office.redis(&["XINFO", "GROUPS", MAIN]).await;
            assert!(
                groups.contains("stays") && !groups.contains("goes"),
                "{what}: {groups}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_told_what_failed_and_then_misses_nothing() {
    let office = Office::open().await;
    let registry = Registry::<()>::new().on(subscribe("stays", ignore));
    office.broker.register(&registry).await.unwrap();
    let mut tail = office.broker.inspect().tail().await.unwrap();
    for (n, fault) in (0..).zip(faults()) {
        let made = office.broker.bus().publish(Made { n }).await.unwrap();
        office.proxy.strike("XREAD", fault);
        let failed = tail.next().await;
        office.proxy.heal();
        assert!(failed.is_err(), "{fault:?}");
        let next = loop {
            match tail.next().await {
                Ok(next) => break next,
                Err(error) => assert!(error.is_unavailable(), "{fault:?}: {error:?}"),
            }
        };
        assert_eq!(next.id, made.id, "{fault:?}");
    }
}
