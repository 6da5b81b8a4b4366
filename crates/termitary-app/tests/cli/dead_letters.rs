//! Dead and parked deliveries are listed, shown, replayed and dropped.

use serde::{Deserialize, Serialize};
use termitary::prelude::*;

use crate::sandbox::{Process, Sandbox, eventually};

/// A user whose address can never get mail: the delivery is dead at once.
fn with_dead_letters(number: u64) -> (Sandbox, Process) {
    let sandbox = Sandbox::new();
    let worker = sandbox.start(&["worker"]).works();
    for n in 0..number {
        let user = format!(r#"{{"id":"{n}","email":"no\u001b[31maddress","name":"N"}}"#);
        sandbox.ok(&["publish", "users.created", &user]);
    }
    eventually("the deliveries are dead", || {
        sandbox.count("users.send-welcome", "dead") == number
    });
    (sandbox, worker)
}

#[test]
fn a_dead_letter_is_listed_and_shown_without_steering_the_terminal() {
    let (sandbox, _worker) = with_dead_letters(1);
    let list = sandbox.json(&[
        "dead",
        "list",
        "--json",
        "--subscription",
        "users.send-welcome",
    ]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(
        (&list[0]["state"], &list[0]["reason"]),
        (&"dead".into(), &"permanent".into())
    );
    let id = list[0]["event"]["id"].as_str().unwrap();
    let shown = sandbox.ok(&["dead", "show", id]);
    assert!(
        shown.contains("users.send-welcome is dead") && !shown.contains('\u{1b}'),
        "{shown}"
    );
    let table = sandbox.ok(&["dead", "list"]);
    assert!(table.contains(id) && !table.contains('\u{1b}'), "{table}");
    assert_eq!(
        sandbox.ok(&["dead", "list", "--parked"]),
        "no delivery is dead or parked\n"
    );
    sandbox.fails(2, &["dead", "show", "x"]);
    let nowhere = "019ab0c1-7a4e-7bb2-8d5b-0f6f0b9f2c11";
    for args in [
        &["dead", "show", nowhere][..],
        &["dead", "replay", "--event", nowhere],
        &["dead", "drop", "--event", nowhere, "--yes"],
    ] {
        let text = sandbox.fails(2, args);
        assert!(text.contains("dead list"), "{args:?}: {text}");
    }
    assert_eq!(
        sandbox.ok(&["dead", "list", "--event", nowhere]),
        "no delivery is dead or parked\n"
    );
    assert_eq!(
        sandbox.ok(&["dead", "replay", "--parked"]),
        "0 deliveries replayed\n"
    );
}

#[test]
fn many_are_replayed_or_dropped_only_when_that_is_meant() {
    let (sandbox, worker) = with_dead_letters(2);
    worker.stop();
    let text = sandbox.fails(2, &["dead", "replay"]);
    assert!(text.contains("--all"), "{text}");
    let text = sandbox.fails(2, &["dead", "replay", "--all"]);
    assert!(
        text.contains("2 deliveries") && text.contains("--yes"),
        "{text}"
    );
    assert_eq!(
        sandbox.ok(&["dead", "replay", "--all", "--yes"]),
        "2 deliveries replayed\n"
    );
    assert_eq!(sandbox.count("users.send-welcome", "pending"), 2);
    let worker = sandbox.start(&["worker"]).works();
    eventually("they are dead again", || {
        sandbox.count("users.send-welcome", "dead") == 2
    });
    worker.stop();
    let list = sandbox.json(&["dead", "list", "--json"]);
    let [id, other] = [0, 1].map(|n| list[n]["event"]["id"].as_str().unwrap());
    for args in [
        ["dead", "drop", "--event", id],
        ["dead", "replay", "--event", id],
        ["dead", "replay", "--subscription", "users.send-welcome"],
    ] {
        let text = sandbox.fails(2, &args);
        assert!(text.contains("--yes"), "{args:?}: {text}");
    }
    for verb in ["replay", "drop"] {
        let help = sandbox.ok(&["dead", verb, "--help"]);
        assert!(help.contains("without a terminal"), "{help}");
    }
    let dropped = sandbox.json(&["dead", "drop", "--event", id, "--yes", "--json"]);
    assert_eq!(dropped["dropped"], 1);
    assert_eq!(
        sandbox.ok(&["dead", "replay", "--event", other, "--yes"]),
        "1 delivery replayed\n"
    );
}

#[test]
fn a_subscription_that_is_not_there_is_named_with_the_nearest() {
    let (sandbox, _worker) = with_dead_letters(1);
    for args in [
        &["dead", "list"][..],
        &["dead", "list", "--json"],
        &["dead", "replay", "--yes"],
        &["dead", "drop", "--yes"],
    ] {
        let args = [args, &["--subscription", "users.send-welcom"]].concat();
        let text = sandbox.fails(2, &args);
        assert!(
            text.contains("no subscription is named `users.send-welcom`")
                && text.contains("users.send-welcome"),
            "{args:?}: {text}"
        );
    }
    assert_eq!(sandbox.count("users.send-welcome", "dead"), 1);
    let empty = sandbox.ok(&["dead", "list", "--subscription", "bridge.in"]);
    assert_eq!(empty, "no delivery is dead or parked\n");
}

#[tokio::test]
async fn a_payload_that_no_type_holds_is_shown_as_it_is_written() {
    let (sandbox, worker) = with_dead_letters(1);
    worker.stop();
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    for (data, shown) in [
        (r#"{"n":1e999,"m":1.50}"#, "\"n\": 1e999,\n  \"m\": 1.50"),
        (r#"{"s":"\ud800"}"#, r#""s": "\ud800""#),
        (deep.as_str(), "[[[["),
    ] {
        let url = format!("sqlite://{}", sandbox.path("termitary.db").display());
        let db = Db::open(&url).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        sqlx::query("UPDATE termitary_events SET data = $1 WHERE name = 'users.created'")
            .bind(data)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        db.close().await;
        let list = sandbox.ok(&["dead", "list"]);
        let id = list.lines().nth(1).unwrap().split(' ').next().unwrap();
        let text = sandbox.ok(&["dead", "show", id]);
        assert!(text.contains(shown), "{text}");
        let json = sandbox.ok(&["dead", "show", id, "--json"]);
        assert!(json.contains(data), "{json}");
    }
}

#[test]
fn schedules_are_listed_run_paused_and_resumed() {
    let sandbox = Sandbox::new();
    let _worker = sandbox.start(&["worker"]).works();
    let find = |name: &str| {
        let list = sandbox.json(&["schedule", "list", "--json"]);
        list.as_array()
            .unwrap()
            .iter()
            .find(|s| s["name"] == name)
            .cloned()
            .unwrap()
    };
    assert_eq!(find("todos.overdue.check")["cron"], "0 */2 * * *");
    let id = sandbox.ok(&["schedule", "run", "todos.overdue.check"]);
    assert_eq!(id.trim().len(), 36);
    sandbox.settled();
    sandbox.ok(&["schedule", "pause", "todos.overdue.check"]);
    assert_eq!(find("todos.overdue.check")["paused"], true);
    assert!(sandbox.ok(&["schedule", "list"]).contains("paused"));
    let resumed = sandbox.json(&["schedule", "resume", "todos.overdue.check", "--json"]);
    assert_eq!(resumed["paused"], false);
    assert_eq!(find("todos.overdue.check")["paused"], false);
}

#[tokio::test]
async fn a_schedule_that_fails_is_shown_with_its_error_and_since_when() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let url = format!("sqlite://{}", sandbox.path("termitary.db").display());
    let db = Db::open(&url).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::query("UPDATE termitary_schedules SET failing_us = 1768478400000000, failure = 'too\x1b[31mlarge'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    db.close().await;
    for args in [&["schedule", "list"][..], &["status"]] {
        let text = sandbox.ok(args);
        let line =
            "todos.overdue.check has failed to create its event since 2026-01-15T12:00:00Z: too";
        assert!(text.contains(line) && !text.contains('\x1b'), "{text}");
    }
    let failing = &sandbox.json(&["status", "--json"])["schedules"][0]["failing"];
    assert_eq!(failing["since"], "2026-01-15T12:00:00Z");
    assert_eq!(failing["error"], "too\u{1b}[31mlarge");
}

#[derive(Serialize, Deserialize)]
struct Created {}

impl Event for Created {
    const NAME: &'static str = "users.created";
}

async fn ignore(_: Created) -> HandlerResult {
    Ok(())
}

/// A program of an earlier version leaves a subscription behind.
fn leave_behind(sandbox: &Sandbox, name: &'static str) {
    let database = format!("sqlite://{}", sandbox.path("termitary.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let db = Db::open(&database).await.unwrap();
        let registry = Registry::<()>::new().on(subscribe(name, ignore));
        Broker::sql(db.clone()).register(&registry).await.unwrap();
        db.close().await;
    });
}

/// A worker that reported a moment ago, of a program that has this subscription.
fn live_worker(sandbox: &Sandbox, id: &str, subscription: &str) {
    let database = format!("sqlite://{}", sandbox.path("termitary.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let db = Db::open(&database).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO termitary_workers (id, host, started_us, seen_us, running, concurrency, subscriptions)
             VALUES ($1, 'elsewhere', $2, $2, 0, 1, json_array($3))",
        )
        .bind(id)
        .bind(db.clock().now().as_microsecond())
        .bind(subscription)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        db.close().await;
    });
}

#[test]
fn a_subscription_that_no_program_has_any_more_is_dropped_when_that_is_meant() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    leave_behind(&sandbox, "users.old-name");
    sandbox.ok(&[
        "publish",
        "users.created",
        r#"{"id":"1","email":"a@b.example","name":"A"}"#,
    ]);
    assert_eq!(sandbox.count("users.old-name", "pending"), 1);
    let text = sandbox.fails(2, &["subscription", "drop", "users.old-nam"]);
    assert!(text.contains("there is users.old-name"), "{text}");
    let text = sandbox.fails(2, &["subscription", "drop", "users.send-welcome"]);
    assert!(text.contains("remove it from the code"), "{text}");
    let text = sandbox.fails(2, &["subscription", "drop", "users.old-name"]);
    assert!(
        text.contains("1 unfinished delivery") && text.contains("--yes"),
        "{text}"
    );
    live_worker(&sandbox, "0193-worker", "users.old-name");
    let drop = ["subscription", "drop", "users.old-name", "--yes", "--json"];
    let text = sandbox.fails(1, &drop);
    assert!(
        text.contains("0193-worker") && text.contains("--force"),
        "{text}"
    );
    assert_eq!(sandbox.count("users.old-name", "pending"), 1);
    let dropped = sandbox.json(&[&drop[..], &["--force"]].concat());
    assert_eq!(dropped["dropped"], "users.old-name");
    assert!(!sandbox.ok(&["status"]).contains("users.old-name"));
}

#[test]
fn what_cannot_be_read_is_listed_and_shown_as_far_as_it_can_be() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    for id in ["cut", "deep"] {
        let user = format!(r#"{{"id":"{id}","email":"a@example.com","name":"N"}}"#);
        sandbox.ok(&["publish", "users.created", &user]);
    }
    let set = "UPDATE termitary_events SET";
    spoil(
        &sandbox,
        format!(r#"{set} id = x'0102', data = '{{"id":"cut' WHERE data LIKE '%cut%'"#),
    );
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    spoil(
        &sandbox,
        format!("{set} data = '{deep}' WHERE data LIKE '%deep%'"),
    );
    let _worker = sandbox.start(&["worker"]).works();
    eventually("all are parked", || {
        sandbox.count("users.send-welcome", "parked") == 2
    });
    let list = sandbox.ok(&["dead", "list"]);
    let letters = list
        .lines()
        .filter(|line| line.contains("users.send-welcome"));
    let mut unreadable = 0;
    for letter in letters {
        let id = letter.split_whitespace().next().unwrap();
        let shown = sandbox.ok(&["dead", "show", id]);
        sandbox.ok(&["dead", "show", id, "--json"]);
        assert!(shown.contains("users.send-welcome is parked"), "{shown}");
        if letter.contains("unreadable") {
            unreadable += 1;
            assert!(shown.contains("column `id` of event row"), "{shown}");
            assert!(shown.contains(r#"{\"id\":\"cut"#), "{shown}");
        } else {
            assert!(shown.contains("[[[["), "{shown}");
        }
    }
    assert_eq!(unreadable, 1);
}

/// Writes behind the program's back.
fn spoil(sandbox: &Sandbox, sql: String) {
    let url = format!("sqlite://{}", sandbox.path("termitary.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use sqlx::Connection as _;
        let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let done = sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&mut conn)
            .await
            .unwrap();
        assert_eq!(done.rows_affected(), 1);
        conn.close().await.unwrap();
    });
}
