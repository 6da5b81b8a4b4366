//! The list of todos: filters, orders, and the cursor that continues both.

use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Row as _, Sqlite};
use uuid::Uuid;

use super::due::Due;
use super::gathered::Gathered;
use super::search::Search;
use super::todo::{Priority, Status};
use crate::app::App;
use crate::fold::Needle;
use crate::http::{ApiError, Caller, Json, Page, decode, page_size};

/// The query of the list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// `open` or `done`.
    #[param(inline)]
    status: Option<Status>,
    /// A user's id, `me`, or `none`.
    assignee: Option<String>,
    #[param(inline)]
    priority: Option<Priority>,
    /// `true`: open and past the due date; `false`: the others.
    overdue: Option<bool>,
    /// Text that stands in the title or the description, whatever its case.
    q: Option<String>,
    /// `createdAt`, `updatedAt`, `dueDate`, `priority` or `title`; with `-`
    /// before it, descending (default `-createdAt`). Todos without a due date
    /// or a priority come last.
    sort: Option<String>,
    /// How many items at most (1 to 100, default 50).
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// `nextCursor` of the page before, with the same filters and order.
    cursor: Option<String>,
}

impl Filter {
    /// What `q` looks for; none where it is left out or blank.
    fn needle(&self) -> Result<Option<Needle>, ApiError> {
        let text = self.q.as_deref().unwrap_or_default().trim();
        if text.chars().count() > 200 {
            return Err(ApiError::field("q", "must have at most 200 characters"));
        }
        Ok((!text.is_empty()).then(|| Needle::new(text)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Created,
    Updated,
    Due,
    Priority,
    Title,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    field: Field,
    descending: bool,
}

/// Where a page ended.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    sort: String,
    at: Key,
    id: Uuid,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Key {
    Number(i64),
    Text(String),
}

impl Order {
    fn parse(sort: &str) -> Result<Self, ApiError> {
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

    /// What is compared. What is missing comes last in either direction.
    fn expression(self) -> &'static str {
        match (self.field, self.descending) {
            (Field::Created, _) => "created_us",
            (Field::Updated, _) => "updated_us",
            (Field::Title, _) => "title",
            (Field::Due, false) => "COALESCE(due_us, 9223372036854775807)",
            (Field::Due, true) => "COALESCE(due_us, -9223372036854775808)",
            (Field::Priority, false) => "COALESCE(priority, 9)",
            (Field::Priority, true) => "COALESCE(priority, -9)",
        }
    }

    fn key(self, todo: &Gathered<'_>) -> Key {
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

/// One page of what the caller may see.
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
    // How many match is known only when their text was looked at.
    let most = needle.is_none().then_some(limit);
    let part = |query: &mut _, sight| {
        push_part(query, sight, order, filter, caller, now_us)?;
        if let Some(cursor) = &cursor {
            push_cursor(query, order, cursor);
        }
        push_order(query, order, most);
        Ok(())
    };
    let json = match needle {
        None => page(app, statement(caller, order, limit, part)?).await?,
        Some(needle) => {
            let search = Search {
                statement: candidates(caller, order, part)?,
                needle,
                most: limit as usize + 1,
            };
            format!("[{}]", search.run(app, caller.user).await?.join(","))
        }
    };
    let rows: Vec<Gathered<'_>> =
        serde_json::from_str(&json).map_err(|error| ApiError::Internal(error.into()))?;
    let page = Page::cut(rows, limit, |todo: &Gathered<'_>| Cursor {
        sort: sort.to_owned(),
        at: order.key(todo),
        id: todo.id,
    });
    Ok(Json(page).into_response())
}

async fn page(app: &App, mut statement: QueryBuilder<Sqlite>) -> Result<String, ApiError> {
    let mut reader = app.db().read().await?;
    let row = statement.build().fetch_one(&mut *reader).await?;
    Ok(row.try_get(0)?)
}

/// The statement of a search: every todo that its text may have put on the page.
fn candidates(
    caller: Caller,
    order: Order,
    part: impl Fn(&mut QueryBuilder<Sqlite>, Sight) -> Result<(), ApiError>,
) -> Result<QueryBuilder<Sqlite>, ApiError> {
    let mut query = QueryBuilder::new("SELECT todos.title, todos.description, ");
    query.push(Gathered::JSON).push(" FROM (");
    push_page(&mut query, caller, order, None, part)?;
    // The page is the outer loop, so its order is kept.
    query.push(") AS page CROSS JOIN todos ON todos.rowid = page.place");
    Ok(query)
}

/// The whole statement: finds the page, then gathers its todos into one row.
///
/// Rows cross from the database's thread one by one, and a page of them costs
/// several times what finding it does. `group_concat` copies the JSON of a todo as it
/// is; `json_group_array` would parse it again.
fn statement(
    caller: Caller,
    order: Order,
    limit: u32,
    part: impl Fn(&mut QueryBuilder<Sqlite>, Sight) -> Result<(), ApiError>,
) -> Result<QueryBuilder<Sqlite>, ApiError> {
    let mut query = QueryBuilder::new("SELECT '[' || coalesce(group_concat(");
    query.push(Gathered::JSON).push("), '') || ']' FROM (");
    push_page(&mut query, caller, order, Some(limit), part)?;
    // The page is the outer loop, so its order is kept.
    query.push(") AS page CROSS JOIN todos ON todos.rowid = page.place");
    Ok(query)
}

/// What the page holds and in which order, from parts that are each cut at a page.
///
/// With `owner OR assignee` in one part, SQLite reads and sorts all that the
/// caller may see. Each alone walks its index from the page's beginning, and
/// both together are at most two pages. Whoever is owner and assignee of a todo finds
/// it in both parts: `UNION` makes one of it.
fn push_page(
    query: &mut QueryBuilder<Sqlite>,
    caller: Caller,
    order: Order,
    limit: Option<u32>,
    part: impl Fn(&mut QueryBuilder<Sqlite>, Sight) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    if caller.is_admin() {
        return part(query, Sight::All);
    }
    query.push("SELECT * FROM (");
    part(query, Sight::Owned)?;
    query.push(") UNION SELECT * FROM (");
    part(query, Sight::Assigned)?;
    query.push(")");
    push_order(query, order, limit);
    Ok(())
}

/// A part of the todos.
#[derive(Clone, Copy)]
enum Sight {
    All,
    /// Those of the caller.
    Owned,
    /// Those that the caller is to do.
    Assigned,
}

/// A part has what it is sorted by, and where the todo is stored.
fn push_part(
    query: &mut QueryBuilder<Sqlite>,
    sight: Sight,
    order: Order,
    filter: &Filter,
    caller: Caller,
    now_us: i64,
) -> Result<(), ApiError> {
    query.push(format_args!(
        "SELECT {} AS key, id, rowid AS place FROM todos WHERE ",
        order.expression()
    ));
    match sight {
        Sight::All => drop(query.push("1 = 1")),
        Sight::Owned => drop(query.push("owner_id = ").push_bind(caller.user)),
        Sight::Assigned => drop(query.push("assignee_id = ").push_bind(caller.user)),
    }
    push_filters(query, filter, caller, now_us)
}

/// One row more than the page holds says whether there is another page.
///
/// Behind a bare parameter SQLite looks at its value to plan by it, and then makes the
/// plan again for every value that is bound: a sum is none.
fn push_order(query: &mut QueryBuilder<Sqlite>, order: Order, limit: Option<u32>) {
    let direction = if order.descending { "DESC" } else { "ASC" };
    query.push(format_args!(
        " ORDER BY key {direction}, id {direction}, place {direction}"
    ));
    match limit {
        Some(limit) => query.push(" LIMIT 1 + ").push_bind(i64::from(limit)),
        // Without any, SQLite takes the order of a part for a mere wish.
        None => query.push(" LIMIT -1"),
    };
}

fn push_filters(
    query: &mut QueryBuilder<Sqlite>,
    filter: &Filter,
    caller: Caller,
    now_us: i64,
) -> Result<(), ApiError> {
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(priority) = filter.priority {
        query.push(" AND priority = ").push_bind(priority.rank());
    }
    match filter.assignee.as_deref() {
        None => {}
        Some("none") => drop(query.push(" AND assignee_id IS NULL")),
        Some("me") => drop(query.push(" AND assignee_id = ").push_bind(caller.user)),
        Some(id) => {
            let id: Uuid = id
                .parse()
                .map_err(|_| ApiError::field("assignee", "must be a user's id, `me` or `none`"))?;
            query.push(" AND assignee_id = ").push_bind(id);
        }
    }
    match filter.overdue {
        None => {}
        Some(true) => drop(
            query
                .push(" AND status = 'open' AND due_us < ")
                .push_bind(now_us),
        ),
        Some(false) => {
            query
                .push(" AND NOT (status = 'open' AND due_us IS NOT NULL AND due_us < ")
                .push_bind(now_us)
                .push(")");
        }
    }
    Ok(())
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

fn push_cursor(query: &mut QueryBuilder<Sqlite>, order: Order, cursor: &Cursor) {
    let comparison = if order.descending { "<" } else { ">" };
    query.push(format_args!(
        " AND ({}, id) {comparison} (",
        order.expression()
    ));
    match &cursor.at {
        Key::Number(number) => query.push_bind(*number),
        Key::Text(text) => query.push_bind(text.clone()),
    };
    query.push(", ").push_bind(cursor.id).push(")");
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use sqlx::{Connection as _, SqliteConnection};

    use super::*;
    use crate::accounts::Role;

    /// How SQLite would run the first page of the newest.
    async fn plan(filter: &Filter) -> Vec<String> {
        let caller = Caller {
            user: Uuid::nil(),
            role: Role::User,
            session: Uuid::nil(),
        };
        let order = Order::parse("-createdAt").unwrap();
        let part = |query: &mut _, sight| {
            push_part(query, sight, order, filter, caller, 0)?;
            push_order(query, order, Some(50));
            Ok(())
        };
        let query = statement(caller, order, 50, part).unwrap();
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql(include_str!("../../migrations/0002_todos.sql"))
            .execute(&mut conn)
            .await
            .unwrap();
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", query.sql().as_str()));
        let rows: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(explain).fetch_all(&mut conn).await.unwrap();
        rows.into_iter().map(|row| row.3).collect()
    }

    #[tokio::test]
    async fn a_page_costs_the_same_however_many_todos_somebody_has() {
        let plan = plan(&serde_json::from_str("{}").unwrap()).await;
        for index in [
            "todos_of_owner (owner_id=?)",
            "todos_of_assignee (assignee_id=?)",
        ] {
            let search = format!("SEARCH todos USING COVERING INDEX {index}");
            let at = plan.iter().position(|step| *step == search).unwrap();
            // Cut at a page as it comes out of the index: what is sorted after
            // that are pages.
            assert!(plan[at + 1].starts_with("SCAN (subquery"), "{plan:#?}");
        }
        let todos = "SEARCH todos USING INTEGER PRIMARY KEY (rowid=?)";
        assert_eq!(plan[plan.len() - 2..], ["SCAN page", todos], "{plan:#?}");
    }
}
