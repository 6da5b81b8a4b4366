//! Registration, login, sessions, users.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;
use termitary::clock::{days, hours, secs};

use crate::support::{Answer, PASSWORD, TestApp};

const ME: &str = "/api/v1/auth/me";
const SESSIONS: &str = "/api/v1/auth/sessions";

#[tokio::test]
async fn a_user_registers_and_is_logged_in_at_once() {
    let app = TestApp::start().await;
    let body = json!({ "email": " Ada@Example.com ", "name": "Ada", "password": PASSWORD });
    let answer = app
        .call(Method::POST, "/api/v1/auth/register", None, Some(body))
        .await;
    answer.assert_status(201);
    assert_eq!(answer.json()["user"]["email"], "ada@example.com");
    assert_eq!(answer.json()["user"]["role"], "user");
    assert!(!answer.body.contains("argon2"));

    let token = answer.text_at("/token");
    let me = app.call(Method::GET, ME, Some(&token), None).await;
    me.assert_status(200);
    assert_eq!(me.json(), answer.json()["user"]);
    app.settle().await;
}

#[tokio::test]
async fn after_logout_the_token_is_worth_nothing() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.call(Method::POST, "/api/v1/auth/logout", Some(&ada.token), None)
        .await
        .assert_status(204);
    app.get(ME, &ada).await.assert_problem(401);
    app.settle().await;
}

/// The users to whom the tokens belong, according to the API; `None` if it refuses.
async fn asked_at_once(app: &TestApp, tokens: &[&str]) -> Vec<Option<String>> {
    let ask = async |token: &&str| {
        let answer = app
            .call(Method::GET, "/api/v1/auth/me", Some(token), None)
            .await;
        (answer.status == 200).then(|| answer.text_at("/id"))
    };
    futures_util::future::join_all(tokens.iter().map(ask)).await
}

#[tokio::test]
async fn whoever_asks_beside_others_is_taken_for_nobody_else() {
    let app = TestApp::start().await;
    let (ada, ben) = (app.register("Ada").await, app.register("Ben").await);
    let some = [ada.token.as_str(), "tty_wrong", ben.token.as_str(), ""];
    let tokens: Vec<_> = some.iter().cycle().take(400).copied().collect();
    let answers = asked_at_once(&app, &tokens).await;
    for (token, answer) in tokens.iter().zip(answers) {
        let expected = [&ada, &ben].into_iter().find(|who| who.token == *token);
        assert_eq!(answer, expected.map(|who| who.id.clone()), "{token}");
    }
    app.settle().await;
}

#[tokio::test]
async fn a_session_that_another_process_ended_is_refused_at_once_under_load() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let other = termitary::Db::open(&app.url()).await.unwrap();
    let before = vec![ada.token.as_str(); 50];
    let load = asked_at_once(&app, &before);
    let end = async {
        let mut tx = other.begin().await.unwrap();
        sqlx::query("DELETE FROM sessions")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        asked_at_once(&app, &before).await
    };
    let (_, after) = futures_util::future::join(load, end).await;
    assert_eq!(after, vec![None; 50]);
    app.settle().await;
}

