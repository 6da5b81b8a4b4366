//! The limits on mail to one address and because of one user. Mail beyond them is
//! dropped, so that nobody can use this service to flood a mailbox.
//!
//! Every mail is counted once, by its delivery, before it is sent; a repeated attempt is
//! not counted again.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use termitary::Conn;
use uuid::Uuid;

use super::store::{self, Counts};
use crate::settings::{MailLimit, MailLimits};

/// The kind of a mail. Each kind has limits of its own: many mails about todos must not
/// block the mail that replaces a lost password.
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

/// The decision about a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// Send it with a note that it is the last one for now.
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

    fn limit(self, limits: MailLimits) -> MailLimit {
        match self {
            Self::Confirm | Self::Reset => limits.links_per_recipient,
            Self::Security => limits.warnings_per_recipient,
            Self::Todo => limits.todos_per_recipient,
        }
    }
}

/// A mail to send.
pub(super) struct Claim<'a> {
    /// The delivery that sends it.
    pub(super) delivery: &'a str,
    pub(super) to: &'a str,
    pub(super) kind: Kind,
    /// The user who caused it, unless it is the recipient.
    pub(super) actor: Option<Uuid>,
}

/// Counts a mail and decides whether to send it.
pub(super) async fn count(
    conn: &mut Conn,
    claim: &Claim<'_>,
    limits: MailLimits,
    now: Timestamp,
) -> sqlx::Result<Verdict> {
    let delivery = short_hash(claim.delivery);
    let counted = store::is_mail_counted(conn, &delivery).await?;
    if counted {
        return Ok(Verdict::Send);
    }
    let recipient = short_hash(claim.to);
    let limit = claim.kind.limit(limits);
    let received = store::mails_to(conn, &recipient, claim.kind.as_str(), now).await?;
    if received.reached(limit) {
        dropped("recipient", claim.kind);
        return Ok(Verdict::Drop);
    }
    if let Some(actor) = claim.actor
        && store::mails_of(conn, actor, now)
            .await?
            .reached(limits.todos_per_actor)
    {
        dropped("actor", claim.kind);
        return Ok(Verdict::Drop);
    }
    let counted = store::CountedMail {
        delivery: &delivery,
        recipient: &recipient,
        kind: claim.kind.as_str(),
        actor: claim.actor,
    };
    store::insert_counted_mail(conn, &counted, now).await?;
    Ok(if received.plus_one().reached(limit) {
        Verdict::SendLast
    } else {
        Verdict::Send
    })
}

impl Counts {
    fn plus_one(self) -> Self {
        Self {
            hour: self.hour + 1,
            day: self.day + 1,
        }
    }

    fn reached(self, limit: MailLimit) -> bool {
        self.hour >= i64::from(limit.per_hour) || self.day >= i64::from(limit.per_day)
    }
}

/// The stored form of an address. A hash is enough for comparing.
fn short_hash(text: &str) -> Vec<u8> {
    Sha256::digest(text)[..16].to_vec()
}

/// Counts a dropped mail. The log gets a line for each power of two.
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
        crate::schema::migrate(db.db()).await.unwrap();
        let limits = MailLimits {
            links_per_recipient: MailLimit {
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
            verdicts.push(count(&mut tx, &claim, limits, now).await.unwrap());
        }
        assert_eq!(verdicts, [Send, Send, Send, SendLast, Send, Drop, Send]);
        tx.commit().await.unwrap();
    }
}
