//! The acts of operators.

use crate::db::Conn;
use crate::error::Error;

/// Records an act of `who` on `count` things.
pub(crate) async fn audit(
    conn: &mut Conn,
    now_us: i64,
    who: &str,
    act: &str,
    subject: &str,
    count: u64,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO termitary_audit (time_us, who, act, subject, count) VALUES ($1, $2, $3, $4, $5)")
        .bind(now_us)
        .bind(who)
        .bind(act)
        .bind(subject)
        .bind(count as i64)
        .execute(conn)
        .await?;
    Ok(())
}
