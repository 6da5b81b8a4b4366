//! Who gets mail, and which devices each user was seen with.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use termitary::{Conn, Tx};
use uuid::Uuid;

/// Somebody who can get mail.
#[derive(sqlx::FromRow)]
pub(super) struct Person {
    pub(super) id: Uuid,
    pub(super) email: String,
    pub(super) name: String,
    /// They followed the link that was sent to the address.
    pub(super) confirmed: bool,
    /// The address that they want to have.
    pub(super) pending_email: Option<String>,
}

/// The person with this id; none where the account is gone.
pub(super) async fn person(conn: &mut Conn, id: Uuid) -> sqlx::Result<Option<Person>> {
    sqlx::query_as(
        "SELECT id, email, name, confirmed_us IS NOT NULL AS confirmed, pending_email FROM users WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The person whose account has this address.
pub(super) async fn person_at(conn: &mut Conn, email: &str) -> sqlx::Result<Option<Person>> {
    sqlx::query_as(
        "SELECT id, email, name, confirmed_us IS NOT NULL AS confirmed, pending_email FROM users WHERE email = $1",
    )
    .bind(email)
    .fetch_optional(conn)
    .await
}

/// The title of a todo of this service.
pub(super) async fn title_of(conn: &mut Conn, todo: &str) -> sqlx::Result<Option<String>> {
    let Ok(todo) = todo.parse::<Uuid>() else {
        return Ok(None);
    };
    sqlx::query_scalar("SELECT title FROM todos WHERE id = $1")
        .bind(todo)
        .fetch_optional(conn)
        .await
}

/// What a device is known by, as hashes: comparing needs no more.
pub(super) struct Traits(Vec<[u8; 32]>);

impl Traits {
    pub(super) fn new(address: Option<&str>, agent: Option<&str>) -> Self {
        let named = [("address", address), ("agent", agent)];
        let known = named
            .iter()
            .filter_map(|(kind, value)| Some((kind, (*value)?)));
        Self(
            known
                .map(|(kind, value)| Sha256::digest(format!("{kind}:{value}")).into())
                .collect(),
        )
    }
}

/// Records what was not known of the user yet, as seen by `event`.
pub(super) async fn remember(
    tx: &mut Tx,
    user: Uuid,
    traits: &Traits,
    event: Uuid,
    now: Timestamp,
) -> sqlx::Result<()> {
    let seen_before: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM mail_devices WHERE user_id = $1 AND event <> $2)",
    )
    .bind(user)
    .bind(event)
    .fetch_one(&mut *tx)
    .await?;
    for hash in &traits.0 {
        sqlx::query(
            "INSERT INTO mail_devices (user_id, trait, event, first, seen_us) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (user_id, trait) DO NOTHING",
        )
        .bind(user)
        .bind(&hash[..])
        .bind(event)
        .bind(!seen_before)
        .bind(now.as_microsecond())
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Whether `event` brought something new about a user who was known before.
pub(super) async fn is_new(tx: &mut Tx, user: Uuid, event: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM mail_devices WHERE user_id = $1 AND event = $2 AND first = FALSE)",
    )
    .bind(user)
    .bind(event)
    .fetch_one(&mut *tx)
    .await
}

/// Forgets a user's devices.
pub(super) async fn forget(tx: &mut Tx, user: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM mail_devices WHERE user_id = $1")
        .bind(user)
        .execute(&mut *tx)
        .await?;
    Ok(())
}
