//! A stolen session is not a stolen account, and a lost password is no lost one.

use axum::http::Method;
use serde_json::json;
use termitary::clock::{minutes, secs};

use crate::support::{Answer, PASSWORD, Person, TestApp};

const FORGOT: &str = "/api/v1/auth/password/forgot";
const RESET: &str = "/api/v1/auth/password/reset";
const ME: &str = "/api/v1/auth/me";

async fn post(app: &TestApp, path: &str, body: serde_json::Value) -> Answer {
    app.call(Method::POST, path, None, Some(body)).await
}

fn user(who: &Person) -> String {
    format!("/api/v1/users/{}", who.id)
}

#[tokio::test]
async fn another_address_needs_the_password_and_the_link_and_the_old_one_is_warned() {
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    let path = user(&ada);
    let new = "ada@elsewhere.example";
    app.patch(&path, &ada, json!({ "email": new }))
        .await
        .assert_fields(&["currentPassword"]);
    app.patch(
        &path,
        &ada,
        json!({ "email": new, "currentPassword": "not it" }),
    )
    .await
    .assert_fields(&["currentPassword"]);
    let asked = app
        .patch(
            &path,
            &ada,
            json!({ "email": new, "currentPassword": PASSWORD }),
        )
        .await;
    asked.assert_status(200);
    assert_eq!(asked.json()["email"], ada.email);
    assert_eq!(asked.json()["pendingEmail"], new);
    app.settle().await;
    app.try_login(new, PASSWORD).await.assert_problem(401);
    assert_eq!(app.subjects(new), ["Please confirm your new address"]);
    assert!(app.events("users.updated").await.is_empty());

    app.follow(new).await.assert_status(204);
    app.settle().await;
    assert_eq!(
        app.events("users.updated").await,
        [json!({ "id": ada.id, "email": new, "changes": { "email": new } })]
    );
    let me = app.get(ME, &ada).await.json();
    assert_eq!(me["email"], new);
    assert_eq!(me["emailConfirmed"], true);
    assert_eq!(me["pendingEmail"], serde_json::Value::Null);
    app.login(&ada.email).await.assert_problem(401);
    app.login(new).await.assert_status(200);
    assert_eq!(
        app.subjects(&ada.email).last().unwrap(),
        "The address of your account was changed"
    );
    let warning = app.app.mailer().sent().pop().unwrap();
    assert!(!warning.text.contains(new), "{warning:?}");
    app.settle().await;
}

#[tokio::test]
async fn a_withdrawn_address_cannot_be_confirmed_any_more() {
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    let path = user(&ada);
    let new = "ada@elsewhere.example";
    let body = json!({ "email": new, "currentPassword": PASSWORD });
    app.patch(&path, &ada, body).await.assert_status(200);
    app.settle().await;
    // Asked for again, it gets another mail.
    let body = json!({ "email": new, "currentPassword": PASSWORD });
    app.patch(&path, &ada, body).await.assert_status(200);
    app.settle().await;
    assert_eq!(app.subjects(new).len(), 2);
    let back = app.patch(&path, &ada, json!({ "email": ada.email })).await;
    back.assert_status(200);
    assert_eq!(back.json()["pendingEmail"], serde_json::Value::Null);
    app.follow(new).await.assert_fields(&["token"]);
    assert_eq!(app.get(ME, &ada).await.json()["email"], ada.email);
    app.settle().await;
}

