//! The feed and the live stream.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::{Value, json};
use termitary::clock::days;
use termitary::db::Dialect;
use tower::ServiceExt;

use crate::support::{PASSWORD, Person, TestApp};

const ACTIVITY: &str = "/api/v1/activity";

async fn feed(app: &TestApp, who: &Person) -> Vec<Value> {
    app.settle().await;
    let answer = app.get(ACTIVITY, who).await;
    answer.assert_status(200);
    answer.json()["items"].as_array().unwrap().clone()
}

fn names(feed: &[Value]) -> Vec<&str> {
    feed.iter()
        .map(|entry| entry["event"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn the_feed_tells_what_happened_the_newest_first() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.settle().await;
    let todo = app.todo(&ada, json!({ "title": "Write" })).await;
    app.settle().await;
    let path = format!("/api/v1/todos/{}", todo["id"].as_str().unwrap());
    app.patch(&path, &ada, json!({ "status": "done" }))
        .await
        .assert_status(200);
    app.settle().await;
    app.delete(&path, &ada).await.assert_status(204);

    let feed = feed(&app, &ada).await;
    assert_eq!(
        names(&feed),
        [
            "todos.deleted",
            "todos.updated",
            "todos.created",
            "users.created"
        ]
    );
    let updated = &feed[1];
    assert_eq!(updated["subject"], todo["id"]);
    assert_eq!(updated["actor"], ada.id);
    assert_eq!(updated["at"], "2026-01-15T12:00:00Z");
    assert_eq!(updated["changes"], json!({ "status": "done" }));
    assert_eq!(updated["title"], "Write");
}

#[tokio::test]
async fn the_feed_shows_only_what_the_caller_may_see() {
    let app = TestApp::start().await;
    let (ada, bob, eve) = (
        app.register("Ada").await,
        app.register("Bob").await,
        app.register("Eve").await,
    );
    app.settle().await;
    app.todo(&ada, json!({ "title": "Write", "assignee": bob.id }))
        .await;
    assert_eq!(
        names(&feed(&app, &bob).await),
        ["todos.created", "users.created"]
    );
    assert_eq!(feed(&app, &bob).await[0]["actor"], ada.id);
    assert_eq!(names(&feed(&app, &eve).await), ["users.created"]);
    let root = app.admin().await;
    assert_eq!(feed(&app, &root).await.len(), 6);
}

#[tokio::test]
async fn the_feed_is_paged() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for n in 0..4 {
        app.todo(&ada, json!({ "title": format!("t{n}") })).await;
        app.settle().await;
    }
    let whole = feed(&app, &ada).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = app
            .get(&format!("{ACTIVITY}?limit=2{cursor}"), &ada)
            .await
            .json();
        seen.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["nextCursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, whole);
}

#[tokio::test]
async fn an_event_of_another_service_is_shown_without_an_actor() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    app.app
        .bus()
        .publish_json("todos.created", r#"{"id":"42","title":"from elsewhere"}"#)
        .await
        .unwrap();
    let feed = feed(&app, &root).await;
    let entry = feed.iter().find(|entry| entry["subject"] == "42").unwrap();
    assert_eq!(
        (&entry["actor"], &entry["title"]),
        (&Value::Null, &json!("from elsewhere"))
    );
}

/// A live stream, read piece by piece.
struct Live(BodyDataStream);

impl Live {
    async fn open(app: &TestApp, who: &Person) -> Self {
        let mut live = Self::at(app, "/api/v1/stream", Some(who), None).await;
        let greeting = live.next().await.unwrap();
        assert!(greeting.starts_with(": listening\nid: "), "{greeting}");
        live
    }

    /// Goes on after the event with this id.
    async fn resume(app: &TestApp, who: &Person, last: &str) -> Self {
        Self::at(app, "/api/v1/stream", Some(who), Some(last)).await
    }

    async fn at(app: &TestApp, path: &str, who: Option<&Person>, last: Option<&str>) -> Self {
        let mut request = Request::get(path);
        if let Some(who) = who {
            request = request.header("authorization", format!("Bearer {}", who.token));
        }
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = app.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(response.into_body().into_data_stream())
    }

    /// Reads on until something of this name comes.
    async fn until(&mut self, event: &str) -> String {
        loop {
            let piece = self.next().await.expect("the stream goes on");
            if piece.starts_with(&format!("event: {event}\n")) {
                return piece;
            }
        }
    }

    /// Reads on until the stream has ended.
    async fn ends(&mut self) {
        while self.next().await.is_some() {}
    }

    /// The next piece; none when the stream has ended.
    async fn next(&mut self) -> Option<String> {
        let piece = tokio::time::timeout(Duration::from_secs(10), self.0.next())
            .await
            .expect("the stream says nothing");
        piece.map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap())
    }
}

#[tokio::test]
async fn a_live_stream_tells_the_changes_that_its_caller_may_see() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    app.settle().await;
    let mut live = Live::open(&app, &bob).await;
    app.todo(&ada, json!({ "title": "Ada's own" })).await;
    app.settle().await;
    app.todo(&ada, json!({ "title": "for Bob", "assignee": bob.id }))
        .await;
    app.settle().await;
    loop {
        let piece = live.next().await.unwrap();
        assert!(!piece.contains("Ada's own"), "{piece}");
        if piece.starts_with("event: todos.created\n") {
            assert!(
                piece.contains("for Bob") && piece.contains("\nid: "),
                "{piece}"
            );
            break;
        }
    }
}

