//! The operator's interface: counts, dead letters, schedules, the stream of events. Its types are
//! plain data that serializes.

mod check;
mod doctor;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use crate::broker::Broker;
use crate::delivery::Cursor;
use crate::error::Error;
use crate::event::Envelope;
use crate::fault;
use crate::ledger::letters::Resolve;
use crate::ledger::single_writer::{Table, newest};
use crate::ledger::{self, ticks, workers};
use crate::registry::Registry;
use crate::schedule::{fire, status};

pub use self::check::{Obstacle, Readiness};
pub use self::doctor::{Finding, Level};
pub use crate::ledger::letters::{Letter, LetterFilter, LetterState};
pub use crate::ledger::workers::WorkerStatus;
pub use crate::schedule::status::{ScheduleFailure, ScheduleStatus};

/// The whole system at one moment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Status {
    /// `sqlite` or `redis`: where deliveries travel.
    pub mode: &'static str,
    /// Number of events that the ledger keeps.
    pub events: u64,
    /// By name.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// By name.
    pub schedules: Vec<ScheduleStatus>,
    /// Those that were heard of within 20 seconds.
    pub workers: Vec<WorkerStatus>,
}

/// One subscription's deliveries, counted.
///
/// With Redis, deliveries that the ledger has handed over count as leased, even while they wait on
/// a stream; and the split of stream-only events into waiting and running is an estimate while both
/// kinds of publishing are in use.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SubscriptionStatus {
    /// The durable name.
    pub name: String,
    /// The event it handles.
    pub event: String,
    /// Waiting, due now or later.
    pub pending: u64,
    /// Held by workers; with Redis also those handed to it.
    pub leased: u64,
    /// Of those waiting: due now.
    pub due: u64,
    /// Given up, with a reason.
    pub dead: u64,
    /// Kept because no code here can read them.
    pub parked: u64,
    /// Finished since the subscription was first registered; dropped ones are
    /// not counted.
    pub done: u64,
    /// Time for which the longest-waiting due delivery of the ledger has been due; deliveries that
    /// wait on a stream are not included.
    pub oldest_pending_seconds: u64,
    /// Live workers that run it.
    pub workers: u64,
}

/// Reads and steers a system through its broker: `broker.inspect()`.
#[derive(Clone)]
pub struct Inspect(Broker);

impl Broker {
    /// Returns the operator's interface.
    pub fn inspect(&self) -> Inspect {
        Inspect(self.clone())
    }
}

/// Number of letters that one statement resolves, so that a replay of a million does not block the
/// writer.
const PAGE: u32 = 500;

impl Inspect {
    /// Counts everything.
    pub async fn status(&self) -> Result<Status, Error> {
        let db = self.0.db();
        let now = db.clock().now();
        let routes = ledger::routes(db).await?;
        let counts = self.0.counts(&routes).await?;
        let beside: BTreeMap<i64, _> = routes.iter().map(|route| route.id).zip(counts).collect();
        let workers = workers::live(db).await?;
        let mut subscriptions = Vec::new();
        for tally in ledger::tally(db).await? {
            let beside = beside.get(&tally.id).copied().unwrap_or_default();
            let name = tally.name.0;
            if name == ledger::BRIDGE && tally.parked == 0 {
                continue;
            }
            let oldest = tally.oldest_us.map_or(0, |us| {
                now.as_microsecond().saturating_sub(us).max(0) / 1_000_000
            });
            subscriptions.push(SubscriptionStatus {
                pending: tally.pending as u64 + beside.pending,
                leased: (tally.leased as u64).saturating_sub(beside.handed) + beside.leased,
                due: tally.due as u64 + beside.pending,
                dead: tally.dead as u64,
                parked: tally.parked as u64,
                done: tally.done as u64 + beside.done,
                oldest_pending_seconds: oldest as u64,
                workers: workers.iter().filter(|worker| worker.runs(&name)).count() as u64,
                name,
                event: tally.event.0,
            });
        }
        Ok(Status {
            mode: self.0.mode(),
            events: ledger::count_events(db).await?,
            subscriptions,
            schedules: status::list(db).await?,
            workers,
        })
    }

