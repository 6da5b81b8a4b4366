//! The handlers of the todos module.

use termitary::Tx;
use termitary::prelude::*;
use uuid::Uuid;

use super::events::{TodoDeleted, TodoOverdue, TodoUpdated, TodosOverdueCheck};
use super::routes::differences;
use super::store;
use super::todo::Todo;
use crate::accounts;
use crate::app::App;
use crate::provenance::{self, Provenance};
use crate::schema::Rows;
use crate::users::events::UserDeleted;

/// The todos of one transaction: other transactions wait meanwhile.
const BATCH: i64 = 200;

/// Returns true if no further batch follows, or if none of this one can be read, so that the
/// next batch would be the same.
fn is_last(batch: &Rows<Todo>) -> bool {
    batch.read < BATCH as usize || batch.readable.is_empty()
}

/// Publishes `todos.overdue` for each overdue todo, once per due date. A row per reminder
/// commits with the event, so neither a second check nor a second scheduler nor a crash
/// publishes it twice.
pub(super) async fn remind_overdue(
    _: TodosOverdueCheck,
    State(app): State<App>,
    ledger: Ledger,
) -> HandlerResult {
    let now = app.now();
    loop {
        let mut reader = app.db().read().await?;
        let todos = store::overdue(&mut reader, now, BATCH).await?;
        drop(reader);
        let last = is_last(&todos);
        let todos = todos.readable;
        if last {
            let mut tx = ledger.begin().await?;
            remind(&mut tx, &app, &todos).await?;
            return tx.commit().await;
        }
        let mut tx = app.db().begin().await?;
        remind(&mut tx, &app, &todos).await?;
        tx.commit().await?;
    }
}

async fn remind(tx: &mut Tx, app: &App, todos: &[Todo]) -> Result<(), termitary::Error> {
    let now = app.now();
    for todo in todos {
        let Some(due) = todo.due_date else { continue };
        // It may have been deleted, or its reminder sent, since it was read.
        if !store::is_still_due(tx, todo.id, due).await?
            || !store::insert_reminder(tx, todo.id, due, now).await?
        {
            continue;
        }
        let event = TodoOverdue {
            id: todo.id.to_string(),
            title: todo.title.clone(),
            assignee: todo.assignee.as_ref().map(Uuid::to_string),
            owner: todo.owner.to_string(),
            due_date: due.to_string(),
        };
        let by_nobody = Provenance::by_nobody(todo.viewers());
        provenance::publish(tx, event, todo.id, by_nobody, now).await?;
    }
    Ok(())
}

/// Hands the todos of a deleted user over to their assignees, and deletes those without
/// another assignee. Todos that the user was assigned to lose their assignee.
pub(super) async fn hand_over(
    event: UserDeleted,
    State(app): State<App>,
    ledger: Ledger,
) -> HandlerResult {
    // Users of other services have no todos here.
    let Ok(user) = event.id.parse::<Uuid>() else {
        return Ok(());
    };
    loop {
        let mut reader = app.db().read().await?;
        if accounts::exists(&mut reader, user).await? {
            return Err(HandlerError::permanent(
                "the user still exists: no todo was handed over",
            ));
        }
        let todos = store::of_user(&mut reader, user, BATCH).await?;
        drop(reader);
        if is_last(&todos) {
            let mut tx = ledger.begin().await?;
            hand_over_batch(&mut tx, &app, user).await?;
            return tx.commit().await;
        }
        let mut tx = app.db().begin().await?;
        hand_over_batch(&mut tx, &app, user).await?;
        tx.commit().await?;
    }
}

async fn hand_over_batch(tx: &mut Tx, app: &App, user: Uuid) -> Result<(), termitary::Error> {
    let now = app.now();
    // Read again inside the transaction, so that nothing changes in between.
    for old in store::of_user_to_change(tx, user, BATCH).await?.readable {
        let assignee = old.assignee.filter(|&assignee| assignee != user);
        if old.owner == user && assignee.is_none() {
            let event = TodoDeleted {
                id: old.id.to_string(),
                title: old.title,
            };
            let change = store::delete(old.id);
            let by_nobody = Provenance::by_nobody(Vec::new());
            provenance::change_and_publish(tx, change, event, old.id, by_nobody, now).await?;
            continue;
        }
        let owner = if old.owner == user {
            assignee.unwrap_or(old.owner)
        } else {
            old.owner
        };
        let new = Todo {
            owner,
            assignee,
            updated_at: now,
            ..old.clone()
        };
        let changes = differences(&old, &new);
        let event = TodoUpdated {
            id: new.id.to_string(),
            title: new.title.clone(),
            changes,
        };
        let change = store::update(&new);
        let by_nobody = Provenance::by_nobody(new.viewers());
        provenance::change_and_publish(tx, change, event, new.id, by_nobody, now).await?;
    }
    Ok(())
}
