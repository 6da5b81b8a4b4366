//! The row of one key.
//!
//! Answers can hold a fresh token and requests a password, so neither may lie
//! readable in the database. Stored are a hash of the key, a hash of the
//! request that is keyed with the key itself, and the answer sealed with a key
//! derived from both: only who can send the same request again can read it.

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use sha2::{Digest, Sha256};
use sqlx::SqliteConnection;

use crate::app::App;
use crate::http::ApiError;

/// A first request that is silent this long died with its process.
const ABANDONED_US: i64 = 60_000_000;

/// Request hash, instant of the claim, status, sealed answer.
type Row = (Vec<u8>, i64, Option<i64>, Option<Vec<u8>>);

/// One key in one scope, as this request knows it.
#[derive(Clone)]
pub(super) struct Slot {
    scope: String,
    key_hash: Vec<u8>,
    request: Vec<u8>,
    seal: [u8; 32],
}

/// What stands under a key.
pub(super) enum Claim {
    /// Nothing: the request runs now. The instant names this claim.
    Mine(i64),
    /// The first request still runs.
    Running,
    /// Its answer.
    Answered(Response),
    /// Another request.
    Other,
}

impl Slot {
    pub(super) fn new(scope: String, key: &str, parts: &Parts, body: &Bytes) -> Self {
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

    pub(super) async fn claim(&self, app: &App) -> Result<Claim, ApiError> {
        // Most repeats find an answer: no write for them.
        if let Some(found) = self.find(app).await? {
            return Ok(found);
        }
        let now_us = app.now().as_microsecond();
        let mut tx = app.db().begin().await?;
        sqlx::query(
            "DELETE FROM idempotency WHERE created_us <= $1
             OR (scope = $2 AND key_hash = $3 AND status IS NULL AND created_us <= $4)",
        )
        .bind(forgotten_us(app, now_us))
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

    /// What stands under the key; none where this request may run.
    async fn find(&self, app: &App) -> Result<Option<Claim>, ApiError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT request, created_us, status, answer FROM idempotency WHERE scope = $1 AND key_hash = $2",
        )
        .bind(&self.scope)
        .bind(&self.key_hash)
        .fetch_optional(app.db().reader())
        .await?;
        let now_us = app.now().as_microsecond();
        let Some((request, since, status, answer)) = row else {
            return Ok(None);
        };
        if since <= forgotten_us(app, now_us) {
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

    /// Stores the answer; whether the claim still held.
    pub(super) async fn keep(
        &self,
        conn: &mut SqliteConnection,
        since: i64,
        status: StatusCode,
        kind: &str,
        body: &[u8],
    ) -> sqlx::Result<bool> {
        let mut answer = [kind.as_bytes(), b"\n", body].concat();
        self.toggle_seal(since, &mut answer);
        let done = sqlx::query(
            "UPDATE idempotency SET status = $1, answer = $2
             WHERE scope = $3 AND key_hash = $4 AND created_us = $5 AND status IS NULL",
        )
        .bind(i64::from(status.as_u16()))
        .bind(answer)
        .bind(&self.scope)
        .bind(&self.key_hash)
        .bind(since)
        .execute(conn)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    fn answer(&self, since: i64, status: i64, mut answer: Vec<u8>) -> Response {
        self.toggle_seal(since, &mut answer);
        let split = answer.iter().position(|&byte| byte == b'\n').unwrap_or(0);
        let body = answer.split_off((split + 1).min(answer.len()));
        answer.truncate(split);
        let mut response = Response::new(Body::from(body));
        let status = u16::try_from(status)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok());
        *response.status_mut() = status.unwrap_or_default();
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

    /// Frees the key, unless an answer was kept.
    pub(super) async fn release(&self, app: &App, since: i64) -> Result<(), termitary::Error> {
        let mut tx = app.db().begin().await?;
        sqlx::query(
            "DELETE FROM idempotency
             WHERE scope = $1 AND key_hash = $2 AND created_us = $3 AND status IS NULL",
        )
        .bind(&self.scope)
        .bind(&self.key_hash)
        .bind(since)
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }
}

fn forgotten_us(app: &App, now_us: i64) -> i64 {
    let kept_us = i64::try_from(app.settings().idempotency_kept.as_micros()).unwrap_or(i64::MAX);
    now_us.saturating_sub(kept_us)
}
