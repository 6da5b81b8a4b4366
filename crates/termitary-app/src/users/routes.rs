//! The users module's routes. A user's id is nobody else's business: for
//! everyone but themselves and admins it answers 404.

use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::events::{UserDeleted, UserUpdated};
use super::store;
use crate::accounts::{self, Draft, Role, User, check_password};
use crate::app::App;
use crate::http::{
    Api, ApiError, Caller, Client, Id, Json, Page, Paging, Params, Problem, Valid, check,
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
    /// `user` where left out.
    #[garde(skip)]
    role: Option<Role>,
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ChangeUser {
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
    let mut reader = app.db().reader().acquire().await?;
    let rows = store::list(&mut reader, paging.after()?, limit).await?;
    Ok(Json(Page::cut(rows, limit, |user: &User| user.id)))
}

/// Make an account for somebody. Admins only.
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
    let hash = app.passwords().hash(&body.password).await?;
    let mut tx = app.db().begin().await?;
    let id = app.db().clock().new_id();
    let Ok(user) =
        accounts::create(&mut tx, draft, &hash, Some(caller.user), id, app.now()).await?
    else {
        return Err(ApiError::field("email", "has an account already"));
    };
    let (id, role) = (user.id, user.role);
    let done = commit(tx, StatusCode::CREATED, user).await?;
    if role == Role::Admin {
        note_role(&app, caller, &client, id, role);
    }
    Ok(done)
}

fn note_role(app: &App, caller: Caller, client: &Client, user: Uuid, role: Role) {
    Note::new(Event::RoleChanged, client.address)
        .user(user)
        .actor(caller.user)
        .detail(format!("now {role}"))
        .log(app);
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
    let mut reader = app.db().reader().acquire().await?;
    accounts::find(&mut reader, id)
        .await?
        .map(Json)
        .ok_or(ApiError::NotFound)
}

/// Change a user: yourself, or anyone as admin. Only admins change roles, and
/// a change of role ends the user's sessions.
#[utoipa::path(patch, path = "/users/{id}", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = ChangeUser,
    responses(
        (status = 200, body = User),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The last admin stays one"),
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
    let now = app.now();
    let mut tx = app.db().begin().await?;
    let old = accounts::find(&mut tx, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    if body.role.is_some_and(|role| role != old.role) {
        if !caller.is_admin() {
            return Err(ApiError::Forbidden("Only an admin changes roles."));
        }
        if store::is_last_admin(&mut tx, &old).await? {
            return Err(ApiError::Conflict(
                "This is the last admin: make another one first.",
            ));
        }
        let keep = if caller.user == id {
            caller.session
        } else {
            Uuid::nil()
        };
        store::end_sessions(&mut tx, id, keep).await?;
    }
    let draft = Draft::new(
        body.email.as_deref().unwrap_or(&old.email),
        body.name.as_deref().unwrap_or(&old.name),
        body.role.unwrap_or(old.role),
    );
    check(&draft)?;
    let changes = differences(&old, &draft);
    let old_role = old.role;
    if changes.is_empty() {
        return Ok(Json(old));
    }
    let user = store::touch(
        User {
            email: draft.email,
            name: draft.name,
            role: draft.role,
            ..old
        },
        now,
    );
    if !store::update(&mut tx, &user).await? {
        return Err(ApiError::field("email", "cannot be used"));
    }
    let event = UserUpdated::new(&user, changes);
    let known = Provenance::by(caller.user, vec![id]);
    provenance::publish(&mut tx, event, id, known, now).await?;
    tx.commit().await?;
    if user.role != old_role {
        note_role(&app, caller, &client, id, user.role);
    }
    Ok(Json(user))
}

fn differences(old: &User, new: &Draft) -> Vec<(&'static str, Value)> {
    let mut changes = Vec::new();
    if old.email != new.email {
        changes.push(("email", json!(new.email)));
    }
    if old.name != new.name {
        changes.push(("name", json!(new.name)));
    }
    if old.role != new.role {
        changes.push(("role", json!(new.role)));
    }
    changes
}

/// Delete a user: yourself, or anyone as admin. Their sessions end at once;
/// a worker hands on or removes their todos.
#[utoipa::path(delete, path = "/users/{id}", tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses(
        (status = 204),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The last admin stays"),
    ))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    if !caller.may_act_for(id) {
        return Err(ApiError::NotFound);
    }
    let mut tx = app.db().begin().await?;
    let user = accounts::find(&mut tx, id)
        .await?
        .ok_or(ApiError::NotFound)?;
    if store::is_last_admin(&mut tx, &user).await? {
        return Err(ApiError::Conflict(
            "This is the last admin: make another one first.",
        ));
    }
    store::delete(&mut tx, id).await?;
    let event = UserDeleted {
        id: id.to_string(),
        email: user.email,
    };
    let known = Provenance::by(caller.user, vec![id]);
    provenance::publish(&mut tx, event, id, known, app.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
