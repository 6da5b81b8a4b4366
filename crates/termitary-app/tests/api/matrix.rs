//! Every route for a stranger, another user, the owner and an admin. A route
//! that has no row here fails the test.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::Method;
use serde_json::{Value, json};
use termitary_app::wiring;

use crate::support::{PASSWORD, Person, TestApp};

/// A route, a valid body, and the status for a stranger, another user, the owner of `{id}`, and an
/// admin.
type Row = (&'static str, &'static str, Option<fn() -> Value>, [u16; 4]);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("post", "/api/v1/auth/register", Some(new_user), [201, 201, 201, 201]),
    ("post", "/api/v1/auth/login", Some(login), [200, 200, 200, 200]),
    ("post", "/api/v1/auth/logout", None, [401, 204, 204, 204]),
    ("post", "/api/v1/auth/password", Some(new_password), [401, 200, 200, 200]),
    ("post", "/api/v1/auth/password/forgot", Some(address), [202, 202, 202, 202]),
    ("post", "/api/v1/auth/password/reset", Some(dead_reset), [422, 422, 422, 422]),
    ("post", "/api/v1/auth/email/confirm", Some(dead_link), [422, 422, 422, 422]),
    ("post", "/api/v1/auth/email/resend", None, [401, 202, 202, 202]),
    ("get", "/api/v1/auth/me", None, [401, 200, 200, 200]),
    ("get", "/api/v1/auth/sessions", None, [401, 200, 200, 200]),
    ("delete", "/api/v1/auth/sessions", None, [401, 204, 204, 204]),
    ("delete", "/api/v1/auth/sessions/{id}", None, [401, 404, 204, 404]),
    ("get", "/api/v1/users", None, [401, 403, 403, 200]),
    ("post", "/api/v1/users", Some(new_user), [401, 403, 403, 201]),
    ("get", "/api/v1/users/{id}", None, [401, 404, 200, 200]),
    ("patch", "/api/v1/users/{id}", Some(new_name), [401, 404, 200, 200]),
    ("delete", "/api/v1/users/{id}", Some(own_password), [401, 404, 204, 204]),
    ("delete", "/api/v1/users/{id}/sessions", None, [401, 404, 204, 204]),
    ("post", "/api/v1/users/{id}/password", Some(new_password), [401, 403, 403, 204]),
    ("get", "/api/v1/people?q=owner", None, [401, 200, 200, 200]),
    ("get", "/api/v1/todos", None, [401, 200, 200, 200]),
    ("post", "/api/v1/todos", Some(new_title), [401, 201, 201, 201]),
    ("get", "/api/v1/todos/{id}", None, [401, 404, 200, 200]),
    ("patch", "/api/v1/todos/{id}", Some(new_title), [401, 404, 200, 200]),
    ("delete", "/api/v1/todos/{id}", None, [401, 404, 204, 204]),
    ("get", "/api/v1/todos/{id}/comments", None, [401, 404, 200, 200]),
    ("post", "/api/v1/todos/{id}/comments", Some(comment), [401, 404, 201, 201]),
    ("get", "/api/v1/activity", None, [401, 200, 200, 200]),
    ("get", "/api/v1/stream", None, [401, 200, 200, 200]),
    ("post", "/api/v1/stream/tickets", None, [401, 201, 201, 201]),
    ("get", "/healthz", None, [200, 200, 200, 200]),
    ("get", "/readyz", None, [200, 200, 200, 200]),
    ("get", "/metrics", None, [200, 200, 200, 200]),
    ("get", "/openapi.json", None, [200, 200, 200, 200]),
];

fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn new_user() -> Value {
    json!({ "email": format!("new{}@example.com", unique()), "name": "New", "password": PASSWORD })
}

fn login() -> Value {
    json!({ "email": "root@example.com", "password": PASSWORD })
}

fn new_password() -> Value {
    json!({ "currentPassword": PASSWORD, "newPassword": "another good one" })
}

fn address() -> Value {
    json!({ "email": "somebody@example.com" })
}

fn dead_link() -> Value {
    json!({ "token": "ttm_none" })
}

fn dead_reset() -> Value {
    json!({ "token": "ttm_none", "newPassword": "another good one" })
}

