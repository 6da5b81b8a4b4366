//! The SQL of sessions.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Deserialize;
use termitary::Conn;
use termitary::db::sql::SqlRow;
use uuid::Uuid;

use crate::accounts::sessions::Session;
use crate::accounts::{Caller, Role};
use crate::schema::{instant, readable_row};
use crate::sql::{Statement, statement};

/// The two times that a session is compared with, in microseconds: it is over if it
/// expired before `now`, or if its last use is not after `idle_since`.
#[derive(Clone, Copy)]
pub(in crate::accounts) struct Limits {
    pub(in crate::accounts) now: i64,
    pub(in crate::accounts) idle_since: i64,
}

/// A live session, found by the hash of its token.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::accounts) struct Live {
    /// The index of its hash among those that were looked up.
    pub(in crate::accounts) index: usize,
    pub(in crate::accounts) session: Uuid,
    pub(in crate::accounts) user: Uuid,
    role: String,
    pub(in crate::accounts) last_used_us: i64,
}

impl Live {
    pub(in crate::accounts) fn caller(&self) -> Caller {
        Caller {
            user: self.user,
            role: Role::parse(&self.role),
            session: self.session,
        }
    }
}

/// The live sessions of the tokens with these hashes, in one row of JSON: rows cross
/// from the database's thread one by one.
pub(in crate::accounts) async fn by_hashes(
    conn: &mut Conn,
    hashes: &[[u8; 32]],
    limits: Limits,
) -> sqlx::Result<String> {
    const FIND: Statement = statement!(
        "SELECT ", [gather], [json_array], "q.key, ", [json_id "s.id"], ", ", [json_id "s.user_id"],
        ", u.role, s.last_used_us)", [gathered],
        " FROM ", [texts "$1"], " ", [join], " sessions s ON s.token_hash = ", [a_hash],
        " JOIN users u ON u.id = s.user_id
         WHERE s.expires_us > $2 AND s.last_used_us > $3",
    );
    sqlx::query_scalar(FIND.on(conn))
        .bind(json_of(hashes))
        .bind(limits.now)
        .bind(limits.idle_since)
        .fetch_one(conn)
        .await
}

/// A JSON array of hexadecimal texts.
fn json_of(hashes: &[[u8; 32]]) -> String {
    let mut json = String::with_capacity(hashes.len() * 67 + 2);
    let mut start = '[';
    for hash in hashes {
        json.push(start);
        json.push('"');
        for byte in hash {
            // Writing to a String does not fail.
            let _ = write!(json, "{byte:02x}");
        }
        json.push('"');
        start = ',';
    }
    json.push(']');
    json
}

/// The live ones of these sessions.
pub(in crate::accounts) async fn by_ids(
    conn: &mut Conn,
    sessions: &[Uuid],
    limits: Limits,
) -> sqlx::Result<Vec<Caller>> {
    const FIND: Statement = statement!(
        "SELECT s.id, s.user_id, u.role FROM ", [texts "$1"], " ", [join],
        " sessions s ON s.id = ", [a_uuid], " JOIN users u ON u.id = s.user_id
         WHERE s.expires_us > $2 AND s.last_used_us > $3",
    );
    let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(FIND.on(conn))
        .bind(serde_json::json!(sessions).to_string())
        .bind(limits.now)
        .bind(limits.idle_since)
        .fetch_all(conn)
        .await?;
    let callers = rows.into_iter().map(|(session, user, role)| Caller {
        user,
        role: Role::parse(&role),
        session,
    });
    Ok(callers.collect())
}

