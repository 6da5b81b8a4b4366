//! The page that links in mails lead to. It shows one todo to a user who signs in, for
//! people without another client.

use axum::Router;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;

use super::store;
use super::todo::{Priority, Status, Todo};
use crate::app::App;
use crate::auth::doors as auth;
use crate::http::{Api, ApiError, Client, Html, Id, Tag, words_of};

pub(super) fn router() -> Router<Api> {
    Router::new().route("/todos/{id}", get(ask).post(show))
}

#[derive(Deserialize)]
struct SignIn {
    email: String,
    password: String,
}

/// The same page for every id, so that it does not show which todos exist.
async fn ask() -> Html {
    form(Html::new(StatusCode::OK, "A todo"))
}

fn form(page: Html) -> Html {
    page.text(
        Tag::Text,
        "Termitary is a to-do list for teams. Sign in to read this todo; you are signed out again at once.",
    )
    .form(
        &[
            ["email", "email", "username", "Your address"],
            ["password", "password", "current-password", "Your password"],
        ],
        "Show it",
    )
    .link("/forgot", "Forgot your password?")
    .link("/docs", "To change it, use the API")
}

async fn show(
    State(app): State<App>,
    client: Client,
    id: Result<Id, ApiError>,
    Form(body): Form<SignIn>,
) -> Html {
    match find(&app, client, id, body).await {
        Ok(todo) => Html::new(StatusCode::OK, "A todo").list(&rows(&todo)),
        Err(ApiError::NotFound) => Html::new(StatusCode::NOT_FOUND, "Not found").text(
            Tag::Text,
            "This todo does not exist, or you may not see it.",
        ),
        Err(error) => {
            let (status, words) = words_of(error);
            form(Html::new(status, "A todo").text(Tag::Wrong, &words))
        }
    }
}

async fn find(
    app: &App,
    client: Client,
    id: Result<Id, ApiError>,
    body: SignIn,
) -> Result<Todo, ApiError> {
    let caller = auth::sign_in_once(app, client, body.email, body.password).await?;
    let Id(id) = id?;
    let mut reader = app.db().read().await?;
    store::find(&mut reader, id, Some(caller))
        .await?
        .ok_or(ApiError::NotFound)
}

fn rows(todo: &Todo) -> Vec<(&'static str, String)> {
    let status = match todo.status {
        Status::Open => "open",
        Status::Done => "done",
    };
    let mut rows = vec![("What", todo.title.clone()), ("Status", status.to_owned())];
    rows.extend(todo.due_date.map(|due| ("Due", due.to_string())));
    let priority = todo.priority.map(Priority::as_str);
    rows.extend(priority.map(|priority| ("Priority", priority.to_owned())));
    rows.extend(
        todo.description
            .clone()
            .map(|description| ("Description", description)),
    );
    rows
}
