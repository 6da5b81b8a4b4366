//! Separate processes over a real Redis, which the test starts on loopback.

use redis::Commands as _;
use serde_json::json;

use crate::http::Client;
use crate::redis_server::{Redis, with_redis};
use crate::sandbox::{Sandbox, eventually, stderr};
use crate::two_workers::handle_each_event_once;

#[test]
fn each_event_is_handled_once_per_subscription_over_redis() {
    let Some((sandbox, _redis)) = with_redis() else {
        return;
    };
    handle_each_event_once(&sandbox, "redis");
}

#[test]
fn a_worker_or_count_without_the_redis_of_the_workers_is_refused() {
    let Some((mut sandbox, _redis)) = with_redis() else {
        return;
    };
    let worker = sandbox.start(&["worker"]).works();
    assert_eq!(sandbox.ok(&["health", "--worker"]).trim(), "ok");
    for name in ["REDIS_URL", "REDIS_HOST", "REDIS_PORT"] {
        sandbox.set(name, "");
    }
    for command in [&["status"][..], &["worker"], &["health", "--worker"]] {
        let text = sandbox.fails(2, command);
        assert!(
            text.contains("over Redis") && text.contains("REDIS_URL"),
            "{command:?}: {text}"
        );
    }
    // Letters are in the ledger: their list is complete.
    let listed = sandbox.run(&["dead", "list"]);
    assert!(listed.status.success());
    assert!(stderr(&listed).contains("REDIS_URL"), "{}", stderr(&listed));
    worker.stop();
    sandbox.ok(&["status"]);
    let text = sandbox.fails(1, &["health", "--worker"]);
    assert!(text.contains("no worker"), "{text}");
}

#[test]
fn the_numbers_of_redis_come_with_a_warning_beside_a_worker_without_it() {
    let Some((mut sandbox, redis)) = with_redis() else {
        return;
    };
    sandbox.set("REDIS_URL", "");
    let worker = sandbox.start(&["worker"]).works();
    sandbox.set("REDIS_URL", &redis.url());
    let text = sandbox.fails(2, &["worker"]);
    assert!(text.contains("database alone"), "{text}");
    for command in [&["status"][..], &["dead", "list"]] {
        let listed = sandbox.run(command);
        assert!(listed.status.success(), "{command:?}: {}", stderr(&listed));
        assert!(stderr(&listed).contains("database alone"), "{command:?}");
    }
    worker.stop();
    sandbox.start(&["worker"]).works().stop();
}

#[test]
fn the_original_settings_reach_redis_too() {
    let sandbox = Sandbox::new();
    let Some(redis) = Redis::start(&sandbox, &["--requirepass", "hunter2"]) else {
        return;
    };
    let sandbox = sandbox
        .with("REDIS_HOST", "127.0.0.1")
        .with("REDIS_PORT", &redis.port.to_string())
        .with("REDIS_PASSWORD", "hunter2");
    let worker = sandbox.start(&["worker"]).works();
    sandbox.ok(&[
        "publish",
        "users.created",
        r#"{"id":"1","email":"ada@example.com","name":"Ada"}"#,
    ]);
    eventually("the mail is there", || sandbox.mails().len() == 1);
    let said = worker.stop();
    assert!(
        said.contains("redis://127.0.0.1") && !said.contains("hunter2"),
        "{said}"
    );
    let wrong = sandbox.with("REDIS_PASSWORD", "hunter3");
    for command in ["api", "worker"] {
        let text = wrong.fails(2, &[command]);
        assert!(
            text.contains("REDIS_PASSWORD") && !text.contains("hunter3"),
            "{text}"
        );
    }
}

#[test]
fn the_api_answers_while_redis_is_away_and_nothing_is_lost() {
    let Some((sandbox, mut redis)) = with_redis() else {
        return;
    };
    redis.lose();
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    let mut worker = sandbox.start(&["worker"]);
    worker.says("away");
    assert_eq!(Client::new(port).get("/readyz").0, 200);
    Client::register(port, "ada@example.com");
    sandbox.ok(&[
        "publish",
        "users.created",
        r#"{"id":"1","email":"bob@example.com","name":"Bob"}"#,
    ]);
    assert!(sandbox.mails().is_empty());
    redis.resume();
    eventually("both mails are there", || sandbox.mails().len() == 2);
    sandbox.settled();
    worker.stop();
    api.stop();
}

