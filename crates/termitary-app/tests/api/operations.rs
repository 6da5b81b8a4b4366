//! What operators ask, and what every answer carries.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;
use termitary_app::{app, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{PASSWORD, TestApp};

#[tokio::test]
async fn health_is_about_the_process_and_readiness_about_traffic() {
    let app = TestApp::start().await;
    app.call(Method::GET, "/healthz", None, None)
        .await
        .assert_status(200);
    app.call(Method::GET, "/readyz", None, None)
        .await
        .assert_status(200);
    app.shutdown.cancel();
    let answer = app.call(Method::GET, "/readyz", None, None).await;
    assert_eq!(answer.status.as_u16(), 503);
    assert_eq!(
        answer.json(),
        json!({ "status": "not ready", "database": true, "migrations": true, "draining": true })
    );
    app.call(Method::GET, "/healthz", None, None)
        .await
        .assert_status(200);
}

#[tokio::test]
async fn readiness_wants_the_tables_of_this_version() {
    let app = TestApp::start().await;
    let mut tx = app.db().begin().await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'from the future', TRUE, x'00', 0)")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let answer = app.call(Method::GET, "/readyz", None, None).await;
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.body);

    let error = app::migrate(app.db()).await.unwrap_err().to_string();
    assert!(
        error.contains("newer version") && error.contains("9999"),
        "{error}"
    );
}

#[tokio::test]
async fn readiness_wants_the_database_file_in_its_place() {
    let app = TestApp::start().await;
    let path = app.db().path().to_owned();
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::copy(&aside, &path).unwrap();
    let answer = app.call(Method::GET, "/readyz", None, None).await;
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.body);
    assert_eq!(answer.json()["database"], json!(false));
    std::fs::rename(&aside, &path).unwrap();
    app.call(Method::GET, "/readyz", None, None)
        .await
        .assert_status(200);
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let app = TestApp::start().await;
    app::migrate(app.db()).await.unwrap();
    app.call(Method::GET, "/readyz", None, None)
        .await
        .assert_status(200);
}

#[tokio::test]
async fn metrics_show_every_number_of_the_status() {
    let app = TestApp::start().await;
    app.register("Ada").await;
    app.settle().await;
    let answer = app.call(Method::GET, "/metrics", None, None).await;
    answer.assert_status(200);
    for line in [
        "termitary_subscription_deliveries{subscription=\"activity.user-created\",state=\"done\"} 1",
        "termitary_subscription_deliveries{subscription=\"activity.user-created\",state=\"pending\"} 0",
        "termitary_subscription_deliveries{subscription=\"activity.user-created\",state=\"dead\"} 0",
        "termitary_subscription_workers{subscription=\"activity.user-created\"} 1",
        "termitary_subscription_oldest_pending_seconds{subscription=\"activity.user-created\"} 0",
        "termitary_schedule_paused{schedule=\"todos.overdue.check\"} 0",
        "termitary_schedule_failing{schedule=\"todos.overdue.check\"} 0",
        "termitary_events 1",
        "termitary_workers 1",
        "termitary_http_requests_total{method=\"POST\",route=\"/api/v1/auth/register\",status=\"201\"}",
    ] {
        assert!(answer.body.contains(line), "no {line} in\n{}", answer.body);
    }
}

#[tokio::test]
async fn every_answer_is_named_and_guarded() {
    let app = TestApp::start().await;
    for path in ["/healthz", "/nope", "/api/v1/todos"] {
        let answer = app.call(Method::GET, path, None, None).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(
            answer
                .header("content-security-policy")
                .contains("default-src 'none'")
        );
        assert_eq!(answer.header("x-request-id").len(), 36);
        assert!(answer.headers.get("access-control-allow-origin").is_none());
    }
    for (sent, kept) in [
        ("job-7.a_b", true),
        ("no spaces", false),
        (&*"x".repeat(65), false),
    ] {
        let request = Request::get("/healthz")
            .header("x-request-id", sent)
            .body(Body::empty())
            .unwrap();
        assert_eq!(
            app.send(request).await.header("x-request-id") == sent,
            kept,
            "{sent}"
        );
    }
}

#[tokio::test]
async fn events_carry_the_trace_of_their_request() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = Request::post("/api/v1/todos")
        .header("authorization", format!("Bearer {}", ada.token))
        .header("content-type", "application/json")
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .body(Body::from(json!({ "title": "traced" }).to_string()))
        .unwrap();
    app.send(request).await.assert_status(201);
    let stored = "SELECT traceparent FROM termitary_events WHERE name = $1";
    let traced: String = sqlx::query_scalar(stored)
        .bind("todos.created")
        .fetch_one(app.db().reader())
        .await
        .unwrap();
    assert!(
        traced.contains(trace) && !traced.contains("00f067aa0ba902b7"),
        "{traced}"
    );
    let fresh: String = sqlx::query_scalar(stored)
        .bind("users.created")
        .fetch_one(app.db().reader())
        .await
        .unwrap();
    assert_eq!(fresh.len(), traced.len());
    app.settle().await;
}

#[tokio::test]
async fn the_documentation_page_works_without_a_network() {
    let app = TestApp::start().await;
    let page = app.call(Method::GET, "/docs/", None, None).await;
    page.assert_status(200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(
        !page.body.contains("http://") && !page.body.contains("https://"),
        "{}",
        page.body
    );
    let start = app
        .call(Method::GET, "/docs/swagger-initializer.js", None, None)
        .await;
    start.assert_status(200);
    assert!(start.body.contains("/openapi.json"), "{}", start.body);
    assert!(
        start.body.contains("\"validatorUrl\": \"none\""),
        "{}",
        start.body
    );
    app.call(Method::GET, "/docs/swagger-ui-bundle.js", None, None)
        .await
        .assert_status(200);
    for way in ["/", "/docs"] {
        let answer = app.call(Method::GET, way, None, None).await;
        answer.assert_status(303);
        assert!(answer.header("location").starts_with("/docs"), "{way}");
    }
}

/// The application on a real port of this machine.
async fn serve(app: &TestApp) -> (SocketAddr, JoinHandle<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = http::serve(listener, app.app.clone(), app.shutdown.clone());
    (address, tokio::spawn(serving))
}

#[tokio::test]
async fn a_stopping_process_finishes_what_is_open_and_ends() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let (address, serving) = serve(&app).await;
    let mut live = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /api/v1/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        ada.token
    );
    live.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 4096];
    let read = live.read(&mut start).await.unwrap();
    assert!(start[..read].starts_with(b"HTTP/1.1 200"));
    // Open, and saying nothing.
    let _idle = TcpStream::connect(address).await.unwrap();

    app.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), serving).await;
    ended.expect("the server ends soon").unwrap().unwrap();
    app.settle().await;
}

#[tokio::test]
async fn the_source_of_a_login_is_the_connections_own_address() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let (address, serving) = serve(&app).await;
    let mut connection = TcpStream::connect(address).await.unwrap();
    let body = json!({ "email": ada.email, "password": PASSWORD }).to_string();
    let request = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.9\r\nuser-agent: test\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let login = &app.events("users.login").await[0];
    assert_eq!(login["ipAddress"], "127.0.0.1");
    assert_eq!(login["userAgent"], "test");
    app.shutdown.cancel();
    serving.await.unwrap().unwrap();
    app.settle().await;
}
