//! Confirming an address with the link of a mail.

use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::limits::Attempt;
use crate::accounts::changes::{self, Refused};
use crate::accounts::links::{self, Link, Purpose};
use crate::accounts::{self, Caller};
use crate::app::App;
use crate::http::{Api, ApiError, Json, Problem, Valid, commit_status};
use crate::provenance::{self, Provenance};
use crate::users::events::UserConfirmationRequested;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(confirm_email))
        .routes(routes!(send_again))
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "token": "ttm_8vQm0Zr1c5xT2kWn7yBd4sLf9hJ" }))]
struct Confirm {
    /// The last part of the link.
    #[garde(length(max = 100))]
    #[schema(max_length = 100)]
    token: String,
}

/// Confirm an address with the token of the link that was sent to it. A requested new
/// address becomes the address of the account.
#[utoipa::path(post, path = "/auth/email/confirm", tag = "auth", request_body = Confirm, responses(
    (status = 204),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "The address has an account by now"),
))]
async fn confirm_email(
    State(app): State<App>,
    Valid(Json(body)): Valid<Json<Confirm>>,
) -> Result<StatusCode, ApiError> {
    use_link(&app, &body.token).await
}

/// Confirms an address. The response does not describe the account: the address may be
/// mistyped and belong to somebody else.
pub(super) async fn use_link(app: &App, token: &str) -> Result<StatusCode, ApiError> {
    let now = app.now();
    let mut tx = app.db().begin().await?;
    let Link { user, email } = links::find_to_use(&mut tx, Purpose::Confirm, token, now)
        .await?
        .ok_or_else(invalid_link)?;
    let user = accounts::find_to_change(&mut tx, user)
        .await?
        .ok_or_else(invalid_link)?;
    match changes::confirm(&mut tx, user, &email, now).await? {
        Ok(_) => commit_status(tx, StatusCode::NO_CONTENT).await,
        Err(Refused::Taken) => Err(ApiError::Conflict("This address has an account by now.")),
        Err(_) => Err(invalid_link()),
    }
}

fn invalid_link() -> ApiError {
    ApiError::field(
        "token",
        "is invalid or has expired: request a new link, which works once and for 7 days",
    )
}

/// Send the link again: to the requested new address, or else to the present one.
#[utoipa::path(post, path = "/auth/email/resend", tag = "auth", responses(
    (status = 202, description = "A mail is on its way, unless the address is confirmed"),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many requests; `Retry-After` gives the time to wait"),
))]
async fn send_again(State(app): State<App>, caller: Caller) -> Result<StatusCode, ApiError> {
    Attempt::link(&app, caller.user).begin(&app).await?;
    let mut tx = app.db().begin().await?;
    let user = accounts::find(&mut tx, caller.user)
        .await?
        .ok_or(ApiError::NotFound)?;
    let event = UserConfirmationRequested {
        id: user.id.to_string(),
        email: user.pending_email.unwrap_or(user.email),
    };
    let known = Provenance::by(user.id, vec![user.id]);
    provenance::publish(&mut tx, event, user.id, known, app.now()).await?;
    commit_status(tx, StatusCode::ACCEPTED).await
}
