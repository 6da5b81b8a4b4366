//! Due dates of todos, from the input to the output.

use serde_json::json;

use crate::support::TestApp;

#[tokio::test]
async fn a_due_date_with_a_zone_is_that_instant_and_the_last_day_of_all_is_one() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for (written, read) in [
        ("2026-12-24T18:00:00[Europe/Berlin]", "2026-12-24T17:00:00Z"),
        (
            "2026-12-24T18:00:00+01:00[Europe/Berlin]",
            "2026-12-24T17:00:00Z",
        ),
        ("9999-12-31", "9999-12-31T00:00:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
    ] {
        let todo = app
            .todo(&ada, json!({ "title": "Rest", "dueDate": written }))
            .await;
        assert_eq!(todo["dueDate"], read, "{written}");
        let path = format!("/api/v1/todos/{}", todo["id"].as_str().unwrap());
        assert_eq!(app.get(&path, &ada).await.json(), todo);
        let list = app.get("/api/v1/todos?sort=-dueDate", &ada).await.json();
        assert!(list["items"].as_array().unwrap().contains(&todo), "{list}");
        let event = app.events("todos.created").await.pop().unwrap();
        assert_eq!(event["dueDate"], read);
    }
    for wrong in [
        "2026-12-24T18:00:00[Europe/Nowhere]",
        "2026-12-24T18:00:00+02:00[Europe/Berlin]",
    ] {
        let body = json!({ "title": "Rest", "dueDate": wrong });
        app.post("/api/v1/todos", &ada, body)
            .await
            .assert_fields(&["dueDate"]);
    }
    app.settle().await;
}