#[tokio::test]
async fn whatever_somebody_writes_among_the_broadcasts_ends_no_live_stream() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.settle().await;
    let mut live = Live::open(&app, &ada).await;
    let entry = |event: &str, id: &str| {
        let entry = json!({ "event": event, "id": id, "title": "forged" });
        json!({ "entry": entry, "viewers": [ada.id] }).to_string()
    };
    let good = "activity.recorded";
    for (name, data) in [
        ("activity.recorded\n", entry("todos.created", "1")),
        ("\u{1}", "{}".to_owned()),
        (good, entry("todos\ncreated", "1")),
        (good, entry("todos\rcreated", "1")),
        (good, entry("todos.created", "1\n2")),
        (good, entry("todos.created", "1\u{0}2")),
        (good, entry("todos.created", "1\r")),
        (good, "{".to_owned()),
        (good, "[]".to_owned()),
        (
            good,
            json!({ "entry": "x", "viewers": [ada.id] }).to_string(),
        ),
        (good, "{\"entry\":".repeat(10_000)),
    ] {
        let mut tx = app.db().begin().await.unwrap();
        sqlx::query("INSERT INTO termitary_broadcasts (time_us, name, data) VALUES ($1, $2, $3)")
            .bind(app.db().clock().now().as_microsecond())
            .bind(name)
            .bind(data)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    app.todo(&ada, json!({ "title": "Goes on" })).await;
    app.settle().await;
    loop {
        let piece = live.next().await.unwrap();
        assert!(!piece.contains("forged"), "{piece}");
        if piece.contains("Goes on") {
            break;
        }
    }
}

#[tokio::test]
async fn a_live_stream_ends_at_once_where_its_own_process_ended_the_session() {
    let app = TestApp::start_with(|settings| settings.stream_check = days(1)).await;
    let (ada, root) = (app.register("Ada").await, app.admin().await);
    let user = format!("/api/v1/users/{}", ada.id);
    let mut token = ada.token.clone();
    for ends in ["logout", "others", "one", "password", "admin", "deleted"] {
        let me = Person {
            token,
            ..ada.clone()
        };
        let mut live = Live::open(&app, &me).await;
        match ends {
            "logout" => app.post("/api/v1/auth/logout", &me, json!({})).await,
            "others" => {
                let other = app.login(&ada.email).await.text_at("/token");
                let other = Person {
                    token: other,
                    ..ada.clone()
                };
                app.delete("/api/v1/auth/sessions", &other).await
            }
            "one" => {
                let all = app.get("/api/v1/auth/sessions", &me).await.json();
                let mut all = all["items"].as_array().unwrap().iter();
                let mine = all.find(|it| it["current"] == true).unwrap()["id"].clone();
                let path = format!("/api/v1/auth/sessions/{}", mine.as_str().unwrap());
                app.delete(&path, &me).await
            }
            "password" => {
                let body = json!({ "currentPassword": PASSWORD, "newPassword": PASSWORD });
                app.post("/api/v1/auth/password", &me, body).await
            }
            "admin" => app.delete(&format!("{user}/sessions"), &root).await,
            _ => app.delete_user(&ada.id, &root).await,
        };
        live.ends().await;
        if ends == "deleted" {
            break;
        }
        token = app.login(&ada.email).await.text_at("/token");
    }
    app.settle().await;
}

