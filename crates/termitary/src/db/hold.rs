//! The holder of the turn to write: its name, its start, and its last activity. Every wait for a
//! turn has a deadline, and its error names the holder. An idle transaction is ended by the next
//! one in the queue, and by the thread that renews leases, because other processes wait too.

use std::fmt::Write as _;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::task;

use super::slot::Slot;
use super::turns::Turn;
use crate::error::{Error, Kind};
use crate::trace::{self, Owner};

/// The limits of a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A turn: from when the caller began to wait, until it may write. The time
    /// in the queue and the time for other processes' locks count together.
    pub(super) turn: Duration,
    /// A transaction that runs no statement.
    pub(super) idle: Duration,
    /// The same where the task that waits is the one that has it open: nobody
    /// else will end it.
    pub(super) own: Duration,
}

impl Patience {
    pub(super) const DEFAULT: Self = Self {
        turn: Duration::from_secs(5),
        idle: Duration::from_secs(3),
        own: Duration::from_millis(250),
    };

    /// The pause between two looks at the holder.
    pub(super) fn look(self) -> Duration {
        self.own / 5
    }
}

/// A turn that was longer than this is followed by a rest, so that other
/// processes have one too: SQLite's lock does not queue.
const LONG: Duration = Duration::from_millis(250);
/// The longest rest: SQLite's own busy handler sleeps up to 100 ms.
const REST: Duration = Duration::from_millis(120);

/// A caller that has, or waits for, the turn.
#[derive(Clone)]
pub(super) struct Who {
    /// The place where a transaction was begun. `None`: the thread that writes for brokers.
    begun: Option<&'static Location<'static>>,
    task: Option<task::Id>,
    scope: u64,
    owner: Option<Arc<dyn Owner>>,
}

impl Who {
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

    /// The running code, which asks whether it waits for itself.
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

/// The record of the holder.
pub(super) struct Holds {
    pub(super) patience: Patience,
    current: Mutex<Option<Hold>>,
    last: AtomicU64,
    /// Rises with each statement, and while a statement runs.
    activity: Arc<AtomicU64>,
    /// When another process's lock was met last.
    stranger: Mutex<Option<Instant>>,
    /// Microseconds that the next transaction leaves to other processes first.
    rest: AtomicU64,
}

struct Hold {
    number: u64,
    who: Who,
    since: Instant,
    stage: Stage,
    /// The connection of a transaction that is open.
    slot: Weak<Slot>,
    /// The activity when somebody looked last, and when that was.
    seen: (u64, Instant),
    /// Time for which it has been idle.
    idle: Duration,
}

/// Between two looks no more than this counts as idle: where the whole process
/// stood still, nobody could do anything.
const ONE_LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits for the lock of another process.
    Begins,
    Open,
    /// Its caller has nothing to do with it any more.
    Commits,
}

