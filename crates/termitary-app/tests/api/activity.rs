//! The feed and the live stream.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{Person, TestApp};

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
        let request = Request::get("/api/v1/stream")
            .header("authorization", format!("Bearer {}", who.token))
            .body(Body::empty())
            .unwrap();
        let response = app.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut live = Self(response.into_body().into_data_stream());
        assert_eq!(live.next().await.as_deref(), Some(": listening\n\n"));
        // The process begins to listen with its first stream.
        tokio::time::sleep(Duration::from_millis(100)).await;
        live
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
