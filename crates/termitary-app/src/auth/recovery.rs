//! A new password through a link in a mail.

use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use serde::Deserialize;
use termitary::Conn;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::events::PasswordForgotten;
use super::limits::Attempt;
use crate::accounts::links::{self, Link, Purpose};
use crate::accounts::{self, changes, check_password, normal_email};
use crate::app::App;
use crate::http::{Api, ApiError, Client, Json, Problem, Valid, commit_status};
use crate::security::{Event, Note};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(forgot))
        .routes(routes!(reset))
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "email": "ada@example.com" }))]
struct Forgot {
    /// The address of the account.
    #[garde(length(max = 254))]
    #[schema(format = Email, max_length = 254)]
    email: String,
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "token": "ttm_8vQm0Zr1c5xT2kWn7yBd4sLf9hJ", "newPassword": "a walk in the sun" }))]
struct Reset {
    /// The last part of the link.
    #[garde(length(max = 100))]
    #[schema(max_length = 100)]
    token: String,
    /// 8 to 256 characters, none of the well-known ones.
    #[garde(custom(check_password))]
    #[schema(format = Password, min_length = 8, max_length = 256)]
    new_password: String,
}

/// Forgot the password? Sends a link that sets a new one and works once, for an hour. The
/// response is the same for an address without an account.
#[utoipa::path(post, path = "/auth/password/forgot", tag = "auth", request_body = Forgot, responses(
    (status = 202, description = "If the address has an account, a mail is on its way"),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many requests; `Retry-After` gives the time to wait"),
))]
async fn forgot(
    State(app): State<App>,
    client: Client,
    Valid(Json(body)): Valid<Json<Forgot>>,
) -> Result<StatusCode, ApiError> {
    ask_for_link(&app, &client, &body.email).await
}

/// Publishes the request. No account is looked up here, so every address costs the same.
pub(super) async fn ask_for_link(
    app: &App,
    client: &Client,
    email: &str,
) -> Result<StatusCode, ApiError> {
    Attempt::reset(app, client.address).begin(app).await?;
    let mut tx = app.db().begin().await?;
    let event = PasswordForgotten {
        email: normal_email(email),
    };
    tx.publish(event).await?;
    commit_status(tx, StatusCode::ACCEPTED).await
}

/// Set a new password with the token of a link. Every session ends.
#[utoipa::path(post, path = "/auth/password/reset", tag = "auth", request_body = Reset, responses(
    (status = 204),
))]
async fn reset(
    State(app): State<App>,
    client: Client,
    Valid(Json(body)): Valid<Json<Reset>>,
) -> Result<StatusCode, ApiError> {
    use_link(&app, &client, &body.token, &body.new_password).await
}

pub(super) async fn use_link(
    app: &App,
    client: &Client,
    token: &str,
    new_password: &str,
) -> Result<StatusCode, ApiError> {
    // Checked before the expensive hash, which strangers must not cause.
    let mut reader = app.db().read().await?;
    find(app, &mut reader, token).await?;
    drop(reader);
    let hash = app.passwords().hash(new_password).await?;
    let now = app.now();
    let mut tx = app.db().begin().await?;
    let link = links::find_to_use(&mut tx, Purpose::Reset, token, now)
        .await?
        .ok_or_else(invalid_link)?;
    let user = accounts::find_to_change(&mut tx, link.user)
        .await?
        .filter(|user| user.email == link.email)
        .ok_or_else(invalid_link)?;
    accounts::check_own_password(new_password, &user.email, &user.name)
        .map_err(|why| ApiError::field("newPassword", why))?;
    changes::set_password(&mut tx, &user, &hash, Some(user.id), now).await?;
    // The link proves the address too.
    changes::mark_confirmed(&mut tx, &user, now).await?;
    let done = commit_status(tx, StatusCode::NO_CONTENT).await?;
    app.sessions_ended();
    Note::new(Event::PasswordChanged, client.address)
        .user(user.id)
        .detail("by a link, all sessions ended")
        .log(app.security());
    Ok(done)
}

async fn find(app: &App, conn: &mut Conn, token: &str) -> Result<Link, ApiError> {
    links::find(conn, Purpose::Reset, token, app.now())
        .await?
        .ok_or_else(invalid_link)
}

fn invalid_link() -> ApiError {
    ApiError::field(
        "token",
        "is invalid or has expired: request a new link, which works once and for an hour",
    )
}
