//! CORS: the pages of other origins that may call the API from a browser.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The time that a browser caches its permissions.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Allows pages of `origins`, if there are any. Cookies are not allowed: the page itself
/// sends its token in a header.
pub(super) fn layer(origins: &[HeaderValue]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let header = HeaderName::from_static;
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            header("idempotency-key"),
            header("last-event-id"),
            header("traceparent"),
            header("x-request-id"),
        ])
        .expose_headers([
            RETRY_AFTER,
            header("idempotency-replayed"),
            header("x-request-id"),
        ])
        .max_age(REMEMBERED);
    Some(layer)
}
