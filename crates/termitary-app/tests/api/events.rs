//! Every event of the contract: published by the action that the table names,
//! with exactly those fields.

use serde_json::{Map, Value, json};
use termitary::clock::hours;

use crate::support::{PASSWORD, TestApp};

const NAMES: &[&str] = &[
    "todos.created",
    "todos.updated",
    "todos.deleted",
    "todos.overdue",
    "todos.overdue.check",
    "users.created",
    "users.updated",
    "users.deleted",
    "users.login",
    "users.inactive.check",
];

/// Everything published so far, with ids told by name.
async fn published(app: &TestApp, ids: &[(&str, &str)]) -> Value {
    let mut all = Map::new();
    for name in NAMES {
        let mut text = json!(app.events(name).await).to_string();
        for (id, known_as) in ids {
            text = text.replace(id, known_as);
        }
        all.insert((*name).to_owned(), serde_json::from_str(&text).unwrap());
    }
    Value::Object(all)
}

#[tokio::test]
async fn each_action_publishes_its_event_with_exactly_the_fields_of_the_contract() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    app.login(&ada.email).await.assert_status(200);
    app.patch(
        &format!("/api/v1/users/{}", ada.id),
        &ada,
        json!({ "name": "Ada L.", "email": "Ada.L@example.com", "currentPassword": PASSWORD }),
    )
    .await
    .assert_status(200);
    app.settle().await;
    app.follow("ada.l@example.com").await.assert_status(204);

    let bare = app.todo(&ada, json!({ "title": "bare" })).await;
    let full = app
        .todo(
            &ada,
            json!({
                "title": "full",
                "description": "all there is",
                "assignee": bob.id,
                "priority": "high",
                "dueDate": "2026-01-15T14:30:00+01:00",
            }),
        )
        .await;
    let (bare, full) = (bare["id"].as_str().unwrap(), full["id"].as_str().unwrap());
    let path = format!("/api/v1/todos/{full}");
    app.patch(
        &path,
        &bob,
        json!({ "title": "fuller", "description": null, "priority": "urgent" }),
    )
    .await
    .assert_status(200);
    app.delete(&format!("/api/v1/todos/{bare}"), &ada)
        .await
        .assert_status(204);
    app.worker.advance(hours(3)).await;
    app.patch(
        &path,
        &bob,
        json!({ "status": "done", "assignee": null, "dueDate": "2026-03-01" }),
    )
    .await
    .assert_status(200);
    app.delete_user(&bob.id, &bob).await.assert_status(204);
    app.settle().await;

    let ids = [
        (ada.id.as_str(), "<ada>"),
        (bob.id.as_str(), "<bob>"),
        (bare, "<bare>"),
        (full, "<full>"),
    ];
    insta::assert_json_snapshot!(published(&app, &ids).await);
}

#[tokio::test]
async fn what_is_refused_publishes_nothing() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let todo = app.todo(&ada, json!({ "title": "mine" })).await;
    let path = format!("/api/v1/todos/{}", todo["id"].as_str().unwrap());
    app.patch(&path, &bob, json!({ "title": "yours" }))
        .await
        .assert_problem(404);
    app.delete(&path, &bob).await.assert_problem(404);
    app.post("/api/v1/todos", &ada, json!({ "title": "" }))
        .await
        .assert_problem(422);
    app.patch(
        &format!("/api/v1/users/{}", ada.id),
        &ada,
        json!({ "email": bob.email }),
    )
    .await
    .assert_fields(&["currentPassword"]);
    app.try_login(&ada.email, "not the password")
        .await
        .assert_problem(401);
    for (name, count) in [
        ("todos.created", 1),
        ("todos.updated", 0),
        ("todos.deleted", 0),
        ("users.created", 2),
        ("users.updated", 0),
        ("users.login", 0),
    ] {
        assert_eq!(app.events(name).await.len(), count, "{name}");
    }
    app.settle().await;
}

#[tokio::test]
async fn an_admin_made_user_is_published_like_a_registered_one() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let body =
        json!({ "email": "Cleo@example.com", "name": "Cleo", "password": "a long enough one" });
    let cleo = app.post("/api/v1/users", &root, body).await;
    cleo.assert_status(201);
    let created = app.events("users.created").await;
    assert_eq!(
        created[1],
        json!({ "id": cleo.json()["id"], "email": "cleo@example.com", "name": "Cleo" })
    );
    app.settle().await;
}
