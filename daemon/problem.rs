//! Errors as answers: `application/problem+json` (RFC 9457). Every error that a route gives passes here.
//!
//! `code` is the stable word of [`Code`]; the status only follows from it. Nothing secret is added to what the
//! [`ApiError`] says.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::{ApiError, Code};
use crate::client::wire::{self, Problem};

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: ApiError,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { status: status_of(error.code), error }
    }
}

impl Refusal {
    /// An error whose status says more than its code does.
    pub(crate) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, error: ApiError::new(code, message) }
    }

    /// Adds a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error.hint = Some(hint.into());
        self
    }

    /// The code, for logs.
    pub(crate) const fn code(&self) -> Code {
        self.error.code
    }

    /// The answer, naming the request.
    pub(crate) fn answer(self, request_id: &str) -> Response {
        let Self { status, error } = self;
        let problem = Problem {
            kind: format!("urn:bytenode:problem:{}", error.code.as_str()),
            title: title_of(error.code).to_owned(),
            status: status.as_u16(),
            detail: error.message,
            code: error.code.as_str().to_owned(),
            hint: error.hint,
            request_id: request_id.to_owned(),
        };
        let body = serde_json::to_vec(&problem).expect("a problem is plain text and numbers");
        let mut response = (status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(wire::PROBLEM_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"bytenode\""));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

const fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Internal | Code::Integrity => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Usage => StatusCode::BAD_REQUEST,
        Code::NotSignedIn => StatusCode::UNAUTHORIZED,
        Code::NotAllowed => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Exists | Code::Changed | Code::WrongKind | Code::NotEmpty | Code::Replan | Code::Busy => {
            StatusCode::CONFLICT
        }
        Code::Temporary | Code::ReadOnly => StatusCode::SERVICE_UNAVAILABLE,
        Code::TooFewNodes | Code::NoRoom => StatusCode::INSUFFICIENT_STORAGE,
    }
}

const fn title_of(code: Code) -> &'static str {
    match code {
        Code::Internal => "The coordinator failed",
        Code::Usage => "The request is wrong",
        Code::NotSignedIn => "Not signed in",
        Code::NotAllowed => "Not allowed",
        Code::NotFound => "Not found",
        Code::Exists => "It exists already",
        Code::Changed => "It changed meanwhile",
        Code::WrongKind => "A file is where a directory is needed, or the reverse",
        Code::NotEmpty => "The directory is not empty",
        Code::Temporary => "Not now; try again",
        Code::Integrity => "Bytes are not what they must be",
        Code::TooFewNodes => "Too few nodes",
        Code::NoRoom => "Too little room",
        Code::Replan => "Plan anew",
        Code::Busy => "Something else holds it",
        Code::ReadOnly => "The coordinator is read-only",
    }
}
