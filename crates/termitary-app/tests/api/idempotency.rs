//! `Idempotency-Key`: a repeated request gets the stored response and is not executed again.

use axum::body::Body;
use axum::http::Request;
use futures_util::future::join_all;
use serde_json::{Value, json};
use termitary::clock::hours;
use termitary_app::app::App;
use termitary_app::mailer::Mailer;
use termitary_app::settings::Settings;
use termitary_app::wiring;
use tokio_util::sync::CancellationToken;

use crate::support::{Answer, PASSWORD, Person, TestApp, on_postgres};

async fn post(app: &TestApp, path: &str, who: Option<&Person>, key: &str, body: &Value) -> Answer {
    let mut request = Request::post(path)
        .header("content-type", "application/json")
        .header("idempotency-key", key);
    if let Some(who) = who {
        request = request.header("authorization", format!("Bearer {}", who.token));
    }
    app.send(request.body(Body::from(body.to_string())).unwrap())
        .await
}

const TODOS: &str = "/api/v1/todos";

#[tokio::test]
async fn the_same_request_with_the_same_key_gets_the_same_answer() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let body = json!({ "title": "once" });
    let first = post(&app, TODOS, Some(&ada), "k1", &body).await;
    first.assert_status(201);
    let again = post(&app, TODOS, Some(&ada), "k1", &body).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("content-type"), "application/json");
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(app.events("todos.created").await.len(), 1);
    app.settle().await;
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    post(&app, TODOS, Some(&ada), "k1", &json!({ "title": "one" }))
        .await
        .assert_status(201);
    post(&app, TODOS, Some(&ada), "k1", &json!({ "title": "two" }))
        .await
        .assert_fields(&["Idempotency-Key"]);
    let elsewhere = "/api/v1/users";
    post(
        &app,
        elsewhere,
        Some(&ada),
        "k1",
        &json!({ "title": "one" }),
    )
    .await
    .assert_fields(&["Idempotency-Key"]);
    app.settle().await;
}

#[tokio::test]
async fn two_users_keys_never_meet() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let body = json!({ "title": "once" });
    let hers = post(&app, TODOS, Some(&ada), "k1", &body).await;
    let his = post(&app, TODOS, Some(&bob), "k1", &body).await;
    assert_ne!(hers.json()["id"], his.json()["id"]);
    app.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_make_one_todo_and_get_one_answer() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let body = json!({ "title": "once" });
    let answers = join_all((0..50).map(|_| post(&app, TODOS, Some(&ada), "k1", &body))).await;
    for answer in &answers {
        assert_eq!(
            (answer.status.as_u16(), &answer.body),
            (201, &answers[0].body)
        );
    }
    assert_eq!(app.events("todos.created").await.len(), 1);
    app.settle().await;
}

#[tokio::test]
async fn a_repeated_registration_gets_the_same_token_that_nobody_else_can_read() {
    let app = TestApp::start().await;
    let body = json!({ "email": "ada@example.com", "name": "Ada", "password": PASSWORD });
    let key = "6b8f8f1e-7a2c-4c1d-9f53-0d6a1c1f7a11";
    let first = post(&app, "/api/v1/auth/register", None, key, &body).await;
    first.assert_status(201);
    let again = post(&app, "/api/v1/auth/register", None, key, &body).await;
    assert_eq!(again.body, first.body);
    app.settle().await;

    let token = first.text_at("/token");
    for secret in [token.as_str(), PASSWORD, key] {
        for suffix in ["", "-wal"] {
            let path = format!("{}{suffix}", app.db().place());
            let stored = std::fs::read(path).unwrap_or_default();
            let found = stored
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "{secret} lies readable in the database");
        }
    }
}

