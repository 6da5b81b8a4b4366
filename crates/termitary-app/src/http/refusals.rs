//! Writes refusals into the security log, whichever route or layer refused.

use std::sync::{Arc, OnceLock};

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use super::client;
use super::layers::label;
use crate::app::App;
use crate::security::{Event, Note};

/// The user that the request was found to come from.
#[derive(Clone, Default)]
pub(super) struct Identified(Arc<OnceLock<Uuid>>);

impl Identified {
    pub(super) fn as_user(&self, user: Uuid) {
        // The first look-up of a request decides.
        let _ = self.0.set(user);
    }
}

/// Logs responses of 403, 429, and 401 to a token. Without a token, 401 only tells a
/// client that it needs one.
pub(super) async fn layer(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let hops = app.settings().trusted_proxy_hops;
    let source = client::address(request.headers(), request.extensions(), hops);
    let has_token = request.headers().contains_key(AUTHORIZATION);
    let method = label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let identified = Identified::default();
    request.extensions_mut().insert(identified.clone());
    let response = next.run(request).await;
    let event = match response.status() {
        StatusCode::UNAUTHORIZED if has_token => Event::Refused,
        StatusCode::FORBIDDEN => Event::Refused,
        StatusCode::TOO_MANY_REQUESTS => Event::LimitHit,
        _ => return response,
    };
    let status = response.status().as_u16();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    Note::new(event, source)
        .user(identified.0.get().copied())
        .detail(format!("{status} to {method} {route}"))
        .log(app.security());
    response
}
