//! Nobody turns this service against a mailbox.

use axum::http::Method;
use serde_json::json;
use termitary::clock::hours;
use termitary_app::settings::MailLimit;

use crate::support::{PASSWORD, Person, TestApp};

/// Every subject there is.
const SUBJECTS: &[&str] = &[
    "Welcome to Termitary: please confirm your address",
    "Welcome to Termitary",
    "Please confirm your address",
    "Please confirm your new address",
    "This address has an account already",
    "The address of your account was changed",
    "Your password was changed",
    "A new password",
    "A todo was assigned to you",
    "A todo is overdue",
    "A login from a new device",
];

async fn assign(app: &TestApp, by: &Person, to: &Person, count: usize) {
    for n in 0..count {
        let body = json!({ "title": format!("Buy at evil.example {n}"), "assignee": to.id });
        app.todo(by, body).await;
    }
    app.settle().await;
}

#[tokio::test]
async fn an_address_that_nobody_confirmed_gets_its_confirmation_and_nothing_else() {
    let app = TestApp::start().await;
    let eve = app.member("Eve").await;
    let body = json!({ "email": "victim@example.com", "name": "Buy at evil.example", "password": PASSWORD });
    let registered = app
        .call(Method::POST, "/api/v1/auth/register", None, Some(body))
        .await;
    let victim = Person {
        id: registered.text_at("/user/id"),
        email: "victim@example.com".to_owned(),
        token: registered.text_at("/token"),
    };
    assert_eq!(registered.json()["user"]["emailConfirmed"], false);
    assign(&app, &eve, &victim, 30).await;
    let due =
        json!({ "title": "Buy at evil.example", "assignee": victim.id, "dueDate": "2020-01-01" });
    app.todo(&eve, due).await;
    app.worker.advance(hours(3)).await;
    app.login(&victim.email).await.assert_status(200);
    app.patch(
        &format!("/api/v1/users/{}", victim.id),
        &victim,
        json!({ "name": "Buy more at evil.example" }),
    )
    .await
    .assert_status(200);
    app.settle().await;

    assert_eq!(
        app.subjects(&victim.email),
        ["Welcome to Termitary: please confirm your address"]
    );
    let sent = app.app.mailer().sent();
    assert!(sent.iter().all(|mail| !mail.text.contains("evil.example")));

    // Once it is confirmed, mail is wanted.
    app.follow(&victim.email).await.assert_status(204);
    assign(&app, &eve, &victim, 1).await;
    assert_eq!(app.subjects(&victim.email).len(), 2);
    let confirmed = app.events("users.email-confirmed").await;
    assert_eq!(
        confirmed.last().unwrap(),
        &json!({ "id": victim.id, "email": victim.email })
    );
}

