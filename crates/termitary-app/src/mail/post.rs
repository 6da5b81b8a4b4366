//! Sends a letter to a person, within the limits.

use termitary::prelude::*;
use uuid::Uuid;

use super::budget::{self, Claim, Kind, Verdict};
use super::store::{self, Person};
use super::templates::{self, Letter};
use super::{Mail, MailError};
use crate::app::App;
use crate::provenance;

/// A mail that may go.
pub(super) struct Post<'a> {
    app: &'a App,
    to: &'a str,
    delivery: String,
    /// The recipient is told that it is the last one for now.
    last: bool,
}

impl<'a> Post<'a> {
    /// Counts a mail; none where there were too many, and it is dropped. A link
    /// is made after this: nobody shall push out links that work by asking for
    /// more. `actor` is the user who caused it, if not the recipient.
    pub(super) async fn admit(
        app: &'a App,
        meta: &Meta,
        to: &'a str,
        kind: Kind,
        actor: Option<Uuid>,
    ) -> Result<Option<Self>, termitary::Error> {
        let delivery = meta.idempotency_key();
        let claim = Claim {
            delivery: &delivery,
            to,
            kind,
            actor,
        };
        let mut tx = app.db().begin().await?;
        let limits = app.settings().mail_limits;
        let verdict = budget::take(&mut tx, &claim, limits, app.now()).await?;
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
        self.app.mailer().send(mail).await.map_err(verdict)
    }
}

/// Sends a letter that its recipient caused, or nobody.
pub(super) async fn post(
    app: &App,
    meta: &Meta,
    to: &str,
    kind: Kind,
    letter: Letter,
) -> HandlerResult {
    match Post::admit(app, meta, to, kind, None).await? {
        Some(post) => post.send(letter).await,
        None => Ok(()),
    }
}

fn verdict(error: MailError) -> HandlerError {
    if error.is_permanent() {
        HandlerError::permanent(error)
    } else {
        error.into()
    }
}

/// Whom an event's user id names.
pub(super) enum Somebody {
    /// A user of this service.
    Here(Person),
    /// A user that there was here.
    Gone,
    /// Another service's user: all that is known stands in the event.
    Elsewhere,
}

impl Somebody {
    pub(super) async fn of(app: &App, meta: &Meta, id: &str) -> Result<Self, termitary::Error> {
        let mut reader = app.db().read().await?;
        if let Ok(id) = id.parse::<Uuid>()
            && let Some(person) = store::person(&mut reader, id).await?
        {
            return Ok(Self::Here(person));
        }
        let ours = provenance::of(&mut reader, meta.event_id).await?.is_some();
        Ok(if ours { Self::Gone } else { Self::Elsewhere })
    }
}
