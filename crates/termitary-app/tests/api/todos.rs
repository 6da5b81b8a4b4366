//! Todos: who sees them, how they are found, and when they are overdue.

use serde_json::{Value, json};
use termitary::clock::{days, hours};
use termitary_app::todos::events::TodosOverdueCheck;

use crate::support::{Person, TestApp};

const TODOS: &str = "/api/v1/todos";

fn path(todo: &Value) -> String {
    format!("{TODOS}/{}", todo["id"].as_str().unwrap())
}

async fn titles(app: &TestApp, who: &Person, query: &str) -> Vec<String> {
    let answer = app.get(&format!("{TODOS}?{query}"), who).await;
    answer.assert_status(200);
    let page = answer.json();
    page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|todo| todo["title"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_todo_has_exactly_the_fields_of_the_contract() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let todo = app.todo(&ada, json!({ "title": "  Write  " })).await;
    let fields: Vec<_> = todo
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "assignee",
        "createdAt",
        "description",
        "dueDate",
        "id",
        "owner",
        "priority",
        "status",
        "title",
        "updatedAt",
    ];
    let mut sorted = fields.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(todo["title"], "Write");
    assert_eq!(todo["status"], "open");
    assert_eq!(todo["createdAt"], "2026-01-15T12:00:00Z");
    assert_eq!(app.get(&path(&todo), &ada).await.json(), todo);
    app.settle().await;
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_null_clears() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let todo = app
        .todo(&ada, json!({ "title": "Write", "description": "a lot", "priority": "high", "dueDate": "2026-02-01" }))
        .await;
    let path = path(&todo);
    app.db().clock().advance(hours(1));
    let changed = app
        .patch(&path, &ada, json!({ "status": "done", "priority": null }))
        .await
        .json();
    assert_eq!(changed["status"], "done");
    assert_eq!(changed["priority"], Value::Null);
    assert_eq!(changed["description"], "a lot");
    assert_eq!(changed["dueDate"], "2026-02-01T00:00:00Z");
    assert_eq!(changed["updatedAt"], "2026-01-15T13:00:00Z");
    app.patch(&path, &ada, json!({ "title": null }))
        .await
        .assert_fields(&["title"]);
    app.patch(&path, &ada, json!({ "title": " " }))
        .await
        .assert_fields(&["title"]);

    // Nothing changed: nothing happened.
    app.patch(&path, &ada, json!({ "status": "done" }))
        .await
        .assert_status(200);
    app.patch(&path, &ada, json!({})).await.assert_status(200);
    assert_eq!(app.events("todos.updated").await.len(), 1);
    app.settle().await;
}

#[tokio::test]
async fn an_assignee_sees_and_changes_a_todo_but_does_not_delete_it() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let todo = app
        .todo(&ada, json!({ "title": "Write", "assignee": bob.id }))
        .await;
    let path = path(&todo);
    app.get(&path, &bob).await.assert_status(200);
    app.patch(&path, &bob, json!({ "status": "done" }))
        .await
        .assert_status(200);
    app.delete(&path, &bob).await.assert_problem(403);
    app.patch(&path, &ada, json!({ "assignee": null }))
        .await
        .assert_status(200);
    app.get(&path, &bob).await.assert_problem(404);
    app.delete(&path, &ada).await.assert_status(204);
    app.settle().await;
}

