//! The mail module's SQL: counts of mails, and the devices of each user.

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use termitary::Conn;
use termitary::clock::{days, hours};
use uuid::Uuid;

use crate::sql::take_turn;

/// Mails of the last hour and of the last day.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub(super) struct Counts {
    pub(super) hour: i64,
    pub(super) day: i64,
}

/// A mail in the counts.
pub(super) struct CountedMail<'a> {
    pub(super) delivery: &'a [u8],
    pub(super) recipient: &'a [u8],
    pub(super) kind: &'static str,
    pub(super) actor: Option<Uuid>,
}

/// Waits until no other transaction counts mails to this recipient or because of this actor.
pub(super) async fn count_in_turn(
    conn: &mut Conn,
    recipient: &[u8],
    actor: Option<Uuid>,
) -> sqlx::Result<()> {
    take_turn(conn, &format!("mails to {recipient:02x?}")).await?;
    match actor {
        Some(actor) => take_turn(conn, &format!("mails of {actor}")).await,
        None => Ok(()),
    }
}

/// Returns true if the mail of this delivery is counted already.
pub(super) async fn is_mail_counted(conn: &mut Conn, delivery: &[u8]) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM mails_counted WHERE delivery = $1)")
        .bind(delivery)
        .fetch_one(conn)
        .await
}

pub(super) async fn insert_counted_mail(
    conn: &mut Conn,
    mail: &CountedMail<'_>,
    now: Timestamp,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO mails_counted (delivery, recipient, kind, actor, at_us) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(mail.delivery)
    .bind(mail.recipient)
    .bind(mail.kind)
    .bind(mail.actor)
    .bind(now.as_microsecond())
    .execute(conn)
    .await
    .map(drop)
}

/// The mails of one kind to one recipient.
pub(super) async fn mails_to(
    conn: &mut Conn,
    recipient: &[u8],
    kind: &str,
    now: Timestamp,
) -> sqlx::Result<Counts> {
    sqlx::query_as(
        "SELECT COUNT(*) FILTER (WHERE at_us > $3) AS hour, COUNT(*) AS day FROM mails_counted
         WHERE recipient = $1 AND kind = $2 AND at_us > $4",
    )
    .bind(recipient)
    .bind(kind)
    .bind(hour_ago_us(now))
    .bind(day_ago_us(now))
    .fetch_one(conn)
    .await
}

/// The mails of one kind that one user caused to others.
pub(super) async fn mails_of(
    conn: &mut Conn,
    kind: &str,
    actor: Uuid,
    now: Timestamp,
) -> sqlx::Result<Counts> {
    sqlx::query_as(
        "SELECT COUNT(*) FILTER (WHERE at_us > $3) AS hour, COUNT(*) AS day FROM mails_counted
         WHERE actor = $1 AND kind = $2 AND at_us > $4",
    )
    .bind(actor)
    .bind(kind)
    .bind(hour_ago_us(now))
    .bind(day_ago_us(now))
    .fetch_one(conn)
    .await
}

/// The mails of one kind that one user caused to one recipient.
pub(super) async fn mails_to_of(
    conn: &mut Conn,
    recipient: &[u8],
    kind: &str,
    actor: Uuid,
    now: Timestamp,
) -> sqlx::Result<Counts> {
    sqlx::query_as(
        "SELECT COUNT(*) FILTER (WHERE at_us > $4) AS hour, COUNT(*) AS day FROM mails_counted
         WHERE recipient = $1 AND kind = $2 AND actor = $3 AND at_us > $5",
    )
    .bind(recipient)
    .bind(kind)
    .bind(actor)
    .bind(hour_ago_us(now))
    .bind(day_ago_us(now))
    .fetch_one(conn)
    .await
}

/// Deletes counts that are too old for any limit.
pub(super) async fn delete_old_counts(conn: &mut Conn, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM mails_counted WHERE at_us <= $1")
        .bind(day_ago_us(now))
        .execute(conn)
        .await
        .map(drop)
}

fn hour_ago_us(now: Timestamp) -> i64 {
    now.as_microsecond() - hours(1).as_micros() as i64
}

fn day_ago_us(now: Timestamp) -> i64 {
    now.as_microsecond() - days(1).as_micros() as i64
}

/// The traits that identify a device, as hashes: comparing needs no more.
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

/// Records the new traits of the user, as seen by `event`.
pub(super) async fn insert_traits(
    conn: &mut Conn,
    user: Uuid,
    traits: &Traits,
    event: Uuid,
    now: Timestamp,
) -> sqlx::Result<()> {
    take_turn(conn, &format!("devices of {user}")).await?;
    let seen_before: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM mail_devices WHERE user_id = $1 AND event <> $2)",
    )
    .bind(user)
    .bind(event)
    .fetch_one(&mut *conn)
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
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Returns true if `event` brought a new trait of a user who had others.
pub(super) async fn is_new_device(conn: &mut Conn, user: Uuid, event: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM mail_devices WHERE user_id = $1 AND event = $2 AND first = FALSE)",
    )
    .bind(user)
    .bind(event)
    .fetch_one(&mut *conn)
    .await
}

/// Deletes the devices of a user.
pub(super) async fn delete_devices(conn: &mut Conn, user: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM mail_devices WHERE user_id = $1")
        .bind(user)
        .execute(&mut *conn)
        .await?;
    Ok(())
}
