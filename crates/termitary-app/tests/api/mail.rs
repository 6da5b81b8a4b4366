//! Recipients and numbers of mails.

use axum::http::Method;
use serde_json::{Value, json};
use termitary::clock::{hours, minutes};
use termitary::testing::TestWorker;
use termitary_app::wiring;

use crate::support::{Person, TestApp};

/// The mails about todos to this address, in the order they were sent: the
/// subject and the title that is quoted in the text.
fn told(app: &TestApp, to: &Person) -> Vec<String> {
    let sent = app.app.mailer().sent();
    let mails = sent.into_iter().filter(|mail| mail.to == to.email);
    mails
        .filter_map(|mail| {
            let mut lines = mail.text.lines();
            let title = lines.find_map(|line| line.strip_prefix("  > "))?;
            Some(format!("{}: {title}", mail.subject))
        })
        .collect()
}

async fn change(app: &TestApp, who: &Person, todo: &Value, body: Value) {
    let path = format!("/api/v1/todos/{}", todo["id"].as_str().unwrap());
    app.call(Method::PATCH, &path, Some(&who.token), Some(body))
        .await
        .assert_status(200);
    app.settle().await;
}

#[tokio::test]
async fn whoever_is_given_a_todo_is_told_once() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.member("Ada").await, app.member("Bob").await);
    let todo = app
        .todo(&ada, json!({ "title": "Write", "assignee": bob.id }))
        .await;
    app.settle().await;
    assert_eq!(told(&app, &bob), ["A todo was assigned to you: Write"]);

    // Other changes are no assignment, and neither is the same one again.
    change(&app, &ada, &todo, json!({ "title": "Write well" })).await;
    change(&app, &ada, &todo, json!({ "assignee": bob.id })).await;
    assert_eq!(told(&app, &bob), ["A todo was assigned to you: Write"]);
    assert!(told(&app, &ada).is_empty());
}

#[tokio::test]
async fn a_todo_handed_on_is_told_to_its_new_assignee_alone() {
    let app = TestApp::start().await;
    let (ada, bob, cleo) = (
        app.member("Ada").await,
        app.member("Bob").await,
        app.member("Cleo").await,
    );
    let todo = app
        .todo(&ada, json!({ "title": "Write", "assignee": bob.id }))
        .await;
    // The todo is Bob's now; he assigns it to Cleo.
    change(&app, &bob, &todo, json!({ "assignee": cleo.id })).await;
    assert_eq!(told(&app, &cleo), ["A todo was assigned to you: Write"]);
    assert_eq!(told(&app, &bob).len(), 1);

    change(&app, &ada, &todo, json!({ "assignee": null })).await;
    change(&app, &ada, &todo, json!({ "assignee": cleo.id })).await;
    assert_eq!(told(&app, &cleo).len(), 2, "given again, told again");
    assert!(told(&app, &ada).is_empty());
}

#[tokio::test]
async fn whoever_takes_a_todo_needs_no_mail_about_it() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.member("Ada").await, app.member("Bob").await);
    let todo = app
        .todo(&ada, json!({ "title": "Write", "assignee": ada.id }))
        .await;
    app.settle().await;
    assert!(told(&app, &ada).is_empty());

    change(&app, &ada, &todo, json!({ "assignee": bob.id })).await;
    change(&app, &bob, &todo, json!({ "assignee": ada.id })).await;
    assert_eq!(
        told(&app, &ada),
        ["A todo was assigned to you: Write"],
        "given by Bob"
    );
    change(&app, &ada, &todo, json!({ "assignee": null })).await;
    change(&app, &ada, &todo, json!({ "assignee": ada.id })).await;
    assert_eq!(told(&app, &ada).len(), 1, "taken by herself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_and_two_schedulers_send_one_reminder_per_todo_and_due_date() {
    let app = TestApp::start().await;
    let second = TestWorker::start(
        app.app.broker().clone(),
        wiring::registry(),
        app.app.clone(),
    )
    .await;
    let (ada, bob) = (app.member("Ada").await, app.member("Bob").await);
    let due = "2026-01-15T12:30:00Z";
    let todo = app
        .todo(
            &ada,
            json!({ "title": "Write", "dueDate": due, "assignee": bob.id }),
        )
        .await;
    for n in 0..20 {
        let body = json!({ "title": format!("Read {n}"), "dueDate": due });
        app.todo(&ada, body).await;
    }
    for _ in 0..3 {
        tokio::join!(app.worker.advance(hours(1)), second.advance(hours(1)));
    }
    let reminders = |who| {
        let mut told = told(&app, who);
        told.retain(|told| told.starts_with("A todo is overdue"));
        told
    };
    assert_eq!(reminders(&bob), ["A todo is overdue: Write"]);
    let mut hers = reminders(&ada);
    hers.sort();
    hers.dedup();
    assert_eq!((hers.len(), reminders(&ada).len()), (20, 20));

    // The same date again is no new one; another date is.
    change(&app, &ada, &todo, json!({ "dueDate": due })).await;
    app.worker.advance(hours(2)).await;
    assert_eq!(reminders(&bob).len(), 1);
    let now = app.db().clock().now();
    let soon = (now + minutes(10)).to_string();
    change(&app, &ada, &todo, json!({ "dueDate": soon })).await;
    tokio::join!(app.worker.advance(hours(2)), second.advance(hours(2)));
    assert_eq!(reminders(&bob).len(), 2);
    assert_eq!(reminders(&ada).len(), 20);
}
