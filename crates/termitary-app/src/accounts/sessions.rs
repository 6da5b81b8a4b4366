//! Sessions: a bearer token opens one, and it ends by age, by idling, or on request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use termitary::{Conn, Db};
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Caller;
use super::lookups::{Lookups, SessionError};
use super::store::sessions::{self as store, Limits, New};
use crate::random;
use crate::settings::Settings;

/// Leaked tokens are recognized by this.
const PREFIX: &str = "tty_";
/// The time of the last use is written at most this often.
const TOUCH_US: i64 = 60_000_000;
/// The longest time that a request waits for that write.
const TOUCH_WAIT: Duration = Duration::from_millis(500);
/// The most such writes at once.
const TOUCHES: usize = 16;

/// The sessions of every user. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sessions {
    db: Db,
    idle_us: i64,
    lifetime_us: i64,
    most: u32,
    lookups: Lookups,
    touches: Arc<Semaphore>,
}

/// A session, as its user sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    pub(super) id: Uuid,
    /// The time of the login.
    #[schema(value_type = String, format = DateTime)]
    pub(super) created_at: Timestamp,
    /// The time of its last use, to the minute.
    #[schema(value_type = String, format = DateTime)]
    pub(super) last_used_at: Timestamp,
    /// The latest time of its end.
    #[schema(value_type = String, format = DateTime)]
    pub(super) expires_at: Timestamp,
    pub(super) ip_address: Option<String>,
    pub(super) user_agent: Option<String>,
    /// True for the session of this request.
    pub(super) current: bool,
}

impl Sessions {
    pub(crate) fn new(db: Db, settings: &Settings) -> Self {
        Self {
            lookups: Lookups::new(db.clone(), settings.session_idle),
            db,
            idle_us: settings.session_idle.as_micros() as i64,
            lifetime_us: settings.session_lifetime.as_micros() as i64,
            most: settings.sessions_per_user.max(1),
            touches: Arc::new(Semaphore::new(TOUCHES)),
        }
    }

    fn limits(&self) -> Limits {
        let now = self.db.clock().now().as_microsecond();
        Limits {
            now,
            idle_since: now.saturating_sub(self.idle_us),
        }
    }

    /// Opens a session and returns its token.
    pub(crate) async fn open(
        &self,
        conn: &mut Conn,
        user: Uuid,
        address: IpAddr,
        agent: Option<&str>,
    ) -> Result<String, SessionError> {
        let token = random::token::<32>(PREFIX)?;
        let now_us = self.limits().now;
        let new = New {
            id: self.db.clock().new_id(),
            user,
            token_hash: random::token_hash(&token),
            now_us,
            expires_us: now_us.saturating_add(self.lifetime_us),
            address,
            agent,
            most: self.most,
        };
        store::insert(conn, &new).await?;
        Ok(token)
    }

    /// The live session of a token, whose time of use is written.
    pub(crate) async fn of_token(&self, token: &str) -> Result<Option<Caller>, SessionError> {
        let Some(live) = self.lookups.find(random::token_hash(token)).await? else {
            return Ok(None);
        };
        let now_us = self.limits().now;
        if now_us - live.last_used_us > TOUCH_US {
            self.touch(live.session, now_us).await;
        }
        Ok(Some(live.caller()))
    }

    /// The live ones of these sessions.
    pub(crate) async fn of_ids(&self, sessions: &[Uuid]) -> Result<Vec<Caller>, SessionError> {
        let limits = self.limits();
        let mut reader = self.db.read().await?;
        Ok(store::by_ids(&mut reader, sessions, limits).await?)
    }

    /// The live sessions of the caller, the newest first.
    pub(crate) async fn list(&self, caller: Caller) -> Result<Vec<Session>, SessionError> {
        let limits = self.limits();
        let mut reader = self.db.read().await?;
        Ok(store::of_user(&mut reader, caller, limits).await?)
    }

    /// Deletes sessions that are over, by age or by idling; returns their number.
    pub(crate) async fn delete_expired(&self, conn: &mut Conn) -> sqlx::Result<u64> {
        store::delete_expired(conn, self.limits()).await
    }

    /// Writes the time of use. Reading must not fail because writing fails, and a
    /// request waits only briefly: while the database is locked, its own write waits
    /// again.
    async fn touch(&self, session: Uuid, now_us: i64) {
        // If too many writes run, the next request writes the time.
        let Ok(permit) = Arc::clone(&self.touches).try_acquire_owned() else {
            return;
        };
        let db = self.db.clone();
        let touching = tokio::spawn(async move {
            let _permit = permit;
            let touched = async {
                let mut tx = db.begin().await?;
                store::touch(&mut tx, session, now_us).await?;
                tx.commit().await
            };
            if let Err(error) = touched.await {
                tracing::warn!(error = ?error, "cannot write the last use of a session");
            }
        });
        let _ = tokio::time::timeout(TOUCH_WAIT, touching).await;
    }
}

/// The sessions to end.
#[derive(Clone, Copy)]
pub(crate) enum Which {
    All,
    Only(Uuid),
    AllBut(Uuid),
}

/// Ends sessions of a user; returns their number.
pub(crate) async fn end(conn: &mut Conn, user: Uuid, which: Which) -> sqlx::Result<u64> {
    let (only, except) = match which {
        Which::All => (None, None),
        Which::Only(session) => (Some(session), None),
        Which::AllBut(session) => (None, Some(session)),
    };
    store::end(conn, user, only, except).await
}
