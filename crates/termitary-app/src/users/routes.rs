//! The users module's routes. A user is visible only to themselves and to admins:
//! everybody else gets 404.

use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use termitary::Tx;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::events::{UserConfirmationRequested, UserDeleted};
use crate::accounts::{self, Caller, Draft, Role, User, changes, check_password};
use crate::app::App;
use crate::auth::doors as auth;
use crate::http::{
    Api, ApiError, Client, Id, Json, JsonOrNothing, Page, Paging, Params, Problem, Valid, check,
    check_both, commit, not_null,
};
use crate::provenance::{self, Provenance};
use crate::security::{Event, Note};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, change, delete))
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "email": "bob@example.com", "name": "Bob", "password": "a walk in the rain", "role": "user" }))]
struct CreateUser {
    /// The address to log in with.
    #[garde(skip)]
    #[schema(format = Email, max_length = 254)]
    email: String,
    #[garde(skip)]
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// 8 to 256 characters, none of the well-known ones.
    #[garde(custom(check_password))]
    #[schema(format = Password, min_length = 8, max_length = 256)]
    password: String,
    /// Default: `user`.
    #[garde(skip)]
    role: Option<Role>,
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "name": "Ada L." }))]
struct ChangeUser {
    /// Becomes the address once the link that is sent to it is followed; until then it
    /// is the user's `pendingEmail`. The present address withdraws it.
    #[garde(skip)]
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, format = Email, max_length = 254)]
    email: Option<String>,
    #[garde(skip)]
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 100)]
    name: Option<String>,
    /// Admins only.
    #[garde(skip)]
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    role: Option<Role>,
    /// Your own password, to change an address.
    #[garde(skip)]
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, format = Password)]
    current_password: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "currentPassword": "a walk in the rain" }))]
struct DeleteUser {
    /// Your own password.
    #[schema(format = Password)]
    current_password: String,
}

/// List all users, the oldest first. Admins only.
#[utoipa::path(get, path = "/users", tag = "users", params(Paging), responses(
    (status = 200, body = Page<User>),
    (status = 403, body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<User>>, ApiError> {
    caller.admin_only()?;
    let limit = paging.limit()?;
    let mut reader = app.db().read().await?;
    let rows = accounts::page(&mut reader, paging.after()?, i64::from(limit) + 1).await?;
    Ok(Json(Page::cut(rows, limit, |user: &User| user.id)))
}

/// Create an account for somebody. Admins only.
#[utoipa::path(post, path = "/users", tag = "users", request_body = CreateUser, responses(
    (status = 201, body = User),
    (status = 403, body = Problem, content_type = "application/problem+json"),
))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Json(body): Json<CreateUser>,
) -> Result<(StatusCode, Json<User>), ApiError> {
    caller.admin_only()?;
    let draft = Draft::new(&body.email, &body.name, body.role.unwrap_or(Role::User));
    check_both(&draft, &body)?;
    accounts::check_own_password(&body.password, &draft.email, &draft.name)
        .map_err(|why| ApiError::field("password", why))?;
    let hash = app.passwords().hash(&body.password).await?;
    let mut tx = app.db().begin().await?;
    let id = app.db().clock().new_id();
    let Ok(user) =
        accounts::create(&mut tx, draft, &hash, Some(caller.user), id, app.now()).await?
    else {
        return Err(ApiError::field("email", "already has an account"));
    };
    let (id, role) = (user.id, user.role);
    let done = commit(tx, StatusCode::CREATED, user).await?;
    if role == Role::Admin {
        log_role(&app, caller, &client, id, role);
    }
    Ok(done)
}

fn log_role(app: &App, caller: Caller, client: &Client, user: Uuid, role: Role) {
    Note::new(Event::RoleChanged, client.address)
        .user(user)
        .actor(caller.user)
        .detail(format!("now {role}"))
        .log(app.security());
}

/// Read a user: yourself, or anyone as admin.
#[utoipa::path(get, path = "/users/{id}", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses(
        (status = 200, body = User),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
async fn read(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Json<User>, ApiError> {
    if !caller.may_act_for(id) {
        return Err(ApiError::NotFound);
    }
    let mut reader = app.db().read().await?;
    accounts::find(&mut reader, id)
        .await?
        .map(Json)
        .ok_or(ApiError::NotFound)
}

/// Change a user: yourself, or anyone as admin. Only admins change roles, and a change of
/// role ends the user's sessions. A new address needs your current password and takes
/// effect when the link that is sent to it is followed: the response is the same whether
/// it has an account or not.
#[utoipa::path(patch, path = "/users/{id}", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = ChangeUser,
    responses(
        (status = 200, body = User),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The last admin stays one"),
        (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many attempts or addresses; `Retry-After` gives the time to wait"),
    ))]
