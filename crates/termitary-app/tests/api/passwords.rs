//! Passwords at their real cost, and timing that reveals nothing.

use std::time::{Duration, Instant};

use axum::http::Method;
use serde_json::json;
use termitary_app::app::App;
use termitary_app::mailer::Mailer;
use termitary_app::settings::{HashCost, Settings};
use termitary_app::wiring;
use tokio_util::sync::CancellationToken;

use crate::support::{Answer, PASSWORD, TestApp};

/// The application as in production: hashing has its real cost.
async fn real() -> TestApp {
    TestApp::start_with(|settings| {
        settings.hash_cost = HashCost::default();
        settings.login_limits.per_account = 1_000;
        settings.login_limits.per_source = 1_000;
    })
    .await
}

async fn register(app: &TestApp, email: &str) -> Answer {
    let body = json!({ "email": email, "name": "Test", "password": PASSWORD });
    app.call(Method::POST, "/api/v1/auth/register", None, Some(body))
        .await
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Without the same work for both, one response would take a hundredth of the other's time. The
/// tolerance here is far from that on any machine.
fn assert_alike(one: Vec<Duration>, other: Vec<Duration>) {
    let (one, other) = (median(one), median(other));
    assert!(one < other * 3 && other < one * 3, "{one:?} and {other:?}");
}

#[tokio::test]
async fn a_login_takes_as_long_for_an_unknown_address_as_for_a_wrong_password() {
    let app = real().await;
    let ada = app.register("Ada").await;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for n in 0..15 {
        let start = Instant::now();
        let wrong = app.try_login(&ada.email, "not the password").await;
        known.push(start.elapsed());
        let start = Instant::now();
        let nobody = app
            .try_login(&format!("user{n}@example.com"), "not the password")
            .await;
        unknown.push(start.elapsed());
        assert_eq!((wrong.status, &wrong.body), (nobody.status, &nobody.body));
    }
    assert_alike(known, unknown);
    app.settle().await;
}

#[tokio::test]
async fn a_registration_takes_as_long_for_a_taken_address_as_for_a_free_one() {
    let app = real().await;
    register(&app, "ada@example.com").await.assert_status(201);
    let (mut taken, mut free) = (Vec::new(), Vec::new());
    for n in 0..15 {
        let start = Instant::now();
        register(&app, "ada@example.com").await.assert_problem(422);
        taken.push(start.elapsed());
        let start = Instant::now();
        register(&app, &format!("user{n}@example.com"))
            .await
            .assert_status(201);
        free.push(start.elapsed());
    }
    assert_alike(taken, free);
    app.settle().await;
}

#[tokio::test]
async fn a_login_renews_a_hash_that_was_made_with_less_work() {
    let mut app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let stored = async |app: &TestApp| -> String {
        sqlx::query_scalar("SELECT password_hash FROM users")
            .fetch_one(&mut *app.db().read().await.unwrap())
            .await
            .unwrap()
    };
    let old = stored(&app).await;
    assert!(old.contains("m=8,t=1"), "{old}");

    let dearer = Settings {
        hash_cost: HashCost {
            memory_kib: 64,
            passes: 2,
            lanes: 1,
        },
        ..Settings::default()
    };
    let broker = app.app.broker().clone();
    let dearer = App::new(broker, Mailer::memory(), dearer);
    app.router = wiring::router(dearer, CancellationToken::new());
    app.try_login(&ada.email, "not the password")
        .await
        .assert_problem(401);
    assert_eq!(stored(&app).await, old, "a wrong password changes nothing");
    app.login(&ada.email).await.assert_status(200);
    let new = stored(&app).await;
    assert!(new.contains("m=64,t=2"), "{new}");
    app.login(&ada.email).await.assert_status(200);
    assert_eq!(stored(&app).await, new, "once is enough");
    // Nobody was logged out by it.
    app.get("/api/v1/auth/me", &ada).await.assert_status(200);
    app.settle().await;
}

#[tokio::test]
async fn registrations_from_one_address_are_limited() {
    let app =
        TestApp::start_with(|settings| settings.login_limits.registrations_per_source = 3).await;
    for n in 0..3 {
        register(&app, &format!("user{n}@example.com"))
            .await
            .assert_status(201);
    }
    let refused = register(&app, "user3@example.com").await;
    refused.assert_problem(429);
    assert_eq!(refused.header("retry-after"), "5");
    app.db().clock().advance(Duration::from_secs(6));
    register(&app, "user3@example.com").await.assert_status(201);
    app.settle().await;
}
