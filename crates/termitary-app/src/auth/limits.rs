//! Limits on guessing: failures are counted in the shared database, and each one beyond a
//! few doubles the wait. No account is locked for good.
//!
//! Three counts limit a login: failures of the account from this network, of the network
//! over all accounts, and of the account from all networks that its user never logged in
//! from. A stranger exhausts the first two only for themselves. The third has more free
//! failures and does not apply to known networks, so guesses from elsewhere do not lock
//! out the owner.
//!
//! An attempt counts before the password is checked and is taken back if it was right, so
//! that a thousand attempts at once gain nothing.

use std::net::IpAddr;
use std::time::Duration;

use termitary::Conn;
use uuid::Uuid;

use super::store;
use crate::app::App;
use crate::http::ApiError;
use crate::network::network;
use crate::settings::LoginLimits;

/// An attempt, with the counts that limit it.
pub(super) struct Attempt {
    counts: Vec<Count>,
    /// The account and the network of a login.
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
    /// The number of failures without a wait.
    free: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of an account from one network: deleted when a password was right.
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
        // Hashed: people may type a password into the address field.
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

    /// A request of `user` for a mail with a link.
    pub(super) fn link(app: &App, user: Uuid) -> Self {
        let free = app.settings().login_limits.links_per_account;
        Self::requests(format!("link:{user}"), free)
    }

    /// A request that counts even if it succeeds.
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

    /// Counts the attempt, or returns the error that tells how long to wait.
    pub(super) async fn begin(mut self, app: &App) -> Result<Self, ApiError> {
        let now_us = app.now().as_microsecond();
        let limits = app.settings().login_limits;
        let mut tx = app.db().begin().await?;
        if let Some(login) = &self.login
            && store::is_known_network(&mut tx, app, &login.email, &login.network).await?
        {
            self.counts.retain(|count| count.kind != Kind::Elsewhere);
        }
        let mut wait_us = 0;
        for count in &self.counts {
            let blocked_us = store::blocked_until_us(&mut tx, &count.scope).await?;
            wait_us = wait_us.max(counted_wait(blocked_us, limits, now_us));
        }
        if wait_us > 0 {
            return Err(too_many(wait_us));
        }
        for Count { scope, free, .. } in &self.counts {
            let blocked_us = count(&mut tx, scope, *free, limits, now_us).await?;
            // Another attempt was counted since the look above.
            let wait_us = counted_wait(blocked_us, limits, now_us);
            if wait_us > 0 {
                return Err(too_many(wait_us));
            }
        }
        tx.commit().await?;
        Ok(self)
    }

    /// Deletes the failures from this network and takes the attempt back from the other
    /// counts, since the password was right.
    pub(super) async fn succeeded(&self, conn: &mut Conn) -> sqlx::Result<()> {
        for Count { kind, scope, .. } in &self.counts {
            if *kind == Kind::Pair {
                store::delete_failures(conn, scope).await?;
            } else {
                store::uncount_failure(conn, scope).await?;
            }
        }
        Ok(())
    }

    /// Takes the attempt back, since its password was not checked.
    pub(super) async fn undo(&self, app: &App) -> Result<(), ApiError> {
        let mut tx = app.db().begin().await?;
        for count in &self.counts {
            store::uncount_failure(&mut tx, &count.scope).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// The microseconds to wait until a time. A longer wait than the longest comes from a clock
/// that was ahead: it would lock the account until that day.
fn counted_wait(until_us: i64, limits: LoginLimits, now_us: i64) -> i64 {
    let wait_us = until_us - now_us;
    if wait_us <= limits.longest_wait.as_micros() as i64 {
        wait_us.max(0)
    } else {
        0
    }
}

fn too_many(wait_us: i64) -> ApiError {
    ApiError::TooMany {
        detail: "Too many attempts: wait before the next one.",
        retry_after: Duration::from_micros(wait_us as u64) + Duration::from_millis(999),
    }
}

/// Counts one attempt; returns the time until which attempts had to wait before it.
async fn count(
    conn: &mut Conn,
    scope: &str,
    free: u32,
    limits: LoginLimits,
    now_us: i64,
) -> sqlx::Result<i64> {
    let oldest_us = now_us - limits.longest_wait.as_micros() as i64;
    let counted = store::count_failure(conn, scope, now_us, oldest_us).await?;
    let wait = wait_after(counted.failures - i64::from(free), limits);
    store::block_until(conn, scope, now_us + wait.as_micros() as i64).await?;
    Ok(counted.blocked_until_us)
}

/// The wait after the failures beyond the free ones: each doubles it.
fn wait_after(excess: i64, limits: LoginLimits) -> Duration {
    let Ok(doublings) = u32::try_from(excess) else {
        return Duration::ZERO;
    };
    limits
        .first_wait
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(limits.longest_wait)
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
