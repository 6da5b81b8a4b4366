//! The routes of todos.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use termitary::{Conn, Tx};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::events::{TodoDeleted, TodoUpdated};
use super::listing::{self, Filter};
use super::todo::{ChangeTodo, CreateTodo, Status, Todo};
use super::{limit, store};
use crate::accounts::{self, Caller};
use crate::app::App;
use crate::http::{Api, ApiError, Id, Json, Page, Params, Problem, Valid, commit};
use crate::provenance::{self, Provenance};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, change, delete))
}

/// List the todos that you own or are assigned to; as admin, all.
#[utoipa::path(get, path = "/todos", tag = "todos", params(Filter), responses(
    (status = 200, body = Page<Todo>),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "A search took too long, or too many run"),
))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(filter): Params<Filter>,
) -> Result<Response, ApiError> {
    listing::list(&app, &filter, caller).await
}

/// Create a todo. You own it; another user may be assigned to it.
#[utoipa::path(post, path = "/todos", tag = "todos", request_body = CreateTodo, responses(
    (status = 201, body = Todo),
    (status = 409, body = Problem, content_type = "application/problem+json", description = "You own as many open todos as one account may"),
))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Valid(Json(body)): Valid<Json<CreateTodo>>,
) -> Result<(StatusCode, Json<Todo>), ApiError> {
    limit::admit(&app, caller.user).await?;
    let now = app.now();
    let todo = Todo {
        id: app.db().clock().new_id(),
        title: body.title.trim().to_owned(),
        description: body.description,
        status: Status::Open,
        owner: caller.user,
        assignee: body.assignee,
        priority: body.priority,
        due_date: body.due_date,
        created_at: now,
        updated_at: now,
    };
    let mut tx = app.db().begin().await?;
    check_assignee(&mut tx, todo.assignee).await?;
    provenance::change_and_publish(
        &mut tx,
        store::insert(&todo),
        todo.created(),
        todo.id,
        Provenance::by(caller.user, todo.viewers()),
        now,
    )
    .await?;
    commit(tx, StatusCode::CREATED, todo).await
}

async fn check_assignee(conn: &mut Conn, assignee: Option<Uuid>) -> Result<(), ApiError> {
    match assignee {
        Some(user) if !accounts::exists_to_refer_to(conn, user).await? => {
            Err(ApiError::field("assignee", "is not the id of a user"))
        }
        _ => Ok(()),
    }
}

/// Read a todo.
#[utoipa::path(get, path = "/todos/{id}", tag = "todos",
    params(("id" = Uuid, Path, description = "The todo's id")),
    responses(
        (status = 200, body = Todo),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
async fn read(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Json<Todo>, ApiError> {
    let mut reader = app.db().read().await?;
    store::find(&mut reader, id, Some(caller))
        .await?
        .map(Json)
        .ok_or(ApiError::NotFound)
}

/// Change a todo. Fields that are left out stay; `null` clears one.
#[utoipa::path(patch, path = "/todos/{id}", tag = "todos",
    params(("id" = Uuid, Path, description = "The todo's id")),
    request_body = ChangeTodo,
    responses(
        (status = 200, body = Todo),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "The owner has as many open todos as one account may"),
    ))]
async fn change(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Valid(Json(body)): Valid<Json<ChangeTodo>>,
) -> Result<Json<Todo>, ApiError> {
    let now = app.now();
    if body.status == Some(Status::Open) {
        admit_reopened(&app, caller, id).await?;
    }
    let mut tx = app.db().begin().await?;
    let old = store::find_to_change(&mut tx, id, Some(caller))
        .await?
        .ok_or(ApiError::NotFound)?;
    let new = changed(&old, body);
    let changes = differences(&old, &new);
    if changes.is_empty() {
        return Ok(Json(old));
    }
    if new.assignee != old.assignee {
        check_assignee(&mut tx, new.assignee).await?;
    }
    let new = Todo {
        updated_at: now,
        ..new
    };
    publish_change(&mut tx, &old, &new, changes, caller.user).await?;
    tx.commit().await?;
    Ok(Json(new))
}