#[tokio::test]
async fn a_token_is_stored_as_a_hash_only() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let stored: Vec<u8> = sqlx::query_scalar("SELECT token_hash FROM sessions")
        .fetch_one(&mut *app.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(stored.len(), 32);
    assert!(!ada.token.as_bytes().windows(32).any(|part| part == stored));
    app.settle().await;
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one_or_all_but_this() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let second = app.login(&ada.email).await.text_at("/token");
    let third = app.login(&ada.email).await.text_at("/token");

    let list = app.get(SESSIONS, &ada).await.json();
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    assert_eq!(
        items.iter().filter(|item| item["current"] == true).count(),
        1
    );
    assert_eq!(items[0]["ipAddress"], "192.0.2.1");

    let other = items.iter().find(|item| item["current"] == false).unwrap();
    let path = format!("{SESSIONS}/{}", other["id"].as_str().unwrap());
    app.delete(&path, &ada).await.assert_status(204);
    app.delete(&path, &ada).await.assert_problem(404);
    app.delete(SESSIONS, &ada).await.assert_status(204);
    assert_eq!(
        app.get(SESSIONS, &ada).await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    for token in [second, third] {
        app.call(Method::GET, ME, Some(&token), None)
            .await
            .assert_problem(401);
    }
    app.settle().await;
}

#[tokio::test]
async fn an_account_has_so_many_sessions_and_a_further_login_ends_the_oldest() {
    let app = TestApp::start_with(|settings| settings.sessions_per_user = 3).await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let mut tokens = vec![ada.token.clone()];
    for _ in 0..4 {
        app.worker.advance(secs(1)).await;
        tokens.push(app.login(&ada.email).await.text_at("/token"));
    }
    for (n, token) in tokens.iter().enumerate() {
        let status = if n < 2 { 401 } else { 200 };
        let me = app.call(Method::GET, ME, Some(token), None).await;
        me.assert_status(status);
    }
    app.get(ME, &bob).await.assert_status(200);
    app.settle().await;
}

#[tokio::test]
async fn a_session_ends_when_idle_for_two_weeks_and_lives_on_when_used() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    for _ in 0..2 {
        app.db().clock().advance(days(10));
        app.get(ME, &ada).await.assert_status(200);
    }
    app.get(ME, &bob).await.assert_problem(401);
    app.settle().await;
}

#[tokio::test]
async fn a_session_ends_after_ninety_days_however_busy() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for _ in 0..8 {
        app.db().clock().advance(days(11));
        app.get(ME, &ada).await.assert_status(200);
    }
    app.db().clock().advance(days(3));
    app.get(ME, &ada).await.assert_problem(401);
    app.settle().await;
}

#[tokio::test]
async fn the_hourly_check_removes_sessions_that_are_over() {
    let app = TestApp::start().await;
    app.register("Ada").await;
    app.worker.advance(days(15)).await;
    app.worker.advance(hours(1)).await;
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sessions")
        .fetch_one(&mut *app.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(left, 0);
    let checks = app.events("users.inactive.check").await;
    assert!(
        checks
            .iter()
            .any(|check| check["triggeredAt"] == "2026-01-30T13:00:00Z"),
        "{checks:?}"
    );
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_get_the_same_answer() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let wrong = app.try_login(&ada.email, "not the password").await;
    let unknown = app
        .try_login("nobody@example.com", "not the password")
        .await;
    wrong.assert_problem(401);
    assert_eq!((wrong.status, &wrong.body), (unknown.status, &unknown.body));
    app.settle().await;
}

#[tokio::test]
async fn an_address_with_an_account_cannot_be_registered_again() {
    let app = TestApp::start().await;
    app.register("Ada").await;
    let body = json!({ "email": "ADA@example.com", "name": "Eve", "password": PASSWORD });
    let answer = app
        .call(Method::POST, "/api/v1/auth/register", None, Some(body))
        .await;
    answer.assert_fields(&["email"]);
    assert!(
        !answer.body.contains("exists") && !answer.body.contains("already"),
        "{}",
        answer.body
    );
    app.settle().await;
}

#[tokio::test]
async fn bad_registrations_name_every_field() {
    let app = TestApp::start().await;
    for (body, fields) in [
        (
            json!({ "email": "nope", "name": "", "password": PASSWORD }),
            vec!["email", "name"],
        ),
        (
            json!({ "email": "a@b.example", "name": "A", "password": "short" }),
            vec!["password"],
        ),
        (
            json!({ "email": "a@b.example", "name": "A", "password": "Password123" }),
            vec!["password"],
        ),
        (
            json!({ "email": "a@b.example", "name": "A\nB", "password": PASSWORD }),
            vec!["name"],
        ),
        (
            json!({ "email": "a@b.example", "password": PASSWORD }),
            vec!["name"],
        ),
        (
            json!({ "email": 7, "name": "A", "password": PASSWORD }),
            vec!["email"],
        ),
        (
            json!({ "email": "a@b.example", "name": "A", "password": PASSWORD, "role": "admin" }),
            vec!["role"],
        ),
    ] {
        let answer = app
            .call(Method::POST, "/api/v1/auth/register", None, Some(body))
            .await;
        answer.assert_fields(&fields);
    }
}

#[tokio::test]
async fn guessing_at_one_account_has_to_wait_longer_and_longer() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for _ in 0..10 {
        app.try_login(&ada.email, "a wrong guess")
            .await
            .assert_problem(401);
    }
    let last = app.try_login(&ada.email, "a wrong guess").await;
    // The tenth failure was the last free one: its wait has begun.
    last.assert_problem(429);
    assert_eq!(last.header("retry-after"), "5");
    // Also with the right password, and with a forged source.
    app.login(&ada.email).await.assert_problem(429);

    app.db().clock().advance(secs(6));
    app.try_login(&ada.email, "a wrong guess")
        .await
        .assert_problem(401);
    assert_eq!(app.login(&ada.email).await.header("retry-after"), "10");
    app.db().clock().advance(secs(11));
    app.login(&ada.email).await.assert_status(200);
    app.try_login(&ada.email, "a wrong guess")
        .await
        .assert_problem(401);
    app.settle().await;
}

