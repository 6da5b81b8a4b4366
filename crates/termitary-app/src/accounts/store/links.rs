//! The SQL of links in mails that confirm an address or set a new password. A link works
//! once and for a limited time; only a hash of its token is stored.

use anyhow::Context as _;
use jiff::Timestamp;
use termitary::Conn;
use termitary::clock::{days, hours};
use uuid::Uuid;

use crate::random::{self, token_hash};
use crate::sql::{Statement, statement};

/// Leaked tokens are recognized by this.
const PREFIX: &str = "ttm_";
/// Random bytes of a token: 160 bits, and the link fits on one line of a mail.
const BYTES: usize = 20;
/// The most live links of one user and purpose. A mail that is sent again
/// carries a new link, and the one that arrived first must still work.
const LIVE: i64 = 30;

/// The purpose of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Proves that its reader gets mail at an address.
    Confirm,
    /// Sets a new password.
    Reset,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::Reset => "reset",
        }
    }

    fn lifetime_us(self) -> i64 {
        let lifetime = match self {
            Self::Confirm => days(7),
            Self::Reset => hours(1),
        };
        lifetime.as_micros() as i64
    }
}

/// A link that still works.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Link {
    /// The user whose account it changes.
    pub(crate) user: Uuid,
    /// The address that it was sent to.
    pub(crate) email: String,
}

const DELETE_OLDEST: Statement = statement!(
    "DELETE FROM links WHERE token_hash IN (SELECT token_hash FROM links
     WHERE user_id = $1 AND purpose = $2 ORDER BY created_us DESC, token_hash",
    [no_limit],
    " OFFSET $3)",
);

/// Creates a link and returns its token, which is for the mail alone.
pub(crate) async fn create(
    conn: &mut Conn,
    purpose: Purpose,
    user: Uuid,
    email: &str,
    now: Timestamp,
) -> anyhow::Result<String> {
    let token = random::token::<BYTES>(PREFIX)?;
    let now_us = now.as_microsecond();
    sqlx::query(
        "INSERT INTO links (token_hash, purpose, user_id, email, created_us, expires_us)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(token_hash(&token).to_vec())
    .bind(purpose.as_str())
    .bind(user)
    .bind(email)
    .bind(now_us)
    .bind(now_us.saturating_add(purpose.lifetime_us()))
    .execute(&mut *conn)
    .await
    .context("cannot store a link")?;
    sqlx::query(DELETE_OLDEST.on(conn))
        .bind(user)
        .bind(purpose.as_str())
        .bind(LIVE)
        .execute(conn)
        .await
        .context("cannot remove old links")?;
    Ok(token)
}

/// The link with this token, if it still works.
pub(crate) async fn find(
    conn: &mut Conn,
    purpose: Purpose,
    token: &str,
    now: Timestamp,
) -> sqlx::Result<Option<Link>> {
    find_with(FIND.sqlite, conn, purpose, token, now).await
}

/// [`find`] in a transaction that uses the link up.
pub(crate) async fn find_to_use(
    conn: &mut Conn,
    purpose: Purpose,
    token: &str,
    now: Timestamp,
) -> sqlx::Result<Option<Link>> {
    find_with(FIND.on(conn), conn, purpose, token, now).await
}

/// On PostgreSQL the link stays as it is read until the transaction ends.
const FIND: Statement = statement!(
    "SELECT l.user_id AS user, l.email FROM links l JOIN users u ON u.id = l.user_id
     WHERE l.token_hash = $1 AND l.purpose = $2 AND l.expires_us > $3",
    [to_change "l"]
);

async fn find_with(
    find: &'static str,
    conn: &mut Conn,
    purpose: Purpose,
    token: &str,
    now: Timestamp,
) -> sqlx::Result<Option<Link>> {
    sqlx::query_as(find)
        .bind(token_hash(token).to_vec())
        .bind(purpose.as_str())
        .bind(now.as_microsecond())
        .fetch_optional(conn)
        .await
}

/// The creation time, in microseconds, of the user's newest link that still works.
pub(crate) async fn newest_us(
    conn: &mut Conn,
    purpose: Purpose,
    user: Uuid,
    now: Timestamp,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "SELECT MAX(created_us) FROM links WHERE user_id = $1 AND purpose = $2 AND expires_us > $3",
    )
    .bind(user)
    .bind(purpose.as_str())
    .bind(now.as_microsecond())
    .fetch_one(conn)
    .await
}

/// Ends every link of a user for this purpose.
pub(crate) async fn end(conn: &mut Conn, purpose: Purpose, user: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM links WHERE user_id = $1 AND purpose = $2")
        .bind(user)
        .bind(purpose.as_str())
        .execute(conn)
        .await
        .map(drop)
}

/// Ends the links that were sent to one address of a user.
pub(crate) async fn end_of_address(
    conn: &mut Conn,
    purpose: Purpose,
    user: Uuid,
    email: &str,
) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM links WHERE user_id = $1 AND purpose = $2 AND email = $3")
        .bind(user)
        .bind(purpose.as_str())
        .bind(email)
        .execute(conn)
        .await
        .map(drop)
}

/// Deletes expired links and those of deleted users.
pub(crate) async fn prune(conn: &mut Conn, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM links WHERE expires_us <= $1 OR user_id NOT IN (SELECT id FROM users)")
        .bind(now.as_microsecond())
        .execute(conn)
        .await
        .map(drop)
}