impl Holds {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            current: Mutex::default(),
            last: AtomicU64::new(0),
            activity: Arc::default(),
            stranger: Mutex::default(),
            rest: AtomicU64::new(0),
        }
    }

    pub(super) fn activity(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.activity)
    }

    /// A statement is about to run.
    pub(super) fn touched(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    /// `who` has the turn from now on; returns the number of the hold.
    pub(super) fn enter(&self, who: Who) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        *self.lock() = Some(Hold {
            number,
            who,
            since: now,
            stage: Stage::Begins,
            slot: Weak::new(),
            seen: (self.activity.load(Ordering::Relaxed), now),
            idle: Duration::ZERO,
        });
        number
    }

    /// The database transaction of this hold is open, its connection in `slot`.
    pub(super) fn opened(&self, number: u64, slot: Weak<Slot>) {
        self.stage(number, Stage::Open, slot);
    }

    /// The caller left the rest to us.
    pub(super) fn commits(&self, number: u64) {
        self.stage(number, Stage::Commits, Weak::new());
    }

    fn stage(&self, number: u64, stage: Stage, slot: Weak<Slot>) {
        if let Some(hold) = &mut *self.lock()
            && hold.number == number
        {
            hold.stage = stage;
            hold.slot = slot;
            hold.seen = (self.activity.load(Ordering::Relaxed), Instant::now());
            hold.idle = Duration::ZERO;
        }
    }

    /// The turn is over.
    pub(super) fn leave(&self, number: u64) {
        let hold = self.lock().take_if(|hold| hold.number == number);
        if let Some(hold) = hold {
            let lasted = hold.since.elapsed();
            if lasted > LONG && hold.stage != Stage::Begins {
                let rest = (lasted / 10).min(REST).as_micros();
                self.rest.store(rest as u64, Ordering::Relaxed);
            }
        }
    }

    /// Time that the next transaction waits first, for the sake of others.
    pub(super) fn rest(&self) -> Option<Duration> {
        if self.rest.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(Duration::from_micros(self.rest.swap(0, Ordering::Relaxed)))
    }

    /// An error where the task of `who` holds the turn and does nothing with it.
    pub(super) fn own(&self, who: &Who) -> Result<Held, Error> {
        if who.task.is_none() {
            return Ok(Held::ByOthers);
        }
        let mut current = self.lock();
        let Some(hold) = &mut *current else {
            return Ok(Held::ByOthers);
        };
        let same = hold.who.task == who.task && hold.who.scope == who.scope;
        if !same || hold.stage != Stage::Open {
            return Ok(Held::ByOthers);
        }
        if self.idle(hold) < self.patience.own {
            return Ok(Held::ByItself);
        }
        Err(Error::invalid(format!(
            "{} is open in this task, which now asks to write outside of it: that would wait for itself. Publish through the transaction (`tx.publish`), or commit it first",
            hold.who.text()
        )))
    }

    /// Looks at the holder. Ends a transaction that does nothing, and returns its
    /// turn, to be undone; `None` while a statement of it holds the connection.
    #[must_use]
    pub(super) fn look(&self) -> Option<Turn> {
        let (slot, ended) = {
            let mut current = self.lock();
            let hold = current.as_mut()?;
            let idle = self.idle(hold);
            if hold.stage != Stage::Open || idle < self.patience.idle {
                return None;
            }
            let slot = hold.slot.upgrade()?;
            let reason = format!(
                "{} ran no statement for {} and was ended: it is rolled back, since everybody else who writes waits for it. Do slow work before a transaction, and never block the thread in one",
                hold.who.text(),
                seconds(idle)
            );
            let first = slot.end(reason.clone());
            (slot, first.then(|| (hold.who.owner.clone(), reason)))
        };
        if let Some((owner, reason)) = ended {
            tracing::warn!(%reason, "a transaction stood still");
            if let Some(owner) = owner {
                owner.ended(&reason);
            }
        }
        slot.take().ok()
    }

    /// Another process's lock kept the holder from its transaction.
    pub(super) fn met_a_stranger(&self) {
        *self.stranger.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The turn did not come in time. `None`: another process is in the way.
    pub(super) fn not_in_time(&self) -> Option<Error> {
        let current = self.lock();
        let holder = match &*current {
            Some(hold) if hold.stage == Stage::Begins => return None,
            None if self.was_a_stranger() => return None,
            Some(hold) => {
                let so_long = seconds(hold.since.elapsed());
                format!("{} has had it for {so_long}", hold.who.text())
            }
            // Handed on in the queue, to a future that is there and is not polled.
            None => "it waits for a caller that asked for it and does not go on".to_owned(),
        };
        let turn = seconds(self.patience.turn);
        Some(Error::new(
            Kind::Busy,
            format!(
                "the database takes one writer at a time, and the turn did not come within {turn}: {holder}"
            ),
        ))
    }

    fn was_a_stranger(&self) -> bool {
        let met = *self.stranger.lock().unwrap_or_else(PoisonError::into_inner);
        met.is_some_and(|met| met.elapsed() < self.patience.turn)
    }

    /// Time for which the holder has been idle, as far as was seen.
    fn idle(&self, hold: &mut Hold) -> Duration {
        let (before, looked) = hold.seen;
        let activity = self.activity.load(Ordering::Relaxed);
        let now = Instant::now();
        hold.seen = (activity, now);
        hold.idle = if before == activity {
            hold.idle + now.saturating_duration_since(looked).min(ONE_LOOK)
        } else {
            Duration::ZERO
        };
        hold.idle
    }

    fn lock(&self) -> MutexGuard<'_, Option<Hold>> {
        // Replaced as a whole: a panic leaves it readable.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a task whether another one has the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    ByOthers,
    ByItself,
}

/// Short, as a person reads it.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