#[tokio::test]
async fn an_answer_that_only_says_not_now_is_not_kept() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let wrong = json!({ "email": ada.email, "password": "not it at all" });
    post(&app, "/api/v1/auth/login", None, "k1", &wrong)
        .await
        .assert_problem(401);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let right = json!({ "email": ada.email, "password": PASSWORD });
    post(&app, "/api/v1/auth/login", None, "k1", &right)
        .await
        .assert_status(200);
    app.settle().await;
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let body = json!({ "title": "once" });
    let first = post(&app, TODOS, Some(&ada), "k1", &body).await.json();
    app.db().clock().advance(hours(25));
    assert_ne!(
        post(&app, TODOS, Some(&ada), "k1", &body).await.json()["id"],
        first["id"]
    );
    assert_eq!(kept(&app).await, 1);
    app.settle().await;
}

/// Number of stored responses in the database.
async fn kept(app: &TestApp) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM answers")
        .fetch_one(&mut *app.db().read().await.unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_request_that_changed_nothing_is_not_kept_and_its_key_stays_free() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    post(&app, TODOS, Some(&ada), "k1", &json!({ "title": "" }))
        .await
        .assert_fields(&["title"]);
    assert_eq!(kept(&app).await, 0);
    post(&app, TODOS, Some(&ada), "k1", &json!({ "title": "better" }))
        .await
        .assert_status(201);
    assert_eq!(kept(&app).await, 1);
    app.settle().await;
}

#[tokio::test]
async fn nothing_is_written_for_the_key_of_somebody_without_a_session() {
    if on_postgres() {
        return; // it looks at the size of the file
    }
    let app = TestApp::start().await;
    let before = app.db().path().unwrap().metadata().unwrap().len();
    let long = "x".repeat(60_000);
    for n in 0..50 {
        let key = format!("k{n}");
        let email = json!({ "email": long, "name": "A", "password": PASSWORD });
        for (path, body, status) in [
            ("/api/v1/auth/register", &email, 422),
            ("/api/v1/auth/login", &json!({ "email": long }), 422),
            ("/api/v1/todos", &json!({ "title": long }), 401),
            ("/nowhere", &json!({}), 404),
        ] {
            let answer = post(&app, path, None, &key, body).await;
            answer.assert_problem(status);
        }
    }
    assert_eq!(kept(&app).await, 0);
    let ahead = format!("{}-wal", app.db().place());
    let written = std::fs::metadata(ahead).map_or(0, |file| file.len());
    assert!(written + before < 4_000_000, "{written} bytes");
}

#[tokio::test]
async fn a_caller_has_so_many_keys_and_the_oldest_make_room() {
    let app = TestApp::start_with(|settings| settings.idempotency_keys = 3).await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let body = json!({ "title": "once" });
    let his = post(&app, TODOS, Some(&bob), "k0", &body).await;
    let mut answers = Vec::new();
    for n in 0..5 {
        answers.push(post(&app, TODOS, Some(&ada), &format!("k{n}"), &body).await);
    }
    assert_eq!(kept(&app).await, 3 + 1);
    for (n, answer) in answers.iter().enumerate().skip(2) {
        let again = post(&app, TODOS, Some(&ada), &format!("k{n}"), &body).await;
        assert_eq!(again.body, answer.body);
    }
    let again = post(&app, TODOS, Some(&bob), "k0", &body).await;
    assert_eq!(again.body, his.body, "nobody makes room for another caller");
    let again = post(&app, TODOS, Some(&ada), "k0", &body).await;
    assert_ne!(again.body, answers[0].body);
    app.settle().await;
}

#[tokio::test]
async fn the_answer_with_the_longest_description_is_kept_whole() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    // Each of these letters is four bytes of JSON.
    let body = json!({ "title": "long", "description": "\u{1F41C}".repeat(10_000) });
    let first = post(&app, TODOS, Some(&ada), "k1", &body).await;
    first.assert_status(201);
    assert!(first.body.len() > 40_000);
    let again = post(&app, TODOS, Some(&ada), "k1", &body).await;
    assert_eq!(again.body, first.body);
    app.settle().await;
}

