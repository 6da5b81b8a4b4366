//! The caller of a request, by the session of its bearer token.

use axum::extract::{FromRef, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::problem::ApiError;
use super::refusals::Identified;
use crate::accounts::Caller;
use crate::app::App;

impl Caller {
    /// Returns 403 for everyone but admins.
    pub(crate) fn admin_only(&self) -> Result<(), ApiError> {
        if self.is_admin() {
            Ok(())
        } else {
            Err(ApiError::Forbidden("Only admins may do this."))
        }
    }

    pub(crate) async fn of(app: &App, headers: &HeaderMap) -> Result<Self, ApiError> {
        let token = bearer(headers).ok_or(ApiError::Unauthorized(
            "Send the token of a login as `Authorization: Bearer <token>`.",
        ))?;
        app.sessions()
            .of_token(token)
            .await?
            .ok_or(ApiError::Unauthorized(
                "The session has ended or never existed: log in again.",
            ))
    }
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A route that takes the caller needs a session.
impl<S> FromRequestParts<S> for Caller
where
    App: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Self::of(&App::from_ref(state), &parts.headers).await?;
        if let Some(identified) = parts.extensions.get::<Identified>() {
            identified.as_user(caller.user);
        }
        Ok(caller)
    }
}
