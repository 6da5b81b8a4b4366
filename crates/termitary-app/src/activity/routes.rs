//! The route of the feed.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::store::{self, Entry, Row};
use crate::accounts::Caller;
use crate::app::App;
use crate::http::{Api, ApiError, Json, Page, Paging, Params};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// List what happened to you and your todos, the newest first; as admin, everything.
#[utoipa::path(get, path = "/activity", tag = "activity", params(Paging), responses(
    (status = 200, body = Page<Entry>),
))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<Entry>>, ApiError> {
    let limit = paging.limit()?;
    let before = paging.after()?;
    let mut reader = app.db().read().await?;
    let rows = store::list(&mut reader, caller, before, limit).await?;
    Ok(Json(
        Page::cut(rows, limit, |row: &Row| row.seq).filter_map(|row| row.entry),
    ))
}