#[tokio::test]
async fn a_list_shows_todos_exactly_as_they_are_read_alone() {
    let app = TestApp::start().await;
    let (ada, ben) = (app.register("Ada").await, app.register("Ben").await);
    let admin = app.admin().await;
    let odd = "quote \" backslash \\ line\ntab \t \u{2028} \u{1F41C} [1,{}], null";
    let bodies = [
        json!({ "title": "Bare" }),
        json!({ "title": "Both mine", "assignee": ada.id }),
        json!({ "title": "Ben's to do", "assignee": ben.id, "priority": "urgent" }),
        json!({ "title": "\"[', \u{e9}", "description": odd, "dueDate": "1969-12-31T23:59:59.000001Z" }),
    ];
    for body in bodies {
        app.todo(&ada, body).await;
    }
    for control in ["bell \u{7}", "nul \u{0}", "escape \u{1b}[31m", "\u{9b}"] {
        app.post(
            TODOS,
            &ada,
            json!({ "title": "Odd", "description": control }),
        )
        .await
        .assert_fields(&["description"]);
    }
    for (who, count) in [(&ada, 4), (&ben, 1), (&admin, 4)] {
        let list = app.get(TODOS, who).await.json();
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), count);
        for item in items {
            assert_eq!(app.get(&path(item), who).await.json(), *item);
        }
    }
    let list = app.get(TODOS, &ada).await.json();
    let items = list["items"].as_array().unwrap();
    assert!(items.iter().any(|item| item["description"] == odd));
    app.settle().await;
}

#[tokio::test]
async fn only_a_user_can_be_assigned() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for assignee in ["0190a0b0-0000-7000-8000-000000000000", "bob"] {
        let body = json!({ "title": "Write", "assignee": assignee });
        app.post(TODOS, &ada, body)
            .await
            .assert_fields(&["assignee"]);
    }
    app.settle().await;
}

#[tokio::test]
async fn todos_are_found_by_status_assignee_priority_overdue_and_text() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    app.todo(
        &ada,
        json!({ "title": "late", "dueDate": "2026-01-14T00:00:00Z", "priority": "low" }),
    )
    .await;
    app.todo(
        &ada,
        json!({ "title": "soon", "dueDate": "2026-01-16T00:00:00Z", "assignee": bob.id }),
    )
    .await;
    app.todo(
        &ada,
        json!({ "title": "100% sure", "description": "Under_score", "priority": "urgent" }),
    )
    .await;
    let done = app
        .todo(&ada, json!({ "title": "done", "dueDate": "2026-01-10" }))
        .await;
    app.patch(&path(&done), &ada, json!({ "status": "done" }))
        .await
        .assert_status(200);
    app.todo(
        &bob,
        json!({ "title": "late, but Bob's", "dueDate": "2026-01-14" }),
    )
    .await;

    let bobs = format!("assignee={}", bob.id);
    for (query, expected) in [
        ("status=done", vec!["done"]),
        ("overdue=true", vec!["late"]),
        ("overdue=false", vec!["done", "100% sure", "soon"]),
        ("priority=urgent", vec!["100% sure"]),
        (&bobs, vec!["soon"]),
        ("assignee=me", vec![]),
        ("assignee=none&status=open", vec!["100% sure", "late"]),
        ("q=LATE", vec!["late"]),
        ("q=%25", vec!["100% sure"]),
        ("q=r_s", vec!["100% sure"]),
        ("q=ndernscore", vec![]),
    ] {
        let mut found = titles(&app, &ada, query).await;
        let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{query}");
    }
    assert_eq!(titles(&app, &bob, "assignee=me").await, ["soon"]);
    app.settle().await;
}

#[tokio::test]
async fn todos_are_sorted_either_way_and_what_is_missing_comes_last() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for (title, due, priority) in [
        ("b", Some("2026-02-02"), Some("low")),
        ("c", None, None),
        ("a", Some("2026-02-01"), Some("urgent")),
    ] {
        app.todo(
            &ada,
            json!({ "title": title, "dueDate": due, "priority": priority }),
        )
        .await;
        app.db().clock().advance(hours(1));
    }
    for (sort, expected) in [
        ("createdAt", "b c a"),
        ("-createdAt", "a c b"),
        ("title", "a b c"),
        ("-title", "c b a"),
        ("dueDate", "a b c"),
        ("-dueDate", "b a c"),
        ("priority", "b a c"),
        ("-priority", "a b c"),
    ] {
        assert_eq!(
            titles(&app, &ada, &format!("sort={sort}")).await.join(" "),
            expected,
            "{sort}"
        );
    }
    app.settle().await;
}

