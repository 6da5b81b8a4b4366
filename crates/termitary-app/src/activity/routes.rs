//! The feed over HTTP.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::store::{self, Entry, Row};
use crate::app::App;
use crate::http::{Api, ApiError, Caller, Json, Page, Paging, Params};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// What happened, the newest first: with you and your todos; as admin, with all.
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
        Page::cut(rows, limit, |row: &Row| row.seq).map(|row| row.entry),
    ))
}
