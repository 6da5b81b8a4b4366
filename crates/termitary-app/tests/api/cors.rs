//! Pages of other origins.

use axum::body::Body;
use axum::http::{Method, Request};

use crate::support::{Answer, TestApp};

const PAGE: &str = "https://app.example.com";

async fn app() -> TestApp {
    TestApp::start_with(|settings| {
        settings.cors_origins = vec![
            PAGE.parse().unwrap(),
            "http://localhost:5173".parse().unwrap(),
        ];
    })
    .await
}

async fn send(app: &TestApp, method: Method, path: &str, origin: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("origin", origin)
        .header("access-control-request-method", "PATCH")
        .header(
            "access-control-request-headers",
            "authorization,content-type,idempotency-key",
        )
        .body(Body::empty());
    app.send(request.unwrap()).await
}

#[tokio::test]
async fn a_named_origin_may_call_every_route_and_read_every_answer() {
    let app = app().await;
    for origin in [PAGE, "http://localhost:5173"] {
        let preflight = send(&app, Method::OPTIONS, "/api/v1/todos/1", origin).await;
        preflight.assert_status(200);
        assert_eq!(preflight.header("access-control-allow-origin"), origin);
        let methods = preflight.header("access-control-allow-methods");
        assert!(
            methods.contains("PATCH") && methods.contains("DELETE"),
            "{methods}"
        );
        let headers = preflight.header("access-control-allow-headers");
        for header in [
            "authorization",
            "content-type",
            "idempotency-key",
            "last-event-id",
        ] {
            assert!(headers.contains(header), "{headers}");
        }
        // Errors too, so that a page can read them.
        for path in ["/api/v1/todos", "/nope", "/healthz"] {
            let answer = send(&app, Method::GET, path, origin).await;
            assert_eq!(
                answer.header("access-control-allow-origin"),
                origin,
                "{path}"
            );
            assert!(
                answer
                    .header("access-control-expose-headers")
                    .contains("retry-after")
            );
            assert!(
                answer.header("vary").to_lowercase().contains("origin"),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn any_other_origin_gets_no_leave_and_nobody_sends_cookies() {
    let app = app().await;
    for origin in [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "null",
    ] {
        for method in [Method::OPTIONS, Method::GET] {
            let answer = send(&app, method, "/api/v1/todos", origin).await;
            assert_eq!(answer.header("access-control-allow-origin"), "", "{origin}");
        }
    }
    let answer = send(&app, Method::OPTIONS, "/api/v1/todos", PAGE).await;
    assert_eq!(answer.header("access-control-allow-credentials"), "");
}

#[tokio::test]
async fn without_the_setting_no_page_of_another_origin_may_call() {
    let app = TestApp::start().await;
    let preflight = send(&app, Method::OPTIONS, "/api/v1/todos", PAGE).await;
    preflight.assert_problem(405);
    assert_eq!(preflight.header("access-control-allow-origin"), "");
}
