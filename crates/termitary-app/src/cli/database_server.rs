//! The check of a PostgreSQL database before anything is written into it, and the wait for
//! its server.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{sleep, timeout};

use super::system::Access;
use crate::config::{Config, Mistake, redact};
use crate::schema;

/// The longest time that a server takes to accept a connection.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// The codes of a server that starts, stops or has no connection left.
const AWAY: &[&str] = &["57P01", "57P02", "57P03", "53300"];
/// The code of a missing right.
const FORBIDDEN: &str = "42501";

/// Checks the database.
///
/// # Errors
///
/// If the server is unreachable, or if the database has no ledger and the command does not
/// create one.
pub(super) async fn check(config: &Config, access: Access) -> anyhow::Result<()> {
    match look(config).await {
        Ok(has_ledger) if has_ledger || access.creates() => Ok(()),
        Ok(_) => Err(no_ledger(config).into()),
        Err(error) if is_away(&error) => Err(error).with_context(|| unreachable(config)),
        // Opening it gives a better error.
        Err(_) => Ok(()),
    }
}

/// Returns once the server of the database is reachable, or refuses connections for a reason
/// that a wait does not change.
pub(super) async fn wait(config: &Config) {
    let mut warned = false;
    while let Err(error) = look(config).await
        && is_away(&error)
    {
        if !std::mem::replace(&mut warned, true) {
            tracing::warn!(error = %error, "{}: waiting for it", unreachable(config));
        }
        sleep(PAUSE).await;
    }
    if warned {
        tracing::info!("the database is reachable");
    }
}

/// Returns true if the database has a ledger.
async fn look(config: &Config) -> sqlx::Result<bool> {
    let looked = timeout(TIMEOUT, schema::has_ledger_on_server(&config.database_url)).await;
    looked.unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())))
}

fn unreachable(config: &Config) -> String {
    format!(
        "DATABASE_URL is `{}`: the server does not respond",
        redact(&config.database_url)
    )
}

fn no_ledger(config: &Config) -> Mistake {
    Mistake::new(format!(
        "DATABASE_URL is `{}`: the database is empty. Start `termitary`, or create the tables with `termitary migrate`",
        redact(&config.database_url)
    ))
}

/// The mistake of a user who may not create tables.
pub(super) fn no_rights(config: &Config) -> Mistake {
    Mistake::new(format!(
        "DATABASE_URL is `{}`: this user lacks rights on the database. Run `termitary migrate` once as its owner, or GRANT CREATE ON DATABASE and ON SCHEMA public to the user",
        redact(&config.database_url)
    ))
}

/// Returns true if the server refused something because the user may not do it.
pub(super) fn lacks_rights(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<sqlx::Error>()
        .is_some_and(|error| code(error).as_deref() == Some(FORBIDDEN))
}

fn is_away(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut)
        || code(error).is_some_and(|code| AWAY.contains(&&*code))
}

fn code(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}