#[tokio::test]
async fn a_new_password_withdraws_a_change_of_address_that_a_thief_asked_for() {
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    let evil = "evil@elsewhere.example";
    let body = json!({ "email": evil, "currentPassword": PASSWORD });
    app.patch(&user(&ada), &ada, body).await.assert_status(200);
    app.settle().await;
    // The present address hears of it at once.
    let subjects = app.subjects(&ada.email);
    assert_eq!(
        subjects.last().unwrap(),
        "Your account may get another address"
    );
    let warning = app.app.mailer().sent().pop().unwrap();
    assert!(!warning.text.contains(evil), "{warning:?}");

    post(&app, FORGOT, json!({ "email": ada.email }))
        .await
        .assert_status(202);
    app.settle().await;
    let token = app.link(&ada.email, "reset").unwrap();
    let body = json!({ "token": token, "newPassword": "a very different one" });
    post(&app, RESET, body).await.assert_status(204);
    app.follow(evil).await.assert_fields(&["token"]);
    let answer = app.try_login(&ada.email, "a very different one").await;
    answer.assert_status(200);
    assert_eq!(
        answer.json()["user"]["pendingEmail"],
        serde_json::Value::Null
    );
    app.settle().await;
}

#[tokio::test]
async fn asking_for_an_address_does_not_tell_whether_it_is_taken() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.member("Ada").await, app.member("Bob").await);
    let mut answers = Vec::new();
    for email in [bob.email.as_str(), "nobody@example.com"] {
        let body = json!({ "email": email, "currentPassword": PASSWORD });
        let answer = app.patch(&user(&ada), &ada, body).await;
        answer.assert_status(200);
        answers.push(answer.body.replace(email, "<email>"));
        app.settle().await;
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(
        app.subjects(&bob.email).last().unwrap(),
        "This address has an account already"
    );
    assert_eq!(
        app.subjects("nobody@example.com"),
        ["Please confirm your new address"]
    );
    // And nobody asks for many.
    for n in 0..3 {
        let email = format!("nobody{n}@example.com");
        let body = json!({ "email": email, "currentPassword": PASSWORD });
        app.patch(&user(&ada), &ada, body).await.assert_status(200);
    }
    let body = json!({ "email": "more@example.com", "currentPassword": PASSWORD });
    app.patch(&user(&ada), &ada, body).await.assert_problem(429);
    app.settle().await;
}

#[tokio::test]
async fn an_address_that_was_taken_meanwhile_is_not_moved_to() {
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    let new = "late@example.com";
    let body = json!({ "email": new, "currentPassword": PASSWORD });
    app.patch(&user(&ada), &ada, body).await.assert_status(200);
    app.settle().await;
    let late = app.register("Late").await;
    app.settle().await;
    let sent = app.app.mailer().sent();
    let start = format!("{}/confirm/", app.app.settings().public_url);
    let link = sent
        .iter()
        .filter(|mail| mail.subject == "Please confirm your new address")
        .flat_map(|mail| mail.text.lines())
        .find_map(|line| line.strip_prefix(&start))
        .unwrap();
    post(&app, "/api/v1/auth/email/confirm", json!({ "token": link }))
        .await
        .assert_problem(409);
    assert_eq!(app.get(ME, &late).await.json()["email"], new);
    assert_eq!(app.get(ME, &ada).await.json()["email"], ada.email);
    app.settle().await;
}

#[tokio::test]
async fn deleting_an_account_needs_the_password_of_whoever_does_it() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let root = app.admin().await;
    app.delete(&user(&ada), &ada)
        .await
        .assert_fields(&["currentPassword"]);
    app.delete(&user(&ada), &root)
        .await
        .assert_fields(&["currentPassword"]);
    let wrong = json!({ "currentPassword": "not it" });
    app.call(Method::DELETE, &user(&ada), Some(&ada.token), Some(wrong))
        .await
        .assert_fields(&["currentPassword"]);
    app.get(ME, &ada).await.assert_status(200);
    app.delete_user(&ada.id, &ada).await.assert_status(204);
    app.delete_user(&bob.id, &root).await.assert_status(204);
    app.get(ME, &bob).await.assert_problem(401);
    app.settle().await;
}

#[tokio::test]
async fn a_thief_of_a_session_cannot_guess_the_password_with_it() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let wrong = || json!({ "currentPassword": "not it" });
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let answer = app
            .call(Method::DELETE, &user(&ada), Some(&ada.token), Some(wrong()))
            .await;
        statuses.push(answer.status.as_u16());
    }
    assert!(statuses.ends_with(&[429]), "{statuses:?}");
    app.settle().await;
}

