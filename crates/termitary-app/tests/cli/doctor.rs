//! `termitary doctor` names each state that puts work at risk.

use std::os::unix::fs::PermissionsExt as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Connection as _;
use termitary::prelude::*;
use termitary::testing::TestPostgres;

use crate::redis_server::{Redis, with_redis};
use crate::sandbox::Sandbox;

/// The findings, of which some are risks if `risky`.
fn findings(sandbox: &Sandbox, risky: bool) -> Vec<Value> {
    let output = sandbox.run(&["doctor", "--json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let code = output.status.code();
    assert_eq!(code, Some(i32::from(risky)), "{findings:#?}");
    findings
}

/// The text of the only finding of this check, which must have this level.
fn found(findings: &[Value], check: &str, level: &str) -> String {
    let of_check: Vec<_> = findings.iter().filter(|f| f["check"] == check).collect();
    assert_eq!(of_check.len(), 1, "{check}: {findings:#?}");
    assert_eq!(of_check[0]["level"], level, "{findings:#?}");
    for part in ["atRisk", "advice"] {
        let text = of_check[0][part].as_str().unwrap();
        assert_eq!(text.is_empty(), level == "ok", "{check}: {findings:#?}");
    }
    of_check[0]["found"].as_str().unwrap().to_owned()
}

#[test]
fn a_healthy_system_has_no_risk_and_exits_with_zero() {
    let sandbox = Sandbox::new();
    let worker = sandbox.start(&["worker"]).works();
    let findings = findings(&sandbox, false);
    for check in [
        "database.version",
        "database.rights",
        "ledger.schema",
        "application.schema",
        "workers.live",
    ] {
        found(&findings, check, "ok");
    }
    let text = sandbox.ok(&["doctor"]);
    assert!(text.contains("ok    ledger.schema"), "{text}");
    worker.stop();
}

#[test]
fn a_subscription_that_no_worker_runs_and_a_file_for_everybody_are_risks() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let ada = r#"{"id":"1","email":"ada@example.com","name":"Ada"}"#;
    sandbox.ok(&["publish", "users.created", ada]);
    let file = sandbox.path("termitary.db");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let findings = findings(&sandbox, true);
    assert!(found(&findings, "database.rights", "risk").contains("644"));
    found(&findings, "workers.live", "note");
    let silent: Vec<_> = findings
        .iter()
        .filter(|f| f["check"] == "subscriptions.silent" && f["level"] == "risk")
        .map(|f| f["found"].as_str().unwrap())
        .collect();
    assert!(
        silent
            .iter()
            .any(|text| text.contains("users.send-welcome")),
        "{silent:?}"
    );
    assert_eq!(findings[0]["level"], "risk", "the worst come first");
    let text = sandbox.fails(1, &["doctor"]);
    assert!(text.contains("risks found"), "{text}");
}

#[derive(Serialize, Deserialize)]
struct MonthEnded {
    share: f64,
}

impl Event for MonthEnded {
    const NAME: &'static str = "billing.month-ended";
}

async fn bill(_: MonthEnded) -> HandlerResult {
    Err(HandlerError::permanent("no money"))
}

/// A program of its own whose schedule cannot make its event and whose handler fails.
fn program() -> Registry<()> {
    let share = f64::NAN;
    Registry::new()
        .on(subscribe("billing.bill", bill))
        .on(schedule("billing.often", "* * * * * *", move |_: Tick| {
            MonthEnded { share }
        }))
}

#[test]
fn a_schedule_that_fails_and_one_that_does_not_fire_are_risks_and_dead_letters_a_note() {
    let sandbox = Sandbox::new().with("DATABASE_URL", "sqlite://shop.db");
    let url = format!("sqlite://{}", sandbox.path("shop.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let db = Db::open(&url).await.unwrap();
        let broker = Broker::sql(db.clone());
        broker.register(&program()).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        tx.publish(MonthEnded { share: 0.5 }).await.unwrap();
        tx.commit().await.unwrap();
        let inspect = broker.inspect();
        let over = async {
            loop {
                let status = inspect.status().await.unwrap();
                if status.schedules[0].failing.is_some() && status.subscriptions[0].dead == 1 {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let worker = Worker::new(broker.clone(), program());
        worker.run(over).await.unwrap();
        db.close().await;
    });
    let of_program = findings(&sandbox, true);
    assert!(found(&of_program, "schedules.failing", "risk").contains("billing.often"));
    assert!(found(&of_program, "subscriptions.dead", "note").contains("billing.bill"));
    assert!(
        !of_program
            .iter()
            .any(|f| f["check"] == "application.schema")
    );

    runtime.block_on(async {
        let db = Db::open(&url).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        sqlx::query(
            "UPDATE termitary_schedules SET failing_us = NULL, last_us = last_us - 600000000",
        )
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        db.close().await;
    });
    assert!(found(&findings(&sandbox, true), "schedules.late", "risk").contains("billing.often"));
}

#[test]
fn a_ledger_of_another_version_is_named_and_stays_as_it_is() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let file = sandbox.path("termitary.db");
    let set = |version: i64| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
            let mut conn = sqlx::ConnectOptions::connect(&options).await.unwrap();
            let before: i64 = sqlx::query_scalar("SELECT version FROM termitary_schema")
                .fetch_one(&mut conn)
                .await
                .unwrap();
            sqlx::query("UPDATE termitary_schema SET version = $1")
                .bind(version)
                .execute(&mut conn)
                .await
                .unwrap();
            before
        })
    };
    for version in [3, 1_000] {
        set(version);
        found(&findings(&sandbox, true), "ledger.schema", "risk");
        assert_eq!(set(version), version);
    }
}

