//! Registration, login, sessions and passwords.
//!
//! Nothing here tells a stranger whether an address has an account
//! (docs/decisions/0004).

mod confirmation;
mod current_password;
pub(crate) mod doors;
pub mod events;
mod handlers;
mod limits;
pub(crate) mod operator;
mod pages;
mod recovery;
mod routes;
mod store;

use termitary::Registry;
use termitary::prelude::subscribe;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::Api;

pub use crate::accounts::{Role, User};
pub use operator::{NewUser, create_user};

/// The module's routes.
pub(crate) fn router() -> OpenApiRouter<Api> {
    routes::router()
        .merge(confirmation::router())
        .merge(recovery::router())
}

/// The module's pages, for people who follow a link in a mail.
pub(crate) fn pages() -> axum::Router<Api> {
    pages::router()
}

/// The module's events and handlers.
pub(crate) fn subscriptions() -> Registry<App> {
    Registry::new()
        .event::<events::UserLoggedIn>()
        .event::<events::PasswordForgotten>()
        .on(subscribe("auth.end-sessions", handlers::end_sessions))
        .on(subscribe("auth.expire-sessions", handlers::expire_sessions))
}
