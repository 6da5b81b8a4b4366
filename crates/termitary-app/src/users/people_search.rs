//! Finding teammates, to assign a todo to them. A search returns names and ids, and is
//! too slow to copy the whole list or to try addresses.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use termitary::Conn;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::accounts::{self, Caller, User};
use crate::app::App;
use crate::casefold::Needle;
use crate::http::{Api, ApiError, Json, Page, Params, Problem, decode, encode, page_size};

/// The fewest letters of a name that can be searched for.
const SHORTEST: usize = 2;
const LONGEST: usize = 254;
/// The most accounts that one request reads, and those of one statement.
const READ: i64 = 20_000;
const BATCH: i64 = 500;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(find))
}

/// A user, as every other user may see them.
#[derive(Debug, Serialize, ToSchema)]
struct Person {
    /// The value for a todo's `assignee`.
    id: Uuid,
    name: String,
}

impl From<User> for Person {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            name: user.name,
        }
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Search {
    /// At least 2 letters of a name, a whole e-mail address that its account has confirmed,
    /// or the id of a user such as a todo's `owner`.
    #[param(min_length = 2, max_length = 254)]
    q: String,
    /// The most items of the page (1 to 100, default 50).
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// `nextCursor` of the page before, with the same `q`.
    cursor: Option<String>,
}

/// Find people by name, regardless of case, by their exact confirmed address or by their id,
/// in the order of their accounts. A page may have few items or none and still a `nextCursor`:
/// then more accounts remain to be searched.
#[utoipa::path(get, path = "/people", tag = "users", params(Search), responses(
    (status = 200, body = Page<Person>),
    (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many searches; `Retry-After` gives the time to wait"),
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
    let rate = if by_address {
        app.searches_by_address()
    } else {
        app.searches_by_name()
    };
    rate.count(caller.user, app.now())
        .map_err(|retry_after| ApiError::TooMany {
            detail: "Too many searches for people: wait before the next one.",
            retry_after,
        })?;
    let mut reader = app.db().read().await?;
    if by_address {
        // Anybody can register the address of somebody else.
        let found = accounts::find_by_email(&mut reader, q).await?;
        return Ok(only(found.filter(|user| user.email_confirmed)));
    }
    if let Ok(id) = Uuid::try_parse(q) {
        return Ok(only(accounts::find(&mut reader, id).await?));
    }
    let (items, last) = named(&mut reader, &Needle::new(q), after, limit).await?;
    Ok(Json(Page {
        items,
        next_cursor: last.map(|last| encode(&last)),
    }))
}

fn only(found: Option<User>) -> Json<Page<Person>> {
    Json(Page {
        items: found.into_iter().map(Person::from).collect(),
        next_cursor: None,
    })
}

/// Up to `limit` people whose names contain the needle, among the next [`READ`] accounts;
/// and the account to continue after, if there may be more.
async fn named(
    conn: &mut Conn,
    needle: &Needle,
    mut after: Option<Uuid>,
    limit: u32,
) -> sqlx::Result<(Vec<Person>, Option<Uuid>)> {
    let mut found = Vec::new();
    for _ in 0..READ / BATCH {
        let users = accounts::page(conn, after, BATCH).await?;
        let is_last = (users.read as i64) < BATCH || users.readable.is_empty();
        for user in users.readable {
            let id = user.id;
            if needle.is_in(&user.name) {
                if found.len() == limit as usize {
                    return Ok((found, after));
                }
                found.push(user.into());
            }
            after = Some(id);
        }
        if is_last {
            return Ok((found, None));
        }
    }
    Ok((found, after))
}
