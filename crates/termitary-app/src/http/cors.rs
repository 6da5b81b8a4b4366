//! CORS: which pages of other origins may call the API from a browser.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser remembers what it may do.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Lets pages of `origins` in; none where there are none. Cookies stay out: tokens
/// travel in a header that the page itself sets.
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
