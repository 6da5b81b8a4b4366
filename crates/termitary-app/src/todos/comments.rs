//! The routes of comments on a todo.

use axum::extract::State;
use axum::http::StatusCode;
use garde::Validate;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::store::{self, Comment};
use super::todo::check_lines;
use crate::accounts::Caller;
use crate::app::App;
use crate::http::{Api, ApiError, Id, Json, Page, Paging, Params, Problem, Valid, commit};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_comments, add_comment))
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "text": "Done, all but the fern." }))]
struct AddComment {
    #[garde(custom(check_text))]
    #[schema(min_length = 1, max_length = 10_000)]
    text: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde hands its context over by reference"
)]
fn check_text(text: &str, (): &()) -> garde::Result {
    if text.trim().is_empty() || text.chars().count() > 10_000 {
        return Err(garde::Error::new("must have 1 to 10000 characters"));
    }
    check_lines(text, &())
}

/// Read the comments of a todo, the oldest first.
#[utoipa::path(get, path = "/todos/{id}/comments", tag = "todos",
    params(("id" = uuid::Uuid, Path, description = "The todo's id"), Paging),
    responses(
        (status = 200, body = Page<Comment>),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
async fn list_comments(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<Comment>>, ApiError> {
    let limit = paging.limit()?;
    let after = paging.after()?;
    let mut reader = app.db().read().await?;
    store::find(&mut reader, id, Some(caller))
        .await?
        .ok_or(ApiError::NotFound)?;
    let rows = store::comments(&mut reader, id, after, limit).await?;
    Ok(Json(Page::cut(rows, limit, |comment: &Comment| {
        (comment.created_at.as_microsecond(), comment.id)
    })))
}

/// Add a comment to a todo.
#[utoipa::path(post, path = "/todos/{id}/comments", tag = "todos",
    params(("id" = uuid::Uuid, Path, description = "The todo's id")),
    request_body = AddComment,
    responses(
        (status = 201, body = Comment),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
async fn add_comment(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    Valid(Json(body)): Valid<Json<AddComment>>,
) -> Result<(StatusCode, Json<Comment>), ApiError> {
    let comment = Comment {
        id: app.db().clock().new_id(),
        todo: id,
        author: caller.user,
        text: body.text,
        created_at: app.now(),
    };
    let mut tx = app.db().begin().await?;
    store::find_to_change(&mut tx, id, Some(caller))
        .await?
        .ok_or(ApiError::NotFound)?;
    store::insert_comment(&mut tx, &comment).await?;
    commit(tx, StatusCode::CREATED, comment).await
}
