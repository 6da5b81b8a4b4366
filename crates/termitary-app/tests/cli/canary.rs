//! Puts marked secrets and texts into the system, and searches for them in every output.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use redis::Commands as _;
use serde_json::{Value, json};

use crate::http::Client;
use crate::redis_server::Redis;
use crate::sandbox::{Sandbox, eventually};

/// In no log, no metric, no Redis and no database: nobody needs them.
const SECRETS: [&str; 5] = [
    "canary-password",
    "canary-guess",
    "canary-key",
    "canary-smtp",
    "canary-redis",
];
/// Contents of events: intended in Redis and in the ledger as payload, and in `tail` and `dead
/// show`. In no log, no metric and no error.
const TEXTS: [&str; 8] = [
    "canary.mail",
    "canary.dead",
    "canary-name",
    "canary-title",
    "canary-description",
    "canary-comment",
    "canary-query",
    "canary-foreign",
];

/// A mail server whose replies quote the recipient, as real ones do: it refuses one recipient for
/// good, and all others temporarily.
fn quoting_mail_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || speak(stream));
        }
    });
    port
}

fn speak(mut stream: TcpStream) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let _ = stream.write_all(b"220 mail\r\n");
    for line in lines.map_while(Result::ok) {
        let address = line.split(['<', '>']).nth(1).unwrap_or_default();
        let answer = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => "250-mail\r\n250 AUTH PLAIN".to_owned(),
            "AUTH" => "235 2.7.0 welcome".to_owned(),
            "RCPT" if address.starts_with("canary.dead") => {
                format!("550 5.1.1 <{address}>: no {address} here")
            }
            "RCPT" => format!("450 4.2.1 <{address}>: mailbox of {address} is busy"),
            _ => "250 2.0.0 fine".to_owned(),
        };
        if stream
            .write_all(format!("{answer}\r\n").as_bytes())
            .is_err()
        {
            return;
        }
    }
}

/// Everything that this Redis holds, as its own bytes.
fn dump(connection: &mut redis::Connection) -> Vec<u8> {
    let keys: Vec<Vec<u8>> = connection.keys("*").unwrap();
    let mut all = Vec::new();
    for key in keys {
        let value: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query(connection).unwrap();
        all.extend(key);
        all.extend(value.unwrap_or_default());
    }
    all
}

/// Uses every route that takes a user's text; returns the token.
fn use_everything(port: u16) -> String {
    let new = |email: &str| json!({ "email": email, "name": "canary-name", "password": "canary-password" });
    let stranger = Client::new(port).header("idempotency-key: canary-key");
    let (status, ada) = stranger.post("/api/v1/auth/register", &new("canary.mail@example.com"));
    assert_eq!(status, 201, "{ada}");
    let stranger = Client::new(port);
    let dead = new("canary.dead@example.com");
    assert_eq!(stranger.post("/api/v1/auth/register", &dead).0, 201);
    let login =
        |password: &str| json!({ "email": "canary.mail@example.com", "password": password });
    assert_eq!(
        stranger
            .post("/api/v1/auth/login", &login("canary-guess"))
            .0,
        401
    );
    // A password typed into the wrong field.
    let typed = json!({ "email": "canary-password", "password": "canary-guess" });
    assert_eq!(stranger.post("/api/v1/auth/login", &typed).0, 401);
    let (_, session) = stranger.post("/api/v1/auth/login", &login("canary-password"));
    let token = session["token"].as_str().unwrap().to_owned();

    let me = Client::new(port).header(&format!("authorization: Bearer {token}"));
    let (status, todo) = me.post(
        "/api/v1/todos",
        &json!({ "title": "canary-title", "description": "canary-description",
                 "dueDate": "2020-01-01", "assignee": ada["user"]["id"] }),
    );
    assert_eq!(status, 201, "{todo}");
    let path = format!("/api/v1/todos/{}", todo["id"].as_str().unwrap());
    let comment = json!({ "text": "canary-comment" });
    assert_eq!(me.post(&format!("{path}/comments"), &comment).0, 201);
    let change = json!({ "title": "canary-title", "description": "canary-description again" });
    assert_eq!(me.send("PATCH", &path, Some(&change)).0, 200);
    assert_eq!(me.get("/api/v1/todos?q=canary-query").0, 200);
    assert_eq!(me.get("/api/v1/todos?cursor=canary-query").0, 422);
    assert_eq!(me.get("/api/v1/canary-query").0, 404);
    let wrong = json!({ "title": { "canary-title": "canary-description" } });
    assert_eq!(me.post("/api/v1/todos", &wrong).0, 422);
    assert_eq!(me.post("/api/v1/todos", &json!("canary-title")).0, 422);
    token
}