#[tokio::test]
async fn a_live_stream_ends_with_its_session() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let mut live = Live::open(&app, &ada).await;
    app.call(
        axum::http::Method::POST,
        "/api/v1/auth/logout",
        Some(&ada.token),
        None,
    )
    .await
    .assert_status(204);
    live.ends().await;
    app.settle().await;
}

#[tokio::test]
async fn live_streams_end_when_the_process_stops() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let mut live = Live::open(&app, &ada).await;
    app.shutdown.cancel();
    live.ends().await;
    app.settle().await;
}

#[tokio::test]
async fn one_user_cannot_take_every_live_stream() {
    let app = TestApp::start_with(|settings| settings.streams_per_user = 2).await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let first = Live::open(&app, &ada).await;
    let _second = Live::open(&app, &ada).await;
    app.get("/api/v1/stream", &ada).await.assert_problem(429);
    app.get("/api/v1/stream", &bob).await.assert_status(200);
    drop(first);
    app.get("/api/v1/stream", &ada).await.assert_status(200);
    app.settle().await;
}

#[tokio::test]
async fn a_former_assignee_sees_that_it_was_handed_on_and_nothing_else_of_the_same_change() {
    let app = TestApp::start().await;
    let (ada, bob, cleo) = (
        app.register("Ada").await,
        app.register("Bob").await,
        app.register("Cleo").await,
    );
    let todo = app
        .todo(&ada, json!({ "title": "Write", "assignee": bob.id }))
        .await;
    // The feed lists events in the order in which they were handled.
    app.settle().await;
    let path = format!("/api/v1/todos/{}", todo["id"].as_str().unwrap());
    let body = json!({ "title": "Fire Bob", "description": "for good", "assignee": cleo.id });
    app.patch(&path, &ada, body).await.assert_status(200);

    let seen = feed(&app, &bob).await;
    let text = json!(seen).to_string();
    assert!(
        !text.contains("Fire") && !text.contains("for good"),
        "{text}"
    );
    assert_eq!(seen[0]["event"], "todos.updated");
    assert_eq!(seen[0]["changes"], json!({ "assignee": cleo.id }));
    assert_eq!(seen[0]["title"], "Write");
    for who in [&ada, &cleo] {
        let seen = feed(&app, who).await;
        let changes: Vec<_> = seen.iter().map(|entry| &entry["changes"]).collect();
        assert!(
            changes.contains(&&json!({ "title": "Fire Bob", "description": "for good" }))
                && changes.contains(&&json!({ "assignee": cleo.id })),
            "{changes:?}"
        );
    }
    // With nothing else in it, the change is one event as ever.
    app.patch(&path, &ada, json!({ "assignee": null }))
        .await
        .assert_status(200);
    assert_eq!(app.events("todos.updated").await.len(), 3);
    app.settle().await;
}
fn id_of(piece: &str) -> String {
    let line = piece.lines().find_map(|line| line.strip_prefix("id: "));
    line.unwrap_or_else(|| panic!("no id in {piece}"))
        .to_owned()
}

