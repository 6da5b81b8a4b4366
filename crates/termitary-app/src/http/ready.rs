//! The readiness of this process for traffic.

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
use crate::app::App;
use crate::schema;

/// The longest time that a ready database takes to reply.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The time for which a past commit counts while the next one is late.
const LAST_COUNTS: Duration = Duration::from_secs(10);

/// The readiness of the process.
#[derive(Serialize, ToSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the document"
)]
pub(super) struct Readiness {
    /// `ready` or `not ready`.
    status: &'static str,
    /// The database replies.
    database: bool,
    /// Its tables, including the ledger's, are at this program's version.
    migrations: bool,
    /// Commits reach the disk. Tested every few seconds.
    writes: bool,
    /// The process is stopping.
    draining: bool,
    /// The reason why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    reason: Option<&'static str>,
}

/// Should traffic come here? The database replies and accepts writes, its tables are
/// current, and the process is not stopping. Redis may be unreachable: the API does not
/// need it.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, body = Readiness),
    (status = 503, body = Readiness, description = "Not ready; `reason` gives the reason"),
))]
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let tables = tokio::time::timeout(TIMEOUT, tables(&api.app)).await;
    let (database, migrations) = match tables {
        Ok(Ok(current)) => (true, current),
        Ok(Err(error)) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "not ready: the database does not reply"
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
    // Tables of another version must not be written.
    let writes = database && migrations && (draining || api.writes.work(&api.app).await);
    let reason = if draining {
        Some("this process is stopping")
    } else if !database {
        Some("the database does not reply, or its file was replaced")
    } else if !migrations {
        Some("the tables of the database are at a different version from this program")
    } else if !writes {
        Some("the database accepts no writes: see the log")
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

/// Returns true if the application's tables and the ledger's are at this version.
async fn tables(app: &App) -> anyhow::Result<bool> {
    Ok(schema::is_migrated(app.db()).await? && app.db().is_current().await?)
}

/// The test that commits work. A commit is tried when readiness is asked for and the
/// last try is some seconds old, however many requests ask: anybody may ask.
#[derive(Clone)]
pub(super) struct WriteProbe(watch::Sender<Known>);

#[derive(Clone, Copy)]
struct Known {
    work: bool,
    since: Option<Instant>,
    trying: bool,
}

impl WriteProbe {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Known {
            work: true,
            since: None,
            trying: false,
        }))
    }

    /// Returns true if the last try worked. A slow try continues, and its result counts
    /// for later requests.
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
        let ended = tokio::time::timeout(TIMEOUT, known.wait_for(|known| !known.trying)).await;
        let known = *self.0.borrow();
        // While a try is late, the last result counts for a while.
        let counts = known
            .since
            .is_some_and(|since| since.elapsed() < LAST_COUNTS);
        known.work && (ended.is_ok() || counts)
    }

    async fn try_one(self, app: App) {
        let tried = schema::probe_write(app.db()).await;
        if let Err(error) = &tried {
            tracing::warn!(
                error = format!("{error:#}"),
                "not ready: the database accepts no writes"
            );
        }
        self.0.send_replace(Known {
            work: tried.is_ok(),
            since: Some(Instant::now()),
            trying: false,
        });
    }
}
