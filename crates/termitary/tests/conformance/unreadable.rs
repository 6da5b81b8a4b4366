//! Rows that no program of ours wrote. Each is spoiled by a connection of its own, as a
//! repair by hand would.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use termitary::inspect::{LetterFilter, LetterState};
use termitary::prelude::*;
use termitary::testing::TestWorker;
use tokio::sync::Notify;

use crate::process::Process;
use crate::stand::Stand;
use crate::{Ping, Seen, eventually};

async fn note(event: Ping, State(seen): State<Seen>) -> HandlerResult {
    seen.add(event.n);
    Ok(())
}

/// A column of an event's row, and the value that is put there.
const EVENTS: &[(&str, &str)] = &[
    ("id", "x'0102'"),
    ("id", "x''"),
    ("name", "CAST(x'70ff' AS TEXT)"),
    ("version", "4294967296"),
    ("version", "-1"),
    ("source", "CAST(x'ff' AS TEXT)"),
    ("key", "CAST(x'ff' AS TEXT)"),
    ("traceparent", "CAST(x'c3' AS TEXT)"),
    ("cause", "x'01'"),
    ("data", "'{'"),
    ("data", "''"),
    ("data", "CAST(x'22ff22' AS TEXT)"),
];
/// The same on PostgreSQL, which keeps types and UTF-8.
const POSTGRES_EVENTS: &[(&str, &str)] = &[
    ("version", "4294967296"),
    ("version", "-1"),
    ("data", "'{'"),
    ("data", "''"),
];
/// The same of its delivery.
const DELIVERIES: &[(&str, &str)] = &[
    ("attempts", "-1"),
    ("attempts", "4294967296"),
    ("fence", "9223372036854775807"),
    ("fence", "-1"),
];
/// Values that are strange and can be read: these deliveries run.
const READABLE: &[(&str, &str, &str)] = &[
    ("events", "time_us", "9223372036854775807"),
    ("events", "time_us", "-9223372036854775808"),
    ("deliveries", "due_us", "-9223372036854775808"),
    ("deliveries", "error", "CAST(x'ff' AS TEXT)"),
    ("deliveries", "reason", "CAST(x'ff' AS TEXT)"),
    ("deliveries", "settled_us", "-9223372036854775808"),
    ("deliveries", "crashes", "-9223372036854775808"),
];

const SECRET: &str = "secret-key";

struct Spoiler(Theirs);

enum Theirs {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Spoiler {
    async fn of(stand: &Stand) -> Self {
        let url = stand.url();
        Self(if stand.db().path().is_some() {
            Theirs::Sqlite(SqliteConnection::connect(&url).await.unwrap())
        } else {
            let mut conn = PgConnection::connect(&url).await.unwrap();
            let path = "SET search_path TO termitary";
            sqlx::raw_sql(path).execute(&mut conn).await.unwrap();
            Theirs::Postgres(conn)
        })
    }

    /// The ways to spoil an event that this database lets happen.
    fn events(&self) -> &'static [(&'static str, &'static str)] {
        match &self.0 {
            Theirs::Sqlite(_) => EVENTS,
            Theirs::Postgres(_) => POSTGRES_EVENTS,
        }
    }

    /// Returns whether the value needs no column of another type.
    fn takes(&self, value: &str) -> bool {
        matches!(self.0, Theirs::Sqlite(_)) || !value.starts_with("CAST(x")
    }

    /// The value in place of bytes that are no text, where there cannot be any.
    fn possible(&self, sql: &str) -> String {
        match &self.0 {
            Theirs::Sqlite(_) => sql.to_owned(),
            Theirs::Postgres(_) => {
                let sql = sql.split("CAST(x'").enumerate().map(|(n, part)| match n {
                    0 => part.to_owned(),
                    _ => part
                        .replacen("' AS TEXT)", "'", 1)
                        .replacen("", "'strange ", 1),
                });
                sql.collect::<String>().replace(" 7, 0)", " true, 0)")
            }
        }
    }