#[tokio::test]
async fn what_was_missed_since_the_last_event_comes_first_once_and_in_order() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    app.settle().await;
    let mut live = Live::open(&app, &ada).await;
    app.todo(&ada, json!({ "title": "one" })).await;
    app.settle().await;
    let last = id_of(&live.until("todos.created").await);
    drop(live);
    for title in ["two", "three"] {
        app.todo(&ada, json!({ "title": title })).await;
        app.todo(&bob, json!({ "title": "Bob's own" })).await;
        app.settle().await;
    }
    let mut live = Live::resume(&app, &ada, &last).await;
    assert!(live.next().await.unwrap().starts_with(": listening"));
    let pieces = [live.next().await.unwrap(), live.next().await.unwrap()];
    assert!(
        pieces[0].contains("two") && pieces[1].contains("three"),
        "{pieces:?}"
    );
    // And then the new entry.
    app.todo(&ada, json!({ "title": "four" })).await;
    app.settle().await;
    let piece = live.next().await.unwrap();
    assert!(piece.contains("four"), "{piece}");
}

#[tokio::test]
async fn a_stream_that_heard_nothing_yet_knows_where_to_go_on() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.settle().await;
    let mut live = Live::at(&app, "/api/v1/stream", Some(&ada), None).await;
    let greeting = live.next().await.unwrap();
    drop(live);
    app.todo(&ada, json!({ "title": "meanwhile" })).await;
    app.settle().await;
    let mut live = Live::resume(&app, &ada, &id_of(&greeting)).await;
    let piece = live.until("todos.created").await;
    assert!(piece.contains("meanwhile"), "{piece}");
}

#[tokio::test]
async fn more_than_can_be_sent_again_and_an_id_of_no_entry_ask_for_a_reload() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.settle().await;
    let start = id_of(
        &Live::at(&app, "/api/v1/stream", Some(&ada), None)
            .await
            .next()
            .await
            .unwrap(),
    );
    fill(&app, &ada, 501).await;
    for last in [start.as_str(), "nonsense", "OTk5OTk5", ""] {
        let mut live = Live::resume(&app, &ada, last).await;
        let first = live.next().await.unwrap();
        assert!(first.starts_with("event: reload\n"), "{last}: {first}");
        // From there on it is complete again.
        let mut live = Live::resume(&app, &ada, &id_of(&first)).await;
        let first = live.next().await.unwrap();
        assert!(first.starts_with(": listening"), "{last}: {first}");
    }
}

/// Entries that Ada may see, and no event behind them.
async fn fill(app: &TestApp, who: &Person, count: u32) {
    let entries = match app.db().dialect() {
        Dialect::Sqlite => {
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
             INSERT INTO activity (id, event, subject, at_us) SELECT randomblob(16), 'todos.created', 'x', $2 FROM n"
        }
        Dialect::Postgres => {
            "INSERT INTO activity (id, event, subject, at_us, xid)
             SELECT gen_random_uuid(), 'todos.created', 'x', $2, pg_current_xact_id() FROM generate_series(1, $1)"
        }
    };
    let viewers = "INSERT INTO activity_viewers (user_id, seq)
        SELECT $1, seq FROM activity WHERE subject = 'x' AND seq NOT IN (SELECT seq FROM activity_viewers)";
    let mut tx = app.db().begin().await.unwrap();
    sqlx::query(entries)
        .bind(count)
        .bind(app.db().clock().now().as_microsecond())
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(viewers)
        .bind(who.id.parse::<uuid::Uuid>().unwrap())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_reader_that_falls_behind_misses_nothing() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.settle().await;
    let mut live = Live::open(&app, &ada).await;
    // More than waits for one stream; the bell rings for the last.
    fill(&app, &ada, 300).await;
    app.todo(&ada, json!({ "title": "the last" })).await;
    app.settle().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut entries = 0;
    loop {
        let piece = live.next().await.unwrap();
        assert!(!piece.starts_with("event: reload"), "{piece}");
        entries += u32::from(piece.starts_with("event: todos.created"));
        if piece.contains("the last") {
            break;
        }
    }
    assert_eq!(entries, 301);
}

