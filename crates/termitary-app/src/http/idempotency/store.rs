//! The SQL of kept responses: one row per key.
//!
//! A response may contain a fresh token, and a request a password. Stored are keyed hashes
//! of the key and of the request, and the sealed response. All keys are derived from the
//! installation's secret, which is not in the database, and the seal also from the
//! request: only a client that sends the same request again can read the response.

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use termitary::Conn;

use super::seal::Seal;
use crate::app::App;
use crate::http::ApiError;
use crate::sql::take_turn;

/// A longer response is not kept, but the row shows that its request was done.
const LONGEST: usize = 64 * 1024;

/// Request hash, time, status, sealed response.
type Row = (Vec<u8>, i64, i64, Option<Vec<u8>>);

/// The owner of keys, and the number of them that is kept.
pub(super) struct Scope {
    pub(super) name: String,
    pub(super) most: u32,
}

/// One key in one scope, with the data of this request.
pub(super) struct Slot {
    scope: Scope,
    key_hash: [u8; 32],
    request: [u8; 32],
    seal: Seal,
}

/// The row under a key.
pub(super) enum Found {
    /// The response to this request.
    Response(Response),
    /// This request was done, but its response was too long.
    Done,
    /// Another request.
    Other,
}

impl Slot {
    pub(super) fn new(app: &App, scope: Scope, key: &str, parts: &Parts, body: &Bytes) -> Self {
        let secret = &app.settings().secret;
        let mac = |purpose: &str| {
            let method = parts.method.as_str();
            let texts = [purpose, &scope.name, key, method, parts.uri.path()];
            secret.mac(texts.map(str::as_bytes).into_iter().chain([&body[..]]))
        };
        Self {
            key_hash: secret.mac([&b"idempotency key"[..], key.as_bytes()]),
            request: mac("idempotency request"),
            seal: Seal::new(mac("idempotency answer")),
            scope,
        }
    }

    /// Reads the row of the key, unless it is too old to count.
    pub(super) async fn find(&self, app: &App) -> Result<Option<Found>, ApiError> {
        let mut reader = app.db().read().await?;
        self.read(&mut reader, app).await
    }

    /// [`find`](Self::find) for a row that may be uncommitted: transactions share a
    /// commit, and one sees the changes of another before they are committed. They are
    /// committed once this one is.
    pub(super) async fn find_in_turn(&self, app: &App) -> Result<Option<Found>, ApiError> {
        let mut tx = app.db().begin().await?;
        self.take_turn(&mut tx).await?;
        let found = self.read(&mut tx, app).await?;
        if found.is_some() {
            tx.commit().await?;
        }
        Ok(found)
    }

    /// Waits until no other transaction keeps a response in this scope, whose keys are
    /// numbered.
    async fn take_turn(&self, conn: &mut Conn) -> sqlx::Result<()> {
        take_turn(conn, &format!("answers of {}", self.scope.name)).await
    }

    async fn read(&self, conn: &mut Conn, app: &App) -> Result<Option<Found>, ApiError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT request, created_us, status, answer FROM answers WHERE scope = $1 AND key_hash = $2",
        )
        .bind(&self.scope.name)
        .bind(&self.key_hash[..])
        .fetch_optional(conn)
        .await?;
        let Some((request, since, status, answer)) = row else {
            return Ok(None);
        };
        if since <= oldest_us(app) {
            return Ok(None);
        }
        if request != self.request {
            return Ok(Some(Found::Other));
        }
        let Some(answer) = answer else {
            return Ok(Some(Found::Done));
        };
        let answer = self.seal.open(answer).map_err(ApiError::Internal)?;
        Ok(Some(Found::Response(response(status, answer))))
    }

    /// Stores the response; returns false if the key is taken. The oldest keys of the
    /// scope are deleted.
    pub(super) async fn keep(
        &self,
        conn: &mut Conn,
        app: &App,
        status: StatusCode,
        kind: &str,
        body: &[u8],
    ) -> Result<bool, ApiError> {
        self.take_turn(conn).await?;
        delete_old(conn, app).await?;
        let answer = (body.len() <= LONGEST)
            .then(|| self.seal.close([kind.as_bytes(), b"\n", body].concat()))
            .transpose()
            .map_err(ApiError::Internal)?;
        let nth: Option<i64> = sqlx::query_scalar(
            "INSERT INTO answers (scope, key_hash, nth, request, created_us, status, answer)
             SELECT $1, $2, 1 + COALESCE((SELECT MAX(nth) FROM answers WHERE scope = $1), 0), $3, $4, $5, $6
             WHERE true ON CONFLICT (scope, key_hash) DO NOTHING RETURNING nth",
        )
        .bind(&self.scope.name)
        .bind(&self.key_hash[..])
        .bind(&self.request[..])
        .bind(app.now().as_microsecond())
        .bind(i64::from(status.as_u16()))
        .bind(answer)
        .fetch_optional(&mut *conn)
        .await?;
        let Some(nth) = nth else {
            return Ok(false);
        };
        sqlx::query("DELETE FROM answers WHERE scope = $1 AND nth <= $2")
            .bind(&self.scope.name)
            .bind(nth - i64::from(self.scope.most))
            .execute(conn)
            .await?;
        Ok(true)
    }
}

/// Deletes responses that are too old to count.
pub(crate) async fn delete_old(conn: &mut Conn, app: &App) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM answers WHERE created_us <= $1")
        .bind(oldest_us(app))
        .execute(conn)
        .await
        .map(drop)
}

fn oldest_us(app: &App) -> i64 {
    let kept_us = i64::try_from(app.settings().idempotency_kept.as_micros()).unwrap_or(i64::MAX);
    app.now().as_microsecond().saturating_sub(kept_us)
}

fn response(status: i64, mut answer: Vec<u8>) -> Response {
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
