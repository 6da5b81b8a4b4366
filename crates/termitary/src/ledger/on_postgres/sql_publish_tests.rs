//! The function `publish` of the schema: a plain connection publishes as the library does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use crate::event::{MAX_DATA_BYTES, MAX_KEY_BYTES};
use crate::lock::Mutex;
use crate::payload;
use crate::prelude::*;
use crate::testing::{TestDb, TestWorker};

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    id: u32,
}

impl Event for OrderPlaced {
    const NAME: &'static str = "orders.placed";
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Numbered>>>);

/// A number, and the key of its event.
type Numbered = (u32, Option<String>);

async fn see(event: OrderPlaced, meta: Meta, State(seen): State<Seen>) -> HandlerResult {
    seen.0.lock().push((event.id, meta.key));
    Ok(())
}

/// A database with a worker, and a connection of a program without the library.
async fn stand() -> (TestDb, Seen, TestWorker, PgConnection) {
    let test = TestDb::postgres_with(crate::Clock::system()).await;
    let seen = Seen::default();
    let registry = Registry::new().on(subscribe("orders.see", see));
    let broker = Broker::sql(test.db().clone());
    let worker = TestWorker::start(broker, registry, seen.clone()).await;
    let plain = PgConnection::connect(&test.url()).await.unwrap();
    (test, seen, worker, plain)
}

async fn run(conn: &mut PgConnection, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(conn).await.unwrap();
}

/// Publishes with these arguments, as text of SQL.
async fn publish(conn: &mut PgConnection, arguments: &str) -> Result<Uuid, sqlx::Error> {
    let sql = format!("SELECT termitary.publish({arguments})");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await
}

async fn refused(conn: &mut PgConnection, arguments: &str) -> String {
    let error = publish(conn, arguments).await.unwrap_err();
    let error = error.into_database_error().unwrap();
    assert_eq!(error.code().as_deref(), Some("22023"), "{error}");
    error.message().to_owned()
}

#[tokio::test]
async fn an_event_published_with_sql_is_handled_if_its_transaction_commits_and_else_never() {
    let (_test, seen, worker, mut plain) = stand().await;
    run(
        &mut plain,
        "SET search_path TO pg_catalog;
         BEGIN; SELECT termitary.publish('orders.placed', '{\"id\":1}'); ROLLBACK;
         BEGIN; SELECT termitary.publish('orders.placed', '{\"id\":2}', key => '7', source => '/shop/php'); COMMIT",
    )
    .await;
    let id = publish(&mut plain, "'orders.placed', jsonb_build_object('id', 3)").await;
    assert_eq!(id.unwrap().get_version_num(), 7);
    worker.settle().await;
    let mut seen = seen.0.lock().clone();
    seen.sort_unstable();
    assert_eq!(seen, [(2, Some("7".to_owned())), (3, None)]);
    let sources = "SELECT source FROM termitary.termitary_events ORDER BY seq";
    let sources: Vec<String> = sqlx::query_scalar(sources)
        .fetch_all(&mut plain)
        .await
        .unwrap();
    assert_eq!(sources, ["/shop/php", "/termitary/sql"]);
}

#[tokio::test]
async fn the_id_of_an_event_published_with_sql_has_its_time_and_ids_rise() {
    let (_test, _seen, worker, mut plain) = stand().await;
    let first = publish(&mut plain, "'a', '1'").await.unwrap();
    let next = publish(&mut plain, "'a', '1'").await.unwrap();
    let times: Vec<i64> = sqlx::query_scalar(
        "SELECT time_us FROM termitary.termitary_events WHERE name = 'a' ORDER BY seq",
    )
    .fetch_all(&mut plain)
    .await
    .unwrap();
    let millis = |id: Uuid| i64::try_from(id.as_u128() >> 80).unwrap();
    assert_eq!(
        [first, next].map(millis),
        [times[0] / 1_000, times[1] / 1_000]
    );
    assert!(first < next);
    assert_eq!(first.get_variant(), uuid::Variant::RFC4122);
    worker.settle().await;
}

#[tokio::test]
async fn a_duplicate_id_returns_the_earlier_event_of_its_source_and_name() {
    let (_test, seen, worker, mut plain) = stand().await;
    let one = "'orders.placed', '{\"id\":1}', id => 'order-1'";
    let first = publish(&mut plain, one).await.unwrap();
    assert_eq!(publish(&mut plain, one).await.unwrap(), first);
    let elsewhere = format!("{one}, source => '/termitary/other'");
    assert_ne!(publish(&mut plain, &elsewhere).await.unwrap(), first);
    let other = "'orders.paid', '{\"id\":1}', id => 'order-1'";
    assert_ne!(publish(&mut plain, other).await.unwrap(), first);
    worker.settle().await;
    assert_eq!(seen.0.lock().len(), 2);
}

