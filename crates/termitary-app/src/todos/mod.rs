//! The team's to-dos, with comments and reminders.
//!
//! The owner and the assignee of a todo see and change it, and so do admins. For
//! everyone else it does not exist.

mod comments;
pub(crate) mod doors;
mod due;
pub mod events;
mod handlers;
mod limit;
mod list_item;
mod listing;
mod page;
mod routes;
mod search;
mod store;
mod todo;

use termitary::Registry;
use termitary::prelude::{schedule, subscribe};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::Api;

/// The module's routes.
pub(crate) fn router() -> OpenApiRouter<Api> {
    routes::router().merge(comments::router())
}

/// The module's page, for people who follow a link in a mail.
pub(crate) fn pages() -> axum::Router<Api> {
    page::router()
}

/// The module's events, schedules and handlers.
pub(crate) fn subscriptions() -> Registry<App> {
    Registry::new()
        .event::<events::TodoCreated>()
        .event::<events::TodoUpdated>()
        .event::<events::TodoDeleted>()
        .event::<events::TodoOverdue>()
        .on(schedule("todos.overdue.check", "0 */2 * * *", |tick| {
            events::TodosOverdueCheck {
                triggered_at: tick.at.to_string(),
            }
        }))
        .on(subscribe("todos.remind-overdue", handlers::remind_overdue).concurrency(1))
        .on(subscribe("todos.hand-on", handlers::hand_over))
}
