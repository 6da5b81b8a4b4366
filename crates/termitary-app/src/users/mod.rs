//! Users: read, change, delete and find them; admins also list and create them, end
//! their sessions and set their passwords.

mod admin;
pub mod events;
mod handlers;
mod people_search;
mod routes;

use termitary::Registry;
use termitary::prelude::{schedule, subscribe};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::Api;

/// The module's routes.
pub(crate) fn router() -> OpenApiRouter<Api> {
    routes::router()
        .merge(admin::router())
        .merge(people_search::router())
}

/// The module's events, schedules and handlers.
pub(crate) fn subscriptions() -> Registry<App> {
    Registry::new()
        .event::<events::UserCreated>()
        .event::<events::UserUpdated>()
        .event::<events::UserDeleted>()
        .event::<events::UserConfirmationRequested>()
        .event::<events::UserEmailConfirmed>()
        .event::<events::UserEmailChanged>()
        .on(schedule("users.inactive.check", "0 * * * *", |tick| {
            events::UserInactiveCheck {
                triggered_at: tick.at.to_string(),
            }
        }))
        .on(subscribe("users.prune", handlers::prune))
}
