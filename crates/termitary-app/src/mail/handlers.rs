//! Which mail about todos and logins follows from which event. An address that
//! nobody confirmed gets none of it.

use serde_json::Value;
use termitary::prelude::*;
use uuid::Uuid;

use super::budget::{self, Kind};
use super::post::{Post, Somebody, post};
use super::{store, templates};
use crate::app::App;
use crate::auth::events::UserLoggedIn;
use crate::provenance;
use crate::todos::events::{TodoCreated, TodoOverdue, TodoUpdated};
use crate::users::events::{UserDeleted, UserInactiveCheck};

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
    let mut reader = app.db().read().await?;
    let known = provenance::of(&mut reader, meta.event_id).await?;
    let actor = known.as_ref().and_then(|known| known.actor);
    if actor == Some(assignee) {
        return Ok(());
    }
    let person = store::person(&mut reader, assignee).await?;
    let Some(person) = person.filter(|person| person.confirmed) else {
        return Ok(());
    };
    // As it is called now; another service's is not known here.
    let title = match store::title_of(&mut reader, todo).await? {
        Some(title) => title,
        None if known.is_some() => return Ok(()),
        None => title.to_owned(),
    };
    drop(reader);
    let letter = templates::assignment(&person.name, &title, &link(app, todo));
    match Post::admit(app, meta, &person.email, Kind::Todo, actor).await? {
        Some(post) => post.send(letter).await,
        None => Ok(()),
    }
}

/// Reminds whoever has to do it, or the owner where nobody has to.
pub(super) async fn overdue(
    event: TodoOverdue,
    State(app): State<App>,
    meta: Meta,
) -> HandlerResult {
    let responsible = event.assignee.as_deref().unwrap_or(&event.owner);
    let responsible: Uuid = responsible.parse().permanent()?;
    let mut reader = app.db().read().await?;
    let person = store::person(&mut reader, responsible).await?;
    let Some(person) = person.filter(|person| person.confirmed) else {
        return Ok(());
    };
    drop(reader);
    let link = link(&app, &event.id);
    let letter = templates::overdue(&person.name, &event.title, &event.due_date, &link);
    let owner = event.owner.parse().ok();
    let actor = owner.filter(|owner| *owner != responsible);
    match Post::admit(&app, &meta, &person.email, Kind::Todo, actor).await? {
        Some(post) => post.send(letter).await,
        None => Ok(()),
    }
}

/// The page of a todo; of another service's, the front page.
fn link(app: &App, todo: &str) -> String {
    let url = &app.settings().public_url;
    match todo.parse::<Uuid>() {
        Ok(id) => format!("{url}/todos/{id}"),
        Err(_) => url.clone(),
    }
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
    let to = match Somebody::of(&app, &meta, &event.user_id).await? {
        Somebody::Here(person) if person.confirmed => person.email,
        Somebody::Here(_) | Somebody::Gone => return Ok(()),
        Somebody::Elsewhere => event.email,
    };
    let letter = templates::new_device(
        &meta.published_at.to_string(),
        event.ip_address.as_deref(),
        event.user_agent.as_deref(),
        &app.settings().public_url,
    );
    post(&app, &meta, &to, Kind::Security, letter).await
}

/// A deleted user's devices are forgotten.
pub(super) async fn forget_devices(event: UserDeleted, ledger: Ledger) -> HandlerResult {
    let user: Uuid = event.id.parse().permanent()?;
    let mut tx = ledger.begin().await?;
    store::forget(&mut tx, user).await?;
    tx.commit().await
}

/// Counts that no limit looks at any more are removed.
pub(super) async fn prune(
    _: UserInactiveCheck,
    State(app): State<App>,
    ledger: Ledger,
) -> HandlerResult {
    let mut tx = ledger.begin().await?;
    budget::prune(&mut tx, app.now()).await?;
    tx.commit().await
}
