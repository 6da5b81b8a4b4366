//! Housekeeping loops that outlive every failure.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Route, WorkerId};
use crate::clock::{minutes, secs};
use crate::db::Db;
use crate::ledger;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);
const RETAIN_EVERY: Duration = minutes(10);
/// By chance up to twice as long more: in step with the workers' reads the older
/// one would be served first every time, and park it again.
const RELEASE_EVERY: Duration = secs(1);
const FORWARD_FIRST: Duration = minutes(1);
const FORWARD_EVERY: Duration = minutes(10);
/// Between two pages, so that others get to write.
const BREATH: Duration = Duration::from_millis(50);

/// The broker's own housekeeping, over and over.
pub(super) async fn run(
    broker: Broker,
    worker: WorkerId,
    routes: Vec<Route>,
    end: CancellationToken,
) {
    let mut backoff = None;
    loop {
        let published = broker.db().published().notified();
        let rest = match broker.transport().upkeep(&worker, &routes).await {
            Ok(rest) => {
                if backoff.take().is_some() {
                    tracing::info!("housekeeping works again");
                }
                rest
            }
            Err(error) => {
                if backoff.is_none() {
                    tracing::warn!(error = ?error, "housekeeping failed; trying again");
                }
                let wait: Duration = backoff.unwrap_or(FIRST_BACKOFF);
                backoff = Some((wait * 2).min(LAST_BACKOFF));
                wait
            }
        };
        tokio::select! {
            () = end.cancelled() => return,
            () = published, if backoff.is_none() && broker.relays() => {}
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

/// Brings forward what a clock that was ahead made due on a day still to come: at
/// first when the rows of workers that are gone have been deleted.
pub(super) async fn forward(db: Db, stop: CancellationToken) {
    let mut rest = FORWARD_FIRST;
    let mut walk = ledger::Forward::default();
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
                        "a clock that was ahead had made these due on a day still to come: brought forward"
                    );
                }
                if goes_on { BREATH } else { FORWARD_EVERY }
            }
            Err(error) => {
                tracing::warn!(error = ?error, "cannot look for what a wrong clock made due; trying again later");
                FORWARD_EVERY
            }
        };
    }
}

/// Takes back what older workers beside this one parked, since they cannot
/// read it: `known` has the subscriptions and versions that this one reads.
pub(super) async fn release(db: Db, known: Vec<(i64, u32)>, stop: CancellationToken) {
    loop {
        let rest = RELEASE_EVERY.mul_f64(1.0 + 2.0 * db.clock().random());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        match ledger::release(&db, &known).await {
            Ok(0) => {}
            Ok(deliveries) => {
                tracing::info!(
                    deliveries,
                    "an older worker parked what this one can read: due again"
                );
            }
            Err(error) => {
                tracing::warn!(error = ?error, "cannot look for what older workers parked; trying again");
            }
        }
    }
}
