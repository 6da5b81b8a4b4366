//! What workers do for the users module.

use termitary::clock::days;
use termitary::prelude::*;

use super::events::UserInactiveCheck;
use crate::accounts::links;
use crate::app::App;
use crate::provenance;

/// How long it is known who did what an event says. The activity feed, which
/// is written from it, keeps its own copy.
const PROVENANCE_KEPT: std::time::Duration = days(90);

/// Notes about events that were handled long ago are removed, and links that
/// expired.
pub(super) async fn prune(
    _: UserInactiveCheck,
    State(app): State<App>,
    ledger: Ledger,
) -> HandlerResult {
    let kept_us = PROVENANCE_KEPT.as_micros() as i64;
    let mut tx = ledger.begin().await?;
    provenance::forget(&mut tx, app.now().as_microsecond().saturating_sub(kept_us)).await?;
    links::prune(&mut tx, app.now()).await?;
    tx.commit().await
}
