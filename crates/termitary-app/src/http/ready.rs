//! Whether traffic should come to this process.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::Api;
use super::json::Json;
use crate::app::{self, App};

/// A database that does not answer within this is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a commit that worked stands for one that is late.
const LAST_COUNTS: Duration = Duration::from_secs(10);

/// Whether traffic should come here.
#[derive(Serialize, ToSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the document"
)]
pub(super) struct Readiness {
    /// `ready` or `not ready`.
    status: &'static str,
    /// The database answers.
    database: bool,
    /// Its tables, the ledger's too, are at this program's version.
    migrations: bool,
    /// Commits reach the disk. Tried every few seconds.
    writes: bool,
    /// The process is stopping.
    draining: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    reason: Option<&'static str>,
}

/// Should traffic come here? The database answers and takes writes, its tables
/// are current, and the process is not stopping. Redis may be away: the API does
/// not need it.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, body = Readiness),
    (status = 503, body = Readiness, description = "Not now; `reason` says why"),
))]
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let tables = tokio::time::timeout(PATIENCE, tables(&api.app)).await;
    let (database, migrations) = match tables {
        Ok(Ok(current)) => (true, current),
        Ok(Err(error)) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "not ready: the database does not answer"
            );
            (false, false)
        }
        Err(_) => (false, false),
    };
    let placed = api.app.db().is_in_place();
    if let Err(error) = &placed {
        tracing::warn!(error = %error, "not ready: nothing can be written");
    }
    let database = database && placed.is_ok();
    let draining = api.shutdown.is_cancelled();
    // No write into tables of another version.
    let writes = database && migrations && (draining || api.writes.work(&api.app).await);
    let reason = if draining {
        Some("this process is stopping")
    } else if !database {
        Some("the database does not answer, or its file was replaced")
    } else if !migrations {
        Some("the tables of the database are at another version than this program")
    } else if !writes {
        Some("the database takes no writes: the log says why")
    } else {
        None
    };
    let (code, status) = match reason {
        None => (StatusCode::OK, "ready"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let readiness = Readiness {
        status,
        database,
        migrations,
        writes,
        draining,
        reason,
    };
    (code, Json(readiness)).into_response()
}

/// Whether the application's tables and the ledger's are at this version.
async fn tables(app: &App) -> anyhow::Result<bool> {
    Ok(app::is_migrated(app.db()).await? && app.db().is_current().await?)
}

/// Whether commits work. One is tried when somebody asks and the last try is
/// some seconds old, however many ask: anybody may.
#[derive(Clone)]
pub(crate) struct Writes(watch::Sender<Known>);

#[derive(Clone, Copy)]
struct Known {
    work: bool,
    since: Option<Instant>,
    trying: bool,
}

impl Writes {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Known {
            work: true,
            since: None,
            trying: false,
        }))
    }

    /// Whether the last try worked. A try that takes long goes on, and its end
    /// counts for who asks then.
    async fn work(&self, app: &App) -> bool {
        let kept = app.settings().write_probe_kept;
        let mut known = self.0.subscribe();
        let due = self.0.send_if_modified(|known| {
            let fresh = known.since.is_some_and(|since| since.elapsed() < kept);
            let due = !known.trying && !fresh;
            known.trying |= due;
            due
        });
        if due {
            tokio::spawn(self.clone().try_one(app.clone()));
        }
        let ended = tokio::time::timeout(PATIENCE, known.wait_for(|known| !known.trying)).await;
        let known = *self.0.borrow();
        // A try that is late says nothing new, for as long as the last one counts.
        let counts = known
            .since
            .is_some_and(|since| since.elapsed() < LAST_COUNTS);
        known.work && (ended.is_ok() || counts)
    }

    async fn try_one(self, app: App) {
        let tried = write(&app).await;
        if let Err(error) = &tried {
            tracing::warn!(
                error = format!("{error:#}"),
                "not ready: the database takes no writes"
            );
        }
        self.0.send_replace(Known {
            work: tried.is_ok(),
            since: Some(Instant::now()),
            trying: false,
        });
    }
}

async fn write(app: &App) -> anyhow::Result<()> {
    let mut tx = app.db().begin().await?;
    sqlx::query(
        "INSERT INTO write_probe (id, at_us) VALUES (1, $1)
         ON CONFLICT (id) DO UPDATE SET at_us = excluded.at_us",
    )
    .bind(app.now().as_microsecond())
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}
