//! Runs suspects alone. The worker stops leasing, lets running handlers finish, gives
//! queued deliveries back, and only then leases one suspect at a time: if the process dies
//! now, no other delivery can be the reason.
//!
//! The cost for a busy worker is bounded: up to [`FIRST_PATIENCE`] until nothing runs
//! (more only after that failed, and never longer than its slowest handler may take),
//! [`SESSION`] and one handler's run. Afterwards it works normally for at least as long.
//! One worker at a time does this; the others go on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::renewal::STUCK_AFTER;
use super::{Core, attempt, lane::Lane};
use crate::clock::{micros, secs};
use crate::delivery::Leased;
use crate::error::Error;
use crate::fault;
use crate::ledger::suspects as ledger;
use crate::outage::Outage;

/// Interval at which the worker looks for suspects.
const LOOK: Duration = secs(1);
/// Time for running handlers to finish; doubled after they did not.
const FIRST_PATIENCE: Duration = secs(5);
/// Time in which further suspects are begun: short, as the other work of this worker
/// waits meanwhile.
const SESSION: Duration = secs(2);

/// The result of one look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// No suspect is due, or another worker runs it.
    Nothing,
    /// Running handlers did not finish in time.
    TooBusy,
    Ran,
}

/// Runs suspects of this worker's subscriptions until it stops.
pub(super) async fn run_suspects<S: Send + Sync + 'static>(
    core: Arc<Core<S>>,
    lanes: Vec<Lane<S>>,
) {
    let longest = lanes.iter().map(|lane| lane.subscription.policy.timeout);
    let longest = longest.max().unwrap_or_default() + STUCK_AFTER;
    let mut patience = FIRST_PATIENCE;
    let mut rest = LOOK;
    let outage = Outage::of("running suspects");
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        let began = Instant::now();
        let look = look(&core, &lanes, patience).await;
        rest = began.elapsed().max(LOOK);
        match look {
            Err(error) => rest = rest.max(outage.failed(&error)),
            Ok(look) => {
                outage.over();
                match look {
                    Look::TooBusy => patience = (patience * 2).min(longest.max(FIRST_PATIENCE)),
                    Look::Ran => patience = FIRST_PATIENCE,
                    Look::Nothing => {}
                }
            }
        }
    }
}

async fn look<S: Send + Sync + 'static>(
    core: &Arc<Core<S>>,
    lanes: &[Lane<S>],
    patience: Duration,
) -> Result<Look, Error> {
    let db = core.broker.db();
    let routes: Vec<_> = lanes.iter().map(|lane| lane.route.id).collect();
    if !ledger::waiting(db, &routes).await? {
        return Ok(Look::Nothing);
    }
    if ledger::reserve(db, &core.id, &routes, window_us(patience)).await? == 0 {
        return Ok(Look::Nothing);
    }
    fault::point!("suspect.reserved");
    let look = {
        let _pause = Pause::begin(&core.alone);
        run_alone(core, lanes, &routes, patience).await?
    };
    ledger::release(db, &core.id).await?;
    Ok(look)
}

/// The length of a reservation: until running handlers have finished.
fn window_us(patience: Duration) -> i64 {
    micros(patience + LOOK)
}

async fn run_alone<S: Send + Sync + 'static>(
    core: &Arc<Core<S>>,
    lanes: &[Lane<S>],
    ids: &[i64],
    patience: Duration,
) -> Result<Look, Error> {
    // All permits of all lanes: nothing is leased.
    let permits = join_all(lanes.iter().map(|lane| lane.permits.take_all()));
    let permits = tokio::select! {
        () = core.stop.cancelled() => return Ok(Look::TooBusy),
        permits = timeout(patience, permits) => permits,
    };
    let Ok(_permits) = permits else {
        tracing::info!(worker.id = %core.id, ?patience, "a suspect waits to run alone, but this worker's handlers do not finish in time: trying again later");
        return Ok(Look::TooBusy);
    };
    let routes: Vec<_> = lanes.iter().map(|lane| lane.route.clone()).collect();
    // Deliveries that the broker gave to this worker and no lane has seen.
    core.broker.transport().leave(&core.id, &routes).await?;
    fault::point!("suspect.quiet");
    let db = core.broker.db();
    let lease_us = micros(core.broker.lease_time());
    let until = Instant::now() + SESSION;
    while Instant::now() < until && !core.stop.is_cancelled() {
        match ledger::lease(db, &core.id, lease_us).await? {
            Some(leased) => {
                fault::point!("suspect.leased");
                run_one(core, lanes, leased).await;
            }
            // There may be more suspects than one reservation holds.
            None if ledger::reserve(db, &core.id, ids, window_us(patience)).await? > 0 => {}
            None => break,
        }
    }
    Ok(Look::Ran)
}

async fn run_one<S: Send + Sync + 'static>(core: &Arc<Core<S>>, lanes: &[Lane<S>], leased: Leased) {
    let Some(lane) = lanes
        .iter()
        .find(|lane| lane.route.id == leased.claim.route)
    else {
        return; // cannot be: only this worker's routes were reserved
    };
    tracing::info!(event.id = %leased.envelope.id, subscription = %lane.route.name, "two processes died while they held this delivery: it runs alone");
    metrics::counter!("termitary_suspects_total").increment(1);
    let subscription = Arc::clone(&lane.subscription);
    let limit = subscription.policy.timeout + STUCK_AFTER;
    let measures = Arc::clone(&lane.measures);
    let attempt = core.tasks.spawn(attempt::run_alone(
        Arc::clone(core),
        subscription,
        measures,
        leased,
    ));
    // A handler that blocks its thread for ever must not stop the worker.
    let _ = timeout(limit, attempt).await;
}

/// Until it is dropped, lanes lease nothing, and deliveries that wait for a permit go
/// back.
struct Pause<'a>(&'a watch::Sender<bool>);

impl<'a> Pause<'a> {
    fn begin(alone: &'a watch::Sender<bool>) -> Self {
        alone.send_replace(true);
        Self(alone)
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
