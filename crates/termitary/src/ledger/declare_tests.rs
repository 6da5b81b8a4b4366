//! Registering: the rows that it records, and those that it leaves as they were.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde::{Deserialize, Serialize};

use super::declare::{RELEASE, RELEASES};
use crate::broker::Broker;
use crate::prelude::*;

#[derive(Serialize, Deserialize)]
struct Made {}

impl Event for Made {
    const NAME: &'static str = "things.made";
}

/// The same, as younger code has it.
#[derive(Serialize, Deserialize)]
struct Newer {}

impl Event for Newer {
    const NAME: &'static str = "things.made";
    const VERSION: u32 = 2;
    const ALIASES: &'static [&'static str] = &["things.old", "things.older"];
}

async fn made(_: Made) -> HandlerResult {
    Ok(())
}

async fn newer(_: Newer) -> HandlerResult {
    Ok(())
}

struct World {
    broker: Broker,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("a.db").display());
        Self {
            broker: Broker::sql(Db::open(&url).await.unwrap()),
            _folder: folder,
        }
    }

    async fn register(&self, registry: Registry<()>) {
        self.broker.register(&registry).await.unwrap();
    }

    async fn copy_retained(&self) {
        let step = || super::backfill::step(self.broker.db());
        while step().await.unwrap().is_some() {}
    }

    async fn publish(&self, name: &str, version: u32) {
        let mut tx = self.broker.db().begin().await.unwrap();
        tx.publish_json(name, "{}").await.unwrap();
        tx.commit().await.unwrap();
        let last = "UPDATE termitary_events SET version = ? WHERE seq = (SELECT max(seq) FROM termitary_events)";
        self.write(sqlx::query(last).bind(version)).await;
    }

    async fn write(
        &self,
        query: sqlx::query::Query<'_, crate::db::Sql, crate::db::sql::SqlArguments>,
    ) {
        let mut tx = self.broker.db().begin().await.unwrap();
        query.execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Each subscription with how many of its deliveries are in `state`.
    async fn deliveries(&self, state: i64) -> Vec<(String, i64)> {
        sqlx::query_as(
            "SELECT s.name, COUNT(*) FROM termitary_deliveries d
             JOIN termitary_subscriptions s ON s.id = d.subscription
             WHERE d.state = ? GROUP BY s.name ORDER BY s.name",
        )
        .bind(state)
        .fetch_all(&mut *self.broker.db().read().await.unwrap())
        .await
        .unwrap()
    }

    async fn plan(&self, sql: &str) -> Vec<String> {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain)
            .fetch_all(&mut *self.broker.db().read().await.unwrap())
            .await
            .unwrap();
        steps.into_iter().map(|step| step.3).collect()
    }
}

#[tokio::test]
async fn routes_come_in_the_order_of_the_registry_and_say_who_was_known() {
    let world = World::new().await;
    world
        .register(Registry::new().on(subscribe("b", made)))
        .await;
    let registry = Registry::<()>::new()
        .on(subscribe("c", newer))
        .on(subscribe("b", newer))
        .on(subscribe("a", newer));
    let routes = world.broker.declare(&registry).await.unwrap();
    let said: Vec<_> = routes.iter().map(|r| (&*r.name, r.known)).collect();
    assert_eq!(said, [("c", false), ("b", true), ("a", false)]);
    for route in &routes {
        assert_eq!(route.events, ["things.made", "things.old", "things.older"]);
        let name: String =
            sqlx::query_scalar("SELECT name FROM termitary_subscriptions WHERE id = ?")
                .bind(route.id)
                .fetch_one(&mut *world.broker.db().read().await.unwrap())
                .await
                .unwrap();
        assert_eq!(name, route.name);
    }
    let again = world.broker.declare(&registry).await.unwrap();
    assert!(again.iter().all(|route| route.known));
    let ids = |routes: &[crate::delivery::Route]| routes.iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&routes));
    assert!(
        world
            .broker
            .declare(&Registry::<()>::new())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn who_asks_for_what_is_retained_gets_it_the_first_time_only() {
    let world = World::new().await;
    for name in ["things.made", "things.older", "others.made"] {
        world.publish(name, 1).await;
    }
    let registry = || {
        Registry::new()
            .on(subscribe("late", newer).from_retained())
            .on(subscribe("new", newer))
    };
    world.register(registry()).await;
    world.copy_retained().await;
    assert_eq!(world.deliveries(0).await, [("late".to_owned(), 2)]);
    world
        .write(sqlx::query("DELETE FROM termitary_deliveries"))
        .await;
    world.register(registry()).await;
    world.copy_retained().await;
    assert_eq!(world.deliveries(0).await, []);
}

#[tokio::test]
async fn an_older_worker_takes_nothing_away() {
    let world = World::new().await;
    world
        .register(Registry::new().on(subscribe("a", newer)))
        .await;
    let row = async || -> (i64, i64) {
        sqlx::query_as("SELECT version, since_us FROM termitary_subscriptions WHERE name = 'a'")
            .fetch_one(&mut *world.broker.db().read().await.unwrap())
            .await
            .unwrap()
    };
    let before = row().await;
    world
        .register(Registry::new().on(subscribe("a", made)))
        .await;
    assert_eq!(row().await, before);
    world.publish("things.old", 1).await;
    assert_eq!(world.deliveries(0).await, [("a".to_owned(), 1)]);
}

#[tokio::test]
async fn only_what_was_parked_for_its_version_and_can_be_read_now_is_released() {
    let world = World::new().await;
    let registry = || {
        Registry::new()
            .on(subscribe("reads-1", made))
            .on(subscribe("reads-2", newer))
    };
    world
        .register(registry().on(subscribe("elsewhere", newer)))
        .await;
    for version in [2, 3] {
        world.publish("things.made", version).await;
    }
    let park = "UPDATE termitary_deliveries SET state = 4, reason = 'version'";
    world.write(sqlx::query(park)).await;
    world.publish("things.made", 2).await;
    let park = "UPDATE termitary_deliveries SET state = 4, reason = 'decode' WHERE state = 0";
    world.write(sqlx::query(park)).await;
    world.register(registry()).await;
    assert_eq!(world.deliveries(0).await, [("reads-2".to_owned(), 1)]);
}

#[tokio::test]
async fn a_worker_that_starts_walks_through_neither_events_nor_deliveries() {
    let world = World::new().await;
    world
        .register(Registry::new().on(subscribe("a", made)))
        .await;
    world.publish("things.made", 1).await;
    // Statistics of a table with one row make a walk through it look cheap.
    for statement in ["", "ANALYZE"] {
        world.write(sqlx::query(statement)).await;
        for sql in [RELEASE, RELEASES] {
            let plan = world.plan(sql.sqlite).await;
            let index = "termitary_deliveries_letters (state=? AND subscription=?)";
            assert!(plan.iter().any(|step| step.contains(index)), "{plan:?}");
            let walks = ["SCAN d", "SCAN e", "SCAN termitary"];
            let walks = |step: &String| walks.iter().any(|walk| step.starts_with(walk));
            assert!(!plan.iter().any(walks), "{plan:?}");
        }
    }
}
