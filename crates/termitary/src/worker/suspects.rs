//! Runs suspects alone: the worker stops leasing, lets running handlers finish, releases waiting
//! deliveries, and only then leases one suspect at a time. If the process dies now, no other
//! delivery can have killed it.
//!
//! The cost for a busy worker is bounded: [`FIRST_PATIENCE`] to fall quiet
//! (more only after it failed to, and never longer than its slowest handler may
//! take), [`SESSION`] and one handler's run; afterwards it works normally for
//! at least as long. One worker at a time does this, the others go on.

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

/// Interval at which the worker checks for a waiting suspect.
const LOOK: Duration = secs(1);
/// Time for the worker to become idle; doubled each time it does not.
const FIRST_PATIENCE: Duration = secs(5);
/// Time in which further suspects are started: short, because the other work of this worker waits.
const SESSION: Duration = secs(2);

/// The result of one look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing is due, or another worker is at it.
    Nothing,
    /// The worker did not fall quiet in time.
    TooBusy,
    Ran,
}

/// Runs suspects of this worker's subscriptions until it stops.
pub(super) async fn run<S: Send + Sync + 'static>(core: Arc<Core<S>>, lanes: Vec<Lane<S>>) {
    let longest = lanes.iter().map(|lane| lane.subscription.policy.timeout);
    let longest = longest.max().unwrap_or_default() + STUCK_AFTER;
    let mut patience = FIRST_PATIENCE;
    let mut rest = LOOK;
    let mut failing = false;
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        let began = Instant::now();
        let look = look(&core, &lanes, patience).await;
        if let Err(error) = &look
            && !failing
        {
            tracing::warn!(error = ?error, "cannot run suspects; trying again");
        }
        failing = look.is_err();
        match look {
            Ok(Look::TooBusy) => patience = (patience * 2).min(longest.max(FIRST_PATIENCE)),
            Ok(Look::Ran) => patience = FIRST_PATIENCE,
            Ok(Look::Nothing) | Err(_) => {}
        }
        rest = began.elapsed().max(LOOK);
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
        alone(core, lanes, &routes, patience).await?
    };
    ledger::release(db, &core.id).await?;
    Ok(look)
}

/// Duration of a reservation: until the worker is idle.
fn window_us(patience: Duration) -> i64 {
    micros(patience + LOOK)
}

async fn alone<S: Send + Sync + 'static>(
    core: &Arc<Core<S>>,
    lanes: &[Lane<S>],
    ids: &[i64],
    patience: Duration,
) -> Result<Look, Error> {
    // All slots of all lanes are taken, so no lane can run.
    let places = join_all(lanes.iter().map(|lane| lane.room.take_all()));
    let places = tokio::select! {
        () = core.stop.cancelled() => return Ok(Look::TooBusy),
        places = timeout(patience, places) => places,
    };
    let Ok(_places) = places else {
        tracing::info!(worker.id = %core.id, ?patience, "a suspect waits to run alone, but this worker does not fall quiet: later");
        return Ok(Look::TooBusy);
    };
    let routes: Vec<_> = lanes.iter().map(|lane| lane.route.clone()).collect();
    // Deliveries that the broker handed to this worker and that no lane has seen.
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
            // A crowd has more than one reservation holds.
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
        return; // reserved for our own routes only
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
    // A handler that blocks its thread for ever must not stop the worker, too.
    let _ = timeout(limit, attempt).await;
}

/// While it lives, lanes lease nothing, and deliveries that wait for a slot are released.
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