#[tokio::test]
async fn an_id_is_shared_with_the_library_if_the_source_is() {
    let (test, _seen, worker, mut plain) = stand().await;
    let bus = Broker::sql(test.db().clone());
    let first = bus.bus().publish(OrderPlaced { id: 1 }.id("once")).await;
    let again = "'orders.placed', '{\"id\":1}', id => 'once', source => '/termitary/app'";
    let again = publish(&mut plain, again).await.unwrap();
    assert_eq!(again, first.unwrap().id);
    worker.settle().await;
}

#[tokio::test]
async fn a_delayed_event_of_sql_is_pending_until_it_is_due() {
    let (_test, seen, mut worker, mut plain) = stand().await;
    worker.allow_leftovers();
    let tomorrow = "'orders.placed', '{\"id\":1}', due => now() + interval '1 day'";
    publish(&mut plain, tomorrow).await.unwrap();
    let past = "'orders.placed', '{\"id\":2}', due => now() - interval '1 day'";
    publish(&mut plain, past).await.unwrap();
    worker.settle().await;
    let handled: Vec<_> = seen.0.lock().iter().map(|it| it.0).collect();
    assert_eq!(handled, [2]);
    let in_hours: i64 = sqlx::query_scalar(
        "SELECT (d.due_us - e.time_us) / 3600000000 FROM termitary.termitary_deliveries d
         JOIN termitary.termitary_events e ON e.seq = d.event WHERE d.state = 0",
    )
    .fetch_one(&mut plain)
    .await
    .unwrap();
    assert!((23..=24).contains(&in_hours), "{in_hours}");
}

