//! The public contract as snapshots: a change shows in the review.

use axum::http::Method;
use serde_json::{Value, json};
use termitary_app::wiring;

use crate::support::TestApp;

#[test]
fn the_openapi_document() {
    insta::assert_json_snapshot!(wiring::openapi());
}

#[test]
fn the_event_map() {
    let map: Vec<Value> = wiring::registry()
        .map()
        .iter()
        .map(|entry| {
            let mut entry = serde_json::to_value(entry).unwrap();
            let schema = entry["schema"].take();
            entry["schema"] =
                json!({ "properties": schema["properties"], "required": schema["required"] });
            entry
        })
        .collect();
    insta::assert_json_snapshot!(map);
}

#[test]
fn the_registry_has_no_mistakes() {
    wiring::registry().check().unwrap();
}

#[tokio::test]
async fn every_documented_route_exists_and_no_other_method_does() {
    let app = TestApp::start().await;
    let document = serde_json::to_value(wiring::openapi()).unwrap();
    assert!(document["paths"].as_object().unwrap().len() >= 18);
    for (path, item) in document["paths"].as_object().unwrap() {
        let url = path.replace("{id}", "0190a0b0-0000-7000-8000-000000000000");
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            let documented = item.get(method.as_str().to_lowercase()).is_some();
            let answer = app.call(method.clone(), &url, None, None).await;
            assert_eq!(answer.status.as_u16() != 405, documented, "{method} {path}");
            assert_ne!(answer.status.as_u16(), 404, "{method} {path}");
        }
    }
}

#[test]
fn every_route_says_how_it_fails_and_every_post_takes_a_key() {
    let document = serde_json::to_value(wiring::openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(
                operation["summary"].is_string(),
                "{method} {path} has no summary"
            );
            if !path.starts_with("/api/") {
                continue;
            }
            assert!(operation["responses"]["503"].is_object(), "{method} {path}");
            let open = [
                "/api/v1/auth/register",
                "/api/v1/auth/login",
                "/api/v1/auth/email/confirm",
                "/api/v1/auth/password/forgot",
                "/api/v1/auth/password/reset",
            ]
            .contains(&path.as_str());
            assert_eq!(operation["security"].is_array(), !open, "{method} {path}");
            let keyed = operation["parameters"]
                .to_string()
                .contains("Idempotency-Key");
            assert_eq!(keyed, method == "post", "{method} {path}");
        }
    }
}