/// The live sessions of the caller, the newest first.
pub(in crate::accounts) async fn of_user(
    conn: &mut Conn,
    caller: Caller,
    limits: Limits,
) -> sqlx::Result<Vec<Session>> {
    use sqlx::Row;
    let rows = sqlx::query(
        "SELECT id, created_us, last_used_us, expires_us, ip_address, user_agent FROM sessions
         WHERE user_id = $1 AND expires_us > $2 AND last_used_us > $3 ORDER BY created_us DESC, id DESC",
    )
    .bind(caller.user)
    .bind(limits.now)
    .bind(limits.idle_since)
    .fetch_all(conn)
    .await?;
    let session = |row: &SqlRow| {
        let id = row.try_get("id")?;
        Ok(Session {
            id,
            created_at: instant(row.try_get("created_us")?),
            last_used_at: instant(row.try_get("last_used_us")?),
            expires_at: instant(row.try_get("expires_us")?),
            ip_address: row.try_get("ip_address")?,
            user_agent: row.try_get("user_agent")?,
            current: id == caller.session,
        })
    };
    let sessions = rows.iter().map(session);
    Ok(sessions
        .filter_map(|session| readable_row("sessions", session))
        .collect())
}

/// A session to open.
pub(in crate::accounts) struct New<'a> {
    pub(in crate::accounts) id: Uuid,
    pub(in crate::accounts) user: Uuid,
    pub(in crate::accounts) token_hash: [u8; 32],
    pub(in crate::accounts) now_us: i64,
    pub(in crate::accounts) expires_us: i64,
    pub(in crate::accounts) address: IpAddr,
    pub(in crate::accounts) agent: Option<&'a str>,
    /// The most sessions of the user.
    pub(in crate::accounts) most: u32,
}

const END_OLDEST: Statement = statement!(
    "DELETE FROM sessions WHERE id IN
     (SELECT id FROM sessions WHERE user_id = $1 ORDER BY created_us DESC, id DESC",
    [no_limit],
    " OFFSET $2)",
);

/// Writes a session, and ends the oldest ones of a user who has too many.
pub(in crate::accounts) async fn insert(conn: &mut Conn, new: &New<'_>) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO sessions (id, user_id, token_hash, created_us, last_used_us, expires_us, ip_address, user_agent)
         VALUES ($1, $2, $3, $4, $4, $5, $6, $7)",
    )
    .bind(new.id)
    .bind(new.user)
    .bind(&new.token_hash[..])
    .bind(new.now_us)
    .bind(new.expires_us)
    .bind(new.address.to_string())
    .bind(new.agent)
    .execute(&mut *conn)
    .await?;
    sqlx::query(END_OLDEST.on(conn))
        .bind(new.user)
        .bind(i64::from(new.most))
        .execute(conn)
        .await
        .map(drop)
}

/// Writes the time of the last use.
pub(in crate::accounts) async fn touch(
    conn: &mut Conn,
    session: Uuid,
    now_us: i64,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE sessions SET last_used_us = $1 WHERE id = $2 AND last_used_us < $1")
        .bind(now_us)
        .bind(session)
        .execute(conn)
        .await
        .map(drop)
}

/// Returns the ids of a user's sessions.
pub(crate) async fn session_ids(conn: &mut Conn, user: Uuid) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar("SELECT id FROM sessions WHERE user_id = $1")
        .bind(user)
        .fetch_all(conn)
        .await
}

/// Ends sessions of a user: `only` one, or all `except` one. Returns their number.
pub(in crate::accounts) async fn end(
    conn: &mut Conn,
    user: Uuid,
    only: Option<Uuid>,
    except: Option<Uuid>,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM sessions WHERE user_id = $1 AND ($2 IS NULL OR id = $2) AND ($3 IS NULL OR id <> $3)",
    )
    .bind(user)
    .bind(only)
    .bind(except)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes sessions that are over; returns their number.
pub(in crate::accounts) async fn delete_expired(
    conn: &mut Conn,
    limits: Limits,
) -> sqlx::Result<u64> {
    let done = sqlx::query("DELETE FROM sessions WHERE expires_us <= $1 OR last_used_us <= $2")
        .bind(limits.now)
        .bind(limits.idle_since)
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}
