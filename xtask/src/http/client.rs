//! As much of HTTP as it takes to make a user and some todos on loopback.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Makes a user; answers the token of the first session.
pub(super) fn register(port: u16) -> Result<String> {
    let user = json!({
        "email": "ada@example.com",
        "name": "Ada",
        "password": "a walk in the rain",
    });
    let answer = post(port, "/api/v1/auth/register", None, &user)?;
    let token = answer["token"].as_str();
    Ok(token.context("a registration without a token")?.to_owned())
}

pub(super) fn make_todo(port: u16, token: &str) -> Result<()> {
    let todo = json!({
        "title": "Water the plants",
        "description": "Both pots, by the window",
        "priority": "high",
        "dueDate": "2027-01-01T09:00:00Z",
    });
    post(port, "/api/v1/todos", Some(token), &todo).map(drop)
}

fn post(port: u16, path: &str, token: Option<&str>, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let bearer = token.map_or_else(String::new, |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{bearer}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    if !head.starts_with("HTTP/1.1 201") {
        bail!(
            "{path} answered {}: {body}",
            head.lines().next().unwrap_or_default()
        );
    }
    serde_json::from_str(body).with_context(|| format!("{path} answered no JSON: {body}"))
}
