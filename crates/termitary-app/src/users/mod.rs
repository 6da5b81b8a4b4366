//! People: read, change and delete them; admins also list and make them.

pub mod events;
mod handlers;
mod routes;
mod store;

use termitary::Registry;
use termitary::prelude::{schedule, subscribe};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::Api;

/// The module's routes.
pub(crate) fn router() -> OpenApiRouter<Api> {
    routes::router()
}

/// The module's events, schedules and handlers.
pub(crate) fn subscriptions() -> Registry<App> {
    Registry::new()
        .event::<events::UserCreated>()
        .event::<events::UserUpdated>()
        .event::<events::UserDeleted>()
        .on(schedule("users.inactive.check", "0 * * * *", |tick| {
            events::UserInactiveCheck {
                triggered_at: tick.at.to_string(),
            }
        }))
        .on(subscribe("users.prune", handlers::prune))
}