#[tokio::test]
async fn a_trigger_publishes_for_a_role_that_has_no_rights_on_the_tables() {
    let (_test, seen, worker, mut plain) = stand().await;
    let role = format!("shop_{}", Uuid::now_v7().simple());
    run(
        &mut plain,
        &format!(
            "CREATE ROLE {role};
             CREATE TABLE orders (id integer);
             GRANT INSERT ON orders TO {role};
             CREATE FUNCTION placed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM termitary.publish('orders.placed', to_jsonb(NEW), key => NEW.id::text);
                 RETURN NULL; END $$;
             CREATE TRIGGER placed AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION placed();
             GRANT USAGE ON SCHEMA termitary TO {role};
             SET ROLE {role}"
        ),
    )
    .await;
    let insert = "INSERT INTO orders VALUES (1), (2)";
    let denied = sqlx::query(insert).execute(&mut plain).await.unwrap_err();
    assert!(
        denied
            .to_string()
            .contains("permission denied for function publish")
    );
    run(
        &mut plain,
        &format!(
            "RESET ROLE; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA termitary TO {role}; SET ROLE {role}"
        ),
    )
    .await;
    // A table of the role in the way is not taken for the ledger's.
    run(
        &mut plain,
        "CREATE TEMP TABLE termitary_routes (event text, subscription bigint)",
    )
    .await;
    sqlx::query(insert).execute(&mut plain).await.unwrap();
    let read = sqlx::query("SELECT 1 FROM termitary.termitary_events");
    assert!(read.execute(&mut plain).await.is_err());
    worker.settle().await;
    let mut keys: Vec<_> = seen.0.lock().iter().map(|it| it.1.clone()).collect();
    keys.sort_unstable();
    assert_eq!(keys, [Some("1".to_owned()), Some("2".to_owned())]);
    run(
        &mut plain,
        &format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn sql_refuses_every_value_that_the_library_refuses_and_names_it() {
    let (_test, _seen, worker, mut plain) = stand().await;
    let long = format!("repeat('a', {})", MAX_DATA_BYTES - 1);
    let key = format!("'a', '1', key => repeat('k', {})", MAX_KEY_BYTES + 1);
    for (arguments, message) in [
        (
            "'Orders.placed', '1'",
            "`Orders.placed` cannot be an event name: use lower-case words joined by dots, such as todos.created",
        ),
        ("NULL, '1'", "`NULL` cannot be an event name: use"),
        ("E'a\\n', '1'", "`a\n` cannot be an event name"),
        ("repeat('a', 101), '1'", "cannot be an event name"),
        ("'a', NULL::text", "the payload of a is NULL: publish JSON"),
        ("'a', NULL::jsonb", "the payload of a is NULL: publish JSON"),
        (
            "'a', '{'",
            "the payload of a is not JSON: publish a text such as",
        ),
        (
            "'a', repeat('[', 128) || repeat(']', 128)",
            "the payload of a is nested deeper than the 127 levels that can be read",
        ),
        ("'a', repeat('[', 200000)", "the payload of a is n"),
        (
            "'a', '[1e309]'",
            "the payload of a has a number that is too large to be read",
        ),
        (
            &format!("'a', '\"' || {long} || '\"'"),
            "the payload of a has 262145 bytes, more than the 262144 allowed: put",
        ),
        (
            &key,
            "the key of a has 1025 bytes, more than the 1024 allowed: use an id",
        ),
        (
            "'a', '1', id => ''",
            "the idempotency id of a has 0 bytes: use 1 to 128",
        ),
        (
            "'a', '1', id => repeat('i', 129)",
            "the idempotency id of a has 129 bytes: use 1 to 128",
        ),
        (
            "'a', '1', due => 'infinity'",
            "a cannot be due at infinity: use a time of",
        ),
        (
            "'a', '1', source => 'a b'",
            "`a b` cannot be the source of a: use a path",
        ),
        (
            "'a', '1', source => NULL",
            "`NULL` cannot be the source of a: use a path",
        ),
        (
            "'a', '1', version => 0",
            "0 cannot be the version of a: use 1 or more",
        ),
    ] {
        let said = refused(&mut plain, arguments).await;
        assert!(said.contains(message), "{arguments}: {said}");
    }
    // PostgreSQL itself refuses a zero byte in any text.
    let zero = sqlx::query("SELECT termitary.publish('a', '1', key => $1)").bind("a\0");
    assert!(zero.execute(&mut plain).await.is_err());
    let events: i64 = sqlx::query_scalar("SELECT count(*) FROM termitary.termitary_events")
        .fetch_one(&mut plain)
        .await
        .unwrap();
    assert_eq!(events, 0);
    worker.settle().await;
}

#[tokio::test]
async fn sql_and_the_library_take_the_same_texts_for_json() {
    let (_test, _seen, _worker, mut plain) = stand().await;
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let texts = [
        "null",
        "7",
        " { \"a\" : [ 1e9, -0, 1E+2 ] }\n",
        "\"a\"",
        "",
        " ",
        "tea",
        "{'a':1}",
        "[1,]",
        "[01]",
        "[1.]",
        "{\"a\":1,\"a\":2}",
        "\"\\u0000\"",
        "\"\\\\u0000\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud800\"",
        "\"\\ude00\\ud83d\"",
        "\"\\\\ud800\"",
        "\"\u{1}\"",
        "\"\\x41\"",
        "1e308",
        "1e309",
        "-1e309",
        "[{\"n\":1e999}]",
        "\"1e999\"",
        "1e-999",
        "NaN",
        "1 2",
        "\u{feff}1",
        "[\"[[\", {}]",
    ];
    let large = [
        nested(127),
        nested(128),
        nested(100_000),
        format!("[{}]", vec!["[]"; 500].join(",")),
        "9".repeat(308),
        "9".repeat(309),
        format!("\"{}\"", "[".repeat(200)),
    ];
    for text in texts.into_iter().map(str::to_owned).chain(large) {
        let published = sqlx::query("SELECT termitary.publish('a', $1)").bind(&text);
        let taken = published.execute(&mut plain).await.is_ok();
        let in_library = payload::of_text("a", text.clone()).is_ok();
        let start: String = text.chars().take(40).collect();
        assert_eq!(taken, in_library, "{start}");
        if taken {
            let stored: String = sqlx::query_scalar(
                "SELECT data FROM termitary.termitary_events ORDER BY seq DESC LIMIT 1",
            )
            .fetch_one(&mut plain)
            .await
            .unwrap();
            assert_eq!(stored, text);
            assert!(serde_json::from_str::<Value>(&stored).is_ok(), "{start}");
        }
    }
}

#[tokio::test]
async fn a_backslash_means_the_same_whatever_the_session_says() {
    let (_test, _seen, _worker, mut plain) = stand().await;
    run(&mut plain, "SET standard_conforming_strings = off").await;
    let zero = sqlx::query("SELECT termitary.publish('a', $1)").bind(r#""\u0000""#);
    zero.execute(&mut plain).await.unwrap();
}
