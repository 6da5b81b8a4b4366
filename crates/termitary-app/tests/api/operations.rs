//! Health checks and metrics, and the headers of every response.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;
use sqlx::Connection as _;
use termitary_app::{schema, wiring};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

use crate::support::{PASSWORD, TestApp, on_postgres};

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
        json!({ "status": "not ready", "database": true, "migrations": true, "writes": true, "draining": true, "reason": "this process is stopping" })
    );
    app.call(Method::GET, "/healthz", None, None)
        .await
        .assert_status(200);
}

#[tokio::test]
async fn readiness_wants_the_tables_of_this_version() {
    let app = TestApp::start().await;
    let mut tx = app.db().begin().await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'from the future', TRUE, $1, 0)")
        .bind(vec![0_u8])
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let answer = app.call(Method::GET, "/readyz", None, None).await;
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.body);

    let error = schema::migrate(app.db()).await.unwrap_err().to_string();
    assert!(
        error.contains("newer version") && error.contains("9999"),
        "{error}"
    );
}

#[tokio::test]
async fn readiness_wants_the_database_file_in_its_place() {
    if on_postgres() {
        return; // it has no file
    }
    let app = TestApp::start().await;
    let path = app.db().path().unwrap().to_owned();
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
async fn readiness_wants_the_ledger_of_this_version_too() {
    let mut app = TestApp::start().await;
    for version in [0, 9999] {
        let mut tx = app.db().begin().await.unwrap();
        sqlx::query("UPDATE termitary_schema SET version = $1")
            .bind(version)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let answer = app.call(Method::GET, "/readyz", None, None).await;
        answer.assert_status(503);
        assert_eq!(answer.json()["migrations"], false, "{}", answer.body);
        assert!(answer.text_at("/reason").contains("version"));
    }
    // Nobody can look into a ledger of another version.
    app.worker.allow_leftovers();
}

#[tokio::test]
async fn a_process_whose_every_write_fails_is_not_ready() {
    if on_postgres() {
        return; // it takes more than one writer
    }
    let app = TestApp::start_with(|settings| settings.write_probe_kept = Duration::ZERO).await;
    let ready = async |wanted: u16| {
        for _ in 0..1_000 {
            let answer = app.call(Method::GET, "/readyz", None, None).await;
            if answer.status.as_u16() == wanted {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never {wanted}");
    };
    ready(200).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(app.db().place());
    let mut stranger = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut stranger)
        .await
        .unwrap();
    let answer = ready(503).await;
    let json = answer.json();
    assert_eq!(
        (&json["database"], &json["writes"]),
        (&json!(true), &json!(false)),
        "{json}"
    );
    stranger.close().await.unwrap();
    ready(200).await;
}

#[tokio::test]
async fn whoever_asks_for_readiness_causes_no_write_each_time() {
    let app = TestApp::start().await;
    let tried = async || -> i64 {
        sqlx::query_scalar("SELECT at_us FROM write_probe")
            .fetch_one(&mut *app.db().read().await.unwrap())
            .await
            .unwrap()
    };
    app.call(Method::GET, "/readyz", None, None).await;
    let first = tried().await;
    app.db().clock().advance(Duration::from_secs(1));
    app.call(Method::GET, "/readyz", None, None).await;
    assert_eq!(tried().await, first);
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let app = TestApp::start().await;
    schema::migrate(app.db()).await.unwrap();
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
        .fetch_one(&mut *app.db().read().await.unwrap())
        .await
        .unwrap();
    assert!(
        traced.contains(trace) && !traced.contains("00f067aa0ba902b7"),
        "{traced}"
    );
    let fresh: String = sqlx::query_scalar(stored)
        .bind("users.created")
        .fetch_one(&mut *app.db().read().await.unwrap())
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
async fn serve(app: &TestApp) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = wiring::serve(listener, app.app.clone(), app.shutdown.clone());
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
    ended.expect("the server ends soon").unwrap();
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
    serving.await.unwrap();
    app.settle().await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_loses_the_connection_and_frees_it() {
    let app = TestApp::start_with(|settings| {
        settings.connections.write = Duration::from_millis(300);
    })
    .await;
    let ada = app.register("Ada").await;
    let text = "x".repeat(10_000);
    for _ in 0..100 {
        app.todo(&ada, json!({ "title": "long", "description": text }))
            .await;
    }
    app.settle().await;
    let (address, serving) = serve(&app).await;
    let request = format!(
        "GET /api/v1/todos?limit=100 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        ada.token
    );
    // Many at once: more than the system's buffers between us hold.
    let mut stuck = TcpStream::connect(address).await.unwrap();
    stuck
        .write_all(request.repeat(50).as_bytes())
        .await
        .unwrap();
    // Our end is closed without a response to the last request.
    tokio::time::timeout(Duration::from_mins(1), async {
        while stuck.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the connection is closed");
    app.shutdown.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_connection_stays_open_for_the_next_request_and_not_for_ever() {
    let app = TestApp::start_with(|settings| {
        settings.connections.keep_alive = Duration::from_secs(2);
        settings.connections.head = Duration::from_hours(1);
    })
    .await;
    let (address, serving) = serve(&app).await;
    // Responds at once, after a query of the database, and in many pieces.
    for path in ["/healthz", "/readyz", "/docs/swagger-ui-bundle.js"] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            connection.write_all(request.as_bytes()).await.unwrap();
            let mut start = [0; 12];
            connection.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 200", "{path}");
            drain(&mut connection).await;
        }
        let mut rest = Vec::new();
        let closed = connection.read_to_end(&mut rest);
        tokio::time::timeout(Duration::from_mins(1), closed)
            .await
            .unwrap_or_else(|_| panic!("{path}: never closed"))
            .unwrap();
        assert!(rest.is_empty());
    }
    app.shutdown.cancel();
    serving.await.unwrap();
}

/// Reads until nothing more comes for a while.
async fn drain(connection: &mut TcpStream) {
    let mut some = vec![0; 65_536];
    while let Ok(read) =
        tokio::time::timeout(Duration::from_millis(500), connection.read(&mut some)).await
    {
        assert_ne!(read.unwrap(), 0, "closed too early");
    }
}

#[tokio::test]
async fn large_answers_that_nobody_takes_are_bounded_in_bytes() {
    let app = TestApp::start_with(|settings| settings.connections.unsent = 400_000).await;
    let ask = || {
        let mut request = Request::get("/docs/swagger-ui-bundle.js")
            .body(Body::empty())
            .unwrap();
        let peer = SocketAddr::from(([192, 0, 2, 1], 4711));
        request
            .extensions_mut()
            .insert(axum::extract::ConnectInfo(peer));
        app.router.clone().oneshot(request)
    };
    let taken = ask().await.unwrap();
    assert_eq!(taken.status(), 200);
    assert_eq!(ask().await.unwrap().status(), 503);
    // Small requests still get a response.
    app.call(Method::GET, "/healthz", None, None)
        .await
        .assert_status(200);
    drop(taken);
    assert_eq!(ask().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_large_answer_arrives_whole() {
    let app = TestApp::start().await;
    let page = app
        .call(Method::GET, "/docs/swagger-ui-bundle.js", None, None)
        .await;
    let (address, serving) = serve(&app).await;
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request =
        b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    connection.write_all(request).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("content-length: {}", page.body.len())),
        "{head}"
    );
    assert!(body == page.body);
    app.shutdown.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn one_address_gets_so_many_connections_and_is_told() {
    let app = TestApp::start_with(|settings| settings.connections.most_per_address = 2).await;
    let (address, serving) = serve(&app).await;
    let one = TcpStream::connect(address).await.unwrap();
    let _two = TcpStream::connect(address).await.unwrap();
    let mut three = TcpStream::connect(address).await.unwrap();
    let mut answer = String::new();
    three.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    drop(one);
    // A place is free as soon as the server has seen that.
    for _ in 0..1_000 {
        let mut next = TcpStream::connect(address).await.unwrap();
        let _ = next
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
        let mut answer = String::new();
        let _ = next.read_to_string(&mut answer).await;
        if answer.starts_with("HTTP/1.1 200 ") {
            app.shutdown.cancel();
            serving.await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no place became free");
}

#[tokio::test]
async fn behind_proxies_the_address_of_a_connection_has_no_limit() {
    let app = TestApp::start_with(|settings| {
        settings.connections.most_per_address = 1;
        settings.trusted_proxy_hops = 1;
    })
    .await;
    let (address, serving) = serve(&app).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut start = [0; 12];
        connection.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        open.push(connection);
    }
    app.shutdown.cancel();
    serving.await.unwrap();
}
