//! `Idempotency-Key`: a POST that is sent again is answered again, not done
//! again.
//!
//! The key is remembered per user, or per route and address where there is no
//! session. A route that changes something commits its answer with its effects
//! ([`commit`]), so that no crash can part them. Answers that changed nothing
//! are kept by the layer.

mod slot;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use termitary::Tx;

use self::slot::{Claim, Slot};
use super::BODY_LIMIT;
use super::caller::{Caller, bearer};
use super::client::Client;
use super::json::{Json, read_body};
use super::problem::ApiError;
use crate::app::App;

/// How long a repeated request waits for the first one's answer.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(25);
/// These end the session that they are sent with: sent again, the token says
/// nothing about the user any more.
const ENDS_SESSION: &[&str] = &["/api/v1/auth/logout", "/api/v1/auth/password"];

tokio::task_local! {
    static RUNNING: Arc<Running>;
}

/// Replays the answer of an earlier request with the same key.
pub(crate) async fn layer(State(app): State<App>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key("idempotency-key") {
        return next.run(request).await;
    }
    match keyed(&app, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

/// Commits what a POST did, and with it the answer that a repetition gets.
pub(crate) async fn commit<T: Serialize>(
    tx: Tx,
    status: StatusCode,
    body: T,
) -> Result<(StatusCode, Json<T>), ApiError> {
    let json = serde_json::to_vec(&body).map_err(|error| ApiError::Internal(error.into()))?;
    commit_answer(tx, status, "application/json", &json).await?;
    Ok((status, Json(body)))
}

/// [`commit`] for an answer without a body: 204.
pub(crate) async fn commit_empty(tx: Tx) -> Result<StatusCode, ApiError> {
    let status = StatusCode::NO_CONTENT;
    commit_answer(tx, status, "", &[]).await?;
    Ok(status)
}

async fn commit_answer(
    tx: Tx,
    status: StatusCode,
    kind: &str,
    body: &[u8],
) -> Result<(), ApiError> {
    match RUNNING.try_with(Arc::clone) {
        Ok(running) => running.keep(tx, status, kind, body).await,
        // Sent without a key.
        Err(_) => Ok(tx.commit().await?),
    }
}

async fn keyed(app: &App, request: Request, next: Next) -> Result<Response, ApiError> {
    let key = key(&request)?;
    let (parts, body) = request.into_parts();
    let scope = scope(app, &parts).await?;
    let body = read_body(Request::new(body)).await?;
    let slot = Slot::new(scope, &key, &parts, &body);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match slot.claim(app).await? {
            Claim::Mine(since) => {
                let request = Request::from_parts(parts, Body::from(body));
                let running = Running {
                    app: app.clone(),
                    slot,
                    since,
                    kept: AtomicBool::new(false),
                };
                return run(request, next, running).await;
            }
            Claim::Answered(response) => return Ok(response),
            Claim::Other => {
                return Err(ApiError::field(
                    "Idempotency-Key",
                    "was used for another request already: send a new key with a new request",
                ));
            }
            Claim::Running if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            Claim::Running => {
                return Err(ApiError::Conflict(
                    "The first request with this Idempotency-Key is still running.",
                ));
            }
        }
    }
}

fn key(request: &Request) -> Result<String, ApiError> {
    request
        .headers()
        .get("idempotency-key")
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .filter(|key| (1..=255).contains(&key.len()))
        .map(str::to_owned)
        .ok_or_else(|| {
            ApiError::field(
                "Idempotency-Key",
                "must have 1 to 255 visible ASCII characters",
            )
        })
}

/// Whose key it is: one user's keys never meet another's.
async fn scope(app: &App, parts: &Parts) -> Result<String, ApiError> {
    let path = parts.uri.path();
    if let Some(token) = bearer(&parts.headers)
        && ENDS_SESSION.contains(&path)
    {
        let hash = Sha256::digest(format!("scope {token}"));
        return Ok(hash
            .iter()
            .fold("token:".to_owned(), |hex, byte| format!("{hex}{byte:02x}")));
    }
    match Caller::of(app, &parts.headers).await {
        Ok(caller) => Ok(format!("user:{}", caller.user)),
        Err(ApiError::Unauthorized(_)) => {
            let client = Client::of(parts, app.settings().trusted_proxy_hops);
            Ok(format!("anonymous:{path}:{}", client.address))
        }
        Err(error) => Err(error),
    }
}

async fn run(request: Request, next: Next, running: Running) -> Result<Response, ApiError> {
    let running = Arc::new(running);
    let response = RUNNING.scope(Arc::clone(&running), next.run(request)).await;
    if running.kept.load(Ordering::Acquire) || !is_final(response.status()) {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 8 * BODY_LIMIT)
        .await
        .map_err(|error| ApiError::Internal(error.into()))?;
    let kind = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let tx = running.app.db().begin().await?;
    running.keep(tx, parts.status, kind, &body).await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// An answer that the same request would get again. The others say "not now".
fn is_final(status: StatusCode) -> bool {
    !status.is_server_error()
        && !matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// The first request with a key, while it runs.
struct Running {
    app: App,
    slot: Slot,
    since: i64,
    kept: AtomicBool,
}

impl Running {
    /// Stores the answer and commits it with all else in `tx`.
    async fn keep(
        &self,
        mut tx: Tx,
        status: StatusCode,
        kind: &str,
        body: &[u8],
    ) -> Result<(), ApiError> {
        if !self
            .slot
            .keep(&mut tx, self.since, status, kind, body)
            .await?
        {
            // So slow that it was taken for dead: another one runs by now, and
            // this one's effects must not become real as well.
            return Err(ApiError::Conflict(
                "Another request with this Idempotency-Key took over.",
            ));
        }
        tx.commit().await?;
        self.kept.store(true, Ordering::Release);
        Ok(())
    }
}

/// Frees the key when the request ended without an answer to keep: it failed,
/// panicked, took too long, or its client went away. Where the answer was kept
/// after all, this changes nothing.
impl Drop for Running {
    fn drop(&mut self) {
        let (app, slot, since) = (self.app.clone(), self.slot.clone(), self.since);
        if self.kept.load(Ordering::Acquire) {
            return;
        }
        tokio::spawn(async move {
            if let Err(error) = slot.release(&app, since).await {
                tracing::warn!(error = ?error, "an idempotency key stays taken for a minute");
            }
        });
    }
}
