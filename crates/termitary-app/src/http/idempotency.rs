//! `Idempotency-Key`: a POST that is sent again is answered again, not done
//! again.
//!
//! The key is remembered per user, or per route and address where there is no
//! session. Answers can hold a fresh token and requests a password, so neither
//! may lie readable in the database: what is stored is a hash of the key, a
//! hash of the request that is keyed with the key itself, and the answer
//! sealed with a key derived from both. Only who can send the same request
//! again can read the answer.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::BODY_LIMIT;
use super::caller::Caller;
use super::client::Client;
use super::json::read_body;
use super::problem::ApiError;
use crate::app::App;

/// How long a repeated request waits for the first one's answer.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(25);
/// A first request that is silent this long died with its process.
const ABANDONED_US: i64 = 60_000_000;

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
                let guard = Release {
                    app: app.clone(),
                    slot: slot.clone(),
                    since,
                    armed: true,
                };
                return run(request, next, guard).await;
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
    match Caller::of(app, &parts.headers).await {
        Ok(caller) => Ok(format!("user:{}", caller.user)),
        Err(ApiError::Unauthorized(_)) => {
            let client = Client::of(parts, app.settings().trusted_proxy_hops);
            Ok(format!("anonymous:{}:{}", parts.uri.path(), client.address))
        }
        Err(error) => Err(error),
    }
}

async fn run(request: Request, next: Next, mut guard: Release) -> Result<Response, ApiError> {
    let response = next.run(request).await;
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 8 * BODY_LIMIT)
        .await
        .map_err(|error| ApiError::Internal(error.into()))?;
    if is_final(parts.status) {
        let kind = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        guard
            .slot
            .keep(&guard.app, guard.since, parts.status, kind, &body)
            .await?;
        guard.armed = false;
    }
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

/// Request hash, instant of the claim, status, sealed answer.
type KeptRow = (Vec<u8>, i64, Option<i64>, Option<Vec<u8>>);

/// The row of one key.
#[derive(Clone)]
struct Slot {
    scope: String,
    key_hash: Vec<u8>,
    request: Vec<u8>,
    seal: [u8; 32],
}

enum Claim {
    /// First: the request runs now. The instant names this claim.
    Mine(i64),
    Running,
    Answered(Response),
    Other,
}

impl Slot {
    fn new(scope: String, key: &str, parts: &Parts, body: &Bytes) -> Self {
        let secret = |purpose: &str| {
            let mut hash = Sha256::new();
            for part in [purpose, key, parts.method.as_str(), parts.uri.path()] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            hash.update(body);
            <[u8; 32]>::from(hash.finalize())
        };
        Self {
            scope,
            key_hash: Sha256::digest(key).to_vec(),
            request: secret("request").to_vec(),
            seal: secret("answer"),
        }
    }

    async fn claim(&self, app: &App) -> Result<Claim, ApiError> {
        // Most repeats find an answer: no write for them.
        if let Some(found) = self.find(app).await? {
            return Ok(found);
        }
        let now_us = app.now().as_microsecond();
        let mut tx = app.db().begin().await?;
        let kept_us =
            i64::try_from(app.settings().idempotency_kept.as_micros()).unwrap_or(i64::MAX);
        sqlx::query(
            "DELETE FROM idempotency WHERE created_us <= $1
             OR (scope = $2 AND key_hash = $3 AND status IS NULL AND created_us <= $4)",
        )
        .bind(now_us.saturating_sub(kept_us))
        .bind(&self.scope)
        .bind(&self.key_hash)
        .bind(now_us - ABANDONED_US)
        .execute(&mut *tx)
        .await?;
        let inserted = sqlx::query(
            "INSERT INTO idempotency (scope, key_hash, request, created_us) VALUES ($1, $2, $3, $4)
             ON CONFLICT (scope, key_hash) DO NOTHING",
        )
        .bind(&self.scope)
        .bind(&self.key_hash)
        .bind(&self.request)
        .bind(now_us)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(if inserted.rows_affected() == 1 {
            Claim::Mine(now_us)
        } else {
            Claim::Running
        })
    }