fn own_password() -> Value {
    json!({ "currentPassword": PASSWORD })
}

fn new_name() -> Value {
    json!({ "name": format!("Name {}", unique()) })
}

fn new_title() -> Value {
    json!({ "title": format!("Title {}", unique()) })
}

fn comment() -> Value {
    json!({ "text": "Yes." })
}

/// The protected objects: created anew for each call, because some calls delete them.
struct Scene {
    owner: Person,
    other: Person,
    admin: Person,
    todo: String,
    session: String,
}

impl Scene {
    async fn set(app: &TestApp) -> Self {
        let owner = app.register(&format!("Owner{}", unique())).await;
        let other = app.register(&format!("Other{}", unique())).await;
        let admin = app.register(&format!("Admin{}", unique())).await;
        // Written directly, so that the matrix does not depend on the code under test.
        let mut tx = app.db().begin().await.unwrap();
        sqlx::query("UPDATE users SET role = 'admin' WHERE email = $1")
            .bind(&admin.email)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let todo = app.todo(&owner, json!({ "title": "secret plans" })).await;
        app.login(&owner.email).await.assert_status(200);
        let sessions = app.get("/api/v1/auth/sessions", &owner).await.json();
        let session = sessions["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["current"] == false)
            .unwrap();
        Self {
            todo: todo["id"].as_str().unwrap().to_owned(),
            session: session["id"].as_str().unwrap().to_owned(),
            owner,
            other,
            admin,
        }
    }

    fn url(&self, path: &str) -> String {
        let id = match path {
            path if path.contains("/users/") => &self.owner.id,
            path if path.contains("/sessions/") => &self.session,
            _ => &self.todo,
        };
        path.replace("{id}", id)
    }

    fn callers(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("anonymous", None),
            ("another user", Some(&self.other.token)),
            ("the owner", Some(&self.owner.token)),
            ("an admin", Some(&self.admin.token)),
        ]
    }
}

fn method(name: &str) -> Method {
    name.to_uppercase().parse().unwrap()
}

async fn start() -> TestApp {
    TestApp::start_with(|settings| {
        settings.login_limits.registrations_per_source = 10_000;
        settings.login_limits.per_source = 10_000;
        settings.login_limits.resets_per_source = 10_000;
    })
    .await
}

#[tokio::test]
async fn every_route_is_open_to_exactly_those_it_is_for() {
    let app = start().await;
    app.admin().await;
    for (verb, path, body, expected) in ROWS {
        for (index, status) in expected.iter().enumerate() {
            let scene = Scene::set(&app).await;
            let (who, token) = scene.callers()[index];
            let answer = app
                .call(
                    method(verb),
                    &scene.url(path),
                    token,
                    body.map(|body| body()),
                )
                .await;
            assert_eq!(
                answer.status.as_u16(),
                *status,
                "{verb} {path} as {who}: {}",
                answer.body
            );
            if *status == 404 {
                assert!(!answer.body.contains("secret"), "{verb} {path} as {who}");
            }
        }
    }
    app.settle().await;
}

#[test]
fn every_route_has_a_row() {
    let document = serde_json::to_value(wiring::openapi()).unwrap();
    let routes: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .map(|verb| (verb.clone(), path.clone()))
        })
        .collect();
    let rows: BTreeSet<(String, String)> = ROWS
        .iter()
        .map(|(verb, path, ..)| {
            let path = path.split('?').next().unwrap();
            ((*verb).to_owned(), path.to_owned())
        })
        .collect();
    assert_eq!(routes, rows);
}

#[tokio::test]
async fn no_body_takes_a_field_that_it_does_not_name() {
    let app = start().await;
    app.admin().await;
    for (verb, path, body, _) in ROWS {
        let Some(body) = body else { continue };
        for field in [
            "isAdmin",
            "ownerId",
            "owner",
            "id",
            "createdAt",
            "passwordHash",
        ] {
            let scene = Scene::set(&app).await;
            let mut body = body();
            body[field] = json!("x");
            let answer = app
                .call(
                    method(verb),
                    &scene.url(path),
                    Some(&scene.admin.token),
                    Some(body),
                )
                .await;
            answer.assert_fields(&[field]);
        }
    }
    app.settle().await;
}
