//! The application under test.

mod answer;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use termitary::testing::{TestDb, TestWorker};
use termitary::{Broker, Db};
use termitary_app::app::App;
use termitary_app::auth::{self, NewUser, Role};
use termitary_app::mailer::Mailer;
use termitary_app::settings::{HashCost, Settings};
use termitary_app::{schema, wiring};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) use answer::Answer;

/// A password that every user of a test has.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// The whole application: router, worker and database.
pub(crate) struct TestApp {
    pub(crate) app: App,
    pub(crate) router: Router,
    pub(crate) worker: TestWorker,
    pub(crate) shutdown: CancellationToken,
    db: TestDb,
}

/// Returns true if the suite runs on PostgreSQL.
pub(crate) fn on_postgres() -> bool {
    std::env::var("TERMITARY_TEST_DATABASE").is_ok_and(|kind| kind == "postgres")
}

/// A database of the test's own: a SQLite file, or one on the shared PostgreSQL server with
/// `TERMITARY_TEST_DATABASE=postgres`.
pub(crate) async fn test_db() -> TestDb {
    if on_postgres() {
        TestDb::postgres().await
    } else {
        TestDb::open().await
    }
}

/// Somebody with a session.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) token: String,
}

impl TestApp {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            hash_cost: HashCost {
                memory_kib: 8,
                passes: 1,
                lanes: 1,
            },
            stream_check: Duration::from_millis(20),
            ..Settings::default()
        };
        change(&mut settings);
        let db = test_db().await;
        schema::migrate(db.db()).await.unwrap();
        let broker = Broker::sql(db.db().clone());
        let app = App::new(broker.clone(), Mailer::memory(), settings);
        let worker = TestWorker::start(broker, wiring::registry(), app.clone()).await;
        let shutdown = CancellationToken::new();
        let router = wiring::router(app.clone(), shutdown.clone());
        Self {
            app,
            router,
            worker,
            shutdown,
            db,
        }
    }

    pub(crate) fn db(&self) -> &Db {
        self.app.db()
    }

    /// The URL of the database, for another process.
    pub(crate) fn url(&self) -> String {
        self.db.url()
    }

    pub(crate) async fn settle(&self) {
        self.worker.settle().await;
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let mut request = request;
        let peer = ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 4711)));
        request.extensions_mut().insert(peer);
        Answer::read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        self.send(request.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, who: &Person) -> Answer {
        self.call(Method::GET, path, Some(&who.token), None).await
    }

    pub(crate) async fn post(&self, path: &str, who: &Person, body: Value) -> Answer {
        self.call(Method::POST, path, Some(&who.token), Some(body))
            .await
    }

    pub(crate) async fn patch(&self, path: &str, who: &Person, body: Value) -> Answer {
        self.call(Method::PATCH, path, Some(&who.token), Some(body))
            .await
    }

    pub(crate) async fn delete(&self, path: &str, who: &Person) -> Answer {
        self.call(Method::DELETE, path, Some(&who.token), None)
            .await
    }

    pub(crate) async fn register(&self, name: &str) -> Person {
        let email = format!("{}@example.com", name.to_lowercase());
        let body = json!({ "email": email, "name": name, "password": PASSWORD });
        let answer = self
            .call(Method::POST, "/api/v1/auth/register", None, Some(body))
            .await;
        answer.assert_status(201);
        Person {
            id: answer.text_at("/user/id"),
            email,
            token: answer.text_at("/token"),
        }
    }

    /// Registers somebody and follows the link that confirms their address.
    pub(crate) async fn member(&self, name: &str) -> Person {
        let person = self.register(name).await;
        self.settle().await;
        self.follow(&person.email).await.assert_status(204);
        self.settle().await;
        person
    }

    /// Confirms an address with the newest link that was sent to it.
    pub(crate) async fn follow(&self, email: &str) -> Answer {
        let token = self.link(email, "confirm").expect("a link was sent");
        let body = json!({ "token": token });
        self.call(Method::POST, "/api/v1/auth/email/confirm", None, Some(body))
            .await
    }

    /// The token of the newest link of this kind that was sent to this address.
    pub(crate) fn link(&self, email: &str, kind: &str) -> Option<String> {
        let sent = self.app.mailer().sent();
        let start = format!("{}/{kind}/", self.app.settings().public_url);
        let mails = sent.iter().rev().filter(|mail| mail.to == email);
        let mut lines = mails.flat_map(|mail| mail.text.lines());
        lines.find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    }

    /// The subjects of the mails to this address, in the order they were sent.
    pub(crate) fn subjects(&self, email: &str) -> Vec<String> {
        let sent = self.app.mailer().sent().into_iter();
        sent.filter(|mail| mail.to == email)
            .map(|mail| mail.subject)
            .collect()
    }

    /// Deletes a user as themselves or an admin.
    pub(crate) async fn delete_user(&self, id: &str, by: &Person) -> Answer {
        let path = format!("/api/v1/users/{id}");
        let body = json!({ "currentPassword": PASSWORD });
        self.call(Method::DELETE, &path, Some(&by.token), Some(body))
            .await
    }

    pub(crate) async fn login(&self, email: &str) -> Answer {
        self.try_login(email, PASSWORD).await
    }

    pub(crate) async fn try_login(&self, email: &str, password: &str) -> Answer {
        let body = json!({ "email": email, "password": password });
        self.call(Method::POST, "/api/v1/auth/login", None, Some(body))
            .await
    }

    /// An admin, made as the CLI makes one.
    pub(crate) async fn admin(&self) -> Person {
        let email = "root@example.com";
        let new = NewUser {
            email: email.to_owned(),
            name: "Root".to_owned(),
            password: PASSWORD.to_owned(),
            role: Role::Admin,
        };
        let user = auth::create_user(&self.app, new).await.unwrap();
        let token = self.login(email).await.text_at("/token");
        Person {
            id: user.id.to_string(),
            email: email.to_owned(),
            token,
        }
    }

    /// A todo of this person.
    pub(crate) async fn todo(&self, who: &Person, body: Value) -> Value {
        let answer = self.post("/api/v1/todos", who, body).await;
        answer.assert_status(201);
        answer.json()
    }

    /// The payloads of every event of this name, in the order they were published.
    pub(crate) async fn events(&self, name: &str) -> Vec<Value> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT data FROM termitary_events WHERE name = $1 ORDER BY seq")
                .bind(name)
                .fetch_all(&mut *self.db().read().await.unwrap())
                .await
                .unwrap();
        rows.iter()
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }
}
