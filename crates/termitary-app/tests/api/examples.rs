//! The examples of the API's document, as /docs shows them, are accepted by
//! their routes as they stand.

use axum::http::Method;
use serde_json::{Value, json};
use termitary_app::wiring;

use crate::support::{Person, TestApp};

/// The routes in an order in which the examples make sense, with their status codes.
const WALK: &[(&str, &str, u16)] = &[
    ("post", "/api/v1/auth/register", 201),
    ("post", "/api/v1/auth/login", 200),
    ("patch", "/api/v1/users/{id}", 200),
    ("post", "/api/v1/todos", 201),
    ("patch", "/api/v1/todos/{id}", 200),
    ("post", "/api/v1/todos/{id}/comments", 201),
    ("post", "/api/v1/users", 201),
    ("post", "/api/v1/users/{id}/password", 204),
    ("post", "/api/v1/auth/password/forgot", 202),
    // Links come by mail only: everything but the token is right.
    ("post", "/api/v1/auth/password/reset", 422),
    ("post", "/api/v1/auth/email/confirm", 422),
    ("delete", "/api/v1/users/{id}", 204),
    ("post", "/api/v1/auth/password", 200),
];

/// The example of a route's body.
fn example(document: &Value, method: &str, path: &str) -> Value {
    let content = &document["paths"][path][method]["requestBody"]["content"];
    let schema = &content["application/json"]["schema"];
    let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
    let example = &document["components"]["schemas"][name]["example"];
    assert!(example.is_object(), "{name} has no example");
    example.clone()
}

#[tokio::test]
async fn every_example_body_is_accepted_by_its_route() {
    let document = serde_json::to_value(wiring::openapi()).unwrap();
    let app = TestApp::start().await;
    let mut ada: Option<Person> = None;
    let (mut todo, mut other) = (String::new(), String::new());
    for (method, path, status) in WALK {
        let body = example(&document, method, path);
        let id = match *path {
            "/api/v1/users/{id}" if *method == "patch" => ada.as_ref().unwrap().id.clone(),
            path if path.contains("/users/") => other.clone(),
            _ => todo.clone(),
        };
        let token = ada.as_ref().map(|ada| ada.token.as_str());
        let verb: Method = method.to_uppercase().parse().unwrap();
        let answer = app
            .call(verb, &path.replace("{id}", &id), token, Some(body))
            .await;
        if *status == 422 {
            answer.assert_fields(&["token"]);
        }
        assert_eq!(
            answer.status.as_u16(),
            *status,
            "{method} {path}: {}",
            answer.body
        );
        match (*method, *path) {
            (_, "/api/v1/auth/register") => {
                ada = Some(Person {
                    id: answer.text_at("/user/id"),
                    email: answer.text_at("/user/email"),
                    token: answer.text_at("/token"),
                });
                // Some routes are for admins.
                let mut tx = app.db().begin().await.unwrap();
                sqlx::query("UPDATE users SET role = 'admin'")
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            }
            (_, "/api/v1/todos") => todo = answer.text_at("/id"),
            (_, "/api/v1/users") => other = answer.text_at("/id"),
            _ => {}
        }
    }
    app.settle().await;
}

#[test]
fn every_body_is_walked() {
    let document = serde_json::to_value(wiring::openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let walked = WALK.iter().any(|(m, p, _)| m == method && p == path);
            let has_body = operation["requestBody"].is_object();
            assert_eq!(walked, has_body, "{method} {path} {}", json!(WALK.len()));
        }
    }
}