#[test]
fn a_redis_that_forgets_evicts_or_is_full_is_a_risk() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    let worker = sandbox.start(&["worker"]).works();
    let of_server = findings(&sandbox, true);
    assert!(found(&of_server, "redis.persistence", "risk").contains("appendonly no"));
    found(&of_server, "redis.eviction", "ok");
    found(&of_server, "redis.replicas", "note");
    let mut conn = redis.connect();
    for (name, value) in [
        ("maxmemory-policy", "allkeys-lru"),
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory", "2gb"),
    ] {
        let set = redis::cmd("CONFIG").arg("SET").arg(name).arg(value).clone();
        set.exec(&mut conn).unwrap();
    }
    let of_server = findings(&sandbox, true);
    assert!(found(&of_server, "redis.eviction", "risk").contains("allkeys-lru"));
    found(&of_server, "redis.persistence", "ok");
    found(&of_server, "redis.memory", "ok");
    let set = redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory-policy")
        .arg("noeviction")
        .clone();
    set.exec(&mut conn).unwrap();
    findings(&sandbox, false);
    worker.stop();
}

#[test]
fn a_redis_that_is_away_is_a_risk() {
    let sandbox = Sandbox::new();
    let Some(mut redis) = Redis::start(&sandbox, &[]) else {
        return;
    };
    let sandbox = sandbox.with("REDIS_URL", &redis.url());
    sandbox.ok(&["migrate"]);
    redis.lose();
    found(&findings(&sandbox, true), "redis.reachable", "risk");
}

/// The findings about a ledger on PostgreSQL.
async fn of_postgres(db: &Db) -> Vec<Value> {
    let inspect = Broker::sql(db.clone()).inspect();
    let findings = inspect.doctor().await.unwrap();
    let findings = serde_json::to_value(findings).unwrap();
    findings.as_array().unwrap().clone()
}

#[test]
fn a_postgresql_server_that_loses_commits_or_keeps_dead_rows_is_a_risk() {
    let server = TestPostgres::conf(&[
        ("autovacuum", "off"),
        ("synchronous_commit", "off"),
        ("wal_level", "replica"),
    ]);
    let database = server.create_database();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let db = Db::open(database.url()).await.unwrap();
        let mut reader = sqlx::PgConnection::connect(database.url()).await.unwrap();
        for sql in [
            "SELECT pg_create_physical_replication_slot('idle', true)",
            "SET application_name TO 'report'",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "SELECT 1",
        ] {
            sqlx::raw_sql(sql).execute(&mut reader).await.unwrap();
        }
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut reader)
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5_600)).await;
        let findings = of_postgres(&db).await;
        found(&findings, "database.autovacuum", "risk");
        found(&findings, "database.durability", "risk");
        for check in [
            "database.version",
            "database.clock",
            "database.connections",
            "database.dead-rows",
            "database.notify",
            "database.rights",
            "ledger.schema",
        ] {
            found(&findings, check, "ok");
        }
        assert!(found(&findings, "database.slots", "note").contains("idle"));
        let held = found(&findings, "database.transactions", "note");
        for named in [
            pid.to_string().as_str(),
            "`report`",
            "postgres",
            "REPEATABLE READ",
        ] {
            assert!(held.contains(named), "{named}: {held}");
        }
        db.close().await;
    });
}

#[test]
fn missing_rights_on_a_table_of_the_ledger_are_a_risk() {
    let database = TestPostgres::shared().create_database();
    let role = format!("role_{}", database.name());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        Db::open(database.url()).await.unwrap().close().await;
        let mut owner = sqlx::PgConnection::connect(database.url()).await.unwrap();
        let grant = format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA termitary TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA termitary TO {role};"
        );
        let revoke = format!("REVOKE DELETE ON termitary.termitary_ticks FROM {role}");
        let url = database.url().replace("postgres@", &format!("{role}@"));
        for (sql, level) in [(grant, "note"), (revoke, "risk")] {
            let sql = sqlx::AssertSqlSafe(sql);
            sqlx::raw_sql(sql).execute(&mut owner).await.unwrap();
            let db = Db::open(&url).await.unwrap();
            let text = found(&of_postgres(&db).await, "database.rights", level);
            assert_eq!(text.contains("termitary_ticks"), level == "risk", "{text}");
            db.close().await;
        }
    });
}
