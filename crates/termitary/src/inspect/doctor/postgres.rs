//! A PostgreSQL server, its sessions and the ledger's tables on it.

use super::{Finding, GIB, SKEW, bytes, time};
use crate::db::Db;
use crate::engine::postgres::{Engine, OpenTransaction, ServerFacts, Slot};
use crate::error::Error;
use crate::ledger::health::{self, TableFacts};

/// An open transaction of this age in seconds is worth knowing, and a risk.
const OPEN: [u64; 2] = [5, 60];
/// Fewer dead rows than this cost nothing.
const DEAD_ROWS: i64 = 100_000;
/// An inactive replication slot that holds more log is a risk.
const SLOT: u64 = GIB;

pub(super) async fn examine(db: &Db, engine: &Engine) -> Result<Vec<Finding>, Error> {
    let before_us = db.clock().now_us();
    let facts = engine.facts().await?;
    let mut findings = settings(&facts);
    findings.push(clock(facts.now_us, (before_us, db.clock().now_us())));
    findings.push(rights(
        &health::forbidden(db, engine).await?,
        facts.may_create,
    ));
    findings.push(transactions(
        engine.oldest_transaction().await?.as_ref(),
        facts.hidden,
    ));
    if let Some(table) = health::deliveries(db, engine).await? {
        findings.push(dead_rows(&table));
    }
    findings.extend(engine.slots().await?.iter().map(slot));
    findings.push(notifications(&engine.hears_notifications().await));
    Ok(findings)
}

fn settings(facts: &ServerFacts) -> Vec<Finding> {
    let size = bytes(facts.database_bytes.unsigned_abs());
    let version = &facts.version;
    let mut findings = vec![
        Finding::ok(
            "database.version",
            format!(
                "PostgreSQL {version}, a database of {size}; the server does not tell its free disk"
            ),
        ),
        connections(facts),
        durability(facts),
    ];
    if facts.is_standby {
        findings.push(Finding::risk(
            "database.standby",
            "the server is a standby",
            "it takes no writes: nothing can be published or settled",
            "write the address of the primary into DATABASE_URL",
        ));
    }
    findings.push(if facts.autovacuum == "on" {
        Finding::ok("database.autovacuum", "autovacuum is on")
    } else {
        Finding::risk(
            "database.autovacuum",
            "autovacuum is off",
            "the tables of the ledger grow without end, and every claim becomes slower",
            "set autovacuum = on in postgresql.conf, and reload",
        )
    });
    findings
}

fn connections(facts: &ServerFacts) -> Finding {
    let (used, most) = (facts.connections, facts.most_connections);
    let found = format!("{used} of {most} connections are in use");
    let at_risk = "a process that starts, or whose load rises, gets no connection";
    let advice = "raise max_connections, run fewer processes, or put a pooler before the server";
    if used * 100 >= most * 90 {
        Finding::risk("database.connections", found, at_risk, advice)
    } else if used * 100 >= most * 70 {
        Finding::note("database.connections", found, at_risk, advice)
    } else {
        Finding::ok("database.connections", found)
    }
}

fn durability(facts: &ServerFacts) -> Finding {
    for (name, value) in [
        ("fsync", &facts.fsync),
        ("full_page_writes", &facts.full_page_writes),
    ] {
        if value == "off" {
            return Finding::risk(
                "database.durability",
                format!("{name} is off"),
                "a power cut can destroy the whole database",
                format!("set {name} = on in postgresql.conf, and reload"),
            );
        }
    }
    match &*facts.synchronous_commit {
        "off" => Finding::risk(
            "database.durability",
            "synchronous_commit is off",
            "a crash of the server loses the commits of the last moments, which callers were told of",
            "set synchronous_commit = on for this user or database",
        ),
        set => Finding::ok(
            "database.durability",
            format!("synchronous_commit is {set}"),
        ),
    }
}

/// The clock of the server lies between the times before and after the question.
fn clock(server_us: i64, (before_us, after_us): (i64, i64)) -> Finding {
    let off_us = (before_us - server_us).max(server_us - after_us).max(0);
    let off = std::time::Duration::from_micros(off_us.unsigned_abs());
    let found = if off_us == 0 {
        "the clocks of the server and of this machine agree".to_owned()
    } else {
        format!(
            "the clocks of the server and of this machine differ by {} ms",
            off.as_millis()
        )
    };
    let at_risk = "deliveries that this machine or the SQL function publishes are due at another time than asked for";
    let advice = "set both clocks (NTP)";
    let [note, risk] = SKEW;
    if off >= risk {
        Finding::risk("database.clock", found, at_risk, advice)
    } else if off >= note {
        Finding::note("database.clock", found, at_risk, advice)
    } else {
        Finding::ok("database.clock", found)
    }
}

fn rights(forbidden: &[String], may_create: bool) -> Finding {
    if !forbidden.is_empty() {
        return Finding::risk(
            "database.rights",
            format!("this user may not read and change {}", forbidden.join(", ")),
            "publishing, claiming or settling fails",
            "GRANT SELECT, INSERT, UPDATE, DELETE on these tables to the user",
        );
    }
    if !may_create {
        return Finding::note(
            "database.rights",
            "this user may not create tables in the ledger's schema",
            "it cannot bring the tables to a newer version",
            "run `termitary migrate` as the owner of the schema before a deploy",
        );
    }
    Finding::ok("database.rights", "this user may do all that is needed")
}