#[tokio::test]
async fn a_stored_answer_cannot_be_compared_read_or_changed_without_the_secret() {
    let mut app = TestApp::start().await;
    let body = json!({ "email": "ada@example.com", "name": "Ada", "password": PASSWORD });
    let register = "/api/v1/auth/register";
    post(&app, register, None, "k1", &body)
        .await
        .assert_status(201);
    let rows = async |app: &TestApp| -> Vec<(Vec<u8>, Vec<u8>)> {
        sqlx::query_as("SELECT key_hash, request FROM answers ORDER BY nth")
            .fetch_all(&mut *app.db().read().await.unwrap())
            .await
            .unwrap()
    };
    let first = rows(&app).await;

    // A thief of the database, with the key and a guess at the request, computes other hashes.
    let home = app.router.clone();
    let thief = App::new(
        app.app.broker().clone(),
        Mailer::memory(),
        Settings {
            hash_cost: app.app.settings().hash_cost,
            ..Settings::default()
        },
    );
    app.router = wiring::router(thief, CancellationToken::new());
    let guessed = post(&app, register, None, "k1", &body).await;
    guessed.assert_fields(&["email"]);
    assert_eq!(guessed.header("idempotency-replayed"), "");
    let login = json!({ "email": "ada@example.com", "password": PASSWORD });
    post(&app, "/api/v1/auth/login", None, "k1", &login)
        .await
        .assert_status(200);
    let both = rows(&app).await;
    assert!(!both[1..].iter().any(|row| row.0 == first[0].0), "the key");

    app.router = home;
    let mut tx = app.db().begin().await.unwrap();
    sqlx::query("UPDATE answers SET answer = $1")
        .bind(vec![0_u8; 200])
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let changed = post(&app, register, None, "k1", &body).await;
    changed.assert_problem(500);
    app.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_registrations_at_once_under_one_key_are_one_account_and_one_answer() {
    let app = TestApp::start().await;
    let body = json!({ "email": "ada@example.com", "name": "Ada", "password": PASSWORD });
    let register = "/api/v1/auth/register";
    let answers = join_all((0..10).map(|_| post(&app, register, None, "k1", &body))).await;
    for answer in &answers {
        assert_eq!(
            (answer.status.as_u16(), &answer.body),
            (201, &answers[0].body)
        );
    }
    app.settle().await;
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for key in ["", " ", &"k".repeat(256)] {
        post(&app, TODOS, Some(&ada), key, &json!({ "title": "x" }))
            .await
            .assert_fields(&["Idempotency-Key"]);
    }
    app.settle().await;
}

#[tokio::test]
async fn a_repeated_logout_or_change_of_password_is_answered_though_its_session_is_gone() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    for _ in 0..2 {
        let answer = post(&app, "/api/v1/auth/logout", Some(&ada), "k1", &json!({})).await;
        answer.assert_status(204);
    }
    let body = json!({ "currentPassword": PASSWORD, "newPassword": "another good one" });
    let first = post(&app, "/api/v1/auth/password", Some(&bob), "k1", &body).await;
    let again = post(&app, "/api/v1/auth/password", Some(&bob), "k1", &body).await;
    first.assert_status(200);
    assert_eq!(again.body, first.body);
    let other = json!({ "currentPassword": "another good one", "newPassword": "a third good one" });
    post(&app, "/api/v1/auth/password", Some(&bob), "k1", &other)
        .await
        .assert_problem(422);
    app.settle().await;
}

#[tokio::test]
async fn an_answer_commits_with_what_was_done() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let body = json!({ "title": "once" });
    let request = Request::post(TODOS)
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {}", ada.token))
        .header("idempotency-key", "k1")
        .body(Body::from(body.to_string()))
        .unwrap();
    // The process "dies" at some point: wherever that is, a repetition makes
    // it one todo.
    let sending = app.send(request);
    tokio::select! {
        _ = sending => {}
        () = async {
            while app.events("todos.created").await.is_empty() {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    post(&app, TODOS, Some(&ada), "k1", &body)
        .await
        .assert_status(201);
    assert_eq!(app.events("todos.created").await.len(), 1);
    app.settle().await;
}
