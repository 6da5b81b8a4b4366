//! Searching todos: the matches, and the load that a search may cause.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use serde_json::json;

use crate::support::{Person, TestApp};

/// The path of a search.
fn path(text: &str, more: &str) -> String {
    let mut path = format!("/api/v1/todos?{more}&q=");
    for byte in text.bytes() {
        write!(path, "%{byte:02X}").unwrap();
    }
    path
}

/// The titles that a search finds, in their order.
async fn found(app: &TestApp, who: &Person, text: &str) -> Vec<String> {
    let answer = app.get(&path(text, "sort=title"), who).await;
    answer.assert_status(200);
    let items = answer.json()["items"].as_array().unwrap().clone();
    let title = |item: &serde_json::Value| item["title"].as_str().unwrap().to_owned();
    items.iter().map(title).collect()
}

#[tokio::test]
async fn text_is_found_whatever_its_case_and_however_its_letters_are_composed() {
    let app = TestApp::start().await;
    let ada = app.register("Ada").await;
    for (title, description) in [
        ("\u{dc}ber allen Gipfeln", None),
        ("U\u{308}ber die Brücke", None),
        ("dessert", Some("deux \u{c9}CLAIRS")),
        ("\u{401}\u{43b}\u{43a}\u{430}", None),
        ("un cafe\u{301}", None),
        ("un caf\u{e9}", None),
        ("100% r_s", None),
    ] {
        let body = json!({ "title": title, "description": description });
        app.todo(&ada, body).await;
    }
    let both = ["U\u{308}ber die Brücke", "\u{dc}ber allen Gipfeln"];
    for typed in ["\u{fc}ber", "\u{dc}BER", "u\u{308}ber", "U\u{308}BER"] {
        assert_eq!(found(&app, &ada, typed).await, both, "{typed}");
    }
    for typed in ["\u{e9}clair", "e\u{301}CLAIR", "\u{c9}clair"] {
        assert_eq!(found(&app, &ada, typed).await, ["dessert"], "{typed}");
    }
    for typed in [
        "\u{451}\u{43b}\u{43a}\u{430}",
        "\u{415}\u{308}\u{41b}\u{41a}\u{410}",
    ] {
        assert_eq!(found(&app, &ada, typed).await.len(), 1, "{typed}");
    }
    for typed in ["caf\u{e9}", "cafe\u{301}", "CAF\u{c9}"] {
        assert_eq!(found(&app, &ada, typed).await.len(), 2, "{typed}");
    }
    assert_eq!(found(&app, &ada, "% R_").await, ["100% r_s"]);
    assert!(found(&app, &ada, "cafes").await.is_empty());
    app.settle().await;
}

#[tokio::test]
async fn the_pages_of_a_search_hold_each_match_once_and_in_order() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.register("Ada").await, app.register("Bob").await);
    let mut wanted = Vec::new();
    for n in 0..60 {
        let kind = if n % 3 == 0 { "needle" } else { "hay" };
        // Owner and assignee of a todo find it once, strangers never.
        let assignee = if n % 2 == 0 { &ada.id } else { &bob.id };
        let body = json!({ "title": format!("{n:02} {kind}"), "assignee": assignee });
        app.todo(&ada, body).await;
        app.todo(
            &bob,
            json!({ "title": format!("{n:02} NEEDLE of another") }),
        )
        .await;
        app.db().clock().advance(Duration::from_secs(1));
        if n % 3 == 0 {
            wanted.push(format!("{n:02} {kind}"));
        }
    }
    for (sort, reversed) in [
        ("title", false),
        ("-title", true),
        ("createdAt", false),
        ("-createdAt", true),
    ] {
        let (mut titles, mut cursor) = (Vec::new(), String::new());
        loop {
            let more = format!("limit=7&sort={sort}{cursor}");
            let answer = app.get(&path("needle", &more), &ada).await;
            answer.assert_status(200);
            let page = answer.json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 7);
            titles.extend(
                items
                    .iter()
                    .map(|i| i["title"].as_str().unwrap().to_owned()),
            );
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        if reversed {
            titles.reverse();
        }
        assert_eq!(titles, wanted, "{sort}");
    }
    app.settle().await;
}

#[tokio::test]
async fn searches_that_hang_stop_nobody_else_and_end_with_503() {
    let app =
        TestApp::start_with(|settings| settings.search_patience = Duration::from_mins(10)).await;
    let ada = app.register("Ada").await;
    let people = join_all((0..6).map(|n| {
        let app = &app;
        async move { app.register(&format!("User{n}")).await }
    }));
    let people = people.await;
    app.todo(&ada, json!({ "title": "needle" })).await;
    // Every connection for searches is taken, and stays taken.
    let held = [
        app.db().read_long().await.unwrap(),
        app.db().read_long().await.unwrap(),
    ];
    let path = path("needle", "");
    let mut searches: Vec<_> = [&ada]
        .into_iter()
        .chain(&people)
        .map(|who| Box::pin(app.get(&path, who)))
        .collect();
    // Each comes as far as it can while others ask.
    for _ in 0..50 {
        for search in &mut searches {
            assert!(poll!(search).is_pending());
        }
        app.get("/api/v1/auth/me", &ada).await.assert_status(200);
        app.get("/api/v1/todos", &ada).await.assert_status(200);
    }
    app.get("/readyz", &ada).await.assert_status(200);
    drop(held);
    let answers = join_all(searches).await;
    for (n, answer) in answers.iter().enumerate() {
        answer.assert_status(200);
        let items = answer.json()["items"].as_array().unwrap().len();
        assert_eq!(items, usize::from(n == 0), "Ada's alone");
    }
    app.settle().await;
}

#[tokio::test]
async fn a_search_past_its_deadline_is_given_up_with_a_way_out() {
    let app =
        TestApp::start_with(|settings| settings.search_patience = Duration::from_millis(20)).await;
    let ada = app.register("Ada").await;
    app.todo(&ada, json!({ "title": "needle" })).await;
    let held = [
        app.db().read_long().await.unwrap(),
        app.db().read_long().await.unwrap(),
    ];
    let answer = app.get(&path("needle", ""), &ada).await;
    answer.assert_problem(503);
    assert_eq!(answer.header("retry-after"), "1");
    assert!(
        answer.text_at("/detail").contains("narrow it"),
        "{}",
        answer.body
    );
    drop(held);
    app.settle().await;
}

#[tokio::test]
async fn one_user_has_four_searches_at_once() {
    let app =
        TestApp::start_with(|settings| settings.search_patience = Duration::from_millis(200)).await;
    let ada = app.register("Ada").await;
    let held = [
        app.db().read_long().await.unwrap(),
        app.db().read_long().await.unwrap(),
    ];
    let path = path("needle", "");
    let answers = join_all((0..6).map(|_| app.get(&path, &ada))).await;
    let refused = answers
        .iter()
        .filter(|answer| answer.body.contains("Your other searches"));
    assert_eq!(refused.count(), 2);
    drop(held);
    app.settle().await;
}
