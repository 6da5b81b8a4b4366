//! The activity module's SQL.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::QueryBuilder;
use termitary::Conn;
use termitary::db::Sql;
use termitary::db::sql::SqlRow;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::accounts::Caller;
use crate::schema::{Rows, instant, readable_row};
use crate::sql::{Statement, statement, storable};

/// An entry of the feed.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// The event's id.
    pub(super) id: Uuid,
    /// The event's name, such as `todos.created`.
    pub(super) event: String,
    /// The id of the todo or user that it is about.
    pub(super) subject: String,
    /// The id of the user who caused it; `null` if a schedule, a worker or another
    /// service did.
    pub(super) actor: Option<Uuid>,
    /// The time of the event.
    #[schema(value_type = String, format = DateTime)]
    pub(super) at: Timestamp,
    /// The todo's title.
    pub(super) title: Option<String>,
    /// Each changed field and its new value.
    #[schema(value_type = Option<Object>)]
    pub(super) changes: Option<Map<String, Value>>,
}

/// An entry with its number, for the cursor.
pub(super) struct Row {
    pub(super) seq: i64,
    /// `None` if the row cannot be read.
    pub(super) entry: Option<Entry>,
}

impl sqlx::FromRow<'_, SqlRow> for Row {
    fn from_row(row: &SqlRow) -> sqlx::Result<Self> {
        use sqlx::Row;
        Ok(Self {
            seq: row.try_get("seq")?,
            entry: readable_row("activity", Entry::from_row(row)),
        })
    }
}

impl sqlx::FromRow<'_, SqlRow> for Entry {
    fn from_row(row: &SqlRow) -> sqlx::Result<Self> {
        use sqlx::Row;
        let changes: Option<String> = row.try_get("changes")?;
        Ok(Self {
            id: row.try_get("id")?,
            event: row.try_get("event")?,
            subject: row.try_get("subject")?,
            actor: row.try_get("actor")?,
            at: instant(row.try_get("at_us")?),
            title: row.try_get("title")?,
            changes: changes.and_then(|json| serde_json::from_str(&json).ok()),
        })
    }
}

/// Of several statements PostgreSQL returns the number of rows of the last one: the new
/// entry. Its transaction has its id before the entry takes its number: see
/// [`termitary::db::Sequence`].
const INSERT: Statement = Statement {
    sqlite: "INSERT INTO activity (id, event, subject, actor, title, changes, at_us) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (id) DO NOTHING;
         INSERT INTO activity_viewers (user_id, seq)
         SELECT DISTINCT unhex(q.value, '-'), a.seq FROM activity a, json_each($8) q WHERE a.id = $1 AND changes() = 1",
    postgres: "WITH began AS MATERIALIZED (SELECT pg_current_xact_id() AS xid),
         new AS (INSERT INTO activity (id, event, subject, actor, title, changes, at_us, xid)
            SELECT $1, $2, $3, $4, $5, $6, $7, began.xid FROM began ON CONFLICT (id) DO NOTHING RETURNING seq),
         viewers AS (INSERT INTO activity_viewers (user_id, seq)
            SELECT DISTINCT q.value::uuid, new.seq FROM new, jsonb_array_elements_text($8::jsonb) q (value))
         SELECT seq FROM new",
};

/// Writes an entry and its viewers; returns true if it is new.
pub(super) async fn insert(conn: &mut Conn, entry: &Entry, viewers: &[Uuid]) -> sqlx::Result<bool> {
    let changes = entry
        .changes
        .as_ref()
        .map(|changes| serde_json::json!(changes).to_string());
    let written = sqlx::query(INSERT.on(conn))
        .bind(entry.id)
        .bind(&entry.event)
        .bind(&*storable(&entry.subject))
        .bind(entry.actor)
        .bind(
            entry
                .title
                .as_deref()
                .map(|title| storable(title).into_owned()),
        )
        .bind(changes)
        .bind(entry.at.as_microsecond())
        .bind(serde_json::json!(viewers).to_string())
        .execute(conn)
        .await?;
    Ok(written.rows_affected() > 0)
}

/// A page of the entries that the caller may see, the newest first, and one more.
pub(super) async fn list(
    conn: &mut Conn,
    caller: Caller,
    before: Option<i64>,
    limit: u32,
) -> sqlx::Result<Rows<Row>> {
    let before = before.unwrap_or(i64::MAX);
    let mut query = select(viewer(caller), "<", before);
    query
        .push(" ORDER BY a.seq DESC LIMIT 1 + ")
        .push_bind(i64::from(limit));
    let rows = query.build().fetch_all(conn).await?;
    Ok(Rows::of("activity", &rows))
}

/// The user whose entries the caller sees; `None` for an admin, who sees all.
fn viewer(caller: Caller) -> Option<Uuid> {
    (!caller.is_admin()).then_some(caller.user)
}

/// Selects the entries that `viewer` sees before (`<`) or after (`>`) the entry `seq`.
fn select(viewer: Option<Uuid>, comparison: &str, seq: i64) -> QueryBuilder<Sql> {
    let mut query = QueryBuilder::new(
        "SELECT a.seq, a.id, a.event, a.subject, a.actor, a.title, a.changes, a.at_us FROM activity a",
    );
    match viewer {
        None => query.push(" WHERE a.seq "),
        Some(user) => query
            .push(" JOIN activity_viewers v ON v.seq = a.seq WHERE v.user_id = ")
            .push_bind(user)
            .push(" AND v.seq "),
    };
    query.push(comparison).push(" ").push_bind(seq);
    query
}

