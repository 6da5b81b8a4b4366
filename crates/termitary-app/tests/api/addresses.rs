//! Which addresses an account can have.

use axum::http::Method;
use serde_json::json;
use termitary_app::mailer::{Mail, Mailer};

use crate::support::{PASSWORD, TestApp};

/// Addresses near the limits of several rules.
const ODD: &[&str] = &[
    "ada@localhost",
    "ada+tag@example.com",
    "a.b@example.com",
    ".ada@example.com",
    "ada.@example.com",
    "a..b@example.com",
    "\"ada l\"@example.com",
    "ada@[127.0.0.1]",
    "ada@127.0.0.1",
    "ada@exa_mple.com",
    "ada@-example.com",
    "ada@example-.com",
    "ada@example.com.",
    "ada@.example.com",
    "ada@münchen.example",
    "zoë@example.com",
    "ada@example.com\u{200b}",
    "a!#$%&'*+/=?^_`{|}~-b@example.com",
    "ada,eve@example.com",
    "ada;eve@example.com",
    "ada<eve@example.com>",
    "ada(x)@example.com",
    "ada@example.com(x)",
    "ada@eve@example.com",
    "ada@xn--mnchen-3ya.example",
    "12345678901234567890123456789012345678901234567890123456789012345@example.com",
    "ada@1234567890123456789012345678901234567890123456789012345678901234.com",
];

#[tokio::test]
async fn whoever_could_register_can_be_sent_mail() {
    let app = TestApp::start().await;
    let mut accepted = Vec::new();
    for (n, email) in ODD.iter().enumerate() {
        let body = json!({ "email": email, "name": "Ada", "password": PASSWORD });
        let answer = app
            .call(Method::POST, "/api/v1/auth/register", None, Some(body))
            .await;
        if answer.status != 201 {
            answer.assert_fields(&["email"]);
            continue;
        }
        let mail = Mail {
            to: answer.text_at("/user/email"),
            subject: "Hello".to_owned(),
            text: "Hello".to_owned(),
            message_id: n.to_string(),
        };
        let sent = Mailer::memory().send(mail).await;
        assert!(sent.is_ok(), "{email}: {sent:?}");
        accepted.push(*email);
    }
    for usual in ["ada+tag@example.com", "a.b@example.com"] {
        assert!(accepted.contains(&usual), "{accepted:?}");
    }
    app.settle().await;
}