    async fn run(&mut self, sql: String) {
        let sql = self.possible(&sql);
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.clone()));
        let changed = match &mut self.0 {
            Theirs::Sqlite(conn) => statement.execute(conn).await.unwrap().rows_affected(),
            Theirs::Postgres(conn) => statement.execute(conn).await.unwrap().rows_affected(),
        };
        assert!(changed > 0, "{sql}");
    }

    /// Sets a column of the event's row or of its delivery's.
    async fn set(&mut self, table: &str, (column, value): (&str, &str), seq: i64) {
        let key = if table == "events" { "seq" } else { "event" };
        let sql = format!("UPDATE termitary_{table} SET {column} = {value} WHERE {key} = {seq}");
        self.run(sql).await;
    }

    async fn last(&mut self) -> i64 {
        let last = "SELECT MAX(seq) FROM termitary_events";
        match &mut self.0 {
            Theirs::Sqlite(conn) => sqlx::query_scalar(last).fetch_one(conn).await.unwrap(),
            Theirs::Postgres(conn) => sqlx::query_scalar(last).fetch_one(conn).await.unwrap(),
        }
    }
}

/// Publishes one event for each way to spoil a row, and spoils it; between them events
/// that stay whole. Returns how many cannot be read, and the numbers of all others.
async fn publish_and_spoil(stand: &Stand, spoiler: &mut Spoiler) -> (usize, Vec<u32>) {
    let spoilt = spoiler.events().iter().map(|way| ("events", *way));
    let spoilt = spoilt.chain(DELIVERIES.iter().map(|way| ("deliveries", *way)));
    let (mut unreadable, mut others) = (0, Vec::new());
    for (n, (table, way)) in (1..).zip(spoilt) {
        stand.commit(Ping { n: 1_000 + n }.keyed(SECRET)).await;
        let seq = spoiler.last().await;
        spoiler.set(table, way, seq).await;
        stand.commit(Ping { n }).await;
        unreadable += 1;
        others.push(n);
    }
    for (n, (table, column, value)) in (2_000..).zip(READABLE) {
        if !spoiler.takes(value) {
            continue;
        }
        stand.commit(Ping { n }).await;
        let seq = spoiler.last().await;
        spoiler.set(table, (column, value), seq).await;
        others.push(n);
    }
    (unreadable, others)
}

fn numbers(seen: &Seen) -> Vec<u32> {
    let mut all: Vec<u32> = seen.all().iter().map(|n| n.parse().unwrap()).collect();
    all.sort_unstable();
    all
}

fn registry() -> Registry<Seen> {
    Registry::new().on(subscribe("a", note))
}

/// All that cannot be read is parked, and shown.
async fn check_letters(broker: &Broker, spoiler: &Spoiler, unreadable: usize) {
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 100)
        .await
        .unwrap();
    assert_eq!(letters.len(), unreadable);
    for letter in &letters {
        assert_eq!(
            (letter.state, &*letter.reason),
            (LetterState::Parked, "unreadable")
        );
        assert!(letter.error.starts_with("column `"), "{}", letter.error);
        assert!(!letter.error.contains(SECRET), "{}", letter.error);
        let same = broker.inspect().letters_of(letter.event.id).await.unwrap();
        assert_eq!(same.len(), 1, "{}", letter.error);
        assert_eq!(same[0].error, letter.error);
    }
    let named = |column: &str| {
        let start = format!("column `{column}");
        letters
            .iter()
            .filter(|letter| letter.error.starts_with(&start))
            .count()
    };
    for (column, _) in spoiler.events().iter().chain(DELIVERIES) {
        assert!(named(column) > 0, "{column}");
    }
}

pub(crate) async fn a_row_that_cannot_be_read_is_parked_alone(stand: Stand) {
    let (seen, broker) = (Seen::default(), stand.broker());
    broker.register(&registry()).await.unwrap();
    let mut spoiler = Spoiler::of(&stand).await;
    let (unreadable, others) = publish_and_spoil(&stand, &mut spoiler).await;
    let mut worker = TestWorker::start(broker.clone(), registry(), seen.clone()).await;
    worker.allow_leftovers();
    worker.settle().await;
    assert_eq!(numbers(&seen), others);
    check_letters(&broker, &spoiler, unreadable).await;

    // Repaired by hand, one runs again; the others can be dropped.
    let inspect = broker.inspect();
    let all = inspect
        .letters(&LetterFilter::default(), 100)
        .await
        .unwrap();
    let cut = all
        .iter()
        .find(|letter| letter.event.data.get() == "\"{\"")
        .unwrap();
    spoiler
        .run("UPDATE termitary_events SET data = '{\"n\":7777}' WHERE data = '{'".to_owned())
        .await;
    let filter = LetterFilter {
        event: Some(cut.event.id),
        ..LetterFilter::default()
    };
    assert_eq!(inspect.replay(&filter, "test").await.unwrap(), 1);
    worker.settle().await;
    assert!(numbers(&seen).contains(&7777));
    let rest = unreadable as u64 - 1;
    let dropped = inspect.drop_letters(&LetterFilter::default(), "test").await;
    assert_eq!(dropped.unwrap(), rest);
}