    /// Every schedule, by name.
    pub async fn schedules(&self) -> Result<Vec<ScheduleStatus>, Error> {
        status::list(self.0.db()).await
    }

    /// The workers that were heard of within 20 seconds, the oldest first.
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, Error> {
        workers::live(self.0.db()).await
    }

    /// Returns a live worker of this database whose deliveries travel another way than those of
    /// this broker, if there is one. One of the two is then configured wrongly, and the counts of
    /// [`Inspect::status`] are incomplete.
    pub async fn worker_of_another_mode(&self) -> Result<Option<WorkerStatus>, Error> {
        self.0.worker_of_another_mode().await
    }

    /// Letters that match, the oldest first, at most `limit`.
    pub async fn letters(&self, filter: &LetterFilter, limit: u32) -> Result<Vec<Letter>, Error> {
        ledger::letters(self.0.db(), filter, limit).await
    }

    /// Every letter of one event.
    pub async fn letters_of(&self, event: Uuid) -> Result<Vec<Letter>, Error> {
        ledger::letter(self.0.db(), event).await
    }

    /// Runs the letters that match now again, with all their attempts; `who` is recorded in the
    /// audit. Returns their number. A letter that is given up again meanwhile remains one. If it is
    /// interrupted, it can be repeated. Parked messages from plain pub/sub have no handler, and
    /// stay.
    pub async fn replay(&self, filter: &LetterFilter, who: &str) -> Result<u64, Error> {
        self.resolve(filter, Resolve::Replay, who).await
    }

    /// Drops the letters that match now for good; `who` goes into the audit.
    pub async fn drop_letters(&self, filter: &LetterFilter, who: &str) -> Result<u64, Error> {
        self.resolve(filter, Resolve::Drop, who).await
    }

    async fn resolve(
        &self,
        filter: &LetterFilter,
        resolve: Resolve,
        who: &str,
    ) -> Result<u64, Error> {
        let db = self.0.db();
        let act = if resolve == Resolve::Replay {
            "replay"
        } else {
            "drop"
        };
        // Only current letters: including those given up again meanwhile would make this endless.
        let mut reader = db.read().await?;
        let letters = ledger::matching(&mut reader, filter, resolve).await?;
        drop(reader);
        let mut total = 0;
        for page in letters.chunks(PAGE as usize) {
            let mut tx = db.begin_own().await?;
            let now = db.clock().now_us();
            let count = ledger::resolve(&mut tx, page, resolve, now).await?;
            if count > 0 {
                ledger::audit(&mut tx, now, who, act, &format!("{filter:?}"), count).await?;
                fault::point!("replay.before_commit");
            }
            tx.commit().await?;
            if count > 0 {
                fault::point!("replay.after_commit");
            }
            total += count;
        }
        db.announce();
        Ok(total)
    }

    /// Publishes the event of the schedule `name` now, beside its ticks. `registry` has
    /// the code that makes the event; `who` goes into the audit. Returns the event id.
    ///
    /// # Errors
    /// `is_not_found()` if the registry has no schedule of this name; `is_invalid()` if
    /// its event cannot be made.
    pub async fn run_schedule<S>(
        &self,
        registry: &Registry<S>,
        name: &str,
        who: &str,
    ) -> Result<Uuid, Error> {
        let schedule = registry.schedule(name);
        let schedule = schedule.ok_or_else(|| ticks::unknown(name))?;
        fire::run_now(self.0.db(), schedule, who).await
    }

    /// Pauses a schedule: its ticks are skipped until [`Inspect::resume_schedule`].
    /// `who` goes into the audit.
    ///
    /// # Errors
    /// `is_not_found()` if no schedule of this name is on record.
    pub async fn pause_schedule(&self, name: &str, who: &str) -> Result<(), Error> {
        self.set_paused(name, true, who).await
    }

