//! The functions of the auth module that other features call.

use axum::extract::State;
use uuid::Uuid;

use super::limits::Attempt;
use super::routes;
use crate::accounts::{self, Caller, Which};
use crate::app::App;
use crate::http::{ApiError, Client, Json, Valid, check};

pub(crate) use super::current_password::prove;

/// Logs in and out again, for a page that is shown once. It counts and publishes like
/// every login.
pub(crate) async fn sign_in_once(
    app: &App,
    client: Client,
    email: String,
    password: String,
) -> Result<Caller, ApiError> {
    let login = routes::Login { email, password };
    check(&login)?;
    let login = Valid(Json(login));
    let (_, Json(logged_in)) = routes::login(State(app.clone()), client, login).await?;
    let caller = app
        .sessions()
        .of_token(&logged_in.token)
        .await?
        .ok_or(ApiError::NotFound)?;
    let mut tx = app.db().begin().await?;
    accounts::sessions::end(&mut tx, caller.user, Which::Only(caller.session)).await?;
    tx.commit().await?;
    Ok(caller)
}

/// Counts a request of `user` for a mail with a link, or returns the error that tells how
/// long to wait.
pub(crate) async fn count_link(app: &App, user: Uuid) -> Result<(), ApiError> {
    Attempt::link(app, user).begin(app).await.map(drop)
}
