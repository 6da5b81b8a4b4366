//! The auth module's routes.

use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use serde::{Deserialize, Serialize};
use termitary::Conn;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::current_password::prove;
use super::events::UserLoggedIn;
use super::limits::Attempt;
use super::store;
use crate::accounts::{
    self, Caller, Draft, PasswordsBusy, Role, Session, User, Which, changes, check_password,
    normal_email,
};
use crate::app::App;
use crate::http::{
    Api, ApiError, Client, Id, Json, Page, Problem, Valid, check_both, commit, commit_status,
};
use crate::provenance::{self, Provenance};
use crate::security::{Event, Note};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(logout))
        .routes(routes!(me))
        .routes(routes!(change_password))
        .routes(routes!(list_sessions, end_other_sessions))
        .routes(routes!(end_session))
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "email": "ada@example.com", "name": "Ada", "password": "a walk in the rain" }))]
struct Register {
    /// The address to log in with.
    #[garde(skip)]
    #[schema(format = Email, max_length = 254)]
    email: String,
    /// The name that others see.
    #[garde(skip)]
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// 8 to 256 characters, none of the well-known ones.
    #[garde(custom(check_password))]
    #[schema(format = Password, min_length = 8, max_length = 256)]
    password: String,
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "email": "ada@example.com", "password": "a walk in the rain" }))]
pub(super) struct Login {
    #[garde(length(max = 254))]
    #[schema(format = Email)]
    pub(super) email: String,
    #[garde(length(max = 8192))]
    #[schema(format = Password)]
    pub(super) password: String,
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "currentPassword": "a walk in the rain", "newPassword": "a walk in the sun" }))]
struct ChangePassword {
    #[garde(length(max = 8192))]
    #[schema(format = Password)]
    current_password: String,
    #[garde(custom(check_password))]
    #[schema(format = Password, min_length = 8, max_length = 256)]
    new_password: String,
}

/// A user and the token of their new session.
#[derive(Serialize, ToSchema)]
pub(super) struct LoggedIn {
    user: User,
    /// Send it as `Authorization: Bearer <token>`. It is not shown again.
    pub(super) token: String,
}

/// Register: create an account and log in.
#[utoipa::path(post, path = "/auth/register", tag = "auth", request_body = Register, responses(
    (status = 201, body = LoggedIn),
    (status = 429, body = Problem, content_type = "application/problem+json"),
))]
async fn register(
    State(app): State<App>,
    client: Client,
    Json(body): Json<Register>,
) -> Result<(StatusCode, Json<LoggedIn>), ApiError> {
    let draft = Draft::new(&body.email, &body.name, Role::User);
    check_both(&draft, &body)?;
    accounts::check_own_password(&body.password, &draft.email, &draft.name)
        .map_err(|why| ApiError::field("password", why))?;
    Attempt::registration(&app, client.address)
        .begin(&app)
        .await?;
    // Hashed even if the address is taken, so that both cases cost the same.
    let hash = app.passwords().hash(&body.password).await?;
    let mut tx = app.db().begin().await?;
    let id = app.db().clock().new_id();
    let Ok(user) = accounts::create(&mut tx, draft, &hash, None, id, app.now()).await? else {
        return Err(cannot_use_address());
    };
    store::record_network(&mut tx, &app, id, &client.network()).await?;
    let token = open_session(&app, &mut tx, id, &client).await?;
    commit(tx, StatusCode::CREATED, LoggedIn { user, token }).await
}

async fn open_session(
    app: &App,
    conn: &mut Conn,
    user: Uuid,
    client: &Client,
) -> Result<String, ApiError> {
    let (address, agent) = (client.address, client.agent.as_deref());
    Ok(app.sessions().open(conn, user, address, agent).await?)
}

/// The one error for every address that cannot have a new account.
fn cannot_use_address() -> ApiError {
    ApiError::field("email", "cannot be registered")
}

/// Log in.
#[utoipa::path(post, path = "/auth/login", tag = "auth", request_body = Login, responses(
    (status = 200, body = LoggedIn),
    (status = 401, body = Problem, content_type = "application/problem+json", description = "The address or the password is wrong"),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many attempts; `Retry-After` gives the time to wait"),
))]
pub(super) async fn login(
    State(app): State<App>,
    client: Client,
    Valid(Json(body)): Valid<Json<Login>>,
) -> Result<(StatusCode, Json<LoggedIn>), ApiError> {
    let email = normal_email(&body.email);
    let attempt = Attempt::login(&app, &email, client.address);
    let attempt = attempt.begin(&app).await?;
    let mut reader = app.db().read().await?;
    let known = accounts::credentials(&mut reader, &email).await?;
    drop(reader);
    let stored = known.as_ref().map(|(_, hash)| hash.as_str());
    let fits = match app.passwords().verify(&body.password, stored).await {
        Ok(fits) => fits,
        Err(busy) => {
            if matches!(busy, PasswordsBusy::Full) {
                attempt.undo(&app).await?;
            }
            return Err(busy.into());
        }
    };
    if !fits {
        let user = known.as_ref().map(|(user, _)| *user);
        let note = Note::new(Event::LoginFailed, client.address).user(user);
        note.log(app.security());
    }
    let Some((user, stored)) = known.filter(|_| fits) else {
        return Err(wrong_login());
    };
    let renewed = if app.passwords().is_outdated(&stored) {
        Some(app.passwords().hash(&body.password).await?)
    } else {
        None
    };

    let now = app.now();
    let mut tx = app.db().begin().await?;
    // The user may be deleted or the password changed while it was being checked.
    if accounts::password_hash_to_change(&mut tx, user)
        .await?
        .as_ref()
        != Some(&stored)
    {
        return Err(wrong_login());
    }
    if let Some(renewed) = renewed {
        accounts::renew_password_hash(&mut tx, user, &renewed).await?;
    }
    let user = accounts::find(&mut tx, user)
        .await?
        .ok_or_else(wrong_login)?;
    attempt.succeeded(&mut tx).await?;
    store::record_network(&mut tx, &app, user.id, &client.network()).await?;
    let token = open_session(&app, &mut tx, user.id, &client).await?;
    let event = UserLoggedIn {
        user_id: user.id.to_string(),
        email: user.email.clone(),
        ip_address: Some(client.address.to_string()),
        user_agent: client.agent,
    };
    let by_user = Provenance::by(user.id, vec![user.id]);
    provenance::publish(&mut tx, event, user.id, by_user, now).await?;
    commit(tx, StatusCode::OK, LoggedIn { user, token }).await
}