async fn login_from(app: &TestApp, source: &str, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    let request = Request::post("/api/v1/auth/login")
        .header("content-type", "application/json")
        .header("x-forwarded-for", source)
        .body(Body::from(body.to_string()))
        .unwrap();
    app.send(request).await
}

#[tokio::test]
async fn a_stranger_who_guesses_does_not_keep_the_owner_out() {
    let app = TestApp::start_with(|settings| {
        settings.trusted_proxy_hops = 1;
        settings.login_limits.per_account_elsewhere = 30;
    })
    .await;
    let ada = app.register("Ada").await;
    let home = "198.51.100.7";
    login_from(&app, home, &ada.email, PASSWORD)
        .await
        .assert_status(200);
    for _ in 0..10 {
        login_from(&app, "203.0.113.1", &ada.email, "a wrong guess")
            .await
            .assert_problem(401);
    }
    login_from(&app, "203.0.113.1", &ada.email, PASSWORD)
        .await
        .assert_problem(429);
    // Neither at home nor anywhere else.
    for source in [home, "198.51.100.200", "[2001:db8::1]:4711"] {
        login_from(&app, source, &ada.email, PASSWORD)
            .await
            .assert_status(200);
    }
    // Many strangers use up the limit of all unknown networks, but no limit of a known one.
    let mut limited = 0;
    for n in 0..60 {
        let source = format!("203.0.113.{}", n + 2);
        let answer = login_from(&app, &source, &ada.email, "a wrong guess").await;
        limited += usize::from(answer.status == 429);
    }
    assert_eq!(limited, 60 - 20, "ten of thirty were guessed before");
    login_from(&app, "192.0.2.77", &ada.email, PASSWORD)
        .await
        .assert_problem(429);
    for source in [home, "198.51.100.200", "2001:db8::99"] {
        login_from(&app, source, &ada.email, PASSWORD)
            .await
            .assert_status(200);
    }
    // A failed login of the owner does not reset the strangers' limit.
    login_from(&app, "203.0.113.99", &ada.email, "a wrong guess")
        .await
        .assert_problem(429);
    app.settle().await;
}

#[tokio::test]
async fn who_waits_out_the_longest_wait_gets_one_guess_and_not_all_again() {
    let app = TestApp::start_with(|settings| settings.login_limits.per_account = 2).await;
    let ada = app.register("Ada").await;
    let guess = async || app.try_login(&ada.email, "a wrong guess").await;
    let mut longest = 0;
    for _ in 0..31 {
        let answer = guess().await;
        let wait: u64 = answer.header("retry-after").parse().unwrap_or(0);
        longest = longest.max(wait);
        app.db().clock().advance(secs(wait));
    }
    assert_eq!(longest, 15 * 60);
    guess().await.assert_problem(401);
    guess().await.assert_problem(429);
    app.db().clock().advance(secs(2 * 15 * 60));
    guess().await.assert_problem(401);
    guess().await.assert_problem(401);
    app.settle().await;
}

#[tokio::test]
async fn a_wait_that_a_clock_ahead_wrote_keeps_nobody_out_until_that_day() {
    let app = TestApp::start_with(|settings| settings.login_limits.per_account = 2).await;
    let ada = app.register("Ada").await;
    for _ in 0..3 {
        app.try_login(&ada.email, "a wrong guess").await;
    }
    app.login(&ada.email).await.assert_problem(429);
    let mut tx = app.db().begin().await.unwrap();
    // As ten days ahead it would have been written.
    sqlx::query("UPDATE attempt_limits SET blocked_until_us = blocked_until_us + 864000000000, last_us = last_us + 864000000000")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    app.login(&ada.email).await.assert_status(200);
    app.settle().await;
}

