//! Request data: JSON bodies, queries and ids. Each error names the invalid field.

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use garde::Validate;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::BODY_LIMIT;
use super::layers::DEADLINE;
use super::problem::{ApiError, FieldError};

/// The capacity that most bodies fit into: one that outgrows it is copied.
const ROOM: usize = 4_096;

/// A JSON body, in or out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(&request) {
            return Err(ApiError::UnsupportedMediaType);
        }
        let body = read_body(request).await?;
        is_object(&body)?;
        let reader = &mut serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut *reader).map_err(data_error)?;
        reader.end().map_err(|error| syntax_error(&error))?;
        Ok(Self(value))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(ROOM);
        match serde_json::to_writer(&mut body, &self.0) {
            Ok(()) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => ApiError::Internal(error.into()).into_response(),
        }
    }
}

/// A JSON body that may be left out: then it is an object without fields, and the error
/// names the missing ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsonOrNothing<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonOrNothing<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let nothing = request.body().size_hint().exact() == Some(0)
            && !request.headers().contains_key(CONTENT_TYPE);
        let request = if nothing {
            let (mut parts, _) = request.into_parts();
            let json = HeaderValue::from_static("application/json");
            parts.headers.insert(CONTENT_TYPE, json);
            Request::from_parts(parts, Body::from("{}"))
        } else {
            request
        };
        let Json(value) = Json::from_request(request, state).await?;
        Ok(Self(value))
    }
}

fn is_json(request: &Request) -> bool {
    let kind = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Reads the whole body, at most [`BODY_LIMIT`] bytes.
pub(crate) async fn read_body(request: Request) -> Result<axum::body::Bytes, ApiError> {
    let reading = axum::body::to_bytes(request.into_body(), BODY_LIMIT);
    // Within the layer that ends the whole request at the same time: the body's end is
    // checked first.
    let read = match DEADLINE.try_with(|deadline| *deadline) {
        Ok(deadline) => match tokio::time::timeout_at(deadline, reading).await {
            Ok(read) => read,
            Err(_) => return Err(ApiError::Slow),
        },
        Err(_) => reading.await,
    };
    read.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            if error.to_string().contains("length limit exceeded") {
                return ApiError::TooLarge;
            }
            cause = error.source();
        }
        ApiError::Malformed("The body ended before it was complete.".to_owned())
    })
}

/// Refuses arrays, from which serde would read the fields of a struct by position.
fn is_object(body: &[u8]) -> Result<(), ApiError> {
    if body.trim_ascii_start().starts_with(b"{") {
        return Ok(());
    }
    serde_json::from_slice::<IgnoredAny>(body).map_err(|error| syntax_error(&error))?;
    Err(ApiError::field("", "must be a JSON object"))
}

fn syntax_error(error: &serde_json::Error) -> ApiError {
    ApiError::Malformed(format!("The body is not JSON: {error}."))
}

fn data_error(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    let inner = error.into_inner();
    if !inner.is_data() {
        return syntax_error(&inner);
    }
    let text = inner.to_string();
    let message = text.split(" at line ").next().unwrap_or_default();
    ApiError::Invalid(vec![located(&path, message)])
}

/// Serde names an unknown or missing field in its message, not in its path.
fn located(path: &str, message: &str) -> FieldError {
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    let field = match (path, named) {
        (_, None) => path.to_owned(),
        ("." | "", Some(name)) => name.to_owned(),
        (path, Some(name)) if path == name || path.ends_with(&format!(".{name}")) => {
            path.to_owned()
        }
        (path, Some(name)) => format!("{path}.{name}"),
    };
    let field = if field == "." { String::new() } else { field };
    FieldError {
        field,
        message: plain(message).to_owned(),
    }
}

/// Replaces messages of the standard library and of the UUID parser by the rule.
fn plain(message: &str) -> &str {
    match message {
        "invalid digit found in string" | "number too large to fit in target type" => {
            "must be a whole number in its range"
        }
        _ if message.starts_with("UUID parsing failed") => "must be an id (a UUID)",
        _ => message,
    }
}

/// A value that was also validated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Valid<T>(pub(crate) T);

impl<T, S> FromRequest<S> for Valid<Json<T>>
where
    T: DeserializeOwned + Validate<Context = ()>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(value) = Json::<T>::from_request(request, state).await?;
        check(&value)?;
        Ok(Self(Json(value)))
    }
}

/// Validates by the type's own rules; the error names fields as the JSON does.
pub(crate) fn check<T: Validate<Context = ()>>(value: &T) -> Result<(), ApiError> {
    refuse(wrong_fields(value))
}

/// Validates two values that come from one body, and reports the errors of both.
pub(crate) fn check_both<A, B>(one: &A, other: &B) -> Result<(), ApiError>
where
    A: Validate<Context = ()>,
    B: Validate<Context = ()>,
{
    refuse([wrong_fields(one), wrong_fields(other)].concat())
}

fn refuse(wrong: Vec<FieldError>) -> Result<(), ApiError> {
    if wrong.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid(wrong))
}

fn wrong_fields<T: Validate<Context = ()>>(value: &T) -> Vec<FieldError> {
    let Err(report) = value.validate() else {
        return Vec::new();
    };
    let wrong = report.iter().map(|(path, error)| FieldError {
        field: camel_case(&path.to_string()),
        message: error.message().to_owned(),
    });
    wrong.collect()
}

fn camel_case(name: &str) -> String {
    let mut upper = false;
    let mut out = String::with_capacity(name.len());
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            letter if upper => {
                out.extend(letter.to_uppercase());
                upper = false;
            }
            letter => out.push(letter),
        }
    }
    out
}

/// The query of the URL; unknown parameters are refused by the type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::try_from_uri(&parts.uri).map_err(|rejection| {
            let text = rejection.body_text();
            let text = text
                .strip_prefix("Failed to deserialize query string: ")
                .unwrap_or(&text);
            let (path, message) = text.split_once(": ").unwrap_or(("", text));
            ApiError::Invalid(vec![located(path, message)])
        })?;
        Ok(Self(query.0))
    }
}

/// The id in the path. An invalid id is not the id of anything: 404.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::NotFound)?;
        text.parse().map(Self).map_err(|_| ApiError::NotFound)
    }
}

/// For a field that may be left out but not be `null`.
pub(crate) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// For a field where `null` clears and absence keeps.
#[expect(
    clippy::option_option,
    reason = "absent, null and a value are three different wishes"
)]
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_named_where_it_stands() {
        assert_eq!(located(".", "unknown field `x`, expected y").field, "x");
        assert_eq!(located("x", "unknown field `x`, expected y").field, "x");
        assert_eq!(located("a.b", "missing field `c`").field, "a.b.c");
        assert_eq!(
            located("dueDate", "invalid type: integer `3`, expected a string").field,
            "dueDate"
        );
    }

    #[test]
    fn field_names_are_told_as_the_json_has_them() {
        assert_eq!(camel_case("due_date"), "dueDate");
        assert_eq!(camel_case("title"), "title");
    }
}