#[tokio::test]
async fn every_order_can_be_paged_without_losing_or_repeating_a_todo() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    for n in 0..9 {
        let due = (n % 3 == 0).then(|| format!("2026-02-0{}", 1 + n % 2));
        // Her own, her own assigned to herself, and others' assigned to her.
        let (owner, assignee) = match n % 4 {
            0 | 1 => (&ada, None),
            2 => (&ada, Some(&ada.id)),
            _ => (&bob, Some(&ada.id)),
        };
        app.todo(
            owner,
            json!({ "title": format!("t{}", n % 4), "dueDate": due, "assignee": assignee }),
        )
        .await;
    }
    app.todo(&bob, json!({ "title": "Bob's" })).await;
    for sort in [
        "createdAt",
        "-createdAt",
        "updatedAt",
        "title",
        "-title",
        "dueDate",
        "-dueDate",
        "priority",
        "-priority",
    ] {
        let whole = app.get(&format!("{TODOS}?sort={sort}"), &ada).await.json();
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = app
                .get(&format!("{TODOS}?sort={sort}&limit=2{cursor}"), &ada)
                .await
                .json();
            seen.extend(page["items"].as_array().unwrap().clone());
            let Some(next) = page["nextCursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(json!(seen), whole["items"], "{sort}");
        assert_eq!(seen.len(), 9);
    }
    app.settle().await;
}

#[tokio::test]
async fn comments_are_read_in_order_by_everyone_who_sees_the_todo() {
    let app = TestApp::start().await;
    let (ada, bob, eve) = (
        app.register("Ada").await,
        app.register("Bob").await,
        app.register("Eve").await,
    );
    let todo = app
        .todo(&ada, json!({ "title": "Write", "assignee": bob.id }))
        .await;
    let comments = format!("{}/comments", path(&todo));
    for (who, text) in [(&ada, "Please."), (&bob, "Yes."), (&ada, "Thanks.")] {
        app.db().clock().advance(hours(1));
        let comment = app.post(&comments, who, json!({ "text": text })).await;
        comment.assert_status(201);
        assert_eq!(comment.json()["author"], who.id);
    }
    app.post(&comments, &eve, json!({ "text": "Me too." }))
        .await
        .assert_problem(404);
    app.post(&comments, &ada, json!({ "text": " " }))
        .await
        .assert_fields(&["text"]);
    let page = app.get(&format!("{comments}?limit=2"), &bob).await.json();
    assert_eq!(page["items"][0]["text"], "Please.");
    let next = format!("{comments}?cursor={}", page["nextCursor"].as_str().unwrap());
    let page = app.get(&next, &bob).await.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert_eq!(page["items"][0]["text"], "Thanks.");
    app.settle().await;
}

#[tokio::test]
async fn an_overdue_todo_is_reminded_of_once_per_due_date_however_often_the_check_runs() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let todo = app
        .todo(
            &ada,
            json!({ "title": "Write", "dueDate": "2026-01-15T13:00:00Z" }),
        )
        .await;
    let done = app
        .todo(
            &ada,
            json!({ "title": "Done", "dueDate": "2026-01-15T13:00:00Z" }),
        )
        .await;
    app.patch(&path(&done), &ada, json!({ "status": "done" }))
        .await
        .assert_status(200);

    app.worker.advance(hours(3)).await;
    let checks = app.events("todos.overdue.check").await;
    assert_eq!(checks, [json!({ "triggeredAt": "2026-01-15T14:00:00Z" })]);
    assert_eq!(app.events("todos.overdue").await.len(), 1);

    app.worker.advance(hours(2)).await;
    for _ in 0..5 {
        let check = TodosOverdueCheck {
            triggered_at: "2026-01-15T14:00:00Z".to_owned(),
        };
        app.app.bus().publish(check).await.unwrap();
    }
    app.settle().await;
    assert_eq!(app.events("todos.overdue").await.len(), 1);

    // Another due date is another promise.
    app.patch(
        &path(&todo),
        &ada,
        json!({ "dueDate": "2026-01-15T17:30:00Z" }),
    )
    .await
    .assert_status(200);
    app.worker.advance(days(1)).await;
    let reminders = app.events("todos.overdue").await;
    assert_eq!(reminders.len(), 2);
    assert_eq!(reminders[1]["dueDate"], "2026-01-15T17:30:00Z");
}

