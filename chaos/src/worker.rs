//! Handles the events and records the beginning and the end of each run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use termitary::handler::Meta;
use termitary::prelude::*;
use termitary::schedule::CatchUp;

use crate::events::{ECHOING, Echoed, FLAKY, Noted, SCHEDULE, Ticked, failures, is_hopeless};
use crate::history::{Line, Run, Writer};
use crate::role;

/// Attempts of one subscription at once in one process.
pub(crate) const CONCURRENCY: usize = 16;

#[derive(Args, Debug)]
pub(crate) struct Settings {
    #[command(flatten)]
    common: role::Common,
}

type App = Arc<Writer>;

pub(crate) async fn run(settings: Settings) -> Result<()> {
    let broker = settings.common.broker().await?;
    let history = Arc::new(Writer::open(&settings.common.history)?);
    let stop = async {
        if let Err(error) = role::told_to_stop().await {
            eprintln!("{error:#}");
        }
    };
    Worker::new(broker, registry())
        .state(history)
        .run(stop)
        .await?;
    Ok(())
}

/// Every subscription, and the schedule.
pub(crate) fn registry() -> Registry<App> {
    let retry = Retry::exponential(Duration::from_millis(200), secs(1)).attempts(25);
    Registry::new()
        .on(subscribe("noted.plain", plain)
            .retry(retry)
            .concurrency(CONCURRENCY))
        .on(subscribe(ECHOING, effect)
            .retry(retry)
            .concurrency(CONCURRENCY))
        .on(subscribe(FLAKY, flaky)
            .retry(retry)
            .concurrency(CONCURRENCY))
        .on(subscribe("noted.slow", slow)
            .retry(retry)
            .concurrency(CONCURRENCY))
        .on(subscribe("echoed.effect", echoed)
            .retry(retry)
            .concurrency(CONCURRENCY))
        .on(subscribe("ticked.effect", ticked)
            .retry(retry)
            .concurrency(CONCURRENCY))
        // Every tick, however late, so that each second has exactly one.
        .on(schedule(SCHEDULE, "* * * * * *", |tick| Ticked {
            n: tick.at.as_second() as u64,
        })
        .catch_up(CatchUp::All(100_000)))
}

async fn plain(event: Noted, State(app): State<App>, meta: Meta) -> HandlerResult {
    written(&app, &meta, event.n, async {
        tokio::time::sleep(Duration::from_millis(event.n % 5)).await;
        Ok(())
    })
    .await
}

/// An effect and a new event in one transaction. The first attempt of some events fails after both,
/// and neither may stay.
async fn effect(event: Noted, State(app): State<App>, meta: Meta, ledger: Ledger) -> HandlerResult {
    let n = event.n;
    written(&app, &meta, n, async {
        let mut tx = ledger.begin().await?;
        insert(&mut tx, &meta, n).await?;
        tx.publish(Echoed { n }).await?;
        if meta.attempt == 1 && n % 7 == 3 {
            return Err(HandlerError::from("fails after the effect"));
        }
        tx.commit().await
    })
    .await
}

async fn flaky(event: Noted, State(app): State<App>, meta: Meta) -> HandlerResult {
    written(&app, &meta, event.n, async {
        if is_hopeless(event.n) {
            return Err(HandlerError::permanent("hopeless on purpose"));
        }
        if meta.attempt <= failures(event.n) {
            return Err(HandlerError::from("fails on purpose"));
        }
        Ok(())
    })
    .await
}

/// Long enough for kills and stops to interrupt some of these handlers.
async fn slow(event: Noted, State(app): State<App>, meta: Meta, ledger: Ledger) -> HandlerResult {
    written(&app, &meta, event.n, async {
        tokio::time::sleep(Duration::from_millis(60 * (event.n % 10))).await;
        only_effect(&meta, &ledger, event.n).await
    })
    .await
}

async fn echoed(
    event: Echoed,
    State(app): State<App>,
    meta: Meta,
    ledger: Ledger,
) -> HandlerResult {
    written(&app, &meta, event.n, only_effect(&meta, &ledger, event.n)).await
}

async fn ticked(
    event: Ticked,
    State(app): State<App>,
    meta: Meta,
    ledger: Ledger,
) -> HandlerResult {
    written(&app, &meta, event.n, only_effect(&meta, &ledger, event.n)).await
}

async fn only_effect(meta: &Meta, ledger: &Ledger, n: u64) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    insert(&mut tx, meta, n).await?;
    tx.commit().await
}

async fn insert(tx: &mut Tx, meta: &Meta, n: u64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO chaos_effects (event, subscription, n, fence) VALUES ($1, $2, $3, $4)")
        .bind(meta.event_id.simple().to_string())
        .bind(&meta.subscription)
        .bind(n as i64)
        .bind(meta.fence)
        .execute(&mut *tx)
        .await
        .map(drop)
}

/// Runs a handler and records its beginning and its end.
async fn written(
    app: &Writer,
    meta: &Meta,
    n: u64,
    body: impl Future<Output = HandlerResult>,
) -> HandlerResult {
    let run = Run {
        event: meta.event_id.simple().to_string(),
        subscription: meta.subscription.clone(),
        n,
        fence: meta.fence,
        attempt: meta.attempt,
    };
    app.write(Line::Start(run.clone()));
    let result = body.await;
    app.write(Line::End {
        run,
        ok: result.is_ok(),
    });
    result
}
