//! A client that speaks just enough HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

/// The API at a port, as one user.
pub(crate) struct Client {
    pub(crate) port: u16,
    token: Option<String>,
    header: String,
    pub(crate) user: Value,
}

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        Self {
            port,
            token: None,
            header: String::new(),
            user: Value::Null,
        }
    }

    /// Registers and goes on as that user.
    pub(crate) fn register(port: u16, email: &str) -> Self {
        let mut client = Self::new(port);
        let body = json!({ "email": email, "name": "Test", "password": "a walk in the rain" });
        let (status, answer) = client.post("/api/v1/auth/register", &body);
        assert_eq!(status, 201, "{answer}");
        client.token = answer["token"].as_str().map(str::to_owned);
        client.user = answer["user"].clone();
        client
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, Some(body))
    }

    /// With one more header line on each request.
    pub(crate) fn header(mut self, line: &str) -> Self {
        self.header = format!("{line}\r\n");
        self
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, body) = self.text(method, path, body);
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// The body as it came.
    pub(crate) fn text(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let token = self
            .token
            .as_ref()
            .map(|token| format!("authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\nuser-agent: test\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n{}{}\r\n{body}",
            body.len(),
            token.unwrap_or_default(),
            self.header
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}
