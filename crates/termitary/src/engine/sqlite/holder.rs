//! The holder of the turn to write: its name, since when, and whether it still does
//! anything. Every wait for a turn has a deadline, and its error names the holder. A
//! transaction that stands still is ended by the callers that wait for it, and by the
//! thread that renews leases, since other processes wait too.

use std::fmt::Write as _;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::task;

use super::turn::Turn;
use super::turn_cell::TurnCell;
use crate::error::{Error, Kind};
use crate::lock::Mutex;
use crate::trace;

/// The longest waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitLimits {
    /// For a turn: from the beginning of the wait until the caller may write. The time
    /// in the queue and the time for other processes' locks count together.
    pub(crate) turn: Duration,
    /// For a transaction that runs no statement.
    pub(crate) idle: Duration,
    /// The same if the waiting task itself has the transaction open: it cannot end.
    pub(crate) own: Duration,
}

impl WaitLimits {
    pub(crate) const DEFAULT: Self = Self {
        turn: Duration::from_secs(5),
        idle: Duration::from_secs(3),
        own: Duration::from_millis(250),
    };

    /// The pause between two looks at the holder.
    pub(super) fn look(self) -> Duration {
        self.own / 5
    }
}

/// A turn that was longer than this is followed by a pause, so that other processes get
/// one too: SQLite's lock does not queue.
const LONG: Duration = Duration::from_millis(250);
/// The longest pause: SQLite's own busy handler sleeps up to 100 ms.
const REST: Duration = Duration::from_millis(120);

/// A holder of the turn, or one that waits for it.
#[derive(Clone)]
pub(super) struct Caller {
    /// The place where the transaction was begun; `None` for the writing thread.
    begun: Option<&'static Location<'static>>,
    task: Option<task::Id>,
    scope: u64,
    owner: Option<Arc<dyn trace::Owner>>,
}

impl Caller {
    /// The running code, which begins a transaction at `place`.
    pub(super) fn begins(place: &'static Location<'static>) -> Self {
        let (scope, owner) = trace::place();
        Self {
            begun: Some(place),
            task: task::try_id(),
            scope,
            owner,
        }
    }

    /// The running code, which checks whether it would wait for itself.
    pub(super) fn asks() -> Self {
        Self {
            begun: None,
            task: task::try_id(),
            scope: trace::place().0,
            owner: None,
        }
    }

    /// The thread that writes for brokers.
    pub(super) fn broker() -> Self {
        Self {
            begun: None,
            task: None,
            scope: 0,
            owner: None,
        }
    }

    fn text(&self) -> String {
        let Some(place) = self.begun else {
            return "the writes of the broker".to_owned();
        };
        let mut text = format!("a transaction begun at {}:{}", place.file(), place.line());
        if let Some(owner) = &self.owner {
            let _ = write!(text, " by {}", owner.name()); // a String takes it
        }
        text
    }
}

/// Watches the holder of the turn.
pub(super) struct TurnWatch {
    pub(super) limits: WaitLimits,
    current: Mutex<Option<Holder>>,
    last: AtomicU64,
    /// Rises with each statement, and while a statement runs.
    activity: Arc<AtomicU64>,
    /// The last time another process's lock was met.
    other_process: Mutex<Option<Instant>>,
    /// Microseconds that the next transaction pauses first, for other processes.
    pause: AtomicU64,
}

/// The present holder.
struct Holder {
    number: u64,
    caller: Caller,
    since: Instant,
    stage: Stage,
    /// The turn of a transaction that is open.
    cell: Weak<TurnCell>,
    /// The activity at the last look, and the time of that look.
    seen: (u64, Instant),
    /// The time without activity.
    idle: Duration,
}

/// The idle time between two looks counts up to this: if the whole process stood still,
/// nobody could do anything.
const ONE_LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for the lock of another process.
    Begins,
    Open,
    /// The caller has left the rest to the engine.
    Commits,
}

impl TurnWatch {
    pub(super) fn new(limits: WaitLimits) -> Self {
        Self {
            limits,
            current: Mutex::default(),
            last: AtomicU64::new(0),
            activity: Arc::default(),
            other_process: Mutex::default(),
            pause: AtomicU64::new(0),
        }
    }

