//! Invalid input gets problem details that name the field.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use crate::support::{Person, TestApp};

const TODOS: &str = "/api/v1/todos";

fn raw(who: &Person, kind: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(TODOS)
        .header("authorization", format!("Bearer {}", who.token))
        .header("content-type", kind)
        .body(body.into())
        .unwrap()
}

#[tokio::test]
async fn what_is_not_json_is_400() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for body in [
        "",
        "{",
        "{\"title\":\"x\"} trailing",
        "{'title':1}",
        "\u{0}",
    ] {
        app.send(raw(&ada, "application/json", body))
            .await
            .assert_problem(400);
    }
    let deep = format!("{{\"title\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    app.send(raw(&ada, "application/json", deep))
        .await
        .assert_problem(422);
    app.settle().await;
}

#[tokio::test]
async fn json_that_is_no_object_is_refused_as_a_whole() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for body in ["[\"x\",null,null,null,null]", " []", "7", "null", "\"x\""] {
        let answer = app.send(raw(&ada, "application/json", body)).await;
        answer.assert_fields(&[""]);
        assert!(answer.body.contains("must be a JSON object"));
    }
    app.settle().await;
}

#[tokio::test]
async fn all_wrong_fields_of_a_registration_are_named_at_once() {
    let app = TestApp::start().await;
    let body = json!({"email": "x", "name": " ", "password": "a"});
    app.call(Method::POST, "/api/v1/auth/register", None, Some(body))
        .await
        .assert_problem(422)
        .assert_fields(&["email", "name", "password"]);
}

#[tokio::test]
async fn another_media_type_is_415() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        app.send(raw(&ada, kind, "{\"title\":\"x\"}"))
            .await
            .assert_problem(415);
    }
    app.send(raw(
        &ada,
        "application/json; charset=utf-8",
        "{\"title\":\"x\"}",
    ))
    .await
    .assert_status(201);
    app.settle().await;
}

#[tokio::test]
async fn a_body_past_the_limit_is_413_whether_announced_or_not() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let body = json!({ "title": "x", "description": "x".repeat(200_000) }).to_string();
    app.send(raw(&ada, "application/json", body.clone()))
        .await
        .assert_problem(413);
    let pieces = body
        .into_bytes()
        .chunks(1_000)
        .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
        .collect::<Vec<_>>();
    let streamed = Body::from_stream(futures_util::stream::iter(pieces));
    app.send(raw(&ada, "application/json", streamed))
        .await
        .assert_problem(413);
    app.settle().await;
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for (body, field) in [
        (json!({}), "title"),
        (json!({ "title": 7 }), "title"),
        (json!({ "title": "x".repeat(201) }), "title"),
        (json!({ "title": "x\r\nBcc: all" }), "title"),
        (
            json!({ "title": "x", "description": "x".repeat(10_001) }),
            "description",
        ),
        (json!({ "title": "x", "priority": "extreme" }), "priority"),
        (json!({ "title": "x", "dueDate": "tomorrow" }), "dueDate"),
        (json!({ "title": "x", "dueDate": 12 }), "dueDate"),
        (json!({ "title": "x", "assignee": 1 }), "assignee"),
        (json!({ "title": "x", "status": "done" }), "status"),
        (json!({ "title": "x", "ownerId": ada.id }), "ownerId"),
    ] {
        app.post(TODOS, &ada, body).await.assert_fields(&[field]);
    }
    app.settle().await;
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("status=closed", "status"),
        ("priority=9", "priority"),
        ("overdue=maybe", "overdue"),
        ("assignee=bob", "assignee"),
        ("sort=owner", "sort"),
        ("cursor=!!!", "cursor"),
        ("cursor=e30", "cursor"),
        ("page=2", "page"),
    ] {
        app.get(&format!("{TODOS}?{query}"), &ada)
            .await
            .assert_fields(&[field]);
    }
    for path in ["/api/v1/activity?cursor=x", "/api/v1/activity?limit=1000"] {
        app.get(path, &ada).await.assert_problem(422);
    }
    app.settle().await;
}

#[tokio::test]
async fn a_cursor_of_another_order_is_refused() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for n in 0..3 {
        app.todo(&ada, json!({ "title": format!("t{n}") })).await;
    }
    let cursor = app
        .get(&format!("{TODOS}?sort=title&limit=1"), &ada)
        .await
        .text_at("/nextCursor");
    app.get(&format!("{TODOS}?sort=dueDate&cursor={cursor}"), &ada)
        .await
        .assert_fields(&["cursor"]);
    app.settle().await;
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405_with_the_right_ones() {
    let app = TestApp::start().await;
    app.call(Method::GET, "/nope", None, None)
        .await
        .assert_problem(404);
    app.call(Method::GET, "/api/v1/nope", None, None)
        .await
        .assert_problem(404);
    let answer = app.call(Method::PUT, TODOS, None, None).await;
    answer.assert_problem(405);
    assert!(
        answer.header("allow").contains("POST"),
        "{}",
        answer.header("allow")
    );
}

#[tokio::test]
async fn an_id_that_is_none_is_404() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for path in [
        "/api/v1/todos/42",
        "/api/v1/users/%00",
        "/api/v1/todos/x/comments",
    ] {
        app.get(path, &ada).await.assert_problem(404);
    }
    app.settle().await;
}

#[tokio::test]
async fn a_session_is_only_a_bearer_token_in_its_header() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for header in [
        ada.token.clone(),
        format!("Basic {}", ada.token),
        "Bearer".to_owned(),
        "Bearer x".to_owned(),
    ] {
        let request = Request::get("/api/v1/auth/me")
            .header("authorization", header)
            .body(Body::empty())
            .unwrap();
        let answer = app.send(request).await;
        answer.assert_problem(401);
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    app.call(
        Method::GET,
        &format!("/api/v1/auth/me?token={}", ada.token),
        None,
        None,
    )
    .await
    .assert_problem(401);
    app.settle().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let app =
        TestApp::start_with(|settings| settings.request_timeout = std::time::Duration::ZERO).await;
    let body = json!({ "email": "a@example.com", "password": "long enough" });
    let answer = app
        .call(Method::POST, "/api/v1/auth/login", None, Some(body))
        .await;
    answer.assert_problem(503);
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_is_the_clients_timeout() {
    let short = std::time::Duration::from_millis(50);
    let app = TestApp::start_with(|settings| settings.request_timeout = short).await;
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let request = Request::post("/api/v1/auth/login")
        .header("content-type", "application/json")
        .body(Body::from_stream(never))
        .unwrap();
    app.send(request).await.assert_problem(408);
}
