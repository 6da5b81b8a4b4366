//! The statements of the list of todos.

use std::time::Duration;

use sqlx::QueryBuilder;
use termitary::Conn;
use termitary::db::{Dialect, Sql};
use uuid::Uuid;

use super::super::list_item::ListItem;
use super::super::listing::{Cursor, Filter, Key, Order};
use crate::accounts::Caller;
use crate::http::ApiError;
use crate::sql::{Statement, statement, storable};

/// The statement of a search: every todo whose text may match.
pub(in crate::todos) fn candidates(
    dialect: Dialect,
    caller: Caller,
    order: Order,
    part: impl Fn(&mut QueryBuilder<Sql>, Sight) -> Result<(), ApiError>,
) -> Result<QueryBuilder<Sql>, ApiError> {
    let mut query = QueryBuilder::new("SELECT todos.title, todos.description, ");
    query.push(ListItem::JSON.of(dialect));
    if dialect == Dialect::Postgres {
        query.push("::text");
    }
    query.push(" FROM (");
    push_page(&mut query, dialect, caller, order, None, part)?;
    query.push(BACK.of(dialect));
    if dialect == Dialect::Postgres {
        query.push(order_of("page.", order));
    }
    Ok(query)
}

/// The statement of a page: finds the todos, and returns them as one row of JSON.
///
/// Rows cross from the database's thread one by one, and a page of rows costs several
/// times as much as finding them. `group_concat` copies the JSON of a todo;
/// `json_group_array` would parse it again.
pub(in crate::todos) fn statement(
    dialect: Dialect,
    caller: Caller,
    order: Order,
    limit: u32,
    part: impl Fn(&mut QueryBuilder<Sql>, Sight) -> Result<(), ApiError>,
) -> Result<QueryBuilder<Sql>, ApiError> {
    let mut query = QueryBuilder::new("SELECT '[' || coalesce(");
    query
        .push(GATHER.of(dialect))
        .push(ListItem::JSON.of(dialect));
    if dialect == Dialect::Postgres {
        query.push("::text, ','").push(order_of("page.", order));
    }
    query.push("), '') || ']' FROM (");
    push_page(&mut query, dialect, caller, order, Some(limit), part)?;
    query.push(BACK.of(dialect));
    Ok(query)
}

/// Puts the texts of all rows together.
const GATHER: Statement = Statement {
    sqlite: "group_concat(",
    postgres: "string_agg(",
};

/// From the page back to the todos. On SQLite the page is the outer loop, so its order stays.
const BACK: Statement = statement!(
    ") AS page ",
    [join],
    " todos ON todos.",
    [place],
    " = page.place"
);

/// Makes PostgreSQL stop the statements of a transaction after this time.
pub(in crate::todos) async fn limit_time(conn: &mut Conn, most: Duration) -> sqlx::Result<()> {
    sqlx::query("SELECT set_config('statement_timeout', $1, true)")
        .bind(most.as_millis().max(1).to_string())
        .execute(conn)
        .await
        .map(drop)
}

/// Selects the todos of the page in order, from parts that are each limited to a page.
///
/// With `owner OR assignee` in one part, SQLite reads and sorts all that the caller may
/// see. Each part alone walks its index from the start of the page, and both together are
/// at most two pages. A todo that the caller owns and is assigned to is in both parts:
/// `UNION` returns it once.
fn push_page(
    query: &mut QueryBuilder<Sql>,
    dialect: Dialect,
    caller: Caller,
    order: Order,
    limit: Option<u32>,
    part: impl Fn(&mut QueryBuilder<Sql>, Sight) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    if caller.is_admin() {
        return part(query, Sight::All);
    }
    query.push("SELECT * FROM (");
    part(query, Sight::Owned)?;
    query.push(") AS owned UNION SELECT * FROM (");
    part(query, Sight::Assigned)?;
    query.push(") AS assigned");
    push_order(query, dialect, order, limit);
    Ok(())
}

