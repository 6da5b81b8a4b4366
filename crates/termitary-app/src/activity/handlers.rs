//! The handlers of the activity module, which write the feed.

use serde_json::{Map, Value};
use termitary::Conn;
use termitary::prelude::*;
use uuid::Uuid;

use super::events::ActivityRecorded;
use super::store::{self, Entry};
use crate::app::App;
use crate::auth::events::UserLoggedIn;
use crate::provenance::{self, Provenance};
use crate::todos::doors as todos;
use crate::todos::events::{TodoCreated, TodoDeleted, TodoOverdue, TodoUpdated};
use crate::users::events::{UserCreated, UserDeleted, UserInactiveCheck, UserUpdated};

/// The entries that one transaction deletes.
const BATCH: u32 = 500;

/// An event that belongs in the feed.
pub(super) trait Recorded: Event {
    /// The id of the todo or user that it is about.
    fn subject(&self) -> &str;
    /// The todo's title.
    fn title(&self) -> Option<&str> {
        None
    }
    /// The changed fields.
    fn changes(&self) -> Option<&Map<String, Value>> {
        None
    }
    /// True if the subject is a user, who then sees the entry.
    const ABOUT_USER: bool = false;
}

/// Writes one entry, then notifies the live streams.
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
    let provenance = provenance_of::<E>(&app, &entry).await?;
    let entry = Entry {
        actor: provenance.actor,
        ..entry
    };
    let mut tx = ledger.begin().await?;
    let is_new = store::insert(&mut tx, &entry, &provenance.viewers).await?;
    tx.commit().await?;
    if is_new {
        notify(&app, &entry, provenance.viewers).await;
    }
    Ok(())
}

/// Deletes entries that are too old, in batches, so that other transactions can run in
/// between.
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
    let mut deleted = 0;
    loop {
        let mut tx = app.db().begin().await?;
        let page = store::delete_before(&mut tx, before_us, BATCH).await?;
        tx.commit().await?;
        deleted += page;
        // The next run continues.
        if page < u64::from(BATCH) || shutdown.is_requested() {
            break;
        }
    }
    if deleted > 0 {
        tracing::info!(entries = deleted, "deleted old entries of the feed");
    }
    Ok(())
}

/// The provenance of the event. It was committed with the event, so a reader finds it.
async fn provenance_of<E: Recorded>(
    app: &App,
    entry: &Entry,
) -> Result<Provenance, termitary::Error> {
    let mut reader = app.db().read().await?;
    Ok(match provenance::of(&mut reader, entry.id).await? {
        Some(provenance) => provenance,
        None => Provenance::by_nobody(guess_viewers::<E>(&mut reader, &entry.subject).await?),
    })
}

/// The viewers of an event from another service: those who see its subject now.
async fn guess_viewers<E: Recorded>(conn: &mut Conn, subject: &str) -> sqlx::Result<Vec<Uuid>> {
    match subject.parse() {
        Ok(user) if E::ABOUT_USER => Ok(vec![user]),
        Ok(todo) => todos::viewers(conn, todo).await,
        Err(_) => Ok(Vec::new()),
    }
}

/// Live streams get it at most once; a stream that misses it reads the feed.
async fn notify(app: &App, entry: &Entry, viewers: Vec<Uuid>) {
    let entry = serde_json::json!(entry);
    if let Err(error) = app
        .bus()
        .broadcast(ActivityRecorded { entry, viewers })
        .await
    {
        tracing::warn!(error = ?error, "live streams miss a change");
    }
}

/// Implements [`Recorded`]: the field of the subject's id, and the other values that the entry
/// takes from the event.
macro_rules! recorded {
    ($($event:ident: $subject:ident $(, title $title:ident)? $(, changes $changes:ident)? $(, user $user:literal)?;)*) => {$(
        impl Recorded for $event {
            $(const ABOUT_USER: bool = $user;)?

            fn subject(&self) -> &str {
                &self.$subject
            }

            $(fn title(&self) -> Option<&str> {
                Some(&self.$title)
            })?

            $(fn changes(&self) -> Option<&Map<String, Value>> {
                Some(&self.$changes)
            })?
        }
    )*};
}

recorded! {
    TodoCreated: id, title title;
    TodoUpdated: id, title title, changes changes;
    TodoDeleted: id, title title;
    TodoOverdue: id, title title;
    UserCreated: id, user true;
    UserUpdated: id, changes changes, user true;
    UserDeleted: id, user true;
    UserLoggedIn: user_id, user true;
}