#[test]
fn secrets_are_nowhere_and_texts_only_where_events_are() {
    let mut sandbox = Sandbox::new().with("RUST_LOG", "trace");
    let redis_settings = ["--requirepass", "canary-redis", "--rdbcompression", "no"];
    let Some(redis) = Redis::start(&sandbox, &redis_settings) else {
        return;
    };
    let url = format!("redis://:canary-redis@127.0.0.1:{}", redis.port);
    sandbox.set("REDIS_URL", &url);
    let smtp = quoting_mail_server();
    sandbox.set(
        "SMTP_URL",
        &format!("smtp://user:canary-smtp@127.0.0.1:{smtp}"),
    );
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    let worker = sandbox.start(&["worker"]).works();
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    eventually("the bridge listens", || {
        let heard: u64 = redis::cmd("PUBSUB")
            .arg("NUMPAT")
            .query(&mut connection)
            .unwrap();
        heard > 0
    });

    let token = use_everything(port);
    sandbox.ok(&["user", "confirm", "canary.mail@example.com"]);
    for foreign in [
        r#"{"id":"1","title":"t","changes":"canary-foreign"}"#,
        r#"{"canary-foreign":1"#,
        r#"["canary-foreign"]"#,
    ] {
        let _: () = connection.publish("todos.updated", foreign).unwrap();
    }
    sandbox.ok(&["schedule", "run", "todos.overdue.check"]);
    let letters = || sandbox.json(&["dead", "list", "--json"]);
    eventually("all that can fail has failed, and the rest is done", || {
        let given_up = letters().as_array().unwrap().len();
        given_up == 5 && sandbox.count("todos.mail-overdue", "pending") == 1
    });

    let metrics = Client::new(port).text("GET", "/metrics", None).1;
    let dumped = dump(&mut connection);
    let errors: Vec<Value> = letters()
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["error"].clone())
        .collect();
    let mut said = format!("{metrics}\n{errors:?}\n");
    for look in [
        &["status"][..],
        &["status", "--json"],
        &["events", "--json"],
        &["schedule", "list"],
        &["dead", "list"],
        &["dead", "list", "--parked"],
    ] {
        said.push_str(&sandbox.ok(look));
    }
    said.push_str(&worker.stop());
    said.push_str(&api.stop());
    assert!(said.contains("DEBUG") && said.contains("550"), "{said}");

    for mark in TEXTS.iter().chain(&SECRETS).chain([&token.as_str()]) {
        let at = said.find(mark);
        let around = at.map(|at| said[..at].lines().last().unwrap_or_default());
        assert!(
            at.is_none(),
            "{mark} is told after `{}`",
            around.unwrap_or_default()
        );
    }
    let mut stored = dumped.clone();
    for file in ["termitary.db", "termitary.db-wal"] {
        stored.extend(std::fs::read(sandbox.path(file)).unwrap_or_default());
    }
    let holds = |bytes: &[u8], mark: &str| {
        bytes
            .windows(mark.len())
            .any(|part| part == mark.as_bytes())
    };
    for secret in SECRETS.iter().chain([&token.as_str()]) {
        assert!(!holds(&stored, secret), "{secret} is stored");
    }
    assert!(
        holds(&stored, "canary-title"),
        "the search finds what is there"
    );
    assert!(holds(&dumped, "canary.mail"), "Redis carries payloads");
}