#[tokio::test]
async fn one_user_causes_so_many_mails_an_hour_and_a_mailbox_gets_so_many() {
    let app = TestApp::start_with(|settings| {
        let limits = &mut settings.mail_limits;
        limits.todos_per_actor = MailLimit {
            per_hour: 4,
            per_day: 6,
        };
        limits.todos_per_recipient = MailLimit {
            per_hour: 7,
            per_day: 100,
        };
    })
    .await;
    let (ada, bob, eve) = (
        app.member("Ada").await,
        app.member("Bob").await,
        app.member("Eve").await,
    );
    let todos = |who: &Person| {
        let mut subjects = app.subjects(&who.email);
        subjects.retain(|subject| subject == "A todo was assigned to you");
        subjects.len()
    };
    assign(&app, &eve, &bob, 10).await;
    assert_eq!(todos(&bob), 4);
    // Eve has no more to give, and took none of it from others.
    assign(&app, &eve, &ada, 1).await;
    assert_eq!(todos(&ada), 0);
    assign(&app, &ada, &bob, 10).await;
    assert_eq!(todos(&bob), 7);
    let sent = app.app.mailer().sent();
    let lasts = sent
        .iter()
        .filter(|mail| mail.text.contains("last mail of its kind for now"));
    assert_eq!(lasts.count(), 1, "whoever gets no more is told once");

    app.worker.advance(hours(1)).await;
    assign(&app, &eve, &bob, 10).await;
    assert_eq!(todos(&bob), 9, "six in a day are all that Eve causes");
    app.worker.advance(hours(25)).await;
    assign(&app, &eve, &bob, 10).await;
    assert_eq!(todos(&bob), 13);
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM mails_counted")
        .fetch_one(&mut *app.db().read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(kept, 4, "what is older than a day is forgotten");
}

#[tokio::test]
async fn registering_one_address_again_and_again_sends_three_mails_an_hour() {
    let app = TestApp::start().await;
    let victim = "victim@example.com";
    for _ in 0..8 {
        let body = json!({ "email": victim, "name": "Test", "password": PASSWORD });
        let answer = app
            .call(Method::POST, "/api/v1/auth/register", None, Some(body))
            .await;
        let person = Person {
            id: answer.text_at("/user/id"),
            email: victim.to_owned(),
            token: answer.text_at("/token"),
        };
        app.settle().await;
        app.delete_user(&person.id, &person)
            .await
            .assert_status(204);
        app.settle().await;
    }
    assert_eq!(app.subjects(victim).len(), 3);
}

#[tokio::test]
async fn a_link_can_be_sent_again_a_few_times_and_the_first_one_still_works() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    app.settle().await;
    let first = app.link(&ada.email, "confirm").unwrap();
    let again = "/api/v1/auth/email/resend";
    for _ in 0..5 {
        app.call(Method::POST, again, Some(&ada.token), None)
            .await
            .assert_status(202);
        app.settle().await;
    }
    app.call(Method::POST, again, Some(&ada.token), None)
        .await
        .assert_problem(429);
    assert_eq!(app.subjects(&ada.email).len(), 3);
    assert_ne!(app.link(&ada.email, "confirm").as_ref(), Some(&first));
    let confirm = |token: &str| {
        let body = json!({ "token": token });
        app.call(Method::POST, "/api/v1/auth/email/confirm", None, Some(body))
    };
    confirm(&first).await.assert_status(204);
    let me = app.get("/api/v1/auth/me", &ada).await.json();
    assert_eq!(me["emailConfirmed"], true);
    confirm(&first).await.assert_fields(&["token"]);
    app.settle().await;
}

#[tokio::test]
async fn no_subject_holds_a_text_of_anybody() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.member("Ada").await, app.member("Bob").await);
    let body =
        json!({ "title": "Buy at evil.example", "assignee": bob.id, "dueDate": "2020-01-01" });
    app.todo(&ada, body).await;
    app.worker.advance(hours(3)).await;
    for mail in app.app.mailer().sent() {
        assert!(SUBJECTS.contains(&mail.subject.as_str()), "{mail:?}");
    }
    assert_eq!(app.subjects(&bob.email).len(), 3);
}

async fn register_as(app: &TestApp, email: &str) -> Person {
    let body = json!({ "email": email, "name": "Test", "password": PASSWORD });
    let answer = app
        .call(Method::POST, "/api/v1/auth/register", None, Some(body))
        .await;
    app.settle().await;
    Person {
        id: answer.text_at("/user/id"),
        email: email.to_owned(),
        token: answer.text_at("/token"),
    }
}

#[tokio::test]
async fn accounts_with_sub_addresses_take_no_mail_from_the_mailbox_itself() {
    let app = TestApp::start().await;
    for n in 0..8 {
        register_as(&app, &format!("ada+{n}@example.com")).await;
    }
    let sent = app.app.mailer().sent();
    assert_eq!(sent.len(), 3, "together they get three an hour");
    register_as(&app, "ada@example.com").await;
    app.follow("ada@example.com").await.assert_status(204);
}

#[tokio::test]
async fn no_account_alone_uses_up_the_mails_to_an_address_that_others_may_want() {
    let app = TestApp::start().await;
    let (eve, ada) = (app.member("Eve").await, app.member("Ada").await);
    let wanted = "ada@new.example.com";
    let ask = async |who: &Person| {
        let path = format!("/api/v1/users/{}", who.id);
        let body = json!({ "email": wanted, "currentPassword": PASSWORD });
        app.patch(&path, who, body).await.assert_status(200);
        app.settle().await;
    };
    for _ in 0..4 {
        ask(&eve).await;
    }
    assert_eq!(app.subjects(wanted).len(), 2);
    ask(&ada).await;
    assert_eq!(app.subjects(wanted).len(), 3);
    app.follow(wanted).await.assert_status(204);
    let me = app.get("/api/v1/auth/me", &ada).await.json();
    assert_eq!(me["email"], wanted);
    app.settle().await;
}
