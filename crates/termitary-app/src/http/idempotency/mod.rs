//! `Idempotency-Key`: a POST that is sent again gets the same response and is not
//! repeated.
//!
//! A route that changes something commits its response with its effects ([`commit`]), so
//! that no crash can separate them. Of concurrent requests with one key only one commits:
//! the others are rolled back and get its response. A request that changed nothing leaves
//! its key free, so it may be corrected and sent again.
//!
//! The newest keys are kept per user, or per route and network for requests without a
//! session.

mod seal;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use termitary::Tx;

use self::store::{Found, Scope, Slot};
use super::caller::bearer;
use super::client::Client;
use super::json::{Json, read_body};
use super::problem::ApiError;
use crate::accounts::Caller;
use crate::app::App;

pub(crate) use store::delete_old as delete_old_responses;

/// These routes end the session of their request: when it is sent again, the token no
/// longer identifies the user.
const ENDS_SESSION: &[&str] = &["/api/v1/auth/logout", "/api/v1/auth/password"];
/// These routes change something without a session.
const WITHOUT_SESSION: &[&str] = &[
    "/api/v1/auth/register",
    "/api/v1/auth/login",
    "/api/v1/auth/email/confirm",
    "/api/v1/auth/password/forgot",
    "/api/v1/auth/password/reset",
];
/// The most keys of an ended session, and of one network without a session.
const FEW: u32 = 100;

tokio::task_local! {
    static RUNNING: Arc<Running>;
}

/// Replays the response to an earlier request with the same key.
pub(crate) async fn layer(State(app): State<App>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key("idempotency-key") {
        return next.run(request).await;
    }
    match keyed(&app, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

/// Commits the effects of a POST, and with them the response for a repetition.
pub(crate) async fn commit<T: Serialize>(
    tx: Tx,
    status: StatusCode,
    body: T,
) -> Result<(StatusCode, Json<T>), ApiError> {
    let json = serde_json::to_vec(&body).map_err(|error| ApiError::Internal(error.into()))?;
    commit_response(tx, status, "application/json", &json).await?;
    Ok((status, Json(body)))
}

/// [`commit`] for a response without a body.
pub(crate) async fn commit_status(tx: Tx, status: StatusCode) -> Result<StatusCode, ApiError> {
    commit_response(tx, status, "", &[]).await?;
    Ok(status)
}

async fn commit_response(
    tx: Tx,
    status: StatusCode,
    kind: &str,
    body: &[u8],
) -> Result<(), ApiError> {
    match RUNNING.try_with(Arc::clone) {
        Ok(running) => running.keep(tx, status, kind, body).await,
        // The request has no key.
        Err(_) => Ok(tx.commit().await?),
    }
}

async fn keyed(app: &App, request: Request, next: Next) -> Result<Response, ApiError> {
    let key = key(&request)?;
    let (parts, body) = request.into_parts();
    let Some(scope) = scope(app, &parts).await? else {
        // The request will be refused.
        return Ok(next.run(Request::from_parts(parts, body)).await);
    };
    let body = read_body(Request::new(body)).await?;
    let slot = Slot::new(app, scope, &key, &parts, &body);
    if let Some(found) = slot.find(app).await? {
        return replayed(found);
    }
    let request = Request::from_parts(parts, Body::from(body));
    run(app, slot, request, next).await
}

fn replayed(found: Found) -> Result<Response, ApiError> {
    match found {
        Found::Response(response) => Ok(response),
        Found::Done => Err(ApiError::Conflict(
            "This request was already done, but its response was too long to be kept: read the result.",
        )),
        Found::Other => Err(ApiError::field(
            "Idempotency-Key",
            "was already used for another request: send a new key with a new request",
        )),
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

/// The owner of the key, whose keys are separate from those of others; `None` if the
/// request has no valid session.
async fn scope(app: &App, parts: &Parts) -> Result<Option<Scope>, ApiError> {
    let path = parts.uri.path();
    if WITHOUT_SESSION.contains(&path) {
        let client = Client::of(parts, app.settings().trusted_proxy_hops);
        return Ok(Some(Scope {
            name: format!("anonymous:{path}:{}", client.network()),
            most: FEW,
        }));
    }
    if let Some(token) = bearer(&parts.headers)
        && ENDS_SESSION.contains(&path)
    {
        let hash = app
            .settings()
            .secret
            .mac([&b"idempotency token"[..], token.as_bytes()]);
        return Ok(Some(Scope {
            name: hash
                .iter()
                .fold("token:".to_owned(), |hex, byte| format!("{hex}{byte:02x}")),
            most: FEW,
        }));
    }
    match Caller::of(app, &parts.headers).await {
        Ok(caller) => Ok(Some(Scope {
            name: format!("user:{}", caller.user),
            most: app.settings().idempotency_keys,
        })),
        Err(ApiError::Unauthorized(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn run(app: &App, slot: Slot, request: Request, next: Next) -> Result<Response, ApiError> {
    let running = Arc::new(Running {
        app: app.clone(),
        slot,
        kept: AtomicBool::new(false),
    });
    let response = RUNNING.scope(Arc::clone(&running), next.run(request)).await;
    if running.kept.load(Ordering::Acquire) || response.status().is_success() {
        return Ok(response);
    }
    // It may have failed because the same request was done meanwhile.
    match running.slot.find_in_turn(app).await? {
        Some(found @ (Found::Response(_) | Found::Done)) => replayed(found),
        Some(Found::Other) | None => Ok(response),
    }
}

/// A request with a key, while it runs.
struct Running {
    app: App,
    slot: Slot,
    kept: AtomicBool,
}

impl Running {
    /// Stores the response and commits it with `tx`.
    async fn keep(
        &self,
        mut tx: Tx,
        status: StatusCode,
        kind: &str,
        body: &[u8],
    ) -> Result<(), ApiError> {
        let free = self.slot.keep(&mut tx, &self.app, status, kind, body);
        if !free.await? {
            // Without a commit the effects are rolled back.
            return Err(ApiError::Conflict(
                "Another request with this Idempotency-Key was done at the same time.",
            ));
        }
        tx.commit().await?;
        self.kept.store(true, Ordering::Release);
        Ok(())
    }
}
