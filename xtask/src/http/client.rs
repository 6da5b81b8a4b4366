//! A minimal HTTP client, to create a user and some todos on loopback.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Creates a user; returns the token of the first session.
pub(crate) fn register(port: u16) -> Result<String> {
    let user = json!({
        "email": "ada@example.com",
        "name": "Ada",
        "password": "a walk in the rain",
    });
    let answer = Connection::open(port)?.post("/api/v1/auth/register", None, &user)?;
    let token = answer["token"].as_str();
    Ok(token
        .context("the registration returned no token")?
        .to_owned())
}

/// One connection, kept open between requests.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn make_todo(&mut self, token: &str) -> Result<()> {
        let todo = json!({
            "title": "Water the plants",
            "description": "Both pots, by the window",
            "priority": "high",
            "dueDate": "2027-01-01T09:00:00Z",
        });
        self.post("/api/v1/todos", Some(token), &todo).map(drop)
    }

    fn post(&mut self, path: &str, token: Option<&str>, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let bearer = token.map_or_else(String::new, |token| {
            format!("authorization: Bearer {token}\r\n")
        });
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{bearer}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let (status, body) = self.response()?;
        if !status.starts_with("HTTP/1.1 201") {
            bail!("{path} returned {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("{path} returned no JSON: {body}"))
    }

    /// The first line and the body of a response with a `content-length`.
    fn response(&mut self) -> Result<(String, String)> {
        let mut status = String::new();
        self.0.read_line(&mut status)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                bail!("the connection closed within a response");
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status.trim_end().to_owned(), String::from_utf8(body)?))
    }
}