async fn hang(event: Ping, State((seen, gate)): State<(Seen, Arc<Notify>)>) -> HandlerResult {
    seen.add(event.n);
    gate.notified().await;
    Ok(())
}

pub(crate) async fn a_row_spoilt_while_its_worker_dies_is_parked_alone(stand: Stand) {
    let broker = stand.broker();
    let hanging = Registry::new().on(subscribe("a", hang).concurrency(64));
    broker.register(&hanging).await.unwrap();
    let mut spoiler = Spoiler::of(&stand).await;
    let ways: Vec<_> = spoiler
        .events()
        .iter()
        .map(|way| ("events", *way))
        .collect();
    let on_delivery = [
        ("entry", "CAST(x'ff7cff' AS TEXT)"),
        ("worker", "CAST(x'ff' AS TEXT)"),
    ];
    let more = DELIVERIES.iter().chain(&on_delivery);
    let more = more.filter(|(_, value)| spoiler.takes(value));
    let ways: Vec<_> = ways
        .into_iter()
        .chain(more.map(|way| ("deliveries", *way)))
        .collect();
    let all = ways.len() as u32 * 2;
    let mut seqs = Vec::new();
    for n in 0..all {
        stand.commit(Ping { n }).await;
        seqs.push(spoiler.last().await);
    }
    let state = (Seen::default(), Arc::new(Notify::new()));
    let process = Process::start(&stand, hanging, state.clone(), secs(0));
    eventually("all run", async || state.0.len() == all as usize).await;
    eventually("the ledger knows where they are", async || {
        stand.is_quiet().await
    })
    .await;
    process.kill();
    for ((table, way), seq) in ways.iter().zip(&seqs) {
        spoiler.set(table, *way, *seq).await;
    }
    stand.lapse().await;
    stand.outwait();
    let seen = Seen::default();
    let mut worker = TestWorker::start(broker.clone(), registry(), seen.clone()).await;
    worker.allow_leftovers();
    let rest = || {
        numbers(&seen)
            .into_iter()
            .filter(|n| *n >= ways.len() as u32)
            .count()
    };
    eventually("all that is whole has run", async || rest() == ways.len()).await;
    worker.settle().await;
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 100)
        .await
        .unwrap();
    assert!(
        letters.iter().all(|letter| letter.reason == "unreadable"),
        "{letters:?}"
    );
    // Entries contain the earlier values of the ledger's row, so those deliveries can run.
    let ran = numbers(&seen);
    let every: Vec<_> = (0..ways.len() as u32)
        .filter(|n| !ran.contains(n))
        .collect();
    assert_eq!(letters.len(), every.len());
    assert!(!letters.is_empty());
}

pub(crate) async fn a_suspect_that_cannot_be_read_is_parked_and_the_others_run(stand: Stand) {
    let (seen, broker) = (Seen::default(), stand.broker());
    broker.register(&registry()).await.unwrap();
    let mut spoiler = Spoiler::of(&stand).await;
    for (n, way) in (1..).zip(spoiler.events()) {
        stand.commit(Ping { n }).await;
        let seq = spoiler.last().await;
        spoiler.set("events", *way, seq).await;
    }
    stand.commit(Ping { n: 99 }).await;
    spoiler
        .run("UPDATE termitary_deliveries SET state = -1, crashes = 2".to_owned())
        .await;
    let mut worker = TestWorker::start(broker.clone(), registry(), seen.clone()).await;
    worker.allow_leftovers();
    worker.settle().await;
    assert_eq!(numbers(&seen), [99]);
    let letters = broker
        .inspect()
        .letters(&LetterFilter::default(), 100)
        .await
        .unwrap();
    assert_eq!(letters.len(), spoiler.events().len());
}

