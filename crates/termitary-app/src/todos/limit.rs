//! The limit on the open todos of one user. A count for each new todo would cost more
//! than everything else in the request, so it is remembered as a credit.

use uuid::Uuid;

use super::store;
use crate::app::App;
use crate::http::ApiError;

/// Returns an error if the user owns as many open todos as one user may.
pub(super) async fn admit(app: &App, user: Uuid) -> Result<(), ApiError> {
    if app.todo_credit().take(&user) {
        return Ok(());
    }
    let most = app.settings().todos_per_user;
    let open = store::count_open(&mut *app.db().read().await?, user, most).await?;
    if open >= most {
        return Err(ApiError::Conflict(
            "You own as many open todos as one account may: finish or delete some.",
        ));
    }
    // Other processes create some too: half of the room, then another count.
    app.todo_credit().set(user, (most - open) / 2);
    Ok(())
}