/// A finished todo that is opened again counts like a new one. This runs before the
/// transaction: a wait for a reader in it would hold up every writer.
async fn admit_reopened(app: &App, caller: Caller, id: Uuid) -> Result<(), ApiError> {
    let todo = store::find(&mut *app.db().read().await?, id, Some(caller)).await?;
    match todo {
        Some(todo) if todo.status != Status::Open => limit::admit(app, todo.owner).await,
        _ => Ok(()),
    }
}

/// Writes the change and publishes it. A former assignee may see only that the todo was
/// handed on, not the other changes: these become two events.
async fn publish_change(
    tx: &mut Tx,
    old: &Todo,
    new: &Todo,
    mut changes: Map<String, Value>,
    actor: Uuid,
) -> Result<(), termitary::Error> {
    let (id, now) = (new.id, new.updated_at);
    let former = old
        .assignee
        .filter(|assignee| !new.viewers().contains(assignee));
    let handed_on = match former {
        Some(former) => changes
            .remove("assignee")
            .map(|assignee| (former, assignee)),
        None => None,
    };
    let mut change = store::update(new);
    if let Some((former, assignee)) = handed_on {
        let mut viewers = new.viewers();
        viewers.push(former);
        let event = TodoUpdated {
            id: id.to_string(),
            title: old.title.clone(),
            changes: Map::from_iter([("assignee".to_owned(), assignee)]),
        };
        let by_actor = Provenance::by(actor, viewers);
        let first = std::mem::take(&mut change);
        provenance::change_and_publish(tx, first, event, id, by_actor, now).await?;
        if changes.is_empty() {
            return Ok(());
        }
    }
    let event = TodoUpdated {
        id: id.to_string(),
        title: new.title.clone(),
        changes,
    };
    let by_actor = Provenance::by(actor, new.viewers());
    provenance::change_and_publish(tx, change, event, id, by_actor, now).await
}

fn changed(old: &Todo, body: ChangeTodo) -> Todo {
    let old = old.clone();
    Todo {
        title: body
            .title
            .map_or(old.title, |title| title.trim().to_owned()),
        description: body.description.unwrap_or(old.description),
        status: body.status.unwrap_or(old.status),
        assignee: body.assignee.unwrap_or(old.assignee),
        priority: body.priority.unwrap_or(old.priority),
        due_date: body.due_date.unwrap_or(old.due_date),
        ..old
    }
}

/// Each field that differs, with its new value.
pub(super) fn differences(old: &Todo, new: &Todo) -> Map<String, Value> {
    let fields = [
        ("title", old.title != new.title, json!(new.title)),
        (
            "description",
            old.description != new.description,
            json!(new.description),
        ),
        ("status", old.status != new.status, json!(new.status)),
        ("owner", old.owner != new.owner, json!(new.owner)),
        (
            "assignee",
            old.assignee != new.assignee,
            json!(new.assignee),
        ),
        (
            "priority",
            old.priority != new.priority,
            json!(new.priority),
        ),
        ("dueDate", old.due_date != new.due_date, json!(new.due_date)),
    ];
    fields
        .into_iter()
        .filter(|(_, differs, _)| *differs)
        .map(|(name, _, value)| (name.to_owned(), value))
        .collect()
}

/// Delete a todo with its comments. Only its owner and admins may.
#[utoipa::path(delete, path = "/todos/{id}", tag = "todos",
    params(("id" = Uuid, Path, description = "The todo's id")),
    responses(
        (status = 204),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "Assigned, but not the owner"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    let mut tx = app.db().begin().await?;
    let todo = store::find_to_change(&mut tx, id, Some(caller))
        .await?
        .ok_or(ApiError::NotFound)?;
    if !caller.may_act_for(todo.owner) {
        return Err(ApiError::Forbidden(
            "Only the owner of a todo may delete it.",
        ));
    }
    let by_caller = Provenance::by(caller.user, todo.viewers());
    let event = TodoDeleted {
        id: id.to_string(),
        title: todo.title,
    };
    let change = store::delete(id);
    provenance::change_and_publish(&mut tx, change, event, id, by_caller, app.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