#[tokio::test]
async fn a_forgotten_password_is_set_anew_by_a_link_that_works_once() {
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    let second = app.login(&ada.email).await.text_at("/token");
    for email in [ada.email.as_str(), "nobody@example.com"] {
        let answer = post(&app, FORGOT, json!({ "email": email })).await;
        answer.assert_status(202);
        assert!(answer.body.is_empty());
    }
    app.settle().await;
    assert!(app.subjects("nobody@example.com").is_empty());
    let token = app.link(&ada.email, "reset").unwrap();
    let hashes: Vec<Vec<u8>> = sqlx::query_scalar("SELECT token_hash FROM links")
        .fetch_all(&mut *app.db().read().await.unwrap())
        .await
        .unwrap();
    assert!(hashes.iter().all(|hash| hash.len() == 32));

    let new = "a very different one";
    post(
        &app,
        RESET,
        json!({ "token": token, "newPassword": "password" }),
    )
    .await
    .assert_fields(&["newPassword"]);
    post(
        &app,
        RESET,
        json!({ "token": "ttm_wrong", "newPassword": new }),
    )
    .await
    .assert_fields(&["token"]);
    let reset = || post(&app, RESET, json!({ "token": token, "newPassword": new }));
    reset().await.assert_status(204);
    reset().await.assert_fields(&["token"]);
    for token in [&ada.token, &second] {
        app.call(Method::GET, ME, Some(token), None)
            .await
            .assert_problem(401);
    }
    app.login(&ada.email).await.assert_problem(401);
    app.try_login(&ada.email, new).await.assert_status(200);
    app.settle().await;
    assert!(
        app.subjects(&ada.email)
            .contains(&"Your password was changed".to_owned())
    );
}