    /// Resumes a schedule from now on; the ticks of the pause are not caught up. `who`
    /// goes into the audit.
    ///
    /// # Errors
    /// `is_not_found()` if no schedule of this name is on record.
    pub async fn resume_schedule(&self, name: &str, who: &str) -> Result<(), Error> {
        self.set_paused(name, false, who).await
    }

    async fn set_paused(&self, name: &str, paused: bool, who: &str) -> Result<(), Error> {
        let db = self.0.db();
        let now_us = db.clock().now_us();
        let mut tx = db.begin_own().await?;
        ticks::pause(&mut tx, name, paused, now_us).await?;
        let act = if paused { "pause" } else { "resume" };
        ledger::audit(&mut tx, now_us, who, act, name, 1).await?;
        tx.commit().await
    }

    /// Deletes a subscription that no code registers any more, with all its deliveries. Returns the
    /// number of unfinished ones that were dropped, of those in the ledger. Fails while Redis is
    /// unreachable, and drops nothing then.
    ///
    /// # Errors
    /// `is_invalid()` while a live worker runs it, which the message names: stop
    /// that first. `is_not_found()` if there is none of this name.
    pub async fn drop_subscription(&self, name: &str, who: &str) -> Result<u64, Error> {
        let live = workers::live(self.0.db()).await?;
        let running = live.iter().filter(|worker| worker.runs(name));
        let running: Vec<_> = running.map(ToString::to_string).collect();
        if running.is_empty() {
            return self.force_drop_subscription(name, who).await;
        }
        Err(Error::invalid(format!(
            "`{name}` cannot be dropped while live workers run it: {}",
            running.join(", ")
        )))
    }

    /// Like [`Inspect::drop_subscription`], even while live workers run it. Their attempts end
    /// without effect on the ledger.
    pub async fn force_drop_subscription(&self, name: &str, who: &str) -> Result<u64, Error> {
        let db = self.0.db();
        let routes = ledger::routes(db).await?;
        let route = routes.iter().find(|route| route.name == name);
        if let Some(route) = route {
            self.0.transport().forget(route).await?;
        }
        let mut tx = db.begin_own().await?;
        let now_us = db.clock().now_us();
        let dropped = ledger::forget(&mut tx, name, now_us).await?;
        ledger::audit(&mut tx, now_us, who, "drop-subscription", name, dropped).await?;
        tx.commit().await?;
        // Until the commit any worker may have created its groups again. From now on none does, and
        // housekeeping removes the groups that this call cannot.
        if let Some(route) = route
            && let Err(error) = self.0.transport().forget(route).await
        {
            tracing::warn!(error = ?error, subscription = name, "a worker will remove what is left of this subscription on Redis");
        }
        Ok(dropped)
    }

    /// The events published from now on, as they become visible. Of those that
    /// travel on streams only, those that somebody subscribes to by now.
    pub async fn tail(&self) -> Result<Tail, Error> {
        let db = self.0.db();
        let routes = ledger::routes(db).await?;
        let mut cursor = Cursor {
            seq: newest(db, Table::Events).await?,
            ..Cursor::default()
        };
        self.0.transport().read(&mut cursor, &routes).await?;
        Ok(Tail {
            broker: self.0.clone(),
            routes,
            cursor,
            buffer: VecDeque::new(),
        })
    }
}

/// A live view of published events: [`Inspect::tail`].
pub struct Tail {
    broker: Broker,
    routes: Vec<crate::delivery::Route>,
    cursor: Cursor,
    buffer: VecDeque<Envelope>,
}

impl Tail {
    /// The next event; waits for it. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Envelope, Error> {
        loop {
            if let Some(event) = self.buffer.pop_front() {
                return Ok(event);
            }
            let (events, seq) = ledger::read(self.broker.db(), self.cursor.seq, PAGE).await?;
            self.cursor.seq = seq;
            self.buffer.extend(events);
            let beside = self
                .broker
                .transport()
                .read(&mut self.cursor, &self.routes)
                .await?;
            self.buffer.extend(beside);
            if self.buffer.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