#[test]
fn the_api_logs_once_that_redis_is_unreachable_and_once_that_it_is_back() {
    let Some((sandbox, mut redis)) = with_redis() else {
        return;
    };
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    redis.lose();
    let down = api.says("Redis is unreachable");
    assert!(down.contains("WARN"), "{down}");
    for n in 0..3 {
        Client::register(port, &format!("user{n}@example.com"));
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    redis.resume();
    let back = api.says("Redis is reachable again");
    assert!(back.contains("INFO") && back.contains("seconds"), "{back}");
    let said = api.stop();
    for line in ["Redis is unreachable", "Redis is reachable again"] {
        assert_eq!(said.matches(line).count(), 1, "{said}");
    }
}

#[test]
fn losing_all_of_redis_costs_time_but_no_event() {
    let Some((sandbox, mut redis)) = with_redis() else {
        return;
    };
    let _worker = sandbox.start(&["worker"]).works();
    let user = |n: u32| format!(r#"{{"id":"{n}","email":"user{n}@example.com","name":"U"}}"#);
    sandbox.ok(&["publish", "users.created", &user(0)]);
    eventually("it works", || sandbox.mails().len() == 1);
    redis.lose();
    for n in 1..4 {
        sandbox.ok(&["publish", "users.created", &user(n)]);
    }
    redis.resume();
    eventually("all mails are there", || sandbox.mails().len() == 4);
}

#[test]
fn a_worker_killed_over_redis_loses_nothing() {
    let Some((sandbox, _redis)) = with_redis() else {
        return;
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", silent.local_addr().unwrap());
    let victim = sandbox
        .start_with(&["worker"], &[("SMTP_URL", &url)])
        .works();
    for n in 0..5 {
        let user = format!(r#"{{"id":"{n}","email":"user{n}@example.com","name":"U"}}"#);
        sandbox.ok(&["publish", "users.created", &user]);
    }
    // Each handler holds one connection to the mail server.
    silent.set_nonblocking(true).unwrap();
    let mut held = Vec::new();
    eventually("all are in the middle of it", || {
        held.extend(silent.accept().ok());
        held.len() == 5
    });
    victim.kill();
    let _worker = sandbox.start(&["worker"]).works();
    eventually("all mails are there", || sandbox.mails().len() == 5);
    sandbox.settled();
    assert_eq!(sandbox.count("users.send-welcome", "done"), 5);
}

#[test]
fn what_other_programs_publish_becomes_one_event_with_three_workers() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    let _workers: Vec<_> = (0..3).map(|_| sandbox.start(&["worker"]).works()).collect();
    let mut connection = redis.connect();
    eventually("one worker holds the bridge", || {
        let heard: u64 = redis::cmd("PUBSUB")
            .arg("NUMPAT")
            .query(&mut connection)
            .unwrap();
        heard > 0
    });
    for n in 0..20 {
        let user = format!(r#"{{"id":"{n}","email":"user{n}@example.com","name":"U"}}"#);
        let _: () = connection.publish("users.created", user).unwrap();
    }
    eventually("all mails are there", || sandbox.mails().len() == 20);
    sandbox.settled();
    assert_eq!(sandbox.count("users.send-welcome", "done"), 20);

    let _: () = connection.publish("users.created", "{not json").unwrap();
    let _: () = connection.publish("users.unheard-of", "{}").unwrap();
    eventually("what cannot be read is parked", || {
        sandbox
            .json(&["dead", "list", "--parked", "--json"])
            .as_array()
            .unwrap()
            .len()
            == 2
    });
    let _: () = connection
        .publish(
            "users.created",
            r#"{"id":"x","email":"x@example.com","name":"X"}"#,
        )
        .unwrap();
    eventually("the bridge goes on", || sandbox.mails().len() == 21);
}

#[test]
fn with_the_bridge_out_plain_subscribers_get_the_raw_payload() {
    let Some((sandbox, redis)) = with_redis() else {
        return;
    };
    let sandbox = sandbox.with("TERMITARY_PUBSUB_BRIDGE", "both");
    let mut api = sandbox.start(&["api"]);
    let port = api.port();
    let _worker = sandbox.start(&["worker"]).works();
    let mut connection = redis.connect();
    let mut subscriber = connection.as_pubsub();
    subscriber.subscribe("todos.created").unwrap();
    subscriber
        .set_read_timeout(Some(crate::sandbox::PATIENCE))
        .unwrap();
    let ada = Client::register(port, "ada@example.com");
    let (_, todo) = ada.post("/api/v1/todos", &json!({ "title": "Water the plants" }));
    let message = subscriber.get_message().unwrap();
    let payload: serde_json::Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
    assert_eq!(
        payload,
        json!({ "id": todo["id"], "title": "Water the plants" })
    );
    sandbox.settled();
    // Our own outgoing message does not come in again.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(sandbox.count("todos.mail-assignment", "done"), 1);
}

#[test]
fn tail_says_once_that_redis_is_gone_and_goes_on_when_it_is_back() {
    let Some((sandbox, mut redis)) = with_redis() else {
        return;
    };
    sandbox.ok(&["migrate"]);
    let publish = |title: &str| {
        let event = json!({ "id": "1", "title": title }).to_string();
        sandbox.ok(&["publish", "todos.deleted", &event])
    };
    let mut tail = sandbox.start(&["tail", "--json"]);
    eventually("tail sees an event", || {
        publish("before");
        tail.said().contains("before")
    });
    redis.lose();
    tail.says("unreachable");
    std::thread::sleep(std::time::Duration::from_secs(3));
    redis.resume();
    tail.says("reachable again");
    publish("after");
    tail.says("after");
    let said = tail.stop();
    assert_eq!(said.matches("unreachable").count(), 1, "{said}");
}
