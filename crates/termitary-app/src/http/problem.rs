//! Every error of the API, as RFC 9457 problem details.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::accounts::PasswordsBusy;

pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong with a request.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// 400: not what HTTP or JSON allow.
    Malformed(String),
    /// 401: no session, or one that is over.
    Unauthorized(&'static str),
    /// 403: seen, but not theirs to change.
    Forbidden(&'static str),
    /// 404: not there, or not theirs to know.
    NotFound,
    /// 409: not in the present state.
    Conflict(&'static str),
    /// 413.
    TooLarge,
    /// 415: a body of another media type than JSON.
    UnsupportedMediaType,
    /// 422: understood, but these fields are wrong.
    Invalid(Vec<FieldError>),
    /// 429: a limit of the caller's is used up.
    TooMany {
        detail: &'static str,
        retry_after: Duration,
    },
    /// 503: a limit of the service is used up, or the database is away.
    Busy(&'static str),
    /// 500: a mistake of ours; the text goes to the log only.
    Internal(anyhow::Error),
}

/// RFC 9457 problem details.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Names the kind of problem; stable.
    #[schema(example = "urn:termitary:problem:invalid-fields")]
    #[serde(rename = "type")]
    kind: String,
    /// The kind in a few words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened in this case.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Which fields are wrong, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// As written in the request: a path such as `dueDate` or `items[2].name`.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError {
            field: field.to_owned(),
            message: message.into(),
        }])
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn detail(self) -> (Option<String>, Vec<FieldError>) {
        match self {
            Self::Malformed(detail) => (Some(detail), Vec::new()),
            Self::Unauthorized(detail)
            | Self::Forbidden(detail)
            | Self::Conflict(detail)
            | Self::Busy(detail)
            | Self::TooMany { detail, .. } => (Some(detail.to_owned()), Vec::new()),
            Self::Invalid(errors) => (None, errors),
            Self::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "a request failed");
                (None, Vec::new())
            }
            Self::NotFound | Self::TooLarge | Self::UnsupportedMediaType => (None, Vec::new()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry_after = match &self {
            Self::TooMany { retry_after, .. } => Some(retry_after.as_secs().max(1)),
            Self::Busy(_) => Some(1),
            _ => None,
        };
        let (detail, errors) = self.detail();
        let mut response = problem(status, detail, errors);
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The answer that says what `status` means.
pub(crate) fn problem(
    status: StatusCode,
    detail: Option<String>,
    errors: Vec<FieldError>,
) -> Response {
    let (kind, title, usual) = describe(status);
    let body = Problem {
        kind: format!("urn:termitary:problem:{kind}"),
        title: title.to_owned(),
        status: status.as_u16(),
        detail: detail.or_else(|| usual.map(str::to_owned)),
        errors,
    };
    // A problem is strings and numbers: it always serializes.
    let json = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    response
}

fn describe(status: StatusCode) -> (&'static str, &'static str, Option<&'static str>) {
    match status.as_u16() {
        400 => ("malformed", "The request is malformed", None),
        401 => ("unauthorized", "Not authenticated", None),
        403 => ("forbidden", "Not allowed", None),
        404 => (
            "not-found",
            "Not found",
            Some("There is nothing here, or nothing that you may see."),
        ),
        405 => (
            "method-not-allowed",
            "Method not allowed",
            Some("The `Allow` header names the methods of this path."),
        ),
        409 => ("conflict", "In conflict with the present state", None),
        413 => (
            "too-large",
            "The body is too large",
            Some("A request body has at most 128 KiB."),
        ),
        415 => (
            "unsupported-media-type",
            "Unsupported media type",
            Some("Send the body as JSON, with `Content-Type: application/json`."),
        ),
        422 => ("invalid-fields", "Some fields are not valid", None),
        429 => (
            "too-many-requests",
            "Too many requests",
            Some("`Retry-After` says when to try again."),
        ),
        503 => (
            "unavailable",
            "Not available now",
            Some("`Retry-After` says when to try again."),
        ),
        _ if status.is_server_error() => (
            "internal",
            "Something went wrong here",
            Some("The mistake is ours and was logged; the `x-request-id` header names it."),
        ),
        _ => ("error", "The request cannot be answered", None),
    }
}

impl From<termitary::Error> for ApiError {
    fn from(error: termitary::Error) -> Self {
        if error.is_unavailable() {
            tracing::warn!(error = ?error, "the database or the broker is away");
            return Self::Busy("The service cannot do this now.");
        }
        Self::Internal(error.into())
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => {
                tracing::warn!(error = %error, "the database is away");
                Self::Busy("The service cannot do this now.")
            }
            other => Self::Internal(other.into()),
        }
    }
}

impl From<PasswordsBusy> for ApiError {
    fn from(error: PasswordsBusy) -> Self {
        match error {
            PasswordsBusy::Full => Self::Busy("Too many people log in at this moment."),
            PasswordsBusy::Failed(error) => Self::Internal(error),
        }
    }
}