#[tokio::test]
async fn guessing_from_one_address_is_limited_over_all_accounts() {
    let app = TestApp::start_with(|settings| settings.login_limits.per_source = 5).await;
    let ada = app.register("Ada").await;
    for n in 0..5 {
        app.try_login(&format!("user{n}@example.com"), "a wrong guess")
            .await
            .assert_problem(401);
    }
    app.login(&ada.email).await.assert_problem(429);
    app.settle().await;
}

#[tokio::test]
async fn a_changed_password_ends_every_session() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let second = app.login(&ada.email).await.text_at("/token");
    let path = "/api/v1/auth/password";
    let new = "a very different one";
    let wrong = json!({ "currentPassword": "not it", "newPassword": new });
    app.post(path, &ada, wrong)
        .await
        .assert_fields(&["currentPassword"]);

    let body = json!({ "currentPassword": PASSWORD, "newPassword": new });
    let answer = app.post(path, &ada, body).await;
    answer.assert_status(200);
    for token in [&ada.token, &second] {
        app.call(Method::GET, ME, Some(token), None)
            .await
            .assert_problem(401);
    }
    app.call(Method::GET, ME, Some(&answer.text_at("/token")), None)
        .await
        .assert_status(200);
    app.login(&ada.email).await.assert_problem(401);
    app.try_login(&ada.email, new).await.assert_status(200);
    let updated = app.events("users.updated").await;
    assert_eq!(updated.len(), 1);
    assert!(!updated[0].to_string().contains(new));
    app.settle().await;
}

#[tokio::test]
async fn the_last_admin_can_neither_go_nor_step_down() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    let path = format!("/api/v1/users/{}", root.id);
    app.delete_user(&root.id, &root).await.assert_problem(409);
    app.patch(&path, &root, json!({ "role": "user" }))
        .await
        .assert_problem(409);
    app.settle().await;
}

#[tokio::test]
async fn a_change_of_role_ends_the_users_sessions_and_only_admins_make_it() {
    let app = TestApp::start().await;
    let (root, ada) = (app.admin().await, app.register("Ada").await);
    let path = format!("/api/v1/users/{}", ada.id);
    app.patch(&path, &ada, json!({ "role": "admin" }))
        .await
        .assert_problem(403);
    app.patch(&path, &root, json!({ "role": "admin" }))
        .await
        .assert_status(200);
    app.get(ME, &ada).await.assert_problem(401);
    app.settle().await;
}

#[tokio::test]
async fn a_deleted_user_is_gone_at_once_and_a_worker_removes_their_sessions() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.delete_user(&ada.id, &ada).await.assert_status(204);
    app.get(ME, &ada).await.assert_problem(401);
    app.settle().await;
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sessions")
        .fetch_one(&mut *app.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn admins_list_users_page_by_page() {
    let app = TestApp::start().await;
    let root = app.admin().await;
    for name in ["Ada", "Bob", "Cleo", "Dan"] {
        app.register(name).await;
    }
    let mut names = Vec::new();
    let mut path = "/api/v1/users?limit=2".to_owned();
    for _ in 0..3 {
        let page = app.get(&path, &root).await.json();
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|user| user["id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        path = format!("/api/v1/users?limit=2&cursor={cursor}");
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5);
    app.settle().await;
}

#[tokio::test]
async fn too_many_passwords_at_once_are_refused_not_queued_for_ever() {
    let app = TestApp::start_with(|settings| settings.login_limits.per_source = 1_000).await;
    let ada = app.register("Ada").await;
    let logins = (0..200).map(|n| {
        let email = if n == 0 {
            ada.email.clone()
        } else {
            format!("user{n}@example.com")
        };
        let app = &app;
        async move { app.try_login(&email, "a wrong guess").await.status.as_u16() }
    });
    let statuses = futures_util::future::join_all(logins).await;
    assert!(
        statuses
            .iter()
            .all(|status| [401, 429, 503].contains(status)),
        "{statuses:?}"
    );
    app.get(ME, &ada).await.assert_status(200);
    app.settle().await;
}
