//! Pages for people who follow a link in a mail.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use crate::support::{Answer, PASSWORD, Person, TestApp};

async fn open(app: &TestApp, path: &str) -> Answer {
    app.call(Method::GET, path, None, None).await
}

/// Sends the form of a page, as a browser does.
async fn submit(app: &TestApp, path: &str, fields: &str) -> Answer {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(fields.to_owned()));
    app.send(request.unwrap()).await
}

/// A page of this status, under a policy that allows no script and no other site.
#[track_caller]
fn assert_page(answer: &Answer, status: u16, words: &str) {
    answer.assert_status(status);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    let policy = answer.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-")
            && policy.contains("form-action 'self'")
            && policy.contains("frame-ancestors 'none'")
            && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.body.contains(words), "{words}: {}", answer.body);
    assert!(!answer.body.contains("<script"), "{}", answer.body);
}

async fn confirmed(app: &TestApp, who: &Person) -> bool {
    app.get("/api/v1/auth/me", who).await.json()["emailConfirmed"] == true
}

#[tokio::test]
async fn an_address_is_confirmed_by_the_button_and_not_by_looking_at_the_page() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.settle().await;
    let path = format!("/confirm/{}", app.link(&ada.email, "confirm").unwrap());
    for _ in 0..2 {
        assert_page(&open(&app, &path).await, 200, "Confirm this address");
    }
    assert!(!confirmed(&app, &ada).await);
    assert_page(&submit(&app, &path, "").await, 200, "is confirmed");
    assert!(confirmed(&app, &ada).await);
    assert_page(&open(&app, &path).await, 410, "does not work any more");
    assert_page(&submit(&app, &path, "").await, 422, "is not confirmed");
    assert_page(&open(&app, "/confirm/%3Cscript%3E").await, 410, "not work");
    app.settle().await;
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_on_pages() {
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    assert_page(&open(&app, "/forgot").await, 200, "Send the link");
    for email in ["ada%40example.com", "nobody%40example.com"] {
        let sent = submit(&app, "/forgot", &format!("email={email}")).await;
        assert_page(&sent, 202, "If this address has an account");
    }
    app.settle().await;
    let path = format!("/reset/{}", app.link(&ada.email, "reset").unwrap());
    assert_page(&open(&app, &path).await, 200, "Set a new password");
    for (fields, words) in [
        ("password=one+good+one&again=another", "not the same"),
        ("password=short&again=short", "This password"),
    ] {
        assert_page(&submit(&app, &path, fields).await, 422, words);
    }
    let fields = "password=a+very+different+one&again=a+very+different+one";
    assert_page(&submit(&app, &path, fields).await, 200, "is set");
    app.try_login(&ada.email, "a very different one")
        .await
        .assert_status(200);
    assert_page(&submit(&app, &path, fields).await, 422, "was not set");
    assert_page(&open(&app, &path).await, 410, "Ask for a new one");
    app.settle().await;
}

#[tokio::test]
async fn the_link_of_a_mail_shows_its_todo_to_whoever_may_see_it() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.member("Ada").await, app.member("Bob").await);
    app.register("Eve").await;
    let body = json!({
        "title": "<script>alert('hi')</script>",
        "description": "all & more",
        "priority": "high",
        "dueDate": "9999-12-31",
        "assignee": bob.id
    });
    app.todo(&ada, body).await;
    app.settle().await;
    let start = format!("{}/todos/", app.app.settings().public_url);
    let mails = app.app.mailer().sent();
    let lines = mails.iter().flat_map(|mail| mail.text.lines());
    let line = lines.map(str::trim).find(|line| line.starts_with(&start));
    let path = line.unwrap()[start.len() - "/todos/".len()..].to_owned();

    let asked = open(&app, &path).await;
    assert_page(&asked, 200, "Sign in to read this todo");
    assert_eq!(open(&app, "/todos/none").await.body, asked.body);
    let sign_in = async |email: &str, password: &str| {
        let fields = format!("email={email}&password={password}");
        submit(&app, &path, &fields).await
    };
    let password = PASSWORD.replace(' ', "+");
    let shown = sign_in("bob%40example.com", &password).await;
    assert_page(
        &shown,
        200,
        "&lt;script&gt;alert(&#39;hi&#39;)&lt;/script&gt;",
    );
    for words in ["all &amp; more", "high", "9999-12-31T00:00:00Z"] {
        assert!(shown.body.contains(words), "{words}: {}", shown.body);
    }
    let stranger = sign_in("eve%40example.com", &password).await;
    assert_page(&stranger, 404, "does not exist");
    let wrong = sign_in("bob%40example.com", "not+it").await;
    assert_page(&wrong, 401, "is wrong");
    assert!(!wrong.body.contains("alert("));
    // Nobody stays signed in.
    let sessions = app.get("/api/v1/auth/sessions", &bob).await.json();
    assert_eq!(sessions["items"].as_array().unwrap().len(), 1);
    app.settle().await;
}
