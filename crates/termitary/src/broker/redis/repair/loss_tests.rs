//! A delivery that Redis forgot and gave out again has a higher fence, so that its first
//! worker can no longer change anything.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::delivery::{Leased, Outcome, Route, Settlement, WorkerId};
use crate::event::Event;
use crate::handler::HandlerResult;
use crate::registry::Registry;
use crate::subscription::subscribe;
use crate::testing::{TestDb, TestRedis};

const MAIN: &str = "termitary:{doubt.made}:events";
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
struct Made {}

impl Event for Made {
    const NAME: &'static str = "doubt.made";
}

async fn made(_: Made) -> HandlerResult {
    Ok(())
}

struct Stand {
    server: TestRedis,
    db: TestDb,
    routes: Vec<Route>,
}

/// A process: its own connections, its own memory.
struct Process {
    broker: Broker,
    id: WorkerId,
}

impl Stand {
    async fn open() -> Self {
        let (server, db) = (TestRedis::persistent(), TestDb::open().await);
        let mut stand = Self {
            server,
            db,
            routes: Vec::new(),
        };
        let registry: Registry<()> = Registry::new().on(subscribe("doubt", made));
        let first = stand.process("first");
        stand.routes = first.broker.declare(&registry).await.unwrap();
        stand
    }

    fn process(&self, name: &str) -> Process {
        let broker = Broker::builder(self.db.db().clone()).lease(Duration::from_secs(2));
        Process {
            broker: broker.redis(self.server.config()).unwrap(),
            id: name.into(),
        }
    }

    /// One event on its stream; how much the server had written before anybody
    /// was given it.
    async fn hand_over(&self, relay: &Process) -> u64 {
        let mut tx = self.db.db().begin().await.unwrap();
        tx.publish(Made {}).await.unwrap();
        tx.commit().await.unwrap();
        let round = relay.broker.transport().upkeep(&relay.id, &self.routes);
        round.await.unwrap();
        self.server.written()
    }

    /// The delivery, whatever it takes to connect again.
    async fn lease(&self, to: &Process) -> Leased {
        let lease = async {
            loop {
                let transport = to.broker.transport();
                let wait = Duration::from_millis(100);
                let leased = transport.lease(&self.routes[0], &to.id, 5, wait).await;
                if let Some(one) = leased.ok().and_then(|mut leased| leased.pop()) {
                    return one;
                }
            }
        };
        tokio::time::timeout(PATIENCE, lease).await.unwrap()
    }

    async fn is_done(&self, by: &Process, leased: &Leased) -> bool {
        let settlement = Settlement {
            claim: leased.claim.clone(),
            outcome: Outcome::Done { committed: false },
        };
        let settled = by.broker.transport().settle(&[settlement]).await;
        settled.unwrap()[0]
    }

    async fn redis(&self, command: &[&str]) {
        let client = redis::Client::open(("127.0.0.1", self.server.port())).unwrap();
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connect = client.get_multiplexed_async_connection_with_config(&config);
        let mut conn = connect.await.unwrap();
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        let _: redis::Value = cmd.query_async(&mut conn).await.unwrap();
    }

    /// Another process is given what the first one still runs.
    async fn is_given_again(&self, first: &Process, had: &Leased) {
        let second = self.process("second");
        let again = self.lease(&second).await;
        assert_eq!(again.claim.event, had.claim.event);
        assert_eq!((had.claim.fence, again.claim.fence), (1, 2));
        assert!(!self.is_done(first, had).await);
        assert!(self.is_done(&second, &again).await);
    }
}

#[tokio::test]
async fn what_a_group_made_anew_gives_out_again_has_a_higher_fence() {
    let stand = Stand::open().await;
    let first = stand.process("a");
    stand.hand_over(&first).await;
    let had = stand.lease(&first).await;
    stand.redis(&["XGROUP", "DESTROY", MAIN, "doubt"]).await;
    stand.is_given_again(&first, &had).await;
}

#[tokio::test]
async fn what_a_server_that_lost_its_tail_gives_out_again_has_a_higher_fence() {
    let mut stand = Stand::open().await;
    let first = stand.process("a");
    let keep = stand.hand_over(&first).await;
    let had = stand.lease(&first).await;
    stand.server.lose_tail(keep);
    stand.is_given_again(&first, &had).await;
}

#[tokio::test]
async fn what_got_a_fence_of_its_own_and_was_not_admitted_is_read_again() {
    let stand = Stand::open().await;
    let first = stand.process("a");
    stand.hand_over(&first).await;
    // Nobody told the ledger that it arrived, and it is about to be sent again.
    let mut tx = stand.db.db().begin().await.unwrap();
    sqlx::query("UPDATE termitary_deliveries SET entry = NULL, lease_us = 1")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(stand.lease(&first).await.claim.fence, 2);
    // The same worker, and nothing of that in its memory.
    let again = stand.process("a");
    let leased = stand.lease(&again).await;
    assert_eq!(leased.claim.fence, 3);
    assert!(stand.is_done(&again, &leased).await);
}

#[tokio::test]
async fn a_crash_of_who_was_given_it_again_is_counted() {
    let stand = Stand::open().await;
    let first = stand.process("a");
    stand.hand_over(&first).await;
    stand.lease(&first).await;
    stand.redis(&["XGROUP", "DESTROY", MAIN, "doubt"]).await;
    let again = stand.lease(&stand.process("second")).await;
    let entry = again.claim.entry().unwrap();
    // Its lease is over, by the server's clock.
    let idle = ["IDLE", "600000", "JUSTID"];
    let claim = [
        &["XCLAIM", MAIN, "doubt", "second", "0", &*entry.id],
        &idle[..],
    ]
    .concat();
    stand.redis(&claim).await;
    let other = stand.process("other");
    let taken = async {
        loop {
            let round = other.broker.transport().upkeep(&other.id, &stand.routes);
            round.await.unwrap();
            let crashes: i64 = sqlx::query_scalar("SELECT crashes FROM termitary_deliveries")
                .fetch_one(&mut *stand.db.db().read().await.unwrap())
                .await
                .unwrap();
            if crashes > 0 {
                return crashes;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, taken).await.unwrap(), 1);
    let round = other.broker.transport().upkeep(&other.id, &stand.routes);
    round.await.unwrap();
    assert_eq!(stand.lease(&other).await.claim.fence, 3);
}
