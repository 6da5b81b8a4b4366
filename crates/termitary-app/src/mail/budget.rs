//! How much mail is sent: to one address, and because of one user. Beyond the
//! limits mail is dropped, so that nobody can turn this service against a
//! mailbox or a mail server against this service.
//!
//! Every mail is counted once, by its delivery, before it is sent; an attempt
//! that is repeated counts no more.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use termitary::Conn;
use termitary::clock::{days, hours};
use uuid::Uuid;

use crate::app::MailLimits;

/// What a mail is for. Each kind has limits of its own: todos that pile up must
/// not keep a lost password from being replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A link that confirms an address, or the welcome.
    Confirm,
    /// A link that sets a new password.
    Reset,
    /// Something happened to the account.
    Security,
    /// Something happened to a todo.
    Todo,
}

/// The most mails in an hour and in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In any 60 minutes.
    pub per_hour: u32,
    /// In any 24 hours.
    pub per_day: u32,
}

/// Whether a mail may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// It is the last one for now; the recipient is told.
    SendLast,
    Drop,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::Reset => "reset",
            Self::Security => "security",
            Self::Todo => "todo",
        }
    }

    fn limit(self, limits: MailLimits) -> Limit {
        match self {
            Self::Confirm | Self::Reset => limits.links_per_recipient,
            Self::Security => limits.warnings_per_recipient,
            Self::Todo => limits.todos_per_recipient,
        }
    }
}

/// A mail that wants to go.
pub(super) struct Claim<'a> {
    /// The delivery that sends it.
    pub(super) delivery: &'a str,
    pub(super) to: &'a str,
    pub(super) kind: Kind,
    /// The user who caused it, where that is not the recipient.
    pub(super) actor: Option<Uuid>,
}

/// Counts a mail and says whether it may go.
pub(super) async fn take(
    conn: &mut Conn,
    claim: &Claim<'_>,
    limits: MailLimits,
    now: Timestamp,
) -> sqlx::Result<Verdict> {
    let delivery = short_hash(claim.delivery);
    let counted: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM mails_counted WHERE delivery = $1)")
            .bind(&delivery)
            .fetch_one(&mut *conn)
            .await?;
    if counted {
        return Ok(Verdict::Send);
    }
    let recipient = short_hash(claim.to);
    let limit = claim.kind.limit(limits);
    let received = Counts::of_recipient(conn, &recipient, claim.kind, now).await?;
    if received.reached(limit) {
        dropped("recipient", claim.kind);
        return Ok(Verdict::Drop);
    }
    if let Some(actor) = claim.actor
        && Counts::of_actor(conn, actor, now)
            .await?
            .reached(limits.todos_per_actor)
    {
        dropped("actor", claim.kind);
        return Ok(Verdict::Drop);
    }
    sqlx::query(
        "INSERT INTO mails_counted (delivery, recipient, kind, actor, at_us) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&delivery)
    .bind(&recipient)
    .bind(claim.kind.as_str())
    .bind(claim.actor)
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(if received.plus_one().reached(limit) {
        Verdict::SendLast
    } else {
        Verdict::Send
    })
}

/// Removes counts that no limit looks at any more.
pub(super) async fn prune(conn: &mut Conn, now: Timestamp) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM mails_counted WHERE at_us <= $1")
        .bind(day_ago_us(now))
        .execute(conn)
        .await
        .map(drop)
}

/// Mails of the last hour and of the last day.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
struct Counts {
    hour: i64,
    day: i64,
}

impl Counts {
    async fn of_recipient(
        conn: &mut Conn,
        recipient: &[u8],
        kind: Kind,
        now: Timestamp,
    ) -> sqlx::Result<Self> {
        sqlx::query_as(
            "SELECT COUNT(*) FILTER (WHERE at_us > $3) AS hour, COUNT(*) AS day FROM mails_counted
             WHERE recipient = $1 AND kind = $2 AND at_us > $4",
        )
        .bind(recipient)
        .bind(kind.as_str())
        .bind(hour_ago_us(now))
        .bind(day_ago_us(now))
        .fetch_one(conn)
        .await
    }

    async fn of_actor(conn: &mut Conn, actor: Uuid, now: Timestamp) -> sqlx::Result<Self> {
        sqlx::query_as(
            "SELECT COUNT(*) FILTER (WHERE at_us > $2) AS hour, COUNT(*) AS day FROM mails_counted
             WHERE actor = $1 AND at_us > $3",
        )
        .bind(actor)
        .bind(hour_ago_us(now))
        .bind(day_ago_us(now))
        .fetch_one(conn)
        .await
    }

    fn plus_one(self) -> Self {
        Self {
            hour: self.hour + 1,
            day: self.day + 1,
        }
    }

    fn reached(self, limit: Limit) -> bool {
        self.hour >= i64::from(limit.per_hour) || self.day >= i64::from(limit.per_day)
    }
}

fn hour_ago_us(now: Timestamp) -> i64 {
    now.as_microsecond() - hours(1).as_micros() as i64
}

fn day_ago_us(now: Timestamp) -> i64 {
    now.as_microsecond() - days(1).as_micros() as i64
}

/// Addresses are stored as hashes: comparing needs no more.
fn short_hash(text: &str) -> Vec<u8> {
    Sha256::digest(text)[..16].to_vec()
}

/// Counts a dropped mail; a flood of them is a handful of lines in the log.
fn dropped(limit: &'static str, kind: Kind) {
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    metrics::counter!("termitary_mails_dropped_total", "limit" => limit, "kind" => kind.as_str())
        .increment(1);
    let dropped = DROPPED.fetch_add(1, Ordering::Relaxed) + 1;
    if dropped.is_power_of_two() {
        tracing::warn!(
            limit,
            kind = kind.as_str(),
            dropped,
            "mail was dropped: too many in an hour or a day (counted since this process started)"
        );
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use termitary::testing::TestDb;

    use super::Verdict::{Drop, Send, SendLast};
    use super::*;

    #[tokio::test]
    async fn a_mail_that_is_tried_again_is_counted_once() {
        let db = TestDb::open().await;
        crate::app::migrate(db.db()).await.unwrap();
        let limits = MailLimits {
            links_per_recipient: Limit {
                per_hour: 2,
                per_day: 2,
            },
            ..MailLimits::default()
        };
        let now = db.db().clock().now();
        let mut tx = db.db().begin().await.unwrap();
        let mut verdicts = Vec::new();
        for delivery in ["1:a", "1:a", "1:a", "2:a", "2:a", "3:a", "1:a"] {
            let claim = Claim {
                delivery,
                to: "ada@example.com",
                kind: Kind::Reset,
                actor: None,
            };
            verdicts.push(take(&mut tx, &claim, limits, now).await.unwrap());
        }
        assert_eq!(verdicts, [Send, Send, Send, SendLast, Send, Drop, Send]);
        tx.commit().await.unwrap();
    }
}
