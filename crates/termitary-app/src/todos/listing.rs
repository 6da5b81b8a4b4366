//! The list of todos: filters, orders, and the cursor that continues both.

use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;
use termitary::db::Sql;
use uuid::Uuid;

use super::due::Due;
use super::list_item::{self, ListItem};
use super::search::Search;
use super::store::list as store;
use super::todo::{Priority, Status};
use crate::accounts::Caller;
use crate::app::App;
use crate::casefold::Needle;
use crate::http::{ApiError, Json, Page, decode, page_size};
use crate::sql;

/// The query of the list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// `open` or `done`.
    #[param(inline)]
    pub(super) status: Option<Status>,
    /// A user's id, `me`, or `none`.
    pub(super) assignee: Option<String>,
    #[param(inline)]
    pub(super) priority: Option<Priority>,
    /// `true`: open and past the due date; `false`: all others.
    pub(super) overdue: Option<bool>,
    /// Text in the title or the description, regardless of case.
    q: Option<String>,
    /// `createdAt`, `updatedAt`, `dueDate`, `priority` or `title`; with `-`
    /// before it, descending (default `-createdAt`). Todos without a due date
    /// or a priority come last.
    sort: Option<String>,
    /// The most items of the page (1 to 100, default 50).
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// `nextCursor` of the page before, with the same filters and order.
    cursor: Option<String>,
}

impl Filter {
    /// The needle of `q`; `None` if it is left out or blank.
    fn needle(&self) -> Result<Option<Needle>, ApiError> {
        let text = self.q.as_deref().unwrap_or_default().trim();
        if text.chars().count() > 200 {
            return Err(ApiError::field("q", "must have at most 200 characters"));
        }
        Ok((!text.is_empty()).then(|| Needle::new(text)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Created,
    Updated,
    Due,
    Priority,
    Title,
}

/// The order of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    field: Field,
    pub(super) descending: bool,
}

/// The end of a page.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cursor {
    sort: String,
    pub(super) at: Key,
    pub(super) id: Uuid,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Key {
    Number(i64),
    Text(String),
}

impl Order {
    pub(super) fn parse(sort: &str) -> Result<Self, ApiError> {
        let (descending, name) = sort
            .strip_prefix('-')
            .map_or((false, sort), |name| (true, name));
        let field = match name {
            "createdAt" => Field::Created,
            "updatedAt" => Field::Updated,
            "dueDate" => Field::Due,
            "priority" => Field::Priority,
            "title" => Field::Title,
            _ => {
                return Err(ApiError::field(
                    "sort",
                    "must be createdAt, updatedAt, dueDate, priority or title, with `-` before it for descending",
                ));
            }
        };
        Ok(Self { field, descending })
    }

    /// The compared expression. Missing values come last in either direction.
    pub(super) fn expression(self) -> &'static str {
        match (self.field, self.descending) {
            (Field::Created, _) => "created_us",
            (Field::Updated, _) => "updated_us",
            (Field::Title, _) => "title",
            (Field::Due, false) => "COALESCE(due_us, 9223372036854775807)",
            (Field::Due, true) => "COALESCE(due_us, -9223372036854775807 - 1)",
            (Field::Priority, false) => "COALESCE(priority, 9)",
            (Field::Priority, true) => "COALESCE(priority, -9)",
        }
    }

    fn key(self, todo: &ListItem<'_>) -> Key {
        let or_last = |value: Option<i64>, last: i64, first: i64| {
            value.unwrap_or(if self.descending { first } else { last })
        };
        match self.field {
            Field::Created => Key::Number(todo.created_at.as_microsecond()),
            Field::Updated => Key::Number(todo.updated_at.as_microsecond()),
            Field::Title => Key::Text(todo.title()),
            Field::Due => Key::Number(or_last(
                todo.due_date.map(Due::as_microsecond),
                i64::MAX,
                i64::MIN,
            )),
            Field::Priority => Key::Number(or_last(todo.priority.map(Priority::rank), 9, -9)),
        }
    }
}

/// One page of the todos that the caller may see.
pub(super) async fn list(app: &App, filter: &Filter, caller: Caller) -> Result<Response, ApiError> {
    let now_us = app.now().as_microsecond();
    let needle = filter.needle()?;
    let limit = page_size(filter.limit)?;
    let sort = filter.sort.as_deref().unwrap_or("-createdAt");
    let order = Order::parse(sort)?;
    let cursor = decode::<Cursor>(filter.cursor.as_deref())?;
    if let Some(cursor) = &cursor {
        check_cursor(order, sort, cursor)?;
    }
    // A search cannot limit its statement: it reads the texts to find matches.
    let most = needle.is_none().then_some(limit);
    let dialect = app.db().dialect();
    let part = |query: &mut _, sight| {
        store::push_part(query, dialect, sight, order, filter, caller, now_us)?;
        if let Some(cursor) = &cursor {
            store::push_cursor(query, order, cursor);
        }
        store::push_order(query, dialect, order, most);
        Ok(())
    };
    let json = match needle {
        None => page(app, store::statement(dialect, caller, order, limit, part)?).await?,
        Some(needle) => {
            let search = Search {
                statement: store::candidates(dialect, caller, order, part)?,
                needle,
                most: limit as usize + 1,
            };
            format!("[{}]", search.run(app, caller.user).await?.join(","))
        }
    };
    let rows = list_item::read(&json).map_err(|error| ApiError::Internal(error.into()))?;
    let page = Page::cut(rows, limit, |todo: &ListItem<'_>| Cursor {
        sort: sort.to_owned(),
        at: order.key(todo),
        id: todo.id,
    });
    Ok(Json(page).into_response())
}

async fn page(app: &App, mut statement: QueryBuilder<Sql>) -> Result<String, ApiError> {
    let mut reader = app.db().read().await?;
    let row = statement.build().fetch_one(&mut *reader).await?;
    Ok(sql::lossy(&row, 0)?.into_owned())
}

fn check_cursor(order: Order, sort: &str, cursor: &Cursor) -> Result<(), ApiError> {
    let is_text = matches!(cursor.at, Key::Text(_));
    if cursor.sort != sort || is_text != (order.field == Field::Title) {
        return Err(ApiError::field(
            "cursor",
            "belongs to another order: use it with the `sort` it came from",
        ));
    }
    Ok(())
}
