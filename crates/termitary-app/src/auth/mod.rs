//! Who is who: registration, login, sessions.
//!
//! Tokens are opaque; only their hash is stored. Nothing here tells a stranger
//! whether an address has an account (docs/decisions/0004).

pub mod events;
mod handlers;
mod known;
mod limits;
mod lookups;
mod routes;
mod store;
mod token;

use anyhow::bail;
use garde::Validate;
use termitary::Registry;
use termitary::prelude::subscribe;
use utoipa_axum::router::OpenApiRouter;

use crate::accounts::{self, Draft, check_password};
use crate::app::App;
use crate::config::Mistake;
use crate::http::{Api, ApiError, Caller};

pub use crate::accounts::{Role, User};
pub(crate) use lookups::Lookups;

/// The module's routes.
pub(crate) fn router() -> OpenApiRouter<Api> {
    routes::router()
}

/// The module's events and handlers.
pub(crate) fn subscriptions() -> Registry<App> {
    Registry::new()
        .event::<events::UserLoggedIn>()
        .on(subscribe("auth.end-sessions", handlers::end_sessions))
        .on(subscribe("auth.expire-sessions", handlers::expire_sessions))
}

/// What an operator makes an account from.
#[derive(Clone)]
pub struct NewUser {
    /// The address they log in with.
    pub email: String,
    /// As they want to be called.
    pub name: String,
    /// 8 to 256 characters.
    pub password: String,
    /// What they may do.
    pub role: Role,
}

/// Makes an account, as an operator does: the only way to a first admin.
pub async fn create_user(app: &App, new: NewUser) -> anyhow::Result<User> {
    let draft = Draft::new(&new.email, &new.name, new.role);
    draft
        .validate()
        .map_err(|report| Mistake::new(report.to_string().trim()))?;
    check_password(&new.password, &())
        .map_err(|error| Mistake::new(format!("password: {error}")))?;
    let email = draft.email.clone();
    let hash = app.passwords().hash(&new.password).await?;
    let mut tx = app.db().begin().await?;
    let id = app.db().clock().new_id();
    let Ok(user) = accounts::create(&mut tx, draft, &hash, None, id, app.now()).await? else {
        bail!("{email} has an account already");
    };
    tx.commit().await?;
    Ok(user)
}

/// The session behind a token; none if it is over. For the `Caller` extractor.
pub(crate) async fn caller(app: &App, token: &str) -> Result<Option<Caller>, ApiError> {
    store::session_of_token(app, token::hash(token)).await
}

/// Whether a session still holds, and what its user may do. For live streams.
pub(crate) async fn session(app: &App, session: uuid::Uuid) -> Result<Option<Caller>, ApiError> {
    store::session_of_id(app, session).await
}
