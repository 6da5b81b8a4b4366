//! The current password, asked for where a stolen session must not be enough.

use super::limits::Attempt;
use super::store;
use crate::accounts;
use crate::app::App;
use crate::http::{ApiError, Caller, Client};
use crate::security::{Event, Note};
use termitary::Conn;

/// The field of a body that holds it.
const FIELD: &str = "currentPassword";

/// The caller's password was right.
pub(crate) struct Proven {
    attempt: Attempt,
    /// The hash that the password fits.
    pub(super) hash: String,
}

impl Proven {
    /// Forgets the failures before; in the transaction of what it was asked for.
    pub(crate) async fn note(&self, conn: &mut Conn) -> sqlx::Result<()> {
        self.attempt.succeeded(conn).await
    }
}

/// Checks the caller's own password. Guesses count as those at a login do.
pub(crate) async fn prove(
    app: &App,
    caller: Caller,
    client: &Client,
    password: Option<&str>,
) -> Result<Proven, ApiError> {
    let Some(password) = password else {
        return Err(ApiError::field(
            FIELD,
            "is missing: this needs your current password",
        ));
    };
    let mut reader = app.db().read().await?;
    let user = accounts::find(&mut reader, caller.user)
        .await?
        .ok_or(ApiError::NotFound)?;
    let hash = store::password_hash(&mut reader, caller.user)
        .await?
        .ok_or(ApiError::NotFound)?;
    drop(reader);
    let attempt = Attempt::login(app, &user.email, client.address);
    let attempt = attempt.begin(app).await?;
    if !app.passwords().verify(password, Some(&hash)).await? {
        Note::new(Event::PasswordRefused, client.address)
            .user(caller.user)
            .log(app);
        return Err(ApiError::field(FIELD, "is wrong"));
    }
    Ok(Proven { attempt, hash })
}
