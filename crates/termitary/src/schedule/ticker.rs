//! Publishes the event of each due tick: exactly once, because the ledger
//! holds one row per (schedule, tick) and the event is inserted with it.
//! Any number of workers may try. Each schedule is on its own: one that cannot make
//! its event is tried again later and later, and hinders no other.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::failing::Failing;
use super::{Rule, Schedule, fire};
use crate::clock::{forward, secs};
use crate::db::Db;
use crate::error::Error;

/// Interval at which the clock is read.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after the database failed.
const RETRY: Duration = secs(1);
/// Interval at which the schedules are checked even if nothing seems due: a clock may have been
/// set, or an operator or another process may have changed them.
const AGAIN: Duration = secs(10);

/// Publishes ticks as they come due, until told to stop.
pub(crate) async fn publish_ticks(db: Db, schedules: Vec<Schedule>, stop: CancellationToken) {
    if schedules.is_empty() {
        return;
    }
    let mut ticker = Ticker::new(db, &schedules);
    let mut outage = Failing::default();
    loop {
        let mut rest = LOOK;
        if ticker.is_time() {
            match ticker.look().await {
                Ok(()) => {
                    if outage.over() {
                        tracing::info!("ticks are published again");
                    }
                }
                Err(error) => {
                    if outage.note(forward()) {
                        tracing::warn!(error = ?error, "the database takes no ticks; trying again");
                    }
                    rest = RETRY;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// The schedules of one process, and when each is to be looked at.
pub(super) struct Ticker {
    db: Db,
    posts: Vec<Post>,
    /// When they were last looked at, by the clock that may be set.
    looked: Timestamp,
    /// When the next tick is due.
    next: Timestamp,
    /// Time of the next check, whatever the clock says.
    again: Instant,
}

struct Post {
    schedule: Schedule,
    rule: Result<Rule, String>,
    failing: Failing,
}

impl Ticker {
    pub(super) fn new(db: Db, schedules: &[Schedule]) -> Self {
        let posts = schedules.iter().map(|schedule| Post {
            rule: schedule.rule(),
            schedule: schedule.clone(),
            failing: Failing::default(),
        });
        let now = db.clock().now();
        Self {
            posts: posts.collect(),
            looked: now,
            next: now,
            again: forward(),
            db,
        }
    }

    pub(super) fn is_time(&self) -> bool {
        let now = self.db.clock().now();
        let set_back = now < self.looked;
        now >= self.next || set_back || forward() >= self.again
    }

    /// Looks at every schedule. An error is the database's: the next look then
    /// begins behind the schedule that met it.
    pub(super) async fn look(&mut self) -> Result<(), Error> {
        let now = self.db.clock().now();
        for place in 0..self.posts.len() {
            if let Err(error) = self.posts[place].settle(&self.db, now).await {
                self.posts.rotate_left(place + 1);
                return Err(error);
            }
        }
        let rules = self.posts.iter().filter_map(|post| post.rule.as_ref().ok());
        let next = rules.filter_map(|rule| rule.next_after(now)).min();
        let again = self.posts.iter().filter_map(|post| post.failing.again());
        self.again = again.fold(forward() + AGAIN, Instant::min);
        self.next = next.unwrap_or(Timestamp::MAX);
        self.looked = now;
        Ok(())
    }
}

impl Post {
    async fn settle(&mut self, db: &Db, now: Timestamp) -> Result<(), Error> {
        if self.failing.again().is_some_and(|again| again > forward()) {
            return Ok(());
        }
        let failed = match &self.rule {
            Ok(rule) => fire::settle(db, &self.schedule, rule, now).await?,
            Err(mistake) => Some(Error::invalid(mistake.clone())),
        };
        let name = &self.schedule.name;
        match failed {
            Some(error) => {
                if self.failing.note(forward()) {
                    tracing::warn!(schedule = %name, error = %fire::failure_text(&error), "a schedule cannot make its event; trying again");
                }
            }
            None => {
                if self.failing.over() {
                    tracing::info!(schedule = %name, "the schedule goes on");
                }
            }
        }
        Ok(())
    }
}

/// Publishes every due tick of all of them: for tests with a manual clock. The error names the
/// first schedule that cannot build its event.
#[cfg(feature = "testing")]
pub(crate) async fn fire_due(db: &Db, schedules: &[Schedule]) -> Result<(), Error> {
    let now = db.clock().now();
    let mut first = None;
    for schedule in schedules {
        let rule = schedule.rule().map_err(Error::invalid)?;
        if let Some(error) = fire::settle(db, schedule, &rule, now).await? {
            let text = fire::failure_text(&error);
            first.get_or_insert_with(|| format!("the schedule `{}`: {text}", schedule.name));
        }
    }
    first.map_or(Ok(()), |text| Err(Error::invalid(text)))
}
