//! Which mail about an account follows from which event: the welcome, links,
//! and warnings of what changed.

use termitary::prelude::*;

use super::budget::Kind;
use super::post::{Post, Somebody, post};
use super::store::{self, Person};
use super::templates::{self, Letter};
use crate::accounts::links::{self, Purpose};
use crate::app::App;
use crate::auth::events::PasswordForgotten;
use crate::users::events::{UserConfirmationRequested, UserCreated, UserEmailChanged, UserUpdated};

/// Greets a new user; where the address is not confirmed yet, with the link.
pub(super) async fn welcome(
    event: UserCreated,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let url = &app.settings().public_url;
    match Somebody::of(&app, &meta, &event.id).await? {
        Somebody::Here(person) if person.confirmed => {
            post(
                &app,
                &meta,
                &person.email,
                Kind::Confirm,
                templates::welcome(url),
            )
            .await
        }
        Somebody::Here(person) => {
            let letter = |token: &str| templates::welcome_to_confirm(url, token);
            post_link(&app, &meta, Purpose::Confirm, &person, letter).await
        }
        Somebody::Gone => Ok(()),
        Somebody::Elsewhere => {
            post(
                &app,
                &meta,
                &event.email,
                Kind::Confirm,
                templates::welcome(url),
            )
            .await
        }
    }
}

/// Sends the link that confirms an address: the account's own, or the one that
/// it shall have. Whoever has that one already is told, and nobody else.
pub(super) async fn confirmation(
    event: UserConfirmationRequested,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let url = &app.settings().public_url;
    let Somebody::Here(person) = Somebody::of(&app, &meta, &event.id).await? else {
        return Ok(());
    };
    if person.email == event.email {
        if person.confirmed {
            return Ok(());
        }
        let letter = |token: &str| templates::confirm(url, token);
        return post_link(&app, &meta, Purpose::Confirm, &person, letter).await;
    }
    if person.pending_email.as_deref() != Some(&event.email) {
        // Withdrawn, or replaced by another.
        return Ok(());
    }
    if has_account(&app, &event.email).await? {
        let letter = templates::address_taken(url);
        return post(&app, &meta, &event.email, Kind::Confirm, letter).await;
    }
    let at_new = Person {
        email: event.email,
        ..person
    };
    let letter = |token: &str| templates::confirm_change(url, token);
    post_link(&app, &meta, Purpose::Confirm, &at_new, letter).await
}

/// Warns the present address that the account is asked to get another one.
pub(super) async fn email_requested(
    event: UserConfirmationRequested,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let Somebody::Here(person) = Somebody::of(&app, &meta, &event.id).await? else {
        return Ok(());
    };
    let asks = person.pending_email.as_deref() == Some(&event.email);
    if !asks || !person.confirmed {
        return Ok(());
    }
    let letter = templates::address_change_requested(&app.settings().public_url);
    post(&app, &meta, &person.email, Kind::Security, letter).await
}

/// Sends the link that sets a new password; to nobody where the address has no
/// account.
pub(super) async fn reset(
    event: PasswordForgotten,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let mut reader = app.db().read().await?;
    let person = store::person_at(&mut reader, &event.email).await?;
    drop(reader);
    let Some(person) = person else { return Ok(()) };
    let letter = |token: &str| templates::reset(&app.settings().public_url, token);
    post_link(&app, &meta, Purpose::Reset, &person, letter).await
}

/// Warns that the password is another one.
pub(super) async fn password_changed(
    event: UserUpdated,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    if !event.changes.contains_key("passwordChangedAt") {
        return Ok(());
    }
    let Somebody::Here(person) = Somebody::of(&app, &meta, &event.id).await? else {
        return Ok(());
    };
    if !person.confirmed {
        return Ok(());
    }
    let at = meta.published_at.to_string();
    let letter = templates::password_changed(&at, &app.settings().public_url);
    post(&app, &meta, &person.email, Kind::Security, letter).await
}

/// Warns the address that an account had.
pub(super) async fn email_changed(
    event: UserEmailChanged,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    if !event.old_email_confirmed {
        return Ok(());
    }
    let letter = templates::address_changed(&app.settings().public_url);
    post(&app, &meta, &event.old_email, Kind::Security, letter).await
}

/// Sends a letter with a new link. Each attempt makes its own: what is stored
/// of a link is not enough to write it down again.
async fn post_link(
    app: &App,
    meta: &Meta,
    purpose: Purpose,
    person: &Person,
    letter: impl FnOnce(&str) -> Letter,
) -> HandlerResult {
    let kind = match purpose {
        Purpose::Confirm => Kind::Confirm,
        Purpose::Reset => Kind::Reset,
    };
    let Some(post) = Post::admit(app, meta, &person.email, kind, None).await? else {
        return Ok(());
    };
    let mut tx = app.db().begin().await?;
    let token = links::create(&mut tx, purpose, person.id, &person.email, app.now()).await?;
    tx.commit().await?;
    post.send(letter(&token)).await
}

async fn has_account(app: &App, email: &str) -> Result<bool, termitary::Error> {
    let mut reader = app.db().read().await?;
    Ok(store::person_at(&mut reader, email).await?.is_some())
}