pub(crate) async fn a_lease_without_an_end_is_taken_back(stand: Stand) {
    let (seen, broker) = (Seen::default(), stand.broker());
    broker.register(&registry()).await.unwrap();
    let mut spoiler = Spoiler::of(&stand).await;
    stand.commit(Ping { n: 1 }).await;
    spoiler
        .run(
            "UPDATE termitary_deliveries
             SET state = 1, worker = 'gone', fence = fence + 1, lease_us = NULL, entry = NULL"
                .to_owned(),
        )
        .await;
    stand.lapse().await;
    stand.outwait();
    let mut worker = TestWorker::start(broker, registry(), seen.clone()).await;
    worker.allow_leftovers();
    eventually("it runs", async || numbers(&seen) == [1]).await;
    worker.settle().await;
}

pub(crate) async fn a_delivery_in_an_unknown_state_is_no_letter(stand: Stand) {
    let broker = stand.broker();
    broker.register(&registry()).await.unwrap();
    let mut spoiler = Spoiler::of(&stand).await;
    for (n, state) in [(1, 4), (2, 77), (3, 3)] {
        stand.commit(Ping { n }).await;
        let seq = spoiler.last().await;
        let column = format!("{state}, reason = 'spoilt', worker = NULL, lease_us = NULL");
        spoiler.set("deliveries", ("state", &column), seq).await;
    }
    let (inspect, every) = (broker.inspect(), LetterFilter::default());
    let letters = inspect.letters(&every, 100).await.unwrap();
    let states: Vec<_> = letters.iter().map(|letter| letter.state).collect();
    assert_eq!(states, [LetterState::Parked, LetterState::Dead]);
    assert_eq!(inspect.drop_letters(&every, "test").await.unwrap(), 2);
}

pub(crate) async fn rows_beside_events_that_cannot_be_read_keep_nobody_waiting(stand: Stand) {
    let (seen, broker) = (Seen::default(), stand.broker());
    let mut spoiler = Spoiler::of(&stand).await;
    for sql in [
        "INSERT INTO termitary_subscriptions (id, name, event, version, since_us, seen_us)
         VALUES (1000, CAST(x'ff' AS TEXT), CAST(x'fe' AS TEXT), -1, -9223372036854775808, 0)",
        "INSERT INTO termitary_routes (event, subscription)
         SELECT CAST(x'fd' AS TEXT), id FROM termitary_subscriptions WHERE version = -1",
        "INSERT INTO termitary_schedules (name, event, cron, timezone, last_us, fired_us, paused, seen_us)
         VALUES (CAST(x'ff' AS TEXT), CAST(x'ff' AS TEXT), CAST(x'ff' AS TEXT), CAST(x'ff' AS TEXT),
                 9223372036854775807, -9223372036854775808, 7, 0)",
        "INSERT INTO termitary_workers (id, host, started_us, seen_us, running, concurrency, subscriptions)
         VALUES (CAST(x'ff' AS TEXT), CAST(x'ff' AS TEXT), 9223372036854775807, 1768478400000000, -1, -1, '{')",
    ] {
        spoiler.run(sql.to_owned()).await;
    }
    let worker = TestWorker::start(broker.clone(), registry(), seen.clone()).await;
    let mut tail = broker.inspect().tail().await.unwrap();
    let mut spoilt = stand.db().begin().await.unwrap();
    spoilt.publish_json("nobody.listens", "{}").await.unwrap();
    spoilt.commit().await.unwrap();
    let seq = spoiler.last().await;
    spoiler.set("events", ("data", "'{'"), seq).await;
    let whole = stand.commit(Ping { n: 1 }).await;
    assert_eq!(tail.next().await.unwrap().id, whole.id);
    worker.settle().await;
    assert_eq!(numbers(&seen), [1]);
    let status = broker.inspect().status().await.unwrap();
    assert_eq!(status.subscriptions.len(), 2);
    assert_eq!(status.schedules.len(), 1);
    assert_eq!(status.workers.len(), 2);

    let mut listener = broker.broadcasts().subscribe();
    spoiler
        .run("INSERT INTO termitary_broadcasts (time_us, name, data) VALUES (9223372036854775807, 'a', CAST(x'ff' AS TEXT))".to_owned())
        .await;
    eventually("a broadcast is heard", async || {
        broker.bus().broadcast(Ping { n: 1 }).await.unwrap();
        let next = tokio::time::timeout(secs(1), listener.recv()).await;
        next.is_ok_and(|message| message.unwrap().name == "ping.sent")
    })
    .await;
}
