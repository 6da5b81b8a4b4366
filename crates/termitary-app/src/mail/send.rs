//! Sends a letter to a user, within the limits.

use termitary::prelude::*;
use uuid::Uuid;

use super::limits::{self, Claim, Kind, Verdict};
use super::templates::{self, Letter};
use crate::accounts::{self, User};
use crate::app::App;
use crate::mailer::{Mail, MailError};
use crate::provenance;

/// A mail that the limits allow.
pub(super) struct Permit<'a> {
    app: &'a App,
    to: &'a str,
    delivery: String,
    /// True if the recipient should learn that it is the last one for now.
    last: bool,
}

impl<'a> Permit<'a> {
    /// Counts a mail; returns `None` if there were too many, and it is dropped. A link is
    /// created after this, so that requests for more cannot invalidate working links.
    /// `actor` is the user who caused it, if not the recipient.
    pub(super) async fn take(
        app: &'a App,
        meta: &Meta,
        to: &'a str,
        kind: Kind,
        actor: Option<Uuid>,
    ) -> Result<Option<Self>, termitary::Error> {
        Self::count(app, meta, to, kind, actor, None).await
    }

    /// [`Permit::take`] for a link that sets a new password of `user`.
    pub(super) async fn take_reset(
        app: &'a App,
        meta: &Meta,
        to: &'a str,
        user: Uuid,
    ) -> Result<Option<Self>, termitary::Error> {
        Self::count(app, meta, to, Kind::Reset, None, Some(user)).await
    }

    async fn count(
        app: &'a App,
        meta: &Meta,
        to: &'a str,
        kind: Kind,
        actor: Option<Uuid>,
        resets: Option<Uuid>,
    ) -> Result<Option<Self>, termitary::Error> {
        let delivery = meta.idempotency_key();
        let claim = Claim {
            delivery: &delivery,
            to,
            kind,
            actor,
            resets,
        };
        let mut tx = app.db().begin().await?;
        let verdict = limits::count(&mut tx, &claim, app.settings().mail_limits, app.now()).await?;
        tx.commit().await?;
        Ok((verdict != Verdict::Drop).then_some(Self {
            app,
            to,
            delivery,
            last: verdict == Verdict::SendLast,
        }))
    }

    /// Returns when the mail is sent.
    pub(super) async fn send(self, letter: Letter) -> HandlerResult {
        let text = if self.last {
            templates::last_for_now(&letter.text, &self.app.settings().public_url)
        } else {
            letter.text
        };
        let mail = Mail {
            to: self.to.to_owned(),
            subject: letter.subject.to_owned(),
            text,
            message_id: self.delivery,
        };
        self.app.mailer().send(mail).await.map_err(handler_error)
    }
}

/// Sends a letter that no other user caused.
pub(super) async fn send(
    app: &App,
    meta: &Meta,
    to: &str,
    kind: Kind,
    letter: Letter,
) -> HandlerResult {
    send_for(app, meta, to, kind, None, letter).await
}

/// Sends a letter that `actor` caused, if it is not the recipient.
pub(super) async fn send_for(
    app: &App,
    meta: &Meta,
    to: &str,
    kind: Kind,
    actor: Option<Uuid>,
    letter: Letter,
) -> HandlerResult {
    match Permit::take(app, meta, to, kind, actor).await? {
        Some(permit) => permit.send(letter).await,
        None => Ok(()),
    }
}

fn handler_error(error: MailError) -> HandlerError {
    if error.is_permanent() {
        HandlerError::permanent(error)
    } else {
        error.into()
    }
}

/// The user that an id in an event names.
pub(super) enum Named {
    /// A user of this service.
    Ours(User),
    /// A deleted user of this service.
    Deleted,
    /// A user of another service: only the event describes them.
    Foreign,
}

impl Named {
    pub(super) async fn of(app: &App, meta: &Meta, id: &str) -> Result<Self, termitary::Error> {
        let mut reader = app.db().read().await?;
        if let Ok(id) = id.parse::<Uuid>()
            && let Some(user) = accounts::find(&mut reader, id).await?
        {
            return Ok(Self::Ours(user));
        }
        let ours = provenance::of(&mut reader, meta.event_id).await?.is_some();
        Ok(if ours { Self::Deleted } else { Self::Foreign })
    }
}
