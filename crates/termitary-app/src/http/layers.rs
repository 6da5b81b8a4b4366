//! The layers around every request: its id, its trace, its time limit, the headers of
//! every response, and problem details for every error.

use std::any::Any;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use termitary::trace;
use tracing::Instrument;

use super::problem::{ApiError, PROBLEM_JSON, problem};
use crate::app::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request an id, continues its trace, and reports its result.
pub(crate) async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers()).unwrap_or_else(|| app.db().clock().new_id().to_string());
    let incoming = request
        .headers()
        .get("traceparent")
        .and_then(|value| value.to_str().ok());
    let traceparent = trace::child_of(incoming);
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let span = tracing::info_span!(
        "request",
        request.id = id,
        trace.id = trace::trace_id(&traceparent).unwrap_or_default(),
        http.method = %method,
        http.route = route,
    );

    let started = Instant::now();
    let context = trace::TraceContext {
        traceparent: Some(traceparent),
        cause: None,
    };
    let mut response = trace::scope(context, next.run(request))
        .instrument(span.clone())
        .await;

    let status = response.status().as_u16();
    let took = started.elapsed();
    span.in_scope(|| {
        tracing::debug!(
            http.status = status,
            took_ms = took.as_millis() as u64,
            "handled"
        );
    });
    let labels = [
        ("method", label(&method)),
        ("route", route),
        ("status", status.to_string()),
    ];
    metrics::counter!("termitary_http_requests_total", &labels).increment(1);
    metrics::histogram!("termitary_http_request_seconds", &labels).record(took.as_secs_f64());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The method as a label. Labels come from closed sets: a client may invent methods.
pub(super) fn label(method: &axum::http::Method) -> String {
    match method.as_str() {
        known @ ("GET" | "POST" | "PATCH" | "DELETE" | "PUT" | "HEAD" | "OPTIONS") => {
            known.to_owned()
        }
        _ => "other".to_owned(),
    }
}

/// The client's own id for the request, if it is harmless.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ((1..=64).contains(&id.len()) && id.bytes().all(harmless)).then(|| id.to_owned())
}

/// Adds the headers of every response, and problem details to errors that came from the
/// router or a layer instead of a handler.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let is_page = request.uri().path().starts_with("/docs");
    let response = next.run(request).await;
    let mut response = if is_bare_error(&response) {
        as_problem(&response)
    } else {
        response
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = if is_page {
        // The bundled page sets styles from its script and draws icons as data.
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
    } else {
        "default-src 'none'; frame-ancestors 'none'"
    };
    // A page with a policy of its own keeps it.
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(policy));
    if !is_page {
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

/// Returns true for an error without a body that explains it, such as one from the
/// router, a layer or an extractor. JSON and HTML explain themselves.
fn is_bare_error(response: &Response<Body>) -> bool {
    let status = response.status();
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let explained = kind.is_some_and(|kind| {
        matches!(kind, PROBLEM_JSON | "application/json") || kind.starts_with("text/html")
    });
    (status.is_client_error() || status.is_server_error()) && !explained
}

fn as_problem(bare: &Response<Body>) -> Response {
    let mut response = problem(bare.status(), None, Vec::new());
    for name in [ALLOW, RETRY_AFTER] {
        if let Some(value) = bare.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

tokio::task_local! {
    /// The time at which the request ends: reading its body ends then, with 408.
    pub(super) static DEADLINE: tokio::time::Instant;
}

/// Ends a request that takes too long to start its response.
pub(crate) async fn timeout(State(app): State<App>, request: Request, next: Next) -> Response {
    let deadline = tokio::time::Instant::now() + app.settings().request_timeout;
    let response = DEADLINE.scope(deadline, next.run(request));
    match tokio::time::timeout_at(deadline, response).await {
        Ok(response) => response,
        Err(_) => ApiError::Busy("The request took too long and was ended.").into_response(),
    }
}

/// Turns a panic into a 500 of this request alone.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer hands the panic over"
)]
pub(crate) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = text, "a request handler panicked");
    problem(StatusCode::INTERNAL_SERVER_ERROR, None, Vec::new())
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test fails by panicking"
    )]

    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_problem_that_tells_nothing_of_it() {
        let router = Router::new()
            .route("/", get(|| async { panic!("the secret is 42") as &str }))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(from_fn(finish));
        let request = Request::get("/").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        let body = axum::body::to_bytes(response.into_body(), 10_000)
            .await
            .unwrap();
        assert!(!body.windows(6).any(|part| part == b"secret"));
    }
}