/// An entry and the users who may see it.
pub(super) struct Recorded {
    pub(super) row: Row,
    pub(super) viewers: Vec<Uuid>,
}

impl sqlx::FromRow<'_, SqlRow> for Recorded {
    fn from_row(row: &SqlRow) -> sqlx::Result<Self> {
        use sqlx::Row as _;
        let viewers: String = row.try_get("viewers")?;
        Ok(Self {
            viewers: serde_json::from_str(&viewers).unwrap_or_default(),
            row: Row::from_row(row)?,
        })
    }
}

/// The number of the newest entry; 0 if there is none.
pub(super) async fn newest(conn: &mut Conn) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM activity")
        .fetch_one(conn)
        .await
}

/// Entries after `seq` up to `complete`, the oldest first. Up to there no entry appears
/// later with a smaller number.
pub(super) async fn after(
    conn: &mut Conn,
    seq: i64,
    complete: i64,
    limit: u32,
) -> sqlx::Result<Vec<Recorded>> {
    const AFTER: Statement = statement!(
        "SELECT a.seq, a.id, a.event, a.subject, a.actor, a.title, a.changes, a.at_us,
            (SELECT ", [gather], [json_id "v.user_id"], [gathered],
        " FROM activity_viewers v WHERE v.seq = a.seq) AS viewers
         FROM activity a WHERE a.seq > $1 AND a.seq <= $2 ORDER BY a.seq LIMIT $3",
    );
    sqlx::query_as(AFTER.on(conn))
        .bind(seq)
        .bind(complete)
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await
}

/// The entries that `viewer` (`None`: an admin) may see after `seq` and up to `complete`, the oldest first.
/// Returns `None` if they are more than `limit`, or if some were deleted.
pub(super) async fn missed(
    conn: &mut Conn,
    viewer: Option<Uuid>,
    seq: i64,
    complete: i64,
    limit: u32,
) -> sqlx::Result<Option<Vec<Row>>> {
    let oldest: Option<i64> = sqlx::query_scalar("SELECT MIN(seq) FROM activity")
        .fetch_one(&mut *conn)
        .await?;
    if oldest.is_some_and(|oldest| oldest > seq.saturating_add(1)) {
        return Ok(None);
    }
    let mut query = select(viewer, ">", seq);
    query
        .push(" AND a.seq <= ")
        .push_bind(complete)
        .push(" ORDER BY a.seq LIMIT 1 + ")
        .push_bind(i64::from(limit));
    let rows: Vec<Row> = query.build_query_as().fetch_all(conn).await?;
    Ok((rows.len() <= limit as usize).then_some(rows))
}

/// Deletes up to `limit` entries from before `before_us`. Their numbers follow the times
/// at which they were recorded.
pub(super) async fn delete_before(
    conn: &mut Conn,
    before_us: i64,
    limit: u32,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM activity WHERE seq IN (
            SELECT seq FROM (SELECT seq, at_us FROM activity ORDER BY seq LIMIT $2) AS oldest WHERE at_us < $1)",
    )
    .bind(before_us)
    .bind(i64::from(limit))
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Writes a ticket of a live stream, and deletes expired ones.
pub(super) async fn insert_ticket(
    conn: &mut Conn,
    hash: &[u8],
    session: Uuid,
    now: Timestamp,
    expires: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM stream_tickets WHERE expires_us <= $1")
        .bind(now.as_microsecond())
        .execute(&mut *conn)
        .await?;
    sqlx::query("INSERT INTO stream_tickets (hash, session_id, expires_us) VALUES ($1, $2, $3)")
        .bind(hash)
        .bind(session)
        .bind(expires.as_microsecond())
        .execute(conn)
        .await
        .map(drop)
}

/// Deletes the oldest tickets of these sessions beyond `most`.
pub(super) async fn keep_tickets(
    conn: &mut Conn,
    sessions: &[Uuid],
    most: u32,
) -> sqlx::Result<()> {
    const DELETE_OLDEST: Statement = statement!(
        "DELETE FROM stream_tickets WHERE hash IN
         (SELECT hash FROM stream_tickets
          WHERE session_id IN (SELECT ", [a_uuid], " FROM ", [texts "$1"], ")
          ORDER BY ", [nth], " DESC", [no_limit], " OFFSET $2)",
    );
    sqlx::query(DELETE_OLDEST.on(conn))
        .bind(serde_json::json!(sessions).to_string())
        .bind(i64::from(most))
        .execute(conn)
        .await
        .map(drop)
}

/// Returns true if the ticket is valid.
pub(super) async fn has_ticket(conn: &mut Conn, hash: &[u8], now: Timestamp) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM stream_tickets WHERE hash = $1 AND expires_us > $2)",
    )
    .bind(hash)
    .bind(now.as_microsecond())
    .fetch_one(conn)
    .await
}

/// Deletes a valid ticket and returns its session.
pub(super) async fn take_ticket(
    conn: &mut Conn,
    hash: &[u8],
    now: Timestamp,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar(
        "DELETE FROM stream_tickets WHERE hash = $1 AND expires_us > $2 RETURNING session_id",
    )
    .bind(hash)
    .bind(now.as_microsecond())
    .fetch_optional(conn)
    .await
}