/// A part of the visible todos.
#[derive(Clone, Copy)]
pub(in crate::todos) enum Sight {
    All,
    /// Owned by the caller.
    Owned,
    /// Assigned to the caller.
    Assigned,
}

/// Selects the sort key and the place of the todos of a part.
pub(in crate::todos) fn push_part(
    query: &mut QueryBuilder<Sql>,
    dialect: Dialect,
    sight: Sight,
    order: Order,
    filter: &Filter,
    caller: Caller,
    now_us: i64,
) -> Result<(), ApiError> {
    query.push(format_args!(
        "SELECT {} AS key, id, {} AS place FROM todos WHERE ",
        order.expression(),
        PLACE.of(dialect)
    ));
    match sight {
        Sight::All => drop(query.push("1 = 1")),
        Sight::Owned => drop(query.push("owner_id = ").push_bind(caller.user)),
        Sight::Assigned => drop(query.push("assignee_id = ").push_bind(caller.user)),
    }
    push_filters(query, filter, caller, now_us)
}

const PLACE: Statement = statement!([place]);

/// The order of todos by the columns of a page.
fn order_of(page: &str, order: Order) -> String {
    let direction = if order.descending { "DESC" } else { "ASC" };
    format!(" ORDER BY {page}key {direction}, {page}id {direction}, {page}place {direction}")
}

/// Orders by the key, and limits to one row more than the page: that row shows that
/// another page follows.
///
/// For a bare parameter SQLite plans by its value and plans again for every bound value;
/// a sum prevents that.
pub(in crate::todos) fn push_order(
    query: &mut QueryBuilder<Sql>,
    dialect: Dialect,
    order: Order,
    limit: Option<u32>,
) {
    const NO_LIMIT: Statement = statement!([no_limit]);
    query.push(order_of("", order));
    match limit {
        Some(limit) => query.push(" LIMIT 1 + ").push_bind(i64::from(limit)),
        // Without a limit, SQLite ignores the order of a part.
        None => query.push(NO_LIMIT.of(dialect)),
    };
}

fn push_filters(
    query: &mut QueryBuilder<Sql>,
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
/// Continues after the cursor.
pub(in crate::todos) fn push_cursor(query: &mut QueryBuilder<Sql>, order: Order, cursor: &Cursor) {
    let comparison = if order.descending { "<" } else { ">" };
    query.push(format_args!(
        " AND ({}, id) {comparison} (",
        order.expression()
    ));
    match &cursor.at {
        Key::Number(number) => query.push_bind(*number),
        Key::Text(text) => query.push_bind(storable(text).into_owned()),
    };
    query.push(", ").push_bind(cursor.id).push(")");
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use sqlx::{Connection as _, SqliteConnection};

    use super::*;
    use crate::accounts::Role;

    /// SQLite's plan for the first page of the newest todos.
    async fn plan(filter: &Filter) -> Vec<String> {
        let caller = Caller {
            user: Uuid::nil(),
            role: Role::User,
            session: Uuid::nil(),
        };
        let order = Order::parse("-createdAt").unwrap();
        let part = |query: &mut _, sight| {
            push_part(query, Dialect::Sqlite, sight, order, filter, caller, 0)?;
            push_order(query, Dialect::Sqlite, order, Some(50));
            Ok(())
        };
        let query = statement(Dialect::Sqlite, caller, order, 50, part).unwrap();
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::raw_sql(include_str!("../../../migrations/sqlite/0002_todos.sql"))
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
        for (index, part) in [
            ("todos_of_owner (owner_id=?)", "SCAN owned"),
            ("todos_of_assignee (assignee_id=?)", "SCAN assigned"),
        ] {
            let search = format!("SEARCH todos USING COVERING INDEX {index}");
            let at = plan.iter().position(|step| *step == search).unwrap();
            // Limited to a page in the order of the index: only pages are sorted.
            assert_eq!(plan[at + 1], part, "{plan:#?}");
        }
        let todos = "SEARCH todos USING INTEGER PRIMARY KEY (rowid=?)";
        assert_eq!(plan[plan.len() - 2..], ["SCAN page", todos], "{plan:#?}");
    }
}
