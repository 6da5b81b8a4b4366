//! Mail about an account: the welcome, links, and warnings of changes.

use termitary::prelude::*;

use super::limits::Kind;
use super::send::{Named, Permit, send, send_for};
use super::templates::{self, Letter};
use crate::accounts::links::{self, Purpose};
use crate::accounts::{self, User};
use crate::app::App;
use crate::auth::events::PasswordForgotten;
use crate::users::events::{UserConfirmationRequested, UserCreated, UserEmailChanged, UserUpdated};

/// Greets a new user; an unconfirmed address also gets its link.
pub(super) async fn welcome(
    event: UserCreated,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let url = &app.settings().public_url;
    let to = match Named::of(&app, &meta, &event.id).await? {
        Named::Ours(user) if user.email_confirmed => user.email,
        Named::Ours(user) => {
            let letter = |token: &str| templates::welcome_to_confirm(url, token);
            return send_link(&app, &meta, Purpose::Confirm, &user, &user.email, letter).await;
        }
        Named::Deleted => return Ok(()),
        Named::Foreign => event.email,
    };
    send(&app, &meta, &to, Kind::Confirm, templates::welcome(url)).await
}

/// Sends the link that confirms an address, the account's own or the requested new one.
/// If the new address already has an account, a mail there says so.
pub(super) async fn confirmation(
    event: UserConfirmationRequested,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let url = &app.settings().public_url;
    let Named::Ours(user) = Named::of(&app, &meta, &event.id).await? else {
        return Ok(());
    };
    if user.email == event.email {
        if user.email_confirmed {
            return Ok(());
        }
        let letter = |token: &str| templates::confirm(url, token);
        return send_link(&app, &meta, Purpose::Confirm, &user, &user.email, letter).await;
    }
    if user.pending_email.as_deref() != Some(&event.email) {
        // It was withdrawn or replaced.
        return Ok(());
    }
    if has_account(&app, &event.email).await? {
        let letter = templates::address_taken(url);
        let actor = Some(user.id);
        return send_for(&app, &meta, &event.email, Kind::Requested, actor, letter).await;
    }
    let letter = |token: &str| templates::confirm_change(url, token);
    send_link(&app, &meta, Purpose::Confirm, &user, &event.email, letter).await
}

/// Warns the present address that a new address was requested.
pub(super) async fn email_requested(
    event: UserConfirmationRequested,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let Named::Ours(user) = Named::of(&app, &meta, &event.id).await? else {
        return Ok(());
    };
    let asks = user.pending_email.as_deref() == Some(&event.email);
    if !asks || !user.email_confirmed {
        return Ok(());
    }
    let letter = templates::address_change_requested(&app.settings().public_url);
    send(&app, &meta, &user.email, Kind::Security, letter).await
}

/// Sends the link that sets a new password, if the address has an account.
pub(super) async fn reset(
    event: PasswordForgotten,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let mut reader = app.db().read().await?;
    let user = accounts::find_by_email(&mut reader, &event.email).await?;
    drop(reader);
    let Some(user) = user else { return Ok(()) };
    let letter = |token: &str| templates::reset(&app.settings().public_url, token);
    send_link(&app, &meta, Purpose::Reset, &user, &user.email, letter).await
}

/// Warns that the password was changed.
pub(super) async fn password_changed(
    event: UserUpdated,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    if !event.changes.contains_key("passwordChangedAt") {
        return Ok(());
    }
    let Named::Ours(user) = Named::of(&app, &meta, &event.id).await? else {
        return Ok(());
    };
    if !user.email_confirmed {
        return Ok(());
    }
    let at = meta.published_at.to_string();
    let letter = templates::password_changed(&at, &app.settings().public_url);
    send(&app, &meta, &user.email, Kind::Security, letter).await
}

/// Warns the old address of an account.
pub(super) async fn email_changed(
    event: UserEmailChanged,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    if !event.old_email_confirmed {
        return Ok(());
    }
    let letter = templates::address_changed(&app.settings().public_url);
    send(&app, &meta, &event.old_email, Kind::Security, letter).await
}

/// Sends a letter with a new link to `to`. Each attempt creates its own link, since the
/// stored hash is not enough to write it again.
async fn send_link(
    app: &App,
    meta: &Meta,
    purpose: Purpose,
    user: &User,
    to: &str,
    letter: impl FnOnce(&str) -> Letter,
) -> HandlerResult {
    let permit = match purpose {
        Purpose::Confirm if to == user.email => {
            Permit::take(app, meta, to, Kind::Confirm, None).await?
        }
        Purpose::Confirm => Permit::take(app, meta, to, Kind::Requested, Some(user.id)).await?,
        Purpose::Reset => Permit::take_reset(app, meta, to, user.id).await?,
    };
    let Some(permit) = permit else {
        return Ok(());
    };
    let mut tx = app.db().begin().await?;
    let token = links::create(&mut tx, purpose, user.id, to, app.now()).await?;
    tx.commit().await?;
    permit.send(letter(&token)).await
}

async fn has_account(app: &App, email: &str) -> Result<bool, termitary::Error> {
    let mut reader = app.db().read().await?;
    Ok(accounts::find_by_email(&mut reader, email).await?.is_some())
}
