//! Who is who: registration, login, sessions.
//!
//! Tokens are opaque; only their hash is stored. Nothing here tells a stranger
//! whether an address has an account (docs/decisions/0004).

mod confirmation;
mod current;
pub mod events;
mod handlers;
mod known;
mod limits;
mod lookups;
pub(crate) mod operator;
mod pages;
mod recovery;
mod routes;
mod store;
mod tickets;
mod token;

use axum::extract::State;
use termitary::Registry;
use termitary::prelude::subscribe;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::{Api, ApiError, Caller, Client, Json, Valid, check};

pub use crate::accounts::{Role, User};
pub(crate) use current::prove;
pub(crate) use lookups::Lookups;
pub use operator::{NewUser, create_user};
pub(crate) use tickets::{issue as issue_ticket, redeem as redeem_ticket};

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

/// Logs in, and out again at once: for a page that is shown once. It counts and
/// is told as every login.
pub(crate) async fn sign_in_once(
    app: &App,
    client: Client,
    email: String,
    password: String,
) -> Result<Caller, ApiError> {
    let login = routes::Login { email, password };
    check(&login)?;
    let login = Valid(Json(login));
    let (_, Json(logged_in)) = routes::login(State(app.clone()), client, login).await?;
    let caller = caller(app, &logged_in.token)
        .await?
        .ok_or(ApiError::NotFound)?;
    let mut tx = app.db().begin().await?;
    store::end_session(&mut tx, caller.user, caller.session).await?;
    tx.commit().await?;
    Ok(caller)
}

/// Counts a request of `user` for a mail with a link, or says how long to wait.
pub(crate) async fn count_link(app: &App, user: uuid::Uuid) -> Result<(), ApiError> {
    limits::Attempt::link(app, user).begin(app).await?;
    Ok(())
}

/// The session behind a token; none if it is over. For the `Caller` extractor.
pub(crate) async fn caller(app: &App, token: &str) -> Result<Option<Caller>, ApiError> {
    store::session_of_token(app, token::hash(token)).await
}

/// Those of these sessions that still hold, and what their users may do. For live
/// streams.
pub(crate) async fn sessions(app: &App, sessions: &[uuid::Uuid]) -> Result<Vec<Caller>, ApiError> {
    store::sessions_of_ids(app, sessions).await
}