    /// What stands under the key; nothing where this request may run.
    async fn find(&self, app: &App) -> Result<Option<Claim>, ApiError> {
        let row: Option<KeptRow> = sqlx::query_as(
            "SELECT request, created_us, status, answer FROM idempotency WHERE scope = $1 AND key_hash = $2",
        )
        .bind(&self.scope)
        .bind(&self.key_hash)
        .fetch_optional(app.db().reader())
        .await?;
        let now_us = app.now().as_microsecond();
        let kept_us =
            i64::try_from(app.settings().idempotency_kept.as_micros()).unwrap_or(i64::MAX);
        let Some((request, since, status, answer)) = row else {
            return Ok(None);
        };
        if since <= now_us.saturating_sub(kept_us) {
            return Ok(None);
        }
        if request != self.request {
            return Ok(Some(Claim::Other));
        }
        Ok(match (status, answer) {
            (Some(status), Some(answer)) => {
                Some(Claim::Answered(self.answer(since, status, answer)))
            }
            _ if since <= now_us - ABANDONED_US => None,
            _ => Some(Claim::Running),
        })
    }

    async fn keep(
        &self,
        app: &App,
        since: i64,
        status: StatusCode,
        kind: &str,
        body: &[u8],
    ) -> Result<(), ApiError> {
        let mut answer = [kind.as_bytes(), b"\n", body].concat();
        self.toggle_seal(since, &mut answer);
        let mut tx = app.db().begin().await?;
        sqlx::query(
            "UPDATE idempotency SET status = $1, answer = $2
             WHERE scope = $3 AND key_hash = $4 AND created_us = $5 AND status IS NULL",
        )
        .bind(i64::from(status.as_u16()))
        .bind(answer)
        .bind(&self.scope)
        .bind(&self.key_hash)
        .bind(since)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    fn answer(&self, since: i64, status: i64, mut answer: Vec<u8>) -> Response {
        self.toggle_seal(since, &mut answer);
        let split = answer.iter().position(|&byte| byte == b'\n').unwrap_or(0);
        let body = answer.split_off((split + 1).min(answer.len()));
        answer.truncate(split);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = u16::try_from(status)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or_default();
        if let Ok(kind) = HeaderValue::from_bytes(&answer)
            && !kind.is_empty()
        {
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        response
            .headers_mut()
            .insert("idempotency-replayed", HeaderValue::from_static("true"));
        response
    }

    /// Seals, or opens what was sealed: a key stream of SHA-256 over a counter.
    /// The stream is used once: it depends on the key, the request and the
    /// instant of the claim, and one claim stores one answer.
    fn toggle_seal(&self, since: i64, text: &mut [u8]) {
        for (counter, block) in (0_u64..).zip(text.chunks_mut(32)) {
            let mut hash = Sha256::new();
            hash.update(self.seal);
            hash.update(since.to_be_bytes());
            hash.update(counter.to_be_bytes());
            for (byte, pad) in block.iter_mut().zip(hash.finalize()) {
                *byte ^= pad;
            }
        }
    }

    async fn release(&self, app: &App, since: i64) -> Result<(), termitary::Error> {
        let mut tx = app.db().begin().await?;
        sqlx::query("DELETE FROM idempotency WHERE scope = $1 AND key_hash = $2 AND created_us = $3 AND status IS NULL")
            .bind(&self.scope)
            .bind(&self.key_hash)
            .bind(since)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }
}

/// Frees the key when the request ended without a final answer: it failed,
/// panicked, took too long, or its client went away.
struct Release {
    app: App,
    slot: Slot,
    since: i64,
    armed: bool,
}

impl Drop for Release {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (app, slot, since) = (self.app.clone(), self.slot.clone(), self.since);
        tokio::spawn(async move {
            if let Err(error) = slot.release(&app, since).await {
                tracing::warn!(error = ?error, "an idempotency key stays taken for a minute");
            }
        });
    }
}
