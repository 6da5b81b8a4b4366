//! The current password, which some requests need so that a stolen session is not enough.

use termitary::Conn;

use super::limits::Attempt;
use crate::accounts::{self, Caller};
use crate::app::App;
use crate::http::{ApiError, Client};
use crate::security::{Event, Note};

/// The field of a body that contains it.
const FIELD: &str = "currentPassword";

/// The proof that the caller's password was right.
pub(crate) struct Proven {
    attempt: Attempt,
    /// The hash that the password matches.
    pub(super) hash: String,
}

impl Proven {
    /// Deletes the earlier failures, in the transaction of the proven request.
    pub(crate) async fn clear_failures(&self, conn: &mut Conn) -> sqlx::Result<()> {
        self.attempt.succeeded(conn).await
    }
}

/// Checks the caller's own password. Guesses count like those at a login.
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
    let hash = accounts::password_hash(&mut reader, caller.user)
        .await?
        .ok_or(ApiError::NotFound)?;
    drop(reader);
    let attempt = Attempt::login(app, &user.email, client.address);
    let attempt = attempt.begin(app).await?;
    if !app.passwords().verify(password, Some(&hash)).await? {
        Note::new(Event::PasswordRefused, client.address)
            .user(caller.user)
            .log(app.security());
        return Err(ApiError::field(FIELD, "is wrong"));
    }
    Ok(Proven { attempt, hash })
}
