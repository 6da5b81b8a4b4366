//! Ending attempts: who lost the lease changes nothing.

use std::collections::HashMap;
use std::sync::LazyLock;

use rusqlite::Connection;

use super::super::settle::{SETTLE, settle_row};
use super::super::sql::piece;
use super::{Binder, Sized};
use crate::delivery::{Outcome, Settlement};
use crate::error::Error;
use crate::planted;

/// Finishes attempts that simply succeeded, which is nearly every one: those of one
/// subscription and one fence.
pub(super) static DONE: LazyLock<Sized> = LazyLock::new(|| {
    Sized::new(|rows| {
        let events: Vec<_> = (0..rows).map(|row| format!("?{}", row + 4)).collect();
        let sql = format!(
            concat!(
                "UPDATE termitary_deliveries AS d SET ",
                piece!(sqlite [done "?1"]),
                " WHERE d.subscription = ?2 AND d.event IN ({}) ",
                piece!(sqlite [leased_under "?3"])
            ),
            events.join(",")
        );
        planted::owned(sql.leak()).to_owned()
    })
});

const BEGIN: &str = "SAVEPOINT termitary_settle";
const UNDO: &str = "ROLLBACK TO SAVEPOINT termitary_settle";
const KEEP: &str = "RELEASE SAVEPOINT termitary_settle";
const COUNT: &str = "UPDATE termitary_subscriptions SET done = done + ?2 WHERE id = ?1";

/// Attempts that succeeded, of one subscription and one fence: the row of each,
/// and its place in the batch.
type Group = Vec<(i64, usize)>;

/// Settles what belongs to the ledger; returns, in order, whether each claim was still
/// valid. A delivery that its handler's own transaction finished counts as valid.
pub(crate) fn settle(
    conn: &Connection,
    settlements: &[Settlement],
    now_us: i64,
) -> Result<Vec<bool>, Error> {
    let mut held = vec![false; settlements.len()];
    let mut groups: HashMap<(i64, i64), Group> = HashMap::new();
    for (i, settlement) in settlements.iter().enumerate() {
        match (&settlement.outcome, settlement.claim.row()) {
            (Outcome::Done { committed: true }, _) => held[i] = true,
            (Outcome::Done { committed: false }, Some((seq, route, fence))) => {
                groups.entry((route, fence)).or_default().push((seq, i));
            }
            (_, row) => held[i] = row.is_some() && settle_other(conn, settlement, now_us)?,
        }
    }
    for ((route, fence), group) in groups {
        let done = Done {
            conn,
            now_us,
            route,
            fence,
        };
        done.settle(&group, &mut held)?;
    }
    Ok(held)
}

/// The values that the deliveries of a group share.
struct Done<'a> {
    conn: &'a Connection,
    now_us: i64,
    route: i64,
    fence: i64,
}

impl Done<'_> {
    fn settle(&self, group: &[(i64, usize)], held: &mut [bool]) -> Result<(), Error> {
        let mut rest = group;
        let mut count = 0;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(super::super::size_for(rest.len()).1);
            count += self.settle_some(now, held)?;
            rest = later;
        }
        let mut counted = self.conn.prepare_cached(COUNT)?;
        counted.execute([self.route, count])?;
        Ok(())
    }

    /// Settles all at once or, if some claims are no longer valid, one by one; returns
    /// how many were valid.
    fn settle_some(&self, group: &[(i64, usize)], held: &mut [bool]) -> Result<i64, Error> {
        self.run(BEGIN)?;
        let all = self.finish(group)? == group.len();
        if !all {
            self.run(UNDO)?;
        }
        self.run(KEEP)?;
        let mut count = 0;
        for one in group {
            held[one.1] = all || self.finish(std::slice::from_ref(one))? == 1;
            count += i64::from(held[one.1]);
        }
        Ok(count)
    }

    /// Finishes those whose claim is still valid; returns how many.
    fn finish(&self, group: &[(i64, usize)]) -> Result<usize, Error> {
        let (mut statement, _) = DONE.at_least(self.conn, group.len())?;
        let mut binder = Binder::new(&mut statement);
        binder.next(self.now_us)?;
        binder.next(self.route)?;
        binder.next(self.fence)?;
        for (seq, _) in group {
            binder.next(seq)?;
        }
        Ok(statement.raw_execute()?)
    }

    fn run(&self, statement: &str) -> Result<(), Error> {
        self.conn.prepare_cached(statement)?.execute([])?;
        Ok(())
    }
}

/// Settles an attempt that did not simply succeed.
fn settle_other(conn: &Connection, settlement: &Settlement, now_us: i64) -> Result<bool, Error> {
    let rows = serde_json::Value::from_iter(settle_row(settlement, now_us));
    let mut settle = conn.prepare_cached(planted::owned(SETTLE.sqlite))?;
    // The first row that it returns comes after all changes.
    Ok(settle.exists([rows.to_string()])?)
}
