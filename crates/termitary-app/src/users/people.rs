//! Finding teammates, to assign something to them. It gives names and ids, and
//! is slow enough that nobody copies the whole list or tries addresses.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::store;
use crate::accounts::normal_email;
use crate::app::App;
use crate::fold::Needle;
use crate::http::{Api, ApiError, Caller, Json, Page, Params, Problem, decode, encode, page_size};

/// The fewest letters of a name that are looked for.
const SHORTEST: usize = 2;
const LONGEST: usize = 254;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(find))
}

/// Somebody, as everybody here may see them.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
pub(super) struct Person {
    /// What a todo's `assignee` takes.
    pub(super) id: Uuid,
    pub(super) name: String,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Search {
    /// At least 2 letters of a name, a whole e-mail address, or the id of a user
    /// such as a todo's `owner`.
    #[param(min_length = 2, max_length = 254)]
    q: String,
    /// How many items at most (1 to 100, default 50).
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// `nextCursor` of the page before, with the same `q`.
    cursor: Option<String>,
}

/// Find people by name, whatever its case, by their exact address or by their id,
/// in the order of their accounts: to assign a todo, or to name who did. A page may have few
/// items or none and still a `nextCursor`: there are more accounts to look at.
#[utoipa::path(get, path = "/people", tag = "users", params(Search), responses(
    (status = 200, body = Page<Person>),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many searches; `Retry-After` says how long to wait"),
))]
async fn find(
    State(app): State<App>,
    caller: Caller,
    Params(search): Params<Search>,
) -> Result<Json<Page<Person>>, ApiError> {
    let limit = page_size(search.limit)?;
    let after: Option<Uuid> = decode(search.cursor.as_deref())?;
    let q = search.q.trim();
    if q.chars().any(char::is_control) || !(SHORTEST..=LONGEST).contains(&q.chars().count()) {
        return Err(ApiError::field(
            "q",
            "must have at least 2 letters of a name, a whole address or an id",
        ));
    }
    let by_address = q.contains('@');
    app.people_searches()
        .count(caller.user, by_address, app.now())?;
    let mut reader = app.db().read().await?;
    if by_address {
        return Ok(only(store::person_at(&mut reader, &normal_email(q)).await?));
    }
    if let Ok(id) = Uuid::try_parse(q) {
        return Ok(only(store::person_with(&mut reader, id).await?));
    }
    let needle = Needle::new(q);
    let (items, last) = store::people_named(&mut reader, &needle, after, limit).await?;
    Ok(Json(Page {
        items,
        next_cursor: last.map(|last| encode(&last)),
    }))
}

fn only(found: Option<Person>) -> Json<Page<Person>> {
    Json(Page {
        items: found.into_iter().collect(),
        next_cursor: None,
    })
}
