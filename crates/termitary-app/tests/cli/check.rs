//! `termitary check` names the waiting deliveries that this program would not handle.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use termitary::prelude::*;

use crate::sandbox::Sandbox;

/// An event of another program.
macro_rules! event {
    ($type:ident, $name:literal, $version:literal) => {
        #[derive(Serialize, Deserialize)]
        struct $type {
            id: u64,
        }

        impl Event for $type {
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
        }
    };
}
event!(Newer, "users.login", 99);
event!(OtherFields, "todos.created", 1);
event!(OtherName, "users.greeted", 1);

async fn gone(_: OtherFields) -> HandlerResult {
    Ok(())
}

async fn greet(_: OtherName) -> HandlerResult {
    Ok(())
}

/// Registers and publishes as another version of the program would.
async fn other_version(sandbox: &Sandbox) {
    let url = format!("sqlite://{}", sandbox.path("termitary.db").display());
    let db = Db::open(&url).await.unwrap();
    let registry = Registry::<()>::new()
        .on(subscribe("shop.gone", gone))
        .on(subscribe("users.send-welcome", greet));
    Broker::sql(db.clone()).register(&registry).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    for id in 0..300 {
        tx.publish(OtherFields { id }).await.unwrap();
    }
    tx.publish(Newer { id: 1 }).await.unwrap();
    tx.publish(OtherName { id: 1 }).await.unwrap();
    tx.commit().await.unwrap();
    db.close().await;
}

/// The number of deliveries with this reason, and the error.
fn of(found: &Value, subscription: &str, reason: &str) -> (u64, String) {
    let obstacles = found["obstacles"].as_array().unwrap();
    let one = obstacles
        .iter()
        .find(|it| it["subscription"] == subscription && it["reason"] == reason);
    assert!(one.is_some(), "{subscription}, {reason}: {found:#}");
    let one = one.unwrap();
    assert_eq!(one["example"].as_str().unwrap().len(), 36);
    let error = one["error"].as_str().unwrap().to_owned();
    (one["count"].as_u64().unwrap(), error)
}

#[test]
fn deliveries_that_this_program_would_not_handle_are_counted_and_nothing_changes() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["migrate"]);
    let ada = r#"{"id":"1","email":"ada@example.com","name":"Ada"}"#;
    sandbox.ok(&["publish", "users.created", ada]);
    assert!(sandbox.ok(&["check"]).contains("handles all"));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(other_version(&sandbox));
    let before = sandbox.json(&["status", "--json"])["subscriptions"].clone();
    let output = sandbox.run(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(of(&found, "shop.gone", "unhandled").0, 300);
    let (count, error) = of(&found, "activity.todo-created", "undecodable");
    assert_eq!(count, 300);
    assert!(error.contains("of another type"), "{error}");
    let (count, error) = of(&found, "activity.user-login", "version");
    assert_eq!(count, 1);
    assert!(error.contains("99"), "{error}");
    assert_eq!(of(&found, "users.send-welcome", "unknown-name").0, 1);
    let text = sandbox.fails(1, &["check"]);
    assert!(text.contains("would not be handled"), "{text}");
    let after = sandbox.json(&["status", "--json"])["subscriptions"].clone();
    assert_eq!(before, after);
}