fn wrong_login() -> ApiError {
    ApiError::Unauthorized("The address or the password is wrong.")
}

/// Log out: end the session of this request.
#[utoipa::path(post, path = "/auth/logout", tag = "auth", responses((status = 204)))]
async fn logout(
    State(app): State<App>,
    caller: Caller,
    client: Client,
) -> Result<StatusCode, ApiError> {
    let mut tx = app.db().begin().await?;
    accounts::sessions::end(&mut tx, caller.user, Which::Only(caller.session)).await?;
    let done = commit_status(tx, StatusCode::NO_CONTENT).await?;
    app.sessions_ended();
    log_end(&app, caller, &client, "logged out");
    Ok(done)
}

fn log_end(app: &App, caller: Caller, client: &Client, how: &str) {
    Note::new(Event::SessionEnded, client.address)
        .user(caller.user)
        .detail(how)
        .log(app.security());
}

/// Who am I?
#[utoipa::path(get, path = "/auth/me", tag = "auth", responses((status = 200, body = User)))]
async fn me(State(app): State<App>, caller: Caller) -> Result<Json<User>, ApiError> {
    let mut reader = app.db().read().await?;
    accounts::find(&mut reader, caller.user)
        .await?
        .map(Json)
        .ok_or(ApiError::NotFound)
}

/// Change the password. Every session ends; the response contains the token of a new one.
#[utoipa::path(post, path = "/auth/password", tag = "auth", request_body = ChangePassword, responses(
    (status = 200, body = LoggedIn),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many attempts; `Retry-After` gives the time to wait"),
))]
async fn change_password(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Valid(Json(body)): Valid<Json<ChangePassword>>,
) -> Result<(StatusCode, Json<LoggedIn>), ApiError> {
    // A stolen session must not allow guessing the password.
    let proven = prove(&app, caller, &client, Some(&body.current_password)).await?;
    let new = app.passwords().hash(&body.new_password).await?;

    let now = app.now();
    let mut tx = app.db().begin().await?;
    if accounts::password_hash_to_change(&mut tx, caller.user)
        .await?
        .as_ref()
        != Some(&proven.hash)
    {
        return Err(ApiError::Conflict(
            "The password was changed elsewhere at the same moment.",
        ));
    }
    let user = accounts::find(&mut tx, caller.user)
        .await?
        .ok_or(ApiError::NotFound)?;
    accounts::check_own_password(&body.new_password, &user.email, &user.name)
        .map_err(|why| ApiError::field("newPassword", why))?;
    proven.clear_failures(&mut tx).await?;
    changes::set_password(&mut tx, &user, &new, Some(user.id), now).await?;
    let token = open_session(&app, &mut tx, caller.user, &client).await?;
    let user = User {
        updated_at: now,
        ..user
    };
    let done = commit(tx, StatusCode::OK, LoggedIn { user, token }).await?;
    app.sessions_ended();
    Note::new(Event::PasswordChanged, client.address)
        .user(caller.user)
        .detail("all sessions ended")
        .log(app.security());
    Ok(done)
}

/// Where am I logged in? The newest session first.
#[utoipa::path(get, path = "/auth/sessions", tag = "auth", responses((status = 200, body = Page<Session>)))]
async fn list_sessions(
    State(app): State<App>,
    caller: Caller,
) -> Result<Json<Page<Session>>, ApiError> {
    let items = app.sessions().list(caller).await?;
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Log out everywhere else: end every session but this one.
#[utoipa::path(delete, path = "/auth/sessions", tag = "auth", responses((status = 204)))]
async fn end_other_sessions(
    State(app): State<App>,
    caller: Caller,
    client: Client,
) -> Result<StatusCode, ApiError> {
    let mut tx = app.db().begin().await?;
    accounts::sessions::end(&mut tx, caller.user, Which::AllBut(caller.session)).await?;
    tx.commit().await?;
    app.sessions_ended();
    log_end(&app, caller, &client, "all others ended");
    Ok(StatusCode::NO_CONTENT)
}

/// End one of my sessions.
#[utoipa::path(delete, path = "/auth/sessions/{id}", tag = "auth",
    params(("id" = uuid::Uuid, Path, description = "The session's id")),
    responses(
        (status = 204),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
async fn end_session(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    let mut tx = app.db().begin().await?;
    let ended = accounts::sessions::end(&mut tx, caller.user, Which::Only(id)).await?;
    tx.commit().await?;
    if ended > 0 {
        app.sessions_ended();
        log_end(&app, caller, &client, "one ended");
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::NotFound)
    }
}
