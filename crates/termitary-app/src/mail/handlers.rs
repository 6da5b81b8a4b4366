//! Which mail follows from which event.

use serde_json::Value;
use termitary::prelude::*;
use uuid::Uuid;

use super::templates::Letter;
use super::{Mail, MailError, store, templates};
use crate::app::App;
use crate::auth::events::UserLoggedIn;
use crate::provenance;
use crate::todos::events::{TodoCreated, TodoOverdue, TodoUpdated};
use crate::users::events::{UserCreated, UserDeleted};

/// Greets a new user.
pub(super) async fn welcome(
    event: UserCreated,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let letter = templates::welcome(&event.name, &app.settings().public_url);
    send(&app, &meta, event.email, letter).await
}

/// Tells somebody that a new todo is theirs.
pub(super) async fn assignment(
    event: TodoCreated,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let Some(assignee) = event.assignee else {
        return Ok(());
    };
    tell_assignee(&app, &meta, &event.id, &event.title, &assignee).await
}

/// Tells somebody that a todo became theirs.
pub(super) async fn reassignment(
    event: TodoUpdated,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let Some(Value::String(assignee)) = event.changes.get("assignee") else {
        return Ok(());
    };
    tell_assignee(&app, &meta, &event.id, &event.title, assignee).await
}

async fn tell_assignee(
    app: &App,
    meta: &Meta,
    todo: &str,
    title: &str,
    assignee: &str,
) -> HandlerResult {
    // Other services may assign to people who have no account here.
    let Ok(assignee) = assignee.parse::<Uuid>() else {
        return Ok(());
    };
    let mut reader = app.db().reader().acquire().await?;
    let known = provenance::of(&mut reader, meta.event_id).await?;
    if known.is_some_and(|known| known.actor == Some(assignee)) {
        return Ok(());
    }
    let Some(person) = store::person(&mut reader, assignee).await? else {
        return Ok(());
    };
    drop(reader);
    let letter = templates::assignment(&person.name, title, todo, &app.settings().public_url);
    send(app, meta, person.email, letter).await
}

/// Reminds whoever has to do it, or the owner where nobody has to.
pub(super) async fn overdue(
    event: TodoOverdue,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let responsible = event.assignee.as_deref().unwrap_or(&event.owner);
    let responsible: Uuid = responsible.parse().permanent()?;
    let mut reader = app.db().reader().acquire().await?;
    let Some(person) = store::person(&mut reader, responsible).await? else {
        return Ok(());
    };
    drop(reader);
    let letter = templates::overdue(
        &person.name,
        &event.title,
        &event.id,
        &event.due_date,
        &app.settings().public_url,
    );
    send(&app, &meta, person.email, letter).await
}

/// Warns of a login from an address or with an agent not seen before. The
/// first login of all is none: there is nothing to compare it with.
pub(super) async fn new_device(
    event: UserLoggedIn,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let user: Uuid = event.user_id.parse().permanent()?;
    let traits = store::Traits::new(event.ip_address.as_deref(), event.user_agent.as_deref());
    // Recorded first, under this event's id: of two events about one device
    // one sends the mail, and an attempt after a crash knows that it is the one.
    let mut tx = app.db().begin().await?;
    let now = app.db().clock().now();
    store::remember(&mut tx, user, &traits, meta.event_id, now).await?;
    let new = store::is_new(&mut tx, user, meta.event_id).await?;
    tx.commit().await?;
    if !new {
        return Ok(());
    }
    let letter = templates::new_device(
        &meta.published_at.to_string(),
        event.ip_address.as_deref(),
        event.user_agent.as_deref(),
    );
    send(&app, &meta, event.email, letter).await
}

/// A deleted user's devices are forgotten.
pub(super) async fn forget_devices(event: UserDeleted, ledger: Ledger) -> HandlerResult {
    let user: Uuid = event.id.parse().permanent()?;
    let mut tx = ledger.begin().await?;
    store::forget(&mut tx, user).await?;
    tx.commit().await
}

async fn send(app: &App, meta: &Meta, to: String, letter: Letter) -> HandlerResult {
    let Letter { subject, text } = letter;
    let mail = Mail {
        to,
        subject,
        text,
        message_id: meta.idempotency_key(),
    };
    app.mailer().send(mail).await.map_err(verdict)
}

fn verdict(error: MailError) -> HandlerError {
    if error.is_permanent() {
        HandlerError::permanent(error)
    } else {
        error.into()
    }
}
