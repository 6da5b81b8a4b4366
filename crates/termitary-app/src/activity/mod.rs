//! The activity feed, which a worker writes, and its live stream.

pub mod events;
mod frames;
mod handlers;
mod hub;
mod reader;
mod routes;
mod store;
mod stream;
mod tickets;

use termitary::Registry;
use termitary::prelude::subscribe;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::auth::events::UserLoggedIn;
use crate::http::Api;
use crate::todos::events::{TodoCreated, TodoDeleted, TodoOverdue, TodoUpdated};
use crate::users::events::{UserCreated, UserDeleted, UserUpdated};

pub(crate) use stream::Streams;

/// The module's routes.
pub(crate) fn router() -> OpenApiRouter<Api> {
    routes::router().merge(stream::router())
}

/// The module's handlers: each writes one entry per event.
pub(crate) fn subscriptions() -> Registry<App> {
    Registry::new()
        .on(subscribe(
            "activity.todo-created",
            handlers::record::<TodoCreated>,
        ))
        .on(subscribe(
            "activity.todo-updated",
            handlers::record::<TodoUpdated>,
        ))
        .on(subscribe(
            "activity.todo-deleted",
            handlers::record::<TodoDeleted>,
        ))
        .on(subscribe(
            "activity.todo-overdue",
            handlers::record::<TodoOverdue>,
        ))
        .on(subscribe(
            "activity.user-created",
            handlers::record::<UserCreated>,
        ))
        .on(subscribe(
            "activity.user-updated",
            handlers::record::<UserUpdated>,
        ))
        .on(subscribe(
            "activity.user-deleted",
            handlers::record::<UserDeleted>,
        ))
        .on(subscribe(
            "activity.user-login",
            handlers::record::<UserLoggedIn>,
        ))
        .on(subscribe("activity.expire", handlers::expire))
}
