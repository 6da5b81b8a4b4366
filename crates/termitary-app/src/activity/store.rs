//! The activity module's SQL.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite};
use termitary::Conn;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::app::instant;
use crate::http::Caller;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// The event's id.
    pub(super) id: Uuid,
    /// The event's name, such as `todos.created`.
    pub(super) event: String,
    /// The id of the todo or user that it is about.
    pub(super) subject: String,
    /// The id of the user who did it; `null` where a schedule, a worker or
    /// another service did.
    pub(super) actor: Option<Uuid>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub(super) at: Timestamp,
    /// The todo's title.
    pub(super) title: Option<String>,
    /// Each changed field and its new value.
    #[schema(value_type = Option<Object>)]
    pub(super) changes: Option<Map<String, Value>>,
}

/// A row, with what the cursor needs.
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) entry: Entry,
}

impl sqlx::FromRow<'_, SqliteRow> for Row {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        use sqlx::Row;
        let changes: Option<String> = row.try_get("changes")?;
        Ok(Self {
            seq: row.try_get("seq")?,
            entry: Entry {
                id: row.try_get("id")?,
                event: row.try_get("event")?,
                subject: row.try_get("subject")?,
                actor: row.try_get("actor")?,
                at: instant(row.try_get("at_us")?),
                title: row.try_get("title")?,
                changes: changes.and_then(|json| serde_json::from_str(&json).ok()),
            },
        })
    }
}

/// Writes an entry and who may see it; whether it is new.
pub(super) async fn insert(conn: &mut Conn, entry: &Entry, viewers: &[Uuid]) -> sqlx::Result<bool> {
    let changes = entry
        .changes
        .as_ref()
        .map(|changes| serde_json::json!(changes).to_string());
    let written = sqlx::query(
        "INSERT INTO activity (id, event, subject, actor, title, changes, at_us) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (id) DO NOTHING;
         INSERT INTO activity_viewers (user_id, seq)
         SELECT DISTINCT unhex(j.value, '-'), a.seq FROM activity a, json_each($8) j WHERE a.id = $1 AND changes() = 1",
    )
    .bind(entry.id)
    .bind(&entry.event)
    .bind(&entry.subject)
    .bind(entry.actor)
    .bind(&entry.title)
    .bind(changes)
    .bind(entry.at.as_microsecond())
    .bind(serde_json::json!(viewers).to_string())
    .execute(conn)
    .await?;
    Ok(written.rows_affected() > 0)
}

/// A page of what the caller may see, the newest first; one more than `limit`.
pub(super) async fn list(
    conn: &mut Conn,
    caller: Caller,
    before: Option<i64>,
    limit: u32,
) -> sqlx::Result<Vec<Row>> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT a.seq, a.id, a.event, a.subject, a.actor, a.title, a.changes, a.at_us FROM activity a",
    );
    if caller.is_admin() {
        query.push(" WHERE a.seq < ");
    } else {
        query
            .push(" JOIN activity_viewers v ON v.seq = a.seq WHERE v.user_id = ")
            .push_bind(caller.user);
        query.push(" AND v.seq < ");
    }
    query
        .push_bind(before.unwrap_or(i64::MAX))
        .push(" ORDER BY a.seq DESC LIMIT 1 + ");
    query.push_bind(i64::from(limit));
    query.build_query_as().fetch_all(conn).await
}

/// An entry and who may see it.
pub(super) struct Recorded {
    pub(super) row: Row,
    pub(super) viewers: Vec<Uuid>,
}

impl sqlx::FromRow<'_, SqliteRow> for Recorded {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        use sqlx::Row as _;
        let viewers: String = row.try_get("viewers")?;
        Ok(Self {
            viewers: serde_json::from_str(&viewers).unwrap_or_default(),
            row: Row::from_row(row)?,
        })
    }
}

/// The newest entry; 0 where there is none.
pub(super) async fn newest(conn: &mut Conn) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM activity")
        .fetch_one(conn)
        .await
}

/// Entries after `seq`, the oldest first. The database has one writer: the numbers
/// follow the commits, and none comes later with a smaller one.
pub(super) async fn after(conn: &mut Conn, seq: i64, limit: u32) -> sqlx::Result<Vec<Recorded>> {
    sqlx::query_as(
        "SELECT a.seq, a.id, a.event, a.subject, a.actor, a.title, a.changes, a.at_us,
            (SELECT json_group_array(hex(v.user_id)) FROM activity_viewers v WHERE v.seq = a.seq) AS viewers
         FROM activity a WHERE a.seq > $1 ORDER BY a.seq LIMIT $2",
    )
    .bind(seq)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
}

/// What `viewer` (none: an admin) may see after `seq`, the oldest first; none where
/// that is more than `limit`, or cannot be known any more.
pub(super) async fn missed(
    conn: &mut Conn,
    viewer: Option<Uuid>,
    seq: i64,
    limit: u32,
) -> sqlx::Result<Option<Vec<Row>>> {
    let oldest: Option<i64> = sqlx::query_scalar("SELECT MIN(seq) FROM activity")
        .fetch_one(&mut *conn)
        .await?;
    if oldest.is_some_and(|oldest| oldest > seq.saturating_add(1)) {
        return Ok(None);
    }
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT a.seq, a.id, a.event, a.subject, a.actor, a.title, a.changes, a.at_us FROM activity a",
    );
    match viewer {
        None => query.push(" WHERE a.seq > "),
        Some(user) => query
            .push(" JOIN activity_viewers v ON v.seq = a.seq WHERE v.user_id = ")
            .push_bind(user)
            .push(" AND v.seq > "),
    };
    query.push_bind(seq).push(" ORDER BY a.seq LIMIT 1 + ");
    query.push_bind(i64::from(limit));
    let rows: Vec<Row> = query.build_query_as().fetch_all(conn).await?;
    Ok((rows.len() <= limit as usize).then_some(rows))
}

/// Removes entries from before `before_us`, up to `limit` of them from the feed's
/// old end. Their numbers follow the instants at which they were recorded.
pub(super) async fn remove_before(
    conn: &mut Conn,
    before_us: i64,
    limit: u32,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM activity WHERE seq IN (
            SELECT seq FROM (SELECT seq, at_us FROM activity ORDER BY seq LIMIT $2) WHERE at_us < $1)",
    )
    .bind(before_us)
    .bind(i64::from(limit))
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Who sees a todo now; for events that came from elsewhere.
pub(super) async fn todo_viewers(conn: &mut Conn, todo: Uuid) -> sqlx::Result<Vec<Uuid>> {
    let row: Option<(Uuid, Option<Uuid>)> =
        sqlx::query_as("SELECT owner_id, assignee_id FROM todos WHERE id = $1")
            .bind(todo)
            .fetch_optional(conn)
            .await?;
    Ok(row.map_or_else(Vec::new, |(owner, assignee)| {
        [Some(owner), assignee].into_iter().flatten().collect()
    }))
}