#[tokio::test]
async fn a_backlog_of_overdue_todos_is_reminded_of_completely() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for n in 0..450 {
        app.todo(
            &ada,
            json!({ "title": format!("t{n}"), "dueDate": "2026-01-15T13:00:00Z" }),
        )
        .await;
    }
    app.worker.advance(hours(3)).await;
    assert_eq!(app.events("todos.overdue").await.len(), 450);
}

#[tokio::test]
async fn a_deleted_users_todos_go_to_their_assignee_or_away() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let alone = app.todo(&ada, json!({ "title": "alone" })).await;
    let shared = app
        .todo(&ada, json!({ "title": "shared", "assignee": bob.id }))
        .await;
    let helped = app
        .todo(&bob, json!({ "title": "helped", "assignee": ada.id }))
        .await;
    app.delete_user(&ada.id, &ada).await.assert_status(204);
    app.settle().await;

    app.get(&path(&alone), &bob).await.assert_problem(404);
    let shared = app.get(&path(&shared), &bob).await.json();
    assert_eq!(
        (&shared["owner"], &shared["assignee"]),
        (&json!(bob.id), &json!(bob.id))
    );
    let helped = app.get(&path(&helped), &bob).await.json();
    assert_eq!(helped["assignee"], Value::Null);
    assert_eq!(app.events("todos.deleted").await.len(), 1);
    assert_eq!(app.events("todos.updated").await.len(), 2);
}

#[tokio::test]
async fn a_foreign_users_deleted_does_not_touch_a_living_users_todos() {
    let mut app = TestApp::start().await;
    let ada = app.register("Ada").await;
    let todo = app.todo(&ada, json!({ "title": "mine" })).await;
    app.worker.allow_leftovers();
    for id in [ada.id.as_str(), "42"] {
        let payload = json!({ "id": id, "email": "x@example.com" }).to_string();
        app.app
            .bus()
            .publish_json("users.deleted", &payload)
            .await
            .unwrap();
    }
    app.settle().await;
    app.get(&path(&todo), &ada).await.assert_status(200);
}

#[tokio::test]
async fn an_account_owns_so_many_open_todos_and_finishing_one_makes_room() {
    let app = TestApp::start_with(|settings| settings.todos_per_user = 5).await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let mut last = String::new();
    for n in 0..5 {
        let todo = app
            .todo(&ada, json!({ "title": format!("todo {n}") }))
            .await;
        last = format!("/api/v1/todos/{}", todo["id"].as_str().unwrap());
    }
    let create = async || {
        let body = json!({ "title": "one more" });
        app.post("/api/v1/todos", &ada, body).await
    };
    let refused = create().await;
    refused.assert_problem(409);
    assert!(
        refused.body.contains("finish or delete some"),
        "{}",
        refused.body
    );
    // Another's todos, and those assigned to her, are not hers.
    let body = json!({ "title": "for Ada", "assignee": ada.id });
    app.todo(&bob, body).await;
    app.patch(&last, &ada, json!({ "status": "done" }))
        .await
        .assert_status(200);
    create().await.assert_status(201);
    create().await.assert_problem(409);
    // Nor does one that is done become open again.
    app.patch(&last, &ada, json!({ "status": "open" }))
        .await
        .assert_problem(409);
    app.settle().await;
}
