//! Facts about a PostgreSQL server, as far as this user may see them.

use std::time::Duration;

use sqlx::{AssertSqlSafe, FromRow};

use super::Engine;
use super::connect::listener;
use crate::engine::quoted;
use crate::error::Error;

/// The wait for a notification of our own.
const HEARD: Duration = Duration::from_secs(2);

/// The settings of a server and of a connection to it, and what they hold now.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct ServerFacts {
    pub(crate) version: String,
    pub(crate) is_standby: bool,
    pub(crate) synchronous_commit: String,
    pub(crate) fsync: String,
    pub(crate) full_page_writes: String,
    pub(crate) autovacuum: String,
    pub(crate) database_bytes: i64,
    /// The time of the server's clock.
    pub(crate) now_us: i64,
    pub(crate) connections: i64,
    /// The most connections of users that are no superusers.
    pub(crate) most_connections: i64,
    /// Sessions whose state this user may not see.
    pub(crate) hidden: i64,
    /// This user may create tables in the schema of the ledger.
    pub(crate) may_create: bool,
}

/// A session with an open transaction.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct OpenTransaction {
    pub(crate) pid: i64,
    pub(crate) application: String,
    pub(crate) user: String,
    pub(crate) address: String,
    pub(crate) state: String,
    pub(crate) seconds: i64,
    /// The transaction keeps a snapshot between its statements or for a long one: dead
    /// rows that are younger stay.
    pub(crate) holds_snapshot: bool,
}

/// A replication slot that holds write-ahead log.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) active: bool,
    pub(crate) held_bytes: i64,
}

impl Engine {
    /// Reads settings and sizes.
    pub(crate) async fn facts(&self) -> Result<ServerFacts, Error> {
        let facts = sqlx::query_as(
            "SELECT current_setting('server_version') AS version,
                pg_is_in_recovery() AS is_standby,
                current_setting('synchronous_commit') AS synchronous_commit,
                current_setting('fsync') AS fsync,
                current_setting('full_page_writes') AS full_page_writes,
                current_setting('autovacuum') AS autovacuum,
                pg_database_size(current_database()) AS database_bytes,
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us,
                (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
                current_setting('max_connections')::bigint
                    - current_setting('superuser_reserved_connections')::bigint AS most_connections,
                (SELECT count(*) FROM pg_stat_activity
                 WHERE backend_type = 'client backend' AND datname = current_database() AND state IS NULL) AS hidden,
                has_schema_privilege($1, 'CREATE') AS may_create",
        )
        .bind(self.schema())
        .fetch_one(&mut self.read().await?)
        .await?;
        Ok(facts)
    }

    /// The transaction of this database that has been open for the longest time. Sessions
    /// that do nothing inside of one come before those that run a statement.
    pub(crate) async fn oldest_transaction(&self) -> Result<Option<OpenTransaction>, Error> {
        let oldest = sqlx::query_as(
            r"SELECT pid::bigint AS pid, coalesce(application_name, '') AS application,
                coalesce(usename::text, '') AS user, coalesce(host(client_addr), 'a socket of the server') AS address,
                coalesce(state, '') AS state,
                extract(epoch FROM clock_timestamp() - xact_start)::bigint AS seconds,
                backend_xmin IS NOT NULL AS holds_snapshot
             FROM pg_stat_activity
             WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()
                AND backend_type = 'client backend' AND datname = current_database()
             ORDER BY xact_start LIMIT 1",
        )
        .fetch_optional(&mut self.read().await?)
        .await?;
        Ok(oldest)
    }

    /// Replication slots with the write-ahead log that each one holds.
    pub(crate) async fn slots(&self) -> Result<Vec<Slot>, Error> {
        let slots = sqlx::query_as(
            "SELECT slot_name::text AS name, active,
                pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                    ELSE pg_current_wal_lsn() END, restart_lsn)::bigint AS held_bytes
             FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY slot_name",
        )
        .fetch_all(&mut self.read().await?)
        .await?;
        Ok(slots)
    }

    /// Returns whether a notification that this process sends reaches a connection that
    /// listens. Through a pooler that gives out connections for one transaction it does not.
    pub(crate) async fn hears_notifications(&self) -> Result<bool, Error> {
        let channel = format!("{}.heard.{:016x}", self.schema(), fastrand::u64(..));
        let mut listener = listener(self.options(), &channel).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("NOTIFY {}", quoted(&channel))))
            .execute(self.broker_pool())
            .await?;
        Ok(tokio::time::timeout(HEARD, listener.recv()).await.is_ok())
    }
}
