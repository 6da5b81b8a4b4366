//! Mail about todos and logins. Unconfirmed addresses get none of it.

use serde_json::Value;
use termitary::prelude::*;
use uuid::Uuid;

use super::limits::Kind;
use super::send::{Named, send, send_for};
use super::{store, templates};
use crate::accounts;
use crate::app::App;
use crate::auth::events::UserLoggedIn;
use crate::provenance;
use crate::todos::doors as todos;
use crate::todos::events::{TodoCreated, TodoOverdue, TodoUpdated};
use crate::users::events::{UserDeleted, UserInactiveCheck};

/// Tells the assignee of a new todo.
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

/// Tells the new assignee of a todo.
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
    let mut reader = app.db().read().await?;
    let provenance = provenance::of(&mut reader, meta.event_id).await?;
    let actor = provenance.as_ref().and_then(|known| known.actor);
    if actor == Some(assignee) {
        return Ok(());
    }
    let user = accounts::find(&mut reader, assignee).await?;
    let Some(user) = user.filter(|user| user.email_confirmed) else {
        return Ok(());
    };
    // The present title; a todo of another service is not in the database.
    let title = match todos::title(&mut reader, todo).await? {
        Some(title) => title,
        None if provenance.is_some() => return Ok(()),
        None => title.to_owned(),
    };
    drop(reader);
    let letter = templates::assignment(&user.name, &title, &link(app, todo));
    send_for(app, meta, &user.email, Kind::Todo, actor, letter).await
}

/// Reminds the assignee, or the owner if there is none.
pub(super) async fn overdue(
    event: TodoOverdue,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let responsible = event.assignee.as_deref().unwrap_or(&event.owner);
    let responsible: Uuid = responsible.parse().permanent()?;
    let mut reader = app.db().read().await?;
    let user = accounts::find(&mut reader, responsible).await?;
    let Some(user) = user.filter(|user| user.email_confirmed) else {
        return Ok(());
    };
    drop(reader);
    let link = link(&app, &event.id);
    let letter = templates::overdue(&user.name, &event.title, &event.due_date, &link);
    let owner = event.owner.parse().ok();
    let actor = owner.filter(|owner| *owner != responsible);
    send_for(&app, &meta, &user.email, Kind::Todo, actor, letter).await
}

/// The page of a todo; the front page for a todo of another service.
fn link(app: &App, todo: &str) -> String {
    let url = &app.settings().public_url;
    match todo.parse::<Uuid>() {
        Ok(id) => format!("{url}/todos/{id}"),
        Err(_) => url.clone(),
    }
}

/// Warns of a login from a new address or with a new agent. The first login of a user has
/// nothing to compare with.
pub(super) async fn new_device(
    event: UserLoggedIn,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let user: Uuid = event.user_id.parse().permanent()?;
    let traits = store::Traits::new(event.ip_address.as_deref(), event.user_agent.as_deref());
    // Recorded first, under this event's id: of two events about one device only one
    // sends the mail, and an attempt after a crash recognizes its own record.
    let mut tx = app.db().begin().await?;
    store::insert_traits(&mut tx, user, &traits, meta.event_id, app.now()).await?;
    let new = store::is_new_device(&mut tx, user, meta.event_id).await?;
    tx.commit().await?;
    if !new {
        return Ok(());
    }
    let to = match Named::of(&app, &meta, &event.user_id).await? {
        Named::Ours(user) if user.email_confirmed => user.email,
        Named::Ours(_) | Named::Deleted => return Ok(()),
        Named::Foreign => event.email,
    };
    let letter = templates::new_device(
        &meta.published_at.to_string(),
        event.ip_address.as_deref(),
        event.user_agent.as_deref(),
        &app.settings().public_url,
    );
    send(&app, &meta, &to, Kind::Security, letter).await
}

/// Deletes the devices of a deleted user.
pub(super) async fn forget_devices(event: UserDeleted, ledger: Ledger) -> HandlerResult {
    let user: Uuid = event.id.parse().permanent()?;
    let mut tx = ledger.begin().await?;
    store::delete_devices(&mut tx, user).await?;
    tx.commit().await
}

/// Deletes counts that are too old for any limit.
pub(super) async fn delete_old(
    _: UserInactiveCheck,
    State(app): State<App>,
    ledger: Ledger,
) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    store::delete_old_counts(&mut tx, app.now()).await?;
    tx.commit().await
}
