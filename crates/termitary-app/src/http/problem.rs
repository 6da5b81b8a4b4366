//! Every error of the API, as RFC 9457 problem details.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::accounts::{PasswordsBusy, SessionError};

pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// The error of a request.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// 400: invalid HTTP or JSON.
    Malformed(String),
    /// 401: no session, or one that has ended.
    Unauthorized(&'static str),
    /// 403: visible to the caller, but not theirs to change.
    Forbidden(&'static str),
    /// 404: missing, or not visible to the caller.
    NotFound,
    /// 408: the body did not arrive in time.
    Slow,
    /// 409: impossible in the present state.
    Conflict(&'static str),
    /// 413.
    TooLarge,
    /// 415: a body of another media type than JSON.
    UnsupportedMediaType,
    /// 422: these fields are invalid.
    Invalid(Vec<FieldError>),
    /// 429: the caller reached a limit.
    TooMany {
        detail: &'static str,
        retry_after: Duration,
    },
    /// 503: the service reached a limit, or the database is unreachable.
    Busy(&'static str),
    /// 500: a fault of the service; the text goes to the log only.
    Internal(anyhow::Error),
}

/// RFC 9457 problem details.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The kind of problem; stable.
    #[schema(example = "urn:termitary:problem:invalid-fields")]
    #[serde(rename = "type")]
    kind: String,
    /// The kind in a few words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The details of this case.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// The invalid fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

/// One invalid field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// As written in the request: a path such as `dueDate` or `items[2].name`.
    pub(crate) field: String,
    /// The rule that it breaks.
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
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
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
            Self::NotFound | Self::Slow | Self::TooLarge | Self::UnsupportedMediaType => {
                (None, Vec::new())
            }
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

/// The response with the problem details of `status`.
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
            Some("Nothing is here, or nothing that you may see."),
        ),
        405 => (
            "method-not-allowed",
            "Method not allowed",
            Some("The `Allow` header names the methods of this path."),
        ),
        408 => (
            "timeout",
            "The request took too long",
            Some("The body did not arrive in time: send it again."),
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
            Some("Try again after the time in `Retry-After`."),
        ),
        503 => (
            "unavailable",
            "Not available now",
            Some("Try again after the time in `Retry-After`."),
        ),
        _ if status.is_server_error() => (
            "internal",
            "Internal error",
            Some("The error was logged under the id in the `x-request-id` header."),
        ),
        _ => ("error", "The request failed", None),
    }
}

impl From<termitary::Error> for ApiError {
    fn from(error: termitary::Error) -> Self {
        if error.is_unavailable() {
            tracing::warn!(error = ?error, "the database or the broker is unreachable");
            return Self::Busy("The service cannot do this now.");
        }
        Self::Internal(error.into())
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => {
                tracing::warn!(error = %error, "the database is unreachable");
                Self::Busy("The service cannot do this now.")
            }
            other => Self::Internal(other.into()),
        }
    }
}

impl From<PasswordsBusy> for ApiError {
    fn from(error: PasswordsBusy) -> Self {
        match error {
            PasswordsBusy::Full => Self::Busy("Too many logins are being checked."),
            PasswordsBusy::Failed(error) => Self::Internal(error),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        if error.unavailable {
            tracing::warn!(error = error.text, "sessions are unavailable");
            return Self::Busy("The service cannot do this now.");
        }
        Self::Internal(anyhow::anyhow!("sessions failed: {}", error.text))
    }
}