    pub(super) fn activity(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.activity)
    }

    /// A statement is about to run.
    pub(super) fn touched(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    /// `caller` has the turn from now on, until the result is dropped.
    pub(super) fn enter(self: &Arc<Self>, caller: Caller) -> Holding {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        *self.current.lock() = Some(Holder {
            number,
            caller,
            since: now,
            stage: Stage::Begins,
            cell: Weak::new(),
            seen: (self.activity.load(Ordering::Relaxed), now),
            idle: Duration::ZERO,
        });
        Holding {
            number,
            watch: Arc::clone(self),
        }
    }

    fn opened(&self, number: u64, cell: Weak<TurnCell>) {
        self.stage(number, Stage::Open, cell);
    }

    fn commits(&self, number: u64) {
        self.stage(number, Stage::Commits, Weak::new());
    }

    fn stage(&self, number: u64, stage: Stage, cell: Weak<TurnCell>) {
        if let Some(holder) = &mut *self.current.lock()
            && holder.number == number
        {
            holder.stage = stage;
            holder.cell = cell;
            holder.seen = (self.activity.load(Ordering::Relaxed), Instant::now());
            holder.idle = Duration::ZERO;
        }
    }

    fn leave(&self, number: u64) {
        let holder = self
            .current
            .lock()
            .take_if(|holder| holder.number == number);
        if let Some(holder) = holder {
            let lasted = holder.since.elapsed();
            if lasted > LONG && holder.stage != Stage::Begins {
                let rest = (lasted / 10).min(REST).as_micros();
                self.pause.store(rest as u64, Ordering::Relaxed);
            }
        }
    }

    /// The pause of the next transaction before it begins, for other processes.
    pub(super) fn pause(&self) -> Option<Duration> {
        if self.pause.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(Duration::from_micros(self.pause.swap(0, Ordering::Relaxed)))
    }

    /// Returns the holder, or an error if the task of `caller` holds the turn and does
    /// nothing with it.
    pub(super) fn held_by(&self, caller: &Caller) -> Result<HeldBy, Error> {
        if caller.task.is_none() {
            return Ok(HeldBy::Others);
        }
        let mut current = self.current.lock();
        let Some(holder) = &mut *current else {
            return Ok(HeldBy::Others);
        };
        let same = holder.caller.task == caller.task && holder.caller.scope == caller.scope;
        if !same || holder.stage != Stage::Open {
            return Ok(HeldBy::Others);
        }
        if self.idle(holder) < self.limits.own {
            return Ok(HeldBy::TheCaller);
        }
        Err(Error::invalid(format!(
            "{} is open in this task, which now asks to write outside of it: that would wait for itself. Publish through the transaction (`tx.publish`), or commit it first",
            holder.caller.text()
        )))
    }

    /// Looks at the holder. Ends a transaction that does nothing, and returns its
    /// turn, to be undone; `None` while a statement of it holds the connection.
    #[must_use]
    pub(super) fn look(&self) -> Option<Turn> {
        let (cell, ended) = {
            let mut current = self.current.lock();
            let holder = current.as_mut()?;
            let idle = self.idle(holder);
            if holder.stage != Stage::Open || idle < self.limits.idle {
                return None;
            }
            let cell = holder.cell.upgrade()?;
            let reason = format!(
                "{} ran no statement for {} and was ended: it is rolled back, since everybody else who writes waits for it. Do slow work before a transaction, and never block the thread in one",
                holder.caller.text(),
                seconds(idle)
            );
            let first = cell.end(reason.clone());
            (cell, first.then(|| (holder.caller.owner.clone(), reason)))
        };
        if let Some((owner, reason)) = ended {
            tracing::warn!(%reason, "a transaction stood still");
            if let Some(owner) = owner {
                owner.ended(&reason);
            }
        }
        cell.take().ok()
    }

    /// Another process's lock kept the holder from its transaction.
    pub(super) fn met_another_process(&self) {
        *self.other_process.lock() = Some(Instant::now());
    }

    /// The error of a turn that did not come in time; `None` if another process was in
    /// the way.
    pub(super) fn not_in_time(&self) -> Option<Error> {
        let current = self.current.lock();
        let holder = match &*current {
            Some(holder) if holder.stage == Stage::Begins => return None,
            None if self.was_another_process() => return None,
            Some(holder) => {
                let so_long = seconds(holder.since.elapsed());
                format!("{} has had it for {so_long}", holder.caller.text())
            }
            // Handed on in the queue to a future that is not polled.
            None => "it waits for a caller that asked for it and does not go on".to_owned(),
        };
        let turn = seconds(self.limits.turn);
        Some(Error::new(
            Kind::Busy,
            format!(
                "the database takes one writer at a time, and the turn did not come within {turn}: {holder}"
            ),
        ))
    }

    fn was_another_process(&self) -> bool {
        let met = *self.other_process.lock();
        met.is_some_and(|met| met.elapsed() < self.limits.turn)
    }

    /// The time for which the holder has done nothing, as far as was seen.
    fn idle(&self, holder: &mut Holder) -> Duration {
        let (before, looked) = holder.seen;
        let activity = self.activity.load(Ordering::Relaxed);
        let now = Instant::now();
        holder.seen = (activity, now);
        holder.idle = if before == activity {
            holder.idle + now.saturating_duration_since(looked).min(ONE_LOOK)
        } else {
            Duration::ZERO
        };
        holder.idle
    }
}

/// The holder of the turn, as a caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldBy {
    Others,
    TheCaller,
}

/// The turn, held until this is dropped.
pub(super) struct Holding {
    number: u64,
    watch: Arc<TurnWatch>,
}

impl Holding {
    /// The database transaction is open, and its turn is in `cell`.
    pub(super) fn opened(&self, cell: Weak<TurnCell>) {
        self.watch.opened(self.number, cell);
    }

    /// The caller left the rest to the engine.
    pub(super) fn commits(&self) {
        self.watch.commits(self.number);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.watch.leave(self.number);
    }
}

/// Short, as a person reads it.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
