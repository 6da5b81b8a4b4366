//! Rows that no program of ours wrote, after a repair by hand or a fault of the disk: a list
//! leaves them out, and keeps nobody from the others.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use termitary::clock::hours;

use crate::support::{Person, TestApp, on_postgres};

async fn spoil(app: &TestApp, sql: &str) {
    let mut tx = app.db().begin().await.unwrap();
    let done = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .execute(&mut *tx)
        .await;
    assert_eq!(done.unwrap().rows_affected(), 1, "{sql}");
    tx.commit().await.unwrap();
}

/// Every item of a list, read in pages of this size.
async fn all(app: &TestApp, who: &Person, path: &str, limit: usize) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("{path}limit={limit}{cursor}");
        let answer = app.get(&page, who).await;
        answer.assert_status(200);
        let page = answer.json();
        items.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["nextCursor"].as_str() else {
            return items;
        };
        cursor = format!("&cursor={next}");
    }
}

fn texts(items: &[Value], field: &str) -> Vec<String> {
    items
        .iter()
        .map(|item| item[field].as_str().unwrap().to_owned())
        .collect()
}

/// Values of a todo's columns that cannot be read.
const TODOS: &[&str] = &[
    "id = x'0102'",
    "owner_id = owner_id, assignee_id = x'01'",
    "created_us = 'yesterday', due_us = 'never'",
];

#[tokio::test]
async fn a_todo_that_cannot_be_read_is_left_out_of_every_list() {
    if on_postgres() {
        return; // its columns take no such values
    }
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let mut whole = Vec::new();
    for (n, column) in TODOS.iter().enumerate() {
        app.todo(&ada, json!({ "title": format!("{n} broken") }))
            .await;
        app.todo(&ada, json!({ "title": format!("{n} whole") }))
            .await;
        whole.insert(0, format!("{n} whole"));
        spoil(
            &app,
            &format!("UPDATE todos SET {column} WHERE title = '{n} broken'"),
        )
        .await;
    }
    for limit in [1, 2, 50] {
        let path = "/api/v1/todos?sort=title&";
        let mut found = texts(&all(&app, &ada, path, limit).await, "title");
        found.reverse();
        assert_eq!(found, whole, "{limit}");
        let path = "/api/v1/todos?q=e&";
        let mut found = texts(&all(&app, &ada, path, limit).await, "title");
        found.sort_by(|one, two| two.cmp(one));
        assert_eq!(found, whole, "{limit}");
    }
    // A text that is not UTF-8 is shown as far as it can be read.
    spoil(
        &app,
        "UPDATE todos SET title = x'68ff69' WHERE title = '0 whole'",
    )
    .await;
    for path in ["/api/v1/todos?", "/api/v1/todos?q=h&"] {
        let found = texts(&all(&app, &ada, path, 50).await, "title");
        assert!(found.contains(&"h\u{fffd}i".to_owned()), "{found:?}");
        assert_eq!(found.len(), 3);
    }
    app.settle().await;
}

#[tokio::test]
async fn an_overdue_todo_that_cannot_be_read_keeps_no_reminder_from_the_others() {
    if on_postgres() {
        return; // its columns take no such values
    }
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    let due = (app.db().clock().now() + hours(1)).to_string();
    for title in ["broken", "whole"] {
        app.todo(&ada, json!({ "title": title, "dueDate": due }))
            .await;
    }
    app.settle().await;
    spoil(
        &app,
        "UPDATE todos SET assignee_id = x'01' WHERE title = 'broken'",
    )
    .await;
    app.worker.advance(hours(4)).await;
    let reminded = app.events("todos.overdue").await;
    assert_eq!(texts(&reminded, "title"), ["whole"]);
}

#[tokio::test]
async fn an_entry_of_the_feed_that_cannot_be_read_is_left_out() {
    if on_postgres() {
        return; // its columns take no such values
    }
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for n in 0..4 {
        app.todo(&ada, json!({ "title": n.to_string() })).await;
        app.settle().await;
    }
    for (n, column) in [(1, "id = x'0102'"), (2, "event = x'ff', actor = x'03'")] {
        let sql = format!("UPDATE activity SET {column} WHERE title = '{n}'");
        spoil(&app, &sql).await;
    }
    for limit in [1, 2, 50] {
        let feed = all(&app, &ada, "/api/v1/activity?", limit).await;
        let subjects: Vec<_> = feed.iter().map(|entry| entry["title"].clone()).collect();
        assert_eq!(subjects, [json!("3"), json!("0"), Value::Null], "{limit}");
    }
}

#[tokio::test]
async fn a_comment_or_an_account_that_cannot_be_read_is_left_out() {
    if on_postgres() {
        return; // its columns take no such values
    }
    let app = TestApp::start().await;
    let (root, ada) = (app.admin().await, app.register("Ada").await);
    let todo = app.todo(&ada, json!({ "title": "Write" })).await;
    let comments = format!("/api/v1/todos/{}/comments", todo["id"].as_str().unwrap());
    for text in ["one", "two", "three"] {
        app.post(&comments, &ada, json!({ "text": text }))
            .await
            .assert_status(201);
        app.register(&format!("Anna{text}")).await;
    }
    spoil(
        &app,
        "UPDATE comments SET author_id = x'01' WHERE text = 'two'",
    )
    .await;
    spoil(&app, "UPDATE users SET name = x'ff' WHERE name = 'Annatwo'").await;
    for limit in [1, 2, 50] {
        let found = all(&app, &ada, &format!("{comments}?"), limit).await;
        assert_eq!(texts(&found, "text"), ["one", "three"], "{limit}");
        // Accounts of one moment are in no order.
        let users = all(&app, &root, "/api/v1/users?", limit).await;
        let mut users = texts(&users, "name");
        users.sort();
        assert_eq!(users, ["Ada", "Annaone", "Annathree", "Root"], "{limit}");
        let people = all(&app, &ada, "/api/v1/people?q=anna&", limit).await;
        let mut people = texts(&people, "name");
        people.sort();
        assert_eq!(people, ["Annaone", "Annathree"], "{limit}");
    }
    app.settle().await;
}
