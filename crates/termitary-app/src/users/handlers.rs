//! The handlers of the users module.

use termitary::clock::days;
use termitary::prelude::*;

use super::events::UserInactiveCheck;
use crate::accounts::links;
use crate::app::App;
use crate::provenance;

/// The time that provenance is kept. The activity feed, which is written from it, keeps
/// its own copy.
const PROVENANCE_KEPT: std::time::Duration = days(90);

/// Deletes old provenance and expired links.
pub(super) async fn prune(
    _: UserInactiveCheck,
    State(app): State<App>,
    ledger: Ledger,
) -> HandlerResult {
    let kept_us = PROVENANCE_KEPT.as_micros() as i64;
    let mut tx = ledger.begin().await?;
    provenance::delete_before(&mut tx, app.now().as_microsecond().saturating_sub(kept_us)).await?;
    links::prune(&mut tx, app.now()).await?;
    tx.commit().await
}