#[tokio::test]
async fn a_link_to_a_new_password_works_for_an_hour() {
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    post(&app, FORGOT, json!({ "email": ada.email })).await;
    app.settle().await;
    let token = app.link(&ada.email, "reset").unwrap();
    app.db().clock().advance(minutes(60) + secs(1));
    let body = json!({ "token": token, "newPassword": "a very different one" });
    post(&app, RESET, body).await.assert_fields(&["token"]);
    app.login(&ada.email).await.assert_status(200);
    app.worker.advance(minutes(60)).await;
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM links WHERE purpose = 'reset'")
        .fetch_one(&mut *app.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn asking_for_links_in_somebodys_name_neither_floods_them_nor_kills_their_link() {
    let app = TestApp::start_with(|settings| settings.login_limits.resets_per_source = 1_000).await;
    let ada = app.member("Ada").await;
    post(&app, FORGOT, json!({ "email": ada.email })).await;
    app.settle().await;
    let token = app.link(&ada.email, "reset").unwrap();
    for _ in 0..40 {
        post(&app, FORGOT, json!({ "email": ada.email }))
            .await
            .assert_status(202);
    }
    app.settle().await;
    assert_eq!(resets_to(&app, &ada), 1, "the link is a few minutes old");
    let body = json!({ "token": token, "newPassword": "a very different one" });
    post(&app, RESET, body).await.assert_status(204);
    app.settle().await;
}

fn resets_to(app: &TestApp, who: &Person) -> usize {
    let subjects = app.subjects(&who.email);
    let resets = subjects.iter().filter(|it| *it == "A new password");
    resets.count()
}

#[tokio::test]
async fn requests_of_others_leave_the_owner_a_link_that_works_at_any_time_of_the_day() {
    let app = TestApp::start_with(|settings| settings.login_limits.resets_per_source = 1_000).await;
    let ada = app.member("Ada").await;
    for _ in 0..24 * 2 {
        app.worker.advance(minutes(30)).await;
        post(&app, FORGOT, json!({ "email": ada.email })).await;
        app.settle().await;
        let token = app.link(&ada.email, "reset").unwrap();
        let path = format!("/reset/{token}");
        app.call(Method::GET, &path, None, None)
            .await
            .assert_status(200);
    }
    let sent = resets_to(&app, &ada);
    assert!((24..=10 + 24).contains(&sent), "{sent} mails in a day");
}

#[tokio::test]
async fn mails_that_others_cause_use_up_none_of_an_owners_links() {
    let app = TestApp::start_with(|settings| settings.login_limits.links_per_account = 1_000).await;
    let eve = app.member("Eve").await;
    let ask = async |email: &str| {
        let body = json!({ "email": email, "currentPassword": PASSWORD });
        app.patch(&user(&eve), &eve, body).await
    };
    for _ in 0..5 {
        for address in ["ada@example.com", "ada+todos@example.com"] {
            ask(address).await.assert_status(200);
            app.settle().await;
        }
    }
    let sent = app.app.mailer().sent();
    let to_ada = sent.iter().filter(|mail| mail.to.starts_with("ada"));
    // Sub-addresses are one mailbox, and no account alone gets the last of its mails.
    assert_eq!(to_ada.count(), 2);
    // Her own welcome carries the link all the same.
    let ada = app.member("Ada").await;
    for n in 0..20 {
        let todo = json!({ "title": format!("todo {n}"), "assignee": ada.id });
        app.todo(&eve, todo).await;
        ask("ada@example.com").await.assert_status(200);
    }
    app.settle().await;
    post(&app, FORGOT, json!({ "email": ada.email })).await;
    app.settle().await;
    assert_eq!(resets_to(&app, &ada), 1);
}

#[tokio::test]
async fn one_source_asks_for_so_many_links_only() {
    let app = TestApp::start_with(|settings| settings.login_limits.resets_per_source = 3).await;
    for n in 0..3 {
        post(
            &app,
            FORGOT,
            json!({ "email": format!("user{n}@example.com") }),
        )
        .await
        .assert_status(202);
    }
    let refused = post(&app, FORGOT, json!({ "email": "user3@example.com" })).await;
    refused.assert_problem(429);
    app.settle().await;
}

#[tokio::test]
async fn whoever_owns_an_address_gets_back_an_account_that_somebody_else_registered_there() {
    let app = TestApp::start().await;
    let squatter = app.register("Ada").await;
    app.settle().await;
    post(&app, FORGOT, json!({ "email": squatter.email })).await;
    app.settle().await;
    let token = app.link(&squatter.email, "reset").unwrap();
    let new = "a very different one";
    post(&app, RESET, json!({ "token": token, "newPassword": new }))
        .await
        .assert_status(204);
    app.get(ME, &squatter).await.assert_problem(401);
    let mine = app.try_login(&squatter.email, new).await;
    mine.assert_status(200);
    assert_eq!(mine.json()["user"]["emailConfirmed"], true);
    app.settle().await;
}

#[tokio::test]
async fn an_admin_ends_sessions_and_sets_a_password_with_their_own() {
    let app = TestApp::start().await;
    let (root, ada) = (app.admin().await, app.member("Ada").await);
    app.delete(&format!("{}/sessions", user(&ada)), &root)
        .await
        .assert_status(204);
    app.get(ME, &ada).await.assert_problem(401);
    app.get(ME, &root).await.assert_status(200);

    let new = "a very different one";
    let path = format!("{}/password", user(&ada));
    let wrong = json!({ "newPassword": new, "currentPassword": "not it" });
    app.post(&path, &root, wrong)
        .await
        .assert_fields(&["currentPassword"]);
    let token = app.login(&ada.email).await.text_at("/token");
    let right = json!({ "newPassword": new, "currentPassword": PASSWORD });
    app.post(&path, &root, right).await.assert_status(204);
    app.call(Method::GET, ME, Some(&token), None)
        .await
        .assert_problem(401);
    app.try_login(&ada.email, new).await.assert_status(200);
    app.settle().await;
    assert!(
        app.subjects(&ada.email)
            .contains(&"Your password was changed".to_owned())
    );
}
