//! Housekeeping loops that outlive every failure.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::clock::{minutes, secs};
use crate::db::Db;
use crate::delivery::{Route, WorkerId};
use crate::ledger::backfill::Progress;
use crate::ledger::{self, Readable};
use crate::outage::Outage;

const RETAIN_EVERY: Duration = minutes(10);
/// By chance up to twice as long more: in step with the workers' reads the older
/// one would be served first every time, and park it again.
const RELEASE_EVERY: Duration = secs(1);
const FORWARD_FIRST: Duration = minutes(1);
const FORWARD_EVERY: Duration = minutes(10);
/// Between two pages, so that others get to write.
const BREATH: Duration = Duration::from_millis(50);
/// The same between two pages of retained events.
const SHORT_BREATH: Duration = Duration::from_millis(5);
const PROGRESS_EVERY: Duration = secs(10);

/// Runs the broker's own housekeeping again and again.
pub(super) async fn maintain_broker(
    broker: Broker,
    worker: WorkerId,
    routes: Vec<Route>,
    end: CancellationToken,
) {
    let outage = Outage::of("housekeeping");
    loop {
        let published = broker.db().published().notified();
        let round = broker.transport().upkeep(&worker, &routes).await;
        let works = round.is_ok();
        let rest = match round {
            Ok(rest) => {
                outage.over();
                rest
            }
            Err(error) => outage.failed(&error),
        };
        tokio::select! {
            () = end.cancelled() => return,
            () = published, if works && broker.relays() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Deletes finished history in small steps.
pub(super) async fn retain(db: Db, stop: CancellationToken) {
    let mut walk = ledger::Walk::default();
    loop {
        let more = walk.step(&db).await.unwrap_or_else(|error| {
            tracing::warn!(error = ?error, "cannot delete finished events; trying again later");
            false
        });
        let rest = if more { BREATH } else { RETAIN_EVERY };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Brings deliveries forward that a clock that was ahead made due on a later day. The first time is
/// when the rows of dead workers have been deleted.
pub(super) async fn forward(db: Db, stop: CancellationToken) {
    let mut rest = FORWARD_FIRST;
    let mut walk = ledger::DueLater::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        rest = match walk.step(&db).await {
            Ok((deliveries, goes_on)) => {
                if deliveries > 0 {
                    metrics::counter!("termitary_deliveries_brought_forward_total")
                        .increment(deliveries);
                    tracing::warn!(
                        deliveries,
                        "a clock that was ahead had made these deliveries due on a later day: brought forward"
                    );
                }
                if goes_on { BREATH } else { FORWARD_EVERY }
            }
            Err(error) => {
                tracing::warn!(error = ?error, "cannot bring deliveries forward that a wrong clock made due; trying again later");
                FORWARD_EVERY
            }
        };
    }
}

/// Copies the retained past of new subscriptions that asked for it.
pub(super) async fn retained(db: Db, stop: CancellationToken) {
    let outage = Outage::of("copying retained events");
    let mut copy = Copy::default();
    loop {
        let rest = match ledger::backfill::step(&db).await {
            Ok(Some(progress)) => {
                outage.over();
                copy.log(&progress);
                SHORT_BREATH
            }
            Ok(None) => RELEASE_EVERY.mul_f64(1.0 + 2.0 * db.clock().random()),
            Err(error) => outage.failed(&error),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Progress of copying a subscription's past, as logged so far.
#[derive(Default)]
struct Copy {
    /// The subscription that is copied, and the time of the last log line.
    logged: Option<(i64, Instant)>,
    owed: i64,
}

impl Copy {
    /// Logs at the beginning, every ten seconds, and at the end.
    fn log(&mut self, progress: &Progress) {
        let Progress { id, at, .. } = *progress;
        let last = progress.last();
        let subscription = progress.name();
        let begins = self.logged.is_none_or(|(of, _)| of != id);
        if begins {
            self.owed = 0;
        }
        self.owed += progress.owed;
        if progress.is_over() {
            self.logged = None;
            tracing::info!(%subscription, deliveries = self.owed, "copied the retained events of a new subscription");
        } else if begins
            || self
                .logged
                .is_some_and(|(_, at)| at.elapsed() >= PROGRESS_EVERY)
        {
            self.logged = Some((id, Instant::now()));
            tracing::info!(%subscription, at, last, deliveries = self.owed, "copying the retained events of a new subscription");
        }
    }
}

/// Releases deliveries that older workers parked because they could not read them; `known` lists
/// the names and versions that this worker reads.
pub(super) async fn release(db: Db, known: Vec<Readable>, stop: CancellationToken) {
    let outage = Outage::of("releasing parked deliveries");
    loop {
        let rest = RELEASE_EVERY.mul_f64(1.0 + 2.0 * db.clock().random());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        match ledger::release(&db, &known).await {
            Ok(deliveries) => {
                outage.over();
                if deliveries > 0 {
                    tracing::info!(
                        deliveries,
                        "an older worker parked events that this one can read: due again"
                    );
                }
            }
            Err(error) => drop(outage.failed(&error)),
        }
    }
}