fn transactions(oldest: Option<&OpenTransaction>, hidden: i64) -> Finding {
    const CHECK: &str = "database.transactions";
    let seconds = oldest.map_or(0, |oldest| oldest.seconds.unsigned_abs());
    let [note, risk] = OPEN;
    let Some(oldest) = oldest.filter(|_| seconds >= note) else {
        if hidden > 0 {
            return Finding::note(
                CHECK,
                format!("{hidden} sessions of other users are not visible"),
                "one of them may keep a transaction open, and tables then grow",
                "GRANT pg_read_all_stats to the user",
            );
        }
        return Finding::ok(CHECK, "no transaction has been open for long");
    };
    let OpenTransaction {
        pid,
        application,
        user,
        address,
        state,
        ..
    } = oldest;
    let reads = if oldest.holds_snapshot {
        " and holds a snapshot (a running statement, REPEATABLE READ or a cursor)"
    } else {
        ""
    };
    let found = format!(
        "process {pid} (`{application}`, user {user}, from {address}) has had a transaction open for {} ({state}){reads}",
        time(seconds)
    );
    let at_risk =
        "dead rows stay in the tables, readers of events wait behind it, and claims become slower";
    let advice = format!(
        "end it: SELECT pg_terminate_backend({pid}); set idle_in_transaction_session_timeout against the next one"
    );
    if seconds >= risk {
        Finding::risk(CHECK, found, at_risk, advice)
    } else {
        Finding::note(CHECK, found, at_risk, advice)
    }
}

fn dead_rows(table: &TableFacts) -> Finding {
    let vacuumed = match table.vacuumed_seconds {
        Some(seconds) => format!("vacuumed {} ago", time(seconds.max(0).unsigned_abs())),
        None => "not vacuumed yet".to_owned(),
    };
    let found = format!(
        "the table of deliveries has {} live and {} dead rows in {}, {vacuumed}",
        table.live,
        table.dead,
        bytes(table.bytes.unsigned_abs())
    );
    if table.dead < DEAD_ROWS || table.dead < table.live {
        return Finding::ok("database.dead-rows", found);
    }
    Finding::risk(
        "database.dead-rows",
        found,
        "every claim reads dead rows first and becomes slower",
        "look for an old transaction or replication slot that holds them, then: VACUUM termitary_deliveries",
    )
}

fn slot(slot: &Slot) -> Finding {
    let held = slot.held_bytes.max(0).unsigned_abs();
    let name = &slot.name;
    let found = format!(
        "replication slot {name} ({}) holds {} of write-ahead log",
        if slot.active { "in use" } else { "unused" },
        bytes(held)
    );
    let at_risk = "the log fills the server's disk, and then every write fails";
    let advice = format!(
        "start its standby again, or: SELECT pg_drop_replication_slot('{name}'); max_slot_wal_keep_size limits what slots hold"
    );
    if held >= SLOT {
        Finding::risk("database.slots", found, at_risk, advice)
    } else if slot.active {
        Finding::ok("database.slots", found)
    } else {
        Finding::note("database.slots", found, at_risk, advice)
    }
}

fn notifications(heard: &Result<bool, Error>) -> Finding {
    if matches!(heard, Ok(true)) {
        return Finding::ok("database.notify", "notifications arrive");
    }
    Finding::note(
        "database.notify",
        "notifications do not arrive: a pooler in transaction mode (PgBouncer) is probably between",
        "workers see events of other processes by polling, a few ms later, and ask the server more often",
        "write the server's own address, or that of a pool in session mode, into DATABASE_URL",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn the_clock_of_the_server_agrees_if_it_lies_between_question_and_reply() {
        let level = |server_us| clock(server_us, (1_000_000, 1_500_000)).level;
        assert_eq!(level(1_200_000), Level::Ok);
        assert_eq!(level(4_000_000), Level::Note);
        assert_eq!(level(-60_000_000), Level::Risk);
    }

    #[test]
    fn a_transaction_is_named_after_seconds_and_is_a_risk_after_a_minute() {
        let open = |seconds| OpenTransaction {
            pid: 77,
            application: "psql".to_owned(),
            user: "ada".to_owned(),
            address: "10.0.0.1".to_owned(),
            state: "idle in transaction".to_owned(),
            seconds,
            holds_snapshot: true,
        };
        assert_eq!(transactions(Some(&open(1)), 0).level, Level::Ok);
        assert_eq!(transactions(Some(&open(10)), 0).level, Level::Note);
        let risk = transactions(Some(&open(600)), 0);
        assert_eq!(risk.level, Level::Risk);
        for named in ["77", "psql", "ada", "10.0.0.1", "10 min", "REPEATABLE READ"] {
            assert!(risk.found.contains(named), "{named}: {risk:?}");
        }
        assert_eq!(transactions(None, 2).level, Level::Note);
    }

    #[test]
    fn dead_rows_are_a_risk_once_they_outnumber_the_live_ones() {
        let table = |live, dead| TableFacts {
            live,
            dead,
            bytes: 1,
            vacuumed_seconds: None,
        };
        assert_eq!(dead_rows(&table(10, 5_000)).level, Level::Ok);
        assert_eq!(dead_rows(&table(1_000_000, 200_000)).level, Level::Ok);
        assert_eq!(dead_rows(&table(10, 200_000)).level, Level::Risk);
    }
}