async fn change(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Id(id): Id,
    Valid(Json(body)): Valid<Json<ChangeUser>>,
) -> Result<Json<User>, ApiError> {
    if !caller.may_act_for(id) {
        return Err(ApiError::NotFound);
    }
    let mut reader = app.db().read().await?;
    let old = accounts::find(&mut reader, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    drop(reader);
    let draft = draft(&body, &old);
    check(&draft)?;
    let new_address = draft.email != old.email;
    let proven = if new_address {
        let proven = auth::prove(&app, caller, &client, body.current_password.as_deref()).await?;
        auth::count_link(&app, caller.user).await?;
        Some(proven)
    } else {
        None
    };

    let mut tx = app.db().begin().await?;
    let old = accounts::find_to_change(&mut tx, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    if let Some(proven) = &proven {
        proven.clear_failures(&mut tx).await?;
    }
    let requested = Changes {
        role: body.role,
        name: body.name.is_some().then_some(draft.name),
        email: body.email.is_some().then_some(draft.email),
    };
    let old_role = old.role;
    let user = requested.apply(&mut tx, &app, caller, old).await?;
    tx.commit().await?;
    if new_address {
        Note::new(Event::AddressChangeRequested, client.address)
            .user(id)
            .actor(caller.user)
            .log(app.security());
    }
    if user.role != old_role {
        app.sessions_ended();
        log_role(&app, caller, &client, id, user.role);
    }
    Ok(Json(user))
}

fn draft(body: &ChangeUser, old: &User) -> Draft {
    Draft::new(
        body.email.as_deref().unwrap_or(&old.email),
        body.name.as_deref().unwrap_or(&old.name),
        body.role.unwrap_or(old.role),
    )
}

/// The requested changes of a user.
struct Changes {
    role: Option<Role>,
    name: Option<String>,
    email: Option<String>,
}

impl Changes {
    async fn apply(
        self,
        tx: &mut Tx,
        app: &App,
        caller: Caller,
        old: User,
    ) -> Result<User, ApiError> {
        let now = app.now();
        let mut fields = Vec::new();
        let mut user = old.clone();
        if let Some(role) = self.role.filter(|role| *role != old.role) {
            change_role(tx, caller, &old, role, now).await?;
            fields.push(("role", json!(role)));
            user.role = role;
        }
        if let Some(name) = self.name.filter(|name| *name != old.name) {
            fields.push(("name", json!(name)));
            user.name = name;
        }
        // The same address requested again gets another mail.
        let asks = self.email.clone().filter(|email| *email != old.email);
        if self.email.is_some() {
            user.pending_email.clone_from(&asks);
        }
        if fields.is_empty() && asks.is_none() && user.pending_email == old.pending_email {
            return Ok(old);
        }
        user.updated_at = now;
        accounts::update(tx, &user).await?;
        let by_caller = || Provenance::by(caller.user, vec![user.id]);
        if !fields.is_empty() {
            let event = changes::updated(&user, fields);
            provenance::publish(tx, event, user.id, by_caller(), now).await?;
        }
        if let Some(email) = asks {
            let id = user.id.to_string();
            let event = UserConfirmationRequested { id, email };
            provenance::publish(tx, event, user.id, by_caller(), now).await?;
        }
        Ok(user)
    }
}

async fn change_role(
    tx: &mut Tx,
    caller: Caller,
    user: &User,
    role: Role,
    now: Timestamp,
) -> Result<(), ApiError> {
    if !caller.is_admin() {
        return Err(ApiError::Forbidden("Only admins change roles."));
    }
    let keep = (caller.user == user.id).then_some(caller.session);
    match changes::set_role(tx, user, role, keep, now).await? {
        Ok(_) => Ok(()),
        Err(_) => Err(last_admin()),
    }
}

fn last_admin() -> ApiError {
    ApiError::Conflict("This is the last admin: create another one first.")
}

/// Delete a user: yourself, or anyone as admin, with your current password. Their
/// sessions end at once; a worker hands over or deletes their todos.
#[utoipa::path(delete, path = "/users/{id}", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = DeleteUser,
    responses(
        (status = 204),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The last admin stays"),
        (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many attempts; `Retry-After` gives the time to wait"),
    ))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Id(id): Id,
    JsonOrNothing(body): JsonOrNothing<DeleteUser>,
) -> Result<StatusCode, ApiError> {
    if !caller.may_act_for(id) {
        return Err(ApiError::NotFound);
    }
    let proven = auth::prove(&app, caller, &client, Some(&body.current_password)).await?;
    let mut tx = app.db().begin().await?;
    let user = accounts::find_to_change(&mut tx, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    if changes::is_last_admin(&mut tx, &user).await? {
        return Err(last_admin());
    }
    proven.clear_failures(&mut tx).await?;
    accounts::delete(&mut tx, id).await?;
    let event = UserDeleted {
        id: id.to_string(),
        email: user.email,
    };
    let by_caller = Provenance::by(caller.user, vec![id]);
    provenance::publish(&mut tx, event, id, by_caller, app.now()).await?;
    tx.commit().await?;
    app.sessions_ended();
    Note::new(Event::AccountDeleted, client.address)
        .user(id)
        .actor(caller.user)
        .log(app.security());
    Ok(StatusCode::NO_CONTENT)
}
