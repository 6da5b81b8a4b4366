//! The limits on mail to one address and because of one user. Mail beyond them is
//! dropped, so that nobody can use this service to flood a mailbox.
//!
//! Every mail is counted once, by its delivery, before it is sent; a repeated attempt is
//! not counted again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use termitary::Conn;
use termitary::clock::minutes;
use uuid::Uuid;

use super::store::{self, Counts};
use crate::accounts::links::{self, Purpose};
use crate::settings::{MailLimit, MailLimits};

/// The kind of a mail. Each kind has limits of its own: many mails about todos must not
/// block the mail that replaces a lost password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A link that confirms the address of an account, or the welcome.
    Confirm,
    /// Mail to an address that another account asked for: it must not use up the mails
    /// of the address's owner, and no account alone those of the others that ask for it.
    Requested,
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
            Self::Requested => "requested",
            Self::Reset => "reset",
            Self::Security => "security",
            Self::Todo => "todo",
        }
    }

    fn limit(self, limits: MailLimits) -> MailLimit {
        match self {
            Self::Confirm | Self::Requested | Self::Reset => limits.links_per_recipient,
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
    /// The user whose password the mail resets, if it does.
    pub(super) resets: Option<Uuid>,
}

/// A reset link this young is not sent again: anybody may ask for one in somebody
/// else's name.
const YOUNG_LINK: Duration = minutes(10);

/// Counts a mail and decides whether to send it.
pub(super) async fn count(
    conn: &mut Conn,
    claim: &Claim<'_>,
    limits: MailLimits,
    now: Timestamp,
) -> sqlx::Result<Verdict> {
    let delivery = short_hash(claim.delivery);
    let recipient = short_hash(&counted_as(claim.kind, claim.to));
    store::count_in_turn(conn, &recipient, claim.actor).await?;
    let counted = store::is_mail_counted(conn, &delivery).await?;
    if counted {
        return Ok(Verdict::Send);
    }
    let mut must_go = false;
    if let Some(user) = claim.resets {
        let newest_us = links::newest_us(conn, Purpose::Reset, user, now).await?;
        let young_us = now.as_microsecond() - YOUNG_LINK.as_micros() as i64;
        if newest_us.is_some_and(|created_us| created_us > young_us) {
            return Ok(Verdict::Drop);
        }
        // Requests of others never leave an owner without a link that works.
        must_go = newest_us.is_none();
    }
    let limit = claim.kind.limit(limits);
    let received = store::mails_to(conn, &recipient, claim.kind.as_str(), now).await?;
    if received.reached(limit) && !must_go {
        dropped("recipient", claim.kind);
        return Ok(Verdict::Drop);
    }
    if let Some(actor) = claim.actor {
        let kind = claim.kind.as_str();
        let (caused, limit) = match claim.kind {
            Kind::Requested => (
                store::mails_to_of(conn, &recipient, kind, actor, now).await?,
                limit.all_but_one(),
            ),
            _ => (
                store::mails_of(conn, kind, actor, now).await?,
                limits.todos_per_actor,
            ),
        };
        if caused.reached(limit) {
            dropped("actor", claim.kind);
            return Ok(Verdict::Drop);
        }
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

impl MailLimit {
    /// The share of one account, which leaves a mail to others.
    fn all_but_one(self) -> Self {
        Self {
            per_hour: self.per_hour.saturating_sub(1).max(1),
            per_day: self.per_day.saturating_sub(1).max(1),
        }
    }
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

/// The address under which a mail is counted: the mailbox, as `ada+todos@example.com` is
/// delivered to `ada@example.com`. Only mails that confirm an account's address count apart for
/// the mailbox itself: accounts with sub-addresses, which anybody can make, would use them up.
fn counted_as(kind: Kind, address: &str) -> String {
    let address = address.to_lowercase();
    let sub_address = address.rsplit_once('@').and_then(|(local, domain)| {
        let (name, _) = local.split_once('+')?;
        (!name.is_empty()).then_some((name, domain))
    });
    match sub_address {
        None => address,
        Some((name, domain)) if kind == Kind::Confirm => format!("{name}+@{domain}"),
        Some((name, domain)) => format!("{name}@{domain}"),
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
                resets: None,
            };
            verdicts.push(count(&mut tx, &claim, limits, now).await.unwrap());
        }
        assert_eq!(verdicts, [Send, Send, Send, SendLast, Send, Drop, Send]);
        tx.commit().await.unwrap();
    }

    #[test]
    fn sub_addresses_share_a_mailbox_but_not_its_confirmations() {
        let subs = [
            "ada+x@example.com",
            "ada+@example.com",
            "Ada+y+z@Example.com",
        ];
        for address in subs {
            assert_eq!(counted_as(Kind::Todo, address), "ada@example.com");
            assert_eq!(counted_as(Kind::Confirm, address), "ada+@example.com");
        }
        for kind in [Kind::Todo, Kind::Confirm] {
            assert_eq!(counted_as(kind, "Ada@Example.com"), "ada@example.com");
            for apart in [
                "+x@example.com",
                "adam@example.com",
                "ada@example.org",
                "ada",
            ] {
                assert_eq!(counted_as(kind, apart), apart);
            }
        }
    }
}
