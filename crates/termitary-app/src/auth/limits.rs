//! Guessing is slow: failures are counted in the shared database, and each one past a
//! few makes the next wait longer. Nobody is locked out for good.
//!
//! Three counts limit a login: of the account from this network, of the network over
//! all accounts, and of the account from all networks that its user never logged in
//! from. A stranger uses up the first two for themselves alone. The third has more free
//! failures, and whoever comes from a known network does not meet it: guesses from
//! elsewhere do not keep the owner out.
//!
//! An attempt is counted before the password is looked at and given back when
//! it was right, so that a thousand attempts at once gain nothing.

use std::net::IpAddr;
use std::time::Duration;

use termitary::Conn;
use uuid::Uuid;

use super::known;
use crate::app::{App, LoginLimits};
use crate::http::{ApiError, network};

/// What an attempt counts against.
pub(super) struct Attempt {
    counts: Vec<Count>,
    /// Whose account it is, where it is a login.
    login: Option<Login>,
}

struct Login {
    email: String,
    network: String,
}

/// One count of failures.
struct Count {
    kind: Kind,
    scope: String,
    /// The failures that are free.
    free: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of an account from one network: forgotten when a password was right.
    Pair,
    /// Of an account from unknown networks.
    Elsewhere,
    Source,
}

impl Attempt {
    /// A login to the account of `email` from `source`.
    pub(super) fn login(app: &App, email: &str, source: IpAddr) -> Self {
        let limits = app.settings().login_limits;
        let network = network(source);
        // Hashed: what people mistype into the address field may be a password.
        let parts = [&b"account"[..], email.as_bytes()];
        let account = app.settings().secret.mac(parts)[..16]
            .iter()
            .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let count = |kind, scope, free| Count { kind, scope, free };
        let pair = format!("account:{account}:{network}");
        let elsewhere = format!("elsewhere:{account}");
        Self {
            counts: vec![
                count(Kind::Pair, pair, limits.per_account),
                count(Kind::Source, format!("source:{network}"), limits.per_source),
                count(Kind::Elsewhere, elsewhere, limits.per_account_elsewhere),
            ],
            login: Some(Login {
                email: email.to_owned(),
                network,
            }),
        }
    }

    /// A registration from `source`.
    pub(super) fn registration(app: &App, source: IpAddr) -> Self {
        let free = app.settings().login_limits.registrations_per_source;
        Self::requests(format!("register:{}", network(source)), free)
    }

    /// A request for a new password from `source`.
    pub(super) fn reset(app: &App, source: IpAddr) -> Self {
        let free = app.settings().login_limits.resets_per_source;
        Self::requests(format!("reset:{}", network(source)), free)
    }

    /// A request of `user` for a mail with a link to an address.
    pub(super) fn link(app: &App, user: Uuid) -> Self {
        let free = app.settings().login_limits.links_per_account;
        Self::requests(format!("link:{user}"), free)
    }

    /// Requests that are counted whether they succeed or not.
    fn requests(scope: String, free: u32) -> Self {
        Self {
            counts: vec![Count {
                kind: Kind::Source,
                scope,
                free,
            }],
            login: None,
        }
    }

    /// Counts the attempt, or says how long to wait.
    pub(super) async fn begin(mut self, app: &App) -> Result<Self, ApiError> {
        let now_us = app.now().as_microsecond();
        let limits = app.settings().login_limits;
        let mut tx = app.db().begin().await?;
        if let Some(login) = &self.login
            && known::is_known(&mut tx, app, &login.email, &login.network).await?
        {
            self.counts.retain(|count| count.kind != Kind::Elsewhere);
        }
        let longest_us = limits.longest_wait.as_micros() as i64;
        let mut wait_us = 0;
        for count in &self.counts {
            let wait = blocked_until(&mut tx, &count.scope).await? - now_us;
            // A longer wait was written by a clock that was ahead: it would keep
            // somebody out until that day.
            if wait <= longest_us {
                wait_us = wait_us.max(wait);
            }
        }
        if wait_us > 0 {
            return Err(ApiError::TooMany {
                detail: "Too many attempts: wait before the next one.",
                retry_after: Duration::from_micros(wait_us as u64) + Duration::from_millis(999),
            });
        }
        for Count { scope, free, .. } in &self.counts {
            count(&mut tx, scope, *free, limits, now_us).await?;
        }
        tx.commit().await?;
        Ok(self)
    }

    /// The password was right: the failures from this network are forgotten, and the
    /// attempt is given back to the other counts.
    pub(super) async fn succeeded(&self, conn: &mut Conn) -> sqlx::Result<()> {
        for Count { kind, scope, .. } in &self.counts {
            if *kind == Kind::Pair {
                sqlx::query("DELETE FROM attempt_limits WHERE scope = $1")
                    .bind(scope)
                    .execute(&mut *conn)
                    .await?;
            } else {
                give_back(conn, scope).await?;
            }
        }
        Ok(())
    }

    /// The attempt never came to its password: it is given back.
    pub(super) async fn undo(&self, app: &App) -> Result<(), ApiError> {
        let mut tx = app.db().begin().await?;
        for count in &self.counts {
            give_back(&mut tx, &count.scope).await?;
        }
        Ok(tx.commit().await?)
    }
}

async fn blocked_until(conn: &mut Conn, scope: &str) -> sqlx::Result<i64> {
    let until: Option<i64> =
        sqlx::query_scalar("SELECT blocked_until_us FROM attempt_limits WHERE scope = $1")
            .bind(scope)
            .fetch_optional(conn)
            .await?;
    Ok(until.unwrap_or(0))
}

async fn count(
    conn: &mut Conn,
    scope: &str,
    free: u32,
    limits: LoginLimits,
    now_us: i64,
) -> sqlx::Result<()> {
    let forgotten_us = now_us - limits.longest_wait.as_micros() as i64;
    let failures: i64 = sqlx::query_scalar(
        "INSERT INTO attempt_limits (scope, failures, blocked_until_us, last_us) VALUES ($1, 1, 0, $2)
         ON CONFLICT (scope) DO UPDATE SET
             failures = CASE WHEN max(last_us, blocked_until_us) <= $3 THEN 1 ELSE failures + 1 END, last_us = $2
         RETURNING failures",
    )
    .bind(scope)
    .bind(now_us)
    .bind(forgotten_us)
    .fetch_one(&mut *conn)
    .await?;
    let wait = wait_after(failures - i64::from(free), limits);
    sqlx::query("UPDATE attempt_limits SET blocked_until_us = $1 WHERE scope = $2")
        .bind(now_us + wait.as_micros() as i64)
        .bind(scope)
        .execute(conn)
        .await?;
    Ok(())
}

/// The first failure past the free ones waits a little, each further one twice
/// as long.
fn wait_after(excess: i64, limits: LoginLimits) -> Duration {
    let Ok(doublings) = u32::try_from(excess) else {
        return Duration::ZERO;
    };
    limits
        .first_wait
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(limits.longest_wait)
}

async fn give_back(conn: &mut Conn, scope: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE attempt_limits SET failures = max(failures - 1, 0), blocked_until_us = 0 WHERE scope = $1",
    )
    .bind(scope)
    .execute(conn)
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let limits = LoginLimits::default();
        assert_eq!(wait_after(-1, limits), Duration::ZERO);
        assert_eq!(wait_after(0, limits), limits.first_wait);
        assert_eq!(wait_after(2, limits), limits.first_wait * 4);
        assert_eq!(wait_after(1_000, limits), limits.longest_wait);
    }
}
