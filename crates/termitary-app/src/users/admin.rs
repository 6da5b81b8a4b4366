//! Administration of other users' accounts.

use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::accounts::{self, Caller, Which, changes, check_password};
use crate::app::App;
use crate::auth::doors as auth;
use crate::http::{Api, ApiError, Client, Id, Json, Problem, Valid, commit_status};
use crate::security::{Event, Note};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(end_sessions))
        .routes(routes!(set_password))
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "newPassword": "a walk in the sun", "currentPassword": "a walk in the rain" }))]
struct SetPassword {
    /// 8 to 256 characters, none of the well-known ones.
    #[garde(custom(check_password))]
    #[schema(format = Password, min_length = 8, max_length = 256)]
    new_password: String,
    /// The admin's own password.
    #[garde(skip)]
    #[schema(format = Password)]
    current_password: String,
}

/// End every session of a user: your own, this one too, or anyone's as admin.
#[utoipa::path(delete, path = "/users/{id}/sessions", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses(
        (status = 204),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
async fn end_sessions(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    if !caller.may_act_for(id) {
        return Err(ApiError::NotFound);
    }
    let mut tx = app.db().begin().await?;
    accounts::find(&mut tx, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let ended = accounts::sessions::end(&mut tx, id, Which::All).await?;
    tx.commit().await?;
    app.sessions_ended();
    Note::new(Event::SessionEnded, client.address)
        .user(id)
        .actor(caller.user)
        .detail(format!("all {ended} ended"))
        .log(app.security());
    Ok(StatusCode::NO_CONTENT)
}

/// Set a user's password, with your own current one. Admins only. The user's sessions
/// end, and a confirmed address gets a mail.
#[utoipa::path(post, path = "/users/{id}/password", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = SetPassword,
    responses(
        (status = 204),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many attempts; `Retry-After` gives the time to wait"),
    ))]
async fn set_password(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Id(id): Id,
    Valid(Json(body)): Valid<Json<SetPassword>>,
) -> Result<StatusCode, ApiError> {
    caller.admin_only()?;
    let proven = auth::prove(&app, caller, &client, Some(&body.current_password)).await?;
    let hash = app.passwords().hash(&body.new_password).await?;
    let mut tx = app.db().begin().await?;
    let user = accounts::find_to_change(&mut tx, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    accounts::check_own_password(&body.new_password, &user.email, &user.name)
        .map_err(|why| ApiError::field("newPassword", why))?;
    proven.clear_failures(&mut tx).await?;
    changes::set_password(&mut tx, &user, &hash, Some(caller.user), app.now()).await?;
    let done = commit_status(tx, StatusCode::NO_CONTENT).await?;
    app.sessions_ended();
    Note::new(Event::PasswordChanged, client.address)
        .user(id)
        .actor(caller.user)
        .detail("by an admin, all sessions ended")
        .log(app.security());
    Ok(done)
}
