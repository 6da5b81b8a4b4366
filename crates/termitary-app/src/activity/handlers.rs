//! What workers do for the activity module: write the feed.

use serde_json::{Map, Value};
use termitary::prelude::*;
use uuid::Uuid;

use super::events::ActivityRecorded;
use super::store::{self, Entry};
use crate::app::App;
use crate::auth::events::UserLoggedIn;
use crate::provenance::{self, Provenance};
use crate::todos::events::{TodoCreated, TodoDeleted, TodoOverdue, TodoUpdated};
use crate::users::events::{UserCreated, UserDeleted, UserInactiveCheck, UserUpdated};

/// Entries that are removed in one transaction.
const REMOVED: u32 = 500;

/// An event that belongs in the feed.
pub(super) trait Recorded: Event {
    /// The id of the todo or user it is about.
    fn subject(&self) -> &str;
    /// The todo's title.
    fn title(&self) -> Option<&str> {
        None
    }
    /// What changed.
    fn changes(&self) -> Option<&Map<String, Value>> {
        None
    }
    /// Whether the subject is a user, who then sees it.
    const ABOUT_USER: bool = false;
}

/// Writes one entry, then tells the live streams.
pub(super) async fn record<E: Recorded>(
    event: E,
    State(app): State<App>,
    ledger: Ledger,
    meta: Meta,
) -> HandlerResult {
    let entry = Entry {
        id: meta.event_id,
        event: meta.event_name,
        subject: event.subject().to_owned(),
        actor: None,
        at: meta.published_at,
        title: event.title().map(str::to_owned),
        changes: event.changes().cloned(),
    };
    let known = known_of::<E>(&app, &entry).await?;
    let entry = Entry {
        actor: known.actor,
        ..entry
    };
    let mut tx = ledger.begin().await?;
    let is_new = store::insert(&mut tx, &entry, &known.viewers).await?;
    tx.commit().await?;
    if is_new {
        tell(&app, &entry, known.viewers).await;
    }
    Ok(())
}

/// Entries older than the feed keeps them are removed, page by page: others write
/// in between.
pub(super) async fn expire(
    _: UserInactiveCheck,
    State(app): State<App>,
    shutdown: Shutdown,
) -> HandlerResult {
    let Some(kept) = app.settings().activity_kept else {
        return Ok(());
    };
    let kept_us = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
    let before_us = app.now().as_microsecond().saturating_sub(kept_us);
    let mut removed = 0;
    loop {
        let mut tx = app.db().begin().await?;
        let page = store::remove_before(&mut tx, before_us, REMOVED).await?;
        tx.commit().await?;
        removed += page;
        // The next run goes on.
        if page < u64::from(REMOVED) || shutdown.is_requested() {
            break;
        }
    }
    if removed > 0 {
        tracing::info!(entries = removed, "removed old entries of the feed");
    }
    Ok(())
}

/// It was written with the event: whoever waits to write need not wait for this.
async fn known_of<E: Recorded>(app: &App, entry: &Entry) -> Result<Provenance, termitary::Error> {
    let mut reader = app.db().read().await?;
    Ok(match provenance::of(&mut reader, entry.id).await? {
        Some(known) => known,
        None => Provenance::by_nobody(guess_viewers::<E>(&mut reader, &entry.subject).await?),
    })
}

/// Another service published the event: whoever sees its subject now sees it.
async fn guess_viewers<E: Recorded>(
    conn: &mut termitary::Conn,
    subject: &str,
) -> sqlx::Result<Vec<Uuid>> {
    match subject.parse() {
        Ok(user) if E::ABOUT_USER => Ok(vec![user]),
        Ok(todo) => store::todo_viewers(conn, todo).await,
        Err(_) => Ok(Vec::new()),
    }
}

/// Live streams get it at most once: who misses it reads the feed.
async fn tell(app: &App, entry: &Entry, viewers: Vec<Uuid>) {
    let entry = serde_json::json!(entry);
    if let Err(error) = app
        .bus()
        .broadcast(ActivityRecorded { entry, viewers })
        .await
    {
        tracing::warn!(error = ?error, "live streams miss a change");
    }
}

impl Recorded for TodoCreated {
    fn subject(&self) -> &str {
        &self.id
    }
    fn title(&self) -> Option<&str> {
        Some(&self.title)
    }
}

impl Recorded for TodoUpdated {
    fn subject(&self) -> &str {
        &self.id
    }
    fn title(&self) -> Option<&str> {
        Some(&self.title)
    }
    fn changes(&self) -> Option<&Map<String, Value>> {
        Some(&self.changes)
    }
}

impl Recorded for TodoDeleted {
    fn subject(&self) -> &str {
        &self.id
    }
    fn title(&self) -> Option<&str> {
        Some(&self.title)
    }
}

impl Recorded for TodoOverdue {
    fn subject(&self) -> &str {
        &self.id
    }
    fn title(&self) -> Option<&str> {
        Some(&self.title)
    }
}

impl Recorded for UserCreated {
    const ABOUT_USER: bool = true;
    fn subject(&self) -> &str {
        &self.id
    }
}

impl Recorded for UserUpdated {
    const ABOUT_USER: bool = true;
    fn subject(&self) -> &str {
        &self.id
    }
    fn changes(&self) -> Option<&Map<String, Value>> {
        Some(&self.changes)
    }
}

impl Recorded for UserDeleted {
    const ABOUT_USER: bool = true;
    fn subject(&self) -> &str {
        &self.id
    }
}

impl Recorded for UserLoggedIn {
    const ABOUT_USER: bool = true;
    fn subject(&self) -> &str {
        &self.user_id
    }
}
