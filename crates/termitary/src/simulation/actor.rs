//! A future that a seed steps: polled so many times, left alone, or dropped.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::db::Db;

/// Time limit for a reply of the database or of Redis if nobody blocks it.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same while another actor may block it.
const BLOCKED: Duration = Duration::from_millis(3);

/// The role of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Worker,
    Publisher,
    Upkeep,
    Scheduler,
    Operator,
    Saboteur,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It ended.
    Over,
    /// It could go on.
    Ready,
    /// It waits for something that another actor holds.
    Blocked,
}

#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    notify: Notify,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        self.notify.notify_one();
    }
}

/// One process of the simulated system.
pub(super) struct Actor {
    pub(super) name: String,
    pub(super) role: Role,
    /// Not stepped before this step of the run.
    pub(super) asleep_until: u32,
    /// It holds no connection, and waits for none.
    pub(super) resting: bool,
    work: Pin<Box<dyn Future<Output = ()>>>,
    bell: Arc<Bell>,
}

impl Actor {
    pub(super) fn new(name: String, role: Role, work: impl Future<Output = ()> + 'static) -> Self {
        let bell = Arc::new(Bell::default());
        bell.rung.store(true, Ordering::SeqCst);
        Self {
            name,
            role,
            asleep_until: 0,
            resting: true,
            work: Box::pin(work),
            bell,
        }
    }

    /// Polls up to `polls` times, each time it can go on.
    pub(super) async fn step(&mut self, db: &Db, polls: u32) -> Step {
        let waker = Waker::from(Arc::clone(&self.bell));
        for _ in 0..polls {
            let patience = patience(db);
            if !self.rung(patience).await {
                return Step::Blocked;
            }
            self.bell.rung.store(false, Ordering::SeqCst);
            RESTING.set(false);
            if self.work.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
                return Step::Over;
            }
            self.resting = RESTING.get();
            if self.resting {
                return Step::Ready;
            }
        }
        Step::Ready
    }

    async fn rung(&self, patience: Duration) -> bool {
        let rung = async {
            while !self.bell.rung.load(Ordering::SeqCst) {
                self.bell.notify.notified().await;
            }
        };
        timeout(patience, rung).await.is_ok()
    }
}

/// An actor that waits although every connection is free waits only for a reply.
fn patience(db: &Db) -> Duration {
    if db.is_unused() { PATIENCE } else { BLOCKED }
}

thread_local! {
    /// The actor that is polled has nothing of the database in its hands.
    static RESTING: Cell<bool> = const { Cell::new(false) };
}

/// The end of a step: the actor continues later.
pub(super) async fn rest() {
    let mut first = true;
    std::future::poll_fn(|context| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            RESTING.set(true);
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}
