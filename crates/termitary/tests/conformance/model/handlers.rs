//! The service under test: handlers that follow the event's script and record their runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use termitary::handler::LedgerTx;
use termitary::prelude::*;
use tokio::sync::Semaphore;

use super::delivery::{ATTEMPTS, RETRY, RETRY_AFTER, SNOOZE};
use super::reference::Key;
use super::script::{Act, Plans, SUBSCRIPTIONS};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Script {
    pub(crate) n: u32,
    pub(crate) plans: Plans,
}

/// The script, under one version of the event or another.
pub(crate) trait Scripted: Event {
    fn script(&self) -> &Script;
}

macro_rules! version {
    ($name:ident = $version:literal) => {
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $name(pub(crate) Script);

        impl Event for $name {
            const NAME: &'static str = "model.played";
            const VERSION: u32 = $version;
        }

        impl Scripted for $name {
            fn script(&self) -> &Script {
                &self.0
            }
        }
    };
}

version!(V1 = 1);
version!(V2 = 2);

/// The event that a handler publishes in its commit.
#[derive(Serialize, Deserialize)]
struct Echo {
    n: u32,
}

impl Event for Echo {
    const NAME: &'static str = "model.echoed";
}

/// The record of all runs.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    /// Number of runs of each delivery before this step: an accidental second run does the same as
    /// the first.
    before: BTreeMap<Key, usize>,
    /// The attempts of each run, first to last.
    runs: BTreeMap<Key, Vec<Vec<u32>>>,
    echoes: BTreeMap<u32, u32>,
    hanging: usize,
    stopping: usize,
}

impl Book {
    fn with<T>(&self, with: impl FnOnce(&mut Pages) -> T) -> T {
        with(&mut self.0.lock().unwrap())
    }

    /// Records a run; returns its action.
    fn begin(&self, script: &Script, sub: usize, attempt: u32) -> Act {
        self.with(|pages| {
            let key = (script.n, sub);
            let run = pages.before.get(&key).copied().unwrap_or(0);
            let runs = pages.runs.entry(key).or_default();
            runs.resize(runs.len().max(run + 1), Vec::new());
            runs[run].push(attempt);
            script.plans[sub].get(run).copied().unwrap_or(Act::Done)
        })
    }

    /// Begins a new step: runs from now on are each delivery's next run.
    pub(crate) fn turn(&self) {
        self.with(|pages| {
            pages.before = pages
                .runs
                .iter()
                .map(|(key, runs)| (*key, runs.len()))
                .collect();
        });
    }

    pub(crate) fn runs(&self) -> BTreeMap<Key, Vec<Vec<u32>>> {
        self.with(|pages| pages.runs.clone())
    }

    pub(crate) fn echoes(&self) -> BTreeMap<u32, u32> {
        self.with(|pages| pages.echoes.clone())
    }

    /// Number of hanging handlers.
    pub(crate) fn hanging(&self) -> usize {
        self.with(|pages| pages.hanging)
    }

    /// Number of handlers that know that their worker stops.
    pub(crate) fn stopping(&self) -> usize {
        self.with(|pages| pages.stopping)
    }
}

async fn steady<E: Scripted>(
    event: E,
    ledger: Ledger,
    Attempt(attempt): Attempt,
    State(book): State<Book>,
) -> HandlerResult {
    let script = event.script();
    let act = book.begin(script, 0, attempt);
    if !matches!(
        act,
        Act::Commit | Act::CommitThenFail | Act::RollBackThenFail | Act::LeaveOpen
    ) {
        return plain(act).await;
    }
    let tx = with_effects(&ledger, script.n).await?;
    match act {
        Act::Commit => tx.commit().await,
        Act::CommitThenFail => {
            tx.commit().await?;
            Err("too late to matter".into())
        }
        Act::RollBackThenFail => Err("after all, no".into()),
        _ => Ok(()),
    }
}

