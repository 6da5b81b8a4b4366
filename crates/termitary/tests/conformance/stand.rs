//! The brokers under test: each one an address, at which as many processes'
//! worth of workers and publishers take part as a test wants.

use std::time::Duration;

use termitary::broker::RedisConfig;
use termitary::db::Options;
use termitary::prelude::*;
use termitary::testing::{TestDb, TestRedis};
use termitary::{Broker, Clock};

use crate::eventually;

/// Long enough that a busy machine renews in time. No test waits for its end:
/// see [`Stand::lapse`].
const LEASE: Duration = Duration::from_millis(1500);
/// The time for which the ledger trusts Redis, by the manual clock. As by default, it is longer
/// than a lease: the loss of a worker is noticed as that, not as one of Redis.
const TRUST: Duration = minutes(1);

/// One fresh system on a manual clock. A new broker is one more `async fn`
/// here, and one line in `main`.
pub(crate) struct Stand {
    db: TestDb,
    redis: Option<TestRedis>,
}

impl Stand {
    pub(crate) async fn sqlite() -> Self {
        Self {
            db: TestDb::open().await,
            redis: None,
        }
    }

    pub(crate) async fn redis() -> Self {
        Self {
            db: TestDb::open().await,
            redis: Some(TestRedis::start()),
        }
    }

    pub(crate) async fn postgres() -> Self {
        Self {
            db: TestDb::postgres().await,
            redis: None,
        }
    }

    pub(crate) async fn postgres_and_redis() -> Self {
        Self {
            db: TestDb::postgres().await,
            redis: Some(TestRedis::start()),
        }
    }

    /// A broker with connections of its own, as another process would have.
    pub(crate) fn broker(&self) -> Broker {
        self.address().broker(self.db().clone())
    }

    pub(crate) fn url(&self) -> String {
        self.db.url()
    }

    pub(crate) fn db(&self) -> &Db {
        self.db.db()
    }

    pub(crate) fn clock(&self) -> &Clock {
        self.db.clock()
    }

    /// The address for another process.
    pub(crate) fn address(&self) -> Address {
        Address {
            url: self.db.url(),
            clock: self.clock().clone(),
            redis: self.redis.as_ref().map(TestRedis::config),
        }
    }

    /// Enough time passes for every wait of the ledger to end.
    pub(crate) fn outwait(&self) {
        self.clock().advance(TRUST * 2);
    }

    /// Publishes in a transaction of its own.
    pub(crate) async fn commit<E: Event>(
        &self,
        event: impl Into<termitary::event::Outgoing<E>>,
    ) -> Published {
        let mut tx = self.db().begin().await.unwrap();
        let published = tx.publish(event.into()).await.unwrap();
        tx.commit().await.unwrap();
        published
    }

    /// So much time passes that every lease ends which nobody renews. Only
    /// while no worker lives: theirs would end as well.
    pub(crate) async fn lapse(&self) {
        self.clock().advance(LEASE + secs(1));
        if let Some(redis) = &self.redis {
            age(redis).await;
        }
    }
}

impl Stand {
    /// Redis loses everything; the next worker creates its groups again.
    pub(crate) async fn flush(&self) {
        if let Some(redis) = &self.redis {
            let mut conn = connect(redis).await;
            redis::cmd("FLUSHALL")
                .query_async::<()>(&mut conn)
                .await
                .unwrap();
        }
    }

    /// The one living worker loses the leases of all that it runs, so many
    /// deliveries, although it lives. Only while it leases nothing more.
    pub(crate) async fn usurp(&self, running: usize) {
        let Some(redis) = &self.redis else {
            // Another worker leases them, and is never heard of again.
            return self
                .write("UPDATE termitary_deliveries SET fence = fence + 1 WHERE state = 1")
                .await;
        };
        // Idle entries are taken over by the next worker to look, and handed out again.
        let goal = self.crashes().await + running as i64;
        eventually("they are taken over", async || {
            age(redis).await;
            self.crashes().await == goal
        })
        .await;
    }

    async fn crashes(&self) -> i64 {
        sqlx::query_scalar(
            "SELECT CAST(COALESCE(SUM(crashes), 0) AS BIGINT) FROM termitary_deliveries",
        )
        .fetch_one(&mut *self.db().read().await.unwrap())
        .await
        .unwrap()
    }

    /// Writes behind the engine's back.
    pub(crate) async fn write(&self, sql: &'static str) {
        let mut tx = self.db().begin().await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Returns whether the ledger has recorded everything that was handed to Redis: the relay
    /// records that after the hand-over. Suspects stay here.
    pub(crate) async fn is_quiet(&self) -> bool {
        let unnoted: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM termitary_deliveries
             WHERE state = 1 AND entry IS NULL AND crashes < 2",
        )
        .fetch_one(&mut *self.db().read().await.unwrap())
        .await
        .unwrap();
        self.redis.is_none() || unnoted == 0
    }
}

/// Everything that another process needs to take part.
#[derive(Clone)]
pub(crate) struct Address {
    url: String,
    clock: Clock,
    redis: Option<RedisConfig>,
}

impl Address {
    /// The same for a process with another clock.
    pub(crate) fn whose_clock_is(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens everything anew.
    pub(crate) async fn open(&self) -> Broker {
        let options = Options::default().clock(self.clock.clone());
        self.broker(Db::open_with(&self.url, options).await.unwrap())
    }

    fn broker(&self, db: Db) -> Broker {
        let broker = Broker::builder(db).lease(LEASE);
        match &self.redis {
            None => broker.sql(),
            Some(config) => broker.redis(config.clone().reconcile_after(TRUST)).unwrap(),
        }
    }
}

/// Redis measures idle time by a clock that no test can move: this makes pending entries a lease
/// and more old.
async fn age(redis: &TestRedis) {
    const AGE: &str = "
        for _, key in ipairs(redis.call('KEYS', 'termitary:*')) do
            if redis.call('TYPE', key).ok == 'stream' then
                for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
                    for _, held in ipairs(redis.call('XPENDING', key, group[2], '-', '+', 100000)) do
                        redis.call('XCLAIM', key, group[2], held[2], 0, held[1], 'IDLE', ARGV[1], 'JUSTID')
                    end
                end
            end
        end";
    let mut conn = connect(redis).await;
    let mut eval = redis::cmd("EVAL");
    eval.arg(AGE).arg(0).arg(LEASE.as_millis() as u64 * 2);
    eval.query_async::<()>(&mut conn).await.unwrap();
}

async fn connect(redis: &TestRedis) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(("127.0.0.1", redis.port())).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}
