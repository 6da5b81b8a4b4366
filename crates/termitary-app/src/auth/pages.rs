//! Pages for people who follow a link in a mail. A mail scanner that follows every link
//! changes nothing: a change needs the button.

use axum::Router;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;

use super::{confirmation, recovery};
use crate::accounts::check_password;
use crate::accounts::links::{self, Purpose};
use crate::app::App;
use crate::http::{Api, ApiError, Client, Html, Tag, words_of};

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/confirm/{token}", get(ask_to_confirm).post(confirm))
        .route("/reset/{token}", get(ask_for_password).post(reset))
        .route("/forgot", get(ask_for_address).post(forgot))
}

/// A new password, typed twice because it is not shown.
#[derive(Deserialize)]
struct NewPassword {
    password: String,
    again: String,
}

#[derive(Deserialize)]
struct Address {
    email: String,
}

async fn ask_to_confirm(
    State(app): State<App>,
    Path(token): Path<String>,
) -> Result<Html, ApiError> {
    if !works(&app, Purpose::Confirm, &token).await? {
        return Ok(dead_link("This link works once, and for 7 days."));
    }
    Ok(Html::new(StatusCode::OK, "Confirm your address")
        .text(
            Tag::Text,
            "Mail about your todos will come to this address.",
        )
        .form(&[], "Confirm this address"))
}

async fn confirm(State(app): State<App>, Path(token): Path<String>) -> Html {
    match confirmation::use_link(&app, &token).await {
        Ok(_) => Html::new(StatusCode::OK, "Your address is confirmed")
            .text(Tag::Text, "Thank you. You can close this page."),
        Err(error) => refused("This address is not confirmed", error),
    }
}

async fn ask_for_address() -> Html {
    address_form(Html::new(StatusCode::OK, "Forgot your password?"))
}

fn address_form(page: Html) -> Html {
    page.text(
        Tag::Text,
        "A link to a new password will be sent to the address of your account.",
    )
    .form(
        &[["email", "email", "email", "Your address"]],
        "Send the link",
    )
}

async fn forgot(State(app): State<App>, client: Client, Form(body): Form<Address>) -> Html {
    match recovery::ask_for_link(&app, &client, &body.email).await {
        Ok(_) => Html::new(StatusCode::ACCEPTED, "Look into your mail").text(
            Tag::Text,
            "If this address has an account, a link to a new password is on its way. It works for an hour.",
        ),
        Err(error) => refused("No link was sent", error),
    }
}

async fn ask_for_password(
    State(app): State<App>,
    Path(token): Path<String>,
) -> Result<Html, ApiError> {
    if !works(&app, Purpose::Reset, &token).await? {
        return Ok(dead_link("This link works once, and for an hour.")
            .link("/forgot", "Ask for a new one"));
    }
    Ok(password_form(Html::new(
        StatusCode::OK,
        "Set a new password",
    )))
}

fn password_form(page: Html) -> Html {
    page.text(
        Tag::Text,
        "8 to 256 characters. Every session ends; log in with it everywhere.",
    )
    .form(
        &[
            ["password", "password", "new-password", "New password"],
            ["again", "password", "new-password", "The same again"],
        ],
        "Set it",
    )
}

async fn reset(
    State(app): State<App>,
    client: Client,
    Path(token): Path<String>,
    Form(body): Form<NewPassword>,
) -> Html {
    let again = |words: &str| {
        let page = Html::new(StatusCode::UNPROCESSABLE_ENTITY, "Set a new password");
        password_form(page.text(Tag::Wrong, words))
    };
    if body.password != body.again {
        return again("The two passwords are not the same.");
    }
    if let Err(error) = check_password(&body.password, &()) {
        return again(&format!("This password {error}."));
    }
    match recovery::use_link(&app, &client, &token, &body.password).await {
        Ok(_) => Html::new(StatusCode::OK, "Your password is set")
            .text(Tag::Text, "Log in with it. You can close this page."),
        Err(error) => {
            refused("The password was not set", error).link("/forgot", "Ask for a new link")
        }
    }
}

async fn works(app: &App, purpose: Purpose, token: &str) -> Result<bool, ApiError> {
    let mut reader = app.db().read().await?;
    let link = links::find(&mut reader, purpose, token, app.now()).await?;
    Ok(link.is_some())
}

fn dead_link(words: &str) -> Html {
    Html::new(StatusCode::GONE, "This link does not work any more").text(Tag::Text, words)
}

fn refused(title: &'static str, error: ApiError) -> Html {
    let (status, words) = words_of(error);
    Html::new(status, title).text(Tag::Wrong, &words)
}
