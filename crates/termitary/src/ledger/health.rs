//! Facts about the ledger's tables on a PostgreSQL server.

use crate::db::Db;
use crate::engine::postgres::Engine;
use crate::error::Error;

/// The rows of the table of deliveries, as the server counts them.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct TableFacts {
    pub(crate) live: i64,
    /// Rows that nobody can see any more and that vacuum has not removed.
    pub(crate) dead: i64,
    /// With its indexes.
    pub(crate) bytes: i64,
    /// Seconds since autovacuum finished the table; `None` if it never did.
    pub(crate) vacuumed_seconds: Option<i64>,
}

/// The state of the table of deliveries; `None` if the server has no statistics of it.
pub(crate) async fn deliveries(db: &Db, engine: &Engine) -> Result<Option<TableFacts>, Error> {
    Ok(sqlx::query_as(
        "SELECT n_live_tup AS live, n_dead_tup AS dead, pg_total_relation_size(relid) AS bytes,
            extract(epoch FROM clock_timestamp() - last_autovacuum)::bigint AS vacuumed_seconds
         FROM pg_stat_all_tables WHERE schemaname = $1 AND relname = 'termitary_deliveries'",
    )
    .bind(engine.schema())
    .fetch_optional(&mut *db.read().await?)
    .await?)
}

/// The tables of the ledger that this user may not read and change.
pub(crate) async fn forbidden(db: &Db, engine: &Engine) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(
        r"SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname LIKE 'termitary\_%'
            AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
          ORDER BY c.relname",
    )
    .bind(engine.schema())
    .fetch_all(&mut *db.read().await?)
    .await?)
}