async fn hasty<E: Scripted>(
    event: E,
    Attempt(attempt): Attempt,
    State(book): State<Book>,
) -> HandlerResult {
    plain(book.begin(event.script(), 1, attempt)).await
}

async fn plain(act: Act) -> HandlerResult {
    match act {
        Act::Fail => Err("not now".into()),
        Act::GiveUp => Err(HandlerError::permanent("never")),
        Act::Snooze => Err(HandlerError::snooze(seconds(SNOOZE))),
        Act::RetryAfter => Err(HandlerError::retry_after(seconds(RETRY_AFTER), "later")),
        // Without the hook that prints a backtrace.
        Act::Panic => std::panic::resume_unwind(Box::new("on purpose")),
        Act::Stall => std::future::pending().await,
        _ => Ok(()),
    }
}

/// The state of a process that comes to the end of nothing, unless let.
#[derive(Clone)]
pub(crate) struct Stuck {
    book: Book,
    gate: Arc<Semaphore>,
}

impl Stuck {
    pub(crate) fn new(book: &Book) -> Self {
        book.with(|pages| (pages.hanging, pages.stopping) = (0, 0));
        Self {
            book: book.clone(),
            gate: Arc::new(Semaphore::new(0)),
        }
    }

    /// Lets hanging handlers continue, as if they had only been slow.
    pub(crate) fn let_go(&self) {
        self.gate.close();
    }
}

async fn hang<E: Scripted, const SUB: usize>(
    event: E,
    ledger: Ledger,
    shutdown: Shutdown,
    Attempt(attempt): Attempt,
    State(stuck): State<Stuck>,
) -> HandlerResult {
    let script = event.script();
    stuck.book.begin(script, SUB, attempt);
    stuck.book.with(|pages| pages.hanging += 1);
    shutdown.requested().await;
    stuck.book.with(|pages| pages.stopping += 1);
    let _ = stuck.gate.acquire().await;
    if SUB == 0 {
        return with_effects(&ledger, script.n).await?.commit().await;
    }
    Ok(())
}

async fn with_effects(ledger: &Ledger, n: u32) -> Result<LedgerTx, HandlerError> {
    let mut tx = ledger.begin().await?;
    sqlx::query("INSERT INTO effects (n) VALUES ($1)")
        .bind(n)
        .execute(&mut *tx)
        .await?;
    tx.publish(Echo { n }).await?;
    Ok(tx)
}

async fn echo(event: Echo, State(book): State<Book>) -> HandlerResult {
    book.with(|pages| *pages.echoes.entry(event.n).or_default() += 1);
    Ok(())
}

/// The registry of a worker.
pub(crate) fn registry(upgraded: bool) -> Registry<Book> {
    if upgraded {
        working::<V2>()
    } else {
        working::<V1>()
    }
}

/// The same subscriptions, in a process that never comes to the end of
/// anything.
pub(crate) fn hanging(upgraded: bool) -> Registry<Stuck> {
    if upgraded {
        stuck::<V2>()
    } else {
        stuck::<V1>()
    }
}

fn working<E: Scripted>() -> Registry<Book> {
    let retry = Retry::exponential(seconds(RETRY), seconds(RETRY)).attempts(ATTEMPTS);
    Registry::new()
        .on(subscribe(SUBSCRIPTIONS[0], steady::<E>).retry(retry))
        .on(subscribe(SUBSCRIPTIONS[1], hasty::<E>)
            .retry(retry)
            .timeout(Duration::from_millis(100)))
        .on(subscribe("echo", echo))
}

fn stuck<E: Scripted>() -> Registry<Stuck> {
    Registry::new()
        .on(subscribe(SUBSCRIPTIONS[0], hang::<E, 0>).concurrency(64))
        .on(subscribe(SUBSCRIPTIONS[1], hang::<E, 1>).concurrency(64))
}

pub(crate) fn seconds(n: i64) -> Duration {
    Duration::from_secs(n.unsigned_abs())
}
