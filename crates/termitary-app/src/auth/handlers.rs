//! The handlers of the auth module.

use termitary::prelude::*;
use uuid::Uuid;

use super::store;
use crate::accounts::{self, Which};
use crate::app::App;
use crate::http::delete_old_responses;
use crate::users::events::{UserDeleted, UserInactiveCheck};

/// Ends the sessions of a deleted user, and deletes their known networks.
pub(super) async fn end_sessions(event: UserDeleted, ledger: Ledger) -> HandlerResult {
    // Users of other services have no sessions here.
    let Ok(user) = event.id.parse::<Uuid>() else {
        return Ok(());
    };
    let mut tx = ledger.begin().await?;
    // Anyone may publish the event: sessions of a user who still exists stay.
    let ended = if accounts::exists(&mut tx, user).await? {
        0
    } else {
        store::delete_networks_of(&mut tx, user).await?;
        accounts::sessions::end(&mut tx, user, Which::All).await?
    };
    tx.commit().await?;
    tracing::info!(sessions = ended, "ended the sessions of a deleted user");
    Ok(())
}

/// Deletes expired sessions and other old rows.
pub(super) async fn expire_sessions(
    _: UserInactiveCheck,
    State(app): State<App>,
    ledger: Ledger,
) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    let deleted = app.sessions().delete_expired(&mut tx).await?;
    store::delete_old_failures(&mut tx, &app).await?;
    store::delete_old_networks(&mut tx, &app).await?;
    delete_old_responses(&mut tx, &app).await?;
    tx.commit().await?;
    tracing::info!(sessions = deleted, "deleted expired sessions");
    Ok(())
}
