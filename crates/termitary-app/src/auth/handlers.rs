//! What workers do for the auth module.

use termitary::prelude::*;
use uuid::Uuid;

use super::{known, store};
use crate::app::App;
use crate::http::forget_answers;
use crate::users::events::{UserDeleted, UserInactiveCheck};

/// A deleted user's sessions are removed.
pub(super) async fn end_sessions(event: UserDeleted, ledger: Ledger) -> HandlerResult {
    // Another service's user has no sessions here.
    let Ok(user) = event.id.parse::<Uuid>() else {
        return Ok(());
    };
    let mut tx = ledger.begin().await?;
    let ended = store::end_sessions_of_deleted(&mut tx, user).await?;
    tx.commit().await?;
    tracing::info!(sessions = ended, "ended the sessions of a deleted user");
    Ok(())
}

/// Removes sessions that are over by age or by idling, and what else has aged.
pub(super) async fn expire_sessions(
    _: UserInactiveCheck,
    State(app): State<App>,
    ledger: Ledger,
) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    let removed = store::remove_expired(&mut tx, &app).await?;
    store::remove_old_attempts(&mut tx, &app).await?;
    known::forget(&mut tx, &app).await?;
    forget_answers(&mut tx, &app).await?;
    tx.commit().await?;
    tracing::info!(sessions = removed, "removed sessions that were over");
    Ok(())
}
