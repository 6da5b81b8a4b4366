//! Finding somebody to assign a todo to.

use axum::http::Method;
use serde_json::{Value, json};
use termitary::clock::secs;

use crate::support::{PASSWORD, Person, TestApp};

async fn found(app: &TestApp, who: &Person, q: &str) -> Vec<String> {
    let answer = app.get(&format!("/api/v1/people?q={q}"), who).await;
    answer.assert_status(200);
    let page = answer.json();
    let people = page["items"].as_array().unwrap();
    for person in people {
        let fields: Vec<_> = person.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["id", "name"]);
    }
    let names = people.iter().map(|person| person["name"].as_str().unwrap());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_teammate_is_found_by_a_part_of_the_name_or_the_whole_address_and_assigned() {
    let app = TestApp::start().await;
    let ada = app.member("Ada").await;
    app.register("Adalbert").await;
    let bob = app.register("Bob").await;
    assert_eq!(found(&app, &bob, "ada").await, ["Ada", "Adalbert"]);
    assert_eq!(found(&app, &bob, "lber").await, ["Adalbert"]);
    assert_eq!(found(&app, &bob, "Ada@Example.com").await, ["Ada"]);
    assert_eq!(found(&app, &bob, &ada.id).await, ["Ada"]);
    for nobody in [
        "example",
        "ada@",
        "@example.com",
        "da@example.com",
        "%25%25",
        "__",
    ] {
        assert!(found(&app, &bob, nobody).await.is_empty(), "{nobody}");
    }
    for wrong in ["", "a", "%20a%20", "%00%00", "ad%00"] {
        app.get(&format!("/api/v1/people?q={wrong}"), &bob)
            .await
            .assert_fields(&["q"]);
    }
    let page = app
        .get("/api/v1/people?q=ada@example.com", &bob)
        .await
        .json();
    let id = page["items"][0]["id"].clone();
    assert_eq!(id, Value::from(ada.id));
    app.todo(&bob, json!({ "title": "Write", "assignee": id }))
        .await;
    app.settle().await;
}

#[tokio::test]
async fn an_address_finds_only_the_account_that_confirmed_it() {
    let app = TestApp::start().await;
    let bob = app.register("Bob").await;
    // Anybody can register the address of a colleague, under any name.
    let boss = app.register("Boss").await;
    assert!(found(&app, &bob, &boss.email).await.is_empty());
    assert_eq!(found(&app, &bob, "boss").await, ["Boss"]);
    assert_eq!(found(&app, &bob, &boss.id).await, ["Boss"]);
    app.settle().await;
    app.follow(&boss.email).await.assert_status(204);
    assert_eq!(found(&app, &bob, &boss.email).await, ["Boss"]);
}

#[tokio::test]
async fn a_name_is_found_whatever_its_case_and_however_its_letters_are_composed() {
    let app = TestApp::start().await;
    for (email, name) in [
        ("oezil", "\u{d6}zil"),
        ("elka", "\u{401}\u{43b}\u{43a}\u{430}"),
        ("zoe", "Zoe\u{308}"),
    ] {
        let body = json!({
            "email": format!("{email}@example.com"), "name": name, "password": PASSWORD
        });
        app.call(Method::POST, "/api/v1/auth/register", None, Some(body))
            .await
            .assert_status(201);
    }
    let me = app.register("Ada").await;
    for (q, name) in [
        ("%C3%B6ZIL", "\u{d6}zil"),
        ("%D1%91%D0%BB%D0%BA%D0%B0", "\u{401}\u{43b}\u{43a}\u{430}"),
        ("ZO%C3%8B", "Zoe\u{308}"),
    ] {
        assert_eq!(found(&app, &me, q).await, [name], "{q}");
    }
    app.settle().await;
}

#[tokio::test]
async fn what_is_found_is_paged() {
    let app = TestApp::start().await;
    let names = ["Anna", "Annabel", "Hannah", "Joanna", "Susanna"];
    let mut me = None;
    for name in names {
        me = Some(app.register(name).await);
    }
    let me = me.unwrap();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/people?q=anna&limit=2{cursor}");
        let page = app.get(&path, &me).await.json();
        let items = page["items"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|item| item["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["nextCursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    seen.sort();
    assert_eq!(seen, names);
    app.settle().await;
}

#[tokio::test]
async fn nobody_copies_the_list_or_tries_a_thousand_addresses() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let search = async |who: &Person, q: &str| {
        let answer = app.get(&format!("/api/v1/people?q={q}"), who).await;
        (
            answer.status.as_u16(),
            answer.header("retry-after").to_owned(),
        )
    };
    let mut allowed = 0;
    while search(&ada, &format!("user{allowed}@example.com")).await.0 == 200 {
        allowed += 1;
        assert!(allowed < 100);
    }
    assert_eq!(allowed, 10);
    assert_eq!(
        search(&ada, "bob@example.com").await,
        (429, "60".to_owned())
    );
    // Names have a limit of their own, and so has everybody.
    assert_eq!(search(&ada, "bob").await.0, 200);
    assert_eq!(search(&bob, "ada@example.com").await.0, 200);
    app.db().clock().advance(secs(60));
    assert_eq!(search(&ada, "bob@example.com").await.0, 200);
    assert_eq!(search(&ada, "bob@example.com").await.0, 429);
    app.settle().await;
}
