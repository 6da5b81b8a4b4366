//! Notifications of commits between the processes of one ledger.
//!
//! A NOTIFY inside a publishing transaction would take a lock of the whole database until
//! its commit is on the disk. So it is sent after the commit, on a connection of its own,
//! and once for all that committed meanwhile. It is only a hint: who waits also looks
//! now and then.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Notify;

use super::Engine;
use super::connect::listener;
use crate::engine::quoted;
use crate::error::Error;
use crate::outage::Outage;

/// The interval of looks while notifications are heard, and while they are not.
const SOMETIMES: Duration = Duration::from_millis(100);
const OFTEN: Duration = Duration::from_millis(20);
/// The waits between two tries to listen.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(10);
/// The interval at which the listener looks whether anybody is left.
const LOOK: Duration = Duration::from_secs(1);

/// The channel of one ledger.
pub(crate) struct News(Arc<Inner>);

struct Inner {
    channel: String,
    began: Instant,
    heard: AtomicI64,
    listens: AtomicBool,
    /// The listener was started.
    wanted: AtomicBool,
    /// A ring is on its way.
    ringing: AtomicBool,
    /// One more was asked for meanwhile.
    again: AtomicBool,
}

impl News {
    pub(super) fn of(schema: &str) -> Self {
        Self(Arc::new(Inner {
            channel: format!("{schema}.news"),
            began: Instant::now(),
            heard: AtomicI64::new(0),
            listens: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            ringing: AtomicBool::new(false),
            again: AtomicBool::new(false),
        }))
    }

    /// A number that changes with each notification and, in case one was lost, now and
    /// then. The first call begins to listen: from then on `published` is notified, too.
    pub(crate) fn version(&self, engine: &Engine, published: &Arc<Notify>) -> i64 {
        if !self.0.wanted.swap(true, Ordering::AcqRel) {
            let listener = Listener {
                news: Arc::downgrade(&self.0),
                published: Arc::downgrade(published),
                options: engine.options().clone(),
            };
            tokio::spawn(listener.run());
        }
        let every = if self.0.listens.load(Ordering::Acquire) {
            SOMETIMES
        } else {
            OFTEN
        };
        let looks = self.0.began.elapsed().as_millis() / every.as_millis();
        self.0
            .heard
            .load(Ordering::Acquire)
            .wrapping_add(looks as i64)
    }

    /// Tells the other processes that something was committed.
    pub(crate) fn ring(&self, engine: &Engine) {
        self.0.again.store(true, Ordering::Release);
        if !self.0.ringing.swap(true, Ordering::AcqRel) {
            tokio::spawn(Arc::clone(&self.0).ring_all(engine.broker_pool().clone()));
        }
    }
}

impl Inner {
    async fn ring_all(self: Arc<Self>, pool: PgPool) {
        let notify = format!("NOTIFY {}", quoted(&self.channel));
        while self.again.swap(false, Ordering::AcqRel) {
            let rung = sqlx::raw_sql(AssertSqlSafe(notify.clone())).execute(&pool);
            if let Err(error) = rung.await {
                tracing::debug!(%error, "a commit was not announced: others see it a little later");
            }
            if !self.again.load(Ordering::Acquire) {
                self.ringing.store(false, Ordering::Release);
                // One that came between the two is rung here, unless its caller does.
                if !self.again.load(Ordering::Acquire) || self.ringing.swap(true, Ordering::AcqRel)
                {
                    return;
                }
            }
        }
        self.ringing.store(false, Ordering::Release);
    }
}

/// Listens on a connection of its own while the ledger is open.
struct Listener {
    news: Weak<Inner>,
    published: Weak<Notify>,
    options: PgConnectOptions,
}

impl Listener {
    async fn run(self) {
        let outage = Outage::with_waits("listening to commits", FIRST_WAIT, LAST_WAIT);
        while let Err(error) = self.listen(&outage).await {
            tokio::time::sleep(outage.failed(&error)).await;
        }
    }

    /// Returns once nobody has the ledger any more.
    async fn listen(&self, outage: &Outage) -> Result<(), Error> {
        let Some(channel) = self.news.upgrade().map(|news| news.channel.clone()) else {
            return Ok(());
        };
        let mut listener = listener(&self.options, &channel).await?;
        let _listens = Listens::begin(&self.news);
        outage.over();
        loop {
            let heard = tokio::time::timeout(LOOK, listener.try_recv()).await;
            let Some((news, published)) = self.news.upgrade().zip(self.published.upgrade()) else {
                return Ok(());
            };
            if let Ok(heard) = heard {
                news.heard.fetch_add(1, Ordering::AcqRel);
                published.notify_waiters();
                if heard?.is_none() {
                    return Err(Error::unavailable("the connection that listens was lost"));
                }
            }
        }
    }
}

/// Notifications are heard until this is dropped.
struct Listens(Weak<Inner>);

impl Listens {
    fn begin(news: &Weak<Inner>) -> Self {
        if let Some(news) = news.upgrade() {
            news.listens.store(true, Ordering::Release);
        }
        Self(news.clone())
    }
}

impl Drop for Listens {
    fn drop(&mut self) {
        if let Some(news) = self.0.upgrade() {
            news.listens.store(false, Ordering::Release);
        }
    }
}