#[tokio::test]
async fn a_ticket_opens_one_stream_once() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.settle().await;
    let ticket = app.post("/api/v1/stream/tickets", &ada, Value::Null).await;
    let path = format!("/api/v1/stream?ticket={}", ticket.text_at("/ticket"));
    let mut live = Live::at(&app, &path, None, None).await;
    let greeting = live.next().await.unwrap();
    app.todo(&ada, json!({ "title": "seen" })).await;
    app.settle().await;
    assert!(live.until("todos.created").await.contains("seen"));
    let get = axum::http::Method::GET;
    app.call(get.clone(), &path, None, None)
        .await
        .assert_problem(401);
    // The next one goes on where the last one ended.
    let ticket = app.post("/api/v1/stream/tickets", &ada, Value::Null).await;
    let path = format!(
        "/api/v1/stream?ticket={}&lastEventId={}",
        ticket.text_at("/ticket"),
        id_of(&greeting)
    );
    let mut live = Live::at(&app, &path, None, None).await;
    assert!(live.until("todos.created").await.contains("seen"));
}

#[tokio::test]
async fn an_account_has_so_many_tickets_and_a_further_one_replaces_the_oldest() {
    let app = TestApp::start_with(|settings| settings.tickets_per_user = 2).await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let take = async |who: &Person| {
        let answer = app.post("/api/v1/stream/tickets", who, json!({})).await;
        answer.text_at("/ticket")
    };
    let bobs = take(&bob).await;
    let mut tickets = Vec::new();
    for _ in 0..3 {
        tickets.push(take(&ada).await);
    }
    let open = async |ticket: &str| {
        let path = format!("/api/v1/stream?ticket={ticket}");
        let request = Request::get(path).body(Body::empty()).unwrap();
        app.router.clone().oneshot(request).await.unwrap().status()
    };
    assert_eq!(open(&tickets[0]).await, 401);
    for ticket in [&tickets[1], &tickets[2], &bobs] {
        assert_eq!(open(ticket).await, 200);
    }
    app.settle().await;
}

#[tokio::test]
async fn a_ticket_is_over_after_half_a_minute_and_with_its_session() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let open = async |ticket: &str| {
        let path = format!("/api/v1/stream?ticket={ticket}");
        let get = axum::http::Method::GET;
        app.call(get, &path, None, None).await.assert_problem(401);
    };
    let issue = async || {
        let issued = app.post("/api/v1/stream/tickets", &ada, Value::Null).await;
        issued.assert_status(201).text_at("/ticket")
    };
    let late = issue().await;
    app.db().clock().advance(Duration::from_secs(31));
    open(&late).await;
    let ticket = issue().await;
    let post = axum::http::Method::POST;
    app.call(post, "/api/v1/auth/logout", Some(&ada.token), None)
        .await
        .assert_status(204);
    open(&ticket).await;
    open("tty_made-up").await;
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM stream_tickets")
        .fetch_one(&mut *app.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(left, 0, "late ones are removed");
    app.settle().await;
}

#[tokio::test]
async fn old_entries_leave_the_feed_page_by_page_and_new_ones_stay() {
    let mut app = TestApp::start_with(|settings| {
        settings.activity_kept = Some(days(30));
    })
    .await;
    let ada = app.register("Ada").await;
    app.settle().await;
    fill(&app, &ada, 1_200).await;
    app.db().clock().advance(days(29));
    check(&app).await;
    assert_eq!(rows(&app).await, (1_201, 1_201));
    app.db().clock().advance(days(1));
    fill(&app, &ada, 1).await;
    app.db().clock().advance(Duration::from_secs(1));
    check(&app).await;
    assert_eq!(rows(&app).await, (1, 1));
    // The clock ran over schedules.
    app.worker.allow_leftovers();
}

async fn check(app: &TestApp) {
    let tick = json!({ "triggeredAt": "2026-01-01T00:00:00Z" }).to_string();
    app.app
        .bus()
        .publish_json("users.inactive.check", &tick)
        .await
        .unwrap();
    app.settle().await;
}

async fn rows(app: &TestApp) -> (i64, i64) {
    sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM activity), (SELECT COUNT(*) FROM activity_viewers)",
    )
    .fetch_one(&mut *app.db().read().await.unwrap())
    .await
    .unwrap()
}
