//! Who is calling: the session behind the bearer token.

use axum::extract::{FromRef, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use uuid::Uuid;

use super::problem::ApiError;
use super::refusals::Identified;
use crate::accounts::Role;
use crate::app::App;

/// The user behind a request. A route that takes it needs a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) user: Uuid,
    pub(crate) role: Role,
    pub(crate) session: Uuid,
}

impl Caller {
    pub(crate) fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// The caller may act for `user`: themselves, or anyone as admin.
    pub(crate) fn may_act_for(&self, user: Uuid) -> bool {
        self.user == user || self.is_admin()
    }

    /// 403 for everyone but admins.
    pub(crate) fn admin_only(&self) -> Result<(), ApiError> {
        if self.is_admin() {
            Ok(())
        } else {
            Err(ApiError::Forbidden("This is for admins."))
        }
    }

    pub(crate) async fn of(app: &App, headers: &HeaderMap) -> Result<Self, ApiError> {
        let token = bearer(headers).ok_or(ApiError::Unauthorized(
            "Send the token of a login as `Authorization: Bearer <token>`.",
        ))?;
        crate::auth::caller(app, token)
            .await?
            .ok_or(ApiError::Unauthorized(
                "The session is over or never was: log in again.",
            ))
    }
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

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
