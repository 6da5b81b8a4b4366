//! Wakes a waiting lane when its subscription has something due.
//!
//! Three things make work due: a publish of this process (a nudge), a commit
//! of any other process on the file (`PRAGMA data_version` moves), and time.
//! One watcher looks for all lanes, and only while somebody waits: often while
//! other processes commit, more rarely the longer nothing happens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::db::{Conn, Db};
use crate::error::Error;
use crate::ledger;
use crate::lock::Mutex;
use crate::outage::Outage;

/// Intervals at which another process's commit is noticed: shortly after the last one, and long
/// after it.
const OFTEN: Duration = Duration::from_millis(1);
const RARELY: Duration = Duration::from_millis(10);
/// The part of the time since then that may pass until the next look.
const PART: u32 = 50;
/// Pause after the database failed.
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Wake(Arc<Inner>);

struct Inner {
    db: Db,
    waiters: Mutex<Waiters>,
    outage: Outage,
}

#[derive(Default)]
struct Waiters {
    by_route: HashMap<i64, Waiter>,
    watched: bool,
    /// Somebody began to wait since the last look.
    fresh: bool,
}

#[derive(Default)]
struct Waiter {
    notify: Arc<Notify>,
    lanes: usize,
}

/// A lane that waits for work of its subscription, until dropped.
pub(super) struct Wait {
    inner: Arc<Inner>,
    route: i64,
    notify: Arc<Notify>,
}

impl Wake {
    pub(super) fn new(db: Db) -> Self {
        Self(Arc::new(Inner {
            db,
            waiters: Mutex::default(),
            outage: Outage::with_waits("looking for due deliveries", RETRY, RETRY),
        }))
    }

    /// Begins to wait for work of `route`.
    pub(super) fn listen(&self, route: i64) -> Wait {
        let mut waiters = self.0.waiters.lock();
        let waiter = waiters.by_route.entry(route).or_default();
        waiter.lanes += 1;
        let notify = Arc::clone(&waiter.notify);
        waiters.fresh = true;
        if !waiters.watched {
            waiters.watched = true;
            tokio::spawn(Arc::clone(&self.0).watch());
        }
        Wait {
            inner: Arc::clone(&self.0),
            route,
            notify,
        }
    }
}

impl Wait {
    /// Resolves when work may be due. A wake-up between [`Wake::listen`] and
    /// this call is kept.
    pub(super) async fn work_may_be_due(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiters = self.inner.waiters.lock();
        if let Some(waiter) = waiters.by_route.get_mut(&self.route) {
            waiter.lanes -= 1;
            if waiter.lanes == 0 {
                waiters.by_route.remove(&self.route);
            }
        }
    }
}

impl Inner {
    async fn watch(self: Arc<Self>) {
        while let Err(error) = self.watch_on_one_connection().await {
            tokio::time::sleep(self.outage.failed(&error)).await;
        }
    }

    /// `data_version` is only comparable on one connection.
    async fn watch_on_one_connection(&self) -> Result<(), Error> {
        let mut conn = self.db.read().await?;
        let mut seen = None;
        let mut seen_at = Instant::now();
        let mut next_due = i64::MIN;
        loop {
            let published = self.db.published().notified();
            let Some((routes, fresh)) = self.waiting() else {
                return Ok(());
            };
            let version = self.db.version(&mut conn).await?;
            let now = self.db.clock().now_us();
            if fresh || seen != Some(version) || now >= next_due {
                if seen.replace(version) != Some(version) {
                    seen_at = Instant::now();
                }
                next_due = self.wake_due(&mut conn, &routes, now).await?;
            }
            tokio::select! {
                () = published => {}
                () = tokio::time::sleep((seen_at.elapsed() / PART).clamp(OFTEN, RARELY)) => {}
            }
        }
    }

    /// The waiting lanes, and whether one began to wait since the last look. `None`: there are
    /// none, and the watch ends.
    fn waiting(&self) -> Option<(Vec<i64>, bool)> {
        let mut waiters = self.waiters.lock();
        if waiters.by_route.is_empty() {
            waiters.watched = false;
            return None;
        }
        let fresh = std::mem::take(&mut waiters.fresh);
        Some((waiters.by_route.keys().copied().collect(), fresh))
    }

    /// Wakes every lane with a due delivery; returns the time of the next look.
    async fn wake_due(&self, conn: &mut Conn, routes: &[i64], now: i64) -> Result<i64, Error> {
        let heads = ledger::heads(conn, routes).await?;
        let mut next_due = i64::MAX;
        let waiters = self.waiters.lock();
        for (route, due) in heads {
            if due > now {
                next_due = next_due.min(due);
            } else if let Some(waiter) = waiters.by_route.get(&route) {
                waiter.notify.notify_one();
            }
        }
        Ok(next_due)
    }
}
